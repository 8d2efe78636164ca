"""Where the records of a text file begin and end: one fast pass over any size of file, and reading a piece of it later.

A splitter finds record ends in a block of bytes that starts at a record; NumPy does the work and Python looks only at
what is irregular. Blank lines are not records. Files ending in .gz are read through gzip; offsets then count unpacked bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

import numpy as np

from pipelines.sources.base import Slice, Source, SourceError, TableIndex, changed

BLOCK = 8 << 20
MAX_RECORD = 96 << 20
"""A file without a record end for this long is not what its manifest says; indexing stops. Bounds memory."""
MAX_QUOTED = 1 << 20
"""A quote that finds no partner within so many bytes is a stray one, not the start of a field."""

Splitter = Callable[[bytes, bool], np.ndarray]
"""(block starting at a record, whether the file ends with it) → ends of the whole records in it, int64, ascending."""

_QUOTE, _LF, _CR, _BACKSLASH = 34, 10, 13, 92


def split_lines(block: bytes, final: bool) -> np.ndarray:
    """Ends of lines (\\n)."""
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == _LF) + 1
    if final and len(block) and not block.endswith(b"\n"):
        ends = np.append(ends, len(block))
    return ends


class SplitCsv:
    """Ends of CSV records, by the rules of Python's csv module: a quote opens only at the start of a field, "" stands for
    one inside, after the closing quote the rest of the field is literal, and \\r, \\n and \\r\\n end a record.

    One rule is added, since a single stray quote would otherwise swallow the rest of a file: an opening quote without any
    further quote within MAX_QUOTED bytes, or up to the end of the file, opens nothing.
    """

    def __init__(self, delimiter: str = ",") -> None:
        self.delimiter = ord(delimiter)
        self.field_end = re.compile(b"[" + re.escape(delimiter.encode()) + rb"\r\n]")

    def __call__(self, block: bytes, final: bool) -> np.ndarray:
        data = np.frombuffer(block, np.uint8)
        size = len(block)
        ends = self._line_ends(block, data)
        usable = size if final else size - 1  # the last byte's neighbour is not known yet
        if b'"' not in block:
            ends = ends[ends <= usable] if not final else ends
            return self._with_tail(ends, size) if final else ends
        quotes = np.flatnonzero(data == _QUOTE)
        bad_open, bad_close = self._irregular(data, quotes, final)
        found: list[np.ndarray] = []
        at = 0  # start of a record
        first = 0  # first quote at or after `at`
        while at < size:
            stop = _next(bad_open[first % 2], bad_close[1 - first % 2], first)
            limit = size if stop is None else int(quotes[stop])
            here = ends[np.searchsorted(ends, at, "right") : np.searchsorted(ends, limit, "right")]
            outside = (np.searchsorted(quotes, here) - first) % 2 == 0
            here = here[outside]
            if len(here):
                found.append(here)
                at = int(here[-1])
            if stop is None:
                break
            end = self.record_end(block, at, final)
            if end is None:
                break
            found.append(np.array([end]))
            at = end
            first = int(np.searchsorted(quotes, at))
        result = np.concatenate(found) if found else np.empty(0, np.int64)
        if final:
            return self._with_tail(result, size)
        return result[result <= usable]

    @staticmethod
    def _with_tail(ends: np.ndarray, size: int) -> np.ndarray:
        return np.append(ends, size) if size and (not len(ends) or ends[-1] < size) else ends

    @staticmethod
    def _line_ends(block: bytes, data: np.ndarray) -> np.ndarray:
        """All places where a record could end: after \\n, and after a \\r that no \\n follows."""
        mask = data == _LF
        if b"\r" in block:
            bare = data == _CR
            bare[:-1] &= ~mask[1:]
            mask |= bare
        return np.flatnonzero(mask) + 1

    def _irregular(
        self, data: np.ndarray, quotes: np.ndarray, final: bool
    ) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Quotes that are not fit for their place: those that cannot open a field, and those that cannot close one.

        Each as indices into `quotes`, the even ones and the odd ones apart: from a record's start on, quotes open and
        close in turn. A doubled quote counts as a closing and an opening one.
        """
        size = len(data)
        before = np.where(quotes > 0, data[quotes - 1], _LF)
        after = np.where(quotes + 1 < size, data[np.minimum(quotes + 1, size - 1)], _LF)
        edges = (self.delimiter, _LF, _CR, _QUOTE)
        waits = not final and size - quotes[-1] <= MAX_QUOTED  # the last one's partner may come in the next block
        gap = np.append(np.diff(quotes), 0 if waits else MAX_QUOTED + 1)
        bad_open = np.flatnonzero(~(np.isin(before, edges) & (gap <= MAX_QUOTED)))
        bad_close = np.flatnonzero(~np.isin(after, edges))
        return _by_parity(bad_open), _by_parity(bad_close)

    def record_end(self, block: bytes, at: int, final: bool) -> int | None:
        """End of the one record that starts at `at`, by the letter of the rules; None when the block is too short to tell."""
        size = len(block)
        while True:
            if block[at : at + 1] == b'"':
                at = self._closing(block, at, final)
                if at < 0:
                    return None
            match = self.field_end.search(block, at)
            if match is None:
                return size if final else None
            at = match.end()
            if match[0] == b"\n":
                return at
            if match[0] == b"\r":
                if at == size and not final:
                    return None
                return at + 1 if block[at : at + 1] == b"\n" else at

    def _closing(self, block: bytes, at: int, final: bool) -> int:
        """Where the literal rest of a field goes on whose quote opens at `at`; -1 when the block is too short to tell."""
        last = at
        while True:
            quote = block.find(b'"', last + 1, last + 1 + MAX_QUOTED)
            if quote < 0:
                whole = final or len(block) - last > MAX_QUOTED
                return at + 1 if whole else -1
            if quote + 1 == len(block) and not final:
                return -1
            if block[quote + 1 : quote + 2] != b'"':
                return quote + 1
            last = quote + 1

    def has_unclosed_quote(self, record: bytes) -> bool:
        """Whether a record holds an opening quote that opens nothing."""
        at = 0
        while True:
            if record[at : at + 1] == b'"':
                rest = self._closing(record, at, True)
                if rest == at + 1:
                    return True
                at = rest
            match = self.field_end.search(record, at)
            if match is None or match[0] != bytes([self.delimiter]):
                return False
            at = match.end()


