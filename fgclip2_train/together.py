"""A rank that fails alone takes the others with it and says why; they would otherwise wait for it until a collective's timeout.

The first to fail leaves its reason in the process group's store. The others look there every second. A process that is started by
torchrun ends them itself where it can; this is for what it cannot see: other machines, kernels that wait, launchers of other kinds.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
import time
from collections.abc import Iterator

import torch.distributed as dist

from fgclip2_train.errors import OtherRankFailed
from fgclip2_train.ring import rank, world

EVERY, HEARD = 1.0, 3.0
"""Seconds between two looks, and those that the failing rank stays for the others to have looked: the store may be its own."""
_rounds = itertools.count()


@contextlib.contextmanager
def ending_together(grace: float = 10.0) -> Iterator[None]:
    """Around what all ranks do together. grace: seconds in which a rank that hears of a failure may end by itself."""
    if world() == 1:
        yield
        return
    notice = _Notice(f"fgclip2_train/failed/{next(_rounds)}")
    over = threading.Event()
    threading.Thread(target=_watch, args=(notice, over, grace), name="other ranks", daemon=True).start()
    try:
        yield
    except Exception as error:
        first = notice.leave(error)
        # What collectives raise when their partner is gone. An error of this rank's own is told as it is, whoever was first.
        if first and (type(error) is RuntimeError or isinstance(error, dist.DistError)):
            time.sleep(EVERY)  # launchers name the process that ended first
            raise OtherRankFailed(first) from None
        raise
    finally:
        over.set()


class _Notice:
    """What the first rank to fail has to say."""

    def __init__(self, key: str):
        self.key, self.rank = key, rank()
        self.store = dist.distributed_c10d._get_default_store()

    def leave(self, error: BaseException) -> str | None:
        """Another rank's reason, if there is one already; else this one's is left, and the others have heard it."""
        reason = f"rank {self.rank} failed: {type(error).__name__}: {str(error).strip()[:1000]}"
        try:
            first = self.store.compare_set(self.key, "", reason).decode()
            if first != reason:
                self.store.add(f"{self.key}/heard", 1)
                return first
            until = time.monotonic() + HEARD
            while self.store.add(f"{self.key}/heard", 0) < world() - 1 and time.monotonic() < until:
                time.sleep(0.1)
        except RuntimeError:  # the store was another rank's, which is gone
            pass
        return None

    def heard(self) -> str | None:
        """Another rank's reason, if one has failed."""
        if not self.store.check([self.key]):
            return None
        reason = self.store.get(self.key).decode()
        self.store.add(f"{self.key}/heard", 1)
        return None if reason.startswith(f"rank {self.rank} failed") else reason


def _watch(notice: _Notice, over: threading.Event, grace: float) -> None:
    while not over.wait(EVERY):
        try:
            reason = notice.heard()
        except RuntimeError:  # as the collectives will find, too
            return
        if reason:
            if not over.wait(grace):
                print(f"error: {reason}; rank {notice.rank} was waiting for it and ends", file=sys.stderr, flush=True)
                os._exit(1)
            return
