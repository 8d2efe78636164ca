"""The shard format, version 1, in executable form: models of a sample's JSON object, and a validator of whole shards.

docs/shard-format.md is the text; this module checks everything it promises. Both the packing stage and the trainer's tests call
`validate_shard`. Shards may come from anywhere, so reading is bounded: one member at a time, with a size limit.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any, Literal, Self

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from operators.pictures import orientation

FORMAT = "fineloom/1"
FAMILIES = ("colour", "material", "size", "pattern", "count", "state", "relation", "action")
NEGATIVES = 10
MAX_JSON_BYTES = 16 << 20
MAX_PICTURE_BYTES = 1 << 30
MAX_SIDE = 2**31 - 1
FILLED = 2 * tarfile.RECORDSIZE
"""Bytes that follow the last member of a tar at most: two empty blocks, and as many more as fill a record up."""
"""No format of pictures that Pillow reads has more pixels in a row."""
SHOWN = 120

Language = Literal["en", "zh"]
Origin = Literal["source", "model", "lexical", "human"]
Family = Literal["colour", "material", "size", "pattern", "count", "state", "relation", "action"]
NotBlank = Annotated[str, Field(min_length=1, pattern=r"\S")]
Number = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Span = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]


class Strict(BaseModel):
    """Every key present, none unknown, JSON types as they are (an integer may stand for a float)."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class Text(Strict):
    text: NotBlank
    language: Language
    length: Literal["short", "long"]
    origin: Origin
    by: str


def _inside(span: Span, text: str) -> None:
    if not span[0] <= span[1] <= len(text):
        raise ValueError(f"span {list(span)} does not lie in a text of {len(text)} characters")


class Negative(Strict):
    text: NotBlank
    family: Family
    span: Span
    original: str
    origin: Origin
    flags: list[str]

    @model_validator(mode="after")
    def _span_of_a_change(self) -> Self:
        _inside(self.span, self.text)
        if self.text[slice(*self.span)] == self.original:
            raise ValueError(f"the words at span {list(self.span)} are the original's: nothing is changed")
        return self


class Positive(Strict):
    text: NotBlank
    origin: Origin


class Region(Strict):
    box: tuple[Fraction, Fraction, Fraction, Fraction]
    score: Number | None
    language: Language
    short: NotBlank
    long: NotBlank
    origin: Origin
    negatives: list[Negative]
    positives: list[Positive]

    @model_validator(mode="after")
    def _box_has_an_area_and_negatives_are_complete(self) -> Self:
        x1, y1, x2, y2 = self.box
        if not (x1 < x2 and y1 < y2):
            raise ValueError(f"box {list(self.box)}: expected x1 < x2 and y1 < y2")
        if len(self.negatives) not in (0, NEGATIVES):
            raise ValueError(f"{len(self.negatives)} negatives; expected {NEGATIVES} or none")
        texts = {negative.text for negative in self.negatives}
        if len(texts) < len(self.negatives):
            raise ValueError("negatives repeat one another")
        if texts & {self.short, self.long}:
            raise ValueError("a negative is the region's own expression")
        return self


class LongNegative(Strict):
    text: NotBlank
    language: Language
    original: NotBlank
    span: Span
    family: Family

    @model_validator(mode="after")
    def _one_unit_is_changed(self) -> Self:
        _inside(self.span, self.text)
        if self.text == self.original:
            raise ValueError("equals its original")
        start, end = self.span
        after = self.text[end:]
        if (
            len(after) + start > len(self.original)
            or self.original[:start] != self.text[:start]
            or not self.original.endswith(after)
        ):
            raise ValueError(f"differs from its original outside span {list(self.span)}")
        return self


class Stage(Strict):
    operators: list[str]
    prompt: str | None
    model: str | None
    fingerprint: str


class Record(Strict):
    format: Literal["fineloom/1"]
    uid: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    source: NotBlank
    license: str | None
    url: str | None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    image_format: NotBlank
    width: Annotated[int, Field(ge=1, le=MAX_SIDE)]
    height: Annotated[int, Field(ge=1, le=MAX_SIDE)]
    texts: Annotated[list[Text], Field(min_length=1)]
    regions: list[Region]
    long_negatives: list[LongNegative]
    scores: dict[str, Number | None]
    provenance: dict[str, Stage]

    @field_validator("texts")
    @classmethod
    def _none_twice(cls, texts: list[Text]) -> list[Text]:
        if len({text.text for text in texts}) < len(texts):
            raise ValueError("texts repeat one another")
        return texts


@dataclass(frozen=True)
class Error:
    """One promise that a shard breaks.

    uid    the sample's key, "" where the shard itself is meant
    key    place inside the sample, e.g. "jpg", "json", "json.regions[2].box"
    """

    shard: str
    uid: str
    key: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.shard, self.uid, self.key, self.message) if part)


@dataclass
class Report:
    """samples    that were looked at; `errors` holds the first `limit` of `found` errors"""

    shard: str
    samples: int = 0
    found: int = 0
    errors: list[Error] = field(default_factory=list)
    limit: int = 100

    @property
    def ok(self) -> bool:
        return self.found == 0

    def add(self, uid: str, key: str, message: str) -> None:
        self.found += 1
        if len(self.errors) < self.limit:
            self.errors.append(Error(self.shard, uid, key, message))


