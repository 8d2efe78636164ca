"""What every source shares: its manifest, its errors, the cut of a table into slices, the identity of a sample."""

from __future__ import annotations

import codecs
import difflib
import glob
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, TypedDict

import pyarrow as pa
from pydantic import AfterValidator, BeforeValidator, Field

from operators.base import Reject, Settings


class SourceError(ValueError):
    """A table or a manifest that cannot be used at all: the run stops. A bad row is a Reject instead."""


class Slice(TypedDict):
    """One shard's share of a table. Plain JSON, so that a plan can carry it.

    first_row, rows   row numbers in the table
    offset, end       where to read: bytes of the (unpacked) file, or row groups for Parquet, or entries of a folder
    check             hash of what lies there, so that a table that changed under a run is noticed
    """

    first_row: int
    rows: int
    offset: int
    end: int
    check: str


@dataclass(frozen=True)
class TableIndex:
    """One pass over a table.

    digest   SHA-256 of the table, hex; part of every sample's identity
    rows     how many rows it has, the bad ones included
    """

    digest: str
    rows: int
    slices: list[Slice] = field(default_factory=list)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[list[str], BeforeValidator(_listed)]


def _like_ascii(encoding: str) -> str:
    marks = ',"\r\n{}[]'
    try:
        fits = marks.encode("ascii").decode(encoding, "replace") == marks
    except (LookupError, UnicodeError):
        fits = False
    if not fits:
        raise ValueError(f"expected an encoding like utf-8, gb18030 or latin-1, found {encoding!r}")
    return encoding


Encoding = Annotated[str, AfterValidator(_like_ascii)]
"""One in which commas, quotes, brackets and line ends are the ASCII ones (not utf-16)."""


class Columns(Settings):
    """Which column of the table means what. A name ending in `?` may be missing from the table; any other must be there.

    captions and long_captions are lists: all texts found in all named columns are kept (a cell may itself hold a list). A
    row without any usable text is refused, unless all of these columns are optional. In YAML, quote names with `?` in `[…]`.
    """

    url: str | None = None
    image: str | None = None
    """File name of a local picture inside the source's `image_folder`."""
    captions: Names = Field(default_factory=list)
    long_captions: Names = Field(default_factory=list)
    regions: Names = Field(default_factory=list)
    """Columns with lists of [start, end, x1, y1, x2, y2, score]: characters of the first caption column, normalised box.
    A box that an earlier column already has is not taken again."""
    width: str | None = None
    height: str | None = None
    similarity: str | None = None
    nsfw: str | None = None
    sha256: str | None = None
    license: str | None = None
    language: str | None = None

    def names(self) -> list[str]:
        """All column names in use, without the `?`, each once."""
        found: list[str] = []
        for value in self.model_dump().values():
            found += [value] if isinstance(value, str) else value or []
        return list(dict.fromkeys(bare(name) for name in found))

    def required(self) -> list[str]:
        """Names that a table must have."""
        found: list[str] = []
        for value in self.model_dump().values():
            found += [value] if isinstance(value, str) else value or []
        return [name for name in dict.fromkeys(found) if not name.endswith("?")]


def bare(name: str) -> str:
    return name.removesuffix("?")


class Source(Settings):
    """A manifest: where tables lie, how their columns map, licence and language. One subclass per format."""

    name: str
    format: str
    patterns: Names = Field(alias="tables")
    """Files or patterns, `tables` in the YAML; `${VAR}` and `${VAR:-default}` are taken from the environment."""
    base: str = "."
    """Folder against which relative `tables` and `image_folder` are read; `${VAR}` works here too."""
    columns: Columns = Columns()
    language: str | None = Field(None, pattern="^[a-z]{2,3}$")
    """Of the captions, "en" or "zh", where no column says so."""
    license: str | None = None
    """Where no column says so."""
    image_folder: str | None = None
    """Where the pictures named by `columns.image` lie."""
    max_caption_chars: int = Field(4000, ge=1)
    """Longer short captions are refused: they are pages, not captions."""
    about: str = ""
    """What it is and where it comes from, for the data set card."""

    points_at_pictures: ClassVar[bool] = False
    """Whether a column has to say where a row's picture is."""
    reasons: ClassVar[dict[str, str]] = {
        "bad_row": "the row does not have the table's number of fields, or is not an object",
        "bad_json": "the row is not valid JSON",
        "unclosed_quote": "the row opens a quote that is never closed",
        "row_too_long": "the row is longer than any honest one",
        "no_url": "the row has no picture address",
        "bad_url": "the picture address is not a usable http(s) address",
        "no_picture": "the sample has no picture, or names one outside its folder",
        "no_caption": "none of the row's captions is usable",
        "caption_too_long": "a caption above `max_caption_chars` (item)",
        "bad_encoding": "a caption whose characters were lost before it came here (item)",
        "bad_box": "a box that is inverted, empty, outside the picture or not a number (item)",
        "bad_span": "a box whose characters lie outside the caption, or are blank, or which has no text of its own (item)",
    }

    def path(self, written: str) -> str:
        """A path of the manifest with variables filled in and `base` in front."""
        path = expand(written, self.name)
        return path if os.path.isabs(path) else os.path.normpath(os.path.join(expand(self.base, self.name), path))

    def matches(self, path: str) -> bool:
        """Whether what a pattern found is a table of this format."""
        return os.path.isfile(path)

    def cut(self) -> str:
        """The settings by which a table's bytes become rows: under others, row 7 is another one."""
        return self.format

    def beside(self, path: str) -> list[str]:
        """Other files whose content is part of this table's."""
        return []

    def tables(self) -> list[str]:
        """The tables there are, in the order of the manifest."""
        found: list[str] = []
        for written in self.patterns:
            path = self.path(written)
            if "://" in expand(written, self.name):
                raise SourceError(
                    f"source {self.name}: tables: {written}: tables are read as files; copy them to where all machines see them"
                )
            found_here = [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))  # a name may hold brackets
            here = [p for p in found_here if self.matches(p)]
            if not here:
                raise SourceError(f"source {self.name}: tables: nothing matches {path}" + self._nearby(path))
            found += here
        return list(dict.fromkeys(found))

    def _nearby(self, path: str) -> str:
        if os.path.isdir(path):
            ending = next((os.path.splitext(name)[1] for name in sorted(os.listdir(path))), "")
            return f" that is a file: it is a folder; name the files in it, as in {path}/*{ending}"
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            return f" (the folder {folder} does not exist)"
        names = sorted(os.listdir(folder))
        return (
            f" ({folder} holds {', '.join(names[:5])}{' …' if len(names) > 5 else ''})"
            + nearest(os.path.basename(path), names, "")
            if names
            else f" ({folder} is empty)"
        )

    def index(self, path: str, shard_size: int) -> TableIndex:
        raise NotImplementedError

    def read(self, path: str, digest: str, piece: Slice) -> tuple[pa.Table, list[Reject]]:
        raise NotImplementedError


