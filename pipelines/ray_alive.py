"""Whether the Ray of a run is still there. Its native code ends the process that has lost it, with status 1 and without a word."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil

LOOK = 2.0
"""Seconds between two looks. Ray ends the driver some seconds after its node's process."""
SILENT = 45.0
"""Seconds that the head of a cluster may be silent. After 60 Ray gives it up."""
KNOCK = 5.0
BEGIN = 300.0
"""Seconds that Ray has for a run's first worker. It gives up one that does not report after 60, and starts another, without end."""
PARTS = ("raylet", "gcs_server")


@contextmanager
def watched(own: bool, end: Callable[[str], None]) -> Iterator[None]:
    """Look after Ray while the body runs.

    own   it was started by this process, whose children its parts are; else only the head of the cluster is looked after
    end   is told what is gone
    """
    import ray

    over = threading.Event()
    parts = {child: name for child in psutil.Process().children() if (name := child.name()) in PARTS} if own else {}
    head = ray.get_runtime_context().gcs_address

    def look() -> None:
        heard = time.monotonic()
        while not over.wait(LOOK):
            for part, name in parts.items():
                if _ended(part):
                    return end(f"Ray's own {name} has ended, as when it is killed for want of memory")
            if own or _answers(head):
                heard = time.monotonic()
            elif time.monotonic() - heard > SILENT:
                return end(f"the Ray cluster at {head} has not answered for {SILENT:.0f} s")

    threading.Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        over.set()


@contextmanager
def begins(first: Any, end: Callable[[str], None]) -> Iterator[None]:
    """Wait for a run's first worker while the body runs.

    first   the answer of an actor that asks for nothing, so has room everywhere
    end     is told that there is none
    """
    import ray

    over, began = threading.Event(), time.monotonic()

    def look() -> None:
        while not over.wait(LOOK) and not ray.wait([first], timeout=0)[0]:
            if time.monotonic() - began > BEGIN:
                return end(f"no worker of Ray has begun in {BEGIN:.0f} s; its logs, in /tmp/ray/session_latest/logs, say why")

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()  # Ray's native code may crash when it is shut down beneath one who asks it something


def _ended(part: psutil.Process) -> bool:
    try:
        return part.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _answers(head: str) -> bool:
    host, _, port = head.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK).close()
    except OSError:
        return False
    return True
