"""Feature cache: pictures' vectors on disk, with where each picture lies, growing by whole commits.

    cache.json             format, and the identity of what made the vectors: checkpoint digest, patches, precision, width
    features.f16           unit vectors, float16, little endian, one after another; only appended to
    entries/000042.parquet one commit: what became of some pictures, and which vectors came with it (`first`, `count`)
    index/                 search indexes, made from the above and thrown away at will
    lock                   held by the one writer

A commit appends vectors, syncs them, and then publishes its entries by renaming: a process killed at any instant leaves vectors that
no entry counts, and the next writer cuts them off. The newest entry of a place is the one in force. Readers map what was committed
when they opened.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fgclip2_train.files import publish

FORMAT = "fineloom-features/1"
ENTRY = pa.schema(
    [
        ("place", pa.string()),  # path of a picture, or path of a shard # uid
        ("source", pa.string()),  # the folder or pattern that it was found by
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("modified", pa.int64()),  # nanoseconds; 0 within a shard
        ("vector", pa.int64()),  # row in features.f16; null where there is none
        ("reason", pa.string()),  # why there is none: "gone", or what is wrong with the picture
    ]
)
GONE = "gone"


@dataclass
class Cache:
    """What was committed when it was opened. entries: in force, one per place; history: all, oldest first. rows: vectors in all."""

    folder: Path
    identity: dict[str, Any]
    entries: pa.Table
    history: pa.Table
    rows: int

    @classmethod
    def open(cls, folder: str | Path, identity: dict[str, Any] | None = None) -> Cache:
        """Refuses a folder that is no cache, a damaged one, and one made by another checkpoint or otherwise than `identity` says."""
        folder = Path(folder)
        found = _read_identity(folder)
        if found is None:
            raise FileNotFoundError(f"{folder}: no feature cache there. `index` makes one")
        if identity is not None:
            _compare(folder, found, identity)
        entries, rows = _read_entries(folder)
        size = rows * found["width"] * 2
        features = folder / "features.f16"
        if rows and (not features.is_file() or features.stat().st_size < size):
            raise ValueError(
                f"{features}: shorter than the {rows} vectors that its entries count; delete {folder} and index again"
            )
        return cls(folder, found, in_force(entries), entries, rows)

    def check(self, identity: dict[str, Any]) -> None:
        """Refuse to be used with a model that made none of it."""
        _compare(self.folder, self.identity, identity)

    @property
    def width(self) -> int:
        return self.identity["width"]

    def vectors(self) -> np.ndarray:
        """float16 [rows, width], read from the disk where touched."""
        if not self.rows:
            return np.zeros((0, self.width), dtype="<f2")
        return np.memmap(self.folder / "features.f16", dtype="<f2", mode="r", shape=(self.rows, self.width))

    def live(self) -> np.ndarray:
        """Rows of vectors that a picture has, in order."""
        return np.unique(self.entries["vector"].drop_null().to_numpy())

    def places(self) -> Places:
        return Places(self.entries)

    def bad(self) -> list[dict[str, str]]:
        """Pictures without a vector, and why."""
        rows = self.entries.filter(pc.and_(pc.is_null(self.entries["vector"]), pc.not_equal(self.entries["reason"], GONE)))
        return rows.select(["place", "reason"]).to_pylist()


class Places:
    """Where the picture of a vector lies; equal pictures share one."""

    def __init__(self, entries: pa.Table):
        with_vector = entries.filter(pc.is_valid(entries["vector"])).sort_by([("vector", "ascending"), ("place", "ascending")])
        self._vectors = with_vector["vector"].to_numpy()
        self._places = with_vector["place"].combine_chunks()

    def __call__(self, vector: int) -> list[str]:
        first, last = np.searchsorted(self._vectors, [vector, vector + 1])
        return self._places.slice(int(first), int(last - first)).to_pylist()


class Writer:
    """The one that may add. Use as a context; `commit` makes what was added since the last one part of the cache."""

    def __init__(self, folder: str | Path, identity: dict[str, Any], made_by: str = ""):
        self.folder = Path(folder)
        self._identity, self._made_by = identity, made_by
        self._pending: list[dict[str, Any]] = []
        self._vectors: list[np.ndarray] = []
        self._lock: IO[str] | None = None

    def __enter__(self) -> Writer:
        if self.folder.exists() and _read_identity(self.folder) is None:
            # What a cache holds before its description is published; anything else is somebody's.
            strange = {item.name for item in self.folder.iterdir()} - {"lock", "entries", ".cache.json"}
            if strange or any(self.folder.glob("entries/*")):
                raise ValueError(
                    f"{self.folder}: there is something else in this folder; give a new one, or one made by `index`"
                )
        (self.folder / "entries").mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ValueError(f"{self.folder}: another process is writing there; wait for it, or end it") from None
        found = _read_identity(self.folder)
        if found is None:
            stated = {"format": FORMAT, **self._identity, "made_by": self._made_by}
            publish(self.folder / "cache.json", json.dumps(stated, indent=1).encode())
        else:
            _compare(self.folder, found, self._identity)
        self.cache = Cache.open(self.folder)
        self.rows = self.cache.rows
        for leftover in (self.folder / "entries").glob(".*"):
            leftover.unlink()
        self._file = (self.folder / "features.f16").open("ab")
        self._file.truncate(self._bytes(self.rows))  # vectors of a commit that was never finished
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        if self._lock:
            self._lock.close()

    def add(self, entry: dict[str, Any], vector: np.ndarray | None = None) -> int | None:
        """One entry, with its new vector [width] if it brings one. Gives the vector's row."""
        if vector is not None:
            entry = entry | {"vector": self.rows + len(self._vectors)}
            self._vectors.append(np.asarray(vector, dtype="<f2"))
        self._pending.append(entry)
        return entry.get("vector")

    @property
    def pending(self) -> int:
        return len(self._pending)

    def commit(self) -> None:
        if not self._pending:
            return
        numbers = [int(file.stem) for file in (self.folder / "entries").glob("[0-9]*.parquet")]
        name = f"{max(numbers, default=-1) + 1:06d}.parquet"
        counted = {"first": str(self.rows), "count": str(len(self._vectors))}
        table = pa.Table.from_pylist(self._pending, schema=ENTRY.with_metadata(counted))
        try:
            if self._vectors:
                self._file.write(np.stack(self._vectors).tobytes())
            self._file.flush()
            os.fsync(self._file.fileno())
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, compression="zstd")
            publish(self.folder / "entries" / name, sink.getvalue().to_pybytes())
        except OSError as error:
            raise ValueError(f"{self.folder}: cannot be written ({error}); what was committed before is whole") from error
        self.rows += len(self._vectors)
        self._pending, self._vectors = [], []

    def _bytes(self, rows: int) -> int:
        return rows * self._identity["width"] * 2


