"""The words of an English expression: what spaCy's tagger says of them, mended, and which noun a word describes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from operators import lexicon

QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|‘[^’]*’|(?<!\w)'[^']+'(?!\w)|「[^」]*」|«[^»]*»")

_POS = {
    "NN": "NOUN",
    "JJ": "ADJ",
    "VB": "VERB",
    "IN": "ADP",
    "TO": "ADP",
    "DT": "DET",
    "PR": "PRON",
    "CD": "NUM",
    "RB": "ADV",
    "CC": "CCONJ",
}


@lru_cache
def patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Attribute words, and set phrases in which they are none."""
    lex = lexicon.load("en")
    words = sorted(lex.words(), key=len, reverse=True)
    attributes = re.compile(r"(?<![\w-])(?:" + "|".join(map(re.escape, words)) + r")(?!\w)", re.I)
    traps = (
        re.escape(trap) if trap.islower() else f"(?-i:{re.escape(trap)})"  # a name: a white house is any
        for trap in sorted(lex.phrases(), key=len, reverse=True)
    )
    return attributes, re.compile(rf"(?<!\w)(?:{'|'.join(traps)})(?!\w)", re.I)


def _coarse(tag: str) -> str:
    return "PROPN" if tag.startswith("NNP") else _POS.get(tag[:2], "X") if tag.isalpha() else "PUNCT"


def carriers() -> list[str]:
    """Nouns that only bear an attribute of another one: pattern, colour."""
    return lexicon.load("en").traps["carriers"]


class Tokens:
    """An expression's words and tags, the attribute words of the lexicon among them, and which noun each describes.

    found     attribute words as (match, first token, last token), none of set phrases or quotations
    matched   indices of their tokens
    head      index of the phrase's head noun, None where there is none
    """

    def __init__(self, doc: Any) -> None:
        self.text: str = doc.text
        self.words = [token.text for token in doc]
        self.lower = [word.casefold() for word in self.words]
        self.tags = [token.tag_ for token in doc]
        self.pos = [_coarse(tag) for tag in self.tags]
        self.start = [token.idx for token in doc]
        self.end = [token.idx + len(token.text) for token in doc]
        self.sentence_start = [i == 0 or self.words[i - 1] in (".", "!", "?") for i in range(len(self.words))]
        for i, word in enumerate(self.lower):  # the tagger takes "a black plastic back" for an adverb
            if (
                word in ("back", "bottom", "top", "front")
                and self.pos[i] != "NOUN"
                and (i + 1 == len(self.pos) or self.pos[i + 1] in ("PUNCT", "ADP", "CCONJ"))
            ):
                self.pos[i] = "NOUN"
        self.found = list(self._attributes())
        self.matched = {i for _, first, last in self.found for i in range(first, last + 1)}
        self.head = self._head()

    def _attributes(self) -> Iterator[tuple[re.Match[str], int, int]]:
        attributes, traps = patterns()
        at = {start: i for i, start in enumerate(self.start)}
        until = {end: i for i, end in enumerate(self.end)}
        protected = [match.span() for pattern in (traps, QUOTED) for match in pattern.finditer(self.text)]
        for match in attributes.finditer(self.text):
            start, end = match.span()
            if start in at and end in until and not any(a < end and start < b for a, b in protected):
                yield match, at[start], until[end]

    def noun_after(self, last: int) -> int | None:
        """The noun that a modifier ending at token `last` describes, None if no noun follows."""
        i, noun = last + 1, None
        while i < len(self.words):
            pos, word = self.pos[i], self.lower[i]
            if pos in ("NOUN", "PROPN") and (i not in self.matched or (noun is None and not self.noun_or_modifier(i))):
                noun = i
            elif noun is not None or not (
                i in self.matched
                or pos == "ADJ"
                or self.tags[i] in ("VBN", "VBG")
                or word in (",", "and", "or", "-", "&", "very", "colored", "coloured")
                or pos in ("NUM", "NOUN", "PROPN")
            ):
                break
            i += 1
        return noun

    def noun_or_modifier(self, i: int) -> bool:
        """Whether the lexicon word at i is itself a modifier of a following noun ("glass" in "a blue glass bowl")."""
        j = i + 1
        while j < len(self.words) and (j in self.matched or self.pos[j] == "ADJ" or self.lower[j] in ("and", ",", "-")):
            j += 1
        return j < len(self.words) and self.pos[j] in ("NOUN", "PROPN")

    def tight(self, last: int) -> bool:
        """The word stands right before a noun, another modifier of the lexicon, or a list of such."""
        i = last + 1
        if i < len(self.words) and self.lower[i] in ("and", ",", "or") and i + 1 < len(self.words):
            return i + 1 in self.matched and self.noun_or_modifier(i)
        return i < len(self.words) and (self.pos[i] in ("NOUN", "PROPN") or (i in self.matched and self.noun_or_modifier(i)))

    def listed(self, first: int) -> bool:
        """Part of a list of values that ends in a described one: "in light blue, orange, red, and yellow thread"."""
        i = first - 1
        while i >= 0 and (self.lower[i] in (",", "and", "or") or i in self.matched):
            i -= 1
        return (
            i < first - 1
            and i >= 0
            and self.lower[i] in ("in", "is", "are", "colored", "coloured", "painted")
            and i + 1 in self.matched
        )

    def noun_before(self, first: int) -> str:
        """The noun before token `first` that is no attribute and bears none for another, "" where there is none."""
        for i in range(first - 1, -1, -1):
            if self.pos[i] in ("NOUN", "PROPN") and i not in self.matched and self.lower[i] not in carriers():
                return self.lower[i]
        return ""

    def _head(self) -> int | None:
        """Index of the phrase's head noun: last noun of the first noun group, by our own walk (spaCy's small model stumbles on
        "A black plastic body trash can")."""
        for i, pos in enumerate(self.pos):
            if pos in ("NOUN", "PROPN") and (i not in self.matched or not self.noun_or_modifier(i)):
                while i + 1 < len(self.pos) and self.pos[i + 1] in ("NOUN", "PROPN") and i + 1 not in self.matched:
                    i += 1
                return i
        return None
