"""Referring expressions of a Chinese caption, from jieba's words and parts of speech.

A phrase is [numeral and measure word] + modifiers (adjectives, nouns, 的; a clause that ends in 的) + noun, in the order in
which Chinese has them: the noun comes last, so the phrase is read from its first word on. jieba's tags are taken with care:
it takes 小 for a noun and 连衣裙 for a name, so the lists of words_zh.yaml and the shape of a word (…色, …形) come first.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from operators.phrasing import Phrase
from operators.phrasing.words import words

NUMBER = "一二两三四五六七八九十百千几数多半每某整双各0-9０-９"
MEASURES = (
    "个只条辆张把本件位名棵朵艘架匹头块片支根座间扇盏杯瓶碗盘台幅顶枚颗粒束串袋盒箱栋幢株口道面尊套部封枝层排堆对组群双份壶篮筐桶盆罐"
    "节段堵轮滴捆叠摞丛簇圈团股缕丝阵场种类些所家处栏副款尾锅笼缸句沓勺"
)
MEASURED = re.compile(
    rf"(?:[这那此该]?(?:[{NUMBER}]+|好几|许)[{MEASURES}]|[这那][{MEASURES}]|一些|许多|很多|不少|大量|若干|数个|成群)"
)
COLOUR = re.compile(r".*(?:色|相间)$")
SHAPE = re.compile(r".+(?:形|状|制|质|式|型)$")
LOCAL = re.compile(r".+[上里中内下旁]$")
NOT_LOCAL = frozenset(
    ["晚上", "早上", "马上", "世上", "以上", "以下", "集中", "当中", "心中", "乡下", "地下", "天下", "楼上", "楼下", "山下"]
)
JOINED = ("和", "与", "及", "以及", "、", "并")
CLAUSE = re.compile(r"[，。；：！？,;:!?\n\r（）()…—]")
QUOTED = re.compile(r"“[^“”]{0,80}”|‘[^‘’]{0,80}’|「[^「」]{0,80}」|《[^《》]{0,80}》|\"[^\"]{0,80}\"")
HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
WORN = re.compile(r"[头身脚手肩腰颈脖背腿胸臂][戴穿持背披系挂拿提握抱踩着扛挎缠捧拎牵撑]着?")
"""A part of the body with what it does, which jieba takes for one noun, one verb or two words: 头戴."""
LATIN = re.compile(r"[A-Za-z][\w&'+-]*(?: [A-Z0-9][\w&'+-]*)+", re.ASCII)
"""A name of several words, as brands and models have: iPhone 15 Pro."""
COUNTED = re.compile(rf"[{NUMBER}]+[{MEASURES}](?=.)")
PICTURES = ("照片", "相片", "图片", "图像")
CAMERAS = ("无人机", "相机", "摄影师", "卫星", "航拍器")
TAKES = ("拍", "拍摄", "拍下", "俯拍", "航拍", "俯瞰", "记录", "捕捉")
TIME = re.compile(r".*(?:时候|季节|时分|时间|时刻)$")


class Word(NamedTuple):
    text: str
    kind: str
    """M numeral with measure word, A attribute, N noun, D 的, V verb, F part of space, R pronoun, C joining, P preposition"""
    start: int


@functools.cache
def tagger() -> Any:
    """jieba's tagger with a dictionary of its own, so that nobody else's is changed. Made once per process."""
    import jieba
    import jieba.posseg

    jieba.setLogLevel(logging.WARNING)
    tokenizer = jieba.Tokenizer()
    tokenizer.initialize()
    for left in "上下里中前后旁":
        for verb in (
            "放",
            "挂",
            "摆",
            "坐",
            "站",
            "停",
            "铺",
            "有",
            "是",
            "写",
            "印",
            "贴",
            "种",
            "长",
            "戴",
            "穿",
            "盛",
            "装",
            "躺",
        ):
            tokenizer.suggest_freq((left, verb), True)
    for left, right in (("一只", "条纹"), ("黑色", "金属"), ("白色", "金属"), ("银色", "金属"), ("蓝色", "牛仔")):
        tokenizer.suggest_freq((left, right), True)
    for noun in words("zh")["noun"]:
        tokenizer.add_word(noun, tag="n")
    return jieba.posseg.POSTokenizer(tokenizer)


def phrases(texts: Iterable[str], max_words: int) -> Iterator[list[Phrase]]:
    """One list per text, in the order of the phrases' beginnings."""
    for text in texts:
        found: dict[tuple[int, int], Phrase] = {}
        for clause in _clauses(list(_words(text))):
            for phrase in _Clause(clause, text, max_words).phrases():
                found.setdefault((phrase.start, phrase.end), phrase)
        yield sorted(found.values(), key=lambda phrase: (phrase.start, -phrase.end))