def _by_parity(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return places[places % 2 == 0], places[places % 2 == 1]


def _next(bad_open: np.ndarray, bad_close: np.ndarray, first: int) -> int | None:
    """The first place not before `first` in either list."""
    found = [int(bad[k]) for bad in (bad_open, bad_close) if (k := int(np.searchsorted(bad, first))) < len(bad)]
    return min(found, default=None)


_JSON_MARKS = np.zeros(256, bool)
_JSON_MARKS[[ord(c) for c in '"\\{}[],']] = True


class NotOneList(ValueError):
    """Something stands behind the end of a JSON list."""


class SplitJsonList:
    """Ends of the elements of one JSON list, each with the comma after it. The block starts after the opening bracket.

    inside   the key whose value the list is, where the file is an object that holds nothing else
    """

    def __init__(self, inside: str | None = None) -> None:
        self.inside = inside

    def __call__(self, block: bytes, final: bool) -> np.ndarray:
        ends, closing = self._parts(block)
        last = block[int(ends[-1]) if len(ends) else 0 : closing].strip()  # [] has none, and a block may end amid one
        return np.append(ends, len(block)) if last and (final or closing is not None) else ends

    def elements(self, data: bytes) -> list[bytes]:
        """The elements in a piece of a list, without the commas between them and what closes the list."""
        ends, closing = self._parts(data)
        found, at = [], 0
        for end in ends.tolist():
            found.append(data[at : end - 1].strip())
            at = end
        last = data[at:closing].strip()
        return [*found, last] if last else found

    def _parts(self, block: bytes) -> tuple[np.ndarray, int | None]:
        """Ends of the elements that a comma follows, and the place of the list's own bracket, where the block holds it. NotOneList
        where more than the end of an object stands behind that."""
        data = np.frombuffer(block, np.uint8)
        places = np.flatnonzero(_JSON_MARKS[data])
        marks = data[places]
        if b"\\" in block:
            keep = ~self._escaped(places, marks)
            places, marks = places[keep], marks[keep]
            keep = marks != _BACKSLASH
            places, marks = places[keep], marks[keep]
        quote = marks == _QUOTE
        outside = (np.cumsum(quote) % 2 == 0) & ~quote
        places, marks = places[outside], marks[outside]
        step = np.where((marks == 123) | (marks == 91), 1, np.where(marks == 44, 0, -1))
        depth = np.cumsum(step)
        closing = np.flatnonzero(depth < 0)
        last = int(closing[0]) if len(closing) else len(places)
        ends = places[:last][(marks[:last] == 44) & (depth[:last] == 0)] + 1
        if not len(closing):
            return ends, None
        end = int(places[last])
        if (behind := block[end + 1 :].strip()) not in (b"", b"}"):
            what = "behind the list's end" if self.inside is None else f"beside the list under {self.inside!r}"
            raise NotOneList(
                f"{what} stands {behind[:60]!r}; expected one list of objects, or an object with one key that holds it"
            )
        return ends, end

    @staticmethod
    def _escaped(places: np.ndarray, marks: np.ndarray) -> np.ndarray:
        """Which marks stand after an odd run of backslashes."""
        is_slash = marks == _BACKSLASH
        follows = np.zeros(len(places), bool)
        follows[1:] = is_slash[:-1] & (np.diff(places) == 1)
        starts = is_slash & ~follows
        run = np.cumsum(starts)
        first = np.flatnonzero(starts)
        place_in_run = np.where(is_slash, np.arange(len(places)) - np.append(first, 0)[np.maximum(run - 1, 0)], 0)
        even_slash = is_slash & (place_in_run % 2 == 0)  # 1st, 3rd … of a run: it escapes what follows
        escaped = np.zeros(len(places), bool)
        escaped[1:] = even_slash[:-1] & (np.diff(places) == 1)
        return escaped


class _Hashing(io.RawIOBase):
    """A file that hashes what is read from it."""

    def __init__(self, raw: BinaryIO) -> None:
        self.raw = raw
        self.hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self.raw.read(len(buffer))
        self.hash.update(data)
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        data = self.raw.read(size)
        self.hash.update(data)
        return data


def is_gz(path: str) -> bool:
    return path.lower().endswith(".gz")


def index_records(
    source: Source, path: str, shard_size: int, split: Splitter, start: int = 0, block_size: int = BLOCK
) -> TableIndex:
    """Cut a file into slices of `shard_size` records in one pass. `start`: where the first record begins (after a header)."""
    slices: list[Slice] = []
    rows = first_row = crc = 0
    offset = last = start
    with open(path, "rb") as raw:
        hashing = _Hashing(raw)
        file = cast(BinaryIO, gzip.GzipFile(fileobj=hashing)) if is_gz(path) else cast(BinaryIO, hashing)
        for block, base, ends in _blocks(source, path, file, split, start, block_size):
            done = 0
            while done < len(ends):
                take = min(first_row + shard_size - rows, len(ends) - done)
                end = int(ends[done + take - 1])
                begin = int(ends[done - 1]) if done else 0
                crc = zlib.crc32(memoryview(block)[begin:end], crc)
                rows += take
                done += take
                if rows - first_row == shard_size:
                    slices.append(
                        Slice(first_row=first_row, rows=shard_size, offset=offset, end=base + end, check=f"{crc:08x}")
                    )
                    first_row, offset, crc = rows, base + end, 0
            last = base + (int(ends[-1]) if len(ends) else 0)
        while hashing.read(BLOCK):  # gzip may leave padding behind the last member
            pass
        digest = hashing.hash.hexdigest()
    if rows > first_row:
        slices.append(Slice(first_row=first_row, rows=rows - first_row, offset=offset, end=last, check=f"{crc:08x}"))
    return TableIndex(digest, rows, slices)


def _blocks(
    source: Source, path: str, file: BinaryIO, split: Splitter, start: int, block_size: int
) -> Iterator[tuple[bytes, int, np.ndarray]]:
    """(block, its offset in the file, ends of the records in it); blank records are joined to the one that follows."""
    base = start
    rest = b""
    try:
        skipped = 0
        while skipped < start:
            skipped += len(file.read(start - skipped)) or start
        while True:
            read = file.read(max(block_size, len(rest)))
            block = rest + read if rest else read
            if not block:
                return
            ends = split(block, not read)
            ends = not_blank(block, ends) if len(ends) else ends
            last = int(ends[-1]) if len(ends) else 0
            if last:
                yield block, base, ends
            base += last
            rest = block[last:]
            if not read:
                return
            if len(rest) > MAX_RECORD:
                raise _endless(source, path, base)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SourceError(f"source {source.name}: {path}: broken gzip file near unpacked byte {base}: {error}") from error


def _endless(source: Source, path: str, at: int) -> SourceError:
    return SourceError(
        f"source {source.name}: {path}: no end of a {source.format} record within {MAX_RECORD >> 20} MiB "
        f"from byte {at}; is this the right format?"
    )


def head_of(source: Source, path: str, file: BinaryIO, split: Splitter, size: int) -> bytes:
    """The whole records among the next `size` bytes of a file, or, where that is none, the first one."""
    start, head = file.tell(), b""
    while len(head) <= MAX_RECORD:
        wanted = max(size, len(head))
        more = file.read(wanted)
        head += more
        if len(more) < wanted:
            return head
        ends = not_blank(head, split(head, False))
        if len(ends):
            return head[: int(ends[-1])]
    raise _endless(source, path, start)


def starts_of(ends: np.ndarray) -> np.ndarray:
    return np.concatenate(([0], ends[:-1])) if len(ends) else ends


def not_blank(block: bytes, ends: np.ndarray) -> np.ndarray:
    """Ends of the records that hold more than a line end."""
    starts = starts_of(ends)
    short = np.flatnonzero(ends - starts <= 2)
    if not len(short):
        return ends
    blank = [i for i in short.tolist() if not block[starts[i] : ends[i]].strip(b"\r\n")]
    return np.delete(ends, blank) if blank else ends


def read_piece(source: Source, path: str, piece: Slice) -> bytes:
    """The bytes of a slice, checked against what was there when the table was indexed."""
    size = piece["end"] - piece["offset"]
    if is_gz(path):
        data = _unpacked(path, piece["offset"], size)
    else:
        with open(path, "rb") as file:
            file.seek(piece["offset"])
            data = file.read(size)
    if f"{zlib.crc32(data):08x}" != piece["check"]:
        raise changed(source, path, piece, "other bytes")
    return data


_unpacking: OrderedDict[tuple[str, int, int], gzip.GzipFile] = OrderedDict()
"""Open gzip files by path, size and time: slices are mostly read in order, and going back means unpacking from the start."""


def _unpacked(path: str, offset: int, size: int) -> bytes:
    stat = os.stat(path)
    key = (path, stat.st_size, stat.st_mtime_ns)
    file = _unpacking.pop(key, None)
    if file is None or file.tell() > offset:
        file = gzip.GzipFile(path, "rb")
    file.seek(offset)
    data = file.read(size)
    _unpacking[key] = file
    while len(_unpacking) > 4:
        _unpacking.popitem(last=False)[1].close()
    return data


def record_bytes(data: bytes, split: Splitter) -> list[bytes]:
    """The records of a slice, blank ones left out."""
    ends = split(data, True)
    starts = starts_of(ends).tolist()
    return [record for s, e in zip(starts, ends.tolist(), strict=True) if (record := data[s:e]).strip(b"\r\n")]
