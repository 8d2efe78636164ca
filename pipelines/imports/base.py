"""What the readers of foreign layouts share: pieces of a file, the normal form of a row, refusals."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from operators.lexicon import load as lexicon
from operators.perturb.diff import WORD, diff_span
from pipelines.shard_format import NEGATIVES
from pipelines.sources.boxes import check_box
from pipelines.sources.cleaning import clean_text, is_lost, number_of

NO_FILE = re.compile("[\0\ud800-\udfff]")
"""Characters of no file's name: half of a surrogate pair, which JSON can say, cannot be written."""


class BadRow(ValueError):
    """A row that cannot be used; `reason` is a machine word."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


REASONS = {
    "bad_json": "the row is not valid JSON",
    "bad_row": "the row is not an object, or lacks what the layout demands",
    "bad_annotation": "an annotation that is no object, or whose image is not in the file or is there twice",
    "bad_path": "the picture's name is missing or leads out of the picture folder",
    "no_picture": "the picture is not in the folder: addresses die",
    "bad_picture": "the file is no whole picture",
    "no_text": "no usable caption",
    "bad_text": "a text that is no text, or whose characters were lost (item)",
    "bad_box": "a box that is inverted, empty, outside the picture or not four numbers (item)",
    "bad_negatives": "flagged as having hard negatives, and they are not ten different texts that differ from the expression (item)",
}


@dataclass
class Row:
    """One picture and its annotations, whatever file they came from.

    number    row in the file, from 0: with the file's digest it makes the identity
    image     path of the picture relative to the picture folder
    items     refusals of parts: (item, reason, detail)
    """

    number: int
    image: str
    language: str
    captions: list[str] = field(default_factory=list)
    long_captions: list[str] = field(default_factory=list)
    regions: list[dict[str, Any]] = field(default_factory=list)
    negatives: list[list[dict[str, Any]]] = field(default_factory=list)
    items: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Piece:
    """One shard's share of a file; `where` is the reader's own business and plain JSON."""

    first_row: int
    rows: int
    where: Any = None


class Reader:
    """Reads one layout. `pieces` makes one pass in bounded memory, `rows` reads one piece of it again."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    pattern: ClassVar[str]
    """Files to take from a folder."""

    def pieces(self, path: Path, shard_size: int) -> tuple[str, list[Piece]]:
        """SHA-256 of the file, and its cut."""
        raise NotImplementedError

    def rows(self, path: Path, digest: str, piece: Piece) -> Iterator[Row | tuple[int, BadRow]]:
        """Each row of a piece, or its number and why it cannot be used."""
        raise NotImplementedError


def text_in(value: Any) -> str:
    """A usable text, or "" for nothing. BadRow for what is no text."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRow("bad_text", f"{type(value).__name__} instead of a text")
    text = clean_text(value)
    if is_lost(text):
        raise BadRow("bad_text", f"lost characters in {text[:60]!r}")
    return text


def no_text(what: str, row: Row) -> BadRow:
    """The refusal of a row that has no text left, with what became of its parts: they go with it."""
    parts = ", ".join(f"{item}: {reason}" for item, reason, _ in row.items[:3])
    return BadRow("no_text", f"{what} ({parts})" if parts else what)


def picture_path(folder: Path, name: Any) -> Path:
    """Where a row's picture must lie. BadRow for a name that leads elsewhere."""
    if not isinstance(name, str) or not name.strip() or NO_FILE.search(name):
        raise BadRow("bad_path", f"{str(name)[:100]!r} is no file name")
    inside = os.path.normpath(name.strip())
    if os.path.isabs(inside) or inside.startswith(".."):
        raise BadRow("bad_path", f"{name[:100]!r} leads out of the picture folder")
    return folder / inside


def region_of(raw_box: Any, short: str, long: str, language: str) -> dict[str, Any]:
    """A region in the shard format's terms. BadRow for a bad box or an expression without text."""
    numbers = list(raw_box) if isinstance(raw_box, list | tuple) else []
    box, why = check_box(numbers[:4])
    if box is None:
        raise BadRow("bad_box", why)
    box = [round(x, 6) for x in box]  # as shards hold it
    if box[0] == box[2] or box[1] == box[3]:
        raise BadRow("bad_box", f"{box}: a side is less than a millionth of the picture's")
    if not (short or long):
        raise BadRow("bad_text", "a box without an expression")
    score = number_of(numbers[4]) if len(numbers) > 4 else None
    return {
        "box": box,
        "score": score,
        "short": short or long,
        "long": long or short,
        "language": language,
        "origin": "source",
    }


def negatives_of(texts: Any, region: dict[str, Any]) -> list[dict[str, Any]]:
    """A group of ten in the shard format's terms; BadRow "bad_negatives" for anything else.

    What was changed is found by comparing with the short expression, its family by the lexicon; where that knows none of the words
    the family is a guess ("state") and says so by the flag `family_unknown`.
    """
    listed = list(texts.values()) if isinstance(texts, dict) else texts if isinstance(texts, list) else []
    cleaned = [clean_text(text) if isinstance(text, str) else "" for text in listed]
    different = {text.lower() for text in cleaned if text}
    own = different & {region["short"].lower(), region["long"].lower()}
    if len(cleaned) != NEGATIVES or len(different) != NEGATIVES or own:
        raise BadRow(
            "bad_negatives",
            f"{len(cleaned)} texts, {len(different)} different{', the expression itself among them' if own else ''}",
        )
    group = []
    for text in cleaned:
        start, end, original = diff_span(region["short"], text)
        family, flags = _family(text[start:end], original, region["language"])
        group.append(
            {
                "text": text,
                "family": family,
                "start": start,
                "end": end,
                "original": original,
                "origin": "source",
                "flags": flags,
            }
        )
    return group


def _family(changed: str, original: str, language: str) -> tuple[str, list[str]]:
    known = lexicon(language)
    for words in (changed, original):
        for candidate in (words, *(match.group() for match in WORD.finditer(words))):
            found = known.lookup(candidate)
            if found:
                return found[0].family, []
    return "state", ["family_unknown"]
