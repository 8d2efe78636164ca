"""The order in which one consumer sees the samples of one source in one language: endless, seeded, resumable to the sample.

A consumer is one worker process of one rank. Per epoch the shards are shuffled by the seed and dealt out. A consumer keeps a few of
its shards open, takes samples from them in turn until a block is full, and gives the block out in random order. So a position is a
few numbers (which shards are open and how far each is read at the block's start, how many samples of the block are given out), and
going on from it means reading one block again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from fgclip2_train.data.shards import UNSOUND, Raw, read_shard, sound

START: dict[str, Any] = {"epoch": 0, "block": 0, "opened": 0, "slots": [], "taken": 0}
"""The position before the first sample."""


class Stream:
    """Iterate to get (epoch, sample) for ever; `position()` after any sample says where to go on.

    When there are fewer shards than consumers, every consumer reads all shards and takes its share of the samples, by uid.

    A consumer's shards of one epoch may hold nothing for it, where languages lie in shards of their own or shards are bad. It then
    goes on to the next epoch, and gives up once every shard was in vain.
    """

    def __init__(
        self,
        shards: list[str],
        language: str,
        *,
        seed: int,
        consumer: int = 0,
        consumers: int = 1,
        block: int = 1024,
        open_shards: int = 4,
        position: dict[str, Any] | None = None,
    ):
        self.shards, self.language, self.seed = shards, language, seed
        self.consumer, self.consumers = consumer, consumers
        self.block, self.open_shards = block, open_shards
        self.counts: Counter[str] = Counter()
        self.read = 0  # sound records, whatever their language and whoever takes them
        self.at = position or dict(START)
        self._vain: set[str] = set()
        self._samples = self._run()

    def __next__(self) -> tuple[int, Raw]:
        return next(self._samples)

    def position(self) -> dict[str, Any]:
        return {**self.at, "slots": list(self.at["slots"])}

    def counted_before(self) -> None:
        """What was read to go on from a position was counted when it was read first."""
        self.counts.clear()
        self.read = 0

    def _run(self) -> Iterator[tuple[int, Raw]]:
        while True:
            block, after = self._read_block()
            if self.at["taken"]:
                self.counted_before()
            if not block:
                if self.at["block"] == 0:
                    self._vain.update(self._deal(self.at["epoch"]))
                    self._stop_if_all_in_vain()
                self.at = self._next_epoch()
                continue
            rng = np.random.default_rng([self.seed, self.at["epoch"], self.consumer, self.at["block"]])
            order = rng.permutation(len(block))
            for index in order[self.at["taken"] :]:
                self.at = {**self.at, "taken": self.at["taken"] + 1}
                yield self.at["epoch"], block[index]
            self.at = after

    def _read_block(self) -> tuple[list[Raw], dict[str, Any]]:
        """The samples of the block that starts at `self.at`, and the position of the next one."""
        mine = self._deal(self.at["epoch"])
        opened = self.at["opened"]
        slots = [(index, self._open(mine[index], place), place) for index, place in self.at["slots"]]
        block: list[Raw] = []
        while len(block) < self.block:
            while len(slots) < self.open_shards and opened < len(mine):
                slots.append((opened, self._open(mine[opened], 0), 0))
                opened += 1
            if not slots:
                break
            remaining = []
            for index, samples, place in slots:
                sample = next(samples, None) if len(block) < self.block else None
                if sample is not None:
                    block.append(sample)
                    remaining.append((index, samples, sample.place + 1))
                elif len(block) >= self.block:
                    remaining.append((index, samples, place))
            slots = remaining
        after = {
            "epoch": self.at["epoch"],
            "block": self.at["block"] + 1,
            "opened": opened,
            "slots": [(index, place) for index, _, place in slots],
            "taken": 0,
        }
        return block, after if slots or opened < len(mine) else self._next_epoch()

    def _next_epoch(self) -> dict[str, Any]:
        return {**START, "epoch": self.at["epoch"] + 1}

    def _stop_if_all_in_vain(self) -> None:
        if not self._vain.issuperset(self.shards):
            return
        share = f" for reader {self.consumer + 1} of {self.consumers}" if self._by_sample else ""
        seen = f": {dict(self.counts)}" if self.counts else ""
        raise ValueError(
            f"no readable sample with a text in {self.language!r} in {len(self.shards)} shards{share}{seen}. A language that the "
            "shards do not hold is left out by data.languages (data.sources.NAME.languages for one source)"
            + ("; fewer data.workers share few samples out better" if share else "")
        )

    def _deal(self, epoch: int) -> list[str]:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.shards))
        shuffled = [self.shards[index] for index in order]
        return shuffled if self._by_sample else shuffled[self.consumer :: self.consumers]

    @property
    def _by_sample(self) -> bool:
        return len(self.shards) < self.consumers

    def _open(self, path: str, start: int) -> Iterator[Raw]:
        if path in self._vain:
            return iter(())
        return read_shard(path, self.counts, self._wanted, start)

    def _wanted(self, place: int, record: dict[str, Any]) -> bool:
        if not sound(record):
            self.counts[UNSOUND] += 1
            return False
        self.read += 1
        if self._by_sample and int(record["uid"][:12], 16) % self.consumers != self.consumer:
            return False
        return any(text["language"] == self.language for text in record["texts"])


def cycle(weights: dict[str, float], longest: int = 60) -> list[str]:
    """Names in proportion to their weights, each as often as it is due: {en: 2, zh: 1} gives en, en, zh.

    The shortest exact cycle up to `longest` entries; beyond that proportions are rounded, with no name left out.
    """
    total = sum(weights.values())
    shares = {name: weight / total for name, weight in weights.items() if weight > 0}
    exact = (n for n in range(1, longest + 1) if all(abs(n * s - round(n * s)) < 1e-9 for s in shares.values()))
    length = next(exact, longest)
    return [name for name, share in shares.items() for _ in range(max(1, round(length * share)))]


def turn_at(step: int, names: list[str], seed: int) -> str:
    """Whose turn it is at a step: every cycle in a random order of its own, the same on all ranks.

    A fixed order would fall into step with the workers: of two workers and two languages, each would only ever see one.
    """
    round_, place = divmod(step, len(names))
    return names[np.random.default_rng([seed, round_]).permutation(len(names))[place]]
