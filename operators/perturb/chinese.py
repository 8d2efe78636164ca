"""Find and replace attributes in Chinese expressions.

jieba gives words and parts of speech; the lexicon decides what is an attribute. A match must begin and end where words do
(黑板 is not a black 板), except in compounds such as 木桌 and 红裙子 whose second half is listed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from operators import lexicon
from operators.lexicon import Value
from operators.perturb import denied
from operators.perturb.phrase import Edit, Option, Phrase, Slot, bare_slot, contradicting

QUOTED = re.compile(r"“[^”]*”|\"[^\"]*\"|‘[^’]*’|「[^」]*」|『[^』]*』|《[^》]*》")
NUMERALS = "一二两三四五六七八九十"
MADE_BEFORE = re.compile(r"(?:由|用|以)[^，。、]{0,4}$")
MADE_AFTER = re.compile(r"(?:制成|做成|制作|打造|编织|材质|材料|和|与|、)")
PLACES = "上下里中内外前后旁边"
HUES = "红橙黄绿青蓝紫粉黑白灰棕金银"
PAIRED = re.compile(f"([{HUES}])([{HUES}])(?=相间|双色|两色|条纹|格|(?<=[黑棕红蓝绿橙紫]白)色)")  # but 紫红色 is one
TWO_COLOURS = re.compile(f"[{HUES}]色?[与和、]?[{HUES}]色?的?$")


@lru_cache
def tagger() -> Any:
    """jieba's part-of-speech tagger with a dictionary of its own, so that no other user of jieba sees our words."""
    import jieba
    import jieba.posseg

    jieba.setLogLevel(logging.WARNING)
    words = jieba.Tokenizer()
    lex = lexicon.load("zh")
    words.initialize()
    for phrase in lex.phrases():
        words.add_word(phrase)
    colours, surfaces = (
        tuple(word for name in names for value in lex.families[name].values.values() for word in value.words if len(word) > 1)
        for names in (("colour",), ("material", "pattern"))
    )
    for word in [word for word in words.FREQ if word.startswith(colours)]:
        rest = next((word.removeprefix(colour) for colour in colours if word.startswith(colour)), "")
        if rest and any(surface.startswith(rest) for surface in surfaces):
            words.del_word(word)  # 黑色金属 is a cup's colour and what it is made of
    return jieba.posseg.POSTokenizer(words)


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


def ends_in_noun(text: str) -> bool:
    """Whether a text is one word that names a thing."""
    tokens = _Tokens(text.rstrip("。"))
    return len(tokens.words) == 1 and tokens.flags[0].startswith("n")


@lru_cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    lex = lexicon.load("zh")
    words = sorted((word for word in lex.words() if not re.fullmatch(rf"[{NUMERALS}\d]+", word)), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, words))), re.compile(
        "|".join(map(re.escape, sorted(lex.phrases(), key=len, reverse=True)))
    )


@lru_cache
def _counted() -> re.Pattern[str]:
    measures = lexicon.load("zh").families["count"].extra
    usable = [measure for measure in measures["measures"] if measure not in measures["pair_measures"]]
    return re.compile(rf"(?<![第每这那几数{NUMERALS}\d.])([{NUMERALS}]+|\d+)(?:{'|'.join(usable)})(?![{PLACES}])")


