"""Files that survive a kill: written whole and fsynced, or not there at all.

Everything that the ledger, the answers and the shards promise rests on these few functions. They speak POSIX, or to an object store
where the path is a place in one (pipelines/stores). The one operation that decides a race is `create_if_absent`: a hard link, which is
atomic on local file systems and on NFS, or the store's own conditional write.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.stores import Place, StoreError

T = TypeVar("T")
R = TypeVar("R")
THREADS = 32
"""Small objects asked of a store at a time."""


FULL = (errno.ENOSPC, errno.EDQUOT)
"""Of an OSError: nothing more can be written."""


FEW_FILES = 16
"""Left on a disk: what failed has removed its own by the time that one looks."""


def full(error: OSError) -> str:
    """What is used up where `error` is one of `FULL`: a disk may have room, and no place for one more file."""
    folder = Path(error.filename).parent if isinstance(error.filename, str) else None
    with contextlib.suppress(OSError):
        if folder is not None and (room := os.statvfs(folder)).f_files and room.f_favail < FEW_FILES:
            return f"the disk can hold no more files (df -i): {error}. Remove some"
    return f"the disk is full: {error}. Free some space"


NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP)
"""Of an OSError: the file system knows no `flock`, as Lustre and NFS may be mounted."""


PARQUET: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
"""How tables of a run are written: with checksums, so that whoever reads a byte that has changed since does not take it for a value."""


class Damaged(ValueError):
    """A file of a run that is not what was written there."""


def sync_folder(folder: Path) -> None:
    """Make the names inside `folder` durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_new(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill `path`, a name nobody else uses, and make it durable; a failed write leaves nothing."""
    if isinstance(path, Place):
        with scratch_folder() as folder:
            write(folder / path.name)
            path.store.upload(folder / path.name, path.key)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(path)
        sync_file(path)
        sync_folder(path.parent)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in FULL and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error  # which the system does where it opens, not here
        raise


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def replace(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step. For files that hold derived state (reports, cards), never for the ledger."""
    if isinstance(path, Place):
        path.store.put(path.key, data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid4().hex[:12]}.tmp")
    write_new(scratch, lambda path: _write(path, data))
    os.replace(scratch, path)
    sync_folder(path.parent)


def replace_by(path: Path, fill: Callable[[Path], None]) -> None:
    """As `replace`, of what `fill` writes into the file it is given."""
    if isinstance(path, Place):
        write_new(path, fill)
        return
    scratch = path.with_name(f".{path.name}.{uuid4().hex[:12]}.tmp")
    write_new(scratch, fill)
    os.replace(scratch, path)
    sync_folder(path.parent)


def create_if_absent(path: Path, data: bytes) -> bool:
    """Publish `data` under `path` unless the name is taken. True for the one caller that won."""
    if isinstance(path, Place):
        return path.store.create(path.key, data)
    for _ in range(100):
        try:
            return _link_new(path, data)
        except FileNotFoundError:  # somebody removed the folder, which was empty a moment ago
            continue
    return _link_new(path, data)


def _link_new(path: Path, data: bytes) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid4().hex[:12]}.tmp")
    write_new(scratch, lambda path: _write(path, data))
    try:
        os.link(scratch, path)
    except FileExistsError:
        return False
    finally:
        scratch.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def open_read(path: Path) -> BinaryIO:
    """A file opened for reading at any place."""
    return path.open("rb")


def many(there: Path, work: Callable[[T], R], items: Iterable[T], held: int = 1024) -> Iterator[R]:
    """What `work` makes of each item, in order. Where the files lie in a store, as `there` does, many are under way at once; at most
    `held` results are waiting to be taken."""
    if not isinstance(there, Place):
        yield from map(work, items)
        return
    items = iter(items)
    with ThreadPoolExecutor(THREADS) as threads:
        while piece := list(itertools.islice(items, held)):
            yield from threads.map(work, piece)


def read_many(paths: Iterable[Path]) -> Iterator[bytes | None]:
    """Contents of many small files, in order; None for one that is not there."""
    paths = iter(paths)
    if (first := next(paths, None)) is not None:
        yield from many(first, _bytes_or_none, itertools.chain([first], paths))


