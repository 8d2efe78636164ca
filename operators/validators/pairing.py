"""Which Chinese words stand for which English nouns of a sentence.

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

from operators import lexicon
from operators.validators import dictionary
from operators.validators.syntax import NOUN
from operators.validators.translation import MEASURE, colours_of_english

WITH = frozenset(("with", "in", "wearing", "without"))
"""Prepositions whose objects describe the noun and move with it."""

WHERE = frozenset(
    re.findall(
        r"\w+",
        "side middle center centre edge end top front back corner left right bottom foot distance background foreground picture image "
        "photo scene view pair group lot number way kind",
    )
)
"""Nouns that are no things."""

YOUNG = frozenset(
    re.findall(
        r"\w+", "kitten puppy foal colt lamb piglet fawn cub chick gosling duckling cygnet calf joey baby kid pup nestling"
    )
)
YOUNG_ZH = re.compile("[小幼雏]|.*[崽驹羔雏仔]$")
"""A word for a young animal, beside one for its mother (母马)."""
ORDINALS = {"first": "第一", "second": "第二", "third": "第三", "fourth": "第四", "fifth": "第五"}

Token = tuple[str, str, int, int]
"""A Chinese word, its part of speech, where it begins and ends."""


@dataclass(frozen=True)
class Pairing:
    """An English noun and its place in the Chinese text. sure: by a word of its own, not by what belongs to it."""

    token: Any
    start: int
    end: int
    sure: bool = True


def words(chinese: str) -> list[Token]:
    """The text as the dictionary's tagger cuts it, a few of its mistakes mended."""
    found: list[Token] = []
    at = 0
    for whole, tag in dictionary.tagged(chinese):
        for word, flag in _cut(whole, tag):
            if word == "子" and found and len(found[-1][0]) > 2 and dictionary.entry(found[-1][0][-1] + word):
                before, _, start, end = found.pop()  # 格子裙 子
                found.append((before[:-1], "n", start, end - 1))
                word, at, flag = before[-1] + word, end - 1, "n"
            elif word in ("者", "员") and found and found[-1][1][0] in "nvad":
                before, _, start, end = found.pop()  # 徒步 者
                word, at, flag = before + word, start, "n"
            found.append((word, flag, at, at + len(word)))
            at += len(word)
    return found


def _cut(word: str, flag: str) -> tuple[tuple[str, str], ...]:
    """山中 as 山 and 中, the name 云顶 as 云 and 顶 where it can be no place's; 一个桶 as what is counted and how many."""
    first, last = word[:-1], word[-1]
    if ((flag == "s" and last in PLACES) or (flag == "ns" and last in TOPS)) and dictionary.entry(first):
        return (first, "n"), (last, "f")
    if COUNTED.match(word) and not dictionary.entry(word) and not dictionary.is_name(word[2:]):
        return (word[:2], "m"), (word[2:], "n")
    if word == "本书":
        return ("本", "q"), ("书", "n")
    return ((word, flag),)


PLACES = "上下里中内边旁侧前后外"
TOPS = "顶底"
NUMERALS = "一二三四五六七八九十百千万亿两几数第半多每整"
COUNTED = re.compile(f"[一两][{MEASURE}].")
WHO_DOES = ("者", "员", "手", "师", "家", "工")
"""What makes who does it of what is done: 滑冰者."""


def may_name(tokens: list[Token], at: int) -> bool:
    """By its tag, of which some are wrong (小偷 as an adverb); a measure (碗) names a thing where nothing is counted by it."""
    word, flag, *_ = tokens[at]
    if flag[0] == "m":
        return len(word) > 1 and word[0] not in NUMERALS and bool(dictionary.entry(word))  # 少年
    if flag[0] == "q":
        return not (at and tokens[at - 1][1][0] in "mr")
    if len(word) == 1 and flag[0] in "vz" and dictionary.is_only_deed(word):
        return False  # 穿 is no dress
    return flag[0] in "nivlzjg" or (flag == "s" and word[-1] not in PLACES) or (flag[0] in "dabt" and len(word) > 1)


