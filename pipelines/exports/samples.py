"""Packed shards as a stream of samples: one picture and one record in memory at a time."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from operators.pictures import UPRIGHT, decode, open_picture, orientation
from pipelines.config import ConfigError
from pipelines.exports.tally import Tally
from pipelines.shard_format import MAX_JSON_BYTES, MAX_PICTURE_BYTES, Record, Report, check_record


@dataclass(frozen=True)
class Sample:
    """picture   bytes as they were downloaded; `record.image_format` names their format"""

    uid: str
    picture: bytes
    record: Record


def read_samples(shard: Path) -> Iterator[Sample]:
    """The samples of one shard in order. ConfigError for members or records that docs/shard-format.md forbids, and for a picture whose
    bytes are not those that were downloaded: none is skipped."""
    seen: set[str] = set()
    try:
        with tarfile.open(shard, "r|") as archive:
            for uid, members in _pairs(archive):
                report = Report(shard="", limit=1)
                record = check_record(uid, members["json"], report)
                if record is None or not report.ok:
                    raise ValueError(report.errors[0])
                if hashlib.sha256(members["jpg"]).hexdigest() != record.sha256:
                    raise ValueError(f"{uid}: jpg: not the bytes that json.sha256 is of")
                if uid in seen:
                    raise ValueError(f"{uid} occurs twice")
                seen.add(uid)
                yield Sample(uid, members["jpg"], record)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise ConfigError(f"{shard}: {str(error).splitlines()[0]}; see `fineloom validate {shard}`") from error


def _pairs(archive: tarfile.TarFile) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Each sample's two members, which lie next to each other in either order. ValueError for any other member."""
    uid, members = "", dict[str, bytes]()
    for member in archive:
        archive.members.clear()  # type: ignore[attr-defined]  # tarfile would remember every member
        key, _, extension = member.name.partition(".")
        limit = {"json": MAX_JSON_BYTES, "jpg": MAX_PICTURE_BYTES}.get(extension, -1)
        content = archive.extractfile(member)
        if content is None or member.size > limit:
            raise ValueError(f"{member.name}: not a member of a shard")
        if members and (key != uid or extension in members):
            break
        uid, members[extension] = key, content.read()
        if len(members) == 2:
            yield uid, members
            members = {}
    if members:
        raise ValueError(f"{uid}.{next(iter(members))} without {'its record' if 'jpg' in members else 'its picture'}")


def upright_bytes(data: bytes) -> bytes:
    """The picture's own bytes, or, where EXIF turns it, a JPEG of it upright.

    Boxes are those of the upright picture, but many readers (the official ones among them) open pictures without a look at EXIF.
    """
    turned = 1
    with suppress(OSError, ValueError, SyntaxError, KeyError, TypeError), open_picture(data, 1 << 30) as image:
        turned = orientation(image)
    if turned not in UPRIGHT:
        return data
    buffer = io.BytesIO()
    picture: Image.Image = decode(data)
    picture.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def upright(sample: Sample, tally: Tally) -> bytes:
    """What a layout writes as the sample's picture."""
    data = upright_bytes(sample.picture)
    if data is not sample.picture:
        tally.note("turned by EXIF: written upright, as a new JPEG")
    return data
