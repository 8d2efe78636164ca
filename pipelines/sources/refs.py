"""Where a local picture lies, as one text: `file:PATH`, `tar:PATH#OFFSET+SIZE`, `tsv:PATH#OFFSET+SIZE` (base64)."""

from __future__ import annotations

import base64
import binascii
import os
import re

_PLACE = re.compile(r"(tar|tsv):(.*)#(\d+)\+(\d+)", re.S)


class RefError(ValueError):
    """A picture that cannot be had; `reason` is a reason of the download."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def read_ref(ref: str, max_bytes: int) -> bytes:
    """The picture's bytes. Raises RefError for this one picture, OSError when the disk itself fails."""
    place = _PLACE.fullmatch(ref)
    if place:
        kind, path, offset, size = place[1], place[2], int(place[3]), int(place[4])
    elif ref.startswith("file:"):
        kind, path, offset, size = "file", ref[5:], 0, -1
    else:
        raise RefError("bad_reference", ref[:200])
    try:
        if kind == "file":
            size = os.stat(path).st_size
        if size > (max_bytes * 4 // 3 + 4 if kind == "tsv" else max_bytes):
            raise RefError("too_large", f"{size} bytes > {max_bytes}")
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(size)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise RefError("missing_file", f"{path}: {error.strerror}") from error
    except (PermissionError, ValueError) as error:
        if isinstance(error, RefError):
            raise
        raise RefError("unreadable_file", f"{path[:200]}: {error}") from error
    if len(data) < size:
        raise RefError("truncated", f"{path}: {len(data)} of {size} bytes")
    if kind == "tsv":
        try:
            return base64.b64decode(data.strip().replace(b"-", b"+").replace(b"_", b"/"), validate=True)
        except binascii.Error as error:
            raise RefError("not_an_image", f"bad base64: {error}") from error
    return data
