"""What is said of each thing: an attribute or a number that it has not by right, mostly another thing's.

All words of such a translation may be in both texts, as in 两个红色杯子和一个红色玻璃碗 for "two red cups and a blue glass bowl".
Things are compared kind by kind: all bowls of the English with all 碗 of the Chinese, each in the phrase that describes it. One is
wrong where it fits none of the other text's, or where no way of matching them fits all.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import Any

from operators import lexicon
from operators.validators import Finding, dictionary, pairing, sentences, sizes, syntax, translation
from operators.validators.matching import matched
from operators.validators.pairing import Token

FAMILIES = ("colour", "material", "pattern", "size")
SURFACE = frozenset(("material", "pattern"))
"""Families of which a translation may give one for another: a glass cup, a checkered cup."""
PART_OF_PHRASE = "nabzgiljmq"
"""First letters of the tagger's flags of what may stand between a Chinese numeral and its noun."""
ANOTHER = re.compile(r"\b(?:ones?|others?|another)\b", re.IGNORECASE)
AGAIN = re.compile(r"\b(?:its?|he|she|his|hers?|him|they|them|their|who|whom|whose|which|that|each|both|own)\b", re.IGNORECASE)
"""Words for a thing that the Chinese may name again."""
BELONGS = frozenset(("with", "in", "of", "wearing"))
SIZES = "大小"
SPLIT = "ag"
"""Flag of a size that was cut off its noun."""


@dataclass(frozen=True)
class Mention:
    """An English noun, the attribute words before it, and all words that describe it.

    count: None where none is said; single: no plural; known: told by "the".
    """

    noun: Any
    words: tuple[str, ...]
    described: frozenset[str]
    count: float | None
    single: bool
    known: bool


@dataclass(frozen=True)
class Place:
    """A Chinese noun in its phrase. words: attributes before it; all: also those that are parts of words (木 of 木桌, 大 of 大桥);
    start, head: where the phrase and its noun begin."""

    phrase: str
    words: tuple[str, ...]
    all: tuple[str, ...]
    count: float | None
    definite: bool
    start: int
    head: int


def changed(english: str, chinese: str) -> Finding | None:
    """A thing with an attribute or a number that the English gives to others only, or another thing in its place, or once too often."""
    own, theirs = sentences.split(english), sentences.split(chinese)
    aligned = len(own) == len(theirs)
    told: set[str] = set()
    for en, zh in zip(own, theirs, strict=True) if aligned else [(english, chinese)]:
        doc, tokens = syntax.parsed(en), _tokens(zh)
        mentions = _by_kind(doc)
        nouns = {dictionary.stem(t.text) for t in doc if t.pos_ in syntax.NOUN and not (_values(t.lower_) and _describes(t))}
        spans = {kind: _spans(kind, nouns - {kind}, tokens) for kind in nouns | set(mentions)}
        heads = {span[2:] for found in spans.values() for span in found}
        missing: list[Mention] = []
        spare: list[Place] = []
        paired: list[sizes.Told] = []
        for kind, things in mentions.items():
            if any(_contested(span, kind, other, spans) for span in spans[kind] for other in nouns - {kind}):
                continue
            places = [_place(span, kind, tokens, heads, zh) for span in spans[kind]]
            finding = _compared(things, places, english, chinese)
            if finding:
                return finding
            holder = matched([_fitting(thing, places, english, chinese) for thing in things])
            if len(things) == len(places) == len(holder):
                again = [thing.known and (i or kind in told) for i, thing in enumerate(things)]
                paired += [_told(things[i], places[k], bool(again[i]), tokens, heads) for k, i in holder.items()]
            missing += [thing for i, thing in enumerate(things) if i not in holder.values()]
            spare += [place for k, place in enumerate(places) if k not in holder]
        strange = [_place(span, "", tokens, heads, zh) for span in _of_no_kind(tokens, doc)]
        for thing in missing:
            for place in (*spare, *strange):
                if _stands_for(place, thing, place in strange, dictionary.stem(thing.noun.text) in told):
                    return "attributes", f"{place.phrase} for “{' '.join((*reversed(thing.words), thing.noun.text))}”"
        finding = sizes.left_out(paired, tokens, zh)
        if finding:
            return finding
        told |= {kind for kind in mentions if spans[kind]}
    return None


def _told(thing: Mention, place: Place, again: bool, tokens: list[Token], heads: set[tuple[int, int]]) -> sizes.Told:
    start = sizes.begins(place.start, place.head, tokens, heads)
    return sizes.Told(thing.noun, thing.words, start, place.head, place.start + len(place.phrase), again)


