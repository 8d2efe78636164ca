"""One run at a time per folder: nothing depends on it but double work and `gc`, since commits are safe with any number of runs.

In a folder the kernel gives the lock back when the process dies, however it dies. On a store, and on a file system that knows no such
locks (Lustre and NFS may be mounted so), it is an object or a file, which a killed process leaves behind. So its holder writes into it
every now and then, and whoever finds it watches whether that goes on: by his own monotonic clock, so that no clocks are compared and
none may jump. What nobody has written to for `SILENCE` seconds is taken over; a holder that only stood still finds that out, and stops.
Only whoever counts processes where the holder does can see at once that it is dead: the same kernel, since its last start, and the same
space of process numbers. A name of a machine says neither, since containers may share one.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import psutil

from pipelines.durable import NO_LOCKS, canonical_json, create_if_absent, replace
from pipelines.stores import Place

BEAT = 20.0
"""Seconds between two signs of life."""
SILENCE = 90.0
"""Seconds without one after which the holder is taken for dead."""
LOOK = 2.0
"""Seconds between two looks at a lock that is watched."""


class RunBusy(RuntimeError):
    """Another run holds the lock of this folder."""


@dataclass
class Held:
    """A lock that is held. `lost` is called, from another thread, with the reason if somebody else took it over."""

    lost: Callable[[str], Any] = field(default=lambda reason: None)


@contextmanager
def lock(run: Path, say: Callable[[str], Any] = lambda line: None) -> Iterator[Held]:
    """Hold the run's lock while the body runs. RunBusy where another run does; `say` is told when that takes a while to find out."""
    if isinstance(run, Place):
        with _kept_up(cast(Path, run / "run.lock"), say) as held:
            yield held
        return
    run.mkdir(parents=True, exist_ok=True)
    fd = os.open(run / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with nullcontext(Held()) if _flock(run, fd) else _kept_up(run / "run.lock.json", say) as held:
            yield held
    finally:
        os.close(fd)


def _flock(run: Path, fd: int) -> bool:
    """Take the kernel's lock. False where the file system has none."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(fd, 200).decode(errors="replace").strip() or "an unknown process"
        raise RunBusy(f"{run} is in use by {holder}. Wait for it to end, or stop it") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return True


@contextmanager
def _kept_up(path: Path, say: Callable[[str], Any]) -> Iterator[Held]:
    me = psutil.Process()
    record = {
        "host": socket.gethostname(),
        "counted": _counted(),
        "pid": me.pid,
        "started": me.create_time(),
        "id": uuid4().hex,
        "beat": 0,
    }
    while not create_if_absent(path, canonical_json(record)):
        _wait_for_death(path, say)
        path.unlink(missing_ok=True)
    held, over = Held(), threading.Event()
    thread = threading.Thread(target=_beat, args=(path, record, held, over), name="lock", daemon=True)
    thread.start()
    try:
        yield held
    finally:
        over.set()
        thread.join()
        with suppress(OSError):
            if _read(path).get("id") == record["id"]:
                path.unlink()


def _beat(path: Path, record: dict[str, Any], held: Held, over: threading.Event) -> None:
    while not over.wait(BEAT):
        with suppress(OSError):  # the store is away: the run meets that itself, and the next beat may get through
            now = _read(path)
            if now.get("id") != record["id"]:
                by = f"process {now['pid']} on {now['host']}" if now else "somebody who removed it"
                held.lost(f"the lock {path} was taken over by {by}: this run was not heard of for {SILENCE:.0f} s")
                return
            record["beat"] += 1
            replace(path, canonical_json(record))


def _wait_for_death(path: Path, say: Callable[[str], Any]) -> None:
    """Return once the holder is dead, or its lock is gone. RunBusy as soon as it shows a sign of life."""
    first = now = _read(path)
    if not first:
        return
    who = f"process {first['pid']} on {first['host']}"
    here = _counted()
    if here is not None and here == first.get("counted"):
        alive = _alive(first)
        if alive is False:
            return
        if alive:
            raise RunBusy(f"{path.parent} is in use by {who}. Wait for it to end, or stop it")
    say(f"{path.parent} is locked by {who}: looking for {SILENCE:.0f} s whether it lives")
    ends = time.monotonic() + SILENCE
    while now == first:
        if time.monotonic() > ends:
            say(f"nothing was heard of {who} for {SILENCE:.0f} s: its lock is taken over")
            return
        time.sleep(LOOK)
        now = _read(path)
    if now:
        raise RunBusy(f"{path.parent} is in use by process {now['pid']} on {now['host']}. Wait for it to end, or stop it")


def _read(path: Path) -> dict[str, Any]:
    """Empty where there is none."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}


def _counted() -> list[str] | None:
    """Where this process's number is counted: the kernel's last start, and its space of numbers. None: the system does not tell."""
    try:
        return [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    except OSError:
        return None


def _alive(holder: dict[str, Any]) -> bool | None:
    """None: there is such a process, but it began at another time, or the clock was set since: only its signs of life can tell."""
    try:
        return True if psutil.Process(holder["pid"]).create_time() == holder["started"] else None
    except psutil.NoSuchProcess:  # of what belongs to others, /proc may be hidden
        return None if _has_number(holder["pid"]) else False


def _has_number(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


__all__ = ["Held", "RunBusy", "lock"]
