"""LIT-CN's text file (and DCI-CN's, DOCCI-CN's): `image_path<TAB>caption` a line, long Chinese captions.

Lines end with \\n or \\r\\n, or, in a file whose first MiB has none of these, with \\r.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, ClassVar

from pipelines.imports.base import BadRow, Piece, Reader, Row, text_in
from pipelines.sources.base import refuse_unreadable

MAX_LINE = 1 << 20


class LitCnReader(Reader):
    name: ClassVar[str] = "lit-cn"
    version: ClassVar[int] = 3
    pattern: ClassVar[str] = "image_caption_*.txt"

    def pieces(self, path: Path, shard_size: int) -> tuple[str, list[Piece]]:
        whole = hashlib.sha256()
        pieces: list[Piece] = []
        at = start = rows = first = 0
        with open(path, "rb") as file:
            head = file.read(MAX_LINE)
            refuse_unreadable(str(path), head)
            mark = "\r" if b"\r" in head and b"\n" not in head else "\n"
            file.seek(0)
            for line, size in _lines(file, mark.encode(), whole.update):
                at += size
                if not line.strip():
                    continue
                rows += 1
                if rows - first == shard_size:
                    pieces.append(Piece(first, shard_size, [start, at, mark]))
                    first, start = rows, at
        if rows > first:
            pieces.append(Piece(first, rows - first, [start, at, mark]))
        return whole.hexdigest(), pieces

    def rows(self, path: Path, digest: str, piece: Piece) -> Iterator[Row | tuple[int, BadRow]]:
        start, end, mark = piece.where
        number = piece.first_row
        with open(path, "rb") as file:
            file.seek(start)
            for line, size in _lines(file, mark.encode()):
                start += size
                if start > end:
                    break
                if not line.strip():
                    continue
                try:
                    if size > MAX_LINE:
                        raise BadRow("bad_row", f"a line of {size:,} bytes > {MAX_LINE:,}")
                    yield self._row(number, line)
                except BadRow as bad:
                    yield number, bad
                number += 1

    @staticmethod
    def _row(number: int, line: bytes) -> Row:
        path, tab, caption = line.decode("utf-8", "replace").removeprefix("\ufeff").partition("\t")
        if not tab:
            raise BadRow("bad_row", f"no tab in {path[:80]!r}")
        if "\t" in caption.strip().partition("\r")[2]:
            raise BadRow("bad_row", f"a line that holds \\r and then a tab may be two: {caption[:80]!r}")
        text = text_in(caption)
        if not text:
            raise BadRow("no_text", "an empty caption")
        return Row(number, path, "zh", long_captions=[text])


def _lines(file: BinaryIO, mark: bytes, saw: Callable[[bytes], object] = lambda _: None) -> Iterator[tuple[bytes, int]]:
    """Each line without the byte `mark` at its end, or its first MAX_LINE bytes, with its whole length; `saw` is given every byte."""
    line, size = b"", 0
    while block := file.read(MAX_LINE):
        saw(block)
        *ended, rest = block.split(mark)
        for part in ended:
            yield (line + part)[:MAX_LINE], size + len(part) + 1
            line, size = b"", 0
        line, size = (line + rest)[:MAX_LINE], size + len(rest)
    if size:
        yield line, size