class _Tokens:
    def __init__(self, text: str) -> None:
        self.text = text
        self.words: list[str] = []
        self.flags: list[str] = []
        self.start: list[int] = []
        at = 0
        for pair in tagger().cut(text):
            for word, flag in _parts(pair.word, pair.flag):
                # a kind of thing that jieba takes for a measure or an adjective: 小碗, 金色短发
                named = flag[0] in "bqj" and word in _things() and not (self.flags and self.flags[-1][0] == "m")
                self.words.append(word)
                self.flags.append("n" if named else flag)
                self.start.append(at)
                at += len(word)
        self.starts = {start: i for i, start in enumerate(self.start)}
        self.bounds = set(self.start) | {at}

    def holding(self, position: int) -> int:
        """Index of the token that covers a character."""
        return next(i for i in reversed(range(len(self.start))) if self.start[i] <= position)

    def noun_after(self, end: int) -> str:
        """The noun that words ending at `end` describe: the end of the first run of nouns."""
        noun = ""
        for i, start in enumerate(self.start):
            if start < end:
                continue
            describes = self.flags[i][0] in "li" and self.words[i + 1 : i + 2] == ["的"]  # 黑白相间的猫
            if (
                self.flags[i].startswith(("n", "l", "i", "eng"))
                and not describes
                and self.words[i] not in ("颜色", "材质", "材料", "图案", "花纹")
                and not _is_attribute(self.words[i])
            ):
                noun = _bare(self.words[i])
            elif (
                noun or (self.flags[i].startswith(("v", "p")) and not _is_attribute(self.words[i])) or self.words[i] in "，。；"
            ):
                break
        return noun

    def noun_counted(self, end: int) -> str:
        """The noun that a number and its measure are of; a clause may come between: 两个穿蓝色衬衫的男孩."""
        first = next((i for i, start in enumerate(self.start) if start >= end and self.flags[i][0] in "nvplit"), None)
        if first is None or self.flags[first][0] not in "vpt" or _is_attribute(self.words[first]):
            return self.noun_after(end)
        return self.noun_of_clause(first)

    def noun_of_clause(self, first: int) -> str:
        """The noun that a clause which begins with a word describes; none where it describes none."""
        for i in range(first, len(self.words) - 1):
            if self.words[i] in "，。；":
                break
            if self.words[i] == "的":
                noun = self.noun_after(self.start[i + 1])
                if noun and not self.text[self.text.index(noun, self.start[i]) + len(noun) :].startswith("的"):
                    return noun
        return ""

    def doer(self, start: int) -> str:
        """Who does what begins at `start`: the noun before, unless that is a place (田野里奔跑的马), or the one described."""
        i = self.holding(start)
        for at in reversed(range(i)):
            place = self.flags[at + 1][0] == "f" or self.words[at - 1 : at] == ["在"]
            if self.flags[at].startswith(("n", "eng")) and not _is_attribute(self.words[at]) and not place:
                return _bare(self.words[at])
        return self.noun_of_clause(i) or self.noun_before(len(self.text))

    def subject(self, i: int) -> str:
        """The noun right before a word: it is the door that is open in 车门打开的汽车."""
        if i and self.flags[i].startswith("v") and self.flags[i - 1].startswith("n") and not _is_attribute(self.words[i - 1]):
            return _bare(self.words[i - 1])
        return ""

    def noun_before(self, start: int) -> str:
        for i in reversed(range(len(self.words))):
            if self.start[i] < start and self.flags[i].startswith(("n", "eng")) and not _is_attribute(self.words[i]):
                return _bare(self.words[i])
        return ""


def _parts(word: str, flag: str) -> list[tuple[str, str]]:
    """What jieba joins and the rules look at one by one: 坐在 is an action and what leads to its place, 高高的 a size and 的,
    戴帽子 no name, 人站 no thing."""
    if len(word) == 2 and word[1] == "在" and flag[0] == "v":
        return [(word[0], flag), ("在", "p")]
    if len(word) > 2 and word[-1] == "的" and lexicon.load("zh").lookup(word[:-1]):
        return [(word[:-1], "z"), ("的", "uj")]
    if word in ("穿", "戴"):
        return [(word, "v")]
    if len(word) == 2 and word[0] == "人" and any(value.family == "action" for value in lexicon.load("zh").lookup(word[1])):
        return [("人", "n"), (word[1], "v")]
    if len(word) > 2 and word[0] in "穿戴" and (word[1:] in _things() or lexicon.load("zh").lookup(word[1:])):
        return [(word[0], "v"), (word[1:], "n")]
    if word.endswith("相间"):
        return [(part, "z") for part in (word[:-2], "相间") if part]
    return [(word, flag)]


@lru_cache
def _things() -> frozenset[str]:
    return frozenset(noun for members in lexicon.load("zh").nouns["classes"].values() for noun in members)


@lru_cache
def _bare(noun: str) -> str:
    """A thing without its size: 小圆环 is a 圆环, but 小狗 is a word of its own."""
    return noun[1:] if noun[0] in "大小" and noun[1:] in _sized() else noun


@lru_cache
def _sized() -> list[str]:
    """Things that a size of one character may be joined with."""
    nouns = lexicon.load("zh").nouns["classes"]
    return [noun for kind in ("shape", "ware", "furniture", "structure", "cloth", "vehicle") for noun in nouns[kind]]


