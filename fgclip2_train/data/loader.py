"""Batches for one rank: sources and languages mixed by weight, made in worker processes, resumable to the exact next batch."""

from __future__ import annotations

import atexit
import gc
import math
import os
import signal
import threading
import time
import traceback
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from fgclip2_train.batch import Batch
from fgclip2_train.data import images
from fgclip2_train.data.buckets import Row, bucket_of, bucket_shares, by_size
from fgclip2_train.data.collate import UNDECODABLE, collate, fill_patches
from fgclip2_train.data.order import Stream, fixed_turn_at, turn_at
from fgclip2_train.data.room import Room
from fgclip2_train.data.samples import Language, TextSettings, choose
from fgclip2_train.data.shards import Raw, find_shards, fingerprint, marks
from fgclip2_train.data.tokens import Texts
from fgclip2_train.memory import keep_memory
from fgclip2_train.strict import Strict, Weight

FIRST, HOPELESS = 200, 10
"""The ceiling holds from so many samples on. One batch may take that many broken pictures, or so many for each of its rows."""


class Source(Strict):
    """Shards with a weight of their own."""

    shards: str | list[str]
    weight: float = Field(default=1.0, gt=0, le=1e12)
    languages: dict[Language, Weight] | None = None
    """Of this source alone, by weight, as a set of one language needs it; null for `data.languages`."""


class DataSettings(Strict):
    """`shards` alone, or several `sources`; languages by weight."""

    shards: str | list[str] | None = None
    sources: dict[str, Source] = Field(default={})
    languages: dict[Language, Weight] = Field(default={"en": 1.0, "zh": 1.0})
    mixing: Literal["sample", "batch", "turns"] = "batch"
    """Draw source and language for every sample, or for every step, one for all ranks. "turns": one for every step in a fixed order,
    {zh: 1, en: 2} being zh, en, en, zh, … (the released stage 1); the number of workers should have no divisor in common with it."""
    texts: TextSettings = TextSettings()
    augment: images.Augment = images.Augment()
    patches: images.Patches | Literal["official", "bucketed"] = "official"
    """Patches per picture: the released rule (from the largest picture of the rank's batch), always this many, or "bucketed":
    pictures of like size share a batch, and all ranks have the same bucket in the same step (data/buckets.py)."""
    bucket_pool: int = Field(default=4, ge=1, le=1024)
    """Bucketed: batches that a worker sorts by size together. It holds that many batches of undecoded pictures."""
    workers: int = Field(default=4, ge=0, le=1024)
    shuffle_block: int = Field(default=1024, ge=1)
    open_shards: int = Field(default=4, ge=1)
    pad_regions_to: int = Field(default=64, ge=1, le=65_536)
    max_bad_share: float = Field(default=0.05, ge=0, le=1)
    """More unreadable samples than this (after the first 200) stop the run."""

    @model_validator(mode="after")
    def _can_be_drawn_from(self) -> DataSettings:
        if self.shards and "shards" in self.sources:
            raise ValueError("data.shards is itself a source by the name of `shards`: give the one in data.sources another")
        weights = self.weights()
        if weights and self.mixing == "turns":
            fixed_turn_at(0, weights)
        return self

    def named(self) -> list[str]:
        return [*self.sources, *(["shards"] if self.shards else [])]

    def weights(self) -> dict[str, float]:
        """Weight of every "source/language". Raises ValueError for a source without a language."""
        return {
            f"{name}/{language}": (self.sources[name].weight if name in self.sources else 1.0) * share / sum(spoken.values())
            for name in self.named()
            for spoken in [self.spoken(name)]
            for language, share in spoken.items()
        }

    def found(self) -> dict[str, tuple[list[str], float]]:
        """Shards and weight of every source, by name."""
        named = {name: (find_shards(source.shards), source.weight) for name, source in self.sources.items()}
        if self.shards:
            named["shards"] = (find_shards(self.shards), 1.0)
        if not named:
            raise ValueError("no training data: set data.shards='DIR/*.tar', or data.sources")
        return named

    def spoken(self, source: str) -> dict[Language, float]:
        """Languages that are drawn from a source, with their weights."""
        own = self.sources[source].languages if source in self.sources else None
        spoken = {language: share for language, share in (self.languages if own is None else own).items() if share > 0}
        if not spoken:
            raise ValueError(f"data.languages: none has a weight above 0 for {source}: set data.languages={{en: 1}}")
        return spoken


