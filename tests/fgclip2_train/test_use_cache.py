"""The feature cache: only new pictures are encoded, bad ones are listed, and no kill and no other checkpoint spoils it."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from make_shards import write_scenes
from use_kit import bomb, encoded, make_checkpoint, picture, write_pictures

from fgclip2_train.use import build
from fgclip2_train.use.build import index
from fgclip2_train.use.cache import Cache, Writer
from fgclip2_train.use.pictures import open_picture
from fgclip2_train.use.sheet import read_place
from fgclip2_train.use.towers import load

ROOT = Path(__file__).parents[2]
IDENTITY = {"checkpoint": "ab" * 32, "patches": 64, "precision": "fp32", "width": 8}


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    return load(make_checkpoint(tmp_path_factory.mktemp("model")), device="cpu", batch=4)


def vectors_by_name(cache: Cache) -> dict[str, np.ndarray]:
    rows = cache.entries.to_pylist()
    return {Path(row["place"]).name: cache.vectors()[row["vector"]] for row in rows if row["vector"] is not None}


def test_every_picture_of_a_folder_has_its_vector(towers, tmp_path):
    files = write_pictures(tmp_path / "pictures", 6)
    files += write_pictures(tmp_path / "pictures" / "deeper" / "still", 5, first=6)
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    report = index(towers, [str(tmp_path / "pictures")], tmp_path / "cache")
    assert (report.found, report.encoded, sum(report.bad.values())) == (11, 11, 0)
    found = vectors_by_name(Cache.open(tmp_path / "cache", towers.identity()))
    own = towers.pictures([open_picture(file.read_bytes()) for file in files])
    for file, vector in zip(files, own, strict=True):
        torch.testing.assert_close(torch.from_numpy(found[file.name].astype(np.float32)), vector, rtol=0, atol=1e-3)


def test_a_second_run_encodes_only_what_is_new_or_changed_and_drops_what_is_gone(towers, tmp_path):
    folder, cache = tmp_path / "pictures", tmp_path / "cache"
    files = write_pictures(folder, 5)
    index(towers, [str(folder)], cache)
    before = vectors_by_name(Cache.open(cache))
    assert index(towers, [str(folder)], cache).known == 5

    files[0].unlink()
    files[1].write_bytes(encoded(picture(99)))
    (folder / "copy.png").write_bytes(files[2].read_bytes())
    write_pictures(folder, 1, first=50)
    report = index(towers, [str(folder)], cache)
    assert (report.found, report.known, report.encoded, report.copies, report.gone) == (6, 3, 2, 1, 1)
    opened = Cache.open(cache)
    after = vectors_by_name(opened)
    assert set(after) == {"0001.png", "0002.png", "0003.png", "0004.png", "0050.png", "copy.png"}
    assert np.array_equal(after["0003.png"], before["0003.png"]) and not np.array_equal(after["0001.png"], before["0001.png"])
    assert np.array_equal(after["copy.png"], after["0002.png"]) and len(opened.live()) == 5
    assert sorted(map(len, map(opened.places(), opened.live().tolist()))) == [1, 1, 1, 1, 2]

    files[0].write_bytes(encoded(picture(0)))  # back again: its vector is still there
    assert index(towers, [str(folder)], cache).copies == 1


def test_bad_pictures_are_counted_listed_and_not_tried_again(towers, tmp_path):
    folder = tmp_path / "pictures"
    write_pictures(folder, 2)
    (folder / "cut.jpg").write_bytes(encoded(picture(3, (400, 400)), "JPEG")[:600])
    (folder / "empty.png").write_bytes(b"")
    (folder / "page.gif").write_bytes(b"<!doctype html><p>gone")
    (folder / "bomb.png").write_bytes(bomb())
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")  # would wait for ever
    (folder / "nowhere.png").symlink_to("missing")
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(encoded(picture(4)))
    report = index(towers, [str(folder)], tmp_path / "cache")
    assert report.encoded == 3
    assert dict(report.bad) == {"cannot be decoded": 1, "empty": 1, "not a picture": 1, "too many pixels": 1}
    assert sorted(Path(item["place"]).name for item in report.listed) == ["bomb.png", "cut.jpg", "empty.png", "page.gif"]
    assert "bad: empty: 1" in report.text() and "cut.jpg" in report.text()
    again = index(towers, [str(folder)], tmp_path / "cache")
    assert (again.known, sum(again.bad.values()), len(again.listed)) == (7, 0, 4)
    (folder / "cut.jpg").write_bytes(encoded(picture(3), "JPEG"))  # mended
    mended = index(towers, [str(folder)], tmp_path / "cache")
    assert (mended.encoded, len(mended.listed)) == (1, 3)


def test_shards_are_indexed_by_uid_and_a_cut_one_loses_only_its_rest(towers, tmp_path):
    pattern = write_scenes(tmp_path / "shards", shards=2, per_shard=5, side=64)
    report = index(towers, [pattern], tmp_path / "cache")
    assert (report.found, report.encoded) == (10, 10)
    cache = Cache.open(tmp_path / "cache")
    for place in cache.entries["place"].to_pylist():
        assert "#" in place and open_picture(read_place(place)).size == (64, 64)
    assert index(towers, [pattern], tmp_path / "cache").known == 10
    shard = tmp_path / "shards" / "00001.tar"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    report = index(towers, [pattern], tmp_path / "cache")
    assert report.bad_shards[f"bad: shard cut short: {shard}"] == 1 and report.gone == 0 and report.known >= 5


def test_sources_that_overlap_are_counted_once(towers, tmp_path):
    folder = tmp_path / "pictures"
    write_pictures(folder / "part", 2)
    sources = [str(folder), str(folder / "part"), f"{folder}/part/.."]
    report = index(towers, sources, tmp_path / "cache")
    assert (report.found, report.encoded, report.copies) == (2, 2, 0)
    again = index(towers, sources, tmp_path / "cache")
    assert (again.found, again.known, again.gone) == (2, 2, 0)


def test_what_lies_in_a_folder_that_cannot_be_listed_is_not_gone(towers, tmp_path, monkeypatch):
    folder, listed = tmp_path / "pictures", os.scandir
    write_pictures(folder, 1)
    lost = write_pictures(folder / "part", 2)[0].parent
    index(towers, [str(folder)], tmp_path / "cache")

    def scandir(path):
        if Path(path) == lost:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    report = index(towers, [str(folder)], tmp_path / "cache")
    assert (report.found, report.gone) == (1, 0)
    assert f"folder cannot be listed (Permission denied): {lost}: 1" in report.text()
    monkeypatch.undo()
    for file in lost.iterdir():
        file.unlink()
    assert index(towers, [str(folder)], tmp_path / "cache").gone == 2


def test_a_source_without_pictures_is_an_error(towers, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no pictures there"):
        index(towers, [str(tmp_path / "empty")], tmp_path / "cache")
    with pytest.raises(FileNotFoundError, match="give a folder of pictures"):
        index(towers, [str(tmp_path / "nowhere")], tmp_path / "cache")


def test_a_cache_of_another_checkpoint_or_resolution_is_refused(towers, tmp_path):
    write_pictures(tmp_path / "pictures", 2)
    index(towers, [str(tmp_path / "pictures")], tmp_path / "cache")
    other = make_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="made with another checkpoint"):
        index(load(other, device="cpu"), [str(tmp_path / "pictures")], tmp_path / "cache")
    with pytest.raises(ValueError, match="made with another patches per picture"):
        Cache.open(tmp_path / "cache", towers.identity() | {"patches": 256})


def test_a_folder_of_something_else_is_not_written_into(tmp_path):
    (tmp_path / "thesis.doc").write_text("precious")
    with pytest.raises(ValueError, match="something else in this folder"), Writer(tmp_path, IDENTITY):
        pass
    assert os.listdir(tmp_path) == ["thesis.doc"]


def test_two_writers_do_not_meet(tmp_path):
    with (
        Writer(tmp_path / "cache", IDENTITY),
        pytest.raises(ValueError, match="another process is writing"),
        Writer(tmp_path / "cache", IDENTITY),
    ):
        pass


KILLED = """
import os, signal, sys
import numpy as np
from fgclip2_train.use import cache
folder, moment = sys.argv[1:]
identity = {"checkpoint": "ab" * 32, "patches": 64, "precision": "fp32", "width": 8}
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
with cache.Writer(folder, identity) as writer:
    writer.add({"place": "a", "source": "s", "sha256": "00"}, np.full(8, 1.0))
    writer.commit()
    writer.add({"place": "b", "source": "s", "sha256": "01"}, np.full(8, 2.0))
    if moment == "half a vector":
        writer._file.write(b"1234567")
        writer._file.flush()
        die()
    if moment == "vectors without entries":
        cache.publish = die
    if moment == "entries not renamed":
        cache.Path.rename = die
    writer.commit()
