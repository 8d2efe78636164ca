"""A place in an object store that acts like a `Path`, as far as this project uses one."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from pipelines.stores.base import Store

WHOLE = 32 << 20
"""Bytes up to which an object that is opened is read in one request."""
PIECE = 1 << 20
"""Bytes that are fetched at least of one that is read piece by piece."""


class Place(PurePosixPath):
    """Parts are the scheme, the bucket, and those of the key. Folders are nothing but common beginnings of keys."""

    @property
    def store(self) -> Store:
        from pipelines.stores import store_of

        return store_of(self.parts[0].rstrip(":"), self.parts[1])

    @property
    def key(self) -> str:
        return "/".join(self.parts[2:])

    def __str__(self) -> str:
        if not self.parts or not self.parts[0].endswith(":"):  # what `relative_to` gives
            return "/".join(self.parts) or "."
        return f"{self.parts[0]}//{'/'.join(self.parts[1:])}"

    def __repr__(self) -> str:
        return f"Place({str(self)!r})"

    def __fspath__(self) -> str:
        raise TypeError(f"{self} is no local file")

    def __reduce__(self) -> Any:
        return Place, self.parts

    def read_bytes(self) -> bytes:
        return self.store.read(self.key)

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def open(self, mode: str = "rb") -> BinaryIO:
        if mode != "rb":
            raise ValueError(f"{self}: a place in a store is opened for reading only")
        head = self.store.read(self.key, 0, WHOLE)
        return io.BytesIO(head) if len(head) < WHOLE else self.pieces()

    def pieces(self) -> BinaryIO:
        """Opened for reading a small part of it: nothing is fetched before it is asked for."""
        return io.BufferedReader(_Ranges(self.store, self.key, self.store.size(self.key)), PIECE)

    def stat(self) -> Any:
        return SimpleNamespace(st_size=self.store.size(self.key))

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        try:
            self.store.size(self.key)
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        return next(self.store.list(self._prefix), None) is not None

    @property
    def _prefix(self) -> str:
        return f"{self.key}/" if self.key else ""

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: there are no folders."""

    def unlink(self, missing_ok: bool = False) -> None:
        if not missing_ok and not self.is_file():
            raise FileNotFoundError(str(self))
        self.store.delete(self.key)

    def walk(self) -> Iterator[tuple[Place, int]]:
        """Everything below, with sizes."""
        for key, size in self.store.list(self._prefix):
            yield self._at(key), size

    def _at(self, key: str) -> Place:
        return Place(*self.parts[:2], *key.split("/"))

    def below(self) -> Iterator[tuple[Place, bool]]:
        """What is right below, and whether it is a folder."""
        return ((self / name, inner) for name, inner in self.store.below(self._prefix))

    def iterdir(self) -> Iterator[Place]:
        return (found for found, _ in self.below())

    def glob(self, pattern: str) -> Iterator[Place]:
        """As `Path.glob`, for patterns without `**`."""
        deep = len(self.parts) + pattern.count("/") + 1
        return (found for found, _ in self.walk() if len(found.parts) == deep and found.match(pattern))

    def rglob(self, pattern: str) -> Iterator[Place]:
        return (found for found, _ in self.walk() if found.match(pattern))


class _Ranges(io.RawIOBase):
    """A large object, read piece by piece."""

    def __init__(self, store: Store, key: str, size: int) -> None:
        self.store, self.key_, self.size, self.at = store, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self.size - self.at)
        if size <= 0:
            return 0
        data = self.store.read(self.key_, self.at, size)
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)
