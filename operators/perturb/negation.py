"""Negation, false and true: "a ball that is not red" of a red ball, and "a red ball, not a blue one"."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from operators.perturb import chinese, english
from operators.perturb.inflect import mend_articles, singular
from operators.perturb.phrase import Option, Phrase, Slot

SAID = {"colour": "", "material": "made of ", "pattern": "", "state": ""}
"""What English puts between "is not" and the attribute."""


def denials(phrase: Phrase, families: Sequence[str], rng: random.Random) -> list[tuple[str, str]]:
    """(text, family) of texts that deny one attribute of the phrase, in random order; [] where it has no form that is surely
    good language."""
    slots = [slot for slot in phrase.slots if slot.family in families and slot.value.use and not slot.mates]
    found = [(text, slot.family) for slot in slots if (text := _denied(phrase, slot))]
    rng.shuffle(found)
    return found


def contrasts(phrase: Phrase, rng: random.Random) -> list[str]:
    """True texts that say the phrase and that it is nothing else, one for each of its colours, materials and patterns: one to one
    with a value that the lexicon knows to exclude it."""
    found = []
    engine = english if phrase.language == "en" else chinese
    for slot in phrase.slots:
        if slot.family not in ("colour", "material", "pattern") or not slot.value.use or not _ends_in_head(phrase):
            continue
        usual = [option for option in engine.options(slot) if option.weight >= 1]
        if not usual:
            continue
        option = rng.choices(usual, [o.weight for o in usual])[0]
        text = _contrast_en(phrase, option) if phrase.language == "en" else _contrast_zh(phrase, option)
        if text:
            found.append(text)
    return found


def _denied(phrase: Phrase, slot: Slot) -> str | None:
    if phrase.language == "zh":
        # 一个红色的球 → 一个不是红色的球: the word's own 的 carries the denial.
        plain = slot.family in ("colour", "material", "pattern") and slot.end - slot.start > 1
        if plain and not slot.follows and phrase.text[slot.end :].startswith("的"):
            return phrase.text[: slot.start] + "不是" + phrase.text[slot.start :]
        return None
    if slot.family not in SAID or slot.form != "attr" or slot.noun != phrase.head or not _ends_in_head(phrase):
        return None
    bare = re.sub(r"\s+", " ", phrase.text[: slot.start] + phrase.text[slot.end :]).strip()
    if re.search(r"(?:\band|,|-|\bor)\s*(?:and |,|-)|^\W|\s,", bare):
        return None
    word = slot.value.made or slot.value.words[0] if slot.family == "material" else phrase.text[slot.start : slot.end].lower()
    stop = re.search(r"[.!]$", bare)
    verb = "is" if _one(phrase) else "are"
    text = f"{bare.rstrip('.!')} that {verb} not {SAID[slot.family]}{word}{stop[0] if stop else ''}"
    return mend_articles(text[0].upper() + text[1:] if phrase.text[0].isupper() else text)


def _contrast_en(phrase: Phrase, option: Option) -> str | None:
    if re.search(r"[.!]$", phrase.text):
        return None
    one = _one(phrase)
    return mend_articles(f"{phrase.text}, not {'a ' if one else ''}{option.text} one{'' if one else 's'}")


def _contrast_zh(phrase: Phrase, option: Option) -> str | None:
    if len(option.text) < 2 or re.search(r"[。！]$", phrase.text):
        return None
    return f"{phrase.text}，而不是{option.text}的"


def _one(phrase: Phrase) -> bool:
    return bool(re.match(r"(?:an?|one|the|this|that)\s", phrase.text, re.I)) and not any(
        slot.family == "count" and slot.value.number != 1 for slot in phrase.slots
    )


def _ends_in_head(phrase: Phrase) -> bool:
    """A noun group and nothing after it: determiner, modifiers, head."""
    if not phrase.head:
        return False
    if phrase.language == "zh":
        return phrase.text.rstrip("。！").endswith(phrase.head) and not re.search(r"[，、；在着]", phrase.text)
    last = re.search(r"([\w-]+)[.!]?$", phrase.text)
    return bool(
        last
        and singular(last[1].casefold()) == phrase.head
        and re.match(r"(?:an?|one|two|three|four|five|six|seven|eight|nine|ten)\s", phrase.text, re.I)
        and not re.search(r"\b(?:with|of|in|on|and|that|which|who|under|behind|near|by|to)\b|,", phrase.text)
        and not any(slot.family in ("relation", "action") for slot in phrase.slots)
    )