def in_force(entries: pa.Table) -> pa.Table:
    """The last entry of every place, in order."""
    numbered = entries.append_column("number", pa.array(np.arange(len(entries))))
    last = numbered.group_by("place").aggregate([("number", "max")])["number_max"]
    return entries.take(pa.array(np.sort(last.to_numpy())))


def _read_identity(folder: Path) -> dict[str, Any] | None:
    file = folder / "cache.json"
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_bytes())
        if found["format"] != FORMAT:
            raise ValueError(f"{file}: format {found['format']}; this program reads {FORMAT}. Index again into a new folder")
        if not isinstance(found["width"], int) or found["width"] < 1:
            raise KeyError("width")
        return {key: found[key] for key in ("checkpoint", "patches", "precision", "width")}
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file}: not a feature cache's description ({error!r})") from error


def _compare(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key, what in (
        ("checkpoint", "checkpoint"),
        ("width", "width"),
        ("patches", "patches per picture"),
        ("precision", "precision"),
    ):
        if found[key] != wanted[key]:
            there, here = (str(value)[:12] for value in (found[key], wanted[key]))
            raise ValueError(
                f"{folder}: made with another {what} ({there}, here {here}); its vectors cannot be compared with this model's. "
                "Use the one it was made with, or index into another folder"
            )


def _read_entries(folder: Path) -> tuple[pa.Table, int]:
    tables, rows = [ENTRY.empty_table()], 0
    for file in sorted(folder.glob("entries/[0-9]*.parquet")):
        try:
            table = pq.read_table(file)
            first, count = (int(table.schema.metadata[key]) for key in (b"first", b"count"))
            tables.append(table.cast(ENTRY).replace_schema_metadata(None))
        except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: damaged ({type(error).__name__}); delete {folder} and index again") from error
        if first != rows:
            raise ValueError(f"{file}: begins at vector {first}, {rows} are there before it; delete {folder} and index again")
        rows += count
    return pa.concat_tables(tables), rows


def each(entries: pa.Table, *columns: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(entries[column].to_pylist() for column in columns), strict=True)
