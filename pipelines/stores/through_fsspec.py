"""Stores by way of fsspec: GCS. What it claims of `create` is tried out before a run begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.stores.base import StoreError, StoreFailed

TRIES = 3
"""Of a creation that found the name taken and, looking who took it, nothing there."""


class FsspecStore:
    """A file system of fsspec that knows `pipe_file(mode="create")`.

    troubles   what it raises beside OSError when a store is not reached, does not let one in, or fails
    """

    def __init__(self, fs: Any, bucket: str, troubles: tuple[type[Exception], ...] = ()) -> None:
        self.fs, self.bucket, self.troubles = fs, bucket, troubles

    @classmethod
    def gcs(cls, bucket: str) -> FsspecStore:
        """Google's, where "create" is `if_generation_match=0`.

        It is gcsfs's plain file system: its other one first asks an API of its own what kind of bucket it is, by gRPC, and waits for
        minutes where that is not reached.
        """
        try:
            from aiohttp import ClientError
            from gcsfs.core import GCSFileSystem
            from gcsfs.retry import HttpError
            from google.auth.exceptions import GoogleAuthError
        except ImportError as error:
            raise StoreError("a root on gs:// needs the package gcsfs: pip install gcsfs") from error
        return cls(GCSFileSystem(use_listings_cache=False), bucket, (HttpError, ClientError, GoogleAuthError))

    @classmethod
    def memory(cls, bucket: str) -> FsspecStore:
        from fsspec.implementations.memory import MemoryFileSystem

        return cls(MemoryFileSystem(), bucket)

    def _path(self, key: str) -> str:
        return f"{self.bucket}/{key}"

    @contextmanager
    def _errors(self, *, writes: bool = False) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if writes:
                raise StoreError(f"{self.bucket}: there is no such bucket") from error
            raise
        except self.troubles as error:
            refused = getattr(error, "code", None) in (401, 403)
            raise (StoreError if refused else StoreFailed)(f"{self.bucket}: {type(error).__name__}: {error}") from error

    def read(self, key: str, offset: int = 0, size: int | None = None) -> bytes:
        with self._errors():
            return self.fs.cat_file(self._path(key), start=offset or None, end=None if size is None else offset + size)

    def put(self, key: str, data: bytes) -> None:
        with self._errors(writes=True):
            self.fs.pipe_file(self._path(key), data)

    def create(self, key: str, data: bytes) -> bool:
        for _ in range(TRIES):
            try:
                with self._errors(writes=True):
                    self.fs.pipe_file(self._path(key), data, mode="create")
                return True
            except FileExistsError as error:
                taken = error
            try:
                return self.read(key) == data  # a request that was sent again meets its own object
            except FileNotFoundError:  # removed since: the name is free again
                continue
        raise taken

    def upload(self, file: Path, key: str) -> None:
        if not file.is_file():
            raise FileNotFoundError(file)
        with self._errors(writes=True):
            self.fs.put_file(str(file), self._path(key))

    def download(self, key: str, file: Path) -> None:
        with self._errors():
            self.fs.get_file(self._path(key), str(file))

    def copy(self, source: str, target: str) -> None:
        with self._errors():
            self.fs.cp_file(self._path(source), self._path(target))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        folder = self._path(prefix).rstrip("/")
        cut = len(self.fs._strip_protocol(self.bucket)) + 1
        try:
            with self._errors():
                found = self.fs.find(folder, detail=True)
        except FileNotFoundError:
            return
        yield from sorted((path[cut:], int(about["size"])) for path, about in found.items() if path[cut:].startswith(prefix))

    def below(self, prefix: str) -> Iterator[tuple[str, bool]]:
        rests = (key[len(prefix) :] for key, _ in self.list(prefix))
        yield from sorted({(rest.partition("/")[0], "/" in rest) for rest in rests})

    def delete(self, key: str) -> None:
        try:
            with self._errors():
                self.fs.rm_file(self._path(key))
        except FileNotFoundError:
            return

    def size(self, key: str) -> int:
        with self._errors():
            about = self.fs.info(self._path(key))
        if about["type"] != "file":
            raise FileNotFoundError(self._path(key))
        return int(about["size"])

    def unfinished(self, prefix: str, *, delete: bool) -> int:
        """GCS ends uploads that nobody goes on with by itself, after a week."""
        return 0
