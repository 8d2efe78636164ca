"""The expressions of one picture beside each other: from which of them negatives can be made, and what else a text is true of."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from operators.lexicon import FAMILIES, load
from operators.perturb import chinese, english
from operators.perturb.diff import diff_span
from operators.perturb.phrase import Option, Phrase, Slot

ENGINES: dict[str, Any] = {"en": english, "zh": chinese}
SURE = frozenset({"same", "wider"})
POSSIBLE = frozenset({"same", "wider", "narrower", "near", "kin"})
LONGEST = 400
"""Characters of an expression; what is longer is none, and would only cost time."""
ALONE = re.compile(r"(?:an?|one|a single)\b|一", re.I)
HAN = re.compile(r"[\u4e00-\u9fff]")
IDLE = re.compile(r"(?<=\w)的(?=\w)|(?<=[一两二三四五六七八九十\d这那每])[个只条辆张把本件位名棵朵艘架匹台幅顶枚颗根座](?=\w)")
"""Chinese that may be written or not, or otherwise, without another meaning."""


@dataclass(frozen=True)
class Unfit:
    """Why no negatives can be made of an expression."""

    reason: str
    detail: str


UNFIT = {
    "no_text": "the region has no expression",
    "language": "the expression is neither English nor Chinese",
    "too_long": "longer than any expression",
    "contradiction": "the expression contradicts itself, or another expression for the same box",
    "duplicate": "the same expression for an overlapping box came before",
}


@dataclass(frozen=True)
class Setting:
    """An expression and its neighbours.

    near   expressions of boxes that may show the same thing
    far    expressions of the picture's other boxes
    """

    phrase: Phrase
    near: tuple[Phrase, ...] = ()
    far: tuple[Phrase, ...] = ()

    def may_hold(self, slot: Slot, option: Option) -> bool:
        """Whether an overlapping box of the same kind of thing may bear what the option would say."""
        said = replace(slot, value=option.value)
        return any(relation in POSSIBLE for other in self.near for relation in _relations(self.phrase, said, other))

    def elsewhere(self, slots: Sequence[Slot]) -> bool:
        """Whether everything that a text with these slots says is said of another thing in the picture."""
        return any(_true_of(self.phrase, slots, other) for other in self.far)

    def record(self, change: dict[int, Option], flags: Sequence[str] = ()) -> dict[str, Any]:
        """The negative that a change makes of the expression."""
        slots = [replace(slot, value=change[i].value) if i in change else slot for i, slot in enumerate(self.phrase.slots)]
        text = ENGINES[self.phrase.language].render(self.phrase, change)
        elsewhere = self.elsewhere(slots)
        return self.entry(text, self.phrase.slots[next(iter(change))].family, "lexical", elsewhere, flags)

    def written(self, text: str, family: str) -> dict[str, Any]:
        """A negative that a model wrote."""
        return self.entry(text, family, "model", self.written_elsewhere(text))

    def written_elsewhere(self, text: str) -> bool:
        """Whether everything that a text says is said of another thing in the picture."""
        (theirs,) = ENGINES[self.phrase.language].parse([text])
        return any(_true_of(theirs, theirs.slots, other) for other in self.far)

    def written_may_hold(self, text: str) -> bool:
        """Whether a model's text may be true of an overlapping box of the same kind of thing."""
        (theirs,) = ENGINES[self.phrase.language].parse([text])
        own = {(slot.family, slot.noun, slot.value.id) for slot in self.phrase.slots}
        new = [slot for slot in theirs.slots if (slot.family, slot.noun, slot.value.id) not in own]
        return any(
            all(any(relation in POSSIBLE for relation in _relations(theirs, slot, other)) for slot in new)
            for other in self.near
            if new
        )

    def entry(self, text: str, family: str, origin: str, elsewhere: bool = False, flags: Sequence[str] = ()) -> dict[str, Any]:
        start, end, original = diff_span(self.phrase.text, text)
        return {
            "text": text,
            "family": family,
            "start": start,
            "end": end,
            "original": original,
            "origin": origin,
            "flags": ["present_elsewhere"] * elsewhere + list(flags),
        }


