"""One run at a time in a folder: two would sweep away and overwrite each other's checkpoints."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

PATIENCE = 120.0
"""Seconds in which the run before may end: a file server takes a while to notice that a machine is gone."""
HELD = (errno.EACCES, errno.EAGAIN)


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Waits for the run that is there already. Raises ValueError if it does not end. A process that dies holds nothing any more, and
    neither do readers that outlive it for a moment (POSIX locks are not inherited)."""
    with (out / "lock").open("a") as file:
        until = time.monotonic() + PATIENCE
        told = False
        while not _taken(file.fileno()):
            if time.monotonic() >= until:
                raise ValueError(f"{out}: another process trains there. End it, or give this run an out= of its own")
            if not told:
                print(f"another process trains in {out}; waiting up to {PATIENCE:.0f} s for it to end", flush=True)
            told = True
            time.sleep(0.5)
        yield


def _taken(file: int) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in HELD  # a file system without locks: nothing can be known there
    return True
