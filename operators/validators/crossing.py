"""Swaps that no word order shows: what is said of one thing said of the other, an owner for what it owns, a comparison turned round.

As in `roles`, nouns are paired by the dictionary and what cannot be paired is not judged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from operators.phrasing import denial
from operators.validators import Finding, dictionary, pairing, syntax
from operators.validators.pairing import Pairing

PARTS = frozenset(("compound", "nmod", "amod", "npadvmod"))
DESCRIBES = frozenset(("amod", "compound", "nmod", "acl"))
QUALITIES = "大小老新旧高矮胖瘦长短黑白红木石铁"
PAUSE = "[，。；！？、,;]"
STOP = re.compile(PAUSE + "|和|与|而|以及")
DEGREES = (
    ("taller higher", "高", "矮低"),
    ("shorter", "矮短小低", "高长"),
    ("lower", "低矮", "高"),
    ("older", "老大旧", "小幼轻新"),
    ("younger newer", "轻小幼新", "老大旧"),
    ("bigger larger", "大", "小"),
    ("smaller", "小", "大"),
    ("longer", "长", "短"),
    ("thicker fatter", "厚粗胖", "薄细瘦"),
    ("thinner slimmer", "薄细瘦", "厚粗胖"),
    ("wider broader", "宽", "窄"),
    ("narrower", "窄", "宽"),
    ("heavier", "重沉", "轻"),
    ("lighter brighter", "轻浅淡亮", "重沉深暗"),
    ("darker", "深暗黑", "浅淡亮"),
    ("faster", "快", "慢"),
    ("slower", "慢", "快"),
    ("closer nearer", "近", "远"),
    ("farther further", "远", "近"),
    ("more", "多", "少"),
    ("fewer less", "少", "多"),
    ("deeper", "深", "浅"),
    ("shallower", "浅", "深"),
)
"""Comparatives, characters that say the same, and those that say the opposite: A is taller than B where B is shorter than A."""
TO = frozenset(
    re.findall(r"\w+", "on onto in into inside under behind over against above below upon to around round off from out of")
)
MOVED = re.compile("[把将](?:[^，。；把将]{0,6}的)?(?:[这那]?[一二两三四五六七八九十几][^，。；]|[他她它]的)?$")
"""Before a noun: it is what is moved."""
ENDS = frozenset(("to", "into", "onto", "toward", "towards"))
ARRIVES = re.compile("[到往向至进入上下回]")
FROM = re.compile("从[这那]?[一两三四五六七八九十几]?[^，。；在的]?$")
"""Before a noun: it is where something comes from."""
DENIES = re.compile("(?:没有?|不是|并非|而非|不再)([^，。；！？、]*)$")
"""Before a noun in its clause; over a 的 it may deny something else, or this as well."""
DOES = re.compile("们?[^，。；被由的]{1,6}的")
"""Between two nouns: the first does it to the second, 女孩正在抚摸的狗."""
LESS = re.compile("没有?|不如|不及")


def crossed(doc: Any, paired: dict[int, Pairing], chinese: str) -> Finding | None:
    """doc: one parsed English sentence; paired: its nouns with their places in the Chinese."""
    checks = (_descriptions, _owners, _bearers, _ends, _moved, _doers, _holders, _denied)
    return next((found for check in checks if (found := check(doc, paired, chinese))), None)


def turned_comparison(actor: Any, target: Any, paired: dict[int, Pairing], chinese: str) -> bool | None:
    """Whether "A is taller than B" says the contrary in the Chinese; None where the two are not compared there by a known word."""
    said = [token.lower_ for token in actor.doc[min(actor.left_edge.i, target.i) : target.i]]
    words, denied = set(said), {"not", "n't"} & set(said) and said[-3:].count("as")
    if denied:
        words = {word for english, *_ in DEGREES for word in english.split() if word.startswith(tuple(_bases(said)))}
    elif "than" not in words:
        return None
    first, second = sorted((paired[actor.i], paired[target.i]), key=lambda one: one.start)
    between = chinese[first.end : second.start]
    less = LESS.search(between)
    after = re.split("[，。；！？]", chinese[second.end :])[0]
    if "比" not in between and not less:
        if not re.search("比[^，。；]{0,3}$", chinese[: first.start]) or "的" not in between:
            return None
        first, after = second, between  # 比篱笆高的向日葵
    for english, same, opposite in DEGREES:
        if words & set(english.split()):
            told = [char for char in after if char in same + opposite]
            if not told:
                return None
            turns = (told[-1] in opposite) + bool(less) + bool(denied) + (first.token.i != actor.i)
            return turns % 2 == 1
    return None


def _bases(said: list[str]) -> Iterator[str]:
    """What the comparative of "as tall as" begins with."""
    yield from (word.rstrip("ye") for before, word in pairwise(said) if before in ("as", "so") and word.isalpha())


def _descriptions(doc: Any, paired: dict[int, Pairing], chinese: str) -> Finding | None:
    """Of two things each has in its own part of the Chinese what the English says only of the other."""
    # 洗碗 stands for the dishes and what is done to them
    nouns = (one for one in paired.values() if not is_part(one.token))
    things = sorted((one for one in nouns if not _does(chinese[one.start : one.end])), key=lambda one: one.start)
    doers = [one for one in things if _deed_of(one.token) is not None]  # whose verbs stand behind other things, too
    for said_of, some in ((_qualities, things), (_doings, doers)):
        known = [(one, set(said_of(one.token)), _own_part(i, some, chinese, some is doers)) for i, one in enumerate(some)]
        known = [(one, said, part) for one, said, part in known if said and part]
        for i, (a, of_a, part_a) in enumerate(known):
            for b, of_b, part_b in known[i + 1 :]:
                ways = _gone(of_a - of_b, part_a, part_b) + _gone(of_b - of_a, part_b, part_a)
                if ways == 2:
                    return "swapped", f"what is said of “{a.token.text}” and of “{b.token.text}”"
    return None


def is_part(noun: Any) -> bool:
    """Whether it only says what kind another noun is of; "basket" in "the bamboo basket hang" is a thing by what is said of it."""
    if noun.dep_ == "compound" and (noun.head.pos_ == "VERB" or any(child.dep_ == "compound" for child in noun.lefts)):
        return False
    return noun.dep_ in PARTS


def _does(word: str) -> bool:
    return len(word) > 1 and dictionary.is_deed(word)


def _gone(said: set[str], own: list[str], other: list[str]) -> bool:
    """Whether one of these stems is rendered in the other one's part and not in its own."""
    for stem in said:
        wide = dictionary.widened({stem})
        if any(says(word, stem) for word in own):
            continue
        freely = not any(dictionary.means(word, wide) for word in own) and any(says(w, one) for w in other for one in wide)
        if freely or any(says(word, stem) for word in other):
            return True
    return False