def _words(text: str) -> Iterator[Word]:
    position = 0
    quoted = [match.span() for match in QUOTED.finditer(text)]
    for word, flag in _tagged(text):
        start, position = position, position + len(word)
        if any(begin <= start < end for begin, end in quoted):
            yield Word(word, "X", start)  # what a sign says
        else:
            yield from _split(word, flag, start)


def _tagged(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    for name in LATIN.finditer(text):
        yield from ((token.word, token.flag) for token in tagger().cut(text[at : name.start()]))
        yield name[0], "eng"
        at = name.end()
    yield from ((token.word, token.flag) for token in tagger().cut(text[at:]))


def _split(text: str, flag: str, start: int) -> Iterator[Word]:
    """The word, or two: 窗台上 is a thing and a place, 戴帽子 a verb and a thing."""
    if (
        len(text) > 1
        and LOCAL.match(text)
        and text not in NOT_LOCAL
        and flag[0] in "nsfvz"
        and text not in words("zh")["place"]
    ):
        yield Word(text[:-1], _kind(text[:-1], "n"), start)
        yield Word(text[-1], "F", start + len(text) - 1)
    elif (measured := COUNTED.match(text)) and flag[0] in "nmr" and _names(text[measured.end() :]):
        yield Word(measured[0], "M", start)
        yield Word(text[measured.end() :], "N", start + measured.end())
    elif len(text) > 2 and flag in ("v", "nr") and text[0] in words("zh")["carry"] and _is_noun(text[1:]):
        yield Word(text[0], "V", start)
        yield Word(text[1:], "N", start + 1)
    else:
        yield Word(text, _kind(text, flag), start)


def _is_noun(text: str) -> bool:
    return text in words("zh")["noun"] or tagger().word_tag_tab.get(text, "").startswith("n")


def _names(text: str) -> bool:
    return text in words("zh")["single"] or (len(text) > 1 and _is_noun(text))


def _kind(text: str, flag: str) -> str:
    lists = words("zh")
    if WORN.fullmatch(text):
        return "V"
    if text == "的":
        return "D"
    if text in JOINED:
        return "C"
    if MEASURED.fullmatch(text):
        return "M"
    if text in lists["place"]:
        return "F"
    if text in lists["attribute"] or COLOUR.match(text) or (SHAPE.match(text) and flag[0] in "nbazv"):
        return "A"
    if text in lists["noun"]:
        return "N"
    if text in lists["verb"] or text in lists["carry"] or (len(text) > 1 and text.endswith(("在", "着"))):
        return "V"
    if text.rstrip("的") in lists["attribute"] or flag[0] in "abzi":
        return "A"  # i: set phrases, of which nearly all describe (郁郁葱葱, 琳琅满目)
    if len(text) == 1 and text in lists["single"]:
        return "N"
    if flag[0] == "m" and text[0] not in NUMBER:
        return "N"  # 左手 and its like
    if flag[0] in "mqr":
        return "R" if flag[0] == "r" else "Q"
    if flag[0] == "n" or flag in ("vn", "an", "s", "l", "j", "eng"):
        return "N"
    return {"v": "V", "p": "P", "f": "F", "c": "C", "u": "U", "d": "U", "t": "T"}.get(flag[0], "X")


def _clauses(tokens: list[Word]) -> Iterator[list[Word]]:
    clause: list[Word] = []
    for token in _worn(_several(_measured(tokens))):
        if CLAUSE.fullmatch(token.text):
            yield clause
            clause = []
        else:
            clause.append(token)
    yield clause


def _measured(tokens: list[Word]) -> Iterator[Word]:
    """Join a numeral or 这/那 and the measure word after it, which jieba gives apart."""
    waiting: Word | None = None
    for token in tokens:
        if waiting is not None:
            if MEASURED.fullmatch(waiting.text + token.text):
                yield Word(waiting.text + token.text, "M", waiting.start)
                waiting = None
                continue
            if MEASURED.fullmatch(waiting.text + token.text[:1]) and _names(token.text[1:]):
                yield Word(waiting.text + token.text[0], "M", waiting.start)  # jieba reads 一 本书
                yield Word(token.text[1:], "N", token.start + 1)
                waiting = None
                continue
            yield waiting
            waiting = None
        if token.kind in "QR":
            waiting = token
        else:
            yield token
    if waiting is not None:
        yield waiting


def _several(tokens: Iterable[Word]) -> Iterator[Word]:
    """Join a noun and its 们, which jieba gives apart: 孩子 们, and 老 人们."""
    last: Word | None = None
    for token in tokens:
        if last is not None and (
            (token.text == "们" and last.kind == "N") or (token.text == "人们" and _is_noun(last.text + "人"))
        ):
            last = Word(last.text + token.text, "N", last.start)
            continue
        if last is not None:
            yield last
        last = token
    if last is not None:
        yield last


def _worn(tokens: Iterable[Word]) -> Iterator[Word]:
    """Join 头 and 戴 where jieba gives them apart and no 一只 or 的 makes the part of the body a thing."""
    before = last = None
    for token in tokens:
        if last is not None and WORN.fullmatch(last.text + token.text) and (before is None or before.kind not in "MD"):
            token, last = Word(last.text + token.text, "V", last.start), None
        if last is not None:
            yield last
            before = last
        last = token
    if last is not None:
        yield last


class _Clause:
    """What stands between two punctuation marks (、 joins and does not end it)."""

    def __init__(self, tokens: list[Word], text: str, max_words: int, denied: bool = False):
        self.tokens, self.text, self.max_words, self.denied = tokens, text, max_words, denied

    def phrases(self) -> Iterator[Phrase]:
        lists = words("zh")
        denied = self.denied
        at = 0
        while at < len(self.tokens):
            head = self._head(at)
            token = self.tokens[at]
            if token.text in lists["contrast"]:
                denied = False
            elif head is None or token.kind not in "VU":
                denied = denied or token.text in lists["simile"] or self._denies(at)  # to the end of the clause
            if head is None:
                at += 1
                continue
            if not denied and not self._one_of_them(at) and not self._none_at_all(at, head):
                yield from self._inside(at, head)
                phrase = self._phrase(at, head)
                if phrase is not None:
                    yield phrase
            at = head + 1

    def _denies(self, at: int) -> bool:
        """没戴 and 未戴 are one word at times; 不 before an attribute denies no thing: 不高的树."""
        text = self.tokens[at].text
        if text in ("不", "没", "未"):
            return self._then(at, "VPN")
        return text in words("zh")["negation"] or (text[0] in "没未" and text[1:2] in words("zh")["carry"])

    def _none_at_all(self, first: int, head: int) -> bool:
        """一辆车都没有: the denial follows."""
        after = self.tokens[head + 1 : head + 3]
        return (
            self.tokens[first].text.startswith("一")
            and len(after) == 2
            and after[0].text in ("都", "也")
            and self._denies(head + 2)
        )

    def _one_of_them(self, at: int) -> bool:
        """ "他们中的一些人": what is meant is not said here."""
        before = self.tokens[max(0, at - 4) : at]
        return (
            len(before) > 2 and before[-1].kind == "D" and before[-2].kind == "F" and any(word.kind == "R" for word in before)
        )

    def _phrase(self, first: int, head: int) -> Phrase | None:
        lists = words("zh")
        whole = self.tokens[head].text
        name = whole.removesuffix("们") if len(whole) > 2 else whole
        if (
            name in lists["meta"]
            or name.endswith(PICTURES)
            or name in lists["abstract"]
            or TIME.match(name)
            or name.endswith("感")
            or (name in CAMERAS and head + 1 < len(self.tokens) and self.tokens[head + 1].text in TAKES)
        ):
            return None
        if not HAN.search(name):
            return None
        if len(name) == 1 and (name not in lists["single"] or (name == "人" and first == head)):
            return None
        if head - first >= self.max_words:
            return None
        while first < head and (self.tokens[first].kind in "DUCX" or self.tokens[first].text in lists["place"]):
            if self.tokens[first].kind == "F" and self.tokens[first + 1].kind == "D":
                break
            first += 1
        start, end = self.tokens[first].start, self.tokens[head].start + len(whole)
        return Phrase(self.text[start:end], start, end, name)

    def _inside(self, first: int, head: int) -> Iterator[Phrase]:
        """Things named in a clause that describes the head: 一位穿着[红色连衣裙]的女子."""
        verbs = [k for k in range(first, head) if self.tokens[k].kind in "VP"]
        if not verbs:
            return
        ends = [k for k in range(verbs[0], head) if self.tokens[k].kind == "D"]
        if ends:
            denied = any(self._denies(k) for k in range(first, verbs[0] + 1))
            yield from _Clause(self.tokens[verbs[0] + 1 : ends[-1]], self.text, self.max_words, denied).phrases()

    def _head(self, first: int) -> int | None:
        """Index of the noun that ends the phrase beginning at `first`, or None where none begins there."""
        tokens = self.tokens
        if tokens[first].kind not in "MANF" and not self._describes(first):
            return None
        at, head = first, None
        if tokens[at].kind == "M":
            at += 1
        while at < len(tokens):
            kind = tokens[at].kind
            if kind == "N":
                head, at = at, at + 1
            elif kind == "A":
                if head is not None and not self._noun_follows(at):
                    break  # a predicate: 天空湛蓝
                at += 1
            elif kind == "F" and head is None and at == first and self._then(at, "D"):
                at += 1  # 远处的桥梁
            elif kind == "F" and head is not None and self._then(at, "D") and self._then(at + 1, "AN"):
                head, at = None, at + 1  # 桌子上的杯子
            elif kind == "D":
                if at == first or not (self._then(at, "AN") or (self._then(at, "V") and self._clause_end(at + 1) is not None)):
                    break
                head, at = None, at + 1
            elif kind in "VPU" and head is None and (tokens[first].kind == "M" or at == first or tokens[at - 1].kind == "D"):
                end = self._clause_end(at)
                if end is None:
                    break
                at = end
            elif kind == "C" and head is None and tokens[at - 1].kind == "A" and self._then(at, "A") and at > first:
                at += 1  # 红色和白色的花
            else:
                break
        return head

    def _then(self, at: int, kinds: str) -> bool:
        return at + 1 < len(self.tokens) and self.tokens[at + 1].kind in kinds

    def _noun_follows(self, at: int) -> bool:
        """Attributes, then a noun, with no 的 between: 条纹大猫."""
        while at < len(self.tokens) and self.tokens[at].kind == "A":
            at += 1
        return at < len(self.tokens) and self.tokens[at].kind == "N"

    def _clause_end(self, at: int) -> int | None:
        """Index of the 的 that ends the describing clause begun at `at`: the first one with a noun or attribute after it.

        The one in 红色的帽子 belongs to the clause's own noun, if there is another.
        """
        inner = None
        for end in range(at + 1, min(len(self.tokens), at + 14)):
            if self.tokens[end].kind == "M":
                return inner
            if self.tokens[end].kind == "D":
                if not self._then(end, "AN"):
                    return inner
                if end == at + 1 and self.tokens[at].kind == "V":
                    return end  # 蜿蜒的: it describes by itself
                if inner is not None or any(word.kind in "NV" for word in self.tokens[at + 1 : end]):
                    return end
                inner = end
        return inner

    def _describes(self, first: int) -> bool:
        """A clause that describes a noun, at the very beginning or after 在: 穿着黑色西装的男人…; not the sentence's own verb."""
        token = self.tokens[first]
        before = self.tokens[first - 1] if first else None
        begins = before is None or before.kind == "P" or before.text.endswith("在")
        if token.text in ("没", "未") and self._then(first, "V"):
            return begins and self._describes_from(first + 1)
        return begins and token.kind == "V" and token.text not in words("zh")["verb"] and self._describes_from(first)

    def _describes_from(self, first: int) -> bool:
        end = self._clause_end(first)
        return end is not None and any(word.kind == "N" for word in self.tokens[first + 1 : end])
