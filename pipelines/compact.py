"""Compacted entries: many small ledger entries as a few columnar files, so that planning reads files by the dozen, not by the million.

    ledger/@compacted/<number>.json                 generations: which segments hold, stage by stage; never changed, never removed
    ledger/@compacted/<stage>.<id>.parquet          segments: whole entries, sorted by shard

A generation is published by create-if-absent under the next number, and only then are the small files that it took up removed. So
whoever does not find a small file looks whether there is a next generation, by its name and without listing; if there is, he looks
again in that one. An entry is thereby seen at every instant, by exactly one of the two ways, whoever is killed wherever.

A late writer may publish a small file under a name that was taken up and removed: what is compacted holds, and he adopts it
(`Ledger.publish`). Two compactions at once are harmless: the second to publish begins again with the first's generation.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.counted import counted
from pipelines.durable import (
    PARQUET,
    Damaged,
    as_written,
    canonical_json,
    create_if_absent,
    files,
    many,
    more_than,
    open_table,
    sealed,
    unsealed,
    write_new,
)
from pipelines.stores import Place

if TYPE_CHECKING:
    from pipelines.ledger import Entry, Ledger

log = logging.getLogger(__name__)

FOLDER = "@compacted"
"""Below `ledger/`; no stage can have this name."""
HEX = 32
"""Digits of a content hash and of a fingerprint."""
ROW_GROUP = 2_000
PIECE = 10 * ROW_GROUP
"""Rows that are read at a time where all are."""
HELD = 2
"""Segments of a store that are held open by a stage: what is open is mostly in memory there."""
BATCH = 50_000
"""Entries in memory at a time while compacting."""
WORTH, WORTH_STORE = 5_000, 200
"""Loose entries of a stage from which a run compacts by itself: in a folder, and on a store, where each costs whoever plans a request,
and the client's work of one: some 2 ms."""
EVERY = 60.0
"""Seconds between two looks of a run."""
MERGE_AT = 4
"""Segments of a stage that are of one size, by the power of this number, are joined when there are so many of them. An entry is thereby
written again at most log₄ n times over a run of n; what is left is a few segments of every size."""

SEGMENT = pa.schema(
    {
        "shard": pa.int64(),
        "fingerprint": pa.string(),
        "attempt": pa.string(),
        "rows_in": pa.int64(),
        "rows_out": pa.int64(),
        "uids": pa.string(),
        "names": pa.string(),  # columns written, as a JSON list; their content hashes stand joined in `hashes`
        "hashes": pa.string(),
        "files": pa.string(),
        "rejects": pa.string(),
        "parts": pa.string(),
        "usage": pa.string(),
        "seconds": pa.float64(),
        "inputs": pa.string(),
        "made_by": pa.string(),
        "bytes": pa.int64(),  # sums over `files`, for the bill
        "picture_bytes": pa.int64(),
    }
)
SUMS = ("bytes", "picture_bytes")
JSON = ("files", "rejects", "parts", "usage", "inputs", "made_by")
KEYS = ["shard", "fingerprint"]
PLANNING = [*KEYS, "rows_in", "rows_out", "uids", "names", "hashes"]
COSTS = ["rows_in", "rows_out", "seconds", "usage", *SUMS]


def _json(value: Any) -> str:
    return canonical_json(value).decode()


def to_row(entry: Entry) -> dict[str, Any]:
    """An entry as a row of a segment; `from_row` gives the same entry back."""
    if any(len(content) != HEX for content in (*entry.columns.values(), entry.uids, entry.fingerprint)):
        raise ValueError(f"stage {entry.stage}, shard {entry.shard}: the entry's hashes do not have {HEX} digits")
    row: dict[str, Any] = {
        name: getattr(entry, name) for name in SEGMENT.names if name not in ("names", "hashes", *JSON, *SUMS)
    }
    row.update({name: _json(getattr(entry, name)) for name in JSON if name != "files"})
    row["files"] = _json({role: [file.path, file.bytes, file.sha256] for role, file in entry.files.items()})
    row["bytes"] = sum(file.bytes for file in entry.files.values())
    row["picture_bytes"] = entry.files["images"].bytes if "images" in entry.files else 0
    row["names"], row["hashes"] = _json(list(entry.columns)), "".join(entry.columns.values())
    return row


