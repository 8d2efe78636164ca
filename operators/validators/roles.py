"""Who does what to whom, and which thing has which attribute: swaps that leave every word of a translation in place.

Nouns of both texts are paired by the dictionary (`pairing`). What cannot be paired is not judged, so these checks are silent much more
often than they are wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from operators import lexicon
from operators.validators import Finding, crossing, dictionary, pairing, parted, sentences, syntax, translation
from operators.validators.pairing import Pairing, is_thing
from operators.validators.syntax import NOUN

SIDES = {
    "[头身顶]?上": r"on|above|over|atop|on top of|upon",
    "[脚底]?下": r"under|below|beneath|underneath",
    "[身背]?后": r"behind|at the back of",
    "[面身跟]?前": r"in front of|before",
    "左": r"(?:to|on) the left(?: side)? of|left of",
    "右": r"(?:to|on) the right(?: side)? of|right of",
    "[里内中]": r"in|inside|within",
}
FIRM = tuple(side for side in SIDES if side[-1] in "后前左右")
"""Sides that Chinese names only where English does; 桌上 and 院子里 may render any preposition."""
VOICE = re.compile("[被把由给让使将受]")
ATTRIBUTE = re.compile(r"[红橙橘黄绿青蓝紫粉棕褐黑白灰金银米咖啡深浅淡暗亮]{1,3}色的?|[大小高长短老新旧]的|白的|黑的|红的")
MUTUAL = frozenset(
    re.findall(r"\w+", "with near beside by among alongside along as like next opposite during without about through")
)
"""Prepositions whose two sides may change places, or name no second party."""
PLACE = re.compile(
    "(?!面[朝向对])的?[之身左右最靠正对两]?[上下左右前后里内中央旁边侧面间外尽附周四顶底脚处远时]|沿(?![着街路岸])|[的、和与及]"
)
"""After a noun: it is a place or a time, belongs to what follows, or is one of a list."""
AT = re.compile("的?[头身顶脚底背面跟]?[上下里内中后前]")
"""After a noun: something is there."""
CONVERSE = {"上": "下", "下": "上", "后": "前", "前": "后", "左": "右", "右": "左", "[里内中]": "外"}
"""By the last words of `SIDES`: what a landmark's side is seen from the thing that is there."""
SURELY = re.compile("的?(?:[下上][面方]|底下|脚下)")
"""After a noun: a side that no other preposition has."""
PARTS = frozenset(
    re.findall(r"\w+", "side middle center centre edge end top front back corner left right bottom foot distance rest sides")
)
"""Nouns that only say where."""
OWN = re.compile("(?:(?:[这那每另]|[这那每另]?[一两三四五六七八九十几])[" + translation.MEASURE + "]?)?$")
"""What counts a noun, right before it."""
RECEIVES = re.compile("(?:[受遭得]到|接受|受|获得)了?(?:[^，。；]{0,6}的)?" + OWN.pattern)
"""Before who does something: it is received from them (医生的检查)."""
LOCATIVE = frozenset(
    re.findall(r"\w+", "on above over atop under below beneath underneath behind before in inside within at across")
)
HARMED = re.compile("[被受][^，。；的]{1,2}的")
"""An adjective that is no passive: 被盗的, 受伤的."""
OTHERS = re.compile("[^，。从朝向往对给为把用跟比由在被遭着了]{1,3}的$")
"""An adjective right before a noun."""
DESCRIBED = re.compile("^[^，。从朝向往对给为把用跟和与比由在被遭]*$")
"""A clause that describes a noun, where the sentence begins with it: 戴着围巾的老师."""
EXISTS = re.compile(
    "有|是|[站坐躺卧趴蹲睡停放摆挂贴立竖种长铺堆住游漂浮围排散插落伸开等写画印刻]着|[布坐站堆挤摆爬长落挂贴写画]满"
)
"""A place, then 有 or a verb with 着: what is there comes last, the other way round than in English."""
EMITS = re.compile("[冒升腾流喷散飘吐滴射溢涌长伸传]")
"""What comes from a thing that the Chinese begins with."""
TOWARDS = frozenset(("to", "dative", "for"))
TIMES = frozenset(("twice", "half", "times"))
SEES = frozenset(("watch", "see", "hear", "film", "photograph", "observe", "notice", "find", "catch"))
"""Verbs whose object may do something: "watches a dog digging"."""
CAUSES = frozenset(("make", "let", "help", "ask", "tell", "order", "allow", "force", "teach"))
CAUSES_ZH = re.compile("[使让令]$")
"""Before who is made to do something."""
BECOMES = frozenset(("as", "into"))
BECOMES_ZH = re.compile("[成为作当]了?$")
"""Before what something becomes, or serves as."""
FRONTED = re.compile("[从朝向往沿以对给为把将用跟随比由在到着了过被是有和与及]$")
"""Before a noun: it is no topic but the object of a preposition or a verb."""


