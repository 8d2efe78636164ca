"""A plain folder of pictures, with or without a text file beside each (`cat.jpg`, `cat.txt`: one caption per line).

The folder is one table; its rows are the picture files of the whole tree in the order of their relative paths. Its digest
covers names, sizes and captions, not the pictures' bytes: those are hashed when the download stage reads them.
"""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from operators.base import Reject
from pipelines.sources.base import Columns, Slice, Source, SourceError, TableIndex, changed
from pipelines.sources.rows import build

PICTURES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
MAX_SIDECAR = 1 << 20


class FolderSource(Source):
    format: Literal["folder"]
    columns: Columns = Columns(captions=["txt?"])
    """`txt` is the text file's lines; there is nothing else to map."""

    def matches(self, path: str) -> bool:
        return os.path.isdir(path)

    def index(self, path: str, shard_size: int) -> TableIndex:
        listing = _listing(self, path, fresh=True)
        slices = []
        for first in range(0, len(listing.files), shard_size):
            count = min(shard_size, len(listing.files) - first)
            slices.append(
                Slice(first_row=first, rows=count, offset=first, end=first + count, check=listing.check(first, first + count))
            )
        return TableIndex(listing.digest(self, path), len(listing.files), slices)

    def read(self, path: str, digest: str, piece: Slice) -> tuple[pa.Table, list[Reject]]:
        first, end = piece["offset"], piece["end"]
        listing = _listing(self, path)
        if listing.check(first, end) != piece["check"]:
            listing = _listing(self, path, fresh=True)
        if listing.check(first, end, path) != piece["check"]:
            raise changed(self, path, piece, "other files or sizes")
        files = listing.files[first:end]
        cells: dict[str, list[Any]] = {"txt": [_sidecar(path, name, listing.texts) for name, _ in files]}
        refs: list[str | None] = [f"file:{os.path.join(path, name)}" for name, _ in files]
        return build(self, digest, piece["first_row"], piece["rows"], cells, image_refs=refs)


@dataclass(frozen=True)
class _Listing:
    """files: (relative path with slashes, size), sorted by path.   texts: stem → (relative path, size) of the text beside it."""

    files: list[tuple[str, int]]
    texts: dict[str, tuple[str, int]]

    def check(self, first: int, end: int, path: str | None = None) -> str:
        """Hash of names and sizes of some files; of the sizes that they have now, when the folder's path is given."""
        crc = 0
        for name, size in self.files[first:end]:
            beside, text = self.texts.get(_stem(name), ("", -1))
            if path is not None:
                size = _size(os.path.join(path, name))
                text = _size(os.path.join(path, beside)) if beside else -1
            crc = zlib.crc32(f"{name}\0{size}\0{text}\n".encode("utf-8", "surrogateescape"), crc)
        return f"{crc:08x}"

    def digest(self, source: Source, path: str) -> str:
        hash = hashlib.sha256()
        for name, size in self.files:
            hash.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
            if _stem(name) in self.texts:
                with open(os.path.join(path, self.texts[_stem(name)][0]), "rb") as file:
                    hash.update(hashlib.sha256(file.read(MAX_SIDECAR)).digest())
            hash.update(b"\n")
        return hash.hexdigest()


_listings: OrderedDict[str, _Listing] = OrderedDict()
"""A folder is listed once per process: a slice needs its place in the whole order."""


def _listing(source: Source, path: str, fresh: bool = False) -> _Listing:
    if not fresh and path in _listings:
        return _listings[path]
    if not os.path.isdir(path):
        raise SourceError(f"source {source.name}: {path}: not a folder")
    files: list[tuple[str, int]] = []
    texts: dict[str, tuple[str, int]] = {}
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(os.path.join(path, folder)) as entries:
            for entry in entries:
                name = f"{folder}{entry.name}"
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(name + "/")
                elif entry.is_file():
                    if name.lower().endswith(PICTURES):
                        files.append((name, entry.stat().st_size))
                    elif name.lower().endswith(".txt") and (name.endswith(".txt") or _stem(name) not in texts):
                        texts[_stem(name)] = name, entry.stat().st_size
    if not files:
        raise SourceError(f"source {source.name}: {path}: no pictures in it ({', '.join(PICTURES)})")
    files.sort()
    stems = {_stem(name) for name, _ in files}
    _listings[path] = listing = _Listing(files, {stem: text for stem, text in texts.items() if stem in stems})
    while len(_listings) > 4:
        _listings.popitem(last=False)
    return listing


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return -2


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _sidecar(path: str, name: str, texts: dict[str, tuple[str, int]]) -> list[str]:
    if _stem(name) not in texts:
        return []
    with open(os.path.join(path, texts[_stem(name)][0]), "rb") as file:
        data = file.read(MAX_SIDECAR)
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")  # "Unicode", as Windows calls it
    text = data.decode("utf-16" if wide else "utf-8-sig", "replace")
    return re.split("\r\n?|\n", text)  # and not at U+2028 and its like, which stand within a caption