def says(word: str, stem: str) -> bool:
    """By its entry, or that of its first or last character: 年老 is "aged", and 老 old."""
    return any(dictionary.alike(stem, dictionary.every(part)) for part in {word, word[0], word[-1]})


def _qualities(noun: Any) -> Iterator[str]:
    """Stems of a noun's adjectives."""
    for child in noun.children:
        if child.dep_ in DESCRIBES and child.is_alpha and child.pos_ != "NUM" and len(child) > 2:
            yield dictionary.stem(child.text)
    if noun.dep_ == "nsubj":
        yield from (dictionary.stem(child.text) for child in noun.head.children if child.dep_ == "acomp")
    if noun.dep_ == "nsubjpass" and not any(child.dep_ == "agent" for child in noun.head.children):
        yield dictionary.stem(noun.head.text)  # "the door is closed"
    if noun.dep_ == "dobj" and any(c.i == noun.i + 1 and c.dep_ == "advcl" and c.tag_ == "VBG" for c in noun.head.rights):
        yield dictionary.stem(noun.nbor().text)  # "passes a man jogging"


def _doings(noun: Any) -> Iterator[str]:
    """The stem of what it does."""
    verb = _deed_of(noun)
    if verb is not None:
        yield from {dictionary.stem(verb.text), dictionary.stem(verb.lemma_)}


def _deed_of(noun: Any) -> Any:
    """The verb whose subject it is, or that is done "by" it; "the driver waits" may be read as one name."""
    verb = noun.head.head if noun.dep_ == "pobj" and noun.head.dep_ == "agent" else noun.head
    if noun.dep_ in ("nsubj", "nsubjpass") and any(c.dep_ == "agent" for c in verb.children):
        return None
    does = noun.dep_ in ("nsubj", "nsubjpass", "compound") or verb is not noun.head
    return verb if does and verb.pos_ == "VERB" else None