def swapped(english: str, chinese: str) -> Finding | None:
    """Two things that exchanged their colours or counts, their roles around a verb, or their sides of a preposition."""
    own, theirs = sentences.split(english), sentences.split(chinese)
    # A noun is the only one of its kind more often in a sentence than in a text.
    pairs = list(zip(own, theirs, strict=True)) if len(own) == len(theirs) else [(english, chinese)]
    for en, zh in pairs:
        doc = syntax.parsed(en)
        paired = pairing.pair(doc, zh)
        if len(paired) > 1:
            sure = {i: p for i, p in paired.items() if p.sure}
            finding = (
                _attributes(doc, {**sure, **_owned(paired)}, zh)
                or _roles(doc, sure, zh)
                or _sides(doc, paired, zh)
                or _order(doc, paired, zh)
            )
            finding = finding or crossing.crossed(doc, paired, zh) or parted.parted(doc, paired, zh)
            if finding:
                return finding
    return None


def _owned(paired: dict[int, Pairing]) -> dict[int, Pairing]:
    """Of several of one kind those that are told apart by whose they are: the mother's hat, the hair that the man has."""

    def is_owned(thing: Pairing) -> bool:
        has = thing.token.dep_ == "dobj" and thing.token.head.lemma_ == "have"
        had = (c for c in thing.token.head.lefts if has and c.dep_ == "nsubj" and c.i in paired)
        # 男人的头发 is told by the man
        return any(paired[c.i].start == thing.start for c in had) or any(
            c.dep_ == "poss" and c.i in paired for c in thing.token.lefts
        )

    return {i: one for i, one in paired.items() if is_owned(one)}


def _attributes(doc: Any, paired: dict[int, Pairing], chinese: str) -> Finding | None:
    """Two nouns of which each has in the Chinese what only the other has in the English."""
    for kind, of_english, of_chinese in (
        ("colours", _english_colours, _chinese_colours),
        ("counts", _english_counts, _chinese_counts),
    ):
        known = []
        for one in paired.values():
            mine = of_english(one.token)
            before, name = _before(chinese, one, paired), one.end - one.start
            # before the noun, behind it, or in it, though 青蛙 and 奶牛 are not what their first characters say
            there = of_chinese(before[:-name]) or of_chinese(_predicate(chinese, one)) or of_chinese(before)
            if len(mine) == 1 and there:
                known.append((one, next(iter(mine)), there))
        for i, (a, of_a, zh_a) in enumerate(known):
            for b, of_b, zh_b in known[i + 1 :]:
                if of_a != of_b and of_b in zh_a and of_a in zh_b and of_a not in zh_a and of_b not in zh_b:
                    return "swapped", f"{kind} of “{a.token.text}” and “{b.token.text}”"
    return None


def _english_colours(noun: Any) -> set[str]:
    """Colours said of this noun itself."""
    modifiers = [child for child in noun.lefts if child.dep_ in ("amod", "compound", "nmod")]
    if noun.dep_ == "nsubj" and noun.head.pos_ == "AUX":
        modifiers += [child for child in noun.head.rights if child.dep_ in ("acomp", "attr")]
    return {name for child in modifiers for name in translation.colours_of_english(child.text)}


