"""Ten negatives of an expression whose one attribute has only an opposite or two: "a closed door", "a closed red door" of an open one.

Its opposite makes each of them false, whatever is added; what is added only tells them apart.
"""

from __future__ import annotations

import random
from dataclasses import replace

from operators import lexicon
from operators.perturb.group import SIZE, Change
from operators.perturb.phrase import Option, Phrase, Slot, bare_slot

COLOURED = frozenset(("animal", "cloth", "ware", "furniture", "device", "vehicle", "shape"))
"""Kinds of things that come in many colours; a crowded red street is nonsense."""
USUAL = 1.0
"""Weight of the colours that things often have."""


def with_place(phrase: Phrase, slot: Slot) -> Phrase | None:
    """The phrase with a place for a colour as its last slot, behind an attribute that stands right before its noun; None where there is
    no such place, or the noun has a colour already or hardly any."""
    noun, lex = slot.noun, lexicon.load(phrase.language)
    at = slot.end + 1
    joined = phrase.text[slot.end : at] == (" " if phrase.language == "en" else "的")
    beside = phrase.text.casefold().startswith(noun[: max(1, len(noun) - 1)], at)  # the noun may be a plural
    coloured = any(other.family == "colour" and other.noun == noun for other in phrase.slots)
    if not (noun and joined and beside and slot.form != "made" and lex.classes(noun) & COLOURED) or coloured:
        return None
    return replace(phrase, slots=(*phrase.slots, replace(bare_slot(phrase, at), noun=noun)))


def changes(phrase: Phrase, slot: int, opposites: list[Option], rng: random.Random) -> list[Change]:
    """Ten changes of a phrase from `with_place`: its opposites alone, then with colours that such things have; fewer where these are
    too few."""
    lex, place = lexicon.load(phrase.language), len(phrase.slots) - 1
    gap = " " if phrase.language == "en" else ""
    colours = [
        Option(value.words[0] + gap, value, value.drawn)
        for value in lex.families["colour"].values.values()
        if value.use and not value.vague and value.weight >= USUAL and lex.fits(value, phrase.slots[place].noun)
    ]
    both: list[Change] = [{slot: opposite, place: colour} for opposite in opposites for colour in colours]
    both.sort(key=lambda change: rng.random() ** (1 / change[place].weight), reverse=True)  # drawn by weight, none twice
    return [*({slot: opposite} for opposite in opposites), *both][:SIZE]
