"""A recipe of one's own, submitted to a Ray cluster by the Makefile's target as docs/operations.md tells it."""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import yaml
from in_process import run_here
from picture_server import picture

from pipelines.cluster import TRIES
from pipelines.config import load_recipe

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PORTS = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
PATIENCE = 120.0
"""Seconds for Ray to come up on a busy machine."""


def free_ports(n):
    with ExitStack() as stack:
        taken = [stack.enter_context(closing(socket.socket())) for _ in range(n)]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in taken]


def answers(port):
    with closing(socket.socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def session(command, env, folder):
    """A command in a session of its own, all of which is ended with it: the processes that it leaves to themselves, too."""
    with open(folder / "said", "w") as said:
        process = subprocess.Popen(command, env=env, cwd=folder, start_new_session=True, stdout=said, stderr=said)
    try:
        yield process
    finally:
        for left in psutil.process_iter():
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getsid(left.pid) == process.pid:
                    left.kill()
        process.wait()


def is_up(head, ports):
    """Whether the job server and the agent that runs jobs answer; False once Ray has given up."""
    limit = time.monotonic() + PATIENCE
    while not (answers(ports["dashboard-port"]) and answers(ports["dashboard-agent-listen-port"])):
        if head.poll() not in (None, 0) or time.monotonic() > limit:
            return False
        time.sleep(0.2)
    return True


@pytest.fixture
def cluster():
    """A Ray head that asks for a token, with its job server: (its address, the environment in which it may be asked)."""
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "OMP_NUM_THREADS": "1"}
    env["PATH"] = os.pathsep.join([str(BIN), env["PATH"]])  # where the cluster's machines find `fineloom`
    with ExitStack() as stack:
        for _ in range(TRIES):
            short = tempfile.TemporaryDirectory(
                prefix="fl-", dir="/tmp", ignore_cleanup_errors=True
            )  # for the paths of sockets
            folder = Path(stack.enter_context(short))
            ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
            options = [f"--{name}={port}" for name, port in ports.items()]
            options += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--temp-dir={folder}", "--num-cpus=2"]
            head = stack.enter_context(
                session([BIN / "ray", "start", "--head", "--disable-usage-stats", *options], env, folder)
            )
            if is_up(head, ports):
                break
        else:
            pytest.fail((folder / "said").read_text())
        yield f"http://127.0.0.1:{ports['dashboard-port']}", env


def packed(run):
    return {tar.name: tar.read_bytes() for tar in sorted((run / "shards").glob("*.tar"))}


@pytest.mark.timeout(900)
def test_a_submitted_recipe_makes_what_a_run_here_makes_once_and_a_mistake_is_told_in_the_jobs_log(cluster, tmp_path):
    for i in range(6):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        (tmp_path / "pictures" / f"{i}.jpg").write_bytes(picture(60 + 10 * i, 50, seed=50 * i))
        (tmp_path / "pictures" / f"{i}.txt").write_text(f"a red cat, number {i}")
    source = {"format": "folder", "tables": str(tmp_path / "pictures"), "language": "en"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(source))
    stages = {"download": {}, "size": {}, "select": {"keep": "true"}, "pack": {}}
    body = {"recipe": "six", "sources": [str(tmp_path / "own.yaml")], "shard_size": 3, "disk_floor_gb": 0, "stages": stages}
    (tmp_path / "six.yaml").write_text(yaml.safe_dump(body, sort_keys=False))
    address, env = cluster

    def submit(setting):
        given = [f"RECIPE={tmp_path / 'six.yaml'}", f"ADDRESS={address}", f"ROOT={tmp_path / 'runs'}", f"SET={setting}"]
        words = ["make", "--assume-old=.venv/ready", "submit", *given]
        done = subprocess.run(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout

    status, log = submit("select.keep='width >= 75'")
    assert status == 0 and "2 of 2 shards whole" in log and "succeeded" in log, log
    here = run_here(load_recipe(tmp_path / "six.yaml", ["select.keep=width >= 75"]), tmp_path / "here").run
    assert packed(tmp_path / "runs" / "six") == packed(here) != {}

    status, log = submit("select.keep='width >= 75'")
    assert status == 0 and "everything is done: 2 shards" in log, log

    status, log = submit("select.kepe='width >= 75'")
    assert status != 0 and "failed with exit code 2" in log, log
    assert "error: " in log and "kepe" in log and "Did you mean keep?" in log and "Traceback" not in log, log