def _chinese_colours(text: str) -> set[str]:
    _, _, pattern, names = translation.colour_table()
    matches = list(pattern.finditer(text))
    return set(names[matches[-1][1]]) if matches else set()


def _english_counts(noun: Any) -> set[float]:
    counts = {value for child in noun.lefts if child.dep_ == "nummod" for value in translation.english_numbers(child.text)}
    one = noun.tag_ == "NN" and any(child.lower_ in ("a", "an", "one") for child in noun.lefts)
    return counts or ({1.0} if one else set())


def _chinese_counts(text: str) -> set[float]:
    matches = list(re.finditer(rf"({translation.CHINESE_NUMBER.pattern})[{translation.MEASURE}]", text))
    return set(translation.chinese_number(matches[-1][1])) if matches else set()


def _before(chinese: str, noun: Pairing, paired: dict[int, Pairing]) -> str:
    """A noun with what stands before it in its own phrase: back to the last punctuation or the noun before it."""
    starts = [p.end for p in paired.values() if p.end <= noun.start]
    starts += [m.end() for m in re.finditer(r"[，。；、,;]|[和与及]|[上下里内中后前旁边侧面]", chinese[: noun.start])]
    return chinese[max(starts, default=0) : noun.end]


def _predicate(chinese: str, noun: Pairing) -> str:
    """What the Chinese says a noun is: 盘子是蓝色的."""
    match = re.match("(?:[都全也则][都是]?|是)([^，。；、]+)的(?=[，。；]|$)", chinese[noun.end :])
    return match[1] if match else ""


def _roles(doc: Any, paired: dict[int, Pairing], chinese: str) -> Finding | None:
    """Subject and object on the wrong sides of their verb, where no word such as 被 turns the sentence round."""
    if VOICE.search(chinese):
        return None
    for verb in doc:
        if verb.pos_ != "VERB":
            continue
        subject = next((paired[c.i] for c in verb.lefts if c.dep_ == "nsubj" and c.i in paired), None)
        target = next((paired[c.i] for c in verb.rights if c.dep_ in ("dobj", "obj") and c.i in paired), None)
        if subject is None or target is None or not target.end <= subject.start:
            continue
        # 布满 after a place (玻璃上) says what is there: the place comes first although it is the object.
        if PLACE.match(chinese, target.end):
            continue
        between = ATTRIBUTE.sub("", chinese[target.end : subject.start])
        said = any(dictionary.means(word, {dictionary.stem(verb.text)}) for word, _ in dictionary.tagged(between))
        if said and "的" not in between:
            return "swapped", f"“{subject.token.text}” and “{target.token.text}” around “{verb.text}”"
    return None


def _sides(doc: Any, paired: dict[int, Pairing], chinese: str) -> Finding | None:
    """The Chinese names a place at the thing that the English puts there, not at the landmark."""
    for side, words in SIDES.items():
        for match in re.finditer(rf"\b(?:{words})\s+(?=(?:an?|the|its|their|his|her|two|some|one)\b)", doc.text, re.IGNORECASE):
            prep = next((t for t in doc if t.idx == match.start()), None)
            landmark = next((c.root for c in doc.noun_chunks if c.start_char == match.end()), None)
            if landmark is None and prep is not None:  # a noun taken for an adjective ("the stable")
                landmark = next((c for c in prep.rights if c.dep_ == "pobj"), None)
            if prep is None or landmark is None or landmark.i not in paired or _goes_on(landmark):
                continue
            things = [t for t in _things_at(prep) if t.i in paired and t.i != landmark.i]
            whose = next((c for c in landmark.lefts if c.dep_ == "poss" and c.i in paired), landmark)  # the statue's head
            at, mark = re.compile(rf"的?{side}"), paired[whose.i]
            at_all = {
                word for chunk in re.findall(rf"\b(?:{words})\s+([^,.;]+)", doc.text, re.I) for word in chunk.lower().split()
            }
            for i, one in paired.items():  # it is at another thing, one with which the English has no such place
                sure = at.match(chinese, one.end) and (side in FIRM or SURELY.match(chinese, one.end))
                if sure and i not in (landmark.i, whose.i) and one.token.lower_ not in at_all:
                    things.append(one.token)
            for thing in (thing for thing in things if thing.lower_ not in pairing.WHERE):  # "left of" is no thing
                if _at_the_wrong_one(paired[thing.i], mark, side, chinese):
                    return "swapped", f"“{thing.text}” and “{landmark.text}” around “{match[0].strip()}”"
    return None


