"""Finding samples or refusals: a question is answered shard by shard, so that a page needs neither the whole run nor its memory.

A `Selection` remembers how far it has looked and the places found, up to `KEPT` of them at 20 bytes each. Every request lets it go on
for about a second; what it found by then is shown, with how far it came. In the order of the run, a page is full after few shards;
sorted or drawn at random among what a filter keeps, the order is final once all shards were looked at.
"""

from __future__ import annotations

import random
import threading
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.expressions import Expression
from pipelines.durable import read_table
from pipelines.view import read_columns
from pipelines.viewer.snapshot import UNREADABLE, Snapshot

PAGE = 24
KEPT = 100_000
"""Places that one selection remembers; whoever needs more narrows the filter."""
SAMPLE = 10_000
"""Samples drawn at random when nothing is filtered."""
BUDGET = 1.0
"""Seconds that one request looks on."""
WRITTEN = ("long_caption_en", "long_caption_zh", "translation_zh")
SEARCHED = ("captions", "long_captions", *WRITTEN, *(f"{name}_human" for name in WRITTEN), "regions", "source_regions")
SURVIVOR = -1


class Question(NamedTuple):
    """where: an expression over columns; q: words that must all occur in a sample's texts; seed: in random order."""

    where: str = ""
    q: str = ""
    sort: str = ""
    descending: bool = True
    seed: int | None = None
    rejects: bool = False
    stage: str = ""
    reason: str = ""


class Place(NamedTuple):
    """shard, position of the refusing stage among the shard's entries (SURVIVOR: none), row of the file."""

    shard: int
    stage: int
    row: int


@dataclass(frozen=True)
class Found:
    places: list[Place]
    total: int
    looked: int  # shards
    shards: int
    faults: list[str]
    full: bool  # more than KEPT were found
    going: bool  # the page is not final yet: asked again, more is looked at

    @property
    def complete(self) -> bool:
        return self.looked == self.shards


