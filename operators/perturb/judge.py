"""Judge a given negative by its words alone: is it surely false, is it fluent, which families does it change?

For negatives that others made (a language model, a published set). Three questions are kept apart, since they have different
remedies: truth (throw it away), fluency (mend it), families (a matter of the recipe).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache

from operators import lexicon
from operators.lexicon import Value
from operators.perturb import chinese, chinese_words, denied, english
from operators.perturb.inflect import mend_articles, singular
from operators.perturb.phrase import Phrase
from operators.validators import dictionary

WORD = re.compile(r"[A-Za-z0-9]+(?:['’-][A-Za-z0-9]+)*|[^\sA-Za-z0-9]")
SMALL = {"a", "an", "the", "and", "和", "、", ",", ".", "，", "。", "is", "are", "was", "were", "has", "have"}


SETS = {
    "en": re.compile(r"\b(?:pair|couple|trio|dozen)s?\b", re.I),
    "zh": re.compile(r"[一二两三四五六七八九十半\d]\s?[双对打]"),
}
"""Counts of things by the set: one pair are two, 一打 are twelve."""


@dataclass(frozen=True)
class Verdict:
    """truth      "false" (what a negative must be), "synonym", "not_false" (may hold beside the positive), "object_changed",
               "unchanged", or "unknown" (changed words that the lexicon does not know)
    families   families changed, in order
    why        one sentence per change
    disfluent  one sentence per flaw of language
    """

    truth: str
    families: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    disfluent: tuple[str, ...] = ()
    doubtful: int = 0
    """Changes that alone would leave the text true, or may (a synonym, a wider or neighbouring word)."""

    def refusal(self, families_changed: int = 1) -> str | None:
        """The first reason not to use the negative, None if it can be used."""
        if self.truth != "false":
            return self.truth
        if self.disfluent:
            return "disfluent"
        return "multi_family" if len(self.families) > families_changed else None


@dataclass(frozen=True)
class _Unit:
    """A word, or several that are one attribute."""

    text: str
    values: tuple[Value, ...] = ()
    denied: bool = False


def judge(positive: str, negative: str, language: str) -> Verdict:
    """What can be said of `negative` beside `positive` without a picture; language "en" or "zh"."""
    old, new = (_units(text, language) for text in (positive, negative))
    flaws = _english_flaws(positive, negative) if language == "en" else _chinese_flaws(negative)
    if [unit.text for unit in old] == [unit.text for unit in new]:
        return Verdict("unchanged", (), ("the same words",), flaws)
    phrase = _parsed(positive, language)
    if Counter(unit.text for unit in old) == Counter(unit.text for unit in new):
        return _reordered(phrase, old, new, flaws)
    findings = []
    sets = len(SETS[language].findall(positive)) != len(SETS[language].findall(negative))
    matcher = SequenceMatcher(None, [unit.text for unit in old], [unit.text for unit in new], autojunk=False)
    for kind, i, j, k, m in matcher.get_opcodes():
        if kind != "equal":
            found = _compare(old[i:j], new[k:m], phrase, language)
            if any(unit.denied for unit in (*old[i:j], *new[k:m])):
                found = [("near" if what == "excludes" else what, family, f"{why}, but denied") for what, family, why in found]
            if sets:  # 一对狗 are two dogs
                found = [("near" if family == "count" else what, family, why) for what, family, why in found]
            findings += found
    if len(denied.marks(positive, language)) != len(denied.marks(negative, language)):
        findings.append(("denial", "", "a denial is added or left out"))
    if not findings:
        return Verdict("unchanged", (), ("only small words differ",), flaws)
    kinds = [kind for kind, _, _ in findings]
    families = tuple(dict.fromkeys(family for _, family, _ in findings if family))
    why = tuple(sentence for _, _, sentence in findings)
    odd = tuple(sentence for kind, _, sentence in findings if kind == "misfit")
    if "object" in kinds:
        truth = "object_changed"
    elif "excludes" in kinds and "denial" not in kinds:
        truth = "false"
    elif set(kinds) <= {"same", "agreement"}:
        truth = "synonym"
    elif {"unknown", "misfit", "denial"} & set(kinds):
        truth = "unknown"
    else:
        truth = "not_false"
    doubtful = sum(kind in ("same", "wider", "narrower", "near", "kin", "other_axis") for kind in kinds)
    return Verdict(truth, families, why, flaws + odd, doubtful)


@lru_cache(4096)
def _parsed(text: str, language: str) -> Phrase:
    return (english if language == "en" else chinese).parse([text])[0]


@lru_cache
def _attribute_words(language: str) -> re.Pattern[str]:
    words = sorted(lexicon.load(language).words(), key=len, reverse=True)
    if language == "zh":
        return re.compile("|".join(map(chinese_words.pattern_of, words)), re.I)
    return re.compile(r"(?<![\w])(?:" + "|".join(map(re.escape, words)) + r")(?!\w)", re.I)


def _units(text: str, language: str) -> list[_Unit]:
    units: list[_Unit] = []
    at = 0
    not_said = denied.spans(text, language)
    for match in [*_attribute_words(language).finditer(text), None]:
        upto = match.start() if match else len(text)
        units += [_Unit(word.group().casefold()) for word in WORD.finditer(text, at, upto)]
        if match:
            values = tuple(lexicon.load(language).lookup(match.group()))
            units.append(_Unit(match.group().casefold(), values, denied.inside(match.start(), not_said)))
            at = match.end()
    return [unit for i, unit in enumerate(units) if i == 0 or not _idle(units[i - 1], unit)] if language == "zh" else units


def _idle(before: _Unit, unit: _Unit) -> bool:
    """的, and what only counts (一个, 一只): a noun may be written with or without the one, and with several of the other."""
    counted = before.text in ("这", "那", "每") or any(value.family == "count" for value in before.values)
    return not unit.values and (unit.text == "的" or (counted and unit.text in _measures()))


@lru_cache(maxsize=1)
def _measures() -> frozenset[str]:
    extra = lexicon.load("zh").families["count"].extra
    return frozenset(extra["measures"]) - frozenset(extra["pair_measures"])


def _compare(old: list[_Unit], new: list[_Unit], phrase: Phrase, language: str) -> list[tuple[str, str, str]]:
    """(kind, family, sentence) for each thing that differs in one stretch."""
    lex = lexicon.load(language)
    old = [unit for unit in old if unit.text not in SMALL]
    new = [unit for unit in new if unit.text not in SMALL]
    found: list[tuple[str, str, str]] = []
    gone = [unit for unit in old if unit.values]
    come = [unit for unit in new if unit.values]
    for unit in gone:
        partner = next((other for other in come if _shared(unit, other)), None)
        if partner is None:
            continue
        come.remove(partner)
        family, a, b = _shared(unit, partner)[0]
        relation = lex.families[family].relation(a, b)
        for other_family, other_a, other_b in _shared(unit, partner):
            if lex.families[other_family].excludes(other_a, other_b):
                family, a, b, relation = other_family, other_a, other_b, "excludes"
        nouns = [slot.noun for slot in phrase.slots if phrase.text[slot.start : slot.end].casefold() == unit.text]
        if relation == "excludes" and nouns and all(lex.alike(a, b, noun) for noun in nouns):
            relation = "near"
        found.append((relation, family, f"{partner.text!r} for {unit.text!r}: {_SAY[relation]}"))
    left = [unit for unit in gone if not any(f"for {unit.text!r}:" in sentence for _, _, sentence in found)]
    for unit, other in zip(left, come, strict=False):
        found.append(
            ("misfit", unit.values[0].family, f"{other.text!r} is no {unit.values[0].family}, yet stands for {unit.text!r}")
        )
    for unit in left[len(come) :]:
        found.append(("wider", unit.values[0].family, f"{unit.text!r} is left out, which leaves the rest true"))
    for unit in come[len(left) :]:
        found.append(("near", unit.values[0].family, f"{unit.text!r} is added, which may be true"))
    plain_old = [unit.text for unit in old if not unit.values]
    plain_new = [unit.text for unit in new if not unit.values]
    return found + _plain(plain_old, plain_new, phrase, language)


_SAY = {
    "excludes": "cannot both hold",
    "same": "means the same",
    "wider": "is the wider word",
    "narrower": "is a kind of it",
    "near": "can hold of the same thing",
    "kin": "both are kinds of one thing, hard to tell apart",
    "other_axis": "says nothing about it",
}


def _shared(a: _Unit, b: _Unit) -> list[tuple[str, Value, Value]]:
    return [(x.family, x, y) for x in a.values for y in b.values if x.family == y.family]


def _plain(old: list[str], new: list[str], phrase: Phrase, language: str) -> list[tuple[str, str, str]]:
    """Words that are no attributes: inflection, synonyms of the noun, another noun, or something unknown."""
    if not old and not new:
        return []
    lex = lexicon.load(language)
    a, b = " ".join(old), " ".join(new)
    if language == "en" and [singular(word) for word in old] == [singular(word) for word in new]:
        return [("agreement", "", f"{b!r} for {a!r}: number only")]
    if lex.same_thing(a, b):
        return [("same", "", f"{b!r} for {a!r}: the same thing")]
    singulars = [singular(word) for word in old] if language == "en" else old
    if phrase.head and phrase.head in singulars:
        return [("object", "", f"the object {phrase.head!r} became {b!r}")]
    return [("unknown", "", f"{b!r} for {a!r}: not in the lexicon")]


def _reordered(phrase: Phrase, old: list[_Unit], new: list[_Unit], flaws: tuple[str, ...]) -> Verdict:
    """The same words in another order: a swap of two things' attributes is false, a swap inside a list is not."""
    lex = lexicon.load(phrase.language)
    moved = [(a, b) for a, b in zip(old, new, strict=True) if a.text != b.text]
    families = tuple(dict.fromkeys(family for a, b in moved for family, _, _ in _shared(a, b)))
    inside = {
        slot.noun for slot in phrase.slots if any(phrase.text[slot.start : slot.end].casefold() == a.text for a, _ in moved)
    }
    # Whole parts that changed places ("holding a bag and wearing a hat") leave everything as true as it was.
    only_attributes = all(_shared(a, b) for a, b in moved)
    if (
        len(inside) > 1
        and only_attributes
        and any(lex.families[family].excludes(x, y) for a, b in moved for family, x, y in _shared(a, b))
    ):
        return Verdict("false", families, ("attributes of two things are swapped",), flaws)
    truth = "synonym" if only_attributes else "unknown"
    return Verdict(truth, families, ("the same words in another order",), flaws)