def _joined(tokens: list[Token]) -> list[Token]:
    """Words of the dictionary that the tagger cut into pieces (水管 工, 女 服务员), as nouns."""
    found = []
    for i in range(len(tokens)):
        if tokens[i][1][0] == "u":
            continue  # 插着 花
        for j in range(i + 2, min(i + 4, len(tokens) + 1)):
            word = "".join(token[0] for token in tokens[i:j])
            doer = j == i + 2 and tokens[i + 1][0] in WHO_DOES and tokens[i][1][0] in "nv"
            doer = doer and not (tokens[i + 1][0] == "手" and j < len(tokens) and tokens[j][0] in PLACES)  # 指挥 手 里
            if len(word) <= 6 and (dictionary.entry(word) or doer):
                found.append((word, "n", tokens[i][2], tokens[j - 1][3]))
    return found


def is_thing(token: Any) -> bool:
    """A noun, what the parser has in a noun's place with an article ("the waitress" as an adjective), or "the taller one"."""
    if token.text.lower() in ("one", "ones"):
        return any(child.dep_ == "amod" for child in token.lefts)
    if token.pos_ in NOUN or not any(child.dep_ == "det" for child in token.lefts):
        return token.pos_ in NOUN
    mistaken = token.dep_ in ("nsubj", "nsubjpass", "dobj", "pobj") and token.pos_ in ("ADJ", "VERB", "ADV", "PRON")
    return mistaken or (token.dep_ in ("appos", "conj", "ROOT") and token.pos_ == "ADJ")  # "a ring, a large pink cross"


def pair(doc: Any, chinese: str) -> dict[int, Pairing]:
    """Token index → its place in the Chinese."""
    tokens = words(chinese)
    instead = _stand_ins(doc, tokens)
    spans = [token for at, token in enumerate(tokens) if may_name(tokens, at)] + _joined(tokens)
    spans = [span for span in spans if not any(p.start <= span[2] and span[3] <= p.end for p in instead.values())]
    nouns = [token for token in doc if is_thing(token) and not _is_colour_of(token)]
    nouns = [noun for noun in nouns if noun.i not in instead]
    meant = {noun.i: _spans_of(dictionary.stem(noun.text), spans) for noun in nouns if noun.pos_ != "NUM"}
    often = Counter(dictionary.stem(noun.text) for noun in nouns)
    apart = _told_apart(nouns)
    _keep_plainest(meant, doc, often)
    _leave_to_surer(meant, spans, doc)
    # What is only said of a noun ("stone" of a stone lion) takes no word from another noun.
    claimed = {span[2:] for noun in nouns if noun.dep_ != "compound" for span in meant.get(noun.i, ())}
    for noun in nouns:
        if noun.dep_ == "compound" and noun.i in meant:
            meant[noun.i] = [span for span in meant[noun.i] if span[2:] not in claimed]
    _leave_taken(meant, doc)
    taken = Counter((span[2], span[3]) for mine in meant.values() if len(mine) == 1 for span in mine)
    found = instead | {
        noun.i: Pairing(noun, *meant[noun.i][0][2:])
        for noun in nouns
        if len(meant.get(noun.i, ())) == 1 and taken[meant[noun.i][0][2:]] == 1 and noun.i not in apart
    }
    for noun in 2 * nouns:  # twice, as what is told by another thing may stand before it
        if noun.i in found:
            continue
        ends = {span[3] for span in meant.get(noun.i, ())}
        place = _by_what_belongs(noun, doc, tokens, found, ends, noun.i in apart)
        if place is not None:
            found[noun.i] = place
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
    found |= _last_of_a_kind(nouns, meant, found)
    left = _last_pair(nouns, tokens, meant, found)
    return found | ({left.token.i: left} if left else {})


def _is_colour_of(token: Any) -> bool:
    """Whether a colour that the parser has as a noun is said of the next one, or of one behind a pattern ("a brown striped cross")."""
    if not colours_of_english(token.text):
        return False
    after = token.doc[token.i + 1 : token.i + 2].text
    surface = any(value.family in ("pattern", "material") for value in lexicon.load("en").lookup(after))
    return token.dep_ == "compound" or surface


