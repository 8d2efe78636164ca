"""A small recipe with its root on S3 (and GCS, and HDFS where there is one): run, resumed, shown, reported, compacted, collected; and
its root moved elsewhere."""

import io
import json
import os
import socket
import tarfile
import threading
from pathlib import Path

import pytest
import yaml
from gcs_server import gcs_server
from hdfs_server import hdfs_server
from in_process import run_here
from picture_server import picture, wait_until
from s3_server import BUCKET, s3_server

from pipelines import locks, rejects
from pipelines.compact import compact
from pipelines.config import load_recipe
from pipelines.durable import files, read_table
from pipelines.gc import collect
from pipelines.plan import make_plan
from pipelines.report import write_report
from pipelines.run import RunBusy, lock, look, reach
from pipelines.show import show
from pipelines.stores import place


@pytest.fixture(scope="module")
def server():
    with s3_server() as url:
        yield url


@pytest.fixture(scope="module")
def gcs():
    with gcs_server():
        yield


@pytest.fixture(scope="module")
def hdfs():
    with hdfs_server() as name_node:
        yield name_node


@pytest.fixture
def recipe(tmp_path):
    """Six pictures 60, 70 … 110 wide, three a shard; those below 75 are refused."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(6):
        (pictures / f"{i}.jpg").write_bytes(picture(60 + 10 * i, 50, seed=50 * i))
        (pictures / f"{i}.txt").write_text(f"a red cat, number {i}")
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"format": "folder", "tables": str(pictures), "language": "en"}))
    stages = {
        "download": {},
        "size": {},
        "select": {"keep": "width >= 75"},
        "dedup": {"operator": "faulty_operators:Mark"},
        "pack": {},
    }
    body = {"recipe": "six", "sources": [str(tmp_path / "own.yaml")], "shard_size": 3, "disk_floor_gb": 0, "stages": stages}
    (tmp_path / "six.yaml").write_text(yaml.safe_dump(body, sort_keys=False))
    return load_recipe(tmp_path / "six.yaml")


def names(run):
    return sorted(str(path.relative_to(run)) for path in files(run, deep=True))


def test_the_bill_counts_the_copies_that_only_a_store_has_to_make(server, recipe, tmp_path):
    stored = []
    for root in (tmp_path / "local", place(f"s3://{BUCKET}/bill")):
        run_here(recipe, root, shards=1)
        chain = look(recipe, root)
        stored.append(make_plan(chain, chain.shards()).stages[-1].stored)
    assert stored[1] == pytest.approx(2 * stored[0], rel=0.01) and stored[0] > 0


@pytest.mark.parametrize(("scheme", "server_of"), [("s3", "server"), ("gs", "gcs"), ("hdfs", "hdfs")])
def test_a_recipe_runs_on_a_store_as_it_does_in_a_folder(scheme, server_of, recipe, tmp_path, request):
    served = request.getfixturevalue(server_of)
    root = place(f"{scheme}://{served if scheme == 'hdfs' else BUCKET}/runs")
    here = run_here(recipe, tmp_path / "local")
    there = run_here(recipe, root)
    uids = set()
    for shard in ("00000", "00001"):
        packed = (there.run / "shards" / f"{shard}.tar").read_bytes()
        assert packed == (here.run / "shards" / f"{shard}.tar").read_bytes()
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            uids |= {name[:32] for name in tar.getnames()}
    assert len(uids) == 4
    assert read_table(there.run / "index.parquet").equals(read_table(here.run / "index.parquet"))
    assert {name.split("/")[0] for name in names(there.run)} == {path.name for path in here.run.iterdir()}

    chain = look(recipe, root)
    assert not reach(chain, chain.shards()).pending()
    assert rejects.count(chain)["select"]["samples"].total() == 2
    uid = min(uids)
    told = show(chain, uid, tmp_path / "picture.jpg")
    assert told["fate"] == "kept" and len((tmp_path / "picture.jpg").read_bytes()) == told["picture"]["size"]
    assert make_plan(chain, chain.shards()).stages[-1].shards_to_do == 0
    assert uid[:8] in write_report(chain, [], []).read_text()

    before = dict(reach(chain, chain.shards()))
    assert compact(chain.ledger).taken == 2 * len(recipe.stages)
    chain = look(recipe, root)
    assert dict(reach(chain, chain.shards())) == before
    left = root / "six" / "images" / f"00000.{'a' * 12}.{'b' * 12}.tar"
    left.store.put(left.key, b"x")
    assert collect(root / "six", delete=True) == (1, 1)
    assert sum("ledger/" in name and "@compacted" not in name for name in names(there.run)) == 0


def test_refused_samples_are_put_back_in_a_store_too(server, recipe, tmp_path):
    """The table of samples put back was looked at as a local file, and the command died with it written already."""
    root = place(f"s3://{BUCKET}/again")
    run_here(recipe, root)
    assert rejects.retry(look(recipe, root)) is None
    back = rejects.requeue(look(recipe, root), "not_selected")
    assert (back.rows, back.first_shard) == (2, 2)
    mild = load_recipe(recipe.file, ["select.keep=width >= 60"])
    chain = run_here(mild, root)
    assert (
        sorted(read_table(chain.run / "index.parquet")["tar"].to_pylist())
        == ["00000.tar"] + ["00001.tar"] * 3 + ["00002.tar"] * 2
    )


def test_uploads_that_a_killed_worker_left_unfinished_are_collected(server, recipe, tmp_path):
    """No listing shows them, and the store asks money for them until somebody gives them up."""
    run, other = place(f"s3://{BUCKET}/torn/six"), place(f"s3://{BUCKET}/torn/six2")
    store = run.store
    for folder in (run, other):
        key = (folder / "images" / "00000.tar").key
        begun = store.client.create_multipart_upload(Bucket=BUCKET, Key=key)
        part = {"Bucket": BUCKET, "Key": key, "UploadId": begun["UploadId"], "PartNumber": 1}
        store.client.upload_part(**part, Body=b"x" * (5 << 20))
    assert collect(run, delete=False) == (1, 0) and collect(run, delete=True) == (1, 0)
    assert collect(run, delete=False) == (0, 0)
    assert collect(other, delete=False) == (1, 0), "another run's are its own"


def test_a_run_begun_in_a_folder_goes_on_in_a_store_and_back(server, recipe, tmp_path):
    run_here(recipe, tmp_path / "local", shards=1)
    moved = place(f"s3://{BUCKET}/moved")
    for path in (path for path in (tmp_path / "local").rglob("*") if path.is_file()):
        key = moved / str(path.relative_to(tmp_path / "local"))
        key.store.upload(path, key.key)
    chain = look(recipe, moved)
    assert reach(chain, chain.shards()).finished() == [0] or reach(chain, chain.shards()).pending() == [0, 1]
    done = {path: (moved / path).read_bytes() for path in names(moved) if "/ledger/" in f"/{path}"}
    run_here(recipe, moved)
    assert {path: (moved / path).read_bytes() for path in done} == done, "what was committed elsewhere was done again"
    for path in files(moved, deep=True):
        target = tmp_path / "back" / str(path.relative_to(moved))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    chain = look(recipe, tmp_path / "back")
    assert reach(chain, chain.shards()).pending() == []


def holder(run):
    """Who holds the lock: the last of those that took it over from each other."""
    return locks._chain(run / "run.lock")[-1][1]


def leave(run, **record):
    """A lock as a killed process leaves it."""
    path = run / "run.lock"
    path.store.put(path.key, json.dumps({"pid": 1, "started": 1, "id": "x", "beat": 0, **record}).encode())


@pytest.fixture
def hasty(monkeypatch):
    for name, seconds in (("BEAT", 0.1), ("SILENCE", 0.6), ("LOOK", 0.05)):
        monkeypatch.setattr(locks, name, seconds)


def test_the_lock_of_a_dead_process_of_this_machine_is_taken_at_once(server):
    run = place(f"s3://{BUCKET}/locked")
    with lock(run), pytest.raises(RunBusy, match="is in use by process"), lock(run):
        pass
    assert not (run / "run.lock").exists()
    leave(run, host=socket.gethostname(), counted=locks._counted(), pid=2**22 + 1)
    with lock(run):
        assert holder(run)["pid"] == os.getpid()
    assert not any("run.lock" in path.name for path in files(run))


def test_of_many_that_meet_a_dead_lock_one_takes_it(server):
    run, busy, held, together = place(f"s3://{BUCKET}/several"), [], [], threading.Barrier(4)
    leave(run, host=socket.gethostname(), counted=locks._counted(), pid=2**22 + 1)

    def start():
        together.wait()
        try:
            with lock(run):
                held.append(holder(run)["id"])
                wait_until(lambda: len(busy) == 3)
        except RunBusy:
            busy.append(1)

    threads = [threading.Thread(target=start) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert (len(held), len(busy)) == (1, 3)
    assert not any("run.lock" in path.name for path in files(run))


def test_what_a_holder_that_was_killed_at_its_end_left_of_the_lock_is_collected(server):
    run = place(f"s3://{BUCKET}/links")
    leave(run, host=socket.gethostname(), counted=locks._counted(), pid=2**22 + 1)
    with lock(run):
        (run / "run.lock").unlink()
        assert [path.name for path in locks.orphans(run)] == ["run.lock.x"]
        assert collect(run, delete=True) == (1, pytest.approx(200, abs=100))
    assert not any("run.lock" in path.name for path in files(run))


def test_the_lock_of_a_machine_that_died_is_taken_over_after_a_while(server, hasty):
    """The driver's machine is gone in the middle of the night: its successor, which has another name, must not need a person."""
    run, said = place(f"s3://{BUCKET}/orphan"), []
    leave(run, host="gone")
    with lock(run, said.append):
        assert holder(run)["host"] == socket.gethostname()
    assert "whether it lives" in said[0] and "taken over" in said[1]
    leave(
        run, host=socket.gethostname(), counted=locks._counted(), started=1
    )  # process 1 lives, and began at another time: the clock may have been set
    with lock(run, said.append):
        pass
    assert "process 1" in said[2]


