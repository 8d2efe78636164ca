"""Ten attribute-perturbed hard negatives for each region's expression, made with a lexicon; English and Chinese.

Reads    regions     REGIONS: boxes, short expressions, language
Writes   negatives   NEGATIVES, aligned with `regions`: exactly ten, or none
         positives   POSITIVES, aligned with `regions`: up to `positives` true paraphrases (only when that is set)
Refuses  parts only, item "negatives[r]": see `reasons`
Source   FG-CLIP 2 §3 (ten per region, one attribute changed, object kept); how groups are hidden from attacks without a picture:
         operators/perturb/group.py

A negative is false for its own box: the new word surely excludes the old one (operators/lexicon), and no overlapping box of the
same kind of thing bears it. If it is true of something else in the picture it is kept and flagged "present_elsewhere".
Everything is drawn from a generator seeded by uid, region and text: the same sample gives the same negatives.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import pyarrow as pa
from PIL import Image
from pydantic import Field, PrivateAttr, field_validator

from operators.base import Operator, Outcome, Reject, keep
from operators.columns import NEGATIVES, POSITIVES, REGIONS
from operators.lexicon import FAMILIES, load
from operators.perturb import chinese, english
from operators.perturb.diff import diff_span
from operators.perturb.group import SIZE, Plan, Sampler, build
from operators.perturb.judge import Verdict, judge
from operators.perturb.paraphrase import paraphrases
from operators.perturb.phrase import Option, Phrase, Slot

__all__ = ["HardNegatives", "Verdict", "diff_span", "judge"]

ENGINES: dict[str, Any] = {"en": english, "zh": chinese}
FamilyName = Literal["colour", "material", "size", "pattern", "count", "state", "relation", "action"]


class HardNegatives(Operator):
    families: tuple[FamilyName, ...] = FAMILIES  # type: ignore[assignment]
    """Attribute families that may be changed."""
    families_changed: int = Field(1, ge=1, le=3)
    """Most families in which one negative may differ from its positive."""
    pivot: float = Field(0.9, ge=0, le=1)
    """Of the groups that gather around one of their members, the share in which that is not the positive (10/11 hides it best)."""
    spread: float = Field(0.05, ge=0, le=1)
    """Share of groups that take all families in turn, around the positive. Families with few words (size, state) come in by this at
    one changed family, and each such group shows its positive to whoever looks for the middle. Without effect from `families_changed`
    2 on: there such families are hidden too."""
    overlap: float = Field(0.5, gt=0, le=1)
    """Two boxes may show the same thing from this IoU, or this share of the smaller box, on."""
    max_same: int = Field(2, ge=1, le=SIZE)
    """Most negatives of one slot that share a root meaning (huge, enormous)."""
    distribution: dict[FamilyName, dict[str, float]] = Field(default_factory=dict)
    """Per family, word → how often it describes things in the positives (`python -m operators.perturb.distribution` measures it);
    instead of the lexicon's own weights, in the languages whose words are given."""
    insert_when_bare: bool = False
    """Give a phrase without attributes ("a dog") a colour that such things hardly ever have ("a blue dog"), flagged "inserted". Likely
    false, not surely; and easily told without the picture."""
    positives: int = Field(0, ge=0, le=10)
    """True paraphrases per region."""

    _known: dict[tuple[Any, ...], tuple[list[Option], float]] = PrivateAttr(default_factory=dict)
    """Options of slots seen before: the same few kinds of slots come again and again."""

    version: ClassVar[int] = 1
    reasons: ClassVar[dict[str, str]] = {
        "no_text": "the region has no expression",
        "language": "the expression is neither English nor Chinese",
        "no_attribute": "the expression has no attribute that can be changed safely",
        "too_few": "its attributes allow fewer than ten different negatives",
        "contradiction": "the expression contradicts itself, or another expression for the same box",
        "duplicate": "the same expression for an overlapping box came before",
    }

    @field_validator("distribution")
    @classmethod
    def _weights_are_not_negative(cls, value: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        for family, words in value.items():
            for word, weight in words.items():
                if weight < 0:
                    raise ValueError(f"distribution.{family}.{word}: a weight cannot be negative, got {weight}")
        return value

    @property
    def reads(self) -> pa.Schema:
        return pa.schema({"regions": REGIONS})

    @property
    def writes(self) -> pa.Schema:
        return pa.schema({"negatives": NEGATIVES, **({"positives": POSITIVES} if self.positives else {})})

    def setup(self) -> None:
        english.nlp()
        chinese.tagger()

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        samples = [regions or [] for regions in batch["regions"].to_pylist()]
        phrases = self._parse(samples)
        negatives, positives, rejects = [], [], []
        for uid, regions, parsed in zip(batch["uid"].to_pylist(), samples, phrases, strict=True):
            groups: list[list[dict[str, Any]]] = []
            for r in range(len(regions)):
                made, reason, detail = self._region(uid, r, regions, parsed)
                groups.append(made)
                if reason:
                    rejects.append(Reject(uid, reason, detail, f"negatives[{r}]"))
            negatives.append(groups)
            positives.append([self._positives(uid, r, phrase) for r, phrase in enumerate(parsed)])
        columns = {"negatives": pa.array(negatives, NEGATIVES)}
        if self.positives:
            columns["positives"] = pa.array(positives, POSITIVES)
        return keep(batch, columns, items=rejects)

    def _parse(self, samples: list[list[dict[str, Any]]]) -> list[list[Phrase | None]]:
        """Phrase of every region (None: no text or another language), each distinct text parsed once, by batches."""
        keys = [[(_language(region) or "", region["short"] or "") for region in regions] for regions in samples]
        known: dict[tuple[str, str], Phrase] = {}
        for language, engine in ENGINES.items():
            mine = sorted({text for row in keys for of_language, text in row if of_language == language})
            known |= {(language, phrase.text): phrase for phrase in engine.parse(mine)}
        return [[known.get(key) for key in row] for row in keys]

    def _region(
        self, uid: str, r: int, regions: list[dict[str, Any]], parsed: list[Phrase | None]
    ) -> tuple[list[dict[str, Any]], str, str]:
        phrase = parsed[r]
        if phrase is None:
            text = (regions[r]["short"] or "").strip()
            return [], ("language" if text else "no_text"), text[:80]
        if phrase.contradiction:
            return [], "contradiction", f"{phrase.contradiction!r} in {phrase.text!r}"
        others = [
            (other, *_overlap(regions[r]["box"], regions[i]["box"]), i) for i, other in enumerate(parsed) if i != r and other
        ]
        for other, iou, _, i in others:
            if iou < self.overlap:
                continue
            if i < r and _normal(other.text) == _normal(phrase.text):
                return [], "duplicate", f"regions[{i}] has the same expression, IoU {iou:.2f}"
            clash = _clash(phrase, other)
            if clash:
                return [], "contradiction", f"regions[{i}] says {clash}, IoU {iou:.2f}"
        usable = [slot for slot in phrase.slots if slot.family in self.families and slot.value.use]
        inserted = None if phrase.slots or not self.insert_when_bare else ENGINES[phrase.language].insert(phrase)
        if inserted:
            phrase = replace(phrase, slots=(inserted[0],))
        elif not usable:
            return [], "no_attribute", phrase.text
        return self._group(uid, r, phrase, others, inserted[1] if inserted else None)

    def _group(
        self, uid: str, r: int, phrase: Phrase, others: list[Any], inserted: list[Option] | None
    ) -> tuple[list[dict[str, Any]], str, str]:
        rng = _rng(uid, r, phrase.text)
        near = [other for other, _, overlap, _ in others if overlap >= self.overlap]
        far = [other for other, _, overlap, _ in others if overlap < self.overlap]
        choices, own = [], []
        for slot in phrase.slots:
            found, weight = (inserted, 0.0) if inserted is not None else self._options(phrase.language, slot)
            choices.append(
                [option for option in found if not any(_bears(other, phrase, slot, option, POSSIBLE) for other in near)]
            )
            own.append(weight)
        sampler = Sampler(phrase, choices, own, Plan(self.pivot, self.spread, self.families_changed, self.max_same), rng)
        negatives: dict[str, dict[str, Any]] = {}
        for change in build(sampler):
            text = ENGINES[phrase.language].render(phrase, change)
            start, end, original = diff_span(phrase.text, text)
            elsewhere = any(
                all(_bears(other, phrase, phrase.slots[i], option, SURE) for i, option in change.items()) for other in far
            )
            negatives[_normal(text)] = {
                "text": text,
                "family": phrase.slots[next(iter(change))].family,
                "start": start,
                "end": end,
                "original": original,
                "origin": "lexical",
                "flags": ["present_elsewhere"] * elsewhere + ["inserted"] * (inserted is not None),
            }
        negatives.pop(_normal(phrase.text), None)
        if len(negatives) == SIZE:
            return list(negatives.values()), "", ""
        words = ", ".join(phrase.text[slot.start : slot.end] for slot in phrase.slots)
        room = sum(sampler.capacity(i) for i in range(len(phrase.slots)))
        return [], ("too_few" if room else "no_attribute"), f"room for {room} of {SIZE} from {words!r} in {phrase.text!r}"

    def _options(self, language: str, slot: Slot) -> tuple[list[Option], float]:
        """What may stand in a slot, and the weight of what stands there."""
        if slot.family not in self.families or not slot.value.use:
            return [], 0.0
        mates = tuple(value.id for value in slot.mates)
        key = (language, slot.family, slot.value.id, slot.form, slot.noun, mates, slot.plural_only, slot.follows)
        if key not in self._known:
            engine, given = ENGINES[language], self.distribution.get(slot.family, {})
            words = {word for value in load(language).families[slot.family].values.values() for word in value.words}
            weights = {word: weight for word, weight in given.items() if word in words} or None
            self._known[key] = engine.options(slot, weights), engine.own_weight(slot, weights)
        return self._known[key]

    def _positives(self, uid: str, r: int, phrase: Phrase | None) -> list[dict[str, str]]:
        if not self.positives or phrase is None or phrase.contradiction:
            return []
        rng = _rng(uid, r, "positives " + phrase.text)
        return [{"text": text, "origin": "lexical"} for text in paraphrases(phrase, self.positives, rng)]


def _language(region: dict[str, Any]) -> str | None:
    text = region["short"] or ""
    if not text.strip():
        return None
    language = region["language"] or ("zh" if re.search(r"[\u4e00-\u9fff]", text) else "en")
    return language if language in ENGINES else None


def _rng(uid: str, r: int, text: str) -> random.Random:
    return random.Random(hashlib.sha256(f"{uid}\0{r}\0{text}".encode()).digest())


def _normal(text: str) -> str:
    """What must differ between two members of a group: words without case, articles, spelling variants and punctuation."""
    words = re.findall(r"\w+", text.casefold().replace("gray", "grey").replace("color", "colour"))
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def _overlap(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """IoU of two boxes, and the larger of it and the share of the smaller box that lies in the other."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    both = width * height
    if both <= 0 or min(areas) <= 0:
        return 0.0, 0.0
    iou = both / (areas[0] + areas[1] - both)
    return iou, max(iou, both / min(areas))


def _same_noun(phrase: Phrase, slot: Slot, other: Phrase, theirs: Slot) -> bool:
    """Whether two attributes are said of the same kind of thing: both of the heads, or both of equal parts of equal heads."""
    lex = load(phrase.language)
    if phrase.language != other.language or not lex.same_thing(phrase.head, other.head):
        return False
    return lex.same_thing(slot.noun, theirs.noun) or (slot.noun == phrase.head and theirs.noun == other.head)


SURE = frozenset({"same", "wider"})
POSSIBLE = frozenset({"same", "wider", "narrower", "near", "kin"})


def _bears(other: Phrase, phrase: Phrase, slot: Slot, option: Option, how: frozenset[str]) -> bool:
    """Whether another region's expression says of the same kind of thing what the option would say here (SURE: it does;
    POSSIBLE: it may)."""
    family = load(phrase.language).families[slot.family]
    return any(
        theirs.family == slot.family
        and _same_noun(phrase, slot, other, theirs)
        and family.relation(theirs.value, option.value) in how
        for theirs in other.slots
    )


def _clash(phrase: Phrase, other: Phrase) -> str:
    """An attribute of another expression for (nearly) the same box that contradicts this one."""
    families = load(phrase.language).families
    for mine in phrase.slots:
        for theirs in other.slots:
            if (
                mine.family != theirs.family
                or mine.family in ("relation", "action")
                or not _same_noun(phrase, mine, other, theirs)
            ):
                continue
            if all(families[mine.family].excludes(value, theirs.value) for value in (mine.value, *mine.mates)):
                return f"{theirs.value.words[0]} where this one says {mine.value.words[0]}: {other.text!r}"
    return ""