def _fitting(thing: Mention, places: Sequence[Place], english: str, chinese: str) -> list[int]:
    """Numbers of the phrases that may be this thing, those first that keep most of what is said of it."""
    fit = [k for k, place in enumerate(places) if not _against(thing, place, english, chinese, False)]
    return sorted(fit, key=lambda k: -_kept(thing, places[k]))


def _kept(thing: Mention, place: Place) -> int:
    return sum(any(_renders(one, word) for one in place.all) for word in thing.words)


def _stands_for(place: Place, thing: Mention, strange: bool, told: bool) -> bool:
    """Whether a phrase without a thing has the number of a thing without a phrase, and enough of its attributes: half where the
    phrase names nothing that the English names (strange), a third where the thing was named before by its own word (told)."""
    if not thing.words or thing.count != place.count:
        return False
    kept = _kept(thing, place)
    if thing.count is not None:
        return kept >= (len(thing.words) / 2 if strange else 1)
    return thing.known and kept >= (len(thing.words) / 3 if told else max(2, len(thing.words)))


def _compared(things: Sequence[Mention], places: Sequence[Place], english: str, chinese: str) -> Finding | None:
    even = len(things) == len(places)
    why = [[_against(thing, place, english, chinese, even) for place in places] for thing in things]
    if even and len(matched([[k for k, one in enumerate(row) if not one] for row in why])) < len(things):
        return "attributes", next(one for row in why for one in row if one)
    more = len(places) > len(things) and not ANOTHER.search(english)
    counted = [k for k, place in enumerate(places) if place.count is not None and not place.definite]
    if more and len(matched([[i for i, row in enumerate(why) if not row[k]] for k in counted])) < len(counted):
        return "attributes", f"{places[counted[-1]].phrase}: once more than in the English"
    if more and not any(AGAIN.search(thing.noun.sent.text) for thing in things):
        for k, place in enumerate(places):
            if place.words and any(one.all == place.all for one in places[:k]):
                return "attributes", f"{place.phrase}: once more than in the English"
    for k, place in enumerate(places):
        if more and all(row[k] for row in why):
            return "attributes", f"{place.phrase}: {why[0][k]}"
    for thing, row in zip(things, why, strict=True):
        if 0 < len(places) < len(things) and all(row):
            return "attributes", f"“{thing.noun.text}”: {row[0]}"
    return None


def _against(thing: Mention, place: Place, english: str, chinese: str, even: bool) -> str | None:
    """Why the Chinese phrase cannot be this thing. even: there are as many in both texts, so that what it lacks counts too."""
    count = 1.0 if thing.count is None and thing.single and thing.words else thing.count
    if count is not None and place.count is not None and count != place.count:
        return f"{count:g} in the English, {place.count:g} in the Chinese"
    lost = [word for word in thing.words if not any(_renders(one, word) for one in place.all)]
    return _gained(thing, place, lost, english) or (_lost(thing, lost, english, chinese) if even else None)


def _gained(thing: Mention, place: Place, lost: Sequence[str], english: str) -> str | None:
    """An attribute of the phrase that rules out one of the thing's, stands in the place of a lost one, or is said of others; a material
    or pattern, or 大, that is said of none."""
    name = thing.noun.text
    surface = [word for word in lost if any(value.family in SURFACE for value in _values(word))]
    for gained in (one for one in (*place.words, *SIZES) if one in place.all and not _is_said(one, thing)):
        for family in _families(gained):
            meant, rivals = _meant(gained, family), lexicon.load("en").families[family].rivals
            own = [value.id for word in thing.words for value in _values(word) if value.family == family]
            if meant and own and all(one in rivals[value] for value in own for one in meant):
                return f"{gained} for “{name}” that is {', '.join(own)}"
            if meant and not own and family in SURFACE and surface:
                return f"{gained} for “{surface[0]} {name}”"
            if (
                meant
                and all(word in lost for word in thing.words if any(value.family == family for value in _values(word)))
                and gained in place.words
                and any(value.id in meant for word in re.findall(r"\w+", english) for value in _values(word))
            ):
                return f"{gained}: the English says it of others than “{name}”"
            told = family in SURFACE or gained == SIZES[0]
            if told and meant and thing.words and not own and gained in place.words and not _is_anywhere(gained, english):
                return f"{gained} for “{name}”: nothing in the English is that"
    return None


