"""Starting Ray on a machine that is busy."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from PIL import Image

from pipelines import cli
from pipelines.cluster import NoCluster, connect


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


def test_a_ray_that_does_not_start_ends_a_command_with_one_line(monkeypatch, capsys, tmp_path):
    def start(**_):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", start)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    Image.new("RGB", (8, 8)).save(tmp_path / "cat.png")
    (tmp_path / "own.yaml").write_text(json.dumps({"format": "folder", "tables": str(tmp_path), "language": "en"}))
    recipe = {"recipe": "tiny", "sources": [str(tmp_path / "own.yaml")], "disk_floor_gb": 0, "stages": {"download": {}}}
    (tmp_path / "tiny.yaml").write_text(json.dumps(recipe))
    monkeypatch.setattr(sys, "argv", ["fineloom", "run", str(tmp_path / "tiny.yaml"), "--root", str(tmp_path / "runs")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 1
    assert said.startswith("error: Ray did not start in time, 3 times: ") and "\n" not in said


def test_an_address_at_which_nobody_listens_is_told_at_once(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **_: 1 / 0)
    with pytest.raises(NoCluster, match=f"{address}: no Ray cluster answers there"):
        connect(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(NoCluster, match=f"{address}: no Ray cluster answers there"):
        connect(None)


def test_sigterm_is_heard_as_before_when_ray_is_there(monkeypatch):
    def mine(*_):
        """Not called."""

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    kept = signal.signal(signal.SIGTERM, mine)
    try:
        connect(None)
        assert signal.getsignal(signal.SIGTERM) is mine
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        monkeypatch.setattr("ray.init", lambda **_: sys.exit(signal.SIGTERM))  # Ray's way while it starts
        with pytest.raises(KeyboardInterrupt):
            connect(None)
    finally:
        signal.signal(signal.SIGTERM, kept)


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