PRONOUNS = {
    "he": "他",
    "him": "他",
    "she": "她",
    "her": "她",
    "it": "它",
    "we": "我们",
    "us": "我们",
    "they": "他们",
    "them": "他们",
}
THEY = ("他们", "她们", "它们")
OTHERS = frozenset(("other", "another", "others"))


def _stand_ins(doc: Any, tokens: list[Token]) -> dict[int, Pairing]:
    """What stands for a thing, where each text has it once: a pronoun, "the other" (另一只), "one of them" (一只)."""
    said: dict[str, list[Any]] = {"other": [], "one": []}
    there: dict[str, list[tuple[int, int]]] = {"other": [], "one": []}
    for token in doc:
        if token.lower_ in OTHERS:
            said["other"].append(token if token.dep_ not in ("det", "amod") else token.head)
        elif (
            token.lower_ == "one"
            and token.dep_ not in ("nummod", "det", "pobj")
            and not any(c.lower_ in OTHERS for c in token.lefts)
        ):
            said["one"].append(token)
        elif token.lower_ in ORDINALS and token.dep_ in ("nsubj", "dobj", "pobj"):
            said.setdefault(ORDINALS[token.lower_], []).append(token)
        elif token.tag_ == "PRP":
            said.setdefault(PRONOUNS.get(token.lower_, ""), []).append(token)
    for at, (word, flag, start, end) in enumerate(tokens):
        after = tokens[at + 1][0] if at + 1 < len(tokens) else ""
        if flag == "r" and word[0] in "他她它我" and after != "的":
            there.setdefault(THEY[0] if word in THEY else word, []).append((start, end))
        elif word[:2] in ORDINALS.values():
            there.setdefault(word[:2], []).append((start, end))
        elif word[0] == "另":
            there["other"].append((start, _end_of_count(tokens, at)))
        elif COUNT_ONE.fullmatch(word) and not (at and tokens[at - 1][0][0] in "另每同"):
            there["one"].append((start, end))
    return {
        mine[0].i: Pairing(mine[0], *there[kind][0])
        for kind, mine in said.items()
        if len(mine) == 1 and len(there.get(kind, ())) == 1
    }


COUNT_ONE = re.compile(f"一[{MEASURE}]")


def _end_of_count(tokens: list[Token], at: int) -> int:
    """Behind 另一只, or 另一只猴子."""
    end = tokens[at][3]
    for _, flag, _, stop in tokens[at + 1 : at + 4]:
        if flag[0] not in "mqn":
            break
        end = stop
        if flag[0] == "n":
            break
    return end


def _last_of_a_kind(nouns: list[Any], meant: dict[int, list[Token]], found: dict[int, Pairing]) -> dict[int, Pairing]:
    """Of as many things of one kind as there are words for it the last one, where all others have theirs."""
    last = {}
    for noun in (noun for noun in nouns if noun.i not in found and noun.dep_ not in ("compound", "nmod", "amod")):
        kind = [n for n in nouns if dictionary.stem(n.text) == dictionary.stem(noun.text)]
        free = [s for s in meant.get(noun.i, ()) if not any(p.start < s[3] and s[2] < p.end for p in found.values())]
        if len(kind) == len(meant.get(noun.i, ())) > 1 and sum(n.i not in found for n in kind) == len(free) == 1:
            last[noun.i] = Pairing(noun, *free[0][2:], sure=False)
    return last


def _told_apart(nouns: list[Any]) -> set[int]:
    """ "The red car" and "the blue one": two of one kind, of which the Chinese may name the kind at either."""
    found = set()
    for at, noun in enumerate(nouns):
        kind = next((n for n in reversed(nouns[:at]) if any(c.dep_ == "amod" for c in n.lefts)), None)
        if noun.lower_ in ("one", "ones") and kind is not None:
            found |= {noun.i, kind.i}
        if noun.lower_ == "one" or noun.tag_ in ("JJR", "JJS"):
            found.add(noun.i)
    return found


