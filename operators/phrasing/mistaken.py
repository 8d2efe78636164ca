"""Verbs that the English tagger takes for nouns, "a girl waves at the camera" as waves of a kind, and nouns that it takes for verbs.

The parser reads the same mistake, so no tree can mend it. The words around show it: "a" cannot belong to a plural, no article follows
a noun without a verb or a comma between, and some words hardly ever end a compound (words_en.yaml, `verb`, `deed`). With "can"
before it and its ending gone ("a girl can wave at the camera") a verb is a verb to any tagger, as is a participle after "that is";
and with a hyphen a noun is one ("the lamp-shades are").
"""

from __future__ import annotations

import re
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
PLURALS = {
    "sheep",
    "deer",
    "fish",
    "people",
    "cattle",
    "bison",
    "police",
    "geese",
    "men",
    "women",
    "children",
    "mice",
    "couple",
}
"""Plurals without an s, some of which the tagger takes for singulars, and the one singular that takes a verb of either number."""
KINDS = {"sports", "clothes", "arms", "goods", "sales", "games", "drinks", "savings", "glasses", "jeans", "electronics", "toys"}
"""Plurals that stand before a noun: a sports drink."""
FINITE = {"VBZ", "VBP", "VBD", "MD"}
AFTER = {"IN", "RB", "RP", "TO", "CC"}
OBJECT = ("DT", "PRP$")
SUBJECTS = {"nsubj", "nsubjpass"}
NEVER_VERB = {"compound", "pobj", "dobj"}
"""Places in a tree where no finite verb can hang."""
LABELS = {"label", "mark", "title", "entitle", "name", "caption"}
SAID = re.compile("Xx+", re.IGNORECASE)
"""What stands for a quotation: a name that no noun follows."""


def rewritten(doc: Any) -> tuple[str, list[tuple[int, int]]] | None:
    """The text with other words for what was mistaken, and per place (in order) where it ends in that text and by how many characters
    what follows has moved; None where nothing was."""
    text, at, moved = "", 0, []
    for start, end, instead in _edits(doc):
        text += doc.text[at:start] + instead
        at = end
        moved.append((len(text), len(text) - at))
    return (text + doc.text[at:], moved) if moved else None


def original(place: int, moved: list[tuple[int, int]]) -> int:
    """Where a place of the rewritten text is in the text itself."""
    return place - next((by for end, by in reversed(moved) if end <= place), 0)


def _edits(doc: Any) -> Iterator[tuple[int, int, str]]:
    """From where to where, and what to write instead."""
    for token in doc[1:]:
        if not (token.is_alpha and token.is_lower and token.tag_ in ("NN", "NNS", "VBZ", "VBG", "VBD")):
            continue
        before, end = token.nbor(-1), token.idx + len(token)
        if token.tag_ == "VBZ" and token.dep_ in SUBJECTS and before.tag_ == "NN" and before.whitespace_ == " ":
            yield token.idx - 1, token.idx, "-"  # "the lamp shades are": no finite verb is a subject
        elif token.dep_ == "pcomp" and before.lower_ in ("of", "with", "from") and _next_tag(token) in ("NN", "NNS"):
            yield end, end + 1, "-"  # "a pair of reading glasses": nobody reads them
        elif _is_participle(token) or _is_behind_a_noun(token) or _labels(token):
            yield token.idx, end, f"that is {token.lower_}"
        elif _is_verb(token):
            yield token.idx, end, f"can {token.lemma_.lower() if token.tag_ != 'NN' else token.lower_}"


def _is_participle(token: Any) -> bool:
    """ "A bus advertising a musical": no article follows a noun; "an arrow pointing to the left": no arrow's pointing is a thing."""
    if token.tag_ != "NN" or not token.lower_.endswith("ing") or token.nbor(-1).tag_ not in ("NN", "NNS"):
        return False
    stem = token.lower_[:-3]
    known = {stem, stem[:-1], f"{stem}e"} & words("en")["verb"]
    return _next_tag(token) in OBJECT or (bool(known) and _next_tag(token) in ("IN", "TO", "RB", "JJ", "VBN", "VBD"))