def validate_shard(path: str | Path, max_errors: int = 100, stream: IO[bytes] | None = None) -> Report:
    """Read one shard from its beginning to its end and list what docs/shard-format.md forbids.

    stream   read from here instead of opening `path` (an object store's file, say); `path` is then only its name
    """
    report = Report(str(path), limit=max_errors)
    seen: set[str] = set()
    try:
        with open(path, "rb") if stream is None else stream as file:
            for key, members in _samples(file, report):
                report.samples += 1
                if key in seen:
                    report.add(key, "", "key occurs twice; expected the two members of a sample next to each other, once")
                seen.add(key)
                _check_sample(key, members, report)
    except OSError as error:
        report.add("", "", f"cannot be read: {error.strerror or error}")
    if report.ok and not report.samples:
        report.add("", "", "no sample in it")
    return report


def _samples(file: IO[bytes], report: Report) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Adjacent members with the same key, as WebDataset readers group them."""
    key, members = "", dict[str, bytes]()
    for name, data in _members(file, report):
        stem, _, extension = name.partition(".")
        if key and stem != key:
            yield key, members
            members = {}
        key = stem
        if extension in members:
            report.add(key, extension, "member occurs twice")
        members[extension] = data
    if key:
        yield key, members


def _members(file: IO[bytes], report: Report) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(fileobj=file, mode="r|") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # tarfile would remember every member
                name = member.name
                if not member.isfile():
                    report.add("", _show(name), "not a plain file; expected only plain files")
                    continue
                if not re.fullmatch(r"[0-9a-f]{32}\.(jpg|json)", name):
                    report.add("", _show(name), "unexpected member; expected <32 lower-case hex digits>.jpg or .json")
                    continue
                limit = MAX_JSON_BYTES if name.endswith(".json") else MAX_PICTURE_BYTES
                if member.size > limit:
                    report.add(name[:32], name[33:], f"{member.size} bytes; expected at most {limit}")
                    yield name, b""
                    continue
                content = archive.extractfile(member)
                assert content is not None
                yield name, content.read()
            stream: Any = archive.fileobj
            if stream.tell() - archive.offset != tarfile.BLOCKSIZE:  # a cut between two members looks like the end
                report.add("", "", "not a whole tar: no empty block at its end")
            elif len(stream.read(FILLED + 1)) > FILLED:
                report.add(
                    "", "", "the tar ends before its file does: zeroed from there on, or something was written behind it"
                )
    except (tarfile.TarError, EOFError, ValueError) as error:
        report.add("", "", f"not a whole tar: {error}")


def _check_sample(key: str, members: dict[str, bytes], report: Report) -> None:
    for extension in ("jpg", "json"):
        if extension not in members:
            report.add(key, extension, "missing; expected <uid>.jpg and <uid>.json next to each other")
    record = check_record(key, members["json"], report) if "json" in members else None
    if "jpg" in members:
        _check_picture(key, members["jpg"], record, report)


def check_record(key: str, data: bytes, report: Report) -> Record | None:
    """The sample's record, and in `report` all that is wrong with it; None where it cannot be used."""
    try:
        raw = json.loads(data.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_repeats)
    except UnicodeDecodeError as error:
        report.add(key, "json", f"not UTF-8 at byte {error.start}")
        return None
    except (ValueError, RecursionError) as error:
        report.add(key, "json", f"not a JSON object: {error}")
        return None
    if not isinstance(raw, dict):
        report.add(key, "json", f"expected a JSON object, found {type(raw).__name__}")
        return None
    if raw.get("format") != FORMAT:
        report.add(key, "json.format", f"expected {FORMAT!r}, found {_show(raw.get('format'))}")
        return None
    if raw.get("uid") != key:
        report.add(key, "json.uid", f"expected the member's key, found {_show(raw.get('uid'))}")
    try:
        return Record.model_validate_json(data)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            place = "json" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
            report.add(key, _show(place, quoted=False), f"{problem['msg'].removeprefix('Value error, ')}{_found(problem)}")
        return None


def _found(problem: Any) -> str:
    value = problem["input"]
    return "" if isinstance(value, dict | list) else f", found {_show(value)}"


def _check_picture(key: str, data: bytes, record: Record | None, report: Report) -> None:
    if record is not None and hashlib.sha256(data).hexdigest() != record.sha256:
        report.add(key, "jpg", f"SHA-256 of the bytes is not json.sha256, {record.sha256}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # hardly anything is decoded: a large size is no danger here
            with Image.open(io.BytesIO(data)) as picture:
                size, kind = picture.size, picture.format
                if kind == "PNG":  # its EXIF may stand behind its pixels
                    picture.load()
                turned = kind != "TIFF" and orientation(picture) >= 5  # a TIFF's reader tells the size of the upright picture
    except Exception as error:  # Pillow's readers raise many kinds on bytes made to break them
        report.add(key, "jpg", f"not a picture: {type(error).__name__}: {_show(str(error), quoted=False)}")
        return
    if record is None:
        return
    if kind != record.image_format:
        report.add(key, "json.image_format", f"expected {kind}, found {_show(record.image_format)}")
    upright = (size[1], size[0]) if turned else size
    if upright != (record.width, record.height):
        report.add(key, "json.width", f"the upright picture is {upright[0]}x{upright[1]}, found {record.width}x{record.height}")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a key occurs twice in one object")
    return result


def _show(value: Any, quoted: bool = True) -> str:
    """Bounded, and safe for a terminal: repr escapes what is not printable."""
    text = repr(value[: SHOWN + 1] if isinstance(value, str) else value)
    text = text if quoted or not isinstance(value, str) else text[1:-1]
    return text if len(text) <= SHOWN + 2 else text[:SHOWN] + "…"
