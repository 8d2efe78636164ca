"""Files that survive a kill: written whole and fsynced, or not there at all.

Everything that the ledger, the answers and the shards promise rests on these few functions. They speak POSIX; the one
operation that decides a race is `create_if_absent`, a hard link, which is atomic on local file systems and on NFS.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4


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
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(path)
        sync_file(path)
        sync_folder(path.parent)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def replace(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step. For files that hold derived state (reports, cards), never for the ledger."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid4().hex[:12]}.tmp")
    write_new(scratch, lambda path: _write(path, data))
    os.replace(scratch, path)
    sync_folder(path.parent)


def create_if_absent(path: Path, data: bytes) -> bool:
    """Publish `data` under `path` unless the name is taken. True for the one caller that won."""
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


def check_store(folder: Path) -> None:
    """Refuse, before any work, a store that cannot publish by create-if-absent."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe-{uuid4().hex[:12]}"
    try:
        first, second = create_if_absent(probe, b"1"), create_if_absent(probe, b"2")
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV):
            raise RuntimeError(
                f"{folder}: this file system has no hard links, so commits cannot be published safely"
            ) from error
        raise
    finally:
        probe.unlink(missing_ok=True)
    if not first or second:
        raise RuntimeError(f"{folder}: this file system let a second writer replace a published file")


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no spaces, UTF-8, NaN forbidden: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free