class Selection:
    def __init__(self, snapshot: Snapshot, question: Question) -> None:
        """ValueError for an expression or sort column that makes no sense."""
        self.snapshot, self.question = snapshot, question
        self.expression = Expression(question.where) if question.where.strip() else None
        if self.expression is not None:
            self.expression.check(snapshot.schema)
        if question.sort and question.sort not in snapshot.sortable:
            raise ValueError(f"cannot sort by {question.sort!r}; columns of numbers here: {', '.join(snapshot.sortable)}")
        self.words = _plain(question.q).split()
        self.shards = snapshot.shards
        self.faults: list[str] = []
        self.looked, self.full = 0, False
        self._places = array("q"), array("h"), array("q")
        self._keys = array("d")
        self._order: np.ndarray | None = None
        self._ends: np.ndarray | None = None
        self._lock = threading.Lock()
        if not (question.rejects or self.expression or self.words or question.sort):
            self._ends = np.cumsum([0, *(snapshot.rows[shard] for shard in self.shards)])[1 if self.shards else 0 :]
            self.looked = len(self.shards)

    @property
    def ordered(self) -> bool:
        return bool(self.question.sort) or self.question.seed is not None

    def page(self, number: int) -> Found:
        """The page's places, counted from 1, after looking on for a while if need be."""
        if self._ends is not None:
            return self._found(self._counted(range((number - 1) * PAGE, number * PAGE)), int(self._ends[-1]))
        with self._lock:
            until, wanted = time.monotonic() + BUDGET, number * PAGE + 1
            while self.looked < len(self.shards) and not self.full and (self.ordered or len(self._keys) < wanted):
                self._look(self.shards[self.looked])
                self.looked += 1
                if time.monotonic() > until:
                    break
            rows = self._ranked()[(number - 1) * PAGE : number * PAGE]
            places = [Place(*(int(column[row]) for column in self._places)) for row in rows]
            return self._found(places, len(self._keys))

    def _found(self, places: list[Place], total: int) -> Found:
        going = self.looked < len(self.shards) and not self.full and (self.ordered or len(places) < PAGE)
        return Found(places, total, self.looked, len(self.shards), self.faults[:5], self.full, going)

    def _counted(self, numbers: range) -> list[Place]:
        """Nothing is asked of the samples: where they lie follows from the counts of the shards."""
        assert self._ends is not None
        total = int(self._ends[-1])
        if self.question.seed is None:
            chosen: Sequence[int] = range(min(numbers.start, total), min(numbers.stop, total))
        else:
            chosen = random.Random(self.question.seed).sample(range(total), min(total, SAMPLE))[numbers.start : numbers.stop]
        at = np.searchsorted(self._ends, np.asarray(chosen, np.int64), side="right")
        starts = np.concatenate([[0], self._ends])
        return [Place(self.shards[i], SURVIVOR, int(number - starts[i])) for i, number in zip(at, chosen, strict=True)]

    def _add(self, shard: int, stage: int, rows: np.ndarray, keys: np.ndarray) -> None:
        room = KEPT - len(self._keys)
        self.full = self.full or len(rows) > room
        rows, keys = rows[:room], keys[:room]
        self._places[0].frombytes(np.full(len(rows), shard, np.int64).tobytes())
        self._places[1].frombytes(np.full(len(rows), stage, np.int16).tobytes())
        self._places[2].frombytes(np.ascontiguousarray(rows, np.int64).tobytes())
        self._keys.frombytes(np.ascontiguousarray(keys, np.float64).tobytes())
        self._order = None

    def _ranked(self) -> np.ndarray:
        if self._order is None or len(self._order) != len(self._keys):
            keys = np.array(self._keys)
            down = self.question.sort and self.question.descending
            self._order = np.argsort(-keys if down else keys, kind="stable")  # what has no value comes last
        return self._order

    def _look(self, shard: int) -> None:
        try:
            if self.question.rejects:
                self._refusals(shard)
            else:
                self._survivors(shard)
        except UNREADABLE as error:
            self.faults.append(f"shard {shard} cannot be read: {error}")

    def _keys_of(self, shard: int, stage: int, rows: np.ndarray, table: pa.Table | None) -> np.ndarray:
        if self.question.sort and table is not None:
            column = pc.cast(table[self.question.sort], pa.float64(), safe=False)
            return column.to_numpy(zero_copy_only=False)[rows].astype(np.float64)
        if self.question.seed is not None:
            draw = np.random.default_rng([self.question.seed & (2**63 - 1), shard, stage + 1])
            return draw.random(int(rows.max()) + 1 if len(rows) else 0)[rows]
        return np.arange(len(self._keys), len(self._keys) + len(rows))

    def _survivors(self, shard: int) -> None:
        view, _ = self.snapshot.at[shard]
        if not view.rows:
            return
        names = set(self.expression.columns if self.expression else ())
        names |= {self.question.sort} - {""} | ({*SEARCHED, "url"} if self.words else set())
        wanted = pa.schema([column for column in self.snapshot.schema if column.name in names - {"uid"}])
        table = read_columns(self.snapshot.run, view, wanted, frozenset(wanted.names))
        keep = np.ones(table.num_rows, bool)
        if self.expression is not None:
            keep &= pc.fill_null(self.expression.evaluate(table), False).to_numpy(zero_copy_only=False)
        for word in self.words:
            keep &= _occurs(table, word)
        rows = np.flatnonzero(keep)
        self._add(shard, SURVIVOR, rows, self._keys_of(shard, SURVIVOR, rows, table))

    def _refusals(self, shard: int) -> None:
        stage, reason = self.question.stage, self.question.reason
        for position, entry in enumerate(self.snapshot.at.entries(shard)):
            known = {**entry.rejects, **entry.parts}
            if stage not in ("", entry.stage) or not known or (reason and reason not in known):
                continue
            table = read_table(self.snapshot.run / entry.files["rejects"].path, columns=["uid", "reason", "detail"])
            keep = np.ones(table.num_rows, bool)
            if reason:
                keep &= pc.fill_null(pc.equal(table["reason"], reason), False).to_numpy(zero_copy_only=False)
            taken = self.snapshot.taken(shard)
            if taken:
                keep &= ~pc.is_in(table["uid"], value_set=pa.array(sorted(taken))).to_numpy(zero_copy_only=False)
            for word in self.words:
                keep &= _matches(table["detail"], word) | _starts(table["uid"], word)
            rows = np.flatnonzero(keep)
            self._add(shard, position, rows, self._keys_of(shard, position, rows, None))


def _plain(text: str) -> str:
    """As texts are compared: without width forms and letter case."""
    return pc.utf8_lower(pc.utf8_normalize(pa.scalar(text), "NFKC")).as_py()


def _matches(texts: Any, word: str) -> np.ndarray:
    found = pc.match_substring(pc.utf8_lower(pc.utf8_normalize(texts, "NFKC")), word)
    return pc.fill_null(found, False).to_numpy(zero_copy_only=False)


def _starts(texts: Any, word: str) -> np.ndarray:
    return pc.fill_null(pc.starts_with(texts, word), False).to_numpy(zero_copy_only=False)


def _occurs(table: pa.Table, word: str) -> np.ndarray:
    """Rows in whose texts, expressions, address or identity the word occurs."""
    found = _starts(table["uid"], word)
    for name in table.column_names:
        if name not in (*SEARCHED, "url"):
            continue
        column = table[name].combine_chunks()
        if pa.types.is_string(column.type):
            found |= _matches(column, word)
        elif pa.types.is_list(column.type):
            parents, values = pc.list_parent_indices(column), pc.list_flatten(column)
            fields = [values] if pa.types.is_string(values.type) else [pc.struct_field(values, f) for f in _text_fields(values)]
            if fields:
                hit = reduce(np.logical_or, (_matches(texts, word) for texts in fields))
                found[parents.to_numpy(zero_copy_only=False)[hit]] = True
    return found


def _text_fields(values: pa.Array) -> list[str]:
    return [field.name for field in values.type if field.name in ("short", "long", "text")]
