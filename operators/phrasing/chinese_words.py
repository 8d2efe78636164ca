"""The words of a Chinese caption, with what each may be in a phrase: from jieba, whose cuts and tags are mended.

jieba takes 小 for a noun, 连衣裙 for a name, 射门 for a thing and cuts 导航栏 in two, so the lists of words_zh.yaml, the shape of a
word (…色, …形) and the dictionary come first.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from operators.phrasing.words import words
from operators.validators import dictionary

NUMBER = "一二两三四五六七八九十百千几数多半每某整双各0-9０-９"
MEASURES = (
    "个只条辆张把本件位名棵朵艘架匹头块片支根座间扇盏杯瓶碗盘台幅顶枚颗粒束串袋盒箱栋幢株口道面尊套部封枝层排堆对组群双份壶篮筐桶盆罐"
    "节段堵轮滴捆叠摞丛簇圈团股缕丝阵场种类些所家处栏副款尾锅笼缸句沓勺碟格行列"
)
MEASURED = re.compile(
    rf"(?:[这那此该]?(?:[{NUMBER}]+|好几|许)[小大长]?[{MEASURES}]|[这那][{MEASURES}]|一([{MEASURES}])\1|一些|许多|很多|不少|大量|若干|数个|成群)"
)
COLOUR = re.compile(r".*(?:(?<![景角特夜月脸气货本物天暮神])色|相间)$")
COLOURS = re.compile("[焦枯微淡嫩]?[红橙黄绿青蓝紫粉黑白灰棕金银]{2,3}|[焦枯微淡嫩暗亮][红橙黄绿青蓝紫粉黑白灰棕]")
DEVICES = frozenset("线栏框机器鞋灯牌板箱架台区室员证卡服袋亭柜厅馆棚梯柱杆绳管罩垫筐")
"""What ends the name of a thing that is for doing something: 导航栏, 登山鞋."""
SHAPE = re.compile(r".+(?:形|状|制|质|式|型)$")
LOCAL = re.compile(r".+[上里中内下旁]$")
NOT_LOCAL = frozenset(
    ["晚上", "早上", "马上", "世上", "以上", "以下", "集中", "当中", "心中", "乡下", "地下", "天下", "楼上", "楼下", "山下"]
)
FILLED = re.compile(
    r"[^饱丰圆美不自充][满]|[长盛撒堆种贴洒沾爬开结装铺挂放摆坐站印写绘刻绣标画设配镶嵌][有]|[漆涂画做制变织编拼组搭][成为]"
    r"|[切剪捏揉扎叠卷围堆雕排摆扮染砌]成"
)
"""A verb with how it came out, which jieba takes for an attribute or a noun at times: 长满, 漆成."""
JOINED = ("和", "与", "及", "以及", "、", "并")
CLAUSE = re.compile(r"[，。；：！？,;:!?\n\r（）()…—]")
QUOTED = re.compile(r"“[^“”]{0,80}”|‘[^‘’]{0,80}’|「[^「」]{0,80}」|《[^《》]{0,80}》|\"[^\"]{0,80}\"")
WORN = re.compile(r"[头身脚手肩腰颈脖背腿胸臂][戴穿持背披系挂拿提握抱踩着扛挎缠捧拎牵撑摇执推举]着?")
"""A part of the body with what it does, which jieba takes for one noun, one verb or two words: 头戴."""
LATIN = re.compile(r"[A-Za-z][\w&'+-]*(?: [A-Z0-9][\w&'+-]*)+", re.ASCII)
"""A name of several words, as brands and models have: iPhone 15 Pro."""
COUNTED = re.compile(rf"[{NUMBER}]+[{MEASURES}](?=.)")
SIDED = re.compile(r"[三四五六七八九十][角边面]形?")
"""八角: what it is like, no number of things."""
EXTENT = re.compile(rf"[{NUMBER}\.]+(?:米|厘米|公里|英寸|层|寸|尺)多?")
"""三米 of 三米高."""
TOGETHER = re.compile(r"(.)[拉牵并靠对挽挨搭](.)")
"""手拉手, 肩并肩: in which way, where both are one."""
HEADED = re.compile(r"[过渡骑喝饮戏划遛][水河江湖桥马车船茶酒狗]")
"""A verb and its object, which jieba takes for a noun: 过河."""
ENDED = re.compile(r"..?[入出起过向进落回掉下]")
"""A verb and where it goes, which jieba takes for a noun or a name: 射入."""
WEAR = frozenset("帽服裤鞋衣裙袍垫毯罩架靶柜台车机店屋楼馆池炉锅")
"""What ends the name of a thing, after what it is of or for, and is known as a word of another kind: 厨师 帽."""
ADVERBS = frozenset("则均皆都也正已")
TOWARDS = frozenset(["往", "朝", "向", "沿", "沿着", "朝着", "对着"])
EITHER = frozenset(["条纹", "格子", "波点", "碎花"])
"""What a thing is like, and itself where no thing follows."""

ORDINAL = re.compile(rf"第[{NUMBER}]+[{MEASURES}]?")


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
        if noun.endswith("台"):
            tokenizer.add_word(f"{noun}上", tag="s")  # not 看 台上
    return jieba.posseg.POSTokenizer(tokenizer)


def split_words(text: str) -> Iterator[Word]:
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
        and (flag[0] in "nsfz" or (flag[0] == "v" and _names(text[:-1])))
        and text not in words("zh")["place"] | words("zh")["noun"]
    ):
        yield Word(text[:-1], _kind(text[:-1], "n"), start)
        yield Word(text[-1], "F", start + len(text) - 1)
    elif (
        text not in tagger().word_tag_tab
        and (measured := COUNTED.match(text))
        and flag[0] in "nmr"
        and _names(text[measured.end() :])
    ):
        yield Word(measured[0], "M", start)
        yield Word(text[measured.end() :], "N", start + measured.end())
    elif len(text) > 2 and flag in ("v", "nr") and text[0] in words("zh")["carry"] and _is_noun(text[1:]):
        yield Word(text[0], "V", start)
        yield Word(text[1:], "N", start + 1)
    elif HEADED.fullmatch(text):
        yield Word(text[0], "V", start)
        yield Word(text[1], "N", start + 1)
    elif len(text) == 2 and (cut := _two_words(text, flag)):
        yield Word(text[0], cut[0], start)
        yield Word(text[1], cut[1], start + 1)
    else:
        yield Word(text, _kind(text, flag), start)


def _two_words(text: str, flag: str) -> str:
    """Kinds of two words that jieba guesses to be one, for want of both in its dictionary; "" where they are one."""
    if flag == "s" and text[1] in "前后" and text[0] in words("zh")["single"]:
        return "NF"  # 门后
    if text in tagger().word_tag_tab or flag[0] not in "nv":
        return ""
    if text[0] in words("zh")["carry"] and COLOURS.fullmatch(f"{text[1]}{text[1]}"):
        return "VA"  # 戴黑
    if text[0] in words("zh")["place"] and text[1] in words("zh")["carry"]:
        return "FV"  # 上写
    if text[1] in ADVERBS and (text[0] in words("zh")["single"]):
        return "NU"  # 人则
    return ""


def _is_noun(text: str) -> bool:
    return text in words("zh")["noun"] or tagger().word_tag_tab.get(text, "").startswith("n")


def is_place_name(text: str) -> bool:
    """德国; not 大桥 or 白马, which jieba takes for ones."""
    thing = text in words("zh")["noun"] or text[-1] in words("zh")["single"]
    return tagger().word_tag_tab.get(text) == "ns" and not thing and dictionary.is_name(text)


def _names(text: str) -> bool:
    return text in words("zh")["single"] or (len(text) > 1 and _is_noun(text))


def _kind(text: str, flag: str) -> str:
    lists = words("zh")
    if WORN.fullmatch(text) or FILLED.fullmatch(text):
        return "V"
    if text in ("单脚", "单手", "单腿"):
        return "U"
    if (pair := TOGETHER.fullmatch(text)) and pair[1] == pair[2]:
        return "U"
    if SIDED.fullmatch(text):
        return "A"
    if text == "的":
        return "D"
    if text in JOINED:
        return "C"
    if MEASURED.fullmatch(text) and text not in lists["attribute"]:
        return "M"
    if text in lists["place"] or ORDINAL.fullmatch(text):
        return "F"
    if (
        text in lists["attribute"]
        or COLOUR.match(text)
        or COLOURS.fullmatch(text)
        or (SHAPE.match(text) and flag[0] in "nbazv")
    ):
        return "A"
    if text in lists["noun"] or text in lists["meta"]:
        return "N"
    if text in lists["verb"] or text in lists["carry"] or (len(text) > 1 and text.endswith(("在", "着"))):
        return "V"
    if flag == "zg" and text in lists["single"]:
        return "N"
    if text in TOWARDS:
        return "P"
    if flag[0] == "n" and ENDED.fullmatch(text) and (dictionary.is_deed(text) or not dictionary.is_word(text)):
        return "V"
    if text.rstrip("的") in lists["attribute"] or (flag[0] in "abzi" and flag != "zg"):
        return "A"  # i: set phrases, of which nearly all describe (郁郁葱葱, 琳琅满目)
    if flag == "l" and len(text) > 3 and not _is_noun(text[-2:]):
        return "A"  # 清晰可见, but 中年男子
    if len(text) == 1 and text in lists["single"]:
        return "N"
    if flag[0] == "m" and text[0] not in NUMBER:
        return "N"  # 左手 and its like
    if flag[0] in "mqr":
        return "R" if flag[0] == "r" else "Q"
    if flag[0] == "n" or flag in ("vn", "an", "s", "l", "j", "eng"):
        return "N"
    return {"v": "V", "p": "P", "f": "F", "c": "C", "u": "U", "d": "U", "t": "T"}.get(flag[0], "X")


def clauses(tokens: list[Word]) -> Iterator[list[Word]]:
    clause: list[Word] = []
    parts = _joined(_joined(_joined(_measured(_retold(tokens)), _device), _piece), _during)
    for token in _worn(_joined(_deeds(parts), _several)):
        if CLAUSE.fullmatch(token.text):
            yield clause
            clause = []
        else:
            clause.append(token)
    yield clause


def _retold(tokens: list[Word]) -> Iterator[Word]:
    """The words, with what those beside them tell of their kind."""
    for at, token in enumerate(tokens):
        last = tokens[at - 1] if at else None
        after = tokens[at + 1] if at + 1 < len(tokens) else None
        kind = token.kind
        if token.text == "画" and after is not None and after.kind == "M" and (last is None or last.kind not in "MAD"):
            kind = "V"
        elif token.text in EITHER and (after is None or after.kind not in "AND"):
            kind = "N"
        elif kind == "V" and _may_be_thing(token.text):
            placed = after is not None and after.kind == "F" and after.text in "上里中旁"
            described = last is not None and last.kind in "MD"
            if (placed and described) or ((placed or described) and dictionary.is_no_deed(token.text)):
                kind = "N"  # 门后的挂钩上, 三米高的跳台, 在宣纸上
        elif kind in "APVX" and token.text in WEAR and last is not None and last.kind == "N" and len(last.text) > 1:
            kind = "N"
        elif EXTENT.fullmatch(token.text) and after is not None and after.text in "高长宽深厚大":
            kind = "A"
        yield token._replace(kind=kind)


def _may_be_thing(word: str) -> bool:
    """Whether jieba may be wrong in calling it a verb."""
    carried = word[0] in words("zh")["carry"] and word[-1] in "着有满在成"
    return len(word) > 1 and not carried and not FILLED.fullmatch(word) and not dictionary.is_only_deed(word)


def _measured(tokens: Iterable[Word]) -> Iterator[Word]:
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


def _joined(tokens: Iterable[Word], join: Callable[[Word, Word], Word | None]) -> Iterator[Word]:
    """The words, with one in the place of each two that `join` makes one of."""
    last: Word | None = None
    for token in tokens:
        whole = join(last, token) if last is not None else None
        if whole is None and last is not None:
            yield last
        last = whole or token
    if last is not None:
        yield last


def _device(last: Word, token: Word) -> Word | None:
    """What a thing is for and what it is, which jieba gives apart: 导航 栏."""
    if token.text in DEVICES and token.kind in "NM" and _is_use(last):
        return Word(last.text + token.text, "N", last.start)
    return None


def _piece(last: Word, token: Word) -> Word | None:
    """What a thing was cut into, and what holds things, with no number before it; a shade with its colour: 柠檬 片, 亮 绿色."""
    if last.kind == "N" and token.kind == "Q" and token.text in "片块串条桶盆罐壶瓶杯碗盘箱袋盒篮锅缸":
        return Word(last.text + token.text, "N", last.start)
    if last.text in ("亮", "深", "浅", "淡", "暗") and COLOUR.match(token.text):
        return Word(last.text + token.text, "A", last.start)
    return None


def _during(last: Word, token: Word) -> Word | None:
    """A verb that jieba takes for a noun, with what makes it one: 装饰 着, 卷 了."""
    if last.kind == "N" and (token.text == "着" or (token.text == "了" and len(last.text) == 1)):
        return Word(last.text + token.text, "V", last.start)
    return None


def _is_use(word: Word) -> bool:
    """A verb that may name what a thing is for; not one of having and holding, nor one that has come to an end (装满, 靠在)."""
    lists = words("zh")
    return (
        word.kind == "V"
        and len(word.text) == 2
        and word.text not in lists["verb"]
        and word.text[0] not in lists["carry"]
        and word.text[1] not in "着在了到上下出入满向过起"
    )


def _deeds(tokens: Iterable[Word]) -> Iterator[Word]:
    """Verbs that jieba takes for nouns (射门, 航行), unless they describe a noun: 一名射击运动员."""
    before: Word | None = None
    waiting: Word | None = None
    for token in tokens:
        if waiting is not None:
            described = before is not None and before.kind in "MAD"
            describes = token.kind == "N" and (described or not dictionary.is_only_deed(waiting.text))  # 工作台
            before = waiting._replace(kind="N" if describes else "V")
            yield before
            waiting = None
        if (
            token.kind == "N"
            and len(token.text) > 1
            and token.text not in words("zh")["noun"]
            and _may_only_be_done(token.text)
        ):
            waiting = token
        else:
            yield token
            before = token
    if waiting is not None:
        yield waiting._replace(kind="V")


def _may_only_be_done(word: str) -> bool:
    """Also what is first of all a deed and hardly a thing: 游动."""
    return dictionary.is_only_deed(word) or (tagger().word_tag_tab.get(word) == "vn" and dictionary.is_deed(word))


def _several(last: Word, token: Word) -> Word | None:
    """A noun and its 们, which jieba gives apart: 孩子 们, and 老 人们."""
    if (token.text == "们" and last.kind == "N") or (token.text == "人们" and _is_noun(last.text + "人")):
        return Word(last.text + token.text, "N", last.start)
    return None


def _worn(tokens: Iterable[Word]) -> Iterator[Word]:
    """Join 头 and 戴 where jieba gives them apart and no 一只 or 的 makes the part of the body a thing."""
    before = last = None
    for token in tokens:
        part = (
            before is not None and before.kind in "MD" and before.text[-1] not in "个名位"
        )  # 一只手拿着, but 一个手捧花束的人
        if last is not None and last.text in ("左", "右", "双") and WORN.fullmatch(token.text):
            yield Word(last.text + token.text[0], "N", last.start)
            before, last, token = None, None, Word(token.text[1:], "V", token.start + 1)
        if last is not None and WORN.fullmatch(last.text + token.text) and not part:
            token, last = Word(last.text + token.text, "V", last.start), None
        if last is not None:
            yield last
            before = last
        last = token
    if last is not None:
        yield last