def from_row(stage: str, row: dict[str, Any]) -> Entry:
    from pipelines.ledger import DataFile, Entry

    names, hashes = json.loads(row["names"]), row["hashes"]
    return Entry(
        stage=stage,
        columns={name: hashes[HEX * i : HEX * (i + 1)] for i, name in enumerate(names)},
        files={role: DataFile(*file) for role, file in json.loads(row["files"]).items()},
        **{name: json.loads(row[name]) for name in JSON if name != "files"},
        **{name: row[name] for name in ("shard", "fingerprint", "attempt", "rows_in", "rows_out", "uids", "seconds")},
    )


@dataclass(frozen=True)
class Generation:
    """What is compacted: stage → segment files, relative to `ledger/@compacted`. Number 0 is the empty beginning."""

    number: int = 0
    segments: dict[str, list[str]] = field(default_factory=dict)


def _name(number: int) -> str:
    return f"{number:08d}.json"


def newest(ledger: Ledger, known: Generation | None = None) -> Generation:
    """The generation in force. Starts from what a listing tells, which may be stale, and asks for the next one by name."""
    folder = ledger.folder / FOLDER
    if known is None:
        numbers = [int(path.stem) for path in files(folder) if re.fullmatch(r"[0-9]{8}\.json", path.name)]
        known = _read(folder, max(numbers)) if numbers else Generation()
        assert known is not None, "generations are never removed"
    while (following := _read(folder, known.number + 1)) is not None:
        known = following
    return known


def _read(folder: Path, number: int) -> Generation | None:
    try:
        return Generation(number, unsealed(json.loads((folder / _name(number)).read_bytes()))["segments"])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise Damaged(f"{folder / _name(number)}: says no more which entries are compacted ({error}): put it back") from error


def is_newest(ledger: Ledger, generation: Generation) -> bool:
    return not (ledger.folder / FOLDER / _name(generation.number + 1)).exists()


@dataclass
class Compacted:
    """What one call of `compact` did."""

    taken: int = 0
    removed: int = 0
    merged: int = 0
    segments: int = 0


def compact(ledger: Ledger, say: Callable[[str], None] = lambda line: None) -> Compacted:
    """Take up the loose entries of every stage, batch by batch, and remove their small files; join segments that became many."""
    done = Compacted()
    for stage in ledger.stages():
        batch: list[Path] = []
        for path in ledger.loose(stage):
            batch.append(path)
            if len(batch) == BATCH:
                _take(ledger, stage, batch, done)
                say(f"{stage}: {counted(done.taken, 'entry', 'entries')} compacted")
                batch = []
        if batch:
            _take(ledger, stage, batch, done)
        _merge(ledger, stage, done)
    done.segments = sum(map(len, newest(ledger).segments.values()))
    return done


def is_worth_it(ledger: Ledger) -> bool:
    """Whether a stage has so many loose entries that reading them one by one begins to tell."""
    worth = WORTH_STORE if isinstance(ledger.folder, Place) else WORTH
    return any(more_than(ledger.folder / stage, worth) for stage in ledger.stages())


