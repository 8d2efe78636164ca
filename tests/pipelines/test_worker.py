"""What ends a run, and what is one shard's own."""

import errno
import os
from types import SimpleNamespace

import pytest

from pipelines.stores import StoreError, StoreFailed, place
from pipelines.worker import StopRun, stopping


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run" / "tables").mkdir(parents=True)
    return tmp_path / "run"


def system(number, path=None):
    return OSError(number, os.strerror(number), None if path is None else str(path))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.EMFILE])
def test_what_every_shard_would_meet_stops_the_run(run, number):
    with pytest.raises(StopRun, match="nothing committed is lost"), stopping(run):
        raise system(number, run / "size" / "1.parquet")


def test_a_permission_that_is_missing_in_the_runs_folder_stops_it_and_elsewhere_it_does_not(run, tmp_path):
    with pytest.raises(StopRun, match="can be read and written"), stopping(run):
        raise system(errno.EACCES, run / "size" / "1.parquet")
    with pytest.raises(PermissionError), stopping(run):
        raise system(errno.EACCES, tmp_path / "pictures" / "1.jpg")


def test_a_run_whose_folder_was_moved_away_stops(run):
    run.rename(run.with_name("elsewhere"))
    (run / "size").mkdir(parents=True)  # as a writer leaves it
    with pytest.raises(StopRun, match="is gone"), stopping(run):
        raise system(errno.ENOENT, run / "size" / "1.parquet")


def test_a_store_that_refuses_stops_the_run_and_one_that_is_away_fails_a_shard():
    run = place("s3://bucket/runs/one")
    with pytest.raises(StopRun, match="the store refuses: AccessDenied"), stopping(run):
        raise StoreError("AccessDenied")
    with pytest.raises(StoreFailed), stopping(run):
        raise StoreFailed("no answer")
    with pytest.raises(StopRun, match="the disk is full"), stopping(run):  # of the scratch folder
        raise system(errno.ENOSPC)


def test_a_file_that_is_missing_is_one_shards_own(run):
    with pytest.raises(FileNotFoundError), stopping(run):
        raise system(errno.ENOENT, run / "size" / "1.parquet")


def test_a_disk_with_room_and_no_place_for_one_more_file_is_told_as_that(run, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_files=90, f_favail=0))
    with pytest.raises(StopRun, match="can hold no more files"), stopping(run):
        raise system(errno.ENOSPC, run / "size" / "1.parquet")
