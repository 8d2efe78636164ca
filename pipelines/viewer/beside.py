"""Two runs over the same samples, side by side: which of them differ, in which columns, and how.

Samples are the same where their identities are, whatever shards they lie in. As in find.py a comparison goes on for about a second a
request and remembers how far it is: first where the samples of B lie, then the samples of A one shard after the other.
"""

from __future__ import annotations

import threading
import time
from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.compare import difference
from pipelines.view import read_columns
from pipelines.viewer.find import BUDGET, KEPT, SEARCHED, Place
from pipelines.viewer.snapshot import UNREADABLE, Snapshot

PAGE = 8
MOST = 2_000_000
"""Samples of B whose places are held, 50 bytes each."""
COMPARED = (*SEARCHED, "negatives", "positives")
MOST_COLUMNS = 62


@dataclass
class Column:
    """In how many samples a column is equal, differs, or is there in one run only."""

    same: int = 0
    differs: int = 0
    only_a: int = 0
    only_b: int = 0


@dataclass(frozen=True)
class Shown:
    pairs: list[tuple[Place, Place]]
    total: int
    going: bool
    looked: int
    shards: int
    faults: list[str] = field(default_factory=list)
    full: bool = False

    @property
    def complete(self) -> bool:
        return not self.going


class Beside:
    def __init__(self, a: Snapshot, b: Snapshot) -> None:
        self.a, self.b = a, b
        shared = [
            name for name in a.schema.names if name in b.schema.names and a.schema.field(name).type == b.schema.field(name).type
        ]
        scores = [name for name in shared if name in a.sortable and name in b.sortable]
        self.names = [name for name in shared if name in COMPARED] + [
            n for n in scores if not n.startswith(("image_", "shard_"))
        ]
        self.names = self.names[:MOST_COLUMNS]
        self.columns = {name: Column() for name in self.names}
        self.both = self.only_a = self.differing = 0
        self.faults: list[str] = []
        self._uids: list[pa.Array] = []
        self._of_b: tuple[pa.Array, np.ndarray, np.ndarray] | None = None
        self._indexed = self._looked = 0
        self._places = tuple(array("q") for _ in range(4))
        self._masks = array("q")
        self._lock = threading.Lock()

    @property
    def only_b(self) -> int:
        return self.b.total - self.both

    def page(self, number: int, which: str) -> Shown:
        """which: "" for samples that differ, "all", or a column in which they differ."""
        with self._lock:
            until = time.monotonic() + BUDGET
            while self._work() and time.monotonic() < until:
                pass
            masks = np.array(self._masks, np.int64)
            bit = 1 << self.names.index(which) if which in self.names else -1
            rows = np.arange(len(masks)) if which == "all" else np.flatnonzero(masks & bit)
            chosen = rows[(number - 1) * PAGE : number * PAGE]
            pairs = []
            for row in chosen:
                shard_a, row_a, shard_b, row_b = (int(column[row]) for column in self._places)
                pairs.append((Place(shard_a, -1, row_a), Place(shard_b, -1, row_b)))
            shards = len(self.a.shards) + len(self.b.shards)
            looked = self._indexed + self._looked
            return Shown(pairs, len(rows), looked < shards, looked, shards, self.faults[:5], len(masks) >= KEPT)

    def _work(self) -> bool:
        """One shard more. False when there is none."""
        if self._indexed < len(self.b.shards):
            shard = self.b.shards[self._indexed]
            self._indexed += 1
            try:
                self._uids.append((shard, self._uids_of(self.b, shard)))
            except UNREADABLE as error:
                self.faults.append(f"B, shard {shard}: {error}")
            return True
        if self._of_b is None:
            if sum(len(uids) for _, uids in self._uids) > MOST:
                raise ValueError(f"more than {MOST:,} samples: compare runs of fewer shards")
            uids = pa.concat_arrays([uids for _, uids in self._uids]) if self._uids else pa.array([], pa.string())
            shards = np.concatenate([np.full(len(u), s, np.int64) for s, u in self._uids] or [np.empty(0, np.int64)])
            rows = np.concatenate([np.arange(len(u)) for _, u in self._uids] or [np.empty(0, np.int64)])
            self._of_b, self._uids = (uids, shards, rows), []
        if self._looked == len(self.a.shards):
            return False
        shard = self.a.shards[self._looked]
        self._looked += 1
        try:
            self._compare(shard)
        except UNREADABLE as error:
            self.faults.append(f"A, shard {shard}: {error}")
        return True

    def _uids_of(self, snapshot: Snapshot, shard: int) -> pa.Array:
        view = snapshot.at[shard][0]
        found = (
            read_columns(snapshot.run, view, pa.schema([]))["uid"].combine_chunks() if view.rows else pa.array([], pa.string())
        )
        return pa.concat_arrays(found.chunks) if isinstance(found, pa.ChunkedArray) else found

    def _read(self, snapshot: Snapshot, shard: int) -> pa.Table:
        wanted = pa.schema([snapshot.schema.field(name) for name in self.names])
        return read_columns(snapshot.run, snapshot.at[shard][0], wanted, frozenset(self.names))

    def _compare(self, shard: int) -> None:
        assert self._of_b is not None
        if not self.a.at[shard][0].rows:
            return
        uids, shards, rows = self._of_b
        mine = self._read(self.a, shard)
        at = pc.index_in(mine["uid"].combine_chunks(), value_set=uids)
        there = np.flatnonzero(pc.is_valid(at).to_numpy(zero_copy_only=False))
        self.only_a += mine.num_rows - len(there)
        if not len(there):
            return
        places = at.take(there).to_numpy(zero_copy_only=False).astype(np.int64)
        for other in np.unique(shards[places]):
            here = there[shards[places] == other]
            theirs = places[shards[places] == other]
            self._count(
                shard, int(other), mine.take(here), here, self._read(self.b, int(other)).take(rows[theirs]), rows[theirs]
            )

    def _count(self, shard: int, other: int, mine: pa.Table, here: np.ndarray, theirs: pa.Table, there: np.ndarray) -> None:
        masks = np.zeros(mine.num_rows, np.int64)
        for bit, name in enumerate(self.names):
            column = self.columns[name]
            for i, (a, b) in enumerate(zip(mine[name].to_pylist(), theirs[name].to_pylist(), strict=True)):
                if a == b:
                    column.same += 1
                    continue
                masks[i] |= 1 << bit
                if b in (None, [], ""):
                    column.only_a += 1
                elif a in (None, [], ""):
                    column.only_b += 1
                else:
                    column.differs += 1
        self.both += len(masks)
        self.differing += int(np.count_nonzero(masks))
        room = KEPT - len(self._masks)
        for column_, values in zip(
            self._places, (np.full(len(here), shard), here, np.full(len(there), other), there), strict=True
        ):
            column_.frombytes(np.ascontiguousarray(values[:room], np.int64).tobytes())
        self._masks.frombytes(masks[:room].tobytes())