def _is_behind_a_noun(token: Any) -> bool:
    """ "A golden retriever running": seen as an adverb, the noun leaves its article and adjective to the verb."""
    before = token.nbor(-1)
    if token.tag_ != "VBG" or before.tag_ != "RB" or before.head.i != token.i or before.lower_.endswith("ly") or before.i < 2:
        return False
    return before.nbor(-1).tag_ == "JJ" and before.nbor(-2).tag_ == "DT" and before.nbor(-2).head.i == token.i


def _labels(token: Any) -> bool:
    """ "A button labeled “OK”": what is written is no deed of the button's."""
    said = token.i + 1 < len(token.doc) and SAID.fullmatch(token.nbor().text)
    return bool(said) and token.tag_ == "VBD" and token.lemma_ in LABELS and token.nbor(-1).tag_ in ("NN", "NNS")


def _next_tag(token: Any) -> str:
    return str(token.nbor().tag_) if token.i + 1 < len(token.doc) else ""


def _is_verb(token: Any) -> bool:
    before, after = token.nbor(-1), _next_tag(token)
    if token.tag_ == "VBZ":  # "an elephant sprays water": seen as a verb, and then hung on the water as if it were a noun
        return token.dep_ in NEVER_VERB and before.tag_ in ("NN", "NNP")
    if after in ("POS", "HYPH") or (after and token.nbor().text == "–"):
        return False
    if SAID.fullmatch(before.text):
        return after in OBJECT or (token.lemma_ in words("en")["verb"] and after in AFTER)
    if _worn(before):
        before = before.nbor(-2)  # "a woman in red shops for fruit"
    listed = token.lemma_ in words("en")["verb"] or (token.lemma_ in words("en")["deed"] and can_do(before))
    article, counted = _article(token)
    if token.tag_ == "NNS" and token.lower_ not in NOT_PLURAL and article in ONE and not counted:
        noun_after = after.startswith("NN")
        return before.tag_ in ("NN", "NNP", "JJ") and before.lower_ != article and (listed or not noun_after)
    many = before.tag_ == "NNS" or before.lower_ in PLURALS or (after in OBJECT and _owned_by_many(before))
    named = before.tag_ in ("NN", "NNP") or (
        before.tag_.startswith("JJ") and before.i > 0 and before.nbor(-1).tag_ in ("DT", "IN")
    )
    if token.lemma_ in words("en")["verb"] | words("en")["deed"] and (_after_an_aside(token) or _carries_the_sentence(token)):
        return True
    agree = (token.tag_ == ("NN" if many else "NNS") and (many or named)) or (
        many and token.tag_ == "NNS" and before.lower_ not in KINDS and _of_one(before)
    )
    if not agree or _has_verb(token):
        return False
    if after in OBJECT and (many or article or _of_one(before)):
        return True
    return listed and (not after or token.nbor().is_punct or after in (*AFTER, *OBJECT))


def _after_an_aside(token: Any) -> bool:
    """ "The surgeon, gowned and masked, bends over a table": the only verb of its sentence, behind what two commas hold."""
    if (
        token.dep_ not in ("ROOT", "appos", "conj", "pobj")
        or token.nbor(-1).text != ","
        or _next_tag(token) not in (*AFTER, *OBJECT)
    ):
        return False
    before = token.doc[token.sent.start : token.i - 1]
    subject = next((word for word in before if word.tag_ in ("NN", "NNS", "NNP")), None)
    aside = any(word.text == "," for word in before)
    if subject is None or not aside or (subject.tag_ == "NNS") != (token.tag_ == "NN"):
        return False
    return not any(word.tag_ in FINITE and not _tells_of_a_noun(word) for word in token.sent)