def expand(text: str, who: str) -> str:
    """`${VAR}` and `${VAR:-default}` from the environment."""

    def value(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        found = os.environ.get(name) or default
        if found is None:
            raise SourceError(f"source {who}: {text}: the environment variable {name} is not set")
        return found

    return os.path.expanduser(re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", value, text))


def nearest(name: str, valid: Iterable[str], otherwise: str | None = None) -> str:
    """`. Did you mean X?`, or the list of what there is."""
    names = list(valid)
    lower = {n.lower(): n for n in names}
    close = difflib.get_close_matches(name.lower(), lower, 1, 0.5)
    if close:
        return f". Did you mean {lower[close[0]]}?"
    return otherwise if otherwise is not None else f". There is: {', '.join(names[:20]) or 'nothing'}"


def check_columns(source: Source, path: str, present: Iterable[str]) -> None:
    """Stop when a column that the manifest needs is not in the table, or one that it names is there more than once."""
    there = list(present)
    for name in source.columns.names():
        if there.count(name) > 1:
            raise SourceError(f"source {source.name}: {path}: {there.count(name)} columns are called {name!r}")
    for name in source.columns.required():
        if name not in there:
            shown = ", ".join(there[:12]) + (" …" if len(there) > 12 else "")
            missing = f"source {source.name}: {path}: no column {name!r}; the table has {shown or 'no columns'}"
            raise SourceError(missing + nearest(name, there, ""))


def uid_of(source_name: str, digest: str, row: int) -> str:
    """128-bit identity of row `row` of the table with this digest, 32 hex digits."""
    return hashlib.sha256(f"{source_name}\0{digest}\0{row}".encode()).hexdigest()[:32]


_PACKED = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zX": "xz",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip, as spreadsheets are",
    b"\x1f\x8b": "gzip",
}


def refuse_unreadable(whose: str, head: bytes) -> None:
    """Stop at a text file that is packed, or whose first bytes say that it is UTF-16: commas, quotes and line ends are looked for as
    single bytes."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise SourceError(f"{whose}: UTF-16; convert it to UTF-8")
    for mark, what in _PACKED.items():
        if head.startswith(mark):
            raise SourceError(
                f"{whose}: packed with {what}; unpack it (CSV and JSON lines are also read as gzip, in files ending in .gz)"
            )


SURE = 10
"""Rows beyond ASCII that tell what a file is encoded in. Of fewer any may be damaged, or be right in two encodings by chance."""


def check_encoding(whose: str, rows: Sequence[bytes], encoding: str) -> None:
    """Stop where the first rows of a text file are plainly in another encoding than its manifest says. GB 18030 read as UTF-8 has
    all its captions refused; UTF-8 read as GB 18030 is other words, and nobody would notice."""
    rows = [row for row in rows if not row.isascii()]
    if len(rows) < SURE:
        return
    fits = sum(_decodes(row, "utf-8") for row in rows)
    if not codecs.lookup(encoding).name.startswith("utf-8"):
        if fits == len(rows):
            raise SourceError(f"{whose}: its first rows are UTF-8, not {encoding}: leave `encoding` out")
    elif SURE * fits < len(rows):
        name = "`encoding: gb18030`" if all(_decodes(row, "gb18030") for row in rows) else "which it is as `encoding`"
        raise SourceError(
            f"{whose}: {len(rows) - fits} of the first {len(rows)} rows beyond ASCII are not {encoding}: say {name}"
        )


def _decodes(row: bytes, encoding: str) -> bool:
    try:
        row.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def changed(source: Source, path: str, piece: Slice, found: str) -> SourceError:
    rows = f"rows {piece['first_row']} to {piece['first_row'] + piece['rows'] - 1}"
    return SourceError(
        f"source {source.name}: {path} changed since it was indexed: {rows}: {found}. "
        "Put the old file back, or index the new one as a table of its own"
    )
