"""Roots on HDFS, by the client `hdfs-native`, which needs no Java. A rename that does not overwrite publishes.

Arrow's file system of the same name will not do: where HDFS refuses to rename onto a file, it removes that file and renames again.
Name services and Kerberos are read from the files in HADOOP_CONF_DIR, as by Hadoop's own programs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from pipelines.stores.base import StoreError, StoreFailed

TRIES = 3
"""Of a creation that found the name taken and, looking who took it, nothing there."""
FIRST_LOOK = {"dfs.client.failover.max.attempts": "3"}
"""Of a process: a wrong address is told after seconds. Later on the client's patience is that of the cluster's settings (minutes)."""
PIECE = 1 << 20
LINE_END = re.compile(r"\n|\\n")
"""As it is, and as it stands in a quoted string."""


class HdfsStore:
    """host   the name node's HOST:PORT, or a name service"""

    def __init__(self, host: str) -> None:
        try:
            from hdfs_native import Client, WriteOptions
        except ImportError as error:
            raise StoreError("a root on hdfs:// needs the package hdfs-native: pip install hdfs-native") from error
        self.host = host
        try:
            self.client, self.options = Client(f"hdfs://{host}"), WriteOptions
        except RuntimeError as error:  # no address, or settings that contradict themselves
            raise StoreError(f"hdfs://{host}: {error}") from error
        with self._errors():
            Client(f"hdfs://{host}", FIRST_LOOK).get_file_info("/")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What a name node refuses or fails at comes as RuntimeError, with its exception's name and where in its program that was."""
        try:
            yield
        except (FileNotFoundError, FileExistsError) as error:
            raise type(error)(LINE_END.split(str(error))[0]) from error
        except (OSError, RuntimeError) as error:
            told = LINE_END.split(str(error))[0]
            kind = StoreError if "AccessControlException" in told else StoreFailed
            raise kind(f"hdfs://{self.host}: {told}") from error

    def _write(self, key: str, pieces: Iterator[bytes]) -> str:
        """Under a name of its own beside `key`, which `gc` knows; returns that."""
        folder, _, name = f"/{key}".rpartition("/")
        scratch = f"{folder}/.{name}.{uuid4().hex[:12]}.tmp"
        with self.client.create(scratch, self.options(create_parent=True)) as stream:
            for piece in pieces:
                stream.write(piece)
        return scratch

    def _replace(self, key: str, pieces: Iterator[bytes]) -> None:
        with self._errors():
            self.client.rename(self._write(key, pieces), f"/{key}", overwrite=True)

    def read(self, key: str, offset: int = 0, size: int | None = None) -> bytes:
        with self._errors():
            file = self.client.read(f"/{key}")
            left = max(0, len(file) - offset)
            return bytes(file.read_range(min(offset, len(file)), left if size is None else min(size, left)))

    def put(self, key: str, data: bytes) -> None:
        self._replace(key, iter([data]))

    def create(self, key: str, data: bytes) -> bool:
        with self._errors():
            scratch = self._write(key, iter([data]))
            for _ in range(TRIES):
                try:
                    self.client.rename(scratch, f"/{key}", overwrite=False)
                    return True
                except FileExistsError as error:
                    taken = error
                try:
                    here = self.read(key)
                except FileNotFoundError:  # removed since: the name is free again
                    continue
                self.client.delete(scratch)
                return here == data
            raise taken

    def upload(self, file: Path, key: str) -> None:
        with file.open("rb") as source:
            self._replace(key, iter(lambda: source.read(PIECE), b""))

    def download(self, key: str, file: Path) -> None:
        with self._errors():
            source = self.client.read(f"/{key}")
            with file.open("wb") as target:
                target.writelines(source.read_range_stream(0, len(source)))

    def copy(self, source: str, target: str) -> None:
        with self._errors():
            file = self.client.read(f"/{source}")
            self._replace(target, file.read_range_stream(0, len(file)))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        folder = f"/{prefix}".rpartition("/")[0]
        found = sorted((about.path[1:], int(about.length)) for about in self._below(folder, deep=True) if not about.isdir)
        yield from (hit for hit in found if hit[0].startswith(prefix))

    def below(self, prefix: str) -> Iterator[tuple[str, bool]]:
        """A folder without a file in it, which stays behind when its last one is removed, is none."""
        for about in sorted(self._below(f"/{prefix}".rstrip("/"), deep=False), key=lambda about: about.path):
            if not about.isdir or any(not within.isdir for within in self._below(about.path, deep=True)):
                yield about.path.rpartition("/")[2], about.isdir

    def _below(self, folder: str, *, deep: bool) -> Iterator[Any]:
        try:
            with self._errors():
                yield from self.client.list_status(folder or "/", deep)
        except FileNotFoundError:
            return

    def delete(self, key: str) -> None:
        with self._errors():
            self.client.delete(f"/{key}")

    def size(self, key: str) -> int:
        with self._errors():
            about = self.client.get_file_info(f"/{key}")
        if about.isdir:
            raise FileNotFoundError(f"/{key}")
        return int(about.length)

    def unfinished(self, prefix: str, *, delete: bool) -> int:
        """What is written lies under a name of its own, which `gc` knows, until it is whole."""
        return 0
