"""What a run needs of a store: a handful of calls on whole objects, all of which are all or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


class StoreError(ValueError):
    """A store that cannot be used; says why and what to change."""


class StoreFailed(OSError):
    """A store that is not reached, or did not do what it can do: it may be another matter later."""


class Store(Protocol):
    """Objects under keys, `/` between their parts. A reader sees an object whole or not at all.

    Missing objects raise FileNotFoundError; a store that is away raises StoreFailed, an OSError.
    """

    def read(self, key: str, offset: int = 0, size: int | None = None) -> bytes:
        """An object, or `size` bytes of it from `offset`."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write, or replace, in one step."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Write unless there is such an object; True for the one caller that wrote it, also when he had to ask twice."""
        ...

    def upload(self, file: Path, key: str) -> None:
        """Put a local file of any size; nothing is visible before all of it is there."""
        ...

    def download(self, key: str, file: Path) -> None: ...

    def copy(self, source: str, target: str) -> None: ...

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Keys that begin with `prefix`, with their sizes, in order."""
        ...

    def below(self, prefix: str) -> Iterator[tuple[str, bool]]:
        """Names right below `prefix`, which is empty or ends in `/`, and whether each is a folder: has more parts after it."""
        ...

    def delete(self, key: str) -> None:
        """Remove; nothing happens where there is none."""
        ...

    def size(self, key: str) -> int: ...

    def unfinished(self, prefix: str, *, delete: bool) -> int:
        """Uploads below `prefix` that were begun and never ended, which no listing shows and which are paid for; with `delete` they are
        given up. 0 where the store has no such thing, or ends them itself."""
        ...
