"""One run at a time per folder: nothing depends on it but double work and `gc`, since commits are safe with any number of runs.

In a folder the kernel gives the lock back when the process dies, however it dies. On a store, and on a file system that knows no such
locks (Lustre and NFS may be mounted so), it is an object or a file, which a killed process leaves behind. So its holder writes into it
every now and then, and whoever finds it watches whether that goes on: by his own monotonic clock, so that no clocks are compared and
none may jump. What nobody has written to for `SILENCE` seconds is taken over: by create-if-absent under a name that holds the dead
one's id, so that of several who find it dead one wins. `run.lock`, `run.lock.<its id>` and so on are a chain; the last one holds, and
takes them all away when he ends. A holder that only stood still finds out that he is no more the last one, and stops.
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

from pipelines.durable import NO_LOCKS, canonical_json, create_if_absent, files, replace
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
        with _kept_up(_first(run), say) as held:
            yield held
        return
    run.mkdir(parents=True, exist_ok=True)
    fd = os.open(run / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with nullcontext(Held()) if _flock(run, fd) else _kept_up(_first(run), say) as held:
            yield held
    finally:
        os.close(fd)


def orphans(run: Path) -> list[Path]:
    """Links of a chain whose first one is gone: what a holder that was killed at its very end left."""
    first = _first(run)
    chain = [link for link, _ in _chain(first)]
    return [path for path in files(run) if path.name.startswith(f"{first.name}.") and path not in chain]


def _first(run: Path) -> Path:
    return cast(Path, run / "run.lock") if isinstance(run, Place) else run / "run.lock.json"


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
    mine = _take(path, record, say)
    held, over = Held(), threading.Event()
    thread = threading.Thread(target=_beat, args=(path, mine, record, held, over), name="lock", daemon=True)
    thread.start()
    try:
        yield held
    finally:
        over.set()
        thread.join()
        with suppress(OSError):
            chain = _chain(path)
            if chain and chain[-1][1]["id"] == record["id"]:
                for link, _ in chain:  # the first one first: without it the others are nobody's
                    link.unlink(missing_ok=True)


def _take(path: Path, record: dict[str, Any], say: Callable[[str], Any]) -> Path:
    """Become the last of the chain that begins at `path`; returns the name of the own link."""
    while True:
        chain, mine = _chain(path), path
        if chain:
            last, dead = chain[-1]
            _wait_for_death(last, dead, say)
            mine = _after(path, dead)
        if not create_if_absent(mine, canonical_json(record)):
            continue
        if [link for link, _ in _chain(path)][-1:] == [mine]:
            return mine
        mine.unlink(missing_ok=True)  # whoever seemed dead has ended meanwhile, and the chain with him


def _chain(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The links that are there, with their records; the last one holds the lock."""
    found, link = [], path
    while record := _read(link):
        found.append((link, record))
        link = _after(path, record)
    return found


def _after(path: Path, record: dict[str, Any]) -> Path:
    return path.with_name(f"{path.name}.{record['id']}")


def _beat(path: Path, mine: Path, record: dict[str, Any], held: Held, over: threading.Event) -> None:
    while not over.wait(BEAT):
        with suppress(OSError):  # the store is away: the run meets that itself, and the next beat may get through
            now = _chain(path)
            if not now or now[-1][1]["id"] != record["id"]:
                by = f"process {now[-1][1]['pid']} on {now[-1][1]['host']}" if now else "somebody who removed it"
                held.lost(f"the lock {path} was taken over by {by}: this run was not heard of for {SILENCE:.0f} s")
                return
            record["beat"] += 1
            replace(mine, canonical_json(record))


def _wait_for_death(path: Path, first: dict[str, Any], say: Callable[[str], Any]) -> None:
    """Return once the holder is dead, or its lock is gone. RunBusy as soon as it shows a sign of life.

    first   what was read at `path`
    """
    now = first
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


__all__ = ["Held", "RunBusy", "lock", "orphans"]
