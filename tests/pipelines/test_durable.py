import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.durable import (
    Damaged,
    canonical_json,
    check_store,
    create_if_absent,
    link_or_copy,
    many,
    read_table,
    replace,
    sealed,
    sweep_scratch,
    unsealed,
    write_new,
    write_table,
)
from pipelines.gc import collect
from pipelines.stores import StoreError, place


def test_of_many_writers_exactly_one_publishes(tmp_path):
    target, won = tmp_path / "entry.json", []
    barrier = threading.Barrier(8)

    def publish(me: int) -> None:
        barrier.wait()
        if create_if_absent(target, f"writer {me}".encode()):
            won.append(me)

    threads = [threading.Thread(target=publish, args=(me,)) for me in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(won) == 1
    assert target.read_bytes() == f"writer {won[0]}".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["entry.json"]


def test_of_many_objects_in_a_store_several_are_asked_for_at_once_and_come_in_order(tmp_path):
    taken, together = [], threading.Barrier(4)

    def numbers():
        for number in range(8):
            taken.append(number)
            yield number

    def work(number):
        together.wait(20)  # for three others that are under way
        return 10 * number

    found = many(place("memory://data/x"), work, numbers(), held=4)
    assert next(found) == 0 and taken == [0, 1, 2, 3], "no more is asked for than is wanted soon"
    assert list(found) == [10, 20, 30, 40, 50, 60, 70]
    assert list(many(tmp_path, lambda number: -number, range(3))) == [0, -1, -2]


def test_a_failed_write_leaves_nothing(tmp_path):
    def fill(path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(OSError, match=r"no space: '.*data\.parquet'"):
        write_new(tmp_path / "data.parquet", fill)
    assert list(tmp_path.iterdir()) == []


def test_replace_is_whole_or_not_at_all(tmp_path):
    target = tmp_path / "report.html"
    replace(target, b"one")
    replace(target, b"two")
    assert target.read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_table_that_was_cut_or_changed_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": list(range(1000))}), path, compression="zstd", use_dictionary=False)
    whole = path.read_bytes()
    for damaged in (whole[:-9], whole[:4] + bytes(200) + whole[204:], b""):
        path.write_bytes(damaged)
        with pytest.raises(Damaged, match=r"a\.parquet: not the Parquet file that was written here"):
            read_table(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.parquet"):
        read_table(path)


def test_no_bit_of_a_table_that_flips_is_taken_for_a_value(tmp_path):
    """zstd alone does not see it: a number beside another in a page comes out as a third."""
    path, table = (
        tmp_path / "a.parquet",
        pa.table({"uid": [f"{i:032x}" for i in range(200)], "words": ["a red cat", "a dog"] * 100}),
    )
    write_table(table, path)
    whole = path.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    noticed = 0
    for at in range(0, len(whole) - footer, 5):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            assert read_table(path).equals(table), f"byte {at} of {len(whole)}"
        except Damaged:
            noticed += 1
    assert noticed > 100


def test_a_record_whose_figures_were_changed_does_not_fit_its_checksum():
    record = {"rows": 53, "files": {"data": "a"}, "é": 0.5}
    assert unsealed(json.loads(sealed(record))) == record
    with pytest.raises(ValueError, match="checksum"):
        unsealed(json.loads(sealed(record).replace(b"53", b"35")))
    assert unsealed(record) == record, "those of older versions have none"


def test_a_store_without_hard_links_is_refused_at_start(tmp_path, monkeypatch):
    def no_links(*_args):
        raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(StoreError, match="no hard links"):
        check_store(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_canonical_json_knows_neither_order_nor_nan():
    assert canonical_json({"b": 1, "a": "颜色"}) == canonical_json({"a": "颜色", "b": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"score": float("nan")})


def test_scratch_of_a_killed_process_goes_and_that_of_a_living_one_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("FINELOOM_SCRATCH", str(tmp_path))
    made = "import time; from pipelines.durable import scratch_root; print(scratch_root(), flush=True); time.sleep(60)"
    living, dead = (subprocess.Popen([sys.executable, "-c", made], stdout=subprocess.PIPE, text=True) for _ in range(2))
    try:
        folders = [Path(process.stdout.readline().strip()) for process in (living, dead)]
        (folders[1] / "half.tar").write_bytes(b"x")
        assert sweep_scratch() == 0
        dead.kill()
        dead.wait()
        assert sweep_scratch() == 1
        assert list(tmp_path.iterdir()) == [folders[0]]
    finally:
        for process in (living, dead):
            process.kill()
            process.wait()


def test_a_link_that_was_about_to_replace_another_is_collected_after_a_kill(tmp_path, monkeypatch):
    shards = tmp_path / "shards"
    shards.mkdir()
    (tmp_path / "made.tar").write_bytes(b"new")
    (shards / "00000.tar").write_bytes(b"old")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        link_or_copy(tmp_path / "made.tar", shards / "00000.tar")
    assert len(list(shards.iterdir())) == 2
    collect(tmp_path, delete=True)
    assert [path.read_bytes() for path in shards.iterdir()] == [b"old"]


def test_a_probe_that_gc_takes_for_a_leftover_is_no_fault_of_the_store(tmp_path, monkeypatch):
    tried = []

    def then_collect(path, data):
        tried.append(create_if_absent(path, data))
        if len(tried) == 1:
            collect(tmp_path, delete=True)
        return tried[-1]

    monkeypatch.setattr("pipelines.durable.create_if_absent", then_collect)
    check_store(tmp_path)
    assert tried == [True, True, True, False]


def test_what_a_killed_start_tried_the_store_with_is_collected(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        check_store(tmp_path)
    assert list(tmp_path.iterdir())
    collect(tmp_path, delete=True)
    assert not list(tmp_path.iterdir())
