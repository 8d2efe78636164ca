"""What the English says together and the Chinese apart: two clauses, or two described things, that exchanged a part.

Each noun, verb, adjective and number of the English is looked for in the Chinese, and counts where the dictionary finds it in one
clause only. Two clauses are mixed up where each of two Chinese ones has something of both, as 狗在睡觉，猫在叫 for "the cat sleeps and
the dog barks". A translation that only tells things in another order does not do that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations, permutations
from typing import Any

from operators import lexicon
from operators.validators import Finding, dictionary, pairing
from operators.validators.pairing import Pairing, Token
from operators.validators.syntax import NOUN

JOINS = frozenset(("while", "whereas", "because", "then", "when"))
"""Words that begin a clause; "as" does where the parser says so."""
PAUSE = re.compile("[，。；：！？,;:]")
JOINS_ZH = frozenset(("和", "与", "及", "以及", "而", "而且"))
DESCRIBES = frozenset(("acl", "relcl", "amod", "compound", "nummod"))
BEHIND = frozenset(("with", "in", "on", "at", "without", "under", "behind", "near", "beside", "from", "of"))
"""Prepositions whose objects describe the noun before them."""
VAGUE = frozenset(
    re.findall(
        r"\w+",
        "be have do make get go come take put use see look show stand sit lie appear seem hold wear other same own one several many "
        "few more",
    )
)
"""Said of anything, or in too many ways."""
SAID = ("colour", "material", "pattern")
"""Families of words that a noun may follow."""
CONTENT = frozenset(("NOUN", "PROPN", "VERB", "ADJ", "NUM"))

Parts = dict[int, int]
"""Token index of a word → number of the part of the Chinese where alone it stands."""


def parted(doc: Any, paired: dict[int, Pairing], chinese: str) -> Finding | None:
    """doc: one parsed English sentence; paired: its nouns with their places in the Chinese."""
    tokens = pairing.words(chinese)
    places = {token.i: _places(token, tokens, paired) for token in doc if _tells(token, paired)}
    clauses, described = _clauses(doc), _described(doc)
    pauses = [end for word, _, _, end in tokens if PAUSE.fullmatch(word)]
    joined = sorted([*pauses, *(end for word, _, _, end in tokens if word in JOINS_ZH)])
    heads = [paired[group[0]].end for group in described if group[0] in paired]
    for groups, ends in ((clauses, joined), (described, joined), (described, heads)):
        for e, f in combinations([_parts_of(group, places, ends) for group in groups], 2):
            if _mixed(doc, e, f):
                return _finding(doc, e, f)
    for (one, e), (other, f) in permutations([(group, _parts_of(group, places, pauses)) for group in clauses], 2):
        if _led(doc, one, e) and _led(doc, other, f) and _lost(e, f):
            return _finding(doc, e, f)
    return None


def _finding(doc: Any, e: Parts, f: Parts) -> Finding:
    a, b = (" ".join(doc[i].text for i in sorted(some)) for some in (e, f))
    return "swapped", f"“{a}” and “{b}”, of which each has a part of the other"


def _parts_of(group: Sequence[int], places: dict[int, set[int]], ends: Sequence[int]) -> Parts:
    parts = {i: {sum(at >= end for end in ends) for at in places[i]} for i in group if i in places}
    return {i: next(iter(some)) for i, some in parts.items() if len(some) == 1}


def _mixed(doc: Any, e: Parts, f: Parts) -> bool:
    """Whether two parts have each a word of both, one that the other has not."""
    mine, theirs = ({dictionary.stem(doc[i].text): part for i, part in some.items()} for some in (e, f))
    own = {part for stem, part in mine.items() if stem not in theirs}
    return len(own & {part for stem, part in theirs.items() if stem not in mine}) > 1


def _led(doc: Any, group: Sequence[int], parts: Parts) -> bool:
    """Whether it is known where the noun is with which the clause begins, and the clause goes on."""
    content = [i for i in group if doc[i].pos_ in CONTENT]
    first = next((i for i in content if doc[i].pos_ in NOUN), -1)
    return len(content) > 1 and min(parts, default=None) == first


def _lost(e: Parts, f: Parts) -> bool:
    """Whether all of a clause but its first noun stands with the first noun of the other, of which no more is found."""
    (_, lead), *rest = sorted(e.items())
    return len(f) == 1 and {part for _, part in rest} == set(f.values()) != {lead}


def _tells(token: Any, paired: dict[int, Pairing]) -> bool:
    if token.dep_ in ("amod", "compound") and (token.pos_ == "ADJ" or _qualifies(token.lower_)):
        return False  # glass, as other things may be; what each is like is compared elsewhere
    unnamed = token.pos_ == "PROPN" or (token.pos_ in NOUN and token.lower_ in pairing.WHERE)
    return token.pos_ in CONTENT and token.lemma_.lower() not in VAGUE and (token.i in paired or not unnamed)


def _qualifies(word: str) -> bool:
    return any(value.family in SAID for value in lexicon.load("en").lookup(word))


def _places(token: Any, tokens: Sequence[Token], paired: dict[int, Pairing]) -> set[int]:
    """Where in the Chinese it may stand: by its pairing, or the likeliest words that the dictionary knows for it."""
    if token.i in paired:
        return {paired[token.i].end - 1}
    taken = {(one.start, one.end) for one in paired.values() if one.sure}
    free = [one for one in tokens if one[2:] not in taken or dictionary.is_deed(one[0])]
    if token.like_num:
        return {start for word, _, start, _ in free if token.text == word}
    stems = {dictionary.stem(token.text), dictionary.stem(token.lemma_)}
    whole = [one for one in free if _says(one[0], stems)]
    parts = [one for one in free if one[1][0] in "vazid" and any(_says(char, stems) for char in (one[0][0], one[0][-1]))]
    wide = [one for one in free if one[1][0] not in "upcmqx" and dictionary.means(one[0], dictionary.widened(stems))]
    return {start for _, _, start, _ in whole or (parts if token.pos_ not in NOUN else ()) or wide}


def _says(word: str, stems: set[str]) -> bool:
    return any(dictionary.alike(stem, dictionary.every(word)) for stem in stems)


def _clauses(doc: Any) -> list[list[int]]:
    """Token indices between punctuation and words that join, right or wrong as the tree may be."""
    groups: list[list[int]] = [[]]
    for token in doc:
        if (
            token.tag_ == "CC"
            or PAUSE.fullmatch(token.text)
            or token.lower_ in JOINS
            or (token.lower_ == "as" and token.dep_ == "mark")
        ):
            groups.append([])
        groups[-1].append(token.i)
    return groups


def _described(doc: Any) -> list[list[int]]:
    """Nouns, each with the words that describe it behind it in the list; none that describes another."""
    groups = []
    for noun in doc:
        if noun.pos_ in NOUN and noun.dep_ not in ("compound", "nmod"):
            said = [c for c in noun.children if c.dep_ in DESCRIBES or (c.dep_ == "prep" and c.lower_ in BEHIND)]
            groups.append([noun.i, *(token.i for child in said for token in child.subtree)])
    return [group for group in groups if len(group) > 1 and not any(group[0] in other[1:] for other in groups)]
