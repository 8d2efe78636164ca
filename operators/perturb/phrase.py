"""A referring expression taken apart: which of its words say something that could be false of the same object."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from operators.lexicon import Family, Value


@dataclass(frozen=True)
class Slot:
    """One attribute in a phrase, and what is needed to put another word in its place.

    start, end   characters of the phrase
    value        what the words mean
    form         how they are used: "attr" before a noun, "made" after "made of", "word" otherwise; Chinese also "char"
    noun         what they describe, lower case
    mates        other values of the same family said of the same noun ("black and white"): a replacement must contradict them too
    agree        (start, end, text when one, text when several) of the words that follow a changed number
    follows      text right after the slot begins a place ("sitting on …"), so verbs that stand alone do not fit; or, of a pattern,
                 several colours stand before it ("blue and white striped"), so "plain" does not
    other        the noun behind a verb or a place: what is worn, what something stands beside
    """

    family: str
    start: int
    end: int
    value: Value
    form: str = "word"
    noun: str = ""
    mates: tuple[Value, ...] = ()
    agree: tuple[tuple[int, int, str, str], ...] = ()
    plural_only: bool = False
    follows: bool = False
    other: str = ""


@dataclass(frozen=True)
class Phrase:
    """text, its head noun (lower case, singular in English) and its slots in order."""

    text: str
    language: str
    head: str
    slots: tuple[Slot, ...] = ()
    contradiction: str = ""
    """Two values of the phrase itself that cannot both hold, for people to read."""


@dataclass(frozen=True)
class Option:
    """A replacement for one slot."""

    text: str
    value: Value
    weight: float


@dataclass
class Edit:
    """Replacements of character ranges, applied together."""

    parts: list[tuple[int, int, str]] = field(default_factory=list)

    def apply(self, text: str) -> str:
        for start, end, new in sorted(self.parts, reverse=True):
            text = text[:start] + new + text[end:]
        return text


def bare_slot(phrase: Phrase, at: int) -> Slot:
    """A place for a colour in a phrase that has none, before its noun at character `at`."""
    return Slot("colour", at, at, Value("", "colour", ()), "insert", phrase.head)


def contradicting(slots: Sequence[Slot], families: dict[str, Family]) -> tuple[Slot, Slot] | None:
    """Two sizes or states of one noun that exclude each other ("a large small box")."""
    pairs = ((a, b) for a, b in itertools.combinations(slots, 2) if (a.family, a.noun) == (b.family, b.noun))
    clashes = (pair for pair in pairs if pair[0].family in ("size", "state"))
    return next((pair for pair in clashes if families[pair[0].family].excludes(pair[0].value, pair[1].value)), None)
