"""Pack a shard's samples for training: pictures and everything known of them, joined into one WebDataset tar.

Reads    every column there is: those of operators/columns.py, and what `texts` and `scores` name; only `uid`, the picture's
         columns and `source` must be there, whatever else a recipe did not make is left empty
Writes   shard_offset    int64, where the sample's first header lies in the tar
         shard_size      int64, bytes of its members with their headers and padding: a range read gives a small tar
Refuses  see `reasons`; a text, region or group of negatives that the format forbids is refused alone, and the sample stays
Source   docs/shard-format.md

The same table, pictures and provenance give the same bytes: rows in their order, fixed times and owners in the tar.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import re
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from operators.base import Outcome, Reject, Settings, schema
from operators.columns import BOX
from operators.pictures import BadPicture
from operators.validators.language import belied
from pipelines import blur, shard_card
from pipelines.blur import blurred
from pipelines.public_url import public
from pipelines.shard_format import FORMAT, NEGATIVES, Record

ROWS = 64
"""Rows that are Python objects at a time."""
MAX_TEXT_CHARS = 20_000
REQUIRED = ("source", "sha256", "image_format", "width", "height")
WRITES = schema(shard_offset=pa.int64(), shard_size=pa.int64())
HAN, LATIN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"), re.compile(r"[A-Za-z]")


class TextColumn(Settings):
    """What the texts of a column are. language None: that of the source's captions."""

    length: Literal["short", "long"]
    language: Literal["en", "zh"] | None = None
    origin: Literal["source", "model", "lexical", "human"] = "model"


TEXTS = {
    "captions": TextColumn(length="short", origin="source"),
    "long_captions": TextColumn(length="long", origin="source"),
    "long_caption_en": TextColumn(length="long", language="en"),
    "long_caption_zh": TextColumn(length="long", language="zh"),
    "translation_zh": TextColumn(length="long", language="zh"),
}


