"""Starting Ray on a machine that is busy."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import psutil
import pytest
import ray._private.utils as of_ray
from PIL import Image

from pipelines import cli, ray_alive, ray_start
from pipelines.cluster import ENDS, NoCluster, connect


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


@contextmanager
def heard(*handlers):
    """What ends a run has these handlers, in the order of ENDS, and then those that it had."""
    kept = [signal.signal(number, handler) for number, handler in zip(ENDS, handlers, strict=True)]
    try:
        yield
        assert tuple(signal.getsignal(number) for number in ENDS) == handlers
    finally:
        for number, handler in zip(ENDS, kept, strict=True):
            signal.signal(number, handler)


def start_ray_by(monkeypatch, start):
    def init(**_):
        of_ray.set_sigterm_handler(lambda *_: sys.exit(signal.SIGTERM))  # Ray's way
        start()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as its native code does

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize("sign", ENDS)
@pytest.mark.parametrize("pressed", [False, True])
def test_what_ends_a_run_waits_until_ray_is_there_but_not_a_ctrl_c_after_it(monkeypatch, sign, pressed):
    reached = []

    def start():
        os.kill(os.getpid(), sign)
        reached.append("signal")
        if pressed:
            os.kill(os.getpid(), signal.SIGINT)
        reached.append("started")

    start_ray_by(monkeypatch, start)
    with heard(*[signal.default_int_handler] * 3), pytest.raises(KeyboardInterrupt):
        connect(None)
    assert reached == (["signal"] if pressed else ["signal", "started"])


def test_a_start_that_took_too_long_is_not_tried_again_when_the_run_was_told_to_end(monkeypatch):
    tries = []

    def start():
        tries.append(os.kill(os.getpid(), signal.SIGTERM))
        raise Exception("The current node timed out during startup.")

    start_ray_by(monkeypatch, start)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    with heard(*[signal.default_int_handler] * 3), pytest.raises(KeyboardInterrupt):
        connect(None)
    assert len(tries) == 1


def test_who_does_not_hear_a_signal_does_not_hear_it_while_ray_starts(monkeypatch):
    """As below nohup, and in the background of a script."""
    start_ray_by(monkeypatch, lambda: [os.kill(os.getpid(), number) for number in ENDS])
    with heard(*[signal.SIG_IGN] * 3):
        connect(None)


@pytest.mark.parametrize("sign", ENDS)
def test_who_joins_a_cluster_hears_at_once(monkeypatch, sign):
    """A head may take a quarter of an hour to answer."""
    start_ray_by(monkeypatch, lambda: (os.kill(os.getpid(), sign), pytest.fail("was not heard")))
    with heard(*[signal.default_int_handler] * 3), pytest.raises(KeyboardInterrupt):
        connect("ray://a-head:10001")


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({"TMPDIR": "/tmp/" + "a" * 60}, "at most 39 bytes: set RAY_TMPDIR"),
        ({"TMPDIR": "/tmp/临时"}, "ASCII letters"),
        ({"TMPDIR": "/tmp/" + "a" * 60, "RAY_TMPDIR": "/tmp"}, ""),
    ],
)
def test_a_temporary_folder_that_ray_cannot_listen_in_is_told_before_it_starts(there, said, monkeypatch):
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in there.items():
        monkeypatch.setenv(name, value)
    assert said in ray_start.lacks() and bool(said) == bool(ray_start.lacks())
    if said:
        monkeypatch.setattr("ray.is_initialized", lambda: False)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        with pytest.raises(NoCluster, match="Ray cannot start here: TMPDIR="):
            connect(None)


def test_a_full_disk_and_too_few_open_files_are_told_before_ray_starts(monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=5e6))
    assert ray_start.lacks().startswith("RAY_TMPDIR=/tmp: 5 MB free")
    monkeypatch.undo()
    monkeypatch.setattr("resource.getrlimit", lambda _: (64, 64))
    assert "may open 64 files here" in ray_start.lacks()


@pytest.mark.parametrize("home", ["/proc", None])
def test_without_a_home_that_can_be_written_to_ray_gets_a_token_of_this_process(home, monkeypatch):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that it is taken away at the end
        monkeypatch.delenv(name)
    if home is None:  # a user number without a name
        monkeypatch.setattr(Path, "home", MagicMock(side_effect=RuntimeError("Could not determine home directory.")))
    else:
        monkeypatch.setenv("HOME", home)
    ray_start.bring_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.parametrize("own", [True, False])
def test_a_ray_that_is_gone_is_told_before_its_native_code_ends_the_process(own, tmp_path, monkeypatch):
    """One of its processes here was killed, or nobody answers any more where the cluster's head was."""
    monkeypatch.setattr(ray_alive, "LOOK", 0.05)
    monkeypatch.setattr(ray_alive, "SILENT", 0.2)
    shutil.copy(shutil.which("sleep"), tmp_path / "raylet")
    raylet = subprocess.Popen([tmp_path / "raylet", "600"])
    head = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{head.getsockname()[1]}"
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(gcs_address=address))
    told, heard = [], threading.Event()
    with ray_alive.watched(own, lambda what: (told.append(what), heard.set())):
        assert not heard.wait(1)
        raylet.kill()
        head.close()
        assert heard.wait(60)
    raylet.wait()
    assert told == [
        "Ray's own raylet has ended, as when it is killed for want of memory"
        if own
        else f"the Ray cluster at {address} has not answered for 0 s"
    ]