def _goes_on(landmark: Any) -> bool:
    """Whether the parser broke off a phrase before its noun: "glass" of a glass cross, which it took for a deed."""
    if landmark.i + 1 == len(landmark.doc) or not any(
        v.family in parted.SAID for v in lexicon.load("en").lookup(landmark.lower_)
    ):
        return False
    after = landmark.nbor()
    return not (after.is_punct or after.pos_ in ("ADP", "CCONJ", "AUX", "DET", "SCONJ", "PRON") or after.tag_ == "VBG")


def _at_the_wrong_one(thing: Pairing, mark: Pairing, side: str, chinese: str) -> bool:
    """Whether a landmark's side is said to be the thing's: 蛋糕上的盘子, 盘子在蛋糕上 for the cake on the plate."""
    between = chinese[thing.end : mark.start]
    described = re.match("的?[头身顶脚底背面跟左右]?[边侧]?([上下里内中后前左右])[面方边侧]?的([^，。；的]{0,4})$", between)
    if described and described[1] != CONVERSE[side.rpartition("?")[2]]:
        return all(flag[0] in "abmqn" for _, flag in dictionary.tagged(described[2]))
    there = re.match(rf"的?{side}", chinese[thing.end :])
    if not there or thing.end + there.end() == mark.start:  # 水手上火车
        return False
    return not (re.compile(rf"的?{side}") if side in FIRM else AT).match(chinese, mark.end)


def _things_at(prep: Any) -> Iterator[Any]:
    """What the English may put there, likeliest first; the parser takes some verbs for nouns."""
    head = prep.head
    if head.pos_ in NOUN:
        if head.dep_ == "ROOT" and not any(token.pos_ in ("VERB", "AUX") for token in head.doc):  # "a kite flies above …"
            yield from (child for child in head.lefts if child.dep_ == "compound")
        yield head
    else:
        subject = syntax.subject(head)
        if subject is not None:
            yield subject
        if head.dep_ == "acl":  # "a bird perched on a fence"
            yield head.head
        yield from (child for child in head.children if child.dep_ in ("nsubjpass", "attr", "dobj"))
        yield from (child for child in head.lefts if child.dep_ == "npadvmod")  # "that book, he put on the cart"
    root = next(token for token in head.sent if token.dep_ == "ROOT")
    yield from ([root] if root.pos_ in NOUN else [])


