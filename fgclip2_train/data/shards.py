"""Read the samples of one shard (docs/shard-format.md), one after another, nothing more of it in memory than one sample.

A damaged sample, the rest of a shard cut short, or one that is no tar at all, is skipped and counted under its reason; how many samples
the rest is, the index beside the shards says, where there is one. A shard that cannot be read is tried once more, and is then an
error, or counted in the same way (`holes`). Another major version of the format stops the run: its meaning is unknown.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from glob import glob
from hashlib import sha256
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

FORMAT, MAJOR = "fineloom", "1"
UNSOUND = "bad: record is not as the format has it"
LENGTHS = ("short", "long")
CUT = "bad: shard cut short: "
EARLY = "bad: shard ends before its file does: "
UNREADABLE = "bad: shard cannot be read"
OTHER_KINDS = {
    b"\x1f\x8b": "compressed by gzip",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ\0": "compressed by xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "Parquet",
}
"""What a file is that begins so and goes by a shard's name."""
OWN_FAULTS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT)
"""What an OSError says of this machine, not of the shard: it would be the same with any other."""
FILLED = 2 * tarfile.RECORDSIZE
"""Bytes that follow the last member of a tar at most: two empty blocks, and as many more as fill a record up."""
PAUSE = 0.1
"""Seconds before a shard is tried once more."""
NUMBERED = re.compile("[0-9a-f]{15}", re.IGNORECASE)
"""How a uid and a digest begin: with the digits that numbers are made of. `int` would also take underscores, a sign, spaces."""
EDGE = 1e-3
"""How far beyond the picture an edge may lie, for writers that round."""


@dataclass(frozen=True)
class Raw:
    """One sample as it lies in a shard. `record` is its JSON object; `place` counts samples of the shard from 0."""

    uid: str
    picture: bytes
    record: dict[str, Any]
    place: int


def find_shards(patterns: str | list[str]) -> list[str]:
    """Sorted shard paths or addresses. An address (s3://…) is taken as it is unless it holds a wildcard.

    Raises OSError for a pattern that nothing matches, no pattern at all, and a store that cannot be listed.
    """
    found: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if "://" in pattern:
            listed = _listed(pattern)
            matches = listed if "*" in pattern else [pattern]
        else:
            matches = [str(Path(pattern) / "*.tar")] if Path(pattern).is_dir() else [pattern]
            matches = sorted(glob(matches[0]))
        if not matches:
            raise FileNotFoundError(
                f"no shard matches {pattern!r}. Give a folder of .tar files or a pattern like 'shards/*.tar'"
            )
        found += matches
    if not found:
        raise FileNotFoundError("no shards: the list of their patterns is empty")
    return sorted(set(found))


def _listed(pattern: str) -> list[str]:
    """Addresses that match; of one without wildcard only whether there is a client for it."""
    try:
        return [file.full_name for file in fsspec.open_files(pattern)]
    except Exception as error:  # stores' clients raise many kinds; all mean that it cannot be listed
        raise OSError(f"{pattern}: cannot be listed ({type(error).__name__}: {error})") from error


VERSION = ("ETag", "etag", "mtime", "LastModified", "updated", "last_modified")
"""What file systems call that which tells a file from a later one of its name."""


def version(about: dict[str, Any]) -> str | None:
    """Size, and time or tag, of what a file system says of a file; None if it does not tell."""
    tag = next((str(about[key]) for key in VERSION if about.get(key)), None)
    return f"{about.get('size')} {tag}" if tag else None


def versions(shards: list[str]) -> dict[str, str | None]:
    """Of every shard. A store is asked once for each of its folders, not for each shard; one that does not list tells nothing."""
    known: dict[str, str | None] = {}
    for folder in sorted({shard.rpartition("/")[0] for shard in shards if "://" in shard}):
        system, path = fsspec.url_to_fs(folder)
        try:
            listed = system.ls(path, detail=True)
        except Exception:  # stores' clients raise many kinds. What cannot be read either, the reader will say
            continue
        known |= {f"{folder}/{about['name'].rpartition('/')[-1]}": version(about) for about in listed}
    return {shard: known.get(shard) if "://" in shard else _local_version(shard) for shard in shards}


def _local_version(shard: str) -> str | None:
    try:
        file = os.stat(shard)  # of what a link points to
    except OSError:  # a hole, as the reader will say
        return None
    return f"{file.st_size} {file.st_mtime_ns}"


