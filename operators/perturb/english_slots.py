"""Which words of an English expression are attributes that another word may stand for, family by family.

Only words in a clear context count (a modifier before its noun, "made of …", "… in color"): what is missed costs yield, what is wrongly
changed costs truth.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from operators import lexicon
from operators.lexicon import Value
from operators.perturb.english_words import Tokens, carriers
from operators.perturb.inflect import plural, singular
from operators.perturb.phrase import Slot

COLOURED = re.compile(r"[ -]colou?red\b")
MADE = re.compile(
    r"\b(?:made|built|woven|crafted|constructed)(?: up| out)?(?: entirely| mostly)? (?:of|from|out of|with) "
    r"(?:(?:[\w-]+,? ){0,3}(?:and )?)$",
    re.I,
)
PREDICATE = re.compile(
    r"\b(?:is|are|was|were|looks?|in|painted|dyed|tinted|colou?red|appears?)(?: all| entirely| mostly| solid)?,? $", re.I
)
NOT_COUNTS = re.compile(
    r"(?:\b(?:number|no\.|page|route|top|size|the|of|platform|gate|bus|level|year|age)|#|\$|£|€|\d[.,:/]) ?$", re.I
)
GROUPED = re.compile(r"\b(?:group|team|set|row|line|stack|bunch|family|cluster|collection|pile|pack|herd|flock) of $", re.I)
"""Before a number that counts what the group is of."""
NOT_COUNTED = re.compile(
    r"(?:[-%°.,:/]|\s(?:years?|months?|o'clock|percent|degrees|am|pm|inch|inches|feet|foot|meters?|metres?|cm|mm|km|of|to|thirds|"
    r"quarters|in)\b)",
    re.I,
)
TWO = re.compile(r"(\w+)(?: and | & |-and-|, )(\w+) $")
SEVERAL = frozenset(["their", "they", "them", "each", "both", "other", "together", "these", "those", "its", "his", "her"])
"""Words that would not go with one thing."""
AGREEING = {"is": "are", "was": "were", "has": "have"}
PATTERN_WORDS = ("pattern", "patterns", "patterned", "print", "prints", "design", "designs")


@dataclass(frozen=True)
class Place:
    """An attribute word among the tokens: what it may mean, its characters and its first and last token."""

    tokens: Tokens
    value: Value
    start: int
    end: int
    first: int
    last: int

    @property
    def before(self) -> str:
        return self.tokens.text[: self.start]

    @property
    def after(self) -> str:
        return self.tokens.text[self.end :]

    @property
    def next_word(self) -> str:
        return self.tokens.lower[self.last + 1] if self.last + 1 < len(self.tokens.words) else ""

    @property
    def noun(self) -> int | None:
        return self.tokens.noun_after(self.last)

    @property
    def predicate(self) -> bool:
        """Said of a noun before it: "is red", "red in color"."""
        return bool(PREDICATE.search(self.before) or re.match(r" in colou?r\b", self.after) or COLOURED.match(self.after))

    @property
    def described(self) -> str:
        """The noun of which it is said, "" where there is none."""
        tokens, noun = self.tokens, self.noun
        if noun is None or MADE.search(self.before) or tokens.lower[noun] in carriers():
            # "a striped pattern" tells of what bears the pattern
            return singular(tokens.noun_before(self.first) or self.root)
        return singular(tokens.lower[noun])

    @property
    def root(self) -> str:
        return self.tokens.lower[self.tokens.head] if self.tokens.head is not None else ""

    def slot(self, form: str, noun: str | None = None, value: Value | None = None, follows: bool = False) -> Slot:
        value, noun = value or self.value, self.described if noun is None else noun
        return Slot(value.family, self.start, self.end, value, form, noun, follows=follows)


def slot_of(place: Place) -> Slot | None:
    """The slot, or None where the word is no attribute there, or none that another can stand for."""
    family = place.value.family
    if (
        family not in ("count", "relation", "action")
        and re.match(r"-\w", place.after)
        and not re.match(r"-\w+ed\b", place.after)
    ):
        return None  # green-house, but blue-eyed
    return RULES[family](place)


def _material(place: Place) -> Slot | None:
    tokens, value, noun = place.tokens, place.value, place.noun
    if MADE.search(place.before):
        named = noun is not None and noun == place.last + 1 and tokens.pos[noun] == "NOUN"
        if named and tokens.lower[place.last + 1] not in carriers() and not _list_goes_on(place.after):
            return None  # "made of paper cups"
        return place.slot("made")
    if value.only == "made" or noun is None or (value.noun and not tokens.tight(place.last)):
        return None
    return place.slot("attr")


def _colour(place: Place) -> Slot | None:
    tokens, value, traps = place.tokens, place.value, lexicon.load("en").traps
    if value.noun and place.next_word in traps["tails_of_noun_colours"]:
        return None
    if place.first and tokens.lower[place.first - 1] in traps["shade_names"]:
        return None  # "a cherry red guitar": no other colour goes with the cherry
    if place.noun is not None:
        if value.noun and not place.predicate and not tokens.tight(place.last):
            return None
    elif not place.predicate and not tokens.listed(place.first):
        return None
    return place.slot("attr")


def _pattern(place: Place) -> Slot | None:
    bears = place.next_word in PATTERN_WORDS
    if (place.value.only == "pattern" and not bears) or (place.noun is None and not place.predicate):
        return None
    return place.slot("pattern" if bears else "attr", follows=_two_colours(place.before))


def _size(place: Place) -> Slot | None:
    if not _is_adjective(place):
        return None
    value, sizes = place.value, lexicon.load("en").families["size"]
    if value.words[0] == "short":
        value = sizes.values["short in height" if place.described in sizes.extra["tall_nouns"] else "short"]
    return place.slot("attr", value=value)


def _state(place: Place) -> Slot | None:
    if not _is_adjective(place) or (place.value.fits and not lexicon.load("en").fits(place.value, place.described)):
        return None
    return place.slot("attr")


NO_ADJECTIVE = ("NN", "NNS", "VB", "VBP", "VBZ")
NO_END = (*NO_ADJECTIVE, "VBD", "RB", "RP", "IN")
TAKEN_UP = frozenset(["of", "with", "by", "to", "into", "than", "in", "on", "at", "from", "for", "up", "down", "-"])
"""After an adjective: it says more than that of its noun ("full of", "open to")."""


def _is_adjective(place: Place) -> bool:
    """Sizes and states are adjectives only."""
    first, last = place.tokens.tags[place.first], place.tokens.tags[place.last]
    shaped = place.value.axis == "shape" and place.tokens.tight(place.last)  # "a large round mirror": tagged as a noun
    if not shaped and (first in NO_ADJECTIVE or last in NO_END):
        return False
    if place.noun is None and not (place.predicate and last in ("JJ", "VBN", "VBG")):
        return False
    compared = re.search(r"\b(?:as|more|less|too|no|not|a) $", place.before) and place.next_word == "as"
    return place.next_word not in TAKEN_UP and not compared


def _two_colours(before: str) -> bool:
    match = TWO.search(before)
    return match is not None and all(
        any(v.family == "colour" for v in lexicon.load("en").lookup(word)) for word in match.groups()
    )


def _list_goes_on(after: str) -> bool:
    return bool(re.match(r",? and |, | material", after))


def _count(place: Place) -> Slot | None:
    tokens, value, noun = place.tokens, place.value, place.noun
    grouped = bool(GROUPED.search(place.before))
    if (NOT_COUNTS.search(place.before) and not grouped) or NOT_COUNTED.match(place.after) or noun is None:
        return None
    word = tokens.words[noun]
    lex = lexicon.load("en")
    if tokens.pos[noun] == "PROPN" and not word.islower():
        return None
    vessels = tokens.lower[noun - 1] in lex.traps["drinks"]  # "two wine glasses", but "two glasses" may be for the eyes
    if word.casefold() in lex.traps["pair_nouns"] and not vessels:
        return None
    several = tokens.tags[noun] in ("NNS", "NNPS") or word.casefold() in lex.nouns["irregular"].values()
    if singular(word) != word and lex.classes(singular(word)) - {"thing"}:
        several = True  # "taxis": tagged as one thing
    if several != (value.number != 1) and word.casefold() not in lex.nouns["unchanging"]:
        return None
    single_noun, several_noun = (singular(word), word) if several else (word, plural(word))
    agree = [(tokens.start[noun], tokens.end[noun], single_noun, several_noun)]
    rigid = grouped or bool(SEVERAL & set(tokens.lower))
    for i, (word, tag) in enumerate(zip(tokens.lower, tokens.tags, strict=True)):
        if word in AGREEING or word in AGREEING.values():
            one = next(single for single, many in AGREEING.items() if word in (single, many))
            agree.append((tokens.start[i], tokens.end[i], one, AGREEING[one]))
            rigid = rigid or (word in AGREEING) == several
        elif tag in ("VBZ", "VBP", "VBD"):
            rigid = True
    if value.number == 1 and rigid:
        return None
    return replace(place.slot("word", single_noun.casefold()), agree=tuple(agree), plural_only=rigid)


def _relation(place: Place) -> Slot | None:
    tokens, value, i = place.tokens, place.value, place.last + 1
    if not value.use or i >= len(tokens.words) or place.first == 0:
        return None
    if tokens.pos[i] not in ("DET", "NOUN", "ADJ", "NUM", "PROPN") and tokens.tags[i] != "PRP$":
        return None
    ahead, nowhere = _nouns_ahead(tokens, i), frozenset(lexicon.load("en").traps["no_places"])
    if not ahead or any({tokens.lower[j], singular(tokens.lower[j])} & nowhere for j in range(i, ahead[0] + 1)):
        return None
    if value.id == "on top" and _last_of_nouns(tokens, ahead[0]) in lexicon.load("en").traps["surfaces"]:
        return None  # nothing is under the grass, and what hangs on a wall is in front of it too
    if value.id == "on top":  # a logo on a shirt is not on top of it, a dog lying on a rug is
        if tokens.lower[place.first - 1] in {*carriers(), "logo", "text", "writing", "depends"}:
            return None
        worn = lexicon.load("en").classes(singular(tokens.lower[ahead[0]])) & {"cloth", "body", "coat"}
        if worn and tokens.pos[place.first - 1] != "VERB":
            return None
    if tokens.head is not None and ahead[0] <= tokens.head:
        return None
    return replace(place.slot("word", singular(place.root)), other=_last_of_nouns(tokens, ahead[0]))


def _nouns_ahead(tokens: Tokens, first: int) -> list[int]:
    return [j for j in range(first, min(first + 6, len(tokens.words))) if tokens.pos[j] in ("NOUN", "PROPN")]


def _last_of_nouns(tokens: Tokens, first: int) -> str:
    """The noun that a run of nouns ends in: "a coffee table"."""
    last = first
    while last + 1 < len(tokens.pos) and tokens.pos[last + 1] in ("NOUN", "PROPN"):
        last += 1
    return singular(tokens.lower[last])


def _action(place: Place) -> Slot | None:
    tokens, first, i = place.tokens, place.first, place.last + 1
    if not place.value.use or first == 0 or tokens.head is None or first == tokens.head:
        return None
    if first < tokens.head:
        return _attributive_action(place)
    if tokens.pos[first] not in ("VERB", "ADJ") and tokens.tags[first] not in ("VBG", "VBN"):
        return None
    if tokens.lower[first - 1] in ("for", "of", "by", "from", "like", "used", "the", "a", "an"):
        return None
    following = tokens.pos[i] if i < len(tokens.words) else ""
    if place.value.object:
        if following not in ("DET", "NOUN", "ADJ", "NUM", "PROPN") and (i >= len(tokens.words) or tokens.tags[i] != "PRP$"):
            return None
    elif following in ("NOUN", "PROPN", "DET", "PRON"):
        return None
    ahead = _nouns_ahead(tokens, i) if place.value.object else []
    other = _last_of_nouns(tokens, ahead[0]) if ahead else ""
    return replace(place.slot("word", singular(place.root), follows=following in ("ADP", "ADV")), other=other)


def _attributive_action(place: Place) -> Slot | None:
    """ "A sleeping cat": a posture right before who has it; running shoes have none."""
    tokens, i = place.tokens, place.last + 1
    if place.value.axis != "posture" or i >= len(tokens.words) or tokens.pos[i] not in ("NOUN", "ADJ"):
        return None
    doer = singular(tokens.lower[place.noun]) if place.noun is not None else ""
    return place.slot("attr", doer) if "animate" in lexicon.load("en").classes(doer) else None


RULES: dict[str, Callable[[Place], Slot | None]] = {
    "colour": _colour,
    "material": _material,
    "pattern": _pattern,
    "size": _size,
    "state": _state,
    "count": _count,
    "relation": _relation,
    "action": _action,
}