def _order(doc: Any, paired: dict[int, Pairing], chinese: str) -> Finding | None:
    """Who does something stands before whom it is done to, or than whom, to whom, behind whom: the Chinese begins with the other
    one, and nothing there (被, a place, 的) gives it another part; or it has 被 before the wrong one."""
    for verb in doc:
        if not _is_verb(verb):
            continue
        causer = paired.get(getattr(syntax.subject(verb), "i", -1)) if verb.lemma_ in CAUSES else None
        if causer is not None and _stands_behind(CAUSES_ZH, causer, chinese):
            return "swapped", f"“{causer.token.text}”, which is who has it done"
        for actor, target in _neighbours(verb):
            if actor.i in paired and target.i in paired and _neighbour_does(paired[target.i], paired[actor.i], verb, chinese):
                return "swapped", f"“{actor.text}” and “{target.text}”, beside whom it is"
        for actor, target, how in _relations(verb):
            first, second = paired.get(actor.i), paired.get(target.i)
            if first is None or second is None or target.text.lower() in PARTS:
                continue
            contrary = crossing.turned_comparison(actor, target, paired, chinese)
            if contrary is not None:
                if contrary:
                    return "swapped", f"“{actor.text}” and “{target.text}”, compared"
                continue
            between = chinese[second.end : first.start]
            if how in LOCATIVE and EXISTS.search(between) and "在" not in between:
                continue
            if how not in (*TOWARDS, "object", "by", "than") and chinese[second.end : second.end + 1] == "，":
                continue  # 日落时分，
            if (how in TOWARDS and "从" in between) or (how == "from" and EMITS.search(between)):
                continue  # who is given something gets it from who gives it; 烟囱冒着烟
            # What is done by somebody comes first in either language: 小岛通过石堤与陆地相连.
            turned = how != "by" and second.end <= first.start and _begins(second, first, chinese, verb.lemma_ in CAUSES)
            turned = turned or (how in BECOMES and second.end <= first.start and _stands_behind(BECOMES_ZH, first, chinese))
            turned = turned or (how in ("object", "by") and _done(first, second, verb, chinese))
            turned = turned or (how == "by" and (_does(second, first, verb, chinese) or _done_by(second, verb, chinese)))
            if turned:
                return "swapped", f"“{actor.text}” and “{target.text}” around “{verb.text}”"
    return None


BESIDE = frozenset(("beside", "near", "by", "alongside", "next", "opposite", "around"))
SIDE = re.compile("们?的?(?:身[旁边]|旁边?|附近|对面|周围|边上?)")


def _neighbours(verb: Any) -> Iterator[tuple[Any, Any]]:
    """(who does something, beside whom), where the side may change but not who does it."""
    actor = syntax.subject(verb)
    if actor is not None and verb.pos_ == "VERB":
        for child in (verb, *(c for c in verb.rights if c.dep_ == "dobj")):
            preps = (c for c in child.rights if c.lower_ in BESIDE)
            yield from ((actor, target) for prep in preps for target in _after(prep))


def _stands_behind(words: re.Pattern[str], thing: Pairing, chinese: str) -> bool:
    """Whether these words stand right before a thing and what counts it."""
    return words.search(re.sub(OWN, "", chinese[: thing.start])) is not None


def _neighbour_does(other: Pairing, actor: Pairing, verb: Any, chinese: str) -> bool:
    """Whether it is the other one who does it: 画像在蜡烛旁燃烧 for a candle that burns beside a portrait."""
    side = SIDE.match(chinese, actor.end)
    if not side or not re.match("们?正?在[^，。；]*$", chinese[other.end : actor.start]):
        return False
    rest = re.split("[，。；！？]", chinese[side.end() :])[0]
    stems = {dictionary.stem(verb.text), dictionary.stem(verb.lemma_)}
    return not EXISTS.match(rest) and any(crossing.says(word, stem) for word, _ in dictionary.tagged(rest) for stem in stems)


def _is_verb(token: Any) -> bool:
    """Also one that is tagged as anything ("thanks"), or as the second half of a name (“Anna waves”)."""
    if token.pos_ in ("VERB", "AUX"):
        return True
    if token.dep_ == "ROOT" and token.tag_ == "NNS" and not any(other.pos_ in ("VERB", "AUX") for other in token.doc):
        return any(child.dep_ == "compound" and child.pos_ == "PROPN" for child in token.lefts)
    return {"nsubj", "dobj"} <= {child.dep_ for child in token.children}


def _relations(verb: Any) -> Iterator[tuple[Any, Any, str]]:
    """(who acts, on whom or towards whom, "object", "by" of passives, or which preposition)."""
    turned = syntax.passive(verb)
    if turned is not None:
        yield *turned, "by"
    actor = syntax.subject(verb)
    if actor is not None:
        yield from ((actor, target, "than") for target in _compared(verb))
        for target, how in _targets(verb):
            yield actor, _whole(target), how
            yield from ((actor, child, how) for child in target.children if child.dep_ == "poss" and is_thing(child))


