"""Segments: compacted ledger entries as columns, in files that are never changed.

    ledger/@compacted/<stage>.<id>.parquet      whole entries, sorted by shard
    ledger/@compacted/<stage>.<id>.planning     of the same rows what planning reads, hashes as their bytes: a third of it, in one piece

The second one follows from the first; where there is none, as in older runs, it is made up in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.durable import PARQUET, Damaged, as_written, canonical_json, drop_cached, open_table, write_new
from pipelines.stores import Place

if TYPE_CHECKING:
    from pipelines.ledger import Entry

HEX = 32
"""Digits of a content hash and of a fingerprint."""
BYTES = HEX // 2
"""What they stand for."""
ROW_GROUP = 2_000
PIECE = 10 * ROW_GROUP
"""Rows that are read at a time where all are."""
HELD = 2
"""Segments of a store of which rows were read that are held open by a stage."""
DECODED = 4
"""Row groups that a stage keeps decoded."""

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
REACH = [*KEYS, "rows_in", "rows_out", "uids", "names", "hashes"]
COSTS = ["rows_in", "rows_out", "seconds", "usage", *SUMS]
HASHES = ("fingerprint", "uids", "hashes")
PLANNING = pa.schema(
    [
        SEGMENT.field(name).with_type(pa.binary()) if name in HASHES else SEGMENT.field(name)
        for name in dict.fromkeys(REACH + COSTS)
    ]
)
REPEATED = [field.name for field in PLANNING if field.type == pa.string()]


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


def table_of(entries: Iterable[Entry]) -> pa.Table:
    return pa.Table.from_pylist([to_row(entry) for entry in entries], schema=SEGMENT)


def for_planning(table: pa.Table, columns: Sequence[str] = PLANNING.names) -> pa.Table:
    """Those columns of a segment's as planning reads them."""
    made = {name: _unhex(table[name]) if name in HASHES else table[name] for name in columns}
    return pa.table(made, schema=pa.schema([PLANNING.field(name) for name in columns]))


NIBBLES = np.full(256, 255, np.uint8)
NIBBLES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


