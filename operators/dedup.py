"""Duplicates over a whole data set: the same bytes, or nearly the same picture.

Reads    sha256            string, hex, of the picture's bytes; null: not compared by bytes
         phash             uint64, perceptual hash; null: not compared by looks
         width, height     int32, for `keep: largest` only
         `best`            a column of numbers, if one is named
Writes   duplicate_of      string, null (the uid a refused sample repeats is in its Reject)
Refuses  "duplicate"       same SHA-256 as a kept sample
         "near_duplicate"  perceptual hash within `max_distance` bits of a kept sample's

Rule     Samples are taken in order (`keep: first`: as given; `largest`: most pixels first, ties as given; with `best` the highest
         number first, ties as given, null last). Each one is kept
         unless it repeats one that is already kept, and then it is a duplicate of the earliest such. So every duplicate is
         really near the sample it gave way to: A~B~C does not make C a duplicate of A.
Source   near pairs by multi-index hashing with combinations of blocks (Manku et al., "Detecting near-duplicates for web
         crawling", 2007)

This needs the whole data set at once, hence it is a global step: it is called once over the columns of all shards, and
`verdicts` also takes the survivors of earlier waves as `known`. Memory: about 200 bytes per sample besides the columns.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from operators.base import GlobalOperator, Outcome, keep, schema
from operators.best import best_first

VERDICTS = schema(uid=pa.string(), duplicate_of=pa.string(), reason=pa.string(), distance=pa.int8())
BASE_ROWS = 2048
"""Up to here all pairs are compared outright: less work than the tables, and 2048 x 2048 distances are 4 MB."""
CANDIDATES = 1 << 21
"""Candidate pairs looked at in one go (16 bytes each, some copies)."""


class Dedup(GlobalOperator):
    exact: bool = True
    max_distance: int | None = Field(3, ge=0, le=12)
    """Bits of 64 that near-duplicates may differ in; None: only exact ones. Work grows steeply beyond 6."""
    keep: Literal["first", "largest"] = "first"
    best: str | None = Field(
        None, exclude_if=lambda column: column is None
    )  # so that settings from before it are what they were
    """Of several alike the one with the highest number here is kept: `clip_score`, `sharpness` …; None: as `keep` says."""

    version: ClassVar[int] = 1
    in_waves: ClassVar[bool] = True
    reasons: ClassVar[dict[str, str]] = {
        "duplicate": "the same bytes as a kept sample",
        "near_duplicate": "looks like a kept sample",
    }

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.best is not None and self.keep != "first":
            raise ValueError(f"best: {self.best} and keep: {self.keep} are two rules for one choice; leave out `keep`")
        return self

    @property
    def reads(self) -> pa.Schema:
        columns = schema(sha256=pa.string(), phash=pa.uint64(), width=pa.int32(), height=pa.int32())
        used = {"sha256": self.exact, "phash": self.max_distance is not None}
        read = pa.schema([field for field in columns if used.get(field.name, self.keep == "largest")])
        return read if self.best is None else read.append(pa.field(self.best, pa.null()))  # numbers of any type

    @property
    def writes(self) -> pa.Schema:
        return schema(duplicate_of=pa.string())

    def verdicts(self, table: pa.Table, known: pa.Table | None = None) -> pa.Table:
        """One row per row of `table`, in its order: `duplicate_of`, `reason`, `distance` (bits), null where the sample is kept.

        known   kept samples of earlier waves: they come before all of `table`, whatever their size
        """
        own = len(table)
        columns = ["uid", *self.reads.names]
        everything = pa.concat_tables([t.select(columns) for t in (known, table) if t is not None]).combine_chunks()
        old = len(everything) - own
        order = np.arange(len(everything))
        if self.keep == "largest":
            pixels = pc.multiply(everything["width"].cast(pa.int64()), everything["height"].cast(pa.int64()))
            order = best_first(pixels.fill_null(0), old)
        elif self.best is not None:
            order = best_first(everything[self.best], old)
        ranked = everything.take(pa.array(order))
        # From here on a sample is its rank, 0 = first to be kept; `kept_by[r]` is the rank of the sample that r repeats, or r.
        same_bytes = _first_of_equal(ranked["sha256"]) if self.exact else np.arange(len(ranked))
        kept_by = self._near(ranked, same_bytes, old) if self.max_distance is not None else same_bytes
        return self._table(ranked, order, kept_by, same_bytes, old)

    def _near(self, ranked: pa.Table, same_bytes: np.ndarray, old: int) -> np.ndarray:
        assert self.max_distance is not None
        kept_by = same_bytes.copy()
        compared = np.flatnonzero((same_bytes == np.arange(len(ranked))) & ranked["phash"].is_valid().to_numpy())
        hashes = ranked["phash"].fill_null(0).to_numpy()[compared]
        distinct, first = np.unique(hashes, return_index=True)
        # Only distinct hashes are searched, so a million copies of one placeholder picture cost as much as one.
        by_rank = np.argsort(first, kind="stable")
        known = int(np.count_nonzero(compared[first] < old))
        nearest = keep_apart(distinct[by_rank], self.max_distance, known)
        keeper = np.empty(len(distinct), np.int64)
        keeper[by_rank] = compared[first[by_rank][nearest]]
        kept_by[compared] = keeper[np.searchsorted(distinct, hashes)]
        return kept_by[same_bytes] if self.exact else kept_by

    def _table(self, ranked: pa.Table, order: np.ndarray, kept_by: np.ndarray, same_bytes: np.ndarray, old: int) -> pa.Table:
        gone = kept_by != np.arange(len(order))
        exact = gone & self.exact & (same_bytes == same_bytes[kept_by])
        distance = np.zeros(len(order), np.int8)
        if self.max_distance is not None:
            hashes = ranked["phash"].fill_null(0).to_numpy()
            distance = np.where(exact, 0, np.bitwise_count(hashes ^ hashes[kept_by])).astype(np.int8)
        reason = pa.array(np.where(exact, "duplicate", "near_duplicate"), pa.string(), mask=~gone)
        keeper = pc.if_else(pa.array(gone), ranked["uid"].take(pa.array(kept_by)), pa.scalar(None, pa.string()))
        table = pa.table(
            {"uid": ranked["uid"], "duplicate_of": keeper, "reason": reason, "distance": pa.array(distance, mask=~gone)},
            schema=VERDICTS,
        )
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return table.take(pa.array(back[old:]))

    def outcome(self, verdicts: pa.Table) -> Outcome:
        """Verdicts (or one shard's slice of them) as survivors and rejects."""
        keeper, reason = verdicts["duplicate_of"], verdicts["reason"]
        gone = keeper.is_valid().to_numpy()

        def detail(row: int) -> str:
            bits = verdicts["distance"][row].as_py()
            return f"of {keeper[row]}" + (f", {bits} of 64 bits differ" if reason[row].as_py() == "near_duplicate" else "")

        refused: dict[str, Any] = {
            name: (gone & pc.equal(reason, name).fill_null(False).to_numpy(), detail) for name in self.reasons
        }
        return keep(verdicts, {"duplicate_of": keeper}, unless=refused)

    def __call__(self, samples: pa.Table, known: pa.Table | None = None) -> Outcome:
        return self.outcome(self.verdicts(samples, known))


def _first_of_equal(values: pa.ChunkedArray) -> np.ndarray:
    """int64 [N]: index of the first row with the same value; a null is equal to nothing."""
    rows = np.arange(len(values))
    codes = pc.fill_null(values.combine_chunks().dictionary_encode().indices, -1).to_numpy().astype(np.int64)
    present = codes >= 0
    first = np.full(codes.max(initial=-1) + 1, len(rows))
    np.minimum.at(first, codes[present], rows[present])
    result = rows.copy()
    result[present] = first[codes[present]]
    return result


def keep_apart(hashes: np.ndarray, distance: int, known: int = 0) -> np.ndarray:
    """Greedy choice of hashes that differ in more than `distance` bits, in the order given.

    hashes   uint64 [N], distinct; the first `known` are kept whatever they are
    Returns  int64 [N]: own index where kept, else the index of the first kept hash within `distance`
    """
    found = np.arange(len(hashes))
    if distance == 0:
        return found
    _solve(hashes, distance, np.arange(known, len(hashes)), found, np.arange(known))
    return found


def _solve(hashes: np.ndarray, distance: int, rows: np.ndarray, found: np.ndarray, kept: np.ndarray) -> None:
    """Settle `rows` against `kept` (all of which come earlier) and among themselves, by halves.

    The earlier half is settled first, then the later one is compared with what was kept of it. Every comparison is between
    settled samples and unsettled ones, so no pair list has to be remembered, however many pairs there are.
    """
    if len(kept) and len(rows):
        hit = _first_within(hashes[kept], hashes[rows], distance)
        found[rows[hit >= 0]] = kept[hit[hit >= 0]]
        rows = rows[hit < 0]
    if len(rows) > BASE_ROWS:
        middle = len(rows) // 2
        early, late = rows[:middle], rows[middle:]
        nothing = np.zeros(0, np.int64)
        _solve(hashes, distance, early, found, nothing)
        _solve(hashes, distance, late, found, early[found[early] == early])
        return
    close = np.bitwise_count(hashes[rows, None] ^ hashes[None, rows]) <= distance
    late_rows, early_rows = np.nonzero(np.tril(close, -1))
    for late_row, early_row in zip(rows[late_rows].tolist(), rows[early_rows].tolist(), strict=True):
        # Sorted by the later row, then the earlier one: the first kept one that is found is the earliest.
        if found[late_row] == late_row and found[early_row] == early_row:
            found[late_row] = early_row


def _first_within(kept: np.ndarray, queries: np.ndarray, distance: int) -> np.ndarray:
    """int64 [Q]: for each query the lowest index into `kept` within `distance` bits, or -1."""
    best = np.full(len(queries), len(kept))
    if len(kept) * len(queries) <= BASE_ROWS * BASE_ROWS:
        near = np.bitwise_count(queries[:, None] ^ kept[None, :]) <= distance
        return np.where(near.any(axis=1), near.argmax(axis=1), -1)
    for mask in _masks(distance, len(kept), len(queries)):
        keys = kept & mask
        table = np.argsort(keys)
        keys = keys[table]
        wanted = queries & mask
        order = np.argsort(wanted)  # neighbours in the table are then neighbours in the search
        left = np.searchsorted(keys, wanted[order], "left")
        count = np.searchsorted(keys, wanted[order], "right") - left
        for part in _parts(count):
            query = np.repeat(order[part], count[part])
            ends = np.cumsum(count[part])
            slot = np.arange(len(query)) - np.repeat(ends - count[part], count[part]) + np.repeat(left[part], count[part])
            candidate = table[slot]
            near = np.bitwise_count(queries[query] ^ kept[candidate]) <= distance
            np.minimum.at(best, query[near], candidate[near])
    return np.where(best < len(kept), best, -1)


def _parts(count: np.ndarray) -> Iterator[slice]:
    """Ranges of rows whose counts add up to about CANDIDATES (one row's may exceed it)."""
    total = np.cumsum(count)
    start = 0
    while start < len(count):
        before = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, before + CANDIDATES, "right")))
        if total[stop - 1] > before:
            yield slice(start, stop)
        start = stop


def _masks(distance: int, kept: int, queries: int) -> list[np.uint64]:
    """Bit masks such that two hashes within `distance` agree on at least one of them.

    64 bits in `distance` + r blocks: differences touch at most `distance` of them, so some r blocks agree. A larger r means
    longer keys, thus fewer candidates, but more tables; the r with the least work for these sizes is taken.
    """

    def work(r: int) -> float:
        tables = math.comb(distance + r, r)
        sorting = 40.0 * (kept + queries)  # in units of one candidate
        return tables * (sorting + kept * queries / 2 ** (64 * r / (distance + r)))

    r = min(range(1, 7), key=work)
    edges = [round(64 * block / (distance + r)) for block in range(distance + r + 1)]
    blocks = [((1 << high) - 1) ^ ((1 << low) - 1) for low, high in itertools.pairwise(edges)]
    return [np.uint64(sum(chosen)) for chosen in itertools.combinations(blocks, r)]
