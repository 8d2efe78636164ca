"""The run's lock in a folder, with the kernel's locks and without. On a store: test_store_runs.py."""

import errno
import fcntl
import os

import pytest

from pipelines import durable, locks
from pipelines.config import ConfigError
from pipelines.durable import scratch_root
from pipelines.folder_job import FolderJob
from pipelines.locks import RunBusy, lock
from pipelines.stores import StoreError


@pytest.fixture
def without_locks(monkeypatch):
    """As Lustre is mounted without `-o flock`."""

    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    for name, seconds in (("BEAT", 0.1), ("SILENCE", 0.6), ("LOOK", 0.05)):
        monkeypatch.setattr(locks, name, seconds)


def test_one_run_at_a_time_holds_a_folder(tmp_path):
    with lock(tmp_path), pytest.raises(RunBusy, match=f"process {os.getpid()}"), lock(tmp_path):
        pass
    with lock(tmp_path):
        pass


def test_where_the_file_system_has_no_locks_signs_of_life_take_their_place(tmp_path, without_locks, monkeypatch):
    with lock(tmp_path), pytest.raises(RunBusy, match=f"process {os.getpid()}"), lock(tmp_path):
        pass
    with lock(tmp_path), monkeypatch.context() as patch:
        patch.setattr(locks, "_counted", lambda: ["another", "pid:[1]"])  # somebody else's, who must watch it
        with pytest.raises(RunBusy, match="is in use by"), lock(tmp_path):
            pass
    dead = b'{"host":"gone","pid":1,"started":1,"id":"x","beat":0}'
    (tmp_path / "run.lock.json").write_bytes(dead)
    said = []
    with lock(tmp_path, said.append):
        assert "taken over" in said[-1]
    assert not (tmp_path / "run.lock.json").exists()


def test_a_job_over_a_folder_goes_without_and_scratch_is_refused_in_a_line(tmp_path, without_locks, monkeypatch):
    with FolderJob(tmp_path / "out", {}) as job:
        job.publish()
    with pytest.raises(ConfigError, match="is there already"), FolderJob(tmp_path / "out", {}):
        pass
    monkeypatch.setenv("FINELOOM_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(durable, "_own_scratch", {})
    with pytest.raises(StoreError, match="FINELOOM_SCRATCH must name another"):
        scratch_root()
    assert list((tmp_path / "scratch").iterdir()) == []