"""


@pytest.mark.parametrize("moment", ["half a vector", "vectors without entries", "entries not renamed"])
def test_a_commit_killed_at_any_moment_never_happened(tmp_path, moment):
    folder = tmp_path / "cache"
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), moment], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert (folder / "features.f16").stat().st_size > 16
    cache = Cache.open(folder, IDENTITY)
    assert cache.rows == 1 and cache.entries["place"].to_pylist() == ["a"] and cache.vectors()[0, 0] == 1
    with Writer(folder, IDENTITY) as writer:
        writer.add({"place": "c", "source": "s", "sha256": "02"}, np.full(8, 3.0))
        writer.commit()
    cache = Cache.open(folder)
    assert cache.vectors()[:, 0].tolist() == [1, 3] and cache.entries["place"].to_pylist() == ["a", "c"]
    assert not [file for file in (folder / "entries").iterdir() if file.name.startswith(".")]


RUN = """
import sys
from fgclip2_train.use import build
from fgclip2_train.use.towers import load
build.COMMIT_ENTRIES = 8
build.index(load(sys.argv[1], device="cpu", batch=4), [sys.argv[2]], sys.argv[3])
"""


def test_an_index_killed_in_the_middle_goes_on_where_it_was(towers, tmp_path):
    checkpoint, folder, cache = make_checkpoint(tmp_path), tmp_path / "pictures", tmp_path / "cache"
    write_pictures(folder, 400)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.Popen([sys.executable, "-c", RUN, str(checkpoint), str(folder), str(cache)], cwd=ROOT, env=environment)
    while not list(cache.glob("entries/0*.parquet")):
        assert run.poll() is None
    run.send_signal(signal.SIGKILL)
    run.wait()
    there = Cache.open(cache, towers.identity()).rows
    assert 0 < there < 400
    report = index(towers, [str(folder)], cache)
    assert (report.known, report.encoded) == (there, 400 - there)
    found = vectors_by_name(Cache.open(cache))
    assert len(found) == 400
    vector = towers.pictures([picture(399)])[0]
    torch.testing.assert_close(torch.from_numpy(found["0399.png"].astype(np.float32)), vector, rtol=0, atol=1e-3)


def test_damage_is_noticed_when_the_cache_is_opened(towers, tmp_path):
    folder, cache = tmp_path / "pictures", tmp_path / "cache"
    write_pictures(folder, 3)
    index(towers, [str(folder)], cache)
    features = (cache / "features.f16").read_bytes()
    (cache / "features.f16").write_bytes(features[:-2])
    with pytest.raises(ValueError, match="shorter than the 3 vectors"):
        Cache.open(cache)
    (cache / "features.f16").write_bytes(features)
    entries = cache / "entries" / "000000.parquet"
    whole = entries.read_bytes()
    entries.write_bytes(whole[:100])
    with pytest.raises(ValueError, match=r"000000.parquet: damaged"):
        Cache.open(cache)
    entries.write_bytes(whole)
    pq.write_table(pq.read_table(entries), cache / "entries" / "000001.parquet")  # a copy from elsewhere
    with pytest.raises(ValueError, match="begins at vector 0, 3 are there before it"):
        Cache.open(cache)
    (cache / "cache.json").write_text('{"format": "fineloom-features/9"}')
    with pytest.raises(ValueError, match="format fineloom-features/9"):
        Cache.open(cache)
    (cache / "cache.json").write_text("{")
    with pytest.raises(ValueError, match="not a feature cache"):
        Cache.open(cache)
    with pytest.raises(FileNotFoundError, match="no feature cache"):
        Cache.open(tmp_path)


def test_a_full_disk_is_said_and_costs_only_the_commit_in_the_making(towers, tmp_path, monkeypatch):
    folder, cache = tmp_path / "pictures", tmp_path / "cache"
    write_pictures(folder, 2)
    index(towers, [str(folder)], cache)
    write_pictures(folder, 2, first=2)
    with monkeypatch.context() as patch:
        patch.setattr(
            "fgclip2_train.use.cache.publish", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        with pytest.raises(ValueError, match="No space left on device"):
            index(towers, [str(folder)], cache)
    assert Cache.open(cache).rows == 2
    assert index(towers, [str(folder)], cache).encoded == 2


def test_the_report_is_json(towers, tmp_path):
    write_pictures(tmp_path / "pictures", 1)
    report = index(towers, [str(tmp_path / "pictures")], tmp_path / "cache")
    assert json.loads(json.dumps(vars(report)))["encoded"] == 1 and build.COMMIT_ENTRIES > 1