def _keep_plainest(meant: dict[int, list[Token]], doc: Any, often: Counter[str]) -> None:
    """Of several words for a noun that the English has once, those that say it most plainly: 鸟 is a bird more than 雏鸟 is, where
    there are also chicks, and the mare is 母马 and not 小马."""
    for i, mine in meant.items():
        stem = dictionary.stem(doc[i].text)
        if often[stem] > 1 or len(mine) < 2:
            continue
        others = {span for j, theirs in meant.items() if j != i for span in theirs}
        levels: dict[str, int] = {}
        for span in mine:
            head = _head(span[0])
            levels[head] = min(levels.get(head, 9), _rank(span, stem)[0])
        young = doc[i].lemma_.lower() in YOUNG
        plain = [
            (bool(YOUNG_ZH.match(word)) != young, levels[_head(word)], (word, *rest) in others and word != _head(word))
            for word, *rest in mine
        ]
        meant[i] = [span for span, how in zip(mine, plain, strict=True) if how == min(plain)]


def _leave_taken(meant: dict[int, list[Token]], doc: Any) -> None:
    """What surely stands for one thing is left to it, and what is alike in two names (America, Americans) tells neither."""
    stems = {i: dictionary.stem(doc[i].text) for i in meant}
    for _ in range(2):
        sole = {mine[0]: stems[i] for i, mine in meant.items() if len(mine) == 1}
        for i, mine in meant.items():
            if len(mine) > 1:
                meant[i] = [span for span in mine if sole.get(span, stems[i]) == stems[i]] or mine
    names = [i for i in meant if doc[i].pos_ == "PROPN"]
    for i in names:
        if any(stems[i] != stems[j] and dictionary.alike(stems[i], {stems[j]}) for j in names):
            meant[i] = []


def _leave_to_surer(meant: dict[int, list[Token]], spans: list[Token], doc: Any) -> None:
    """The one word that may mean two nouns stands for the one that its own entry says more plainly: 摄影师 is the photographer and not
    the picture that is taken, and 门 the door and not the house."""
    stems = {i: dictionary.stem(doc[i].text) for i in meant}
    for span in sorted({span for mine in meant.values() for span in mine}, key=lambda span: span[2:]):
        ranks = {i: _rank(span, stems[i]) for i, mine in meant.items() if span in mine}
        best = min(ranks, key=lambda i: ranks[i])
        if meant[best] != [span] or ranks[best][0] > 2 or doc[best].dep_ == "compound":
            continue
        for i, rank in ranks.items():
            if rank > ranks[best] and stems[i] != stems[best]:
                outside = [one for one in spans if one[3] <= span[2] or span[3] <= one[2]]
                meant[i] = [one for one in meant[i] if one != span] or _spans_of(stems[i], outside)
    things = {span for i, mine in meant.items() if doc[i].lower_ not in WHERE for span in mine}
    for i in meant:
        if doc[i].lower_ in WHERE:  # 山顶 is the mountain
            meant[i] = [span for span in meant[i] if span not in things]
    sole = [mine[0] for mine in meant.values() if len(mine) == 1]
    for i, mine in meant.items():
        if len(mine) > 1:  # 图书 in 图书管理员 is no book
            meant[i] = [
                one for one in mine if not any(o is not one and o[2] <= one[2] and one[3] <= o[3] for o in sole)
            ] or mine


def _entry(word: str) -> frozenset[str]:
    return dictionary.entry(_head(word))


def _rank(span: Token, stem: str) -> tuple[int, int]:
    """As the dictionary's; 大船 says what 船 does less plainly."""
    head = _head(span[0])
    level, at = dictionary.rank(head, stem)
    return (max(level, 1) if head != span[0] else level), at


@lru_cache(maxsize=50_000)
def _head(word: str) -> str:
    """The word, or where it is a name, or missing, its longest end that is neither: 大桥 is a 桥."""
    return next((word[at:] for at in range(len(word)) if not dictionary.is_name(word[at:])), word)