def _is_attribute(word: str) -> bool:
    return any(value.family in ("colour", "material", "pattern") for value in lexicon.load("zh").lookup(word))


def _phrase(text: str, wanted: frozenset[str]) -> Phrase:
    attributes, traps = _patterns()
    tokens = _Tokens(text)
    protected = [match.span() for match in QUOTED.finditer(text)]
    protected += [match.span() for match in traps.finditer(text) if tokens.bounds.issuperset(match.span())]
    slots: list[Slot] = []
    for match in PAIRED.finditer(text):  # a quotation holds it back, but not the 黑白 of a 黑白照片
        if match.start() in tokens.bounds and not any(a < match.end() and match.start() < b for a, b in protected if b - a > 2):
            slots += [_hue(tokens, match.start(i), match.end()) for i in (1, 2)]
            protected.append(match.span())
    for match in attributes.finditer(text):
        if any(a < match.end() and match.start() < b for a, b in protected):
            continue
        for value in lexicon.load("zh").lookup(match.group()):
            slot = _slot(tokens, value, match.start(), match.end())
            if slot is not None:
                slots.append(slot)
                break
    for match in _counted().finditer(text):
        slot = _count(tokens, match)
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


def _head(tokens: _Tokens, slots: Sequence[Slot]) -> str:
    """Chinese heads come last, except when the phrase goes on with what the thing does."""
    first_action = next((slot for slot in slots if slot.family == "action"), None)
    if first_action:
        before = tokens.noun_before(first_action.start)
        if before:
            return before
    return tokens.noun_before(len(tokens.text))


def _slot(tokens: _Tokens, value: Value, start: int, end: int) -> Slot | None:
    text = tokens.text
    word, after, before = text[start:end], text[end:], text[:start]
    aligned = start in tokens.bounds and end in tokens.bounds
    family = value.family
    noun = tokens.noun_after(end) or tokens.noun_before(start)
    if family == "material" and _telling().search(before):
        return None
    if len(word) == 1 and (family in ("colour", "material") or (family == "size" and not aligned)):
        return _compound(tokens, value, start, end)
    if not aligned and family == "material" and start in tokens.bounds:  # 玻璃杯 is one word
        return _compound(tokens, value, start, end)
    if not aligned and not (family == "colour" and word.endswith("色")):
        return None
    if family == "colour":
        if re.search(rf"[相调染肤{HUES}]$", before) or after.startswith(("系", "素", "调")):
            return None
        return Slot("colour", start, end, value, "word", noun)
    if family == "material":
        if MADE_BEFORE.search(before) and MADE_AFTER.match(after):
            return Slot(
                "material", start, end, value, "made", tokens.noun_before(start) if after.endswith(("成", "成。")) else noun
            )
        describes = after.startswith("的") or (_noun_follows(tokens, end) and not after.startswith(tuple(PLACES)))
        return Slot("material", start, end, value, "word", noun) if describes else None
    if family == "pattern":
        describes = after.startswith("的") or _noun_follows(tokens, end) or bool(re.search(r"(?:带有|印有|有)$", before))
        return Slot("pattern", start, end, value, "word", noun, follows=bool(TWO_COLOURS.search(before))) if describes else None
    if family in ("size", "state"):
        return _adjective(tokens, value, start, end, noun)
    if family == "relation":
        landmark = tokens.noun_before(start)
        if not landmark or not before.removesuffix("的").endswith(landmark) or not value.use:
            return None  # 左侧有一只猫: of what it does not say
        return Slot("relation", start, end, value, word, tokens.noun_before(len(text)), other=landmark)
    if family == "action" and value.use:
        return _action(tokens, value, start, end)
    return None


def _noun_follows(tokens: _Tokens, end: int) -> bool:
    """Whether a noun comes next, or one adjective and its noun: 条纹小爱心."""
    following = tokens.starts.get(end)
    flags = tokens.flags[following : following + 2] if following is not None else []
    return bool(flags) and (flags[0].startswith("n") or (flags[0] == "a" and flags[-1].startswith("n")))