@contextmanager
def meanwhile(run: Path) -> Iterator[None]:
    """Compact when it is worth it: before the body, every now and then while it runs, in a thread of its own, and after it."""
    from pipelines.ledger import Ledger

    ledger, over = Ledger(run), threading.Event()

    def look() -> None:
        if is_worth_it(ledger):
            compact(ledger)

    def keep_on() -> None:
        while not over.wait(EVERY):
            try:
                look()
            except Exception as error:  # a full disk or a store that is away: the workers meet it too, and say so
                log.warning("the ledger could not be compacted: %s", error)

    look()
    thread = threading.Thread(target=keep_on, name="compaction", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    look()


def _take(ledger: Ledger, stage: str, paths: list[Path], done: Compacted) -> None:
    entries = [entry for entry in ledger.read_loose(paths) if entry is not None]
    while True:
        ledger.refresh()
        generation = ledger.generation
        # What is compacted already was left by a compaction that was killed, or by a late writer: it goes, and no more.
        fresh = [entry for entry in entries if ledger.compacted(stage, entry.fingerprint, entry.shard) is None]
        if not fresh:
            break
        try:
            segment = _write(ledger, stage, sorted(fresh, key=lambda entry: entry.shard))
        except FileNotFoundError:  # `gc` beside this took it before it was whole
            continue
        segments = {**generation.segments, stage: [*generation.segments.get(stage, []), segment]}
        if _publish(ledger, generation, segments):
            done.taken += len(fresh)
            break
        (ledger.folder / FOLDER / segment).unlink(missing_ok=True)
    gone = many(ledger.folder, lambda entry: ledger.remove_loose(stage, entry.fingerprint, entry.shard), entries)
    done.removed += sum(1 for _ in gone)


def _publish(ledger: Ledger, generation: Generation, segments: dict[str, list[str]]) -> bool:
    path = ledger.folder / FOLDER / _name(generation.number + 1)
    return create_if_absent(path, sealed({"segments": segments}))


def _write(ledger: Ledger, stage: str, entries: Sequence[Entry]) -> str:
    table = pa.Table.from_pylist([to_row(entry) for entry in entries], schema=SEGMENT)
    return _write_tables(ledger, stage, iter([table]))


def _write_tables(ledger: Ledger, stage: str, tables: Iterator[pa.Table]) -> str:
    name = f"{stage}.{uuid4().hex[:12]}.parquet"

    def fill(path: Path) -> None:
        with pq.ParquetWriter(path, SEGMENT, **PARQUET) as writer:
            for table in tables:
                writer.write_table(table, row_group_size=ROW_GROUP)

    write_new(ledger.folder / FOLDER / name, fill)
    return name


def _merge(ledger: Ledger, stage: str, done: Compacted) -> None:
    """Join segments of the same size, the smallest first, until there are few of each. The old ones are left to `gc`."""
    while True:
        ledger.refresh()
        segments = _alike(ledger.index(stage).segments)
        generation = ledger.generation
        if not segments:
            return
        try:
            merged = _write_tables(ledger, stage, _rows(segments))
        except FileNotFoundError:  # as above; or one of the old ones, which somebody has joined meanwhile
            return
        gone = [segment.path.name for segment in segments]
        left = [name for name in generation.segments[stage] if name not in gone]
        if not _publish(ledger, generation, {**generation.segments, stage: [*left, merged]}):
            (ledger.folder / FOLDER / merged).unlink(missing_ok=True)  # somebody compacted meanwhile: the next call joins
            return
        done.merged += len(segments)


def _alike(segments: Sequence[Segment]) -> list[Segment]:
    """Those to be joined next, if any."""
    sizes: dict[int, list[Segment]] = {}
    for segment in segments:
        size, rows = 0, segment.rows
        while rows >= MERGE_AT:
            size, rows = size + 1, rows // MERGE_AT
        sizes.setdefault(size, []).append(segment)
    return next((sizes[size] for size in sorted(sizes) if len(sizes[size]) >= MERGE_AT), [])


def _rows(segments: Sequence[Segment]) -> Iterator[pa.Table]:
    """All their rows as they are, in pieces of full row groups."""
    waiting: list[pa.Table] = []
    for segment in segments:
        for piece in segment.batches(SEGMENT.names):
            waiting.append(piece)
            if sum(map(len, waiting)) >= PIECE:
                yield pa.concat_tables(waiting)
                waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def forget(ledger: Ledger, stage: str, entries: set[tuple[str, int]], segments: set[str]) -> None:
    """Take entries (fingerprint, shard), and whole segments that cannot be read, out of what is compacted of a stage."""
    while True:
        ledger.refresh()
        generation = ledger.generation
        names = generation.segments.get(stage, [])
        left = [_without(ledger, stage, name, entries) for name in names if name not in segments]
        if left == names or _publish(ledger, generation, {**generation.segments, stage: [name for name in left if name]}):
            return


def _without(ledger: Ledger, stage: str, name: str, entries: set[tuple[str, int]]) -> str:
    """The segment, or another one of what is left without these entries; empty where nothing is."""
    segment = Segment(ledger.folder / FOLDER / name)
    keys = segment.read(KEYS).to_pylist()
    keep = [(key["fingerprint"], key["shard"]) not in entries for key in keys]
    if all(keep):
        return name
    return _write_tables(ledger, stage, iter([segment.read(SEGMENT.names).filter(pa.array(keep))])) if any(keep) else ""


def unnamed(ledger: Ledger) -> list[Path]:
    """Segments that the newest generation does not name: joined into others, or not published (yet)."""
    there = [path for path in files(ledger.folder / FOLDER) if path.suffix == ".parquet"]
    ledger.refresh()
    named = {name for names in ledger.generation.segments.values() for name in names}
    return [path for path in there if path.name not in named]


def remove_unnamed(ledger: Ledger) -> None:
    """Remove such segments, also beside a compaction: the same generation is published once more, so that whoever has written a
    segment and not published it yet finds the number taken, and writes another."""
    while left := unnamed(ledger):
        if _publish(ledger, ledger.generation, ledger.generation.segments):
            for path in left:
                path.unlink(missing_ok=True)  # its writer removes it, too
            return


class Segment:
    """One file of compacted entries. It is never changed, so what was read of it holds for all generations that name it.

    A key is 64 bits of fingerprint and shard; what it finds is compared in full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: pq.ParquetFile | None = None
        file = self._file()
        if missing := set(SEGMENT.names) - set(file.schema_arrow.names):
            raise Damaged(
                f"{path}: has no column {', '.join(sorted(missing))}: something else than a run changed it, or its disk did"
            )
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        self.starts = np.cumsum([0, *sizes])
        self.rows = int(self.starts[-1])
        table = self.read(KEYS)
        keys = key_of(table["fingerprint"], table["shard"])
        self._order = np.argsort(keys, kind="stable").astype(np.uint32)
        self._keys = keys[self._order]
        if isinstance(path, Place):  # what is open there is mostly in memory
            self.close()

    def _file(self) -> pq.ParquetFile:
        if self._open is None:
            self._open = open_table(self.path)
        return self._open

    def close(self) -> None:
        self._open = None

    def with_key(self, key: np.uint64) -> np.ndarray:
        """The rows that have it."""
        first, last = np.searchsorted(self._keys, key, "left"), np.searchsorted(self._keys, key, "right")
        return self._order[first:last]

    def read(self, columns: list[str]) -> pa.Table:
        """Some columns of all rows."""
        with as_written(self.path):
            return self._file().read(columns=columns)

    def group(self, group: int) -> list[dict[str, Any]]:
        with as_written(self.path):
            return self._file().read_row_group(group).to_pylist()

    def batches(self, columns: list[str], rows: int = PIECE) -> Iterator[pa.Table]:
        """Some columns of all rows, so many rows at a time."""
        with as_written(self.path):
            for batch in self._file().iter_batches(rows, columns=columns):
                yield pa.Table.from_batches([batch])


class StageIndex:
    """The compacted entries of one stage: found by key, decoded a row group at a time. Rows are numbered over all segments."""

    def __init__(self, stage: str, segments: Sequence[Segment]) -> None:
        self.stage = stage
        self.segments = list(segments)
        self._starts = np.cumsum([0, *(segment.rows for segment in segments)])
        self._decoded: dict[tuple[int, int], list[dict[str, Any]]] = {}
        self._held: list[Segment] = []
        self.rows = int(self._starts[-1])

    def _hold(self, number: int) -> Segment:
        """That segment; of those on a store, the ones used before are closed."""
        segment = self.segments[number]
        if isinstance(segment.path, Place) and segment not in self._held:
            if len(self._held) >= HELD:
                self._held.pop(0).close()
            self._held.append(segment)
        return segment

    def find(self, fingerprint: str, shard: int) -> Entry | None:
        key = _key(fingerprint, shard)
        for start, segment in zip(self._starts, self.segments, strict=False):
            for row in segment.with_key(key):
                entry = self.row(int(start + row))
                if (entry.fingerprint, entry.shard) == (fingerprint, shard):
                    return entry
        return None

    def row(self, row: int) -> Entry:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        starts, inside = self.segments[number].starts, row - int(self._starts[number])
        group = int(np.searchsorted(starts, inside, side="right")) - 1
        if (number, group) not in self._decoded:
            while len(self._decoded) >= 4:
                del self._decoded[next(iter(self._decoded))]
            self._decoded[number, group] = self._hold(number).group(group)
        return from_row(self.stage, self._decoded[number, group][inside - int(starts[group])])

    def read(self, columns: list[str]) -> pa.Table:
        """Some columns of all rows, in the order of row numbers. Many rows: `batches` needs less memory."""
        tables = [self._hold(number).read(columns) for number in range(len(self.segments))]
        return pa.concat_tables(tables) if tables else pa.schema([SEGMENT.field(name) for name in columns]).empty_table()

    def batches(self, columns: list[str]) -> Iterator[pa.Table]:
        """The same, some rows at a time."""
        for number in range(len(self.segments)):
            yield from self._hold(number).batches(columns)

    def entries(self) -> Iterator[Entry]:
        for number in range(len(self.segments)):
            for batch in self._hold(number).batches(SEGMENT.names, ROW_GROUP):
                for row in batch.to_pylist():
                    yield from_row(self.stage, row)


MIX = 0x9E3779B97F4A7C15


def _key(fingerprint: str, shard: int) -> np.uint64:
    return np.uint64(int(fingerprint[:16], 16) ^ (shard * MIX & 0xFFFFFFFFFFFFFFFF))


def key_of(fingerprints: pa.ChunkedArray, shards: pa.ChunkedArray) -> np.ndarray:
    """64-bit keys [n] of fingerprints (hex) and shards."""
    heads = np.ascontiguousarray(unhex(fingerprints)[:, 0, :8]).view(">u8")[:, 0].astype(np.uint64)
    return heads ^ (shards.to_numpy().astype(np.uint64) * np.uint64(MIX))


NIBBLES = np.full(256, 255, np.uint8)
NIBBLES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


def unhex(column: pa.ChunkedArray | pa.Array, width: int = 1) -> np.ndarray:
    """Strings of `width` × 32 digits as their bytes, uint8 [rows, width, 16]."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    pieces = [np.empty((0, width, HEX // 2), np.uint8)]
    for chunk in chunks:
        if not len(chunk) or not width:
            pieces.append(np.empty((len(chunk), width, HEX // 2), np.uint8))
            continue
        offsets = np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        digits = NIBBLES[np.frombuffer(chunk.buffers()[2], np.uint8, int(offsets[-1] - offsets[0]), int(offsets[0]))]
        if not (np.diff(offsets) == width * HEX).all() or (digits > 15).any():
            raise ValueError(f"the ledger holds hashes that do not have {HEX} hexadecimal digits")
        pieces.append(((digits[::2] << np.uint8(4)) | digits[1::2]).reshape(-1, width, HEX // 2))
    return np.concatenate(pieces)