def _last_pair(
    nouns: list[Any], tokens: list[Token], meant: dict[int, list[Token]], found: dict[int, Pairing]
) -> Pairing | None:
    """The one thing of the English that is left over stands for the one noun of the Chinese that is: a dictionary knows no 雪橇犬 as
    the husky. Not where the Chinese noun means another word of the English, or where either text has more left over."""
    things = [n for n in nouns if n.i not in found and n.dep_ not in ("compound", "nmod", "npadvmod") and n.pos_ != "NUM"]
    things = [n for n in things if n.lower_ not in WHERE]
    if len(things) != 1 or not found:
        return None
    ends = [at for at in range(len(tokens)) if _noun_at(tokens, at) and not _noun_at(tokens, at + 1)]
    free = [tokens[at] for at in ends if not any(p.start < tokens[at][3] and tokens[at][2] < p.end for p in found.values())]
    free = [token for token in free if token[0][-1] not in "色上下里旁边侧面间"]
    if len(free) != 1:
        return None
    word = free[0]
    others = {
        dictionary.stem(t.text) for t in things[0].doc if t.i != things[0].i and t.is_alpha and t.pos_ not in ("VERB", "AUX")
    }
    known = meant.get(things[0].i, [])
    if (known and word not in known) or any(dictionary.alike(stem, dictionary.entry(word[0])) for stem in others):
        return None
    return Pairing(things[0], word[2], word[3], sure=False)


def _noun_at(tokens: list[Token], at: int) -> bool:
    """By its tag, or though it is tagged as a verb (裁判)."""
    if at >= len(tokens):
        return False
    word, flag, *_ = tokens[at]
    return flag[0] == "n" or (
        flag == "v" and len(word) > 1 and bool(dictionary.entry(word)) and not dictionary.may_be_deed(word)
    )


def _spans_of(stem: str, spans: list[Token]) -> list[Token]:
    """The words that can mean it, in order; of words inside one another the longest."""
    # 卡车 is a truck by its own entry, and a car only by a part of it.
    sure = [span for span in spans if dictionary.alike(stem, _entry(span[0]))]
    sure = [span for span in sure if stem in _entry(span[0])] or sure  # 画家 is the painter, 画 what he paints
    sure = [span for span in sure if span[1][0] == "n" or not dictionary.is_deed(span[0])] or sure  # 坐 is also "to bear"
    if stem.endswith(("er", "or", "ist", "ian")):  # 摩托车手 is the motorcyclist, and 摩托车 what he rides
        doers = [s for s in spans if s[0][-1] in WHO_DOES and any(o[2] == s[2] and o[3] == s[3] - 1 for o in sure)]
        sure = doers or sure
    wanted = set() if sure else dictionary.widened({stem})
    mine = sure or [span for span in spans if _may_mean(span, wanted)]
    return sorted(
        (s for s in mine if not any(o is not s and o[2] <= s[2] and s[3] <= o[3] and o[3] - o[2] > s[3] - s[2] for o in mine)),
        key=lambda span: span[2],
    )


def _may_mean(span: Token, wanted: set[str]) -> bool:
    """By its entry's relatives, or what its parts say; 覆盖 is no house though 盖 is to build one."""
    if span[1][0] == "v" and dictionary.is_only_deed(span[0]):
        return any(dictionary.alike(known, wanted) for known in dictionary.entry(span[0]))
    return dictionary.means(span[0], wanted)


def _by_what_belongs(
    noun: Any, doc: Any, tokens: list[Token], found: dict[int, Pairing], ends: set[int], apart: bool
) -> Pairing | None:
    """The phrase in which alone stands what the English says of this noun and of no other. ends: where words end that may be the noun;
    apart: it may have none (蓝色的 for the blue one)."""
    for word, alone in _belonging(noun):
        place = found.get(word.i)
        if place is not None:
            mine = [at for at, token in enumerate(tokens) if place.start <= token[2] and token[3] == place.end]
        elif sum(other.text.lower() == word.text.lower() for other in doc) > 1:
            continue
        else:
            mine = _rendering(word, tokens)
        if len(mine) != 1:
            continue
        end = _phrase_end(tokens, mine[0], ends, apart)
        if end == tokens[mine[0]][3] and not alone:
            continue  # a jacket that no noun follows stands in another clause
        whole = end == tokens[mine[0]][3] and dictionary.means(
            tokens[mine[0]][0], dictionary.widened({dictionary.stem(noun.text)})
        )
        if ends and end not in ends and not apart and not whole:  # 老妇人 is all of the old woman
            continue
        if end is not None and not any(p.start < end <= p.end for p in found.values() if p.token.i != word.i):
            return Pairing(noun, place.start if place is not None else tokens[mine[0]][2], end, sure=False)
    return None