def told(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """What a page shows of one pair of cards: texts, regions and negatives with their differences, and measures that differ."""
    if "fault" in a or "fault" in b:
        return {"fault": a.get("fault") or b.get("fault")}
    texts = []
    left, right = _texts(a), _texts(b)
    for name in dict.fromkeys([*left, *right]):
        first, second = left.get(name, ""), right.get(name, "")
        texts.append(
            {"name": name, "same": first == second, "a": difference(first, second)[0], "b": difference(first, second)[1]}
        )
    scores = {name: (a["scores"].get(name), b["scores"].get(name)) for name in dict.fromkeys([*a["scores"], *b["scores"]])}
    return {"a": a, "b": b, "texts": texts, "scores": {name: pair for name, pair in scores.items() if pair[0] != pair[1]}}


def _texts(card: dict[str, Any]) -> dict[str, str]:
    """Name → text; several texts of a column, regions and negatives stand line by line."""
    found: dict[str, list[str]] = {}
    for entries in card["texts"].values():
        for entry in entries:
            found.setdefault(entry["by"], []).append(entry["text"])
    for i, region in enumerate(card["regions"], 1):
        found.setdefault("regions", []).append(f"{i}. {region['short']}")
        if region["negatives"]:
            found.setdefault("negatives", []).append(f"{i}. " + " · ".join(n["text"] for n in region["negatives"]))
    return {name: "\n".join(lines) for name, lines in found.items()}