def _english_flaws(positive: str, negative: str) -> tuple[str, ...]:
    flaws = []
    mended = mend_articles(negative)
    if mended != negative and mend_articles(positive) == positive:
        wrong = next(
            f"{a} {b}" for a, b, c in zip(negative.split(), negative.split()[1:], mended.split(), strict=False) if a != c
        )
        flaws.append(f"article: {wrong!r}")
    flaws += [
        f"repeated word: {match.group()!r}"
        for match in re.finditer(r"\b(\w+) \1\b", negative, re.I)
        if match.group() not in positive
    ]
    flaws += [f"number: {text!r}" for text in english.number_errors(negative)]
    flaws += [f"no word: {word!r}" for word in _nonsense(positive, negative)]
    return tuple(flaws)


LETTERS = re.compile(r"[A-Za-z]+")


def _nonsense(positive: str, negative: str) -> list[str]:
    """Words that came in and are none: without a vowel, with a letter three times in a row, or, in small letters (others may be
    names), in no dictionary. A right word that is as rare as that costs one negative."""
    old = {word.casefold() for word in LETTERS.findall(positive)}
    known = _attribute_words("en")
    come = {word for word in LETTERS.findall(known.sub(" ", negative)) if len(word) > 2 and word.casefold() not in old}
    return sorted(word for word in come if not word.isupper() and not _is_word(word))


@lru_cache(4096)
def _is_word(word: str) -> bool:
    if not re.search("[aeiouy]", word, re.I) or re.search(r"(.)\1\1", word, re.I):
        return False
    try:
        return word[0].isupper() or dictionary.is_english(word)
    except RuntimeError:  # the dictionary is not installed
        return True


def _chinese_flaws(negative: str) -> tuple[str, ...]:
    measures = "".join(lexicon.load("zh").families["count"].extra["measures"])
    flaws = [
        f"{match.group()!r}: 两 is wanted before a measure word"
        for match in re.finditer(rf"(?<![一二三四五六七八九十第])二[{measures}](?!楼|号)", negative)
    ]
    flaws += [f"repeated: {match.group()!r}" for match in re.finditer(r"的的|色色|着着|([大小])\1(?=的)", negative)]
    return tuple(flaws)
