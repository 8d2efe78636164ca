"""Find and replace attributes in Chinese expressions.

jieba gives words and parts of speech (`chinese_words`); the lexicon and the context decide what is an attribute (`chinese_slots`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from operators import lexicon
from operators.lexicon import Value
from operators.perturb import denied
from operators.perturb.chinese_slots import HUES, count_of, hue_of, slot_of
from operators.perturb.chinese_words import NUMERALS, QUOTED, Tokens, counted, patterns
from operators.perturb.chinese_words import tagger as tagger  # who uses the engine makes its tagger first
from operators.perturb.phrase import Edit, Option, Phrase, Slot, bare_slot, contradicting

PAIRED = re.compile(
    f"([{HUES}])([{HUES}])(?=相间|双色|两色|条纹|格|奶牛|[猫狗马牛犬]|(?<=[黑棕红蓝绿橙紫]白)色)"
)  # but 紫红色 is one


def parse(texts: Sequence[str], families: Iterable[str] = lexicon.FAMILIES) -> list[Phrase]:
    wanted = frozenset(families)
    return [_phrase(text, wanted) for text in texts]


def options(slot: Slot, weights: dict[str, float] | None = None) -> list[Option]:
    """Every replacement that makes the slot surely false and still reads well, with how often to draw it."""
    lex = lexicon.load("zh")
    family = lex.families[slot.family]
    found = []
    for value in family.values.values():
        if (
            not value.use
            or value.object != slot.value.object
            or not lex.fits(value, slot.noun, slot.other, slot.value)
            or lex.alike(slot.value, value, slot.noun)
            or (value.alone and slot.follows)
        ):
            continue
        if not all(family.excludes(other, value) for other in (slot.value, *slot.mates)):
            continue
        words, shares = _surfaces(slot, value, weights)
        found += [Option(word, value, share) for word, share in zip(words, shares, strict=True) if share > 0]
    return found


def own_weight(slot: Slot, weights: dict[str, float] | None = None) -> float:
    return sum(_surfaces(slot, slot.value, weights)[1])


def insert(phrase: Phrase) -> tuple[Slot, list[Option]] | None:
    """A place before the noun of a phrase such as 一只狗, and colours that dogs hardly ever have."""
    measures = lexicon.load("zh").families["count"].extra["measures"]
    match = (
        re.fullmatch(rf"([{NUMERALS}](?:{'|'.join(measures)})){re.escape(phrase.head)}。?", phrase.text)
        if phrase.head
        else None
    )
    if not match:
        return None
    found = lexicon.load("zh").unlikely("colour", phrase.head)
    return bare_slot(phrase, match.end(1)), [Option(value.words[0] + "的", value, value.drawn) for value in found]


def render(phrase: Phrase, changes: dict[int, Option]) -> str:
    """The phrase with some slots' words replaced."""
    edit = Edit()
    for index, option in changes.items():
        slot = phrase.slots[index]
        new = option.text
        if slot.family == "pattern" and new.endswith("图案") and phrase.text[slot.end :].startswith(("图案", "花纹")):
            new = new.removesuffix("图案")
        edit.parts.append((slot.start, slot.end, new))
    return edit.apply(phrase.text)


def _surfaces(slot: Slot, value: Value, weights: dict[str, float] | None) -> tuple[list[str], list[float]]:
    """How a value may be written in the slot's place, and how often: 方格 where the expressions say so, and not 格子."""
    written = _surface(slot, value)
    if written is None:
        return [], []
    if weights is None:
        return [written], [value.drawn]
    if slot.form != "word":
        return [written], [sum(weights.get(word, 0.0) for word in {written, *value.words})]
    known = [word for word in dict.fromkeys([written, *value.words]) if word in weights and (len(word) > 1 or word == written)]
    return known, [weights[word] for word in known]


def _surface(slot: Slot, value: Value) -> str | None:
    """How a value is written in the slot's form; None where it has no such form."""
    if slot.form == "char":
        # 木门 is 金属门 of another material, but no other red one is 浅蓝裙子
        return value.char or (value.words[0] if slot.family == "material" else None)
    if slot.form == "digits":
        return str(value.number)
    if slot.form == "made":
        return value.made or value.words[0]
    ending = slot.form[-1]
    alike = [word for word in value.words if word.endswith(ending) and len(word) > 1]
    if slot.form.endswith(("型", "着")):
        return alike[0] if alike else None
    if slot.family in ("state", "size", "action") and len(slot.form) > 1:
        longer = [word for word in value.words if len(word) > 1]
        return (alike or longer or [value.words[0]])[0]
    return value.words[0]


def _phrase(text: str, wanted: frozenset[str]) -> Phrase:
    attributes, traps = patterns()
    tokens = Tokens(text)
    protected = [match.span() for match in QUOTED.finditer(text)]
    protected += [match.span() for match in traps.finditer(text) if tokens.bounds.issuperset(match.span())]
    slots: list[Slot] = []
    for match in PAIRED.finditer(text):  # a quotation holds it back, but not the 黑白 of a 黑白照片
        if match.start() in tokens.bounds and not any(a < match.end() and match.start() < b for a, b in protected if b - a > 2):
            slots += [hue_of(tokens, match.start(i), match.end()) for i in (1, 2)]
            protected.append(match.span())
    for match in attributes.finditer(text):
        if any(a < match.end() and match.start() < b for a, b in protected):
            continue
        for value in lexicon.load("zh").lookup(match.group()):
            slot = slot_of(tokens, value, match.start(), match.end())
            if slot is not None:
                slots.append(slot)
                break
    for match in counted().finditer(text):
        slot = count_of(tokens, match)
        if slot and not any(a < match.end() and match.start() < b for a, b in protected):
            slots.append(slot)
    not_said = denied.spans(text, "zh")
    slots = [slot for slot in slots if slot.family in wanted and not denied.inside(slot.start, not_said)]
    slots.sort(key=lambda slot: slot.start)
    slots = [
        replace(
            slot,
            mates=tuple(
                o.value
                for o in slots
                if o is not slot
                and not o.value.vague
                and (o.family, o.value.axis, o.noun) == (slot.family, slot.value.axis, slot.noun)
            ),
        )
        if slot.family not in ("relation", "action", "count")
        else slot
        for slot in slots
    ]
    clash = contradicting(slots, lexicon.load("zh").families)
    why = f"{clash[0].value.words[0]}与{clash[1].value.words[0]}：{clash[0].noun}" if clash else ""
    return Phrase(text, "zh", _head(tokens, slots), tuple(slots), why)


def _head(tokens: Tokens, slots: Sequence[Slot]) -> str:
    """Chinese heads come last, except when the phrase goes on with what the thing does."""
    first_action = next((slot for slot in slots if slot.family == "action"), None)
    if first_action:
        before = tokens.noun_before(first_action.start)
        if before:
            return before
    return tokens.noun_before(len(tokens.text))
