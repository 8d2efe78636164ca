"""Keeps the book filled from the run while the pages are open, also from one that is still being written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from pipelines.config import ConfigError
from pipelines.review.book import Book, BookError
from pipelines.review.items import Asked, doubtful_in
from pipelines.viewer.snapshot import UNREADABLE, NotThere, Run, Snapshot
from pipelines.withheld import taken_down

PAUSE = 10.0
"""Seconds between two looks at the run."""
FAULTS = 20


class Filler:
    """faults: what could not be read in the last round, by stage and shard."""

    def __init__(self, run: Run, book: Book, asked: list[Asked], say: Callable[[str], None] = lambda _: None) -> None:
        self.run, self.book, self.asked, self.say = run, book, asked, say
        self.faults: list[str] = []
        self._done: tuple[int, int] = (0, 0)
        self._whole = False
        self._seen: str | None = None
        self._told: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="filler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def state(self) -> dict[str, Any]:
        """Shards gone through, of how many, and whether a round was ended."""
        return {"done": self._done[0], "shards": self._done[1], "whole": self._whole}

    def _work(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self.round()
            self._stop.wait(max(PAUSE, 5 * (time.monotonic() - began)))

    def round(self) -> None:
        """Take in what came since, and let go what was taken down."""
        faults: list[str] = []
        try:
            self._through(self.run.snapshot(), faults)
        except (NotThere, ConfigError, BookError, *UNREADABLE) as error:
            faults.append(str(error))
        self.faults, self._whole = faults[:FAULTS], True
        for fault in faults:
            if fault not in self._told:
                self._told.add(fault)
                self.say(f"cannot be read: {fault}")

    def _through(self, snapshot: Snapshot, faults: list[str]) -> None:
        self.book.forget([uid for uids in taken_down(snapshot.run).values() for uid in uids])
        if snapshot.stamp == self._seen:
            return
        faults += [
            f"stage {name}: the run's results of it were made with another recipe, prompt, setting or version, and are not asked "
            "about; give the KEY=VALUE that the run was given"
            for name in (asked.stage.name for asked in self.asked)
            if name in snapshot.other
        ]
        stamps, total = self.book.stamps(), len(snapshot.shards)
        for number, shard in enumerate(snapshot.shards):
            if self._stop.is_set():
                return
            for asked in self.asked:
                try:
                    found = doubtful_in(snapshot, asked, shard)
                    if found is not None and stamps.get((asked.stage.name, shard)) != found[0]:
                        self.book.fill(asked.stage.name, shard, found[0], list(found[1]))
                except (ConfigError, *UNREADABLE) as error:
                    faults.append(f"stage {asked.stage.name}, shard {shard}: {error}")
            self._done = (number + 1, total)
        self._seen = None if faults else snapshot.stamp
