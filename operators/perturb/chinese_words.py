"""The words of a Chinese expression: what jieba's tagger says of them, mended, and which noun a word describes."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

from operators import lexicon

QUOTED = re.compile(r"“[^”]*”|\"[^\"]*\"|‘[^’]*’|「[^」]*」|『[^』]*』|《[^》]*》")
NUMERALS = "一二两三四五六七八九十"
PLACES = "上下里中内外前后旁边"


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
    for name in ("material", "pattern"):
        for word in {word for value in lex.families[name].values.values() for word in value.words} - words.FREQ.keys():
            if len(word) > 1:
                words.add_word(word, tag="b")  # 砖砌
    colours, surfaces = (
        tuple(word for name in names for value in lex.families[name].values.values() for word in value.words if len(word) > 1)
        for names in (("colour",), ("material", "pattern"))
    )
    for word in [word for word in words.FREQ if word.startswith(colours)]:
        rest = next((word.removeprefix(colour) for colour in colours if word.startswith(colour)), "")
        if rest and any(surface.startswith(rest) for surface in surfaces):
            words.del_word(word)  # 黑色金属 is a cup's colour and what it is made of
    return jieba.posseg.POSTokenizer(words)


def ends_in_noun(text: str) -> bool:
    """Whether a text is one word that names a thing."""
    tokens = Tokens(text.rstrip("。"))
    return len(tokens.words) == 1 and tokens.flags[0].startswith("n")


def pattern_of(word: str) -> str:
    """Where a word of the lexicon stands in a text; a place of one character only before its 的, as in 桌子上的杯子."""
    place = len(word) == 1 and any(value.family == "relation" for value in lexicon.load("zh").lookup(word))
    return re.escape(word) + ("(?=的)" if place else "")


@lru_cache
def patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    lex = lexicon.load("zh")
    words = sorted((word for word in lex.words() if not re.fullmatch(rf"[{NUMERALS}\d]+", word)), key=len, reverse=True)
    return re.compile("|".join(map(pattern_of, words))), re.compile(
        "|".join(map(re.escape, sorted(lex.phrases(), key=len, reverse=True)))
    )


@lru_cache
def counted() -> re.Pattern[str]:
    measures = lexicon.load("zh").families["count"].extra
    usable = [measure for measure in measures["measures"] if measure not in measures["pair_measures"]]
    return re.compile(rf"(?<![第每这那几数{NUMERALS}\d.])([{NUMERALS}]+|\d+)(?:{'|'.join(usable)})(?![{PLACES}])")


class Tokens:
    def __init__(self, text: str) -> None:
        self.text = text
        self.words: list[str] = []
        self.flags: list[str] = []
        self.start: list[int] = []
        at = 0
        for pair in tagger().cut(text):
            for word, flag in _parts(pair.word, pair.flag):
                # a kind of thing that jieba takes for a measure, an adjective or a deed: 小碗, 金色短发, 托盘
                named = flag[0] in ("bqjv" if len(word) > 1 else "bqj") and word in _things()
                self.words.append(word)
                self.flags.append(
                    "n" if named and not (self.flags and self.flags[-1][0] == "m") else "a" if _is_quality(word, flag) else flag
                )
                self.start.append(at)
                at += len(word)
        for i, flag in enumerate(self.flags[1:]):
            if flag[0] == "f" and self.flags[i][0] == "v" and self.words[i] in _things():
                self.flags[i] = "n"  # 树 后面: what has a place behind it is a thing
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

    def noun_follows(self, end: int) -> bool:
        """Whether a noun comes next, behind other attributes at most: 生锈旧卡车."""
        i = self.starts.get(end)
        while i is not None and i < len(self.words) and (_is_attribute(self.words[i]) or self.flags[i][0] == "a"):
            i += 1
        return i is not None and i < len(self.words) and self.flags[i].startswith("n")

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
        """The noun right before a word: it is the door that is open in 车门打开的汽车; no baby smiles in 抱着婴儿微笑的女人."""
        if self.words[max(0, i - 2)] == "着":
            return ""
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
    戴帽子 no name, 人站 no thing, 桌上 a thing and a place, 中年男子 an age and who has it, 小皮 the begin of 小皮手提包."""
    lex = lexicon.load("zh")
    if len(word) == 2 and word[1] == "在" and flag[0] == "v":
        return [(word[0], flag), ("在", "p")]
    if len(word) == 2 and word[1] == "着" and any(value.family == "action" for value in lex.lookup(word[0])):
        return [(word[0], "v"), ("着", "uz")]
    if len(word) > 2 and word[-1] == "的" and lex.lookup(word[:-1]):
        return [(word[:-1], "z"), ("的", "uj")]
    if word in ("穿", "戴"):
        return [(word, "v")]
    if len(word) == 2 and word[0] == "人" and any(value.family == "action" for value in lex.lookup(word[1])):
        return [("人", "n"), (word[1], "v")]
    if len(word) > 1 and word[0] in "穿戴" and (word[1:] in _things() or lex.lookup(word[1:])):
        return [(word[0], "v"), (word[1:], "n" if len(word) > 2 else "a")]
    if word.endswith("相间"):
        return [(part, "z") for part in (word[:-2], "相间") if part]
    if word in lex.phrases() or word in _things():
        return [(word, flag)]
    if (flag == "s" or (flag[0] == "n" and word[:-1] in tagger().word_tag_tab)) and _joins(word[-1], ("relation",)):
        return [(word[:-1], "n"), (word[-1], "f")]
    if len(word) == 2 and flag[0] == "n" and _joins(word[0], ("size", "state")) and _joins(word[1], ("material", "state")):
        return [(word[0], "a"), (word[1], "n" if _joins(word[1], ("material",)) else "a")]
    for k in range(2, len(word) - 1):
        if word[k:] in _things() and lex.lookup(word[:k]):
            return [(word[:k], "b"), (word[k:], "n")]
    return [(word, flag)]


def _joins(char: str, families: tuple[str, ...]) -> bool:
    """Whether a character says something of these families where it is joined with a noun: 小, 皮, 圆, 上."""
    return any(value.family in families and value.char == char for value in lexicon.load("zh").lookup(char))


def _is_quality(word: str, flag: str) -> bool:
    """A size or state that jieba takes for a name: 古老."""
    return flag == "nr" and any(value.family in ("size", "state") for value in lexicon.load("zh").lookup(word))


@lru_cache
def _things() -> frozenset[str]:
    return frozenset(noun for members in lexicon.load("zh").nouns["classes"].values() for noun in members)


def is_thing(word: str) -> bool:
    """Whether a word is the name of a kind of thing that the lexicon has."""
    return len(word) > 1 and word in _things()


@lru_cache
def _bare(noun: str) -> str:
    """A thing without its size: 小圆环 is a 圆环, but 小狗 is a word of its own."""
    return noun[1:] if noun[0] in "大小" and noun[1:] in sized() else noun


@lru_cache
def sized() -> list[str]:
    """Things that a size of one character may be joined with."""
    nouns = lexicon.load("zh").nouns["classes"]
    return [noun for kind in ("shape", "ware", "furniture", "structure", "cloth", "vehicle") for noun in nouns[kind]]


def _is_attribute(word: str) -> bool:
    return any(value.family in ("colour", "material", "pattern") for value in lexicon.load("zh").lookup(word))
