"""A process that has imported everything, and forks: Ray's workers and drivers begin in milliseconds instead of seconds.

python -m benchmarks.chaos.zygote SOCKET

Each fork is a process of its own, with its own arguments, environment and output, and is killed as any other; only the imports
are shared. A request is a line of JSON {argv, environ, cwd, run} with the files for its output; the reply is the process's number.
`run` is the path of a script, or the name of a module. With three files the first one is for its input.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

PRELOAD = """
ray._private.workers.default_worker ray.data pipelines.cli pipelines.run pipelines.flow pipelines.download pipelines.pack
pipelines.plan pipelines.progress operators.size operators.phash operators.dedup operators.select operators.sharpness
pipelines.stores.s3 boto3 s3transfer.manager openai.resources.chat openai.resources.models
benchmarks.chaos.taps benchmarks.chaos.parts
aiohttp.web grpc.aio prometheus_client opentelemetry.sdk.metrics jsonschema
"""
"""The last line is for Ray's agents, of which each node has two."""
STAND_INS = {"RAY_JOB_ID": "5e4e71e1", "RAY_RAYLET_PID": "7301934"}
"""Ray reads these two from the environment once, when it is imported; a fork puts its own in their place, of the same length."""


def serve(path: str) -> None:
    os.environ.update(STAND_INS)
    with _nothing_drawn():
        for name in PRELOAD.split():
            importlib.import_module(name)
    importlib.import_module("pipelines.download.engine")._downloader()
    gc.collect()
    gc.freeze()  # pages that no collector touches stay shared
    places = {name: _where_ray_keeps(text) for name, text in STAND_INS.items()}
    threads = {Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in os.listdir("/proc/self/task")}
    # Arrow's jemalloc begins its own again after a fork.
    assert len(threads - {"jemalloc_bg_thd"}) == 1, f"an import started the threads {threads}, and a fork would lose them"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the dead
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    told = os.open(
        f"{path}.forks", os.O_WRONLY | os.O_CREAT
    )  # process and Ray's node, for whoever wants to know what runs where
    print("ready", flush=True)
    while True:
        client, _ = listener.accept()
        with client:
            try:
                request, files = _receive(client)
            except (OSError, ValueError):
                continue
            pid = os.fork()
            if pid == 0:
                listener.close()
                client.close()
                _become(request, files, places)
            for fd in files:
                os.close(fd)
            node = next((text[10:] for text in request["argv"] if text.startswith("--node-id=")), "-")
            os.write(told, f"{pid} {node}\n".encode())
            client.sendall(f"{pid}\n".encode())


@contextlib.contextmanager
def _nothing_drawn() -> Iterator[None]:
    """Ray's native code draws the names of what it makes, and each fork of a process that has begun to would draw the same ones: of
    two workers that begin on a node at the same instant one finds its first object taken, and dies. Classes of actors are named while
    they are imported."""
    import ray.actor

    class Drawn(ray.ActorClassID):
        @classmethod
        def from_random(cls) -> ray.ActorClassID:
            return ray.ActorClassID(os.urandom(ray.ActorClassID.size()))

    with mock.patch.object(ray.actor, "ActorClassID", Drawn):
        yield


def _receive(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    files = array.array("i")
    data, ancillary, _, _ = client.recvmsg(1 << 20, socket.CMSG_SPACE(3 * files.itemsize))
    for _level, kind, payload in ancillary:
        if kind == socket.SCM_RIGHTS:
            files.frombytes(payload[: len(payload) - len(payload) % files.itemsize])
    while not data.endswith(b"\n"):
        more = client.recv(1 << 20)
        if not more:
            raise ValueError("half a request")
        data += more
    return json.loads(data), list(files)


def _become(request: dict[str, Any], files: list[int], places: dict[str, int]) -> None:
    """The child: a process as if it had been started with these arguments."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        if len(files) == 2:
            files = [os.open(os.devnull, os.O_RDONLY), *files]
        for number, fd in enumerate(files):
            os.dup2(fd, number)
            os.close(fd)
        os.environ.clear()
        os.environ.update(request["environ"])
        os.chdir(request["cwd"])
        sys.argv = request["argv"]
        for entry in reversed(os.environ.get("PYTHONPATH", "").split(os.pathsep)):
            if entry and entry not in sys.path:
                sys.path.insert(0, entry)
        from benchmarks.chaos import taps

        taps.install()
        for name, text in STAND_INS.items():
            own = os.environ.get(name, "0").rjust(len(text), "0").encode()
            ctypes.memmove(places[name], own, len(text))
        run = request["run"]
        runpy.run_path(run, run_name="__main__") if run.endswith(".py") else runpy.run_module(run, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _where_ray_keeps(text: str) -> int:
    """Address of the C++ string that holds a stand-in."""
    with open("/proc/self/maps") as maps:
        places = [line.split() for line in maps]
    for place in places:
        if not place[1].startswith("rw") or place[-1].startswith("[stack"):
            continue
        first, last = (int(number, 16) for number in place[0].split("-"))
        data, at = ctypes.string_at(first, last - first), -1
        while (at := data.find(text.encode(), at + 1)) >= 0:
            # Before the letters stand the string's length and the room it has.
            if data[at - 24 : at - 8] == struct.pack("<QQ", len(text), len(text)):
                return first + at
    raise RuntimeError("this version of Ray does not keep its settings as others did")


def fork(path: str, run: str, argv: list[str], environ: dict[str, str], out: int, err: int) -> int:
    """Ask the zygote that listens at `path` for a process; its number."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        request = {"run": run, "argv": argv, "environ": environ, "cwd": os.getcwd()}
        data = json.dumps(request).encode() + b"\n"
        sent = client.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [out, err]))])
        client.sendall(data[sent:])
        return int(client.makefile().readline())


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "kit"))
    serve(sys.argv[1])
