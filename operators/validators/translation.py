"""Does a Chinese translation say what the English says? Cheap checks, each for one kind of fault.

Both texts are one segment (a sentence or two) and the Chinese is already in simplified characters. The checks know only a few hundred
words, so they ask about things that must survive a translation and can be counted: colours, numbers, negations, length.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache
from pathlib import Path

import yaml

from operators.validators import Finding, sentences
from operators.validators.form import length_of
from operators.validators.sentences import QUOTED, outside_quotes

# Colours.

SET_PHRASES = re.compile(
    r"\b(?:green onions?|spring greens|black tea|brown sugar|red pandas?|red herring|blackout|white house|orange juice|oranges"
    r"|blue ?berr(?:y|ies)|black ?berr(?:y|ies)|brown ?stones?|green ?house|golden gate|gold ?fish|gold medal\w*|silver ?ware"
    r"|ice cream|sour cream|whipped cream|cream cheese|cream|olives?|plums?|chocolates?|chestnuts?|copper wire|navy)\b(?!-)",
    re.IGNORECASE,
)
"""English words in which a colour is no colour, or is rendered otherwise; what they name is left to the other checks."""
COLOURED = re.compile(
    r"\b(?:cream|olive|navy|chocolate|plum|chestnut)(?=[- ](?:colou?red|colou?r|blue|green|brown)\b)", re.IGNORECASE
)


@lru_cache(maxsize=1)
def colour_table() -> tuple[re.Pattern[str], dict[str, str], re.Pattern[str], dict[str, frozenset[str]]]:
    table = yaml.safe_load((Path(__file__).parent / "colours.yaml").read_text(encoding="utf-8"))
    english = {word: name for name, words in table.items() for word in words["en"]}
    chinese: dict[str, set[str]] = {}
    for name, words in table.items():
        for word in words["zh"]:
            chinese.setdefault(word, set()).add(name)
    en = re.compile(r"\b(" + "|".join(sorted(map(re.escape, english), key=len, reverse=True)) + r")\b", re.IGNORECASE)
    zh = re.compile("(" + "|".join(sorted(map(re.escape, chinese), key=len, reverse=True)) + ")(色?)")
    return en, english, zh, {word: frozenset(names) for word, names in chinese.items()}


BLENDS = re.compile(r"\b(golden)[- ]brown\b", re.IGNORECASE)
"""Two English colours that are one: the first is enough."""


def colours_of_english(text: str) -> Counter[str]:
    en, names, _, _ = colour_table()
    text = BLENDS.sub(r"\1", text)
    kept = {m.start() for m in COLOURED.finditer(text)}
    text = SET_PHRASES.sub(lambda m: m[0] if m.start() in kept else " " * len(m[0]), text)
    return Counter(names[m[1].lower()] for m in en.finditer(text))


def colours(english: str, chinese: str) -> Finding | None:
    """Every colour as often as in the English; none that the English does not name (judged only where 色 makes it certain)."""
    _, _, zh, names = colour_table()
    wanted = colours_of_english(english)
    there: Counter[str] = Counter()
    named: list[tuple[str, frozenset[str]]] = []
    for match in zh.finditer(chinese):
        there.update(names[match[1]])
        if match[2]:
            named.append((match[0], names[match[1]]))
    if "青花" in chinese:  # blue-and-white porcelain
        there.update(("blue", "white"))
    for name, times in wanted.items():
        if there[name] < times:
            return "colours", f"{name}: {times} in the English, {there[name]} in the Chinese"
    for word, meanings in named:
        if not any(wanted[name] for name in meanings) and not any(
            colours_of_english(m[0]) for m in SET_PHRASES.finditer(english)
        ):
            return "colours", f"{word} is not in the English"
    return None


# Numbers.

ONES = {w: i for i, w in enumerate(re.split(" ", "zero one two three four five six seven eight nine ten eleven twelve"))}
ONES |= {w: i + 13 for i, w in enumerate(re.split(" ", "thirteen fourteen fifteen sixteen seventeen eighteen nineteen"))}
TENS = {w: 20 + 10 * i for i, w in enumerate(re.split(" ", "twenty thirty forty fifty sixty seventy eighty ninety"))}
SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
ORDINALS = {"third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10}
ENGLISH_NUMBER = re.compile(
    r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\b(?:" + "|".join([*ONES, *TENS, *SCALES, *ORDINALS, "dozen"]) + r")\b",
    re.IGNORECASE,
)
DIGITS = {c: i for i, c in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2, "俩": 2, "仨": 3}
UNITS = {"十": 10, "百": 100, "千": 1000}
MONTHS = re.split(" ", "january february march april may june july august september october november december")
ROUND = re.compile(r"\b(?:dozens|hundreds|thousands|millions|centur(?:y|ies)|decades?)\b", re.IGNORECASE)
CHINESE_NUMBER = re.compile(
    r"(?<![A-Za-z\d])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?[百千]?[万亿]?|[零〇一二两三四五六七八九十百千万亿俩仨]+"
)
VAGUE = re.compile(r"几[十百千万]+|[十百千]几|数[十百千万]+|成[百千]上[千万]|[上近约]?[百千万]余|许多|一些")
IDIOM = re.compile(
    r"\d+世纪|三角|四周|四处|四面八方|四面|四方|四肢|八角|五颜六色|五彩|七彩|十分|十足|百叶|千姿百态|万物|万里|三明治|二维码|三脚架|三轮车|十字"
    r"|三文鱼|四合院|五官|百合|千层|万圣|五花|八字|九宫|三叶|四叶|六边|五角|八边|七分|九分|六角|不三不四|一一|统一|唯一|万一|单一|第一"
    r"|四射|四溢|四散|双方|一丝|千年|百年|百货|百姓|百花|千万|三维|二手|三色|四季|五金|十字架|周[一二三四五六日]|星期[一二三四五六日]"
)
MEASURE = (
    "个只条张辆匹座棵朵位名本台架块片根把件排层扇顶幅盏束杯瓶碗盘头艘间栋支枝颗粒串份套组行列种岁人年月米点元部口扎株尊副节枚幢"
    "对双摞群堆道滩缕筐箱壶"
)
TWO_IN_ENGLISH = re.compile(
    r"\b(?:two|both|pairs?|couple|twins?|double|dual|either|each|other|second|twice|half|2|opposite|sides|neither)\b", re.I
)
TWO_IN_CHINESE = re.compile(r"[二两双俩对]|2|成对|都")


def english_numbers(text: str) -> list[float]:
    """Numbers above one in order; "a" and "one" are left out, since Chinese says 一 for much else."""
    found: list[float] = []
    position, after_digits = -1, False
    total = current = 0.0

    def close() -> None:
        nonlocal total, current
        if total + current > 1:
            found.append(total + current)
        total = current = 0.0

    for match in ENGLISH_NUMBER.finditer(text):
        word = match[0].lower()
        joined = position >= 0 and re.fullmatch(r"[\s-]*(?:and\s+)?", text[position : match.start()])
        if not joined or word[0].isdigit() or (after_digits and word not in SCALES):
            close()
        after_digits = word[0].isdigit()
        if word[0].isdigit():
            current = float(word.replace(",", ""))
        elif word in SCALES:
            current = (current or 1) * SCALES[word]
            if SCALES[word] >= 1000:
                total, current = total + current, 0.0
        elif word == "dozen":
            current = (current or 1) * 12
        elif word in ONES and 0 < current < 20 and current % 10:
            close()  # "two three": two numbers
            current = ONES[word]
        else:
            current += ONES.get(word, 0) or TENS.get(word, 0) or ORDINALS.get(word, 0)
        position = match.end()
    close()
    return found


def chinese_number(text: str) -> list[float]:
    """The value of a run of numerals; two values for 三四 ("three or four")."""
    match = re.fullmatch(r"([\d,]+(?:\.\d+)?)([百千]?)([万亿]?)", text)
    if match:
        value = float(match[1].replace(",", ""))
        return [value * UNITS.get(match[2], 1) * {"万": 10**4, "亿": 10**8}.get(match[3], 1)]
    if all(c in DIGITS for c in text) and len(text) > 1:
        if len(text) == 2 and abs(DIGITS[text[0]] - DIGITS[text[1]]) == 1:
            return [float(DIGITS[text[0]]), float(DIGITS[text[1]])]
        return [float(int("".join(str(DIGITS[c]) for c in text)))]
    total = section = digit = 0.0
    for c in text:
        if c in DIGITS:
            digit = DIGITS[c]
        elif c in UNITS:
            section, digit = section + (digit or 1) * UNITS[c], 0
        else:
            total, section, digit = (total + section + digit or 1) * (10**4 if c == "万" else 10**8), 0, 0
    return [total + section + digit]


def numbers(english: str, chinese: str) -> Finding | None:
    """Every number of the English is in the Chinese, and the Chinese counts nothing that the English does not count."""
    wanted = english_numbers(english)
    # "400 万" and "400万" are one number.
    text = VAGUE.sub(" ", re.sub(r"(?<=\d) (?=[^\x00-\xff])", "", chinese))
    allowed = {value % 100 for value in wanted} | {MONTHS.index(m) + 1 for m in MONTHS if m in english.lower()}
    there: Counter[float] = Counter()
    counted: list[tuple[str, float]] = []
    idioms = [(m.start(), m.end()) for m in IDIOM.finditer(text)]
    for match in CHINESE_NUMBER.finditer(text):
        values = chinese_number(match[0])
        there.update(values)
        after = text[match.end() : match.end() + 1]
        firm = match[0][0].isdigit() or (after and after in MEASURE)
        if firm and not any(a <= match.start() < b for a, b in idioms):
            counted += [(match[0] + after, value) for value in values if value > 1]
    there[2] += len(TWO_IN_CHINESE.findall(re.sub(r"[二两俩2]", "", text)))
    for value, times in Counter(wanted).items():
        alternatives = {value, value % 100} if value >= 1900 and value < 2100 else {value}
        if sum(there[v] for v in alternatives) < times and not (value == 12 and "打" in chinese):
            return "numbers", f"{value:g}: {times} in the English, {sum(there[v] for v in alternatives)} in the Chinese"
    for word, value in counted:
        vague = (value == 2 and TWO_IN_ENGLISH.search(english)) or (value >= 10 and ROUND.search(english))
        if value not in wanted and value not in allowed and not vague:
            return "numbers", f"{word} is not in the English"
    return None


# Negation.

ENGLISH_NOT = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|nowhere|neither|without|cannot|lacks?|lacking|devoid)\b(?!\s+only\b)|n['’]t\b",
    re.IGNORECASE,
)
NEAR_NOT = re.compile(
    r"\b(?:un(?!der|til|it|ion|iform|cle|ique)\w{3,}|in(?:visible|complete|distinct|active|dependent)|irregular\w*|illegible"
    r"|dis(?:appear|connect|abl|lik|order|agree|organ|assembl|regard)\w*|(?!unless)\w+less"
    r"|opaque|bare\w*|empty|blank|plain|absent|missing"
    r"|hardly|scarcely|barely|(?<!\ba )few|little (?:or|of|light|detail|space|room|else)|free of|[a-z]+-free|fail\w*|out of|unlike"
    r"|rather than|instead|except|apart from|avoid\w*|refus\w*|prevent\w*|forg[eo]t\w*|yet|unless|nor|far from|beyond"
    r"|(?:switched|turned|taken|cut|broken) off|off(?!-)|lost|loses?|gone|hidden|too|stop(?:s|ped)?|closed|shut|stationary"
    r"|motionless)\b",
    re.IGNORECASE,
)
"""English words that are rightly rendered by a Chinese negation."""
CHINESE_NOT = re.compile(r"没有?|不|无|未|非|别(?!的|致|墅|样|具|人|处)|勿|莫|毫无|缺乏|缺少|缺")
NO_NEGATION = re.compile(
    r"不同|不仅|不过|不但|不只|不少|不断|不锈|不远|不久|不时|不一|不等|不禁|不已|不错|不由|不论|不管|不规则|不大|不透明|不对称|差不多|忍不住|无人机|无论|无数|无比|无边|无限|无疑"
    r"|非常|除非|非洲|未来|无袖|无线|无框|无缝|来不及|了不起|对不起|不可思议|不易|不起眼|别致|川流不息|络绎不绝|若有所|目不转睛|一望无际|栩栩|不倒翁|无花果|没入|淹没|沉没|出没|隐没|埋没|没落"
)
CERTAIN_NOT = re.compile(r"没有?|不是|并非|未|并不|不在|不戴|不穿|不带|看不[到见]|毫无|空无|无人")


def negation(english: str, chinese: str) -> Finding | None:
    """As many negations as the English has ("neither … nor" is one), and no more denials than it has words that deny."""
    english, chinese = outside_quotes(english), outside_quotes(chinese)
    wanted = len(ENGLISH_NOT.findall(english))
    bare = NO_NEGATION.sub(" ", chinese)
    there = len(CHINESE_NOT.findall(bare))
    if there < wanted:
        return "negation", f"{wanted} in the English, {there} in the Chinese"
    pairs = [(english, bare)]
    own, theirs = sentences.split(english), sentences.split(bare)
    if len(own) == len(theirs) > 1:
        pairs = list(zip(own, theirs, strict=True))
    for en, zh in pairs:
        certain, room = CERTAIN_NOT.findall(zh), _denials(en, zh)
        if len(certain) > room:
            said = f"the English has {room}" if room else "the English denies nothing"
            return "negation", f"{len(certain)} denials (“{certain[0]}”) where {said}"
    return None


def _denials(english: str, chinese: str) -> int:
    """How many negations of the Chinese the English accounts for. "Not closed" is one, "no houses or roads" may be two."""
    nots = [match.end() for match in ENGLISH_NOT.finditer(english)]
    near = [match for match in NEAR_NOT.finditer(english) if not any(0 <= match.start() - end <= 6 for end in nots)]
    repeated = len(re.findall(r"\bor\b", english)) if nots and re.search("也[没不无]", chinese) else 0
    return len(nots) + len(near) + repeated


# Words left in English, and length.

LATIN = re.compile(r"[A-Za-zÀ-ɏ](?:[A-Za-zÀ-ɏ'’&.-]*[A-Za-zÀ-ɏ])?")
RUN = re.compile(r"[A-Za-zÀ-ɏ](?:[A-Za-zÀ-ɏ0-9'’&. -]*[A-Za-zÀ-ɏ])?")
MEASURES = frozenset(("cm", "mm", "km", "kg", "ml", "vs", "am", "pm", "wifi", "app", "iphone", "ipad", "logo"))
SHAPED_LIKE = re.compile(r"T恤|[A-Z](?:形|字|型|光|领)")
GLOSS = re.compile(r"[（(]([A-Za-zÀ-ɏ][^（）()]{0,120})[）)]")
"""A name's original spelling in brackets after its translation."""


