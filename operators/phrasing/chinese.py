"""Referring expressions of a Chinese caption.

A phrase is [numeral and measure word] + modifiers (adjectives, nouns, 的; a clause that ends in 的) + noun, in the order in
which Chinese has them: the noun comes last, so the phrase is read from its first word on (`chinese_words`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from operators.phrasing import Phrase
from operators.phrasing.chinese_words import DEVICES, Word, clauses, is_place_name, split_words
from operators.phrasing.words import words

HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
PICTURES = ("照片", "相片", "图片", "图像")
CAMERAS = ("无人机", "相机", "摄影师", "卫星", "航拍器")
MAKERS = ("画家", "作者", "艺术家", "创作者")
WATCHERS, LETS = ("观众", "人们"), ("让", "给", "使", "带", "吸引", "引导", "邀请", "带领")
TAKES = ("拍", "拍摄", "拍下", "俯拍", "航拍", "俯瞰", "记录", "捕捉")
JUST = ("刚", "刚刚", "新")
BY = ("被", "由")
BODY = ("手", "头", "脚", "脸", "肩", "腿", "腰", "嘴", "眼", "耳", "胸")
TIME = re.compile(r".*(?:时候|季节|时分|时间|时刻)$")


def phrases(texts: Iterable[str], max_words: int) -> Iterator[list[Phrase]]:
    """One list per text, in the order of the phrases' beginnings."""
    for text in texts:
        found: dict[tuple[int, int], Phrase] = {}
        for clause in clauses(list(split_words(text))):
            for phrase in _Clause(clause, text, max_words).phrases():
                found.setdefault((phrase.start, phrase.end), phrase)
        yield sorted(found.values(), key=lambda phrase: (phrase.start, -phrase.end))


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
        before = self.tokens[head - 1] if head > first else None
        if before and (
            before.kind in "NV" if whole in DEVICES else before.kind == "N" and len(whole) == 1 and HAN.match(before.text)
        ):
            name = before.text + whole  # 工作台, 松树林
        if (
            name in lists["meta"]
            or name.endswith(PICTURES)
            or any(name[k:] in lists["abstract"] for k in range(max(1, len(name) - 1)))  # 暖色调
            or TIME.match(name)
            or name.endswith("感")
            or (name in WATCHERS and first and self.tokens[first - 1].text in LETS)
            or (name in CAMERAS and head + 1 < len(self.tokens) and self.tokens[head + 1].text in TAKES)
        ):
            return None
        if name in MAKERS and first == head:
            return None
        if not HAN.search(name) or (first == head and is_place_name(name)):
            return None
        if len(name) == 1 and (name not in lists["single"] or (name == "人" and first == head)):
            return None
        if head - first >= self.max_words:
            return None
        just = self.tokens[first].text in JUST and self._then(first, "V")
        while not just and first < head and (self.tokens[first].kind in "DUCX" or self.tokens[first].text in lists["place"]):
            if self.tokens[first].kind == "F" and self.tokens[first + 1].kind == "D":
                break
            first += 1
        start, end = self.tokens[first].start, self.tokens[head].start + len(whole)
        return Phrase(self.text[start:end], start, end, name)

    def _inside(self, first: int, head: int) -> Iterator[Phrase]:
        """Things named in a clause that describes the head: 一位穿着[红色连衣裙]的女子."""
        verbs = [k for k in range(first, head) if self.tokens[k].kind in "VP"]
        if not verbs or self._lets(verbs[0]):
            return
        ends = [k for k in range(verbs[0], head) if self.tokens[k].kind == "D"]
        if ends and not self.tokens[verbs[0]].text.endswith("成"):  # 切成薄片的黄瓜: the slices are the cucumber
            denied = any(self._denies(k) for k in range(first, verbs[0] + 1))
            last = ends[-1] - (self.tokens[verbs[0]].text in BY)
            yield from _Clause(self.tokens[verbs[0] + 1 : last], self.text, self.max_words, denied).phrases()

    def _lets(self, at: int) -> bool:
        """带给人们的, but not 带栏杆的阳台."""
        let = self.tokens[at].text
        return let in LETS and (let != "带" or self._then(at, "RV") or self.tokens[at + 1].text in WATCHERS)

    def _head(self, first: int) -> int | None:
        """Index of the noun that ends the phrase beginning at `first`, or None where none begins there."""
        tokens = self.tokens
        if tokens[first].kind not in "MANF" and not self._describes(first):
            return None
        at, head = first, None
        if tokens[at].kind == "M":
            at += 1
            if at < len(tokens) and tokens[at].kind == "D":
                return None  # 其中一辆的车筐: of which one
        while at < len(tokens):
            kind = tokens[at].kind
            if kind == "N":
                if head == at - 1 and self._part_of_somebody(at):
                    break
                head, at = at, at + 1
            elif kind == "A":
                if head is not None and not self._noun_follows(at):
                    if not (self._then(at, "D") and self._then(at + 1, "AN")):
                        break  # a predicate: 天空湛蓝
                    head = None  # a predicate that describes: 羽毛鲜艳的鹦鹉
                at += 1
            elif kind == "F" and head is None and at == first and self._then(at, "D"):
                at += 1  # 远处的桥梁
            elif kind == "F" and head is not None and self._then(at, "D") and self._then(at + 1, "AN"):
                head, at = None, at + 1  # 桌子上的杯子
            elif kind == "D":
                if at == first or not (self._then(at, "ANX") or (self._then(at, "V") and self._clause_end(at + 1) is not None)):
                    break
                head, at = None, at + 1
            elif kind == "V" and head is not None and first < head and self._then(at, "D") and self._then(at + 1, "AN"):
                head, at = None, at + 2  # 油漆剥落的木船
            elif (
                (kind in "VPU" or tokens[at].text in JUST)
                and head is None
                and (tokens[first].kind == "M" or at == first or tokens[at - 1].kind == "D")
            ):
                end = self._done(at) or self._clause_end(at)
                if end is None and kind == "V" and at > first and len(tokens[at].text) == 2 and self._then(at, "N"):
                    end = at + 1  # 一名[外卖]骑手
                if end is None:
                    break
                at = end
            elif kind == "X" and head is None and at > first:
                at += 1  # 橙色的“购买”按钮
            elif kind == "C" and head is None and tokens[at - 1].kind == "A" and self._then(at, "A") and at > first:
                at += 1  # 红色和白色的花
            else:
                break
        return None if head is not None and self._tells_where(first, head) else head

    def _part_of_somebody(self, at: int) -> bool:
        """一位老人 | 手里拿着: two things, though nothing stands between."""
        return self.tokens[at].text in BODY and len(self.tokens[at - 1].text) > 1 and self._then(at, "F")

    def _tells_where(self, first: int, head: int) -> bool:
        """站在冒烟的大楼前, 停在枯树的枝头: no such building, and no such branch, but where somebody is."""
        if self.tokens[first].kind != "V":
            return False
        inside = self.tokens[first:head]
        at = next((k for k, word in enumerate(inside) if word.text.endswith("在")), None)
        if at is None or any(word.kind == "F" for word in inside[at:]):
            return False
        ends = head + 1 == len(self.tokens)
        return (first == 0 and ends) or (not ends and self.tokens[head + 1].kind == "F")

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
                if self._of_its_object(at, end):
                    continue
                if inner is not None or any(word.kind in "NV" for word in self.tokens[at + 1 : end]):
                    return end
                inner = end
        return inner

    def _of_its_object(self, at: int, end: int) -> bool:
        """Whether the 的 belongs to what the clause's second verb is done to, and ends nothing: 外卖骑手骑着[黄色的]电动车."""
        k = end - 1
        while k > at and self.tokens[k].kind == "A":
            k -= 1
        before = self.tokens[k]
        return at < k < end - 1 and before.text.endswith(("着", "了")) and any(w.kind == "N" for w in self.tokens[at + 1 : k])

    def _describes(self, first: int) -> bool:
        """A clause that describes a noun, at the very beginning or after 在: 穿着黑色西装的男人…; not the sentence's own verb."""
        token = self.tokens[first]
        before = self.tokens[first - 1] if first else None
        begins = before is None or before.kind in "PC" or before.text.endswith("在") or self._goes_on(first)
        if token.text in BY:  # 被风吹起的衣角: who, and the verb, of which jieba makes a noun at times
            end = self._clause_end(first) if before is None or before.kind in "VPCU" else None
            return end is not None and end - first > 2 and self.tokens[end - 1].kind in "VN"
        if token.text in ("没", "未") and self._then(first, "V"):
            return begins and self._describes_from(first + 1)
        if self._done(first) is not None:
            return True
        return begins and token.kind == "V" and token.text not in words("zh")["verb"] and self._describes_from(first)

    def _goes_on(self, first: int) -> bool:
        """Whether a verb tells how a thing is, behind one that does something to it: 穿过[堆满木料的]院子."""
        if not first or self.tokens[first].kind != "V" or self.tokens[first - 1].kind not in "VU":
            return False
        text, after = self.tokens[first].text, self.tokens[first + 1].text if first + 1 < len(self.tokens) else ""
        lasting = len(text) > 1 and text[-1] in "着满有在成"
        return (lasting and text not in ("有", "没有", "还有")) or after in ("着", "在")

    def _done(self, first: int) -> int | None:
        """Index of the 的 of what was done to a thing, where a verb has just put it there: 放着[切好的]水果, 种着[修剪整齐的]灌木."""
        before = self.tokens[first - 1].text if first else ""
        if not before.endswith(("着", "了", "满", "有")) or not (
            self.tokens[first].kind == "V" or self.tokens[first].text in JUST
        ):
            return None
        cut = first + 2  # 放着[切成薄片的]黄瓜
        if (
            self.tokens[first].text.endswith("成")
            and self._then(first, "NA")
            and self._then(first + 1, "D")
            and self._then(cut, "AN")
        ):
            return cut
        for end in range(first + 1, min(first + 4, len(self.tokens))):
            if self.tokens[end].kind == "D":
                return end if self._then(end, "AN") else None
            if self.tokens[end].kind not in "VAU":
                return None
        return None

    def _describes_from(self, first: int) -> bool:
        if self._then(first, "D") and self._then(first + 1, "AN"):
            return True  # 从[停着的]汽车
        end = self._clause_end(first)
        return end is not None and any(word.kind == "N" for word in self.tokens[first + 1 : end])
