"""Parquet tables (LAION, GRIT, COYO), read by row group in bounded memory.

Column names may point into structs with dots (`meta.url`), as in JSON lines.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from operators.base import Reject
from pipelines.sources.base import Slice, Source, SourceError, TableIndex, changed, check_columns
from pipelines.sources.rows import build

BATCH = 2048
"""Rows decoded at a time."""


class ParquetSource(Source):
    format: Literal["parquet"]
    points_at_pictures = True

    def index(self, path: str, shard_size: int) -> TableIndex:
        with _open(self, path) as file:
            check_columns(self, path, paths_of(file.schema_arrow))
            sizes = [file.metadata.row_group(k).num_rows for k in range(file.metadata.num_row_groups)]
        starts = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
        rows = int(starts[-1])
        check = _footer(path)
        slices = []
        for first in range(0, rows, shard_size):
            count = min(shard_size, rows - first)
            group = int(np.searchsorted(starts, first, "right")) - 1
            end = int(np.searchsorted(starts, first + count, "left"))
            slices.append(Slice(first_row=first, rows=count, offset=group, end=end, check=check))
        with open(path, "rb") as raw:
            digest = hashlib.file_digest(raw, "sha256").hexdigest()
        return TableIndex(digest, rows, slices)

    def read(self, path: str, digest: str, piece: Slice) -> tuple[pa.Table, list[Reject]]:
        if _footer(path) != piece["check"]:
            raise changed(self, path, piece, "another size or footer")
        stat = os.stat(path)
        key = (path, stat.st_size, stat.st_mtime_ns, tuple(self.columns.names()))
        cursor = _cursors.pop(key, None)
        first = piece["first_row"]
        if cursor is None or cursor.at > first or cursor.group_of(cursor.at) < cursor.group_of(first):
            cursor = _Cursor(self, path, piece["offset"])
        try:
            table = cursor.take(first, piece["rows"])
        except (pa.ArrowException, OSError) as error:
            raise OSError(f"{path}: rows {first} to {first + piece['rows'] - 1} cannot be read: {error}") from error
        _cursors[key] = cursor
        while len(_cursors) > 4:
            _cursors.popitem(last=False)
        if len(table) != piece["rows"]:
            raise changed(self, path, piece, f"only {len(table)} rows")
        cells = {name: _cells(_column(table, name)) for name in cursor.names}
        return build(self, digest, piece["first_row"], piece["rows"], cells)


def paths_of(fields: Iterable[pa.Field], before: str = "") -> Iterator[str]:
    """Names of columns, and of the fields of structs behind their column's name and a dot."""
    for field in fields:
        yield before + field.name
        if pa.types.is_struct(field.type):
            yield from paths_of(field.type, f"{before}{field.name}.")


def _column(table: pa.Table, path: str) -> pa.ChunkedArray:
    if path in table.column_names:
        return table[path]
    first, *inner = path.split(".")
    return pc.struct_field(table[first], inner)


def _cells(column: pa.ChunkedArray) -> list[Any]:
    """The column's values. Where Python has none for one (a text that is not UTF-8, a date beyond the year 9999), texts come as the
    bytes that they are, dates as texts: one bad cell is its row's matter."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):
        return column.cast(_tolerant(column.type)).to_pylist()


def _tolerant(kind: pa.DataType) -> pa.DataType:
    """The type with bytes for texts and texts for times, at whatever depth."""
    if pa.types.is_temporal(kind):
        return pa.string()
    if pa.types.is_string(kind) or pa.types.is_string_view(kind) or pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_dictionary(kind):
        return _tolerant(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_tolerant(field.type)) for field in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_tolerant(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(_tolerant(kind.key_type), _tolerant(kind.item_type))
    return kind


class _Cursor:
    """Reads a table forward. Row groups may hold a million rows and can only be decoded from their start, so a reader that
    asks for slices in order keeps its place."""

    def __init__(self, source: Source, path: str, group: int) -> None:
        self.file = _open(source, path)
        sizes = [self.file.metadata.row_group(k).num_rows for k in range(self.file.metadata.num_row_groups)]
        self.starts = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
        self.at = int(self.starts[group])
        there = set(paths_of(self.file.schema_arrow))
        self.names = [name for name in source.columns.names() if name in there]
        self.batches: Iterator[pa.RecordBatch] = self.file.iter_batches(
            BATCH, row_groups=list(range(group, len(sizes))), columns=self.names, use_threads=False
        )
        self.rest: pa.RecordBatch | None = None

    def group_of(self, row: int) -> int:
        return int(np.searchsorted(self.starts, row, "right")) - 1

    def take(self, first: int, count: int) -> pa.Table:
        parts: list[pa.RecordBatch] = []
        while count:
            batch = self.rest if self.rest is not None else next(self.batches, None)
            self.rest = None
            if batch is None:
                break
            skip = min(first - self.at, len(batch))
            part = batch.slice(skip, count)
            used = skip + len(part)
            if used < len(batch):
                self.rest = batch.slice(used)
            self.at += used
            first = max(first, self.at)
            if len(part):
                parts.append(part)
                count -= len(part)
        return pa.Table.from_batches(parts) if parts else pa.table({name: [] for name in self.names})


_cursors: OrderedDict[tuple[str, int, int, tuple[str, ...]], _Cursor] = OrderedDict()


def _open(source: Source, path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
    except (pa.ArrowException, OSError) as error:
        with open(path, "rb") as file:
            head = file.read(4)
        if not head:
            raise SourceError(f"source {source.name}: {path}: empty file") from error
        kind = (
            "a Parquet file without its end: was it copied whole?"
            if head == b"PAR1"
            else f"not a Parquet file (it begins with {head!r})"
        )
        raise SourceError(f"source {source.name}: {path}: {kind}: {error}") from error


def _footer(path: str) -> str:
    """Hash of the size and the footer, which holds the place and size of every column chunk."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        file.seek(max(size - 8, 0))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(size - 8 - length, 0))
        return hashlib.sha256(f"{size}\0".encode() + file.read(length + 8)).hexdigest()[:16]
