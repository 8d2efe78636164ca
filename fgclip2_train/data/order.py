"""The order in which one consumer sees the samples of one source in one language: endless, seeded, resumable to the sample.

A consumer is one worker process of one rank. Per epoch the shards are shuffled by the seed and dealt out. A consumer keeps a few of
its shards open, takes samples from them in turn until a block is full, and gives the block out in random order. So a position is a
few numbers (which shards are open and how far each is read at the block's start, how many samples of the block are given out), and
going on from it means reading one block again. A shard that could not be read to its end ends there again, even if it can be read by
then: which those were is part of the position.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

import numpy as np

from fgclip2_train.data.shards import UNSOUND, Raw, read_shard, sound, unreadable

START: dict[str, Any] = {"epoch": 0, "block": 0, "opened": 0, "slots": [], "taken": 0, "ends": []}
"""The position before the first sample."""


class Stream:
    """Iterate to get (epoch, sample) for ever; `position()` after any sample says where to go on.

    When there are fewer shards than consumers, every consumer reads all shards and takes its share of the samples, by uid.

    A consumer's shards of one epoch may hold nothing for it, where languages lie in shards of their own or shards are bad. It then
    goes on to the next epoch, and gives up once every shard was in vain. A shard that cannot be read is a hole like any other.
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
        self.at = {**START, **(position or {})}
        self._held: dict[tuple[int, int, int], Iterator[Raw]] = {}  # open shards by epoch, number and place, between two blocks
        self._vain: set[str] = set()
        self._unreadable: set[str] = set()  # since the last sample; each is tried again in the next epoch
        self._samples = self._run()

    def __next__(self) -> tuple[int, Raw]:
        return next(self._samples)

    def position(self) -> dict[str, Any]:
        return {**self.at, "slots": list(self.at["slots"]), "ends": list(self.at["ends"])}

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
                    self._vain.update(set(self._deal(self.at["epoch"])) - self._unreadable)
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
        ends = {index: place for epoch, index, place in self.at["ends"] if epoch == self.at["epoch"]}
        slots = []
        for index, place in self.at["slots"]:
            held = self._held.pop((self.at["epoch"], index, place), None)
            slots.append((index, held or self._open(mine[index], place, ends.get(index)), place))
        block: list[Raw] = []
        while len(block) < self.block:
            while len(slots) < self.open_shards and opened < len(mine):
                slots.append((opened, self._open(mine[opened], 0, ends.get(opened)), 0))
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
                elif index not in ends and unreadable(mine[index], self.counts):
                    ends[index] = place
                    self.at = {**self.at, "ends": [*self.at["ends"], (self.at["epoch"], index, place)]}
                    self._unreadable.add(mine[index])
            slots = remaining
        self._held = {(self.at["epoch"], index, place): samples for index, samples, place in slots}
        if block:
            self._unreadable.clear()
        after = {
            "epoch": self.at["epoch"],
            "block": self.at["block"] + 1,
            "opened": opened,
            "slots": [(index, place) for index, _, place in slots],
            "taken": 0,
            "ends": self.at["ends"],
        }
        return block, after if slots or opened < len(mine) else self._next_epoch()

    def _next_epoch(self) -> dict[str, Any]:
        last = [end for end in self.at["ends"] if end[0] == self.at["epoch"]]
        return {**START, "epoch": self.at["epoch"] + 1, "ends": last}

    def _stop_if_all_in_vain(self) -> None:
        if not (self._vain | self._unreadable).issuperset(self.shards):
            return
        if not self._vain:
            reasons = ", ".join(reason.removeprefix("bad: ") for reason in list(self.counts)[:3])
            raise ValueError(f"none of {len(self.shards)} shards can be read: {reasons}")
        share = f" for reader {self.consumer + 1} of {self.consumers}" if self._by_sample else ""
        seen = f": {dict(self.counts.most_common(20))}" if self.counts else ""
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

    def _open(self, path: str, start: int, end: int | None) -> Iterator[Raw]:
        if path in self._vain or (end is not None and end <= start):
            return iter(())
        samples = read_shard(path, self.counts, self._wanted, start, holes=True)
        return samples if end is None else takewhile(lambda sample: sample.place < end, samples)

    def _wanted(self, place: int, record: dict[str, Any]) -> bool:
        if not sound(record):
            self.counts[UNSOUND] += 1
            return False
        self.read += 1
        if self._by_sample and int(record["uid"][:12], 16) % self.consumers != self.consumer:
            return False
        return any(text["language"] == self.language for text in record["texts"])


LONGEST = 60
"""Turns of a round, at most."""


def turn_at(step: int, weights: dict[str, float], seed: int) -> str:
    """Whose turn it is at a step, the same on all ranks: names in proportion to their weights, in rounds of a random order each.

    A fixed order would fall into step with the workers: of two workers and two languages, each would only ever see one.

    A round is the shortest in which every name has a whole number of turns. Where there is none of up to 60, a round has 60, and a name
    one turn more or less by chance, so that over many rounds it has its exact share, however small.
    """
    shares = np.array(list(weights.values())) / sum(weights.values())
    length = _round(shares) or LONGEST
    round_, place = divmod(step, length)
    rng = np.random.default_rng([seed, round_])
    # The points of a round lie evenly, shifted together by chance.
    point = (rng.permutation(length)[place] + rng.random()) / length
    chosen = np.searchsorted(shares.cumsum(), point, side="right")
    return list(weights)[min(int(chosen), len(weights) - 1)]


def fixed_turn_at(step: int, weights: dict[str, float]) -> str:
    """The same in a fixed order: {zh: 1, en: 2} gives zh, en, en, zh, …"""
    shares = np.array(list(weights.values())) / sum(weights.values())
    length = _round(shares)
    if not length:
        raise ValueError(
            f"data.mixing=turns: {weights} make no round of at most {LONGEST} whole turns; data.mixing=batch draws them"
        )
    return list(weights)[int(np.searchsorted(shares.cumsum(), (step % length + 0.5) / length))]


def _round(shares: np.ndarray) -> int | None:
    """The shortest exact round."""
    lengths = np.arange(1, LONGEST + 1)[:, None]
    exact = (np.abs(lengths * shares - np.round(lengths * shares)) < 1e-9).all(axis=1)
    return int(exact.argmax()) + 1 if exact.any() else None
