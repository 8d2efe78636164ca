"""Which words of a Chinese expression are attributes that another word may stand for, family by family.

A match must begin and end where words do (黑板 is not a black 板), except in compounds such as 木桌 and 红裙子 whose second half
is listed.
"""

from __future__ import annotations

import re
from functools import lru_cache

from operators import lexicon
from operators.lexicon import Value
from operators.perturb.chinese_words import PLACES, Tokens, is_thing, sized
from operators.perturb.phrase import Slot

MADE_BEFORE = re.compile(r"(?:由|用|以)[^，。、]{0,4}$")
MADE_AFTER = re.compile(r"(?:制成|做成|制作|打造|编织|材质|材料|和|与|、)")
JOINED = frozenset(("shape", "age", "fill", "wet"))
"""States whose one-character words are joined with a noun: 圆桌, 旧鞋, 空碗, 湿毛巾."""
DEEDS = frozenset(("open", "fold", "lit", "fill", "peel", "face", "cooked", "frozen"))
"""States that right before a noun, without 的, may be done to it: 打开盒子."""
MARKS = frozenset(("图案", "花纹", "标志", "文字", "字", "字母", "图标", "条纹", "纹身"))
"""What is on a thing as part of it: nowhere else."""
SURFACE = re.compile(r"(?:(?<!桌)[街路道面地墙壁滩场坡山河湖海水]|地板|天花板|雪|窗|门|脸|手)$")
"""Where a thing is on or in them no other place is told from that: 墙上的画 is in front of the wall too, nothing is below grass."""
HUES = "红橙黄绿青蓝紫粉黑白灰棕金银"
PLACED = re.compile(r"在[^，。的]{1,8}$")
"""Where somebody does it: 在地毯上爬的婴儿."""
TWO_COLOURS = re.compile(f"[{HUES}]色?[与和、]?[{HUES}]色?的?$")


def slot_of(tokens: Tokens, value: Value, start: int, end: int) -> Slot | None:
    text = tokens.text
    word, after, before = text[start:end], text[end:], text[:start]
    aligned = start in tokens.bounds and end in tokens.bounds
    family = value.family
    noun = tokens.noun_after(end) or tokens.noun_before(start)
    if family == "material" and _telling().search(before):
        return None
    joined = family == "size" or (family == "state" and value.axis in JOINED)
    if len(word) == 1 and (family in ("colour", "material") or (joined and not aligned)):
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
        describes = after.startswith("的") or (tokens.noun_follows(end) and not after.startswith(tuple(PLACES)))
        return Slot("material", start, end, value, "word", noun) if describes else None
    if family == "pattern":
        describes = after.startswith("的") or tokens.noun_follows(end) or bool(re.search(r"(?:带有|印有|有)$", before))
        return Slot("pattern", start, end, value, "word", noun, follows=bool(TWO_COLOURS.search(before))) if describes else None
    if family in ("size", "state"):
        return _adjective(tokens, value, start, end, noun)
    if family == "relation":
        landmark = tokens.noun_before(start)
        if not landmark or not before.removesuffix("的").endswith(landmark) or not value.use:
            return None  # 左侧有一只猫: of what it does not say
        thing = tokens.noun_before(len(text))
        worn = "在" not in before and lexicon.load("zh").classes(landmark) & {"cloth", "body", "coat"}
        if len(word) == 1 and (thing in MARKS or worn or SURFACE.search(landmark)):
            return None  # 头上的帽子, 衬衫上的图案, 草地上的狗; but 趴在地毯上的狗
        return Slot("relation", start, end, value, "char" if len(word) == 1 else word, thing, other=landmark)
    if family == "action" and value.use:
        return _action(tokens, value, start, end)
    return None


def hue_of(tokens: Tokens, at: int, end: int) -> Slot:
    """One of two colours that are written as one word."""
    value = next(value for value in lexicon.load("zh").lookup(tokens.text[at]) if value.family == "colour")
    return Slot("colour", at, at + 1, value, "char", tokens.noun_after(end))