def _is_anywhere(attribute: str, english: str) -> bool:
    return any(_renders(attribute, word) for word in re.findall(r"\w+", english.lower()))


def _is_said(attribute: str, thing: Mention) -> bool:
    """A noun does not account for a pattern: 方格 is also a box that is ticked."""
    words = thing.described - {thing.noun.lower_} if "pattern" in _families(attribute) else thing.described
    return any(_renders(attribute, word) for word in words)


def _lost(thing: Mention, lost: Sequence[str], english: str, chinese: str) -> str | None:
    """An attribute that the Chinese says of other things only, or a material or pattern that it says nowhere. Sizes: see `sizes`."""
    for word in (word for word in lost if not sizes.root(word)):
        there = sum(_renders(_once(match[1]), word) for match in _attributes().finditer(chinese))
        if 0 < there < len(re.findall(rf"\b{re.escape(word)}\b", english, re.IGNORECASE)):
            return f"“{word} {thing.noun.text}” is not {word} in the Chinese"
        surface = any(value.family in SURFACE for value in _values(word))
        if surface and not any(_renders(one, word) for one, *_ in pairing.words(chinese)):
            return f"“{word} {thing.noun.text}”: nothing in the Chinese is {word}"
    return None


# The English.


def _by_kind(doc: Any) -> dict[str, list[Mention]]:
    """Mentions by the stem of the noun; no kind that the parser has not found everywhere."""
    found: dict[str, list[Mention]] = defaultdict(list)
    for token in doc:
        if pairing.is_thing(token) and token.lower_ not in pairing.WHERE and not _describes(token):
            found[dictionary.stem(token.text)].append(_mention(token))
    said = [dictionary.stem(token.text) for token in doc]
    return {kind: things for kind, things in found.items() if said.count(kind) == len(things)}


def _describes(token: Any) -> bool:
    """Whether a noun is said of the next word ("glass" of a glass cup, "orange" of an orange striped one)."""
    after = token.nbor() if token.i + 1 < len(token.doc) else None
    if token.dep_ == "compound" or (after is not None and after.pos_ in syntax.NOUN):
        return True
    return after is not None and bool(_values(token.text)) and bool(_values(after.text) or after.pos_ in ("ADJ", "VERB"))


def _mention(noun: Any) -> Mention:
    words, at = [], noun.i - 1
    while at >= 0 and _may_describe(noun.doc[at]):
        words.append(noun.doc[at].lower_)
        at -= 1
    before = noun.doc[at] if at >= 0 else None
    described = {*words, noun.lower_, *(word.lower_ for word in _said_of(noun))}
    if before is None or before.pos_ not in ("DET", "NUM"):
        described |= {word.lower_ for other in _listed_before(noun) for word in other.lefts}  # "red shirts and hats"
    said = tuple(word for word in words if _values(word))
    return Mention(noun, said, frozenset(described), _count(noun, before), noun.tag_ in ("NN", "NNP"), _is_known(noun))


def _is_known(noun: Any) -> bool:
    return any(child.lower_ == "the" for child in noun.lefts)


def _may_describe(word: Any) -> bool:
    return (
        word.text == "-"
        or word.pos_ in ("ADJ", "NOUN", "PROPN")
        or word.dep_ in ("amod", "compound")
        or bool(_values(word.text))
    )


def _said_of(noun: Any) -> Iterator[Any]:
    """What is said of a noun behind it, and as its predicate."""
    for child in noun.children:
        if child.dep_ in ("amod", "acl", "relcl", "compound", "nmod", "poss") or child.lower_ in BELONGS:
            yield from _within(child)
    if noun.dep_ in ("nsubj", "nsubjpass", "dobj"):
        for child in noun.head.rights:
            if (noun.dep_ != "dobj" and child.dep_ in ("acomp", "attr", "oprd")) or child.lower_ in BELONGS:
                yield from _within(child)


def _within(word: Any) -> Iterator[Any]:
    """A word and what hangs on it, without the other things of a list."""
    yield word
    for child in word.children:
        if child.dep_ not in ("conj", "appos") or _values(child.lower_):
            yield from _within(child)


def _listed_before(noun: Any) -> Iterator[Any]:
    while noun.dep_ == "conj":
        noun = noun.head
        yield noun