def _tells_of_a_noun(verb: Any) -> bool:
    """Whether it is the verb of a relative clause."""
    while verb.dep_ in ("aux", "auxpass", "conj", "ccomp", "advcl"):
        verb = verb.head
    return bool(verb.dep_ == "relcl")


def _carries_the_sentence(token: Any) -> bool:
    """ "The veil trails over the steps, and the groom waits": what another clause is joined to is a clause."""
    article, counted = _article(token)
    one = token.tag_ == "NNS" and not counted and (article or any(child.dep_ == "poss" for child in token.lefts))
    if token.dep_ != "ROOT" or not one or _next_tag(token) not in AFTER or token.nbor(-1).tag_ != "NN":
        return False
    return any(
        other.tag_ in FINITE and any(child.dep_ in SUBJECTS for child in other.lefts)
        for other in token.conjuncts
        if other.i > token.i
    )


def can_do(noun: Any) -> bool:
    """Whether it may be who does it; a plural, which hardly ever describes a noun, may."""
    lemma = noun.lemma_.lower()
    if noun.tag_ == "NNS" or noun.lower_ in PLURALS:
        return noun.lower_ not in KINDS
    return lemma in words("en")["person"] or "animate" in lexicon.load("en").classes(lemma)


def _worn(colour: Any) -> bool:
    """Red, where somebody is in it."""
    return colour.i > 1 and colour.lower_ in words("en")["colour"] and colour.nbor(-1).lower_ == "in"


def _of_one(noun: Any) -> bool:
    """Whether a plural belongs to a single thing named before it: "a toddler in pajamas", "a flock of geese"."""
    return any(_single(word) and _next_tag(word) in ("IN", "VBN", "VBG") for word in _to_break(noun, -1))


def _owned_by_many(noun: Any) -> bool:
    """Whether it stands right behind "of" and several things: "jars of candy line the shelves"."""
    preposition, owner = (noun.doc[max(0, noun.i - k)] for k in (1, 2))
    many = owner.tag_ == "NNS" or (owner.tag_ == "NNP" and owner.i == 0 and owner.lower_.endswith("s"))
    return noun.tag_ == "NN" and preposition.lower_ == "of" and many


def _single(noun: Any) -> bool:
    return noun.tag_ == "NN" and _article(noun)[0] in ONE | {"the"}


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
    left = list(_to_break(token, -1))
    found = [word for word in (*left, *_to_break(token, 1)) if word.tag_ in FINITE and not _before_a_noun(word)]
    opened = token.doc[left[-1].i - 1] if left and left[-1].i else None
    if opened is not None and opened.tag_ in ("WDT", "WP") and not any(w.tag_ in FINITE for w in _to_break(opened, -1)):
        return len(found) > 1 or not any(word.i < token.i for word in found)  # "a boy who has a ball points": one is of "who"
    return bool(found)


def _before_a_noun(word: Any) -> bool:
    """ "Arched windows": seen as a past tense, with nobody before it."""
    before = word.doc[word.i - 1].tag_ if word.i else "CC"
    return word.tag_ == "VBD" and before in ("CC", "IN", "DT") and _next_tag(word) in ("NN", "NNS")


def _ends(word: Any) -> bool:
    """Whether a clause ends before the word."""
    return (
        (word.is_punct and word.tag_ != "HYPH")
        or (word.tag_ == "CC" and not _joins_adjectives(word))
        or word.tag_ in ("WDT", "WP", "WP$", "WRB")
        or word.lower_ in ("while", "as", "because", "although", "since", "so")
    )


def _joins_adjectives(word: Any) -> bool:
    """ "White and green stripes"."""
    doc = word.doc
    return bool(word.i and doc[word.i - 1].tag_ == "JJ" and word.i + 1 < len(doc) and doc[word.i + 1].tag_ == "JJ")


def _to_break(token: Any, step: int) -> Iterator[Any]:
    k = token.i + step
    while 0 <= k < len(token.doc) and not _ends(token.doc[k]):
        yield token.doc[k]
        k += step
