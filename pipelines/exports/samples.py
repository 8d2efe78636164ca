"""Packed shards as a stream of samples: one picture and one record in memory at a time."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from pydantic import ValidationError

from operators.pictures import UPRIGHT, decode, open_picture, orientation
from pipelines.config import ConfigError
from pipelines.exports.tally import Tally
from pipelines.shard_format import MAX_JSON_BYTES, MAX_PICTURE_BYTES, Record


@dataclass(frozen=True)
class Sample:
    """picture   bytes as they were downloaded; `record.image_format` names their format"""

    uid: str
    picture: bytes
    record: Record


def read_samples(shard: Path) -> Iterator[Sample]:
    """The samples of one shard in order. ConfigError for a shard that breaks docs/shard-format.md: nothing is skipped silently."""
    try:
        with tarfile.open(shard, "r|") as archive:
            uid, picture = "", b""
            for member in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile would remember every member
                key, _, extension = member.name.partition(".")
                content = archive.extractfile(member)
                if content is None or member.size > (MAX_JSON_BYTES if extension == "json" else MAX_PICTURE_BYTES):
                    raise ConfigError(f"{shard}: {member.name}: not a member of a shard; see `fineloom validate {shard}`")
                if extension == "jpg":
                    uid, picture = key, content.read()
                elif extension == "json" and key == uid:
                    yield Sample(uid, picture, Record.model_validate_json(content.read()))
                    uid = ""
                else:
                    raise ConfigError(f"{shard}: {member.name} without its picture; see `fineloom validate {shard}`")
    except (tarfile.TarError, EOFError, ValidationError) as error:
        raise ConfigError(f"{shard}: {str(error).splitlines()[0]}; see `fineloom validate {shard}`") from error


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