@lru_cache
def _telling() -> re.Pattern[str]:
    """What goes with one material only, before it: 生锈的铁门."""
    return re.compile(rf"(?:{'|'.join(lexicon.load('zh').traps['of_stuff'])})的?[^，。的]{{0,4}}$")


def _compound(tokens: Tokens, value: Value, start: int, end: int) -> Slot | None:
    """红裙子, 木桌, 小盒子: one character and a listed second half that ends a word."""
    lex = lexicon.load("zh")
    heads = lex.traps["heads_after_char"] if value.family == "colour" else lex.traps["compound_heads"]
    if value.family in ("size", "state"):
        heads = sized()
    after = tokens.text[end:]
    if start not in tokens.bounds:
        return None
    head = next(
        (head for head in sorted(heads, key=len, reverse=True) if after.startswith(head) and end + len(head) in tokens.bounds),
        None,
    )
    if head is None and value.char not in ("金", "银"):
        head = _described(tokens, start, end)  # 黄塑料桶, 木栈道; a gold ring is not gold in colour alone
    if head is None and value.family == "colour":
        head = next((thing for thing in (after[:2], after[:3]) if is_thing(thing) and end + len(thing) in tokens.bounds), None)
    if head is None or (re.search(r"[深浅淡暗亮大小]$", tokens.text[:start]) and value.family == "colour"):
        return None
    return Slot(value.family, start, end, value, "char" if end - start == 1 else "word", head)


def _described(tokens: Tokens, start: int, end: int) -> str | None:
    """The noun of two or more characters after a colour that is a word of its own."""
    following = tokens.starts.get(end)
    alone = tokens.words[tokens.starts[start]] == tokens.text[start:end]
    if not alone or following is None or not tokens.flags[following].startswith("n"):
        return None
    word = tokens.words[following]
    mixed = any(value.family == "colour" for value in lexicon.load("zh").lookup(word))  # 紫红色 is one colour
    return tokens.noun_after(end) or None if len(word) > 1 and not mixed else None


def _adjective(tokens: Tokens, value: Value, start: int, end: int, noun: str) -> Slot | None:
    text, after = tokens.text, tokens.text[end:]
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
    if not tokens.noun_follows(end):
        return None
    if end - start == 1:
        alone = tokens.starts.get(start) is not None and tokens.flags[tokens.starts[start]] in ("a", "ad", "an", "n")
        return Slot(value.family, start, end, value, "char", noun) if alone and value.char else None
    short = end - start == 2 and text[start] != text[start + 1] and value.axis not in DEEDS  # 高大石塔
    return Slot(value.family, start, end, value, text[start:end], noun) if short or text[end - 1] in "型形" else None


def _action(tokens: Tokens, value: Value, start: int, end: int) -> Slot | None:
    text = tokens.text
    word, after, before = text[start:end], text[end:], text[:start]
    lex = lexicon.load("zh")
    noun = tokens.doer(start)
    if not noun or (value.fits and not lex.fits(value, noun)):
        return None
    if end - start == 1:
        if value.object and not after.startswith("着"):
            return None
        if not after.startswith(("着", "在")) and not (after.startswith("的") and PLACED.search(before)):
            return None
        other = tokens.noun_after(end) if value.object else ""
        if word != value.words[0] and value.takes and not lex.fits(value, noun, other):
            return None  # 打着伞, but 打着电话
        return Slot("action", start, end, value, "char", noun, follows=after.startswith("在"), other=other)
    described = after.startswith("的") and "animate" in lex.classes(noun)  # 弹吉他的男子
    if value.axis != "motion" or not (described or re.search(r"(?:正在|在[^，。]{0,6})$", before)):
        return None
    return Slot("action", start, end, value, "word", noun)


def count_of(tokens: Tokens, match: re.Match[str]) -> Slot | None:
    word = match.group(1)
    values = [value for value in lexicon.load("zh").lookup(word) if value.family == "count"]
    noun = tokens.noun_counted(match.end())
    if not values or not noun or word == "二" or values[0].number == 1:
        return None
    return Slot("count", match.start(1), match.end(1), values[0], "digits" if word.isdigit() else "word", noun)