def without_glosses(english: str, chinese: str) -> str:
    """The Chinese without bracketed spellings whose Latin words are all in the English: they are no sign of another language."""
    source = _plain(english)

    def bare(match: re.Match[str]) -> str:
        return "" if all(_plain(word) in source for word in LATIN.findall(match[1])) else match[0]

    return GLOSS.sub(bare, chinese)


def untranslated(english: str, chinese: str) -> Finding | None:
    """Latin words outside quotations, unless acronyms, units, original spellings in brackets, or names: runs of words that the
    English has too and capitalises within a sentence."""
    source = _plain(english)
    starts = {m.end() for m in re.finditer(r"(?:^|[.!?]\s+)[\"“'(]*", english)}
    names = {_plain(m[0]).strip(".") for m in re.finditer(r"\b[A-ZÀ-Þ][\w'’&.-]*", english) if m.start() not in starts}
    quoted = " ".join(_plain(m[0]) for m in QUOTED.finditer(english))
    left = []
    for match in RUN.finditer(GLOSS.sub(" ", SHAPED_LIKE.sub(" ", outside_quotes(chinese)))):
        run = match[0].strip()
        key = _plain(run)
        acronym = run.isupper() and len(run) <= 5 and key in source
        name = key in source and any(re.search(rf"\b{re.escape(n)}\b", key) for n in names)
        if acronym or name or key in quoted or key in MEASURES:
            continue
        left.append(run)
    return ("untranslated", f"left in English: {', '.join(left[:5])}") if left else None