def _count(noun: Any, before: Any) -> float | None:
    if before is None:
        return None
    if before.pos_ == "NUM":
        first = before
        while first.i and (first.nbor(-1).pos_ == "NUM" or first.nbor(-1).text == "-"):
            first = first.nbor(-1)
        numbers = translation.english_numbers(noun.doc[first.i : before.i + 1].text)
        return numbers[0] if len(numbers) == 1 else None
    return 1.0 if before.lower_ in ("a", "an") and noun.tag_ in ("NN", "NNP") else None


@lru_cache(maxsize=20_000)
def _values(word: str) -> tuple[lexicon.Value, ...]:
    return tuple(value for value in lexicon.load("en").lookup(word) if value.family in FAMILIES)


# The Chinese.


def _tokens(chinese: str) -> list[Token]:
    """Words, attributes of several characters kept whole: 圆点 球 and not 圆 点球."""
    found: list[Token] = []
    at = 0
    for match in [*_attributes().finditer(chinese), None]:
        if match is not None and len(match[0]) == 1:
            continue
        end = match.start() if match else len(chinese)
        for word, flag, start, stop in pairing.words(chinese[at:end]):
            size = _is_size_of(word)
            found += [(word[0], SPLIT, start + at, start + at + 1)] if size else []
            found.append((word[size:], "n" if size else flag, start + at + size, stop + at))
        if match:
            found.append((match[0], "n", *match.span()))
            at = match.end()
    return found


@lru_cache(maxsize=50_000)
def _is_size_of(word: str) -> bool:
    """Whether a word is 大 or 小 and a thing: 小球, and not 小提琴 or 小狗, which are things of their own."""
    thing = word[1:]
    if word[0] not in SIZES or not dictionary.entry(thing) or dictionary.may_be_deed(word):
        return False
    return dictionary.is_name(word) or any(dictionary.rank(thing, stem)[0] == 0 for stem in dictionary.entry(word))


@lru_cache(maxsize=1)
def _attributes() -> re.Pattern[str]:
    words = {word for name in FAMILIES for value in lexicon.load("zh").families[name].values.values() for word in value.words}
    words |= set(translation.colour_table()[3])
    return re.compile("(" + "|".join(sorted(map(re.escape, words), key=len, reverse=True)) + ")色?")


def _spans(kind: str, others: set[str], tokens: list[Token]) -> list[Token]:
    """Words that name the kind, and no other noun of the sentence more plainly: beside a bowl 碗 is no cup."""
    found = []
    for at, token in enumerate(tokens):
        after = tokens[at + 1] if at + 1 < len(tokens) else None
        describes = after is not None and (after[1][0] in "anbq" or after[0] == "的")
        if not pairing.may_name(tokens, at) or token[0].endswith("着") or (describes and _attributes().fullmatch(token[0])):
            continue
        rank = _rank(token[0], kind)
        if rank is not None and not any((theirs := _rank(token[0], other)) and theirs < rank for other in others):
            found.append(token)
    return found


def _contested(span: Token, kind: str, other: str, spans: dict[str, list[Token]]) -> bool:
    """Whether a word of this kind may stand for another noun too, which names it as plainly or has no other word."""
    theirs = _rank(span[0], other)
    return theirs is not None and (theirs == _rank(span[0], kind) or not spans[other])


@lru_cache(maxsize=50_000)
def _rank(word: str, kind: str) -> tuple[int, int] | None:
    """How plainly a word names a kind, plainest first: by its own entry, where it has none by that of its end. None if it does not."""
    ends = [word] if dictionary.entry(word) else [word[at:] for at in range(1, len(word))]
    end = next((end for end in ends if dictionary.alike(kind, dictionary.widened(dictionary.entry(end)))), None)
    return None if end is None else dictionary.rank(end, kind)


def _of_no_kind(tokens: list[Token], doc: Any) -> list[Token]:
    """Nouns that the dictionary knows and that mean no word of this sentence."""
    said = (token for token in doc if token.is_alpha and not (_values(token.lower_) and _describes(token)))
    here = dictionary.widened(dictionary.stem(token.text) for token in said)
    return [
        token
        for token, after in zip_longest(tokens, tokens[1:])
        if token[1][0] == "n"
        and not (after and after[1][0] == "n")
        and dictionary.entry(token[0])
        and not _attributes().fullmatch(token[0])
        and not dictionary.means(token[0], here)
    ]


