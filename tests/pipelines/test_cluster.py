"""Starting Ray on a machine that is busy."""

import os
import signal
import subprocess

import pytest

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


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_waits_until_ray_is_there_and_a_second_one_does_not(monkeypatch, presses):
    reached = []

    def start(**_):
        for press in range(presses):
            reached.append(press)
            os.kill(os.getpid(), signal.SIGINT)
        reached.append("started")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", start)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            connect(None)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, kept)
    assert ("started" in reached) == (presses == 1)