def _rendering(word: Any, tokens: list[Token]) -> list[int]:
    """Where an adjective's or a noun's words stand, those first whose own entries say it."""
    stem = dictionary.stem(re.sub("(er|est)$", "", word.text) if word.tag_ in ("JJR", "JJS") else word.text)
    if word.lower_ in ORDINALS:
        return [at for at, token in enumerate(tokens) if token[0].startswith(ORDINALS[word.lower_])]
    said = [at for at, token in enumerate(tokens) if token[1][0] not in "upcmqx"]
    if word.lower_ in dictionary.LIGHT:
        return [at for at in said if stem in dictionary.every(tokens[at][0])]
    wanted = dictionary.widened({stem})
    mine = [at for at in said if dictionary.means(tokens[at][0], wanted)]
    mine = mine or [at for at in said if tokens[at][0][0] in "大小" and stem in dictionary.every(tokens[at][0][0])]  # 小鱼
    return [at for at in mine if dictionary.alike(stem, dictionary.entry(tokens[at][0]))] or mine


def _belonging(noun: Any) -> Iterator[tuple[Any, bool]]:
    """Words that belong to a noun, and whether one may be all that the Chinese has of it."""
    compared = noun.tag_ in ("JJR", "JJS")
    if compared:  # "the taller of the two"
        yield noun, True
    yield from ((child, True) for child in noun.lefts if child.dep_ in ("amod", "compound", "nmod") and child.is_alpha)
    yield from ((child, False) for child in noun.lefts if child.dep_ == "poss" and child.pos_ in NOUN)
    preps = [child for child in noun.rights if child.dep_ == "prep"]
    if noun.i + 1 < len(noun.doc) and noun.nbor().dep_ == "prep" and noun.nbor() not in preps:
        preps.append(noun.nbor())  # "punches the boxer in blue shorts", which the parser has in shorts
    ray = () if compared else ("of",)
    for wanted, alone in ((WITH, False), (ray, True)):  # "a ray of light" stands where the light does
        for prep in (prep for prep in preps if prep.lower_ in wanted):
            yield from ((thing, alone) for thing in prep.rights if thing.dep_ in ("pobj", "amod"))
        for child in noun.rights:
            if child.dep_ == "acl" and child.tag_ == "VBG" and "with" in wanted:  # "a knight holding a shield"
                yield from ((thing, alone) for thing in child.rights if thing.dep_ == "dobj")
    for prep in preps:  # "the cat on the wall", "the bottle on the left"
        if prep.lower_ != "of" and prep.lower_ not in WITH:
            yield from ((thing, False) for thing in prep.rights if thing.dep_ == "pobj")
    if noun.dep_ == "dobj" and noun.head.lemma_ == "have":  # "the man has grey hair"
        yield from ((child, False) for child in noun.head.lefts if child.dep_ == "nsubj" and child.pos_ in NOUN)


PAUSE = re.compile(r"\W")


def _phrase_end(tokens: list[Token], at: int, ends: set[int], apart: bool) -> int | None:
    """Where the noun phrase that holds a word ends: over 的, numerals, measures and adjectives to its last noun, or to one that is
    looked for."""
    end = None
    for word, flag, _, stop in tokens[at:]:
        if flag[0] == "n" or stop in ends or (apart and word == "的"):
            end = stop
            if stop in ends:
                break
        elif PAUSE.match(word) or not (word in ("的", "着") or flag[0] in "abfmqzx" or stop == tokens[at][3]):
            break
    return end
