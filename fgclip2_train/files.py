"""Files that are written whole or not at all, and what would keep them from it, told before the work whose result they are to hold."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from fgclip2_train.errors import writing


def publish(file: Path, content: bytes) -> None:
    """Write a file that is whole or not there. Raises OSError that names it."""
    hidden = file.with_name(f".{file.name}")
    try:
        with writing(file), hidden.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            hidden.unlink()
        raise
    hidden.rename(file)
    handle = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_room(*files: Path | None) -> None:
    """Make the folders of files that are yet to be written. Raises OSError for one that could not be written there."""
    for file in files:
        if file is None:
            continue
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise NotADirectoryError(errno.ENOTDIR, "no folder can be made for it", str(file)) from None
        if not os.access(file.parent, os.W_OK):
            raise PermissionError(errno.EACCES, "nothing may be written to its folder", str(file))