def _hue(tokens: _Tokens, at: int, end: int) -> Slot:
    """One of two colours that are written as one word."""
    value = next(value for value in lexicon.load("zh").lookup(tokens.text[at]) if value.family == "colour")
    return Slot("colour", at, at + 1, value, "char", tokens.noun_after(end))


@lru_cache
def _telling() -> re.Pattern[str]:
    """What goes with one material only, before it: 生锈的铁门."""
    return re.compile(rf"(?:{'|'.join(lexicon.load('zh').traps['of_stuff'])})的?[^，。的]{{0,4}}$")


def _compound(tokens: _Tokens, value: Value, start: int, end: int) -> Slot | None:
    """红裙子, 木桌, 小盒子: one character and a listed second half that ends a word."""
    lex = lexicon.load("zh")
    heads = lex.traps["heads_after_char"] if value.family == "colour" else lex.traps["compound_heads"]
    if value.family == "size":
        heads = _sized()
    after = tokens.text[end:]
    if start not in tokens.bounds:
        return None
    head = next(
        (head for head in sorted(heads, key=len, reverse=True) if after.startswith(head) and end + len(head) in tokens.bounds),
        None,
    )
    if head is None and value.family == "colour" and value.char not in ("金", "银"):
        head = _described(tokens, start, end)  # 黄塑料桶; a gold ring is not gold in colour alone
    if head is None or (re.search(r"[深浅淡暗亮大小]$", tokens.text[:start]) and value.family == "colour"):
        return None
    return Slot(value.family, start, end, value, "char" if end - start == 1 else "word", head)


def _described(tokens: _Tokens, start: int, end: int) -> str | None:
    """The noun of two or more characters after a colour that is a word of its own."""
    following = tokens.starts.get(end)
    alone = tokens.words[tokens.starts[start]] == tokens.text[start:end]
    if not alone or following is None or not tokens.flags[following].startswith("n"):
        return None
    word = tokens.words[following]
    mixed = any(value.family == "colour" for value in lexicon.load("zh").lookup(word))  # 紫红色 is one colour
    return tokens.noun_after(end) or None if len(word) > 1 and not mixed else None


def _adjective(tokens: _Tokens, value: Value, start: int, end: int, noun: str) -> Slot | None:
    text, after = tokens.text, tokens.text[end:]
    following = tokens.starts.get(end)
    lex = lexicon.load("zh")
    if value.family == "state" and start in tokens.starts:
        noun = tokens.subject(tokens.starts[start]) or noun
    if value.fits and not lex.fits(value, noun):
        return None
    if value.axis == "head" and text[:start].endswith(("色", "色的")):
        return None  # 金色长发: no other hair goes with the colour
    if after.startswith("的"):
        form = text[start:end]
        return Slot(value.family, start, end, value, form if len(form) > 1 else "word", noun)
    if following is None or not tokens.flags[following].startswith("n"):
        return None
    if end - start == 1:
        alone = tokens.starts.get(start) is not None and tokens.flags[tokens.starts[start]] in ("a", "ad", "an", "n")
        return Slot(value.family, start, end, value, "char", noun) if alone and value.char else None
    return (
        Slot(value.family, start, end, value, text[start:end], noun)
        if text[end - 1] in "型形" or value.axis in ("overall", "head", "years", "transparent")
        else None
    )


def _action(tokens: _Tokens, value: Value, start: int, end: int) -> Slot | None:
    text = tokens.text
    after, before = text[end:], text[:start]
    noun = tokens.doer(start)
    if not noun:
        return None
    if end - start == 1:
        if value.object and not after.startswith("着"):
            return None
        if not after.startswith(("着", "在")):
            return None
        other = tokens.noun_after(end) if value.object else ""
        return Slot("action", start, end, value, "char", noun, follows=after.startswith("在"), other=other)
    if value.axis != "motion" or not re.search(r"(?:正在|在[^，。]{0,6})$", before):
        return None
    return Slot("action", start, end, value, "word", noun)


def _count(tokens: _Tokens, match: re.Match[str]) -> Slot | None:
    word = match.group(1)
    values = [value for value in lexicon.load("zh").lookup(word) if value.family == "count"]
    noun = tokens.noun_counted(match.end())
    if not values or not noun or word == "二" or values[0].number == 1:
        return None
    return Slot("count", match.start(1), match.end(1), values[0], "digits" if word.isdigit() else "word", noun)
