"""A claim with one of its words replaced by any that the operators' lexicon knows: "a teal ball", "three cork crosses".

The renderer draws ten colours and six surfaces; the negatives that operators make say many more. Which words surely exclude a
thing's own is asked of the same lexicon; where that is not sure, nothing is taught.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from demo.negatives import Claim, claim_of
from demo.scenes import Thing
from demo.words import COLOURS, COUNTS, SHAPES, SIZES, SURFACES, article
from operators.lexicon import Value, load
from operators.perturb import chinese, english
from operators.perturb.phrase import Slot

ORDER = {"en": ("count", "size", "colour", "surface"), "zh": ("count", "colour", "surface", "size")}
"""The slots in the order of a text."""


def text_of(claim: Claim, language: str, slot: str = "", word: str = "") -> str:
    """The claim's text with `word` in the place of a slot's own."""
    zh = language == "zh"
    words = {name: own_word(claim, name, language) for name in ORDER[language]} | ({slot: word} if slot else {})
    if zh:
        _, noun, measure = SHAPES[claim.shape]
        return f"{words['count'] or '一'}{measure}{words['colour']}{words['surface']}{words['size']}{noun}"
    single = words["count"] in ("", "one")
    said = [words["size"], words["colour"], words["surface"], claim.shape if single else SHAPES[claim.shape][0]]
    text = " ".join(filter(None, said))
    return f"{words['count'] or article(text)} {text}"


def own_word(claim: Claim, slot: str, language: str) -> str:
    """What the claim says in a slot; "" where it says nothing ("a" and 一 count nothing)."""
    zh = language == "zh"
    if slot == "count":
        return COUNTS[claim.count][zh] if claim.count > 1 else ""
    if slot == "colour":
        return COLOURS[claim.colour][0] if zh else claim.colour
    if slot == "surface":
        return SURFACES[claim.surface][1] if zh else claim.surface.removeprefix("plain")
    return SIZES[claim.size][0] if zh else claim.size.removeprefix("medium")


def family_of(claim: Claim, slot: str) -> str:
    return SURFACES[claim.surface][0] if slot == "surface" else slot


def slots_of(claim: Claim, language: str) -> list[str]:
    """The slots in which the claim says something."""
    return [slot for slot in ORDER[language] if own_word(claim, slot, language)]


def alternatives(claim: Claim, slot: str, language: str) -> dict[str, float]:
    """Words that surely exclude the claim's own in a slot, with how often operators draw each."""
    shape = SHAPES[claim.shape][1] if language == "zh" else claim.shape
    return _alternatives(language, family_of(claim, slot), own_word(claim, slot, language), shape)


@cache
def _alternatives(language: str, family: str, word: str, noun: str) -> dict[str, float]:
    value = _value(language, family, word)
    form = "word" if family == "count" else "attr" if language == "en" else "char" if family == "size" else "word"
    options = (english if language == "en" else chinese).options(Slot(family, 0, 0, value, form, noun))
    return {option.text: option.weight for option in options}


def _value(language: str, family: str, word: str) -> Value:
    return next(value for value in load(language).lookup(word) if value.family == family)


def fits(claim: Claim, slot: str, word: str, language: str, thing: Thing) -> bool | None:
    """Whether the claim with `word` in a slot is true of the thing; None where nobody can say."""
    if word in _world(language, slot):
        return replace(claim, **{slot: _world(language, slot)[word]}).fits(thing)
    mine = claim_of(thing)
    if not replace(claim, **{slot: getattr(mine, slot)}).fits(thing):
        return False
    if slot == "count":
        return False
    if not own_word(mine, slot, language) or family_of(mine, slot) != family_of(claim, slot):
        return None if slot == "size" or word in ("plain", "纯色") else False
    return False if word in alternatives(mine, slot, language) else None


@cache
def _world(language: str, slot: str) -> dict[str, Any]:
    """The renderer's own words of a slot, and their values."""
    zh = language == "zh"
    if slot == "count":
        return {words[zh]: count for count, words in COUNTS.items() if count > 1} | {"一" if zh else "one": 1}
    if slot == "colour":
        return {(words[0] if zh else name): name for name, words in COLOURS.items()}
    if slot == "surface":
        return {(words[1] if zh else name): name for name, words in SURFACES.items() if name != "plain"}
    return {(words[0] if zh else name): name for name, words in SIZES.items() if name != "medium"}


def star(claim: Claim, language: str, rng: random.Random) -> list[tuple[str, str]]:
    """(slot, word) of many different rewordings: of one slot, as operators gather most groups, or of all in turn."""
    open_to = {slot: alternatives(claim, slot, language) for slot in slots_of(claim, language)}
    drawn = {slot: _drawn(words, rng) for slot, words in open_to.items()}
    wide = [slot for slot, words in drawn.items() if len(words) >= 10]
    if wide and rng.random() < 0.85:
        slot = rng.choice(wide)
        return [(slot, word) for word in drawn[slot]]
    turns = [(slot, word, number) for slot, words in drawn.items() for number, word in enumerate(words)]
    return [(slot, word) for slot, word, _ in sorted(turns, key=lambda turn: turn[2])]


def _drawn(words: dict[str, float], rng: random.Random) -> list[str]:
    """All the words, the frequent ones likely first; in a third of the draws none is more likely than another."""
    flat = rng.random() < 0.33
    return sorted(words, key=lambda word: -(rng.random() ** (1 / (1 if flat else words[word]))))


def rewritten(basis: Claim, kinds: Sequence[str], language: str, slot: str = "", word: str = "") -> list[str]:
    """The texts that change one attribute of the given kinds, the kinds in turn; `word` stands in a slot of the basis.

    The order is always the same, from the word after the basis's own on: it can be learned, and none comes twice.
    """
    lists: list[list[tuple[str, str]]] = []
    for name in slots_of(basis, language):
        family = family_of(basis, name)
        if family in kinds:
            said = word if name == slot else own_word(basis, name, language)
            lists.append([(name, other) for other in _others(language, name, family, said)])
    turns = [(turn, number, one) for number, words in enumerate(lists) for turn, one in enumerate(words)]
    changes = [change for _, _, change in sorted(turns, key=lambda turn: turn[:2])]
    return [_reworded(basis, language, slot, word, name, other) for name, other in changes]


def _reworded(basis: Claim, language: str, slot: str, word: str, name: str, other: str) -> str:
    if slot in ("", name):
        return text_of(basis, language, name, other)
    raise ValueError("kinds other than that of the word which was replaced")


@cache
def _others(language: str, slot: str, family: str, said: str) -> list[str]:
    """The world's words of a family from the one after `said` on, then those that exclude all of these, then any; of these what
    excludes `said`."""
    own = [word for word, name in _world(language, slot).items() if slot != "surface" or SURFACES[name][0] == family]
    start = own.index(said) + 1 if said in own else 0
    known: dict[str, float] = {}
    times: dict[str, int] = {}
    for word in own:
        for other, weight in _alternatives(language, family, word, "").items():
            known[other], times[other] = weight, times.get(other, 0) + 1
    more = sorted(known, key=lambda other: (-times[other], -known[other], other))
    words, value = load(language).families[family], _value(language, family, said)
    listed = dict.fromkeys([*own[start:], *own[:start], *more])
    return [word for word in listed if words.excludes(value, _value(language, family, word))]