def parse(samples: Sequence[Sequence[dict[str, Any]]]) -> list[list[Phrase | None]]:
    """Phrase of every region (None: no text or another language), each distinct text parsed once, by batches."""
    keys = [[(language_of(region) or "", region["short"] or "") for region in regions] for regions in samples]
    known: dict[tuple[str, str], Phrase] = {}
    for language, engine in ENGINES.items():
        mine = sorted({text for row in keys for of_language, text in row if of_language == language and len(text) <= LONGEST})
        known |= {(language, phrase.text): phrase for phrase in engine.parse(mine)}
    return [[known.get(key) for key in row] for row in keys]


def setting(r: int, regions: Sequence[dict[str, Any]], parsed: Sequence[Phrase | None], overlap: float) -> Setting | Unfit:
    """Region r among its neighbours. Two boxes may show the same thing from this IoU, or this share of the smaller box, on."""
    phrase = parsed[r]
    if phrase is None:
        text = (regions[r]["short"] or "").strip()
        if len(text) > LONGEST:
            return Unfit("too_long", f"{len(text):,} characters > {LONGEST}")
        return Unfit("language" if text else "no_text", text[:80])
    if phrase.contradiction:
        return Unfit("contradiction", f"{phrase.contradiction!r} in {phrase.text!r}")
    near: list[Phrase] = []
    far: list[Phrase] = []
    for i, other in enumerate(parsed):
        if i == r or other is None:
            continue
        iou, covered = _overlap(regions[r]["box"], regions[i]["box"])
        (near if covered >= overlap else far).append(other)
        if iou < overlap:
            continue
        if i < r and normal(other.text) == normal(phrase.text):
            return Unfit("duplicate", f"regions[{i}] has the same expression, IoU {iou:.2f}")
        clash = _clash(phrase, other)
        if clash:
            return Unfit("contradiction", f"regions[{i}] says {clash}, IoU {iou:.2f}")
    return Setting(phrase, tuple(near), tuple(far))


def language_of(region: dict[str, Any]) -> str | None:
    text = region["short"] or ""
    if not text.strip():
        return None
    language = region["language"] or ("zh" if re.search(r"[\u4e00-\u9fff]", text) else "en")
    return language if language in ENGINES else None


def normal(text: str) -> str:
    """What must differ between two members of a group: words without case, articles, spelling variants, widths and punctuation, Chinese
    without 的 and without what counts (一个, 一只)."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("gray", "grey").replace("color", "colour")
    if HAN.search(text):
        text = IDLE.sub("", text)
    words = re.findall(r"\w+", text)
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def families_of(phrase: Phrase, allowed: Sequence[str] = FAMILIES) -> list[str]:
    """Families that could be changed in a phrase, in its order."""
    return list(dict.fromkeys(slot.family for slot in phrase.slots if slot.family in allowed and slot.value.use))


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


def _relations(phrase: Phrase, said: Slot, other: Phrase) -> list[str]:
    """What another expression says of the same kind of thing in the family of an attribute: its relations to that attribute."""
    family = load(phrase.language).families[said.family]
    return [
        family.relation(theirs.value, said.value)
        for theirs in other.slots
        if theirs.family == said.family and _same_noun(phrase, said, other, theirs)
    ]


def _true_of(phrase: Phrase, slots: Sequence[Slot], other: Phrase) -> bool:
    """Whether another expression says all that these slots say; of what it leaves out nobody knows."""
    if phrase.language != other.language or not load(phrase.language).same_thing(phrase.head, other.head):
        return False
    ours, theirs = _number(phrase.text, slots), _number(other.text, other.slots)
    if ours is not None and theirs is not None and ours != theirs:
        return False
    return bool(slots) and all(any(relation in SURE for relation in _relations(phrase, slot, other)) for slot in slots)


def _number(text: str, slots: Sequence[Slot]) -> int | None:
    """How many things an expression speaks of, where it says so."""
    counts = [slot.value.number for slot in slots if slot.family == "count"]
    return counts[0] if counts else 1 if ALONE.match(text) else None


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
