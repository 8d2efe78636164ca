"""A file of weights that a recipe names. Its content, not its place, is part of what a stage was made from: it is hashed where the run
is planned, and a worker takes no other."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from operators.base import other_version


def content_of(setting: str, file: str) -> str:
    """SHA-256 of the file; ValueError names the setting where it cannot be read."""
    try:
        return sha256(Path(file).read_bytes()).hexdigest()
    except FileNotFoundError:
        raise ValueError(f"{setting}: no such file {file}") from None
    except OSError as error:
        raise ValueError(f"{setting}: {file}: {error.strerror or error}") from None


def read_planned(file: str, content: str) -> bytes:
    """The file's bytes; OtherVersion where they are not those of the hash, as on a node that has another file of that name."""
    data = Path(file).read_bytes()
    if sha256(data).hexdigest() != content:
        raise other_version(f"file {file}")
    return data