def _compared(verb: Any) -> Iterator[Any]:
    """What stands after "than" below a noun, or after "not as tall as", "twice as tall as"."""
    for child in verb.rights:
        unlike = any(c.dep_ == "neg" for c in verb.children) or any(c.lower_ in TIMES for c in child.lefts)
        preps = [c for c in child.rights if c.lower_ == "than" or (child.dep_ == "acomp" and unlike and c.lower_ == "as")]
        if child.dep_ in ("acomp", "attr", "dobj", "advmod"):
            yield from (c for prep in preps for c in prep.rights if c.dep_ == "pobj")


def _whole(part: Any) -> Any:
    """Whose side, top or back it is, where that is said: on the elephant's back, at the foot of the tree."""
    if part.text.lower() not in PARTS:
        return part
    owners = (c for child in part.children if child.lower_ == "of" for c in child.children if c.dep_ == "pobj")
    return next((child for child in part.children if child.dep_ == "poss" and is_thing(child)), next(owners, part))


def _targets(verb: Any) -> Iterator[tuple[Any, str]]:
    """Objects, and what stands after the verb's prepositions or after "than"."""
    whom = next((child for child in verb.children if child.dep_ == "dobj" and child.text.lower() in syntax.WHO), None)
    if whom is not None and verb.dep_ == "relcl":
        yield verb.head, "object"  # "the cat that the boy is stroking"
    for child in verb.rights:
        stands_in = child.tag_ == "PRP" or child.lower_ in pairing.OTHERS
        if child.dep_ in ("dobj", "obj", "dative") and (is_thing(child) or stands_in):
            yield child, "dative" if child.dep_ == "dative" else "object"
        if child.dep_ == "npadvmod" and any(c.dep_ == "det" for c in child.lefts):
            yield child, "object"  # "climbs the mast", as the parser reads it
        if child.dep_ in ("dobj", "ccomp"):
            if child.pos_ in NOUN or verb.lemma_ in CAUSES:  # "shows his grandfather a drawing", "makes the children laugh"
                yield from ((c, "dative") for c in child.lefts if c.dep_ == "nsubj" and is_thing(c))
            preps = (c for c in child.rights if c.dep_ == "prep" and c.lower_ in ("to", "from", "for", "of", "past", "into"))
            yield from ((c, prep.lower_) for prep in preps for c in prep.rights if c.dep_ == "pobj")
        if child.dep_ in ("ccomp", "advcl") and child.tag_ == "VBG" and verb.lemma_ in SEES:
            yield from ((c, "object") for c in child.lefts if c.dep_ == "nsubj" and is_thing(c))
        elif child.dep_ == "advcl" and any(c.dep_ == "mark" and c.lower_ == "for" for c in child.lefts):
            yield from ((c, "for") for c in child.lefts if c.dep_ == "nsubj")  # "waits for the tram to pass"
        elif child.dep_ == "prep" and child.lower_ == "as":  # "serves as", and not "as tall as"
            yield from ((c, "as") for c in child.rights if c.dep_ == "pobj")
        elif child.dep_ in ("prep", "dative", "acomp", "advmod", "prt") and child.text.lower() not in MUTUAL:
            for target in _after(child):
                yield target, child.text.lower()


def _after(word: Any, depth: int = 3) -> Iterator[Any]:
    for child in word.rights:
        if child.dep_ == "pobj":
            yield child
        if depth and child.dep_ in ("prep", "pobj") and child.text.lower() not in MUTUAL:
            yield from _after(child, depth - 1)


