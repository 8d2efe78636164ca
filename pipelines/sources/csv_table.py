"""CSV with a header (Wukong), quoted the way Python's csv module reads it.

Cells may hold quoted commas and newlines, NUL bytes, bad UTF-8 (a damaged caption is refused by itself) and stray quotes.
A row with another number of fields than the header is a reject.
"""

from __future__ import annotations

import csv
import io
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import AfterValidator

from operators.base import Reject
from pipelines.sources.base import (
    Encoding,
    Slice,
    Source,
    SourceError,
    TableIndex,
    bare,
    check_columns,
    check_encoding,
    refuse_unreadable,
)
from pipelines.sources.records import SplitCsv, index_records, is_gz, read_piece, record_bytes
from pipelines.sources.rows import build

MAX_ROW = 4 << 20
"""Bytes of one row."""
HEAD = 1 << 20


def _one_mark(delimiter: str) -> str:
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0':
        raise ValueError(f"expected one ASCII character, no quote and no line end, found {delimiter!r}")
    return delimiter


class CsvSource(Source):
    format: Literal["csv"]
    delimiter: Annotated[str, AfterValidator(_one_mark)] = ","
    header: list[str] | None = None
    """Names of the columns of a table that has no header line."""
    encoding: Encoding = "utf-8"
    points_at_pictures = True

    def cut(self) -> str:
        return f"csv, {self.delimiter!r} between cells, " + ("a header line" if self.header is None else "no header line")

    def index(self, path: str, shard_size: int) -> TableIndex:
        block = self._block(path)
        names, start = self._head(path, block)
        check_encoding(f"source {self.name}: {path}", block.split(b"\n")[:-1], self.encoding)
        check_columns(self, path, names)
        return index_records(self, path, shard_size, SplitCsv(self.delimiter), start)

    def read(self, path: str, digest: str, piece: Slice) -> tuple[pa.Table, list[Reject]]:
        names, _ = self._head(path, self._block(path))
        rows, bad = self._rows(read_piece(self, path, piece), piece["rows"])
        wanted = {name: names.index(name) for name in self.columns.names() if name in names}
        for i, row in enumerate(rows):
            if len(row) != len(names) and i not in bad:
                bad[i] = ("bad_row", f"{len(row)} fields instead of {len(names)}: {str(row)[:120]}")
        cells: dict[str, list[Any]] = {name: [row[k] if k < len(row) else None for row in rows] for name, k in wanted.items()}
        return build(self, digest, piece["first_row"], piece["rows"], cells, bad)

    def _rows(self, data: bytes, expected: int) -> tuple[list[list[str]], dict[int, tuple[str, str]]]:
        csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW))
        split = SplitCsv(self.delimiter)
        if data.count(b'"') % 2 == 0:  # the whole slice at once, when the csv module agrees on where rows end
            try:
                rows = [row for row in self._parse(data) if row]
            except csv.Error:
                rows = []
            if len(rows) == expected:
                return rows, {}
        rows, bad = [], {}
        for i, record in enumerate(record_bytes(data, split)):
            if len(record) > MAX_ROW:
                bad[i] = ("row_too_long", f"{len(record)} bytes > {MAX_ROW}")
            elif split.has_unclosed_quote(record):
                bad[i] = ("unclosed_quote", record[:120].decode(self.encoding, "replace"))
            rows.append([] if i in bad else next(iter(self._parse(record)), []))
        return rows, bad

    def _parse(self, data: bytes) -> Any:
        return csv.reader(io.StringIO(data.decode(self.encoding, "replace"), newline=""), delimiter=self.delimiter)

    def _block(self, path: str) -> bytes:
        """How the table begins."""
        import gzip

        with gzip.open(path, "rb") if is_gz(path) else open(path, "rb") as file:
            try:
                block = file.read(HEAD)
            except (OSError, EOFError) as error:
                raise SourceError(f"source {self.name}: {path}: cannot be read: {error}") from error
        refuse_unreadable(f"source {self.name}: {path}", block)
        if block[:4] == b"PAR1":
            raise SourceError(f"source {self.name}: {path}: not CSV, it begins with {block[:4]!r}")
        return block

    def _head(self, path: str, block: bytes) -> tuple[list[str], int]:
        """Column names, and the byte at which the first row begins."""
        start = 3 if block.startswith(b"\xef\xbb\xbf") else 0
        if self.header is not None:
            return self.header, start
        start = len(block) - len(block[start:].lstrip(b"\r\n"))  # blank lines are no header
        end = SplitCsv(self.delimiter).record_end(block[start:], 0, len(block) < HEAD)
        if end is None or not block[start:].strip():
            raise SourceError(f"source {self.name}: {path}: " + ("no header line in the first MiB" if block else "empty file"))
        names = [name.strip().replace("\0", "") for name in next(iter(self._parse(block[start : start + end])), [])]
        if len(names) == 1 and (others := [mark for mark in ",;\t|" if mark in names[0]]):
            raise SourceError(
                f"source {self.name}: {path}: one column, {names[0][:80]!r}: is the delimiter {others[0]!r}, not {self.delimiter!r}? "
                "Say so as `delimiter`"
            )
        if any(bare(name) != name for name in names):
            raise SourceError(f"source {self.name}: {path}: a column name ends in `?`: {names}")
        return names, start + end
