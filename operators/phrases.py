"""Cut referring expressions from a caption: things that one could draw a box around, each with what is said of it.

Reads    `captions`           columns of captions, string or list<string>; by default the long caption of this language, then the
                              source's long captions, then its short ones. Cut is the first text in this language that is there
Writes   phrases_<language>   list<PHRASE>, in the caption's order: text == caption[start:end]; null without a caption, [] if none
Refuses  "no_phrase"          (item) nothing in the caption names a thing
         "too_many"           (item) more than `max_phrases`: the later ones are left out
Source   FineHARD cuts noun chunks with spaCy. Here attributes, "with ..." and relative clauses stay on their noun, and what names
         nothing (pronouns, "the image", moods, parts of space, negated and compared things) is dropped: see operators/phrasing
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import pyarrow as pa
from PIL import Image
from pydantic import Field

from operators.base import Operator, Outcome, Reject, keep
from operators.columns import BASE, PHRASE
from operators.needs import Need, chinese_tagger, english_parser
from operators.phrasing import Phrase, chinese, chinese_words, english

HAN, LATIN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]"), re.compile(r"[A-Za-z]")
POINTER = re.compile(
    rf"^(?:(?:an?|the|this|that|these|those)\s+|[这那]?一[{chinese_words.MEASURES}]|[这那][{chinese_words.MEASURES}]|[这那])"
)
"""What tells only whether a thing was named before."""
MAX_CHARS = 5000
MAX_PHRASE_CHARS = 240


class Phrases(Operator):
    language: Literal["en", "zh"] = "en"
    captions: tuple[str, ...] = ("long_caption_{language}", "long_captions", "captions")
    max_words: int = Field(24, ge=2, le=60)
    """Words (in Chinese: segments) of a phrase; a clause that would make it longer is left off."""
    max_phrases: int = Field(32, ge=1)

    version: ClassVar[int] = 8
    reasons: ClassVar[dict[str, str]] = {
        "no_phrase": "nothing in the caption names a thing",
        "too_many": "more phrases than max_phrases; the later ones are left out",
    }

    @property
    def _columns(self) -> list[str]:
        return [name.format(language=self.language) for name in self.captions]

    @property
    def reads(self) -> pa.Schema:
        known = {field.name: field.type for field in BASE}
        return pa.schema([(name, known.get(name, pa.string())) for name in self._columns])

    @property
    def optional(self) -> frozenset[str]:
        return frozenset(self._columns)

    @property
    def writes(self) -> pa.Schema:
        return pa.schema([(f"phrases_{self.language}", pa.list_(PHRASE))])

    def needs(self) -> list[Need]:
        return [english_parser() if self.language == "en" else chinese_tagger()]

    def setup(self) -> None:
        (english.pipeline if self.language == "en" else chinese_words.tagger)()

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        column = f"phrases_{self.language}"
        captions = self._texts(batch)
        there = [i for i, text in enumerate(captions) if text is not None]
        cut = (english if self.language == "en" else chinese).phrases((captions[i] for i in there), self.max_words)
        values: list[list[dict[str, Any]] | None] = [None] * len(captions)
        items: list[Reject] = []
        uids = batch["uid"].to_pylist()
        for i, found in zip(there, cut, strict=True):
            phrases = _distinct(found)
            if not phrases:
                items.append(Reject(uids[i], "no_phrase", f"{len(captions[i] or '')} characters", column))
            elif len(phrases) > self.max_phrases:
                items.append(Reject(uids[i], "too_many", f"{len(phrases)} phrases > {self.max_phrases}", column))
            values[i] = [phrase._asdict() for phrase in phrases[: self.max_phrases]]
        return keep(batch, {column: pa.array(values, pa.list_(PHRASE))}, items=items)

    def _texts(self, batch: pa.Table) -> list[str | None]:
        """Per sample the first text in this language, cut to MAX_CHARS."""
        chosen: list[str | None] = [None] * len(batch)
        for name in self._columns:
            for i, value in enumerate(batch[name].to_pylist()):
                if chosen[i] is None:
                    texts = value if isinstance(value, list) else [value]
                    chosen[i] = next((text[:MAX_CHARS] for text in texts if text and self._ours(text[:MAX_CHARS])), None)
        return chosen

    def _ours(self, text: str) -> bool:
        """By its script. A Chinese character is worth about four letters."""
        han, latin = len(HAN.findall(text)), len(LATIN.findall(text))
        return 0 < latin > 4 * han if self.language == "en" else 0 < 4 * han >= latin


def _distinct(phrases: Sequence[Phrase]) -> list[Phrase]:
    """Without repetitions ("a red ball … the red ball"), and without those that hold what cannot be printed or are endless."""
    seen: dict[str, Phrase] = {}
    for phrase in phrases:
        if len(phrase.text) <= MAX_PHRASE_CHARS and phrase.text.isprintable():
            seen.setdefault(POINTER.sub("", phrase.text.casefold(), count=1), phrase)
    return list(seen.values())