def _plain(text: str) -> str:
    """Lower case without accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))


def length_ratio(english: str, chinese: str, least: float, most: float) -> Finding | None:
    """Chinese characters for each English word. The shorter the text, the more room: twice as much at six words."""
    words, characters = length_of(english, "en"), length_of(chinese, "zh")
    if not words:
        return None
    ratio, room = characters / words, 1 + 6 / words
    if not least / room <= ratio <= most * room:
        return "length_ratio", f"{ratio:.2f} characters a word, expected {least / room:.2f} to {most * room:.2f}"
    return None


def glossary_kept(english: str, chinese: str, glossary: dict[str, str]) -> Finding | None:
    """Names of the glossary that the English uses are rendered as it says."""
    for name, rendering in glossary.items():
        if re.search(rf"\b{re.escape(name)}\b", english, re.IGNORECASE) and rendering not in chinese:
            return "glossary", f"{name} is not rendered as {rendering}"
    return None


def quotes_kept(english: str, chinese: str) -> Finding | None:
    """Text seen in the picture stays as it is written there: Latin words of English quotations are in the Chinese too."""
    for match in QUOTED.finditer(english):
        words = [w.lower() for w in LATIN.findall(match[0])]
        if words and match[0][0] in '"“' and not any(w in chinese.lower() for w in words) and not QUOTED.search(chinese):
            return "quotes", f"{match[0][:60]} is missing"
    return None


WRITTEN_ZH = re.compile(r"(?:写|印|标|刻|画)着[^，。；]{0,4}[“「\"]|[”」\"](?:的)?(?:字样|几个字|字母)")
WRITTEN_EN = re.compile(
    r"[\"“]|\b(?:say(?:s|ing)?|reads?|reading|writ\w*|words?|letter\w*|text|inscri\w*|label\w*|print\w*|sign(?:s|ed)?|logo|name[ds]?|titled?)\b",
    re.I,
)


def nothing_written(english: str, chinese: str) -> Finding | None:
    """Text on a sign that the English does not speak of at all."""
    match = WRITTEN_ZH.search(chinese)
    if match and not WRITTEN_EN.search(english):
        return "addition", f"“{match[0]}”: the English speaks of no writing"
    return None