def marks(shards: list[str]) -> str:
    """A word for each shard, another one once it was written again; "-" where that cannot be told."""
    known = versions(shards).values()
    return " ".join("-" if each is None else sha256(each.encode()).hexdigest()[:8] for each in known)


def rewritten(shards: list[str], before: str, now: str) -> list[str]:
    """Those that were written again between two times at which their `marks` were taken."""
    pairs = zip(shards, before.split(), now.split(), strict=False)
    return [shard for shard, old, new in pairs if old != new and "-" not in (old, new)]


def fingerprint(shards: list[str]) -> str:
    """Of a list of shards: their names in order, and their sizes where asking costs little. Wherever they lie."""
    whole = sha256()
    for shard in shards:
        whole.update(f"{shard.rsplit('/', 1)[-1]}\0{_size(shard)}\n".encode())
    return f"{len(shards)} shards, sha256:{whole.hexdigest()}"


def _size(shard: str) -> int | str:
    try:
        return Path(shard).stat().st_size if "://" not in shard else ""
    except OSError:  # a hole, as the reader will say
        return ""


def sound(record: dict[str, Any]) -> bool:
    """Whether a record has what training and evaluation read of it, as the format promises; a foreign or damaged one may not."""
    try:
        if (
            not (NUMBERED.match(record["uid"]) and NUMBERED.match(record["sha256"]))
            or min(record["width"], record["height"]) < 1
        ):
            return False
        if not record["texts"]:
            return False
        for text in record["texts"]:
            _ = text["language"].encode(), text["origin"], text["text"].encode()  # half a character is no text to a tokenizer
            if text["length"] not in LENGTHS or not text["text"].strip():
                return False
        for region in record.get("regions", ()):
            x1, y1, x2, y2 = region["box"]
            if not (-EDGE <= x1 < x2 <= 1 + EDGE and -EDGE <= y1 < y2 <= 1 + EDGE):  # NaN is not
                return False
            _ = region["language"], region["short"].encode(), region["long"].encode()
            if not (region["short"].strip() and region["long"].strip()):
                return False
            _ = [negative["text"].encode() for negative in region.get("negatives", ())]
        return True
    except (KeyError, TypeError, AttributeError, ValueError):
        return False


def read_shard(
    path: str,
    counts: Counter[str],
    wanted: Callable[[int, dict[str, Any]], bool],
    start: int = 0,
    *,
    holes: bool = False,
) -> Iterator[Raw]:
    """Samples of a shard from number `start` on for which `wanted(place, record)`; only their pictures are read.

    `counts` takes "bad: …" for every sample that could not be read. A shard cut short, zeroed from somewhere on, or of another kind of
    file, is named; it counts as what is missing of it by the index, and as one where that is not known. With `holes` so does one that
    cannot be read at all, or not to its end; else, and where the fault is this machine's own, that raises OSError.
    """
    at = start
    for again in (False, True):
        try:
            with fsspec.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as tar:
                for place, members in enumerate(_samples(tar)):
                    if place < at:
                        continue
                    sample = _read_sample(tar, place, members, counts, wanted, path)
                    if sample is not None:
                        yield sample
                    at = place + 1
                # A cut between two members looks like the end, but for the empty block that ends every tar.
                file.seek(tar.offset)
                end = file.read(FILLED + 1)
                if end[: tarfile.BLOCKSIZE] != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("no end of archive")
                # So does a hole that the system filled with zeros after a crash; and what was copied behind a tar is never seen.
                if (len(end) > FILLED or not at) and _indexed(path) != at:
                    counts[EARLY + path] += missing(path, at)
                return
        except (tarfile.ReadError, EOFError):
            counts[(_other_kind(path) or CUT) + path] += missing(path, at)
            return
        except OSError as error:
            if (again and not holes) or error.errno in OWN_FAULTS:
                raise
            if again:
                counts[f"{UNREADABLE} ({error.strerror or type(error).__name__}): {path}"] += missing(path, at)
            else:
                time.sleep(PAUSE)