def _bytes_or_none(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def folders(folder: Path) -> Iterator[Path]:
    """Folders right below `folder`; none if it is not there."""
    return (path for path, inner in _scan(folder) if inner)


def files(folder: Path, deep: bool = False) -> Iterator[Path]:
    """Files below `folder` in the order of their names; with `deep` in its folders too. None if it is not there."""
    if isinstance(folder, Place) and deep:  # without asking folder by folder
        yield from cast(Iterator[Path], (path for path, _ in folder.walk()))
        return
    for path, inner in _scan(folder):
        if not inner:
            yield path
        elif deep:
            yield from files(path, deep=True)


def _scan(folder: Path) -> list[tuple[Path, bool]]:
    if isinstance(folder, Place):
        return cast(list[tuple[Path, bool]], sorted(folder.below()))
    try:
        with os.scandir(folder) as found:
            return sorted((folder / item.name, item.is_dir()) for item in found)
    except (FileNotFoundError, NotADirectoryError):
        return []


def more_than(within: Sequence[Path], count: int) -> bool:
    """Whether there are more than so many files or folders right below these together, without going through all of them."""
    return next(itertools.islice(itertools.chain.from_iterable(map(_each, within)), count, None), None) is not None


def _each(folder: Path) -> Iterator[object]:
    if isinstance(folder, Place):
        yield from folder.walk()
        return
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as found:
        yield from found


def remove_if_empty(folder: Path) -> None:
    """On a store there are no folders to remove."""
    if isinstance(folder, Place):
        return
    with contextlib.suppress(OSError):
        folder.rmdir()


def check_store(folder: Path) -> None:
    """Refuse, before any work, a store that cannot publish by create-if-absent, or replaces what was published."""
    for last in (False, False, True):
        try:
            if isinstance(folder, Place):
                _check_place(folder)
            else:
                _check_folder(folder)
            return
        except (StoreError, FileNotFoundError):  # `gc` beside this may take a probe for a leftover: it is tried with another
            if last:
                raise


def _check_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe-{uuid4().hex[:12]}.tmp"
    try:
        first, second = create_if_absent(probe, b"1"), create_if_absent(probe, b"2")
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV):
            raise StoreError(f"{folder}: this file system has no hard links, so commits cannot be published safely") from error
        raise
    finally:
        probe.unlink(missing_ok=True)
    if not first or second:
        raise StoreError(f"{folder}: this file system let a second writer replace a published file")


def _check_place(folder: Place) -> None:
    probe = folder / f".probe-{uuid4().hex[:12]}.tmp"
    try:
        first, second = probe.store.create(probe.key, b"1"), probe.store.create(probe.key, b"2")
        kept = probe.read_bytes() if first else b""
    except NotImplementedError as error:
        raise StoreError(f"{folder}: this store cannot write only where nothing is yet: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            probe.store.delete(probe.key)
    if not first or second or kept != b"1":
        raise StoreError(
            f"{folder}: this store let a second writer replace a published object, so commits cannot be published safely. "
            "It needs conditional writes (If-None-Match: * on S3)"
        )


SCRATCH = "fineloom-scratch-"
_own_scratch: dict[int, tuple[Path, int]] = {}


def scratch_root() -> Path:
    """This process's own local folder for what is on its way to or from a store; FINELOOM_SCRATCH says where it lies.

    It is locked while the process lives, however it dies, and those of dead processes go when a new one is made.
    """
    if os.getpid() not in _own_scratch:
        _own_scratch.clear()  # a fork has its parent's
        _scratch_place().mkdir(parents=True, exist_ok=True)
        sweep_scratch()
        while True:
            made = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=_scratch_place()))
            try:
                fd = os.open(made, os.O_RDONLY)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (FileNotFoundError, BlockingIOError):  # somebody who swept took it for a dead process's before it was locked
                continue
            except OSError as error:
                made.rmdir()
                if error.errno in NO_LOCKS:
                    raise StoreError(
                        f"{made.parent}: no locks on this file system; FINELOOM_SCRATCH must name another"
                    ) from error
                raise
            if made.is_dir():
                _own_scratch[os.getpid()] = (made, fd)
                atexit.register(_leave_scratch, os.getpid(), made)
                break
    return _own_scratch[os.getpid()][0]


def _leave_scratch(pid: int, made: Path) -> None:
    if os.getpid() == pid:
        shutil.rmtree(made, ignore_errors=True)


