"""An existing WebDataset: each tar is a table, each sample (adjacent members with one key) a row.

A column name is a member's extension (`txt`, `en.txt`), or a field of the sample's JSON member (`json.caption`).
"""

from __future__ import annotations

import tarfile
import zlib
from dataclasses import dataclass, field
from typing import IO, Any, Literal, cast

import pyarrow as pa

from operators.base import Reject
from pipelines.sources.base import Columns, Slice, Source, SourceError, TableIndex, changed
from pipelines.sources.cleaning import json_of
from pipelines.sources.folder import PICTURES
from pipelines.sources.json_lines import field_of
from pipelines.sources.records import _Hashing
from pipelines.sources.rows import build

MAX_MEMBER = 4 << 20
"""Bytes of a text or JSON member."""


@dataclass
class _Sample:
    """key, the offset of its first header, the picture's place, the small members by extension, and what cannot be read."""

    key: str
    offset: int
    picture: tuple[int, int] | None = None
    members: dict[str, bytes] = field(default_factory=dict)
    bad: tuple[str, str] | None = None


class WebDatasetSource(Source):
    format: Literal["webdataset"]
    columns: Columns = Columns(captions=["txt?"])

    def index(self, path: str, shard_size: int) -> TableIndex:
        slices: list[Slice] = []
        rows = 0
        key: str | None = None
        crc = offset = 0
        with open(path, "rb") as raw:
            hashing = _Hashing(raw)
            try:
                with tarfile.open(fileobj=cast(IO[bytes], hashing), mode="r|", bufsize=1 << 20) as tar:
                    for member in tar:
                        if not member.isfile():
                            continue
                        found, _ = split_name(member.name)
                        if found != key:
                            if rows and rows % shard_size == 0:
                                slices.append(_slice(rows - shard_size, shard_size, offset, member.offset, crc))
                                offset, crc = member.offset, 0
                            rows, key = rows + 1, found
                        crc = _mark(crc, member)
                    end = tar.offset
            except (tarfile.TarError, EOFError) as error:
                raise SourceError(f"source {self.name}: {path}: not a whole tar file: {error}") from error
            while hashing.read(1 << 20):
                pass
        if not rows:
            raise SourceError(f"source {self.name}: {path}: no samples in it")
        first = rows - ((rows - 1) % shard_size + 1)
        slices.append(_slice(first, rows - first, offset, end, crc))
        return TableIndex(hashing.hash.hexdigest(), rows, slices)

    def read(self, path: str, digest: str, piece: Slice) -> tuple[pa.Table, list[Reject]]:
        samples = self._samples(path, piece)
        names = self.columns.names()
        cells: dict[str, list[Any]] = {name: [] for name in names}
        refs: list[str | None] = []
        bad: dict[int, tuple[str, str]] = {}
        for i, sample in enumerate(samples):
            place = sample.picture
            refs.append(f"tar:{path}#{place[0]}+{place[1]}" if place else None)
            meta = None
            try:
                if "json" in sample.members:
                    meta = json_of(sample.members["json"].decode("utf-8-sig", "replace"))
            except (ValueError, RecursionError) as error:
                if any(name.startswith("json.") and name not in sample.members for name in names):
                    sample.bad = "bad_json", f"{sample.key}.json: {error}"
            if sample.bad:
                bad[i] = sample.bad
            for name in names:
                if name in sample.members and name != "json":
                    cells[name].append(sample.members[name].decode("utf-8-sig", "replace"))
                else:
                    cells[name].append(field_of(meta, name.removeprefix("json.")))
        return build(self, digest, piece["first_row"], piece["rows"], cells, bad, refs)

    def _samples(self, path: str, piece: Slice) -> list[_Sample]:
        samples: list[_Sample] = []
        crc = 0
        wanted = {"json", *self.columns.names()}
        with open(path, "rb") as file:
            file.seek(piece["offset"])
            try:
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    for member in tar:
                        if member.offset >= piece["end"]:
                            break
                        if not member.isfile():
                            continue
                        key, extension = split_name(member.name)
                        if not samples or samples[-1].key != key:
                            samples.append(_Sample(key, member.offset))
                        crc = _mark(crc, member)
                        if f".{extension}".lower().endswith(PICTURES):
                            samples[-1].picture = samples[-1].picture or (member.offset_data, member.size)
                        elif extension in wanted and member.size > MAX_MEMBER:
                            samples[-1].bad = "row_too_long", f"{member.name}: {member.size} bytes > {MAX_MEMBER}"
                        elif extension in wanted:
                            samples[-1].members[extension] = cast(IO[bytes], tar.extractfile(member)).read()
            except (tarfile.TarError, EOFError) as error:
                raise changed(self, path, piece, f"not a whole tar file: {error}") from error
        if f"{crc:08x}" != piece["check"] or len(samples) != piece["rows"]:
            raise changed(self, path, piece, "other members")
        return samples


def split_name(name: str) -> tuple[str, str]:
    """Key and extension: the key ends at the first dot of the file name, the folders before it belong to the key."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folder}{slash}{stem}", extension


def _mark(crc: int, member: tarfile.TarInfo) -> int:
    return zlib.crc32(f"{member.name}\0{member.size}\0{member.mtime}\n".encode("utf-8", "surrogateescape"), crc)


def _slice(first: int, rows: int, offset: int, end: int, crc: int) -> Slice:
    return Slice(first_row=first, rows=rows, offset=offset, end=end, check=f"{crc:08x}")