def _own_part(at: int, things: list[Pairing], chinese: str, doings: bool) -> list[str]:
    """Words that the Chinese says of a thing: before it, in its own phrase, and behind it up to the next thing's phrase."""
    one = things[at]
    first = things[at - 1].end if at else 0
    last = things[at + 1].start if at + 1 < len(things) else len(chinese)
    before = _clause(chinese[first : one.start], -1)
    after = re.split(PAUSE, chinese[one.end : last])[0] if doings else _clause(chinese[one.end : last], 0)
    own, _ = _phrase_of(before) if before[:1] != "的" else (_tagged(before), [])
    _, rest = _phrase_of(after) if last < len(chinese) and chinese[one.end : last] == after else ([], _tagged(after))
    if after[:1] == "的" and chinese[one.end : last] == after:
        rest = []  # 外壳的抛光石灰石: it is all said of what follows
    if doings:
        return [re.sub("(?<=.)着$", "", word) for word, flag in own + rest if flag[0] in "vz" or dictionary.is_deed(word)]
    inside = chinese[one.start : one.end]
    said = [re.sub("(?<=.)着$", "", word) for word, flag in own + rest if flag[0] in "nvailzdbt" and not word.endswith("色")]
    return said + [inside[:-1]] * (len(inside) > 1) + [inside[0]] * (len(inside) > 2 and inside[0] in QUALITIES)


def _clause(text: str, which: int) -> str:
    return STOP.split(text)[which]


def _tagged(text: str) -> list[tuple[str, str]]:
    return dictionary.tagged(text)