def dying_workers(folder, how_many):
    """The environment in which so many of Ray's workers end before they have begun."""
    (folder / "sitecustomize.py").write_text(
        "import os, sys\nif any('default_worker' in text for text in sys.orig_argv):\n"
        f" died = os.open({str(folder / 'died')!r}, os.O_CREAT | os.O_RDWR | os.O_APPEND)\n"
        f" os.fstat(died).st_size < {how_many} and (os.write(died, b'.'), os._exit(1))\n"
    )
    path = os.pathsep.join([str(folder), str(Path(cli.__file__).parents[1])])
    return os.environ | {"PYTHONPATH": path, "RAY_worker_register_timeout_seconds": "3"}  # after which Ray starts another


def test_the_first_worker_of_a_ray_here_may_die_before_it_begins(tmp_path):
    """Ray waits for ever for the workers that it starts ahead of the first driver, if one of them never reports."""
    code = "from pipelines.cluster import connect\nconnect(None, 1)\nimport ray\n"
    code += "print(ray.get(ray.remote(lambda: 'begun').remote()))"
    env = dying_workers(tmp_path, 1)
    ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=400)
    assert ended.stdout.strip() == "begun" and (tmp_path / "died").read_text() == ".", ended.stderr


def test_a_ray_whose_workers_never_begin_ends_the_run_with_a_line(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "cat.png")
    (tmp_path / "own.yaml").write_text(json.dumps({"format": "folder", "tables": str(tmp_path), "language": "en"}))
    recipe = {"recipe": "tiny", "sources": ["own.yaml"], "disk_floor_gb": 0, "stages": {"download": {}}}
    (tmp_path / "tiny.yaml").write_text(json.dumps(recipe))
    code = "import sys\nfrom pipelines import cli, ray_alive\nray_alive.BEGIN = 12\n"
    code += "sys.argv = ['fineloom', 'run', 'tiny.yaml']\ncli.main()"
    env = dying_workers(tmp_path, 1_000_000)
    ended = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert ended.returncode == 1
    told = [line for line in (ended.stdout + ended.stderr).splitlines() if line.startswith("stopped: ")]
    assert len(told) == 1 and told[0].startswith("stopped: no worker of Ray has begun in 12 s; its logs, in "), ended


def test_a_cluster_that_lets_nobody_in_ends_the_process_with_a_line():
    """Also while native code keeps Python's lock, as Ray's does when it joins."""
    code = "import ctypes, ray\nfrom pipelines import cluster\ncluster.LET_IN = 0.5\n"
    code += "ray.init = lambda **_: ctypes.PyDLL(None).sleep(300)\ncluster.connect('10.1.2.3')"
    ended = subprocess.run([sys.executable, "-c", code], cwd=Path(cli.__file__).parents[1], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL
    assert ended.stderr.startswith(
        "stopped: the Ray cluster at 10.1.2.3 has not let this run in for 0 s: do its workers begin?"
    )
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_a_cluster_does_not_let_in_can_be_stopped(number):
    """Also while native code keeps Python's lock, so that Python does not come to hear the signal."""
    code = "import ctypes, ray, signal\nfrom pipelines import cluster\ncluster.LEAVE = 0.5\n"
    code += f"signal.signal({number.value}, signal.default_int_handler)\n"
    code += "lock, taken = ctypes.PyDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)\n"
    code += "def never(**_):\n    lock(taken)\n    print('joining', flush=True)\n    lock(taken)\n"
    code += "ray.init = never\ncluster.connect('10.1.2.3')"
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(cli.__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None and run.stdout.readline() == "joining\n"
    while psutil.Process(run.pid).status() != psutil.STATUS_SLEEPING:  # not yet in native code
        time.sleep(0.01)
    run.send_signal(number)
    _, told = run.communicate(timeout=60)
    assert run.returncode == -signal.SIGKILL
    assert told.startswith("stopped as asked; the Ray cluster at 10.1.2.3 had not let this run in") and told.count("\n") == 1