class Reader(IterableDataset):
    """What a worker runs. A worker is identified by `turn`: the batches turn, turn + workers, … of its rank.

    `step` counts batches; `parts` of them make one optimizer step and share its language.
    """

    def __init__(
        self,
        settings: DataSettings,
        texts: Texts,
        batch: int,
        *,
        lengths: tuple[int, int],
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        step: int = 0,
        positions: dict[str, Any] | None = None,
        parts: int = 1,
    ):
        self.settings, self.texts, self.batch, self.lengths = settings, texts, batch, lengths
        self.seed, self.rank, self.ranks = seed, rank, ranks
        self.step, self.positions, self.parts = step, positions or {}, parts
        self.sources = settings.found()
        self.varied = settings.augment != images.Augment()
        self.weights = settings.weights()
        self.buckets = bucket_shares(self.sources) if settings.patches == "bucketed" else {}
        self.names = list(self.weights)
        self.shares = np.array(list(self.weights.values())) / sum(self.weights.values())
        self.rooms: list[Room] = []
        self.room: Room | None = None
        self.main = 0

    def furnish(self, workers: int) -> None:
        """Make room for the batches of so many processes, before they start."""
        self.main = os.getpid()
        patches = self.settings.patches if isinstance(self.settings.patches, int) else images.BUCKETS[-1]
        size, places = self.batch * patches * 3 * images.PATCH**2, 2 + math.ceil(self.parts / max(1, workers))
        try:
            # The two batches that a process prefetches, and its share of those that a step is made of.
            self.rooms += [Room(size, places) for _ in range(workers)]
        except (OSError, OverflowError) as error:
            raise ValueError(
                f"no memory for the pictures that {workers} readers keep ready, {places} × {size / 2**30:,.1f} GiB each: a smaller "
                "batch, accumulate=N parts of one, fewer data.workers or a smaller data.patches"
            ) from error

    def order(self) -> dict[str, Any]:
        """What positions count in: with any of it changed they mean other samples."""
        settings = self.settings
        order: dict[str, Any] = {
            "seed": self.seed,
            "data.shuffle_block": settings.shuffle_block,
            "data.open_shards": settings.open_shards,
            **{f"the shards of {name}": fingerprint(shards) for name, (shards, _) in self.sources.items()},
        }
        if self.buckets:
            pool = [settings.bucket_pool, self.batch, settings.mixing, self.weights, self.buckets]
            order["what a pool of batches is drawn from"] = pool
        return order

    def written(self) -> dict[str, str]:
        """By source: what tells whether its shards are the files that they were."""
        return {name: marks(shards) for name, (shards, _) in self.sources.items()}

    def __iter__(self) -> Iterator[Batch | Exception]:
        torch.set_num_threads(1)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        worker = get_worker_info()
        if worker:
            gc.freeze()  # what the main process has made is not looked through again and again
            # They may go to the whole group of processes; the main one still wants batches, and ends the workers itself.
            signal.signal(signal.SIGTERM, _not_yet)
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            threading.Thread(target=_end_with, args=(self.main,), daemon=True).start()
            self.room = self.rooms[worker.id]
            keep_memory()
        workers, index = (worker.num_workers, worker.id) if worker else (1, 0)
        # Batches come from workers 0, 1, … in turn, also after a resume in the middle of a round.
        turn = (self.step + index) % workers
        streams = self._streams(turn, workers)
        steps = range(self.step + index, 2**62, workers)
        batches = self._bucketed(steps, turn, streams) if self.buckets else self._in_order(steps, turn, streams)
        return _handing_over(batches) if worker else batches

    def _in_order(self, steps: range, turn: int, streams: dict[str, Stream]) -> Iterator[Batch]:
        for step in steps:
            rows = [self._take(name, streams) for name in self._drawn(step)]
            bucket = bucket_of([row.raw for row in rows]) if self.settings.patches == "official" else self.settings.patches
            batch, _ = self._batch(rows, cast(int, bucket), streams)
            yield self._noted(batch, turn, {name: stream.position() for name, stream in streams.items()})

    def _bucketed(self, steps: range, turn: int, streams: dict[str, Stream]) -> Iterator[Batch]:
        """Batches of like size: a pool of them is drawn at once, and going on in the middle of one means drawing it again."""
        size, workers = self.settings.bucket_pool, steps.step
        skip = steps.start // workers % size
        for first in range(steps.start - skip * workers, 2**62, size * workers):
            start = {name: stream.position() for name, stream in streams.items()}
            pool = range(first, first + size * workers, workers)
            drawn = {step: [self._take(name, streams) for name in self._drawn(step)] for step in pool}
            sizes = {step: int(turn_at(step, self.buckets, self.seed + 1)) for step in pool}
            sorted_ = by_size(drawn, sizes, apart=self.settings.mixing != "sample")
            replaced: Counter[str] = Counter()
            if skip:
                replaced.update({name: at.get("replaced", 0) for name, at in self._positions(turn).items()})
                for name, count in replaced.items():
                    for _ in range(count):
                        self._take(name, streams)
                for stream in streams.values():
                    stream.counted_before()
            for step in pool[skip:]:
                batch, more = self._batch(sorted_[step], sizes[step], streams)
                replaced.update(more)
                if step == pool[-1]:
                    start, replaced = {name: stream.position() for name, stream in streams.items()}, Counter()
                ends = {name: stream.position()["ends"] for name, stream in streams.items()}
                positions = {name: at | {"replaced": replaced[name], "ends": ends[name]} for name, at in start.items()}
                yield self._noted(batch, turn, positions)
            skip = 0

    def _positions(self, turn: int) -> dict[str, Any]:
        return self.positions.get(str(turn), {})

    def _streams(self, turn: int, workers: int) -> dict[str, Stream]:
        streams = {}
        for number, name in enumerate(self.names):
            source, language = name.rsplit("/", 1)
            streams[name] = Stream(
                self.sources[source][0],
                language,
                seed=self.seed + number,
                consumer=self.rank * workers + turn,
                consumers=self.ranks * workers,
                block=self.settings.shuffle_block,
                open_shards=self.settings.open_shards,
                position=self._positions(turn).get(name),
            )
        return streams

    def _drawn(self, step: int) -> list[str]:
        """The stream of every sample of a batch."""
        if self.settings.mixing == "batch":
            return [turn_at(step // self.parts, self.weights, self.seed)] * self.batch
        if self.settings.mixing == "turns":
            return [fixed_turn_at(step // self.parts, self.weights)] * self.batch
        rng = np.random.default_rng([self.seed, self.rank, step])
        return [self.names[choice] for choice in rng.choice(len(self.names), self.batch, p=self.shares)]

    def _take(self, name: str, streams: dict[str, Stream]) -> Row:
        epoch, raw = next(streams[name])
        return Row(name, epoch, raw)

    def _batch(self, rows: list[Row], bucket: int, streams: dict[str, Stream]) -> tuple[Batch, Counter[str]]:
        """The batch, and how many samples were taken from each stream in place of undecodable ones."""
        counts: Counter[str] = Counter()
        replaced: Counter[str] = Counter()

        def replace(index: int) -> Raw:
            replaced[rows[index].name] += 1
            if replaced.total() > max(FIRST, HOPELESS * len(rows)):  # a set of broken ones would be read for ever
                raise ValueError(
                    f"{replaced.total()} pictures that cannot be decoded, for one batch of {len(rows)}: {dict(counts)}"
                )
            rows[index] = self._take(rows[index].name, streams)
            return rows[index].raw

        def vary(index: int, picture: Image.Image) -> Image.Image:
            if not self.varied:
                return picture
            row = rows[index]
            rng = np.random.default_rng([self.seed, row.epoch, int(row.raw.uid[:15], 16), 1])
            return images.vary(picture, self.settings.augment, rng)

        shape = (len(rows), bucket, 3 * images.PATCH**2)
        taken = self.room.take(shape) if self.room else None
        patches, lent = taken or (torch.empty(shape, dtype=torch.uint8), None)
        grids = fill_patches([row.raw for row in rows], patches, counts, replace, vary)
        chosen = [choose(row.raw, row.name.rsplit("/", 1)[1], self.settings.texts, self.seed, row.epoch) for row in rows]
        pictures = [int(row.raw.record["sha256"][:15], 16) for row in rows]
        slots = self.settings.texts.max_regions
        batch = collate(chosen, pictures, patches, grids, self.texts, self.lengths, slots, self.settings.pad_regions_to)
        read = 0
        for stream in streams.values():
            counts.update(stream.counts)
            read += stream.read
            stream.counts.clear()
            stream.read = 0
        batch.lent = lent
        regions = sum(len(row.raw.record.get("regions", ())) for row in rows)
        batch.info = {"counts": dict(counts), "read": read, "epoch": max(row.epoch for row in rows), "regions": regions}
        return batch, replaced

    def _noted(self, batch: Batch, turn: int, positions: dict[str, Any]) -> Batch:
        batch.info |= {"turn": str(turn), "positions": positions}
        return batch


def _not_yet(number: int, frame: Any) -> None:
    """A signal's first time is let pass; the next one ends the process."""
    signal.signal(number, signal.SIG_DFL)


def _end_with(main: int) -> None:
    """A reader whose main process was killed would wait for ever for somebody to take its last batch: its fellows, which hold the same
    pipe open, wait likewise."""
    while os.getppid() == main:
        time.sleep(1)
    os._exit(1)


def _handing_over(batches: Iterator[Batch]) -> Iterator[Batch | Exception]:
    """Batches, and at last what a person can mend, as it was raised: torch would make a traceback the error's text."""
    try:
        yield from batches
    except (ValueError, OSError) as error:
        error.add_note(traceback.format_exc())
        yield error


def _close(loader: weakref.ref[Loader]) -> None:
    there = loader()
    if there:
        there.close()


class Loader:
    """Iterate for batches; `state()` is the position after the last batch given out, not after those prefetched."""

    def __init__(self, reader: Reader, workers: int, pin: bool = False):
        self.reader, self.step = reader, reader.step
        self.positions: dict[str, Any] = dict(reader.positions)
        self.counts: Counter[str] = Counter()
        self.samples = self.read = 0
        reader.furnish(workers)
        self.loader = DataLoader(
            reader,
            batch_size=None,
            num_workers=workers,
            pin_memory=pin,
            prefetch_factor=2 if workers else None,
            # Forked workers start at once; they touch neither the device nor the process group.
            multiprocessing_context="fork" if workers else None,
        )
        self.batches: Iterator[Batch | Exception] = iter(self.loader)
        # Python would end them by a SIGTERM, of which they let the first one pass, and wait for them for ever.
        atexit.register(_close, weakref.ref(self))

    def __next__(self) -> Batch:
        batch = next(self.batches)
        if isinstance(batch, Exception):
            raise batch
        self.step += 1
        self.positions[batch.info["turn"]] = batch.info["positions"]
        self.counts.update(batch.info["counts"])
        self.samples += len(batch)
        self.read += batch.info["read"]
        self._stop_if_rotten()
        return batch

    def close(self) -> None:
        """End the workers and wait for them; without this they end when the loader is collected."""
        self.batches = iter(())

    def state(self) -> dict[str, Any]:
        counted = {"counts": dict(self.counts), "samples": self.samples, "read": self.read}
        return {"step": self.step, "positions": dict(self.positions), **counted}

    def count_on(self, states: list[dict[str, Any]]) -> None:
        """Add up on what the readers of a run had counted when it was saved: each on its own, the first on all of other ranks'."""
        reader = self.reader
        mine = [states[reader.rank]] if len(states) == reader.ranks else states if reader.rank == 0 else []
        for state in mine:
            self.counts.update(state["counts"])
            self.samples += state["samples"]
            self.read += state.get("read", state["samples"])

    def _stop_if_rotten(self) -> None:
        """Above the ceiling: the share of records that are bad, of all that were read, and that of pictures, of those decoded. They are
        not the same samples: a record is read by every reader that shares its shard, and in every language."""
        pictures = self.counts[UNDECODABLE]
        records = sum(count for reason, count in self.counts.items() if reason.startswith("bad")) - pictures
        share = sum(bad / (bad + good) for bad, good in ((records, self.read), (pictures, self.samples)) if bad + good > FIRST)
        ceiling = self.reader.settings.max_bad_share
        if share > ceiling:
            reasons = ", ".join(f"{reason.removeprefix('bad: ')} {count}" for reason, count in self.counts.most_common(20))
            raise ValueError(
                f"{share:.1%} of the samples are unreadable, above data.max_bad_share={ceiling}: {reasons} "
                f"({self.read} records read, {self.samples} samples given out)"
            )