def _unhex(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Strings of digits as the bytes that they stand for."""
    return pa.chunked_array([_unhex_chunk(chunk) for chunk in column.chunks], pa.binary())


def _unhex_chunk(chunk: pa.Array) -> pa.Array:
    if not len(chunk):
        return pa.array([], pa.binary())
    offsets = np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    digits = NIBBLES[np.frombuffer(chunk.buffers()[2], np.uint8, last - first, first)] if last > first else NIBBLES[:0]
    if (np.diff(offsets) % HEX).any() or (digits > 15).any():
        raise Damaged(f"the ledger holds hashes that do not have {HEX} hexadecimal digits")
    found = (digits[::2] << np.uint8(4)) | digits[1::2]
    return pa.Array.from_buffers(
        pa.binary(), len(chunk), [None, pa.py_buffer((offsets - first) // np.int32(2)), pa.py_buffer(found)]
    )


def hashes_of(column: pa.ChunkedArray, width: int = 1) -> np.ndarray:
    """Hashes as they stand in planning columns, `width` of them a row: uint8 [rows, width, 16]."""
    pieces = [np.empty((0, width, BYTES), np.uint8)]
    for chunk in column.chunks:
        if not len(chunk) or not width:
            pieces.append(np.empty((len(chunk), width, BYTES), np.uint8))
            continue
        offsets = np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        if not (np.diff(offsets) == width * BYTES).all():
            raise Damaged(f"the ledger holds rows that do not have {width} hashes of {HEX} digits")
        found = np.frombuffer(chunk.buffers()[2], np.uint8, int(offsets[-1] - offsets[0]), int(offsets[0]))
        pieces.append(found.reshape(-1, width, BYTES))
    return np.concatenate(pieces)


def planning_file(segment: Path) -> Path:
    return segment.with_suffix(".planning")


def write_segment(path: Path, tables: Iterator[pa.Table]) -> None:
    """Both files. The one that generations name is the last to be there."""

    def fill(whole: Path) -> None:
        def fill_planning(lean: Path) -> None:
            with (
                pq.ParquetWriter(whole, SEGMENT, **PARQUET) as writer,
                pq.ParquetWriter(lean, PLANNING, use_dictionary=REPEATED, **PARQUET) as planning,
            ):
                for table in tables:
                    writer.write_table(table, row_group_size=ROW_GROUP)
                    planning.write_table(for_planning(table), row_group_size=PIECE)

        write_new(planning_file(path), fill_planning)

    try:
        write_new(path, fill)
        _read_back(path)
    except BaseException:
        remove_segment(path)
        raise


def _read_back(path: Path) -> None:
    """Whether what was written can be read: the small files of these entries, or the segments, will be removed for it."""
    for file in (path, planning_file(path)):
        drop_cached(file)
    whole = sum(map(len, Segment(path, planning=False).batches()))
    planning = sum(map(len, Segment(path).planning(PLANNING.names)))
    if whole != planning:
        raise Damaged(
            f"{path}: has {whole:,} entries, and {planning:,} for planning: what was written there is not what is read"
        )


def readable(path: Path) -> Iterator[pa.Table]:
    """What can still be read of a damaged segment, row group by row group."""
    with suppress(Damaged, FileNotFoundError):
        segment = Segment(path, planning=False)
        for group in range(len(segment.starts()) - 1):
            with suppress(Damaged):
                yield segment.read_group(group)


def remove_segment(path: Path) -> None:
    planning_file(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


class Segment:
    """One file of compacted entries. It is never changed, so what was read of it holds for all generations that name it.

    A key is 64 bits of fingerprint and shard; what it finds is compared in full.
    """

    def __init__(self, path: Path, planning: bool = True) -> None:
        """planning   whether the file for planning is used, too"""
        self.path = path
        self._open: pq.ParquetFile | None = None
        self._planning: pq.ParquetFile | None = None
        self._has_planning = planning
        self._order: np.ndarray | None = None
        if not isinstance(path, Place):  # held open, it is still there for whoever reads it when `gc` takes it
            self._file()
        self.rows = int((self._planning_file() or self._file()).metadata.num_rows)

    def _file(self) -> pq.ParquetFile:
        if self._open is None:
            self._open = open_table(self.path, self.path.pieces() if isinstance(self.path, Place) else None)
            if missing := set(SEGMENT.names) - set(self._open.schema_arrow.names):
                raise Damaged(
                    f"{self.path}: has no column {', '.join(sorted(missing))}: something else than a run changed it, or its disk did"
                )
        return self._open

    def _planning_file(self) -> pq.ParquetFile | None:
        """On a store all of it is in memory while it is open."""
        if self._planning is None and self._has_planning:
            try:
                file = planning_file(self.path)
                self._planning = open_table(file, pa.BufferReader(file.read_bytes()) if isinstance(file, Place) else None)
            except FileNotFoundError:
                self._has_planning = False
        return self._planning

    def close(self) -> None:
        """Let go of what is open in memory."""
        self._planning = None
        if isinstance(self.path, Place):
            self._open = None

    def with_key(self, key: np.uint64) -> np.ndarray:
        """The rows that have it."""
        if self._order is None:
            table = pa.concat_tables(self.planning(KEYS))
            keys = key_of(hashes_of(table["fingerprint"])[:, 0], table["shard"].to_numpy())
            self._order = np.argsort(keys, kind="stable").astype(np.uint32)
            self._keys = keys[self._order]
        first, last = np.searchsorted(self._keys, key, "left"), np.searchsorted(self._keys, key, "right")
        return self._order[first:last]

    def planning(self, columns: list[str]) -> Iterator[pa.Table]:
        """Columns of `PLANNING` of all rows, some rows at a time; at the end they are let go."""
        file = self._planning_file()
        if file is None:
            yield from (for_planning(table, columns) for table in self.batches(columns))
        else:
            with as_written(planning_file(self.path)):
                for batch in file.iter_batches(PIECE, columns=columns):
                    yield pa.Table.from_batches([batch])
        self.close()

    def starts(self) -> np.ndarray:
        """The first row of each row group, and the number of rows."""
        found = self._file().metadata
        return np.cumsum([0, *(found.row_group(group).num_rows for group in range(found.num_row_groups))])

    def read_group(self, group: int) -> pa.Table:
        with as_written(self.path):
            return self._file().read_row_group(group)

    def batches(self, columns: list[str] = SEGMENT.names, rows: int = PIECE) -> Iterator[pa.Table]:
        """Columns of `SEGMENT` of all rows, so many rows at a time."""
        file = open_table(self.path) if isinstance(self.path, Place) else self._file()
        with as_written(self.path):
            for batch in file.iter_batches(rows, columns=columns):
                yield pa.Table.from_batches([batch])


class StageIndex:
    """The compacted entries of one stage: found by key, decoded a row group at a time. Rows are numbered over all segments."""

    def __init__(self, stage: str, segments: Sequence[Segment]) -> None:
        self.stage = stage
        self.segments = list(segments)
        self._starts = np.cumsum([0, *(segment.rows for segment in segments)])
        self._decoded: dict[tuple[int, int], list[dict[str, Any]]] = {}
        self._groups: dict[int, np.ndarray] = {}
        self._held: list[Segment] = []
        self.rows = int(self._starts[-1])

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
        inside = row - int(self._starts[number])
        if number not in self._groups:
            self._groups[number] = self._hold(number).starts()
        starts = self._groups[number]
        group = int(np.searchsorted(starts, inside, side="right")) - 1
        if (number, group) not in self._decoded:
            while len(self._decoded) >= DECODED:
                del self._decoded[next(iter(self._decoded))]
            self._decoded[number, group] = self._hold(number).read_group(group).to_pylist()
        return from_row(self.stage, self._decoded[number, group][inside - int(starts[group])])

    def _hold(self, number: int) -> Segment:
        """That segment; of those on a store, the ones used before are closed."""
        segment = self.segments[number]
        if isinstance(segment.path, Place) and segment not in self._held:
            if len(self._held) >= HELD:
                self._held.pop(0).close()
            self._held.append(segment)
        return segment

    def planning(self, columns: list[str]) -> Iterator[pa.Table]:
        """Columns of `PLANNING` of all rows, in the order of row numbers, some rows at a time."""
        for segment in self.segments:
            yield from segment.planning(columns)

    def entries(self) -> Iterator[Entry]:
        for segment in self.segments:
            for batch in segment.batches(rows=ROW_GROUP):
                for row in batch.to_pylist():
                    yield from_row(self.stage, row)


MIX = 0x9E3779B97F4A7C15


def _key(fingerprint: str, shard: int) -> np.uint64:
    return np.uint64(int(fingerprint[:16], 16) ^ (shard * MIX & 0xFFFFFFFFFFFFFFFF))


def key_of(fingerprints: np.ndarray, shards: np.ndarray) -> np.ndarray:
    """64-bit keys [n] of fingerprints, uint8 [n, 16], and shards [n]."""
    heads = np.ascontiguousarray(fingerprints[:, :8]).view(">u8")[:, 0].astype(np.uint64)
    return heads ^ (shards.astype(np.uint64) * np.uint64(MIX))
