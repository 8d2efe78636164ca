"""Half-true long captions: a right caption with one wrong unit, the rest word for word as it was. English and Chinese.

Reads    the columns of `captions`   string, long captions that are taken for true; all may be missing
         regions                     REGIONS, whose expressions tell what else is in the picture; may be missing
Writes   long_negatives              LONG_NEGATIVES: up to `count` per caption
Refuses  parts only, item "long_negatives.<column>": see `reasons`
Source   half-truth foils (HQ-CLIP's long negatives; CLIP models rate a caption with one wrong unit above a shorter right one)

The changed unit must be false of the whole picture, not of one box: nothing that the captions or the regions say of the same kind of
thing may bear the new word. A unit that the caption mentions twice is left alone: changed once it would contradict itself, which shows
without the picture. What stands in quotation marks is never changed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import pyarrow as pa
from PIL import Image
from pydantic import Field

from operators.base import Operator, Outcome, Reject, keep
from operators.columns import LONG_NEGATIVES, REGIONS
from operators.lexicon import load
from operators.needs import Need, chinese_tagger, english_parser
from operators.perturb import chinese, english
from operators.perturb.diff import diff_span
from operators.perturb.phrase import Option, Phrase, Slot
from operators.perturb.regions import ENGINES, POSSIBLE, language_of
from operators.perturb.words import Words, seeded
from operators.validators.sentences import split

LONGEST_CAPTION, LONGEST_SENTENCE = 6000, 600
"""Characters; longer sentences are no prose and are left as they are."""

Unit = tuple[int, Phrase, int]
"""Offset of a sentence in its caption, its parse, the slot to change."""


class LongNegatives(Words, Operator):
    captions: dict[str, Literal["en", "zh"]] = Field({"long_caption_en": "en", "long_caption_zh": "zh"}, min_length=1)
    """Columns of long captions and their languages."""
    count: int = Field(1, ge=1, le=5)
    """Most half-true texts per caption, each with another unit changed; of different families where the caption has them."""

    version: ClassVar[int] = 8
    reasons: ClassVar[dict[str, str]] = {
        "too_long": "longer than any caption",
        "no_unit": "the caption has no unit that can be changed safely",
        "everywhere": "every word that could stand there may be true of something else in the picture",
    }

    @property
    def reads(self) -> pa.Schema:
        return pa.schema({**{name: pa.string() for name in self.captions}, "regions": REGIONS})

    @property
    def optional(self) -> frozenset[str]:
        return frozenset(self.reads.names)

    @property
    def writes(self) -> pa.Schema:
        return pa.schema({"long_negatives": LONG_NEGATIVES})

    def needs(self) -> list[Need]:
        return [english_parser(), chinese_tagger()]

    def setup(self) -> None:
        english.nlp()
        chinese.tagger()

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        made: list[list[dict[str, Any]]] = []
        rejects: list[Reject] = []
        for row in batch.to_pylist():
            said = self._said(row)
            texts: list[dict[str, Any]] = []
            for column, language in self.captions.items():
                caption = row[column] or ""
                found: list[dict[str, Any]] | Reject = []
                if len(caption) > LONGEST_CAPTION:
                    detail = f"{len(caption):,} characters > {LONGEST_CAPTION:,}"
                    found = Reject(row["uid"], "too_long", detail, f"long_negatives.{column}")
                elif caption:
                    found = self._of_caption(row["uid"], column, caption, language, said)
                if isinstance(found, Reject):
                    rejects.append(found)
                else:
                    texts += found
            made.append(texts)
        return keep(batch, {"long_negatives": pa.array(made, LONG_NEGATIVES)}, items=rejects)

    def _said(self, row: dict[str, Any]) -> list[Phrase]:
        """Everything that is said to be in the picture."""
        texts: dict[str, list[str]] = {"en": [], "zh": []}
        for column, language in self.captions.items():
            texts[language] += [sentence for _, sentence in _sentences(row[column] or "")]
        for region in row.get("regions") or []:
            spoken = language_of(region)
            if spoken and len(region["short"]) <= LONGEST_SENTENCE:
                texts[spoken].append(region["short"])
        return [phrase for language, engine in ENGINES.items() for phrase in engine.parse(list(dict.fromkeys(texts[language])))]

    def _of_caption(
        self, uid: str, column: str, caption: str, language: str, said: list[Phrase]
    ) -> list[dict[str, Any]] | Reject:
        rng = seeded(uid, 0, f"{column} {caption}")
        pieces = _sentences(caption)
        parsed = ENGINES[language].parse([sentence for _, sentence in pieces])
        units = [(at, phrase, i) for (at, _), phrase in zip(pieces, parsed, strict=True) for i in range(len(phrase.slots))]
        usable = [unit for unit in units if self._usable(unit, units)]
        found: list[dict[str, Any]] = []
        met = False
        for at, phrase, i in _by_family(usable, rng):
            slot = phrase.slots[i]
            options, _ = self._options(language, slot)
            met = met or bool(options)
            options = [option for option in options if not _said_elsewhere(slot, option, phrase.language, said)]
            if not options or len(found) == self.count:
                continue
            option = rng.choices(options, [o.weight + 1e-9 for o in options])[0]
            changed = ENGINES[language].render(phrase, {i: option})
            text = caption[:at] + changed + caption[at + len(phrase.text) :]
            start, end, _ = diff_span(phrase.text, changed)
            found.append(
                {
                    "text": text,
                    "language": language,
                    "original": caption,
                    "start": at + start,
                    "end": at + end,
                    "family": slot.family,
                }
            )
        if found:
            return found
        why = "everywhere" if met else "no_unit"
        return Reject(uid, why, f"{len(units)} attributes in {len(pieces)} sentences", f"long_negatives.{column}")

    def _usable(self, unit: Unit, units: Sequence[Unit]) -> bool:
        _, phrase, i = unit
        slot = phrase.slots[i]
        # "Two balls" is true of three; what someone does, other sentences tell in other words.
        if slot.family not in self.families or slot.family in ("action", "count") or not slot.value.use:
            return False
        if not slot.noun or slot.mates:
            return False
        twice = Counter((p.slots[j].noun, p.slots[j].family) for _, p, j in units)
        return twice[slot.noun, slot.family] == 1 or not any(
            p.slots[j].value.id == slot.value.id
            for _, p, j in units
            if (p, j) != (phrase, i) and (p.slots[j].noun, p.slots[j].family) == (slot.noun, slot.family)
        )


def _sentences(caption: str) -> list[tuple[int, str]]:
    """Sentences with their places in the caption."""
    found, at = [], 0
    for sentence in split(caption[:LONGEST_CAPTION]):
        at = caption.find(sentence, at)
        if at < 0:
            return []
        if len(sentence) <= LONGEST_SENTENCE:
            found.append((at, sentence))
        at += len(sentence)
    return found


def _by_family(units: Sequence[Unit], rng: random.Random) -> list[Unit]:
    """In random order, families in turn: a caption names more colours than anything else."""
    families: dict[str, list[Unit]] = {}
    for unit in rng.sample(list(units), len(units)):
        families.setdefault(unit[1].slots[unit[2]].family, []).append(unit)
    order: list[Unit] = []
    lists = rng.sample(list(families.values()), len(families))
    while any(lists):
        order += [members.pop() for members in lists if members]
    return order


def _said_elsewhere(slot: Slot, option: Option, language: str, said: Sequence[Phrase]) -> bool:
    """Whether anything said of a thing of this kind may bear the new word."""
    lex, new = load(language), replace(slot, value=option.value)
    family = lex.families[slot.family]
    return any(
        theirs.family == slot.family
        and lex.same_thing(theirs.noun, slot.noun)
        and family.relation(theirs.value, new.value) in POSSIBLE
        for phrase in said
        if phrase.language == language
        for theirs in phrase.slots
    )
