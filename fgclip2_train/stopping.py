"""Asked to stop, by SIGTERM, by Ctrl-C, by the end of the terminal or by a file: the step in hand is finished and saved first.

A second Ctrl-C ends the process at once. torchrun hands its first one on to every process, answers a second one with SIGTERM, which
therefore ends them too, and kills what is left after its `--shutdown-timeout`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist

from fgclip2_train.ring import rank, world

NOT, TERMINATED, INTERRUPTED = range(3)


@contextlib.contextmanager
def nothing_to_save() -> Iterator[None]:
    """Around what comes before the first step, which may take long: a SIGTERM ends the process there and then, with the exit status of
    one that saved. Without effect outside the main thread."""

    def end(number: int, frame: FrameType | None) -> None:
        if rank() == 0:
            os.write(2, b"asked to stop before the first step: there is nothing to save\n")
        raise SystemExit(0)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if before is not None:  # not Python's to put back
            signal.signal(signal.SIGTERM, before)


class StopRequests:
    """Catches the signals while it is entered; without effect outside the main thread, where Python cannot. SIGHUP is a Ctrl-C that
    nothing follows, and stays ignored below nohup.

    file: asks to stop by being there, for a launcher that has no signals; rank 0 looks.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.asked, self.file = NOT, file
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
            if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
                self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._hung_up)
        return self

    def __exit__(self, *_) -> None:
        for number, before in self._before.items():
            if before is not None:  # not Python's to put back
                signal.signal(number, before)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            self.asked = max(self.asked, TERMINATED)
            return
        self.asked = INTERRUPTED
        signal.raise_signal(signal.SIGTERM)  # with it goes one that came just before: Python would complain of it below
        for other in (signal.SIGTERM, signal.SIGINT):  # by the system: Python would wait for the end of a product of matrices
            signal.signal(other, signal.SIG_DFL)
        if rank() == 0:  # print is not to be called from within itself
            os.write(2, b"asked to stop: this step is finished and saved first; Ctrl-C again ends it at once\n")

    def _hung_up(self, number: int, frame: FrameType | None) -> None:
        self.asked = INTERRUPTED
        for stream in (1, 2):  # what is said of the last step and the checkpoint would raise on a terminal that is gone
            try:
                os.write(stream, b"")
            except OSError:
                with open(os.devnull, "wb") as nowhere:
                    os.dup2(nowhere.fileno(), stream)

    def agreed(self) -> int:
        """What any rank was asked. All ranks learn it in the same step, from a number that costs no device time."""
        if self.file and rank() == 0 and self.file.exists():
            self.asked = max(self.asked, TERMINATED)
        if world() == 1:
            return self.asked
        asked = torch.tensor([self.asked])
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        return int(asked.item())