def _phrase_of(text: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The words right before a noun that belong to it (numerals, adjectives, nouns, a clause with 的), and those before them."""
    words = _tagged(text)
    at = len(words)
    while at and (words[at - 1][1][0] in "abmqnzrxu" or words[at - 1][0] == "的"):
        if words[at - 1][0] == "了" and "的" not in [word for word, _ in words[at:]]:
            break  # 盛满了米饭
        if words[at - 1][0] == "的" and at > 1 and words[at - 2][1][0] == "v":
            at -= 1
        at -= 1
    return words[at:], words[:at]


def _owners(doc: Any, paired: dict[int, Pairing], chinese: str) -> Finding | None:
    """ "The lid of the box" as 盖子的盒子, "the girl's dog" as 小狗的女孩."""
    for token in doc:
        if token.dep_ == "poss":
            owner, owned = token, token.head
        elif token.dep_ == "pobj" and token.head.lower_ == "of" and token.head.head.pos_ in syntax.NOUN:
            owner, owned = token, token.head.head
        else:
            continue
        if owner.i in paired and owned.i in paired:
            first, second = paired[owned.i], paired[owner.i]
            if second.start >= first.end and chinese[first.end : second.start] == "的":
                return "swapped", f"“{owner.text}” and “{owned.text}”, which belongs to it"
    return None


def _bearers(doc: Any, paired: dict[int, Pairing], chinese: str) -> Finding | None:
    """What somebody wears, holds or does stands in Chinese before who does: 穿校服的男孩 is no boy in a suit. What somebody owns stands
    behind: 男孩的鼻子 is no nose of a girl."""
    moved: dict[int, int] = {}  # bearer in the English → in the Chinese
    for bearer, borne, sure in _borne(doc):
        if bearer.i not in paired or borne.i not in paired:
            continue
        owns = (bearer.dep_ == "poss" and bearer.head == borne) or (bearer.head.lower_ == "of" and bearer.head.head == borne)
        other = _owner_of(paired[borne.i], paired, chinese) if owns else _bearer_of(paired[borne.i], paired, chinese)
        if other is None or other.token.i in (bearer.i, borne.i) or other.token in bearer.conjuncts:
            continue
        if (sure and not (owns and other.token.dep_ == "poss")) or moved.get(other.token.i) == bearer.i:
            return "swapped", f"“{borne.text}” of “{bearer.text}” said of “{other.token.text}”"
        moved[bearer.i] = other.token.i
    return None


def _borne(doc: Any) -> Iterator[tuple[Any, Any, bool]]:
    """(who, what they wear, hold, own or do something to, whether the tree can be trusted by itself)."""
    for token in doc:
        if token.dep_ in ("acl", "relcl") and token.tag_ in ("VBG", "VBZ", "VBP") and syntax.subject(token) == token.head:
            yield from ((token.head, child, token.dep_ == "relcl") for child in token.rights if child.dep_ == "dobj")
        if token.dep_ == "pobj" and token.head.dep_ == "prep" and token.head.lower_ != "of":
            yield from ((bearer, token, False) for bearer in _near(token.head))
        if token.dep_ == "poss" and token.pos_ in syntax.NOUN:
            yield token, token.head, True
        if (
            token.dep_ == "pobj"
            and token.head.lower_ == "of"
            and token.head.head.dep_ in ("pobj", "dobj", "nsubj", "nsubjpass")
        ):
            yield token, token.head.head, True  # "the sleeve of a jogger"


def _near(prep: Any) -> Iterator[Any]:
    """What a preposition may belong to: its noun, the noun whose doing it describes, or the noun before it."""
    head, before = prep.head, prep.doc[max(prep.i - 1, 0)]
    if head.pos_ in syntax.NOUN:
        yield head
    elif head.dep_ in ("acl", "relcl"):
        yield head.head
    elif before.pos_ in syntax.NOUN:
        yield before


def _owner_of(owned: Pairing, paired: dict[int, Pairing], chinese: str) -> Pairing | None:
    """The thing right before it and 的."""
    before = (one for one in paired.values() if one.end + 1 == owned.start and chinese[one.end] == "的")
    # 戴着围巾的狗 belongs to no scarf
    return next((one for one in before if owned.token not in one.token.ancestors), None) if owned.sure else None


def _bearer_of(borne: Pairing, paired: dict[int, Pairing], chinese: str) -> Pairing | None:
    """The thing before it and a verb with 着, or the one whose describing clause ends in it: after 的 and no more than adjectives."""
    last = max((one for one in paired.values() if one.end <= borne.start), key=lambda one: one.end, default=None)
    if last is not None and not is_part(last.token) and chinese[borne.end : borne.end + 1] != "的":
        flags = [flag[0] for _, flag in _tagged(chinese[last.end : borne.start])]
        does = flags[:2] == ["v", "u"] or (flags[:1] == ["v"] and chinese[borne.end : borne.end + 1] not in pairing.PLACES)
        if does and all(flag in "mqanu" for flag in flags[1:]):
            return last
    said = re.match("([^，。；的]{0,4})的", chinese[borne.end :])
    if not said or any(flag[0] not in "avdf" for _, flag in _tagged(said[1])):
        return None
    start = borne.end + said.end()
    after = [one for one in paired.values() if one.start > borne.end]
    first = min(after, key=lambda one: one.start, default=None)
    if first is None or first.token.dep_ in PARTS:
        return None
    between = chinese[start : first.start]
    return first if all(flag[0] in "abmqn" or word == "的" for word, flag in _tagged(between)) else None


def _ends(doc: Any, paired: dict[int, Pairing], chinese: str) -> Finding | None:
    """Where from and where to, what comes from where, and what is like what."""
    for one in paired.values():
        prep = one.token.head
        if one.token.dep_ != "pobj":
            continue
        if prep.lower_ in ("from", "of") and (prep.lower_ == "from" or prep.head.lower_ == "out"):
            verb = prep.head if prep.lower_ == "from" else prep.head.head
            moving = {c.i for c in (*verb.children, verb) if c.dep_ in ("nsubj", "dobj")} | {
                getattr(syntax.subject(verb), "i", -1)
            }
            for other in (doc[i] for i in sorted(moving) if i in paired):
                start = paired[other.i]
                if (
                    start.end <= one.start
                    and FROM.search(chinese[: start.start])
                    and not STOP.search(chinese[start.end : one.start])
                ):
                    return "swapped", f"“{other.text}” and “{one.token.text}”, from which it comes"
            end_prep = next((t for t in doc[one.token.i + 1 :] if t.lower_ in ENDS or t.lower_ == "from"), None)
            others = end_prep.children if end_prep is not None and end_prep.lower_ in ENDS else ()
            for other in others:
                if other.dep_ == "pobj" and other.i in paired:
                    end = paired[other.i]
                    between = chinese[end.end : one.start]
                    if end.end <= one.start and "从" in chinese[: end.start][-8:] and ARRIVES.search(between):
                        return "swapped", f"“{one.token.text}” and “{other.text}”, from and to"
        if prep.lower_ == "like" and prep.head.pos_ in ("VERB", "AUX"):
            subject = syntax.subject(prep.head)
            if subject is not None and subject.i in paired:
                first = paired[subject.i]
                between = chinese[one.end : first.start]
                if (
                    one.end <= first.start
                    and re.search("像|如同|仿佛", between)
                    and "一样" not in between
                    and "似的" not in between
                ):
                    return "swapped", f"“{subject.text}” and “{one.token.text}”, which it is like"
    return None


def _moved(doc: Any, paired: dict[int, Pairing], chinese: str) -> Finding | None:
    """ "Puts the cup on the book" as 把书放在杯子上: what stands behind 把 is what is moved."""
    for one in paired.values():
        if one.token.dep_ != "dobj":
            continue
        preps = [prep for head in (one.token, one.token.head) for prep in head.rights if prep.dep_ == "prep"]
        ends = [c for prep in preps if prep.lower_ in TO for c in prep.rights if c.dep_ == "pobj"]
        ends += [c for end in ends for c in end.lefts if c.dep_ == "poss"]
        for end in (end for end in ends if end.i in paired):
            other = paired[end.i]
            between = chinese[other.end : one.start]
            if (
                other.end <= one.start
                and MOVED.search(chinese[: other.start])
                and not STOP.search(between)
                and "的" not in between
            ):
                return "swapped", f"“{one.token.text}” and “{end.text}”, to which it is moved"
    return None


def _doers(doc: Any, paired: dict[int, Pairing], chinese: str) -> Finding | None:
    """ "The boy who chases the dog" as 追着男孩的狗: who does it stands behind the 的, what it is done to before."""
    for doer, done, words in _deeds(doc):
        if doer.i not in paired or done.i not in paired:
            continue
        first, second = paired[doer.i], paired[done.i]
        if not first.end < second.start or "的" not in chinese[first.end : second.start]:
            continue
        rest = re.sub("^的", "", chinese[first.end : second.start])
        if any(flag[0] in "vnp" for _, flag in _tagged(rest)) or STOP.search(rest):
            continue
        own, before = _phrase_of(_clause(chinese[: first.start], -1))
        verb = next((word for word, flag in reversed(before) if flag[0] in "va"), "")
        full = not words and any("满" in word for word, _ in (*own, *before[-1:]))
        if full or (verb and any(says(verb, stem) for stem in words)):
            return "swapped", f"“{doer.text}” and “{done.text}”, to which it is done"
    return None


def _holders(doc: Any, paired: dict[int, Pairing], chinese: str) -> Finding | None:
    """ "A rope held by the trainer", "that the trainer holds", as 海豚拿着的绳子: who does it stands right before the verb and 的."""
    for verb in doc:
        if verb.dep_ not in ("acl", "relcl"):
            continue
        own = next((c for c in verb.lefts if c.dep_ == "nsubj" and c.lower_ not in syntax.WHO), None)
        doer, done = syntax.passive(verb) or (own, verb.head)
        if doer is None or doer.i not in paired or done.i not in paired:
            continue
        if DOES.fullmatch(chinese, paired[done.i].end, paired[doer.i].start):
            said = _tagged(chinese[paired[done.i].end : paired[doer.i].start])
            if not any(flag[0] in "nrp" for word, flag in said if word != "在") and any(flag[0] == "v" for _, flag in said):
                return "swapped", f"“{doer.text}” and “{done.text}”, to which it is done"
        before = [one for one in paired.values() if one.end <= paired[done.i].start]
        last = max(before, key=lambda one: one.end, default=None)
        if last is None or last.end == paired[doer.i].end or last.token in doer.conjuncts:
            continue
        between = chinese[last.end : paired[done.i].start]
        words = _tagged(between)
        if "的" in between and not STOP.search(between) and words[0][1][0] == "v" and words[0][0] not in ("是", "有"):
            return "swapped", f"“{doer.text}” and “{last.token.text}”, of whom one does it to “{done.text}”"
    return None


def _denied(doc: Any, paired: dict[int, Pairing], chinese: str) -> Finding | None:
    """ "The spoon instead of the cup" as 没有拿勺子，而是拿起了杯子: the Chinese denies the one that is there and not the other."""
    things = {i: one for i, one in paired.items() if one.token.dep_ not in PARTS}
    absent = {i for i, one in things.items() if denial.denied(one.token)}
    if not absent or len(absent) == len(things):
        return None
    denials = {i: match[1] for i, one in things.items() if (match := DENIES.search(chinese[: one.start]))}
    wrong, right = {i for i, over in denials.items() if "的" not in over} - absent, absent - denials.keys()
    if wrong and right and not absent & denials.keys():
        a, b = (things[min(some)].token.text for some in (right, wrong))
        return "swapped", f"“{a}” and “{b}”, of which one is denied"
    return None


def _deeds(doc: Any) -> Iterator[tuple[Any, Any, list[str]]]:
    """(who, to whom, stems of what) of verbs that describe a noun, and what is full of something."""
    for token in doc:
        if token.dep_ in ("relcl", "acl") and token.tag_ != "VBN":
            doer = syntax.subject(token)
            for child in token.rights:
                said = [dictionary.stem(token.text), dictionary.stem(token.lemma_)]
                if doer is not None and child.dep_ == "dobj":
                    yield doer, child, said
                elif doer is not None and child.dep_ == "dative":  # "who sold it to the woman"
                    yield from ((doer, whom, said) for whom in child.rights if whom.dep_ == "pobj")
        if token.lower_ in ("full", "loaded", "packed", *syntax.FILLED):
            preps = (prep for prep in token.rights if prep.lower_ in ("of", "with"))
            yield from ((token.head, c, []) for prep in preps for c in prep.rights if c.dep_ == "pobj")
