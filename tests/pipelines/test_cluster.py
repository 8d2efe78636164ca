"""Starting Ray on a machine that is busy."""

import signal
import subprocess

from pipelines.cluster import connect


def test_what_a_start_that_took_too_long_leaves_is_ended_before_the_next_try(monkeypatch):
    started: list[subprocess.Popen] = []

    def start(**_):
        started.append(subprocess.Popen(["sleep", "60"]))
        if len(started) == 1:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", start)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    connect(None)
    assert started[0].wait(10) == -signal.SIGKILL and started[1].poll() is None
    started[1].kill()
    started[1].wait()