def _other_kind(path: str) -> str | None:
    """What to say of a file that begins as no tar does."""
    try:
        with fsspec.open(path, "rb") as file:
            head = file.read(tarfile.BLOCKSIZE)
    except OSError:  # it could be opened a moment ago: nothing is known of its kind
        return None
    if len(head) == tarfile.BLOCKSIZE:
        try:
            tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
            return None
        except tarfile.HeaderError:
            pass
    kind = next((kind for begin, kind in OTHER_KINDS.items() if head.startswith(begin)), None)
    if kind:
        return f"bad: shard is {kind}, not a plain tar: "
    return "bad: shard is not a tar: " if len(head) == tarfile.BLOCKSIZE else None


def unreadable(path: str, counts: Counter[str]) -> bool:
    """Whether a shard was counted as one that cannot be read."""
    return any(reason.startswith(UNREADABLE) and reason.endswith(f"): {path}") for reason in counts)


def missing(path: str, place: int) -> int:
    """Samples of a shard from a place on: what the index says of it, and one where there is none."""
    return max(1, (_indexed(path) or 0) - place)


@functools.lru_cache(maxsize=1024)
def _indexed(path: str) -> int | None:
    """Samples of a shard by `index.parquet`, which lies beside it or beside its folder."""
    folder, _, name = (path if "://" in path else os.path.abspath(path)).rpartition("/")
    for place in (folder, folder.rpartition("/")[0]):
        try:
            with fsspec.open(f"{place}/index.parquet", "rb") as file:
                return pq.read_table(file, columns=["tar"], filters=[("tar", "==", name)]).num_rows
        except (OSError, pa.ArrowException):  # none there, or another one of that name
            continue
    return None


class _Header(tarfile.TarInfo):
    """The header of a plain file, taken apart for the two fields that are read of it; any other is left to tarfile.

    tarfile looks at sixteen fields and sums up every header twice, which is much beside reading a sample's JSON.
    """

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        try:
            octal = buf[124] < 0x80
            if buf[156:157] == tarfile.REGTYPE and buf[0] and not buf[345] and octal and _octal(buf[148:156]) == _checksum(buf):
                header = cls(buf[:100].partition(b"\0")[0].decode(encoding, errors))
                header.size = _octal(buf[124:136])
                return header
        except (ValueError, IndexError):
            pass  # tarfile says what is wrong
        return super().frombuf(buf, encoding, errors)


def _octal(field: bytes) -> int:
    return int(field.strip(b" \0") or b"0", 8)


def _checksum(header: bytes) -> int:
    """Of its bytes, those of the checksum itself taken for spaces."""
    return sum(header) - sum(header[148:156]) + 8 * ord(" ")


def _samples(tar: tarfile.TarFile) -> Iterator[dict[str, tarfile.TarInfo]]:
    """Adjacent files of one key, by extension. As in WebDataset a key may hold folders, with dots: `tar` itself writes ./KEY.jpg. A
    second one of the same name is the next sample's, so that none is lost without a word."""
    key = ("", "")
    members: dict[str, tarfile.TarInfo] = {}
    for member in tar:
        folder, _, name = member.name.rpartition("/")
        stem, _, extension = name.partition(".")
        if members and ((folder, stem) != key or extension in members):
            yield members
            members = {}
        key = folder, stem
        if member.isfile():
            members[extension] = member
        tar.members = []  # type: ignore[attr-defined]  # or tarfile keeps every header of a shard of 10,000 samples
    if members:
        yield members


def _read_sample(tar, place, members, counts, wanted, path) -> Raw | None:
    if "json" not in members or "jpg" not in members:
        counts["bad: picture or record missing"] += 1
        return None
    try:
        record = json.loads(_content(tar, members["json"]))
        version = str(record.get("format", ""))
    except (ValueError, AttributeError, RecursionError):
        counts["bad: record is not a JSON object"] += 1
        return None
    name, _, major = version.partition("/")
    if (name, major.split(".")[0]) != (FORMAT, MAJOR):
        raise ValueError(
            f"{path}: format {version or 'not stated'}; this trainer reads {FORMAT}/{MAJOR}. Pack the shards again"
        )
    if not wanted(place, record):
        return None
    return Raw(uid=record["uid"], picture=_content(tar, members["jpg"]), record=record, place=place)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """A member's bytes, all of them: a read gives fewer without a word where a file was cut."""
    tar.fileobj.seek(member.offset_data)  # type: ignore[union-attr]  # extractfile's layers cost more than the read
    data = tar.fileobj.read(member.size)  # type: ignore[union-attr]
    if len(data) < member.size:
        raise tarfile.ReadError("unexpected end of data")
    return data