class Pack(Settings):
    texts: dict[str, TextColumn] = Field(default_factory=lambda: dict(TEXTS))
    """Columns to take texts from (string or list of strings), in the order in which the record lists them."""
    scores: tuple[str, ...] = ()
    """Columns of numbers to keep."""
    min_texts: int = Field(1, ge=1)
    blur: str | None = None
    """Column of boxes that are hidden in the packed pictures, such as `faces`; a picture without any is packed as it came."""

    version: ClassVar[int] = 6
    reasons: ClassVar[dict[str, str]] = {
        "no_text": "the sample has fewer texts than `min_texts`",
        "blank": "the text is empty",
        "text_too_long": f"the text has more than {MAX_TEXT_CHARS} characters",
        "unknown_language": "the text is neither English nor Chinese by its source, by its measured language or by its script",
        "other_language": "a text of the source's own, or of its box, is plainly not in the language that the source says",
        "repeated_text": "the sample has this text already",
        "bad_box": "the box has no area or does not lie in the picture",
        "bad_region": "the region lacks an expression, a language or an origin that the format knows",
        "bad_negatives": "not ten different texts, each with its changed span, that differ from the expression",
    }

    @property
    def writes(self) -> pa.Schema:
        return WRITES

    def check(self, available: pa.Schema) -> None:
        """ValueError for a score that no stage writes, or one that is no number."""
        for name in self.scores:
            if name not in available.names:
                known = ", ".join(sorted(available.names))
                raise ValueError(f"scores: no stage before it writes a column {name!r}; columns: {known}")
            kind = available.field(name).type
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
                raise ValueError(f"scores: column {name!r} is {kind}, expected a number")
        if self.blur is not None and (self.blur not in available.names or available.field(self.blur).type != pa.list_(BOX)):
            raise ValueError(
                f"blur: no stage before it writes a column {self.blur!r} of boxes; the operator `faces` writes one"
            )

    def write(
        self, table: pa.Table, images: Callable[[dict[str, Any]], bytes], tar: Path, provenance: dict[str, Any]
    ) -> Outcome:
        """Write the samples of `table` to `tar`, streaming.

        images      the row's picture bytes; bytes with another SHA-256 than the row's raise: data are damaged, the sample is not
        provenance  stage → operators, prompt, model, fingerprint and, so that each text can name its maker, columns
        """
        missing = [name for name in REQUIRED if name not in table.column_names]
        if missing:
            raise ValueError(f"pack: no column {', '.join(missing)}; columns: {', '.join(table.column_names)}")
        maker = _Maker(self, provenance)
        uids: list[str] = []
        offsets: list[int] = []
        rejects: list[Reject] = []
        with open(tar, "wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for row in _rows(table):
                picture = None
                boxes = row.get(self.blur) if self.blur is not None else None
                if boxes:
                    try:
                        picture = blurred(_as_recorded(row, images, tar), boxes)
                    except BadPicture as error:
                        rejects.append(Reject(row["uid"], error.reason, error.detail))
                        continue
                    row |= {"sha256": hashlib.sha256(picture).hexdigest(), "image_format": "JPEG"}
                record = maker.record(row, rejects, bool(boxes))
                if record is None:
                    continue
                if picture is None:
                    picture = _as_recorded(row, images, tar)
                uids.append(row["uid"])
                offsets.append(archive.offset)
                _add(archive, f"{row['uid']}.jpg", picture)
                _add(archive, f"{row['uid']}.json", record)
            offsets.append(archive.offset)
        sizes = [end - start for start, end in itertools.pairwise(offsets)]
        kept = {"uid": uids, "shard_offset": offsets[:-1], "shard_size": sizes}
        return Outcome(pa.table(kept, schema=pa.schema([("uid", pa.string()), *WRITES])), rejects)

    def write_card(self, folder: Path) -> None:
        """Write the README.md by which `datasets.load_dataset(folder)` knows the features, whatever the first samples hold."""
        shard_card.write_card(folder, self.scores)


def _as_recorded(row: dict[str, Any], images: Callable[[dict[str, Any]], bytes], tar: Path) -> bytes:
    picture = images(row)
    if hashlib.sha256(picture).hexdigest() != row["sha256"]:
        raise ValueError(f"{tar.name}: sample {row['uid']}: the picture's bytes do not have its SHA-256, {row['sha256']}")
    return picture


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for batch in table.to_batches(max_chunksize=ROWS):
        for row in batch.to_pylist():
            if row["uid"] in seen:
                raise ValueError(f"pack: uid {row['uid']} occurs twice")
            seen.add(row["uid"])
            yield row


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    archive.addfile(member, io.BytesIO(data))
    archive.members.clear()  # type: ignore[attr-defined]  # tarfile would remember every member


class _Maker:
    """Records of rows that come from the same stages."""

    def __init__(self, pack: Pack, provenance: dict[str, Any]):
        self.pack = pack
        self.provenance = {
            stage: {key: made.get(key) for key in ("operators", "prompt", "model", "fingerprint")}
            for stage, made in provenance.items()
        }
        found_by: dict[str, Any] = next((made for made in provenance.values() if pack.blur in made.get("columns", [])), {})
        own = {"prompt": None, "model": None, "fingerprint": found_by.get("fingerprint") or ""}
        made_by = {False: [f"pack@{pack.version}"], True: [f"blur@{blur.VERSION}", f"pack@{pack.version}"]}
        # Every sample of a shard has the same keys: readers of whole data sets derive their columns from the first ones.
        self.blur = {hidden: {"pack": {"operators": names, **own}} if pack.blur else {} for hidden, names in made_by.items()}
        self.writers: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for stage, made in provenance.items():
            for column in {stage, *made.get("columns", [])}:
                self.writers[column].append(self.provenance[stage])

    def record(self, row: dict[str, Any], rejects: list[Reject], hidden: bool = False) -> bytes | None:
        """The JSON object's bytes, or None: the sample was refused. hidden: parts of the picture were, and it says so."""
        refused: list[Reject] = []
        refuse = _Refusals(row["uid"], refused)
        texts = self.texts(row, refuse)
        if len(texts) < self.pack.min_texts:
            why = "; ".join(f"{reject.item}: {reject.reason}" for reject in refused[:5]) or "no column has one"
            rejects.append(Reject(row["uid"], "no_text", f"{len(texts)} texts < {self.pack.min_texts} ({why})"))
            return None
        record = {
            "format": FORMAT,
            "uid": row["uid"],
            "source": row["source"],
            "license": row.get("license"),
            "url": public(row.get("url")),
            "sha256": row["sha256"],
            "image_format": row["image_format"],
            "width": row["width"],
            "height": row["height"],
            "texts": texts,
            "regions": self.regions(row, refuse),
            "long_negatives": [_long_negative(entry) for entry in row.get("long_negatives") or []],
            "scores": {name: _number(row.get(name)) for name in self.pack.scores},
            "provenance": self.provenance | self.blur[hidden],
        }
        data = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        Record.model_validate_json(data)  # whatever is wrong here is a stage's mistake: the shard fails, loudly
        rejects += refused
        return data

    def texts(self, row: dict[str, Any], refuse: _Refusals) -> list[dict[str, Any]]:
        texts: list[dict[str, Any]] = []
        seen: set[str] = set()
        for column, kind in self.pack.texts.items():
            value = row.get(column)
            listed = isinstance(value, list)
            for i, text in enumerate(value if isinstance(value, list) else [value]):
                if text is None:  # nothing was there, or the stage that refused it has told so
                    continue
                item = f"{column}[{i}]" if listed else column
                text = text.strip()
                language = kind.language or language_of(row, text)
                if not any(map(str.isprintable, text)):
                    refuse("blank", f"{len(text)} characters, none that can be seen", item)
                elif len(text) > MAX_TEXT_CHARS:
                    refuse("text_too_long", f"{len(text)} characters > {MAX_TEXT_CHARS}", item)
                elif language is None:
                    measured = row.get("caption_language")
                    refuse("unknown_language", f"source says {row.get('language')}, measured {measured}", item)
                elif kind.origin == "source" and (why := belied(text, language)):
                    refuse("other_language", f"{language}: {why}", item)
                elif text in seen:
                    refuse("repeated_text", f"{len(text)} characters that came before", item)
                else:
                    seen.add(text)
                    by = row["source"] if kind.origin == "source" else self.by(column)
                    texts.append({"text": text, "language": language, "length": kind.length, "origin": kind.origin, "by": by})
        return texts

    def by(self, column: str) -> str:
        """`prompt@version model` of the last stage that asked for the column's texts (one behind it may have gone through them again,
        as `reviewed` does), or the operators of the last one that wrote it where no model was asked."""
        writers = self.writers.get(column) or [{}]
        made = next((made for made in reversed(writers) if made.get("prompt")), writers[-1])
        return " ".join(part for part in (made.get("prompt"), made.get("model")) if part) or " ".join(
            made.get("operators") or [column]
        )

    def regions(self, row: dict[str, Any], refuse: _Refusals) -> list[dict[str, Any]]:
        raw = row["regions"] if "regions" in row else _source_regions(row)
        raw = raw or []
        negatives, positives = (_aligned(row, name, len(raw)) for name in ("negatives", "positives"))
        regions = []
        for i, region in enumerate(raw):
            packed = _region(region, f"regions[{i}]", refuse)
            if packed is None:
                continue
            packed["negatives"] = _negatives(negatives[i] or [], {packed["short"], packed["long"]}, f"negatives[{i}]", refuse)
            packed["positives"] = [{"text": entry["text"], "origin": entry["origin"]} for entry in positives[i] or []]
            regions.append(packed)
        return regions


class _Refusals:
    def __init__(self, uid: str, rejects: list[Reject]):
        self.uid, self.rejects = uid, rejects

    def __call__(self, reason: str, detail: str, item: str) -> None:
        self.rejects.append(Reject(self.uid, reason, detail, item))


def language_of(row: dict[str, Any], text: str) -> str | None:
    """The source's word first, then the measured language, then the script.

    The measure is of all captions together. Of one of them it does not hold where its script says otherwise: a file of captions in
    both languages has one measure.
    """
    if (told := row.get("language")) is not None:
        return told if told in ("en", "zh") else None
    head = text[:2000]
    han, latin = len(HAN.findall(head)), len(LATIN.findall(head))
    # A Chinese character is worth about four letters.
    script = None if han + latin == 0 else "zh" if 4 * han >= latin else "en"
    measured = row.get("caption_language")
    if measured is None or (measured == "zh" and latin and not han) or (measured == "en" and script == "zh"):
        return script
    return measured if measured in ("en", "zh") else None


def _source_regions(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Boxes that came with the source, where no stage grounded anything."""
    return [
        {
            **region,
            "short": region["text"],
            "long": region["text"],
            "language": language_of(row, region["text"] or ""),
            "origin": "source",
        }
        for region in row.get("source_regions") or []
    ]


def _aligned(row: dict[str, Any], name: str, count: int) -> list[Any]:
    values = row.get(name)
    if not values:
        return [None] * count
    if len(values) != count:
        raise ValueError(f"pack: sample {row['uid']}: {len(values)} entries in {name}, but {count} regions")
    return values


def _region(region: dict[str, Any] | None, item: str, refuse: _Refusals) -> dict[str, Any] | None:
    if region is None or not region.get("box") or any(x is None or not math.isfinite(x) for x in region["box"]):
        refuse("bad_box", "no box", item)
        return None
    box = [round(x, 6) for x in region["box"]]
    x1, y1, x2, y2 = box
    if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
        refuse("bad_box", f"{box}: expected 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1", item)
        return None
    short, long = ((region.get(name) or "").strip() for name in ("short", "long"))
    short, long = short or long, long or short
    language, origin = region.get("language"), region.get("origin")
    if not short or language not in ("en", "zh") or origin not in ("source", "model", "lexical", "human"):
        refuse("bad_region", f"{len(short)} characters, language {language}, origin {origin}", item)
        return None
    if origin == "source" and (why := belied(short, language)):
        refuse("other_language", f"{language}: {why}", item)
        return None
    score = _number(region.get("score"))
    return {"box": box, "score": score, "language": language, "short": short, "long": long, "origin": origin}


def _negatives(raw: list[dict[str, Any]], own: set[str], item: str, refuse: _Refusals) -> list[dict[str, Any]]:
    texts = {entry["text"] for entry in raw if entry and entry["text"] and entry["text"].strip()}
    if raw and (len(raw) != NEGATIVES or len(texts) != NEGATIVES or texts & own):
        refuse(
            "bad_negatives", f"{len(raw)} texts, {len(texts)} different, {len(texts & own)} of them the expression itself", item
        )
        return []
    negatives = [
        {
            "text": entry["text"],
            "family": entry["family"],
            "span": [entry["start"], entry["end"]],
            "original": entry["original"] or "",
            "origin": entry["origin"],
            "flags": entry["flags"] or [],
        }
        for entry in raw
    ]
    for entry in negatives:
        start, end = entry["span"]
        if not 0 <= start <= end <= len(entry["text"]) or entry["text"][start:end] == entry["original"]:
            refuse("bad_negatives", f"{entry['text'][:80]!r}: nothing changed at {start}-{end}", item)
            return []
    return negatives


def _long_negative(entry: dict[str, Any]) -> dict[str, Any]:
    span = [entry["start"], entry["end"]]
    return {"span": span, **{key: entry[key] for key in ("text", "language", "original", "family")}}


def _number(value: Any) -> float | None:
    """Seven digits, as many as a float32 holds; null for what JSON has no number for."""
    if value is None or isinstance(value, int):
        return None if value is None else int(value)
    return float(f"{value:.7g}") if math.isfinite(value) else None
