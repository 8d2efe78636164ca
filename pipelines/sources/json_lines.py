"""JSON lines: one object per line (Zero, DOCCI and any of a user's own).

Column names may point into nested objects with dots (`meta.url`). A line that is not an object is a reject.
"""

from __future__ import annotations

import gzip
import zlib
from typing import Any, BinaryIO, Literal, cast

import pyarrow as pa

from operators.base import Reject
from pipelines.sources.base import Encoding, Slice, Source, SourceError, TableIndex, check_encoding, nearest, refuse_unreadable
from pipelines.sources.cleaning import json_of
from pipelines.sources.records import head_of, index_records, is_gz, read_piece, record_bytes, split_lines
from pipelines.sources.rows import build

MAX_ROW = 4 << 20
LOOK = 1000
"""Rows at the start of a table among which every required column must occur at least once."""


class JsonLinesSource(Source):
    format: Literal["jsonl"]
    encoding: Encoding = "utf-8"
    points_at_pictures = True

    def index(self, path: str, shard_size: int) -> TableIndex:
        with gzip.open(path, "rb") if is_gz(path) else open(path, "rb") as file:
            try:
                first = file.read(4)
                refuse_unreadable(f"source {self.name}: {path}", first)
                start = _bom(first)
                file.seek(start)
                head = head_of(self, path, cast(BinaryIO, file), split_lines, MAX_ROW)
            except (OSError, EOFError, zlib.error) as error:
                raise SourceError(f"source {self.name}: {path}: cannot be read: {error}") from error
        rows = record_bytes(head, split_lines)[:LOOK]
        check_encoding(f"source {self.name}: {path}", rows, self.encoding)
        check_objects(self, path, rows, self.encoding)
        return index_records(self, path, shard_size, split_lines, start)

    def read(self, path: str, digest: str, piece: Slice) -> tuple[pa.Table, list[Reject]]:
        records = record_bytes(read_piece(self, path, piece), split_lines)
        cells, bad = parse_objects(records, self.columns.names(), self.encoding)
        return build(self, digest, piece["first_row"], piece["rows"], cells, bad)


def parse_objects(
    records: list[bytes], names: list[str], encoding: str
) -> tuple[dict[str, list[Any]], dict[int, tuple[str, str]]]:
    """Cells by column of JSON objects, and reasons for those that are none."""
    cells: dict[str, list[Any]] = {name: [] for name in names}
    bad: dict[int, tuple[str, str]] = {}
    for i, record in enumerate(records):
        row: Any = {}
        if len(record) > MAX_ROW:
            bad[i] = ("row_too_long", f"{len(record)} bytes > {MAX_ROW}")
        else:
            text = record.decode(encoding, "replace")
            try:
                row = json_of(text)
            except (ValueError, RecursionError) as error:
                bad[i] = ("bad_json", f"{error}: {text[:120]}")
            if not isinstance(row, dict):
                bad[i] = ("bad_row", f"{type(row).__name__} instead of an object: {text[:120]}")
        for name in names:
            cells[name].append(field_of(row, name) if i not in bad else None)
    return cells, bad


def field_of(row: Any, name: str) -> Any:
    """`row[name]`, or `row["a"]["b"]` for `a.b`; None when it is not there."""
    if not isinstance(row, dict):
        return None
    if name in row:
        return row[name]
    first, dot, rest = name.partition(".")
    return field_of(row.get(first), rest) if dot else None


def check_objects(source: Source, path: str, records: list[bytes], encoding: str) -> None:
    """Stop when the first rows are not objects at all, or none of them has a column that the manifest needs."""
    rows: list[dict[str, Any]] = []
    error: object = "empty file"
    for record in records:
        try:
            row = json_of(record.decode(encoding, "replace"))
        except (ValueError, RecursionError) as problem:
            error = problem
            continue
        if isinstance(row, dict):
            rows.append(row)
        else:
            error = f"a {type(row).__name__}"
    if not rows:
        found = records[0][:60] if records else b""
        raise SourceError(
            f"source {source.name}: {path}: not {source.format}: none of the first rows is a JSON object ({error}); "
            f"it begins with {found!r}"
        )
    there = list(dict.fromkeys(key for row in rows for key in row))
    for name in source.columns.required():
        if all(field_of(row, name) is None and name not in row for row in rows):
            raise SourceError(
                f"source {source.name}: {path}: no row among the first {len(rows)} has {name!r}; they have "
                f"{', '.join(there[:12])}" + nearest(name, there, "")
            )


def _bom(head: bytes) -> int:
    return 3 if head.startswith(b"\xef\xbb\xbf") else 0