@pytest.mark.parametrize("counted", [["the same kernel", "pid:[2]"], ["another start", "pid:[1]"], None])
def test_a_process_number_that_is_counted_elsewhere_proves_nothing(server, hasty, monkeypatch, counted):
    """Two containers of one name: the other's number is nobody's here, or somebody else's, and the run lives."""
    run, over = place(f"s3://{BUCKET}/containers"), threading.Event()
    monkeypatch.setattr(locks, "_counted", lambda: ["the same kernel", "pid:[1]"])
    theirs = {"host": socket.gethostname(), "counted": counted, "pid": 2**22 + 1}
    leave(run, **theirs)

    def live():
        beat = 0
        while not over.wait(0.1):
            beat += 1
            leave(run, **theirs, beat=beat)

    thread = threading.Thread(target=live)
    thread.start()
    with pytest.raises(RunBusy, match=f"process {2**22 + 1}"), lock(run):
        pass
    over.set()
    thread.join()
    assert json.loads((run / "run.lock").read_bytes())["pid"] == 2**22 + 1


def test_a_run_that_lives_elsewhere_keeps_its_lock_and_one_that_lost_it_is_told(server, hasty, monkeypatch):
    run, told = place(f"s3://{BUCKET}/beats"), []
    with lock(run) as held:
        held.lost = told.append
        with monkeypatch.context() as patch:
            patch.setattr(socket, "gethostname", lambda: "another")
            patch.setattr(locks, "_counted", lambda: ["another", "pid:[1]"])
            with pytest.raises(RunBusy, match="is in use by process"), lock(run):
                pass
            assert told == []
            assert wait_until(lambda: leave(run, host="another") or bool(told))  # again, should a beat have come in between
    assert "taken over by process 1 on another" in told[0]
    assert json.loads((run / "run.lock").read_bytes())["host"] == "another", "it is not his any more to remove"


def test_a_folder_named_like_a_url_is_never_made(server, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_here(recipe, Path(f"s3://{BUCKET}/once"), shards=1)
    assert not (tmp_path / "s3:").exists()