def sweep_scratch() -> int:
    """Remove the scratch folders on this machine whose processes are dead; how many there were."""
    gone = 0
    for path in _scratch_place().glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError):  # held by a living process, or another user's
            fd = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
                gone += 1
            finally:
                os.close(fd)
    return gone


def _scratch_place() -> Path:
    return Path(os.environ.get("FINELOOM_SCRATCH") or tempfile.gettempdir())


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A local folder that goes at the end."""
    with tempfile.TemporaryDirectory(dir=scratch_root()) as name:
        yield Path(name)


class Ranges:
    """Reads pieces of one file: `with Ranges(path) as read: read(offset, size)`. Of an object only these pieces are fetched."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Ranges:
        self._fd = -1 if isinstance(self.path, Place) else os.open(self.path, os.O_RDONLY)
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def __call__(self, offset: int, size: int) -> bytes:
        store = self.path.store if isinstance(self.path, Place) else None
        data = store.read(self.path.key, offset, size) if store else os.pread(self._fd, size, offset)  # type: ignore[attr-defined]
        if len(data) != size:
            raise OSError(errno.EIO, f"{self.path}: {size:,} bytes wanted at {offset:,}, the file ends after {len(data):,}")
        return data


def settle(local: Path, path: Path) -> None:
    """Make a file that was written at `local` durable as `path`: fsync where they are the same, else upload and remove."""
    if isinstance(path, Place):
        path.store.upload(local, path.key)
        local.unlink()
    else:
        sync_file(local)
        sync_folder(local.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, replacing what was there: a hard link, or the store's own copy."""
    if isinstance(source, Place):
        source.store.copy(source.key, cast(Place, target).key)
        return
    if target.exists() and target.samefile(source):
        return
    scratch = target.with_name(f".{target.name}.{uuid4().hex[:12]}.tmp")
    os.link(source, scratch)
    os.replace(scratch, target)


def drop_cached(path: Path) -> None:
    """Let whoever reads this file next read it from the disk. What lies in a store is read from there anyway."""
    if isinstance(path, Place):
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def write_table(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, **PARQUET)


def read_table(path: Path, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
    """A Parquet file at any place. FileNotFoundError where it is gone, Damaged where it is not what was written."""
    how = {"columns": None if columns is None else list(columns), "filters": filters, "page_checksum_verification": True}
    with as_written(path):
        if not isinstance(path, Place):
            return pq.read_table(path, **how)
        with path.open() as file:
            return pq.read_table(file, **how)


def open_table(path: Path, opened: Any = None) -> pq.ParquetFile:
    """The same, to be read piece by piece, each inside `as_written`; from a file that was opened another way, if it was."""
    with as_written(path):
        return pq.ParquetFile(opened or open_read(path), page_checksum_verification=True)


@contextlib.contextmanager
def as_written(path: Path) -> Iterator[None]:
    """What Parquet finds wrong with a file, as Damaged."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and (isinstance(path, Place) or isinstance(error, FileNotFoundError) or error.errno):
            raise  # the system's word, not Parquet's
        raise Damaged(
            f"{path}: not the Parquet file that was written here ({' '.join(str(error).split())}). Something else than a run changed "
            "it, or its disk did. Put it back as it was; or `fineloom verify --again` has what was committed made again"
        ) from error


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no spaces, UTF-8, NaN forbidden: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sealed(record: dict[str, Any]) -> bytes:
    """A record as canonical JSON with its own checksum in it, for what is read years later and believed."""
    return canonical_json({**record, "check": _crc(record)})


def unsealed(record: dict[str, Any]) -> dict[str, Any]:
    """The record without its checksum. ValueError where it does not fit; records of older versions have none."""
    left = {key: value for key, value in record.items() if key != "check"}
    if "check" in record and record["check"] != _crc(left):
        raise ValueError("it does not fit its checksum")
    return left


def _crc(record: dict[str, Any]) -> str:
    return f"{zlib.crc32(canonical_json(record)):08x}"


def free_bytes(folder: Path) -> int:
    """Of the disk that files are written to: the scratch folder's, where the root is on a store."""
    if isinstance(folder, Place):
        folder = _scratch_place()
    return shutil.disk_usage(folder).free
