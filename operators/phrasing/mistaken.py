"""Verbs that the English tagger takes for nouns: "a girl waves at the camera" as waves of a kind, "two rings lie" as a lie.

The parser reads the same mistake, so no tree can mend it. The words around show it: "a" cannot belong to a plural, no article follows
a noun without a verb or a comma between, and some words hardly ever end a compound (words_en.yaml, `verb`, `deed`). With "can"
before it and its ending gone ("a girl can wave at the camera") a verb is a verb to any tagger.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from operators import lexicon
from operators.phrasing.words import words

ONE = {"a", "an", "one", "this", "each", "every", "another"}
INSIDE = ("NN", "JJ", "VBN", "VBG", "HYPH", "RB")
"""Tags, or their beginnings, of what may stand between an article and the last noun before the verb."""
SEVERAL = {"few", "many", "dozen", "hundred", "thousand", "couple", "number", "lot", "pair", "variety"}
NOT_PLURAL = {
    "barracks",
    "crossroads",
    "headquarters",
    "series",
    "species",
    "gallows",
    "works",
    "stairs",
    "scissors",
    "glasses",
}
PLURALS = {"sheep", "deer", "fish", "people", "cattle", "bison", "police", "geese", "men", "women", "children", "mice"}
"""Plurals without an s, some of which the tagger takes for singulars."""
FINITE = {"VBZ", "VBP", "VBD", "MD"}
AFTER = {"IN", "RB", "RP", "TO", "CC"}


def rewritten(doc: Any) -> tuple[str, list[tuple[int, int]]] | None:
    """The text with "can" before each verb taken for a noun, and per place (in order) where it ends in that text and by how many
    characters what follows has moved; None where there is none."""
    text, at, moved = "", 0, []
    for token in _mistaken(doc):
        verb = f"can {token.lemma_.lower() if token.tag_ != 'NN' else token.lower_}"
        text += doc.text[at : token.idx] + verb
        at = token.idx + len(token)
        moved.append((len(text), len(text) - at))
    return (text + doc.text[at:], moved) if moved else None


def original(place: int, moved: list[tuple[int, int]]) -> int:
    """Where a place of the rewritten text is in the text itself."""
    return place - next((by for end, by in reversed(moved) if end <= place), 0)


def _mistaken(doc: Any) -> Iterator[Any]:
    for token in doc[1:]:
        if token.is_alpha and token.is_lower and token.tag_ in ("NN", "NNS", "VBZ") and _is_verb(token):
            yield token


def _is_verb(token: Any) -> bool:
    doc, lists = token.doc, words("en")
    before = token.nbor(-1)
    after = token.nbor() if token.i + 1 < len(doc) else None
    noun_after = after is not None and after.tag_.startswith("NN")
    listed = token.lemma_ in lists["verb"] or (token.lemma_ in lists["deed"] and _can_do(before))
    if token.tag_ == "VBZ":  # "an elephant sprays water": seen as a verb, and then hung on the water as if it were a noun
        return token.dep_ == "compound" and before.tag_ in ("NN", "NNP")
    if after is not None and (after.tag_ == "POS" or after.text in ("-", "–")):
        return False
    article, counted = _article(token)
    if token.tag_ == "NNS" and token.lower_ not in NOT_PLURAL and article in ONE and not counted:
        return before.tag_ in ("NN", "NNP", "JJ") and before.lower_ != article and (listed or not noun_after)
    many = before.tag_ == "NNS" or before.lower_ in PLURALS
    named = before.tag_ in ("NN", "NNP") or (before.tag_ == "JJ" and before.i > 0 and before.nbor(-1).tag_ == "DT")
    agree = token.tag_ == ("NN" if many else "NNS") and (many or named)
    if not agree or _has_verb(token):
        return False
    if after is not None and after.tag_ in ("DT", "PRP$") and (many or article):
        return True
    return listed and (after is None or after.is_punct or after.tag_ in (*AFTER, "DT", "PRP$"))


def _can_do(noun: Any) -> bool:
    lemma = noun.lemma_.lower()
    return lemma in words("en")["person"] or "animate" in lexicon.load("en").classes(lemma)


def _article(token: Any) -> tuple[str, bool]:
    """The article, or its like, before the nouns and adjectives that end in the token, and whether they are counted."""
    counted = False
    for k in range(token.i - 1, -1, -1):
        word = token.doc[k]
        counted = counted or word.tag_ == "CD" or word.lemma_.lower() in SEVERAL
        if word.tag_ in ("DT", "PRP$") or (word.tag_ == "CD" and word.lower_ == "one"):
            return word.lower_, counted and word.lower_ != "one"
        if not word.tag_.startswith(INSIDE) and word.tag_ != "CD":
            break
    return "", counted


def _has_verb(token: Any) -> bool:
    """Whether the clause has a verb that stands for itself, before the token or behind it."""
    return any(word.tag_ in FINITE for word in (*_to_break(token, -1), *_to_break(token, 1)))


def _joins(word: Any) -> bool:
    return word.tag_ in ("CC", "WDT", "WP", "WRB") or word.lower_ in ("while", "as", "because", "although", "since", "so")


def _to_break(token: Any, step: int) -> Iterator[Any]:
    k = token.i + step
    while 0 <= k < len(token.doc) and not token.doc[k].is_punct and not _joins(token.doc[k]):
        yield token.doc[k]
        k += step
