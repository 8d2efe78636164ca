"""Sizes that a translation leaves out: "two large red stars" as 两颗红色星星.

A thing is judged where its noun stands for one Chinese word and the English says its size right before it. The size counts as said
where anything of it is in the phrase of that word, in the word itself (巨石, 小狗, a hut as 茅屋), or in a part of the sentence that
belongs to no thing of that size (窗户很大).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from operators import lexicon
from operators.validators import Finding, dictionary
from operators.validators.pairing import WHERE, Token
from operators.validators.syntax import NOUN


@dataclass(frozen=True)
class Pole:
    """One of two opposite sizes. root: the value of the English lexicon of which all its words are a kind.

    said: what says it anywhere; near: what stands for it beside a noun or in it, being another measure or a manner of speaking;
    words, within: stems of English words for it, and for things that are of that size by themselves (a pebble, a mansion).
    """

    root: str
    said: re.Pattern[str]
    near: re.Pattern[str]
    words: frozenset[str]
    within: frozenset[str]


def _pole(root: str, said: str, near: str, words: str, within: str) -> Pole:
    stems, things = (frozenset(map(dictionary.stem, some.split())) for some in (words, within))
    return Pole(root, re.compile(said), re.compile(f"{said}|{near}"), stems, things)


POLES = (
    _pole(
        "large",
        "[大巨庞硕]",
        "[宏伟广宽阔高粗壮厚重超满豪浩]|长(?![椅凳袍裤裙])|落地|参天|无[际垠边]|都市",
        "large big huge giant enormous vast",
        "boulder mansion villa skyscraper avenue boulevard ocean billow hall",
    ),
    _pole(
        "small",
        "小|微(?![笑风波弱妙])|迷你|袖珍",
        "[短矮窄低薄轻幼雏崽仔奶羔驹犊纤溪舟]|细(?!节)|[一有]点|点点|少[量许]|[一有]些",
        "small little tiny mini miniature minor",
        "pebble creek brook rivulet puddle lane alley hamlet village cottage cabin hut "
        "kiosk cub pup kitten chick baby infant leaflet pamphlet booklet card twig sapling sprout bud shoot stool sampan dinghy "
        "canoe slip",
    ),
)
NO_SIZE_ZH = re.compile(
    "大(?:约|概|致|多|都(?!市)|部分|家(?![庭具])|众|人|师|厨|使|衣|褂|理石|豆|米|麦|蒜|葱|白菜|学|陆|西洋|洋洲|本钟|提琴|气(?!球)|胆|声)"
    "|小(?:心|麦|米|时|说|姐|吃|费|区|学|贩|丑|偷|伙|提琴|号|龙虾|白菜|腿|臂|憩|便|组)"
)
"""Words that begin as a size and are none."""
NO_SIZE = re.compile(
    r"\b(?:big (?:cats?|wheels?|toes?|tops?|rigs?|ben|apple|dipper)|small (?:talk|change|print|intestines?|hours)"
    r"|little (?:fingers?|toes?|owls?)|large (?:print|intestines?)"
    r"|giant (?:pandas?|slaloms?|sequoias?|tortoises?|anteaters?|squids?)"
    r"|mini(?:ature)? (?:golf|skirts?|vans?|bus(?:es)?|bars?|poodles?|pinschers?|schnauzers?|dress(?:es)?))\b",
    re.IGNORECASE,
)
"""English things in whose names a size is none."""
SETS = WHERE | frozenset(
    re.findall(
        r"\w+",
        "crowd collection amount quantity variety selection array portion part piece herd flock pack swarm bunch cluster pile heap "
        "stack set row audience family team party class band area space expanse region stretch extent distance section range series "
        "body bit while scale size smile grin laugh drop",
    )
)
"""What is large by being many or far: told by other words, or by the measure word."""


@dataclass(frozen=True)
class Told:
    """A thing of both texts: its English noun, the attribute words right before that, where its Chinese phrase and its word begin and
    end. again: it was named before, and need not be described once more."""

    noun: Any
    words: tuple[str, ...]
    start: int
    head: int
    end: int
    again: bool


def begins(start: int, head: int, tokens: Sequence[Token], heads: set[tuple[int, int]]) -> int:
    """Where the phrase of a noun begins that holds a verb or another noun (一棵参天古树, 一片辽阔的向日葵田): at its numeral, if none
    of the heads stands between; else at start."""
    before = [token for token in tokens if token[3] <= head]
    while before and before[-1][2:] in heads:
        before.pop()
    for _, flag, first, end in reversed(before):
        if flag[0] in "mq":
            return min(start, first)
        if flag[0] in "xcp" or (first, end) in heads:
            break
    return start


def left_out(things: Sequence[Told], tokens: Sequence[Token], chinese: str) -> Finding | None:
    """tokens: the words of the Chinese sentence in which the things are told."""
    bare = NO_SIZE_ZH.sub(lambda match: "　" * len(match[0]), chinese)
    for pole in POLES:
        sized = [(thing, word) for thing in things if (word := _size(thing, pole))]
        lost = [(thing, word) for thing, word in sized if not thing.again and not _says(thing, pole, bare, chinese)]
        owned = [(thing.start, thing.end) for thing in things if any(root(word) == pole.root for word in thing.words)]
        free = [one for one in tokens if _is_size(one, pole, bare) and not any(start <= one[2] < end for start, end in owned)]
        if len(free) < len(lost):
            thing, word = lost[0]
            return "attributes", f"“{word} {thing.noun.text}”: {chinese[thing.start : thing.end]} is not {word}"
    return None


def _size(thing: Told, pole: Pole) -> str | None:
    """The word that says a size of the thing itself: no set, no person (小, big brother), no name."""
    noun = thing.noun
    classes = lexicon.load("en").classes(noun.lemma_.lower())
    if noun.pos_ not in NOUN or noun.text[0].isupper() or noun.lemma_.lower() in SETS or "person" in classes:
        return None
    word = next((word for word in thing.words if root(word) == pole.root), None)
    if word is None or re.search(rf"\b{word}-", noun.sent.text, re.IGNORECASE):
        return None
    at = next(token for token in reversed(noun.doc[: noun.i]) if token.lower_ == word)
    named = any(match.start() <= at.idx < match.end() for match in NO_SIZE.finditer(noun.doc.text))
    return None if named or (at.head.pos_ == "ADJ" and at.head != noun) else word


@lru_cache(maxsize=1_000)
def root(word: str) -> str | None:
    """The root of an English size, where these checks hold it: "large" of huge, and None of tall."""
    family = lexicon.load("en").families["size"]
    roots = {family.root(value) for value in lexicon.load("en").lookup(word) if value.family == "size"}
    return next((pole.root for pole in POLES if pole.root in roots), None)


def _says(thing: Told, pole: Pole, bare: str, chinese: str) -> bool:
    known = dictionary.every(chinese[thing.head : thing.end])
    return pole.near.search(bare[thing.start : thing.end]) is not None or bool(known & (pole.words | pole.within))


def _is_size(token: Token, pole: Pole, bare: str) -> bool:
    """Whether a word says the size: not 小狗 that is a puppy."""
    word, _, start, end = token
    if not pole.said.search(bare[start:end]):
        return False
    known = dictionary.every(word)
    return len(word) == 1 or not known or bool(known & pole.words) or bool(lexicon.load("zh").lookup(word))