def _place(span: Token, kind: str, tokens: list[Token], heads: set[tuple[int, int]], chinese: str) -> Place:
    """The phrase before a noun: back to its numeral, or to what belongs to no noun phrase, or to another thing."""
    word, _, start, end = span
    at = next(i for i, token in enumerate(tokens) if token[2] == start)
    begin, count, inner = start, None, start
    for one in reversed(tokens[:at]):
        if one[2:] in heads or not _in_phrase(one):
            break
        begin = inner = one[2]
        if one[1][0] in "mq":
            inner = one[3]  # 一大群小鸟: what is small is not large
            count = _counted(chinese[: one[3]]) if not chinese.startswith("的", one[3]) else None
            break
    own = [
        _once(match[1])
        for one in tokens
        for match in _attributes().finditer(one[0])
        if begin <= one[2] < start and _is_own(match, one)
    ]
    return Place(
        chinese[begin:end],
        tuple(own),
        tuple(_once(match[1]) for match in _attributes().finditer(chinese[inner : start + _core(word, kind)])),
        count,
        chinese[:begin].endswith(("这", "那", "每", "另")),
        begin,
        start,
    )


def _once(attribute: str) -> str:
    """大 of 大大: said twice it is the same size."""
    return attribute[0] if attribute == 2 * attribute[0] else attribute


def _is_own(attribute: re.Match[str], token: Token) -> bool:
    """Whether an attribute is a word, and not a part of one: 青 in 青苔, 大 in 大桥."""
    return len(attribute[0]) > 1 or (attribute[0] == token[0] and token[1] != SPLIT)


def _in_phrase(token: Token) -> bool:
    word, flag, *_ = token
    place = len(word) > 1 and word[-1] in pairing.PLACES  # 大树下
    return word == "的" or bool(_families(word)) or (flag[0] in PART_OF_PHRASE and not place)


COUNTED = re.compile(f"({translation.CHINESE_NUMBER.pattern})[{translation.MEASURE}]$")


def _counted(text: str) -> float | None:
    match = COUNTED.search(text)
    values = translation.chinese_number(match[1]) if match else []
    return values[0] if len(values) == 1 else None


def _core(word: str, kind: str) -> int:
    """Where the noun itself begins in a word: 球 of 大球."""
    return next((at for at in range(len(word) - 1, 0, -1) if dictionary.alike(kind, dictionary.entry(word[at:]))), 0)


# Between both.


@lru_cache(maxsize=50_000)
def _renders(chinese: str, english: str) -> bool:
    """Whether a Chinese attribute can stand for an English word: by the table of colours, else by the dictionary."""
    colours, mine = translation.colours_of_english(english), _colours(chinese)
    if colours and mine:
        return bool(mine & set(colours))
    families = lexicon.load("en").families
    wider = [kind for value in _values(english) for kind in families[value.family].chain(value)]  # cardboard is paper
    synonyms = {english, *(word for value in wider for word in value.words)}
    if dictionary.means(chinese, dictionary.widened(dictionary.stem(part) for word in synonyms for part in word.split())):
        return True
    kinds = (
        kind
        for value in _values(english)
        for kind in families[value.family].values.values()
        if value in families[value.family].chain(kind) and value.family in (_families(chinese) or FAMILIES)
    )
    known = dictionary.entry(chinese)  # iron is a metal
    return any(dictionary.alike(dictionary.stem(word), known) for kind in kinds for word in kind.words)


def _colours(chinese: str) -> frozenset[str]:
    _, _, pattern, names = translation.colour_table()
    match = pattern.match(chinese)
    return names[match[1]] if match else frozenset()


@lru_cache(maxsize=20_000)
def _families(chinese: str) -> tuple[str, ...]:
    return tuple(sorted({value.family for value in lexicon.load("zh").lookup(chinese) if value.family in FAMILIES}))


@lru_cache(maxsize=20_000)
def _meant(chinese: str, family: str) -> frozenset[str]:
    """Ids of the English values of a family that a Chinese attribute may stand for."""
    known, colours = dictionary.entry(chinese), _colours(chinese)

    def means(word: str) -> bool:
        if family == "colour":
            return bool(colours & set(translation.colours_of_english(word)))
        return " " not in word and dictionary.alike(dictionary.stem(word), known)

    values = [value for value in lexicon.load("en").families[family].values.values() if not value.vague]
    meant = {value.id: [word for word in value.words if means(word)] for value in values}
    if family != "size":
        return frozenset(id for id, words in meant.items() if words)
    ranks = {id: min(dictionary.rank(chinese, dictionary.stem(word)) for word in words) for id, words in meant.items() if words}
    return frozenset(id for id, rank in ranks.items() if rank == min(ranks.values()))  # large more plainly than deep