def _begins(thing: Pairing, other: Pairing, chinese: str, causes: bool = False) -> bool:
    """Whether a thing opens its Chinese clause as what the clause is about, with the other one behind its verb."""
    between = HARMED.sub("", chinese[thing.end : other.start])
    named_place = chinese[thing.end - 1] in "上下里中内外前后旁边侧口处角顶底"
    if (
        named_place
        or re.search("[。！？；被由受遭]" if causes else "[。！？；被由受遭让]", between)
        or PLACE.match(chinese, thing.end)
    ):
        return False
    before = re.split("[。！？；，,：:]", chinese[: thing.start])[-1]
    if "以" in before and between.startswith("为"):
        return False  # 以淡蓝色背景为衬托
    by_what_belongs = not thing.sure and "的" in chinese[thing.start : thing.end]  # 戴帽子的男孩, from 帽子 on
    if (by_what_belongs or before.endswith("的")) and sum(flag[0] == "v" for _, flag in dictionary.tagged(before)) == 1:
        before = DESCRIBED.sub("", before)
    if FRONTED.search(re.sub(OWN, "", re.sub(OTHERS, "", before))):
        return False
    bare = ATTRIBUTE.sub("", between)
    return bool(re.search("[对向朝比给跟把着]|正在|.在$", bare)) or any(flag[0] in "vp" for _, flag in dictionary.tagged(bare))


def _does(other: Pairing, actor: Pairing, verb: Any, chinese: str) -> bool:
    """Whether the Chinese has somebody do what is done to them in the English: 幼儿在喂奶奶 for "is fed by the grandmother"."""
    between = chinese[other.end : actor.start]
    if other.end > actor.start or VOICE.search(chinese) or not _begins(other, actor, chinese):
        return False
    stems = {dictionary.stem(verb.text), dictionary.stem(verb.lemma_)}
    animate = "animate" in lexicon.load("en").classes(actor.token.lemma_.lower())
    if animate and "所" not in chinese and re.fullmatch("们?正?在?[为替]", re.sub(OWN, "", between)):
        return True  # 士兵正在为护士包扎
    said = any(crossing.says(word, s) for word, _ in dictionary.tagged(ATTRIBUTE.sub("", between)) for s in stems)
    return animate and said


def _done_by(patient: Pairing, verb: Any, chinese: str) -> bool:
    """Whether the Chinese has 由, 被 or 让 and the verb around whom it is done to: 女儿坐在轮椅上，由老人推着."""
    rest = re.split("[，。；！？的]", chinese[patient.end :])[0]
    stems = {dictionary.stem(verb.text), dictionary.stem(verb.lemma_)}
    said = any(crossing.says(word, stem) for word, _ in dictionary.tagged(rest) for stem in stems)
    return said and re.sub(OWN, "", chinese[: patient.start]).endswith(("由", "被", "让", "遭"))


def _done(actor: Pairing, target: Pairing, verb: Any, chinese: str) -> bool:
    """Whether the Chinese has the actor suffer what the target does: 被 before the wrong one, or the wrong one "followed by"."""
    if target.end <= actor.start:  # "the cat that is chased by the mouse": 被老鼠追赶的猫
        between = ATTRIBUTE.sub("", chinese[target.end : actor.start])
        before = re.sub(OWN, "", chinese[: target.start])
        said = any(flag[0] == "v" for _, flag in dictionary.tagged(between))
        return before.endswith(("被", "遭")) and said and "的" in between and not re.search("[，。！？；]", between)
    between = chinese[actor.end : target.start]
    if re.search("[，。！？；]", between):
        return False
    if dictionary.stem(verb.text) == dictionary.stem("follow"):
        return re.match("的?[身]?后[面方边]?[^跟]{0,3}跟", between) is not None
    if verb.lower_ in syntax.FILLED and re.match("[里中内上]", between) and "满" in between:
        return True  # what fills it as what is filled: 郁金香里插满了花瓶
    if PLACE.match(chinese, actor.end):
        return False
    if RECEIVES.search(between) and re.match("们?的", chinese[target.end :]):
        return True
    at = max(between.rfind("被"), between.rfind("遭"), between.rfind("由"))
    # 由一名举着旗子的游客: what describes the other one says nothing of the actor
    words = dictionary.tagged(ATTRIBUTE.sub("", between[at + 1 :]))
    if words and words[-1][0] == "的" and words[0][1][0] in "mv":
        words = []
    return at >= 0 and not any(flag[0] == "v" for _, flag in words)
