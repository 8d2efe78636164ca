"""Does a Chinese translation say what the English says? Cheap checks, each for one kind of fault.

Both texts are one segment (a sentence or two) and the Chinese is already in simplified characters. The checks know only a few hundred
words, so they ask about things that must survive a translation and can be counted: colours, numbers, negations, length.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import yaml

from operators.validators import Finding, sentences
from operators.validators.clock import without_times
from operators.validators.form import length_of
from operators.validators.sentences import QUOTED, outside_quotes
from operators.validators.shares import without_shares

# Colours.

SET_PHRASES = re.compile(
    r"\b(?:green onions?|spring greens|black tea|brown (?:sugar|paper|bread|rice)|white (?:rice|cabbage|bread|wine|flour)"
    r"|gr[ae]y herons?|silver birch\w*|red deer|whitewater|white water"
    r"|red (?:onions?|cabbage)|red pandas?|red herring|blackout|white house|orange juice|oranges"
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


HINTS = {
    r"brass\w*|copper\w*": "gold yellow bronze red brown",
    r"ginger|auburn|rust\w*|chestnut\w*|terracotta": "orange yellow brown red maroon",
    r"taupe": "brown grey",
    r"metal\w*|steel|chrome\w*|alumini?um|tin|pewter|iron": "silver grey black",
    r"whitewash\w*|snow\w*|marble|foam\w*|frost\w*": "white",
    r"grass\w*|lawns?|leaf\w*|leaves|foliage|greenery|vegetation|moss\w*|lush|ivy": "green",
    r"dark\w*|night\w*|shadow\w*|silhouette\w*|tinted|monochrome": "black grey brown blue",
    r"pale|fair|milk\w*|egg\w*|clouds?|cloudy": "white yellow gold cream",
    r"blood\w*|bricks?|blush\w*|rosy|embers?": "red pink orange",
    r"fire|fiery|flames?|sunsets?|sunrise|dusk|dawn|sun|sunlight|sunlit": "orange red gold yellow pink",
    r"jeans|denim|sky|skies|sea|ocean": "blue",
    r"stones?|concrete|cement|slate|ash\w*|mist\w*|fog\w*": "grey white",
    r"clay|earth\w*|mud\w*|sepia|tea|coffee|caramel|bark|soil|rattan|wicker|bamboo": "brown yellow red",
    r"jade": "green",
    r"wood\w*|timber|oak|walnut|cork|tann?ed|sand\w*|straw|hay": "brown yellow tan bronze beige",
}
"""Words of no colour whose thing has one: who renders them may say it, and need not."""
BLENDS = re.compile(r"\b(golden)[- ]brown\b", re.IGNORECASE)
"""Two English colours that are one: the first is enough."""


def colours_of_english(text: str) -> Counter[str]:
    en, names, _, _ = colour_table()
    text = BLENDS.sub(r"\1", text)
    kept = {m.start() for m in COLOURED.finditer(text)}
    text = SET_PHRASES.sub(lambda m: m[0] if m.start() in kept else " " * len(m[0]), text)
    found: Counter[str] = Counter()
    last, before = "", -1
    for match in en.finditer(text):
        name = names[match[1].lower()]
        if not (name == last and text[before : match.start()] in ("-", " ")):  # "emerald green" is one green
            found[name] += 1
        last, before = name, match.end()
    return found


def _hinted(english: str) -> set[str]:
    """Colours that the English does not name and that yet are no addition: of set phrases, of what grass and brass look like."""
    en, names, _, _ = colour_table()
    hidden = {names[m[1].lower()] for phrase in SET_PHRASES.finditer(english) for m in en.finditer(phrase[0])}
    return hidden.union(*(of.split() for word, of in HINTS.items() if re.search(rf"\b(?:{word})\b", english, re.IGNORECASE)))


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
    hinted = _hinted(english)
    for word, meanings in named:
        if not any(wanted[name] or name in hinted for name in meanings):
            return "colours", f"{word} is not in the English"
    return _shades(english, chinese)


LIGHT = (r"light|pale|faint|soft|pastel", "浅淡")
DARK = (r"dark|deep", "深暗")


def _shades(english: str, chinese: str) -> Finding | None:
    """A colour that is light in one text and dark in the other, and in neither of them both."""
    en, names, zh, meanings = colour_table()
    for (mine, _), (others, chars) in ((LIGHT, DARK), (DARK, LIGHT)):
        for match in re.finditer(rf"\b(?:{mine})[ -]({en.pattern[3:-3]})\b", english, re.IGNORECASE):
            name = names[match[1].lower()]
            if re.search(rf"\b(?:{others})[ -]{match[1]}\b", english, re.IGNORECASE):
                continue
            said = [m for m in zh.finditer(chinese) if name in meanings[m[1]]]
            if said and all(m[1][0] in chars or chinese[m.start() - 1 : m.start()] in tuple(chars) for m in said):
                return "colours", f"{match[0]} in the English, {said[0][0]} in the Chinese"
    return None


# Numbers.

ONES = {w: i for i, w in enumerate(re.split(" ", "zero one two three four five six seven eight nine ten eleven twelve"))}
ONES |= {w: i + 13 for i, w in enumerate(re.split(" ", "thirteen fourteen fifteen sixteen seventeen eighteen nineteen"))}
TENS = {w: 20 + 10 * i for i, w in enumerate(re.split(" ", "twenty thirty forty fifty sixty seventy eighty ninety"))}
SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
ORDINALS = {"third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10}
ORDINALS |= {"eleventh": 11, "twelfth": 12, "twentieth": 20, "thirtieth": 30} | {f"{w}th": n for w, n in ONES.items() if n > 12}
ENGLISH_NUMBER = re.compile(
    r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\b(?:" + "|".join([*ONES, *TENS, *SCALES, *ORDINALS, "dozen"]) + r")\b",
    re.IGNORECASE,
)
DIGITS = {c: i for i, c in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2, "俩": 2, "仨": 3}
UNITS = {"十": 10, "百": 100, "千": 1000}
MONTHS = re.split(" ", "january february march april may june july august september october november december")
HALF = re.compile(r"\band (?:a|one) half\b", re.IGNORECASE)
HALF_DOZEN = re.compile(r"\bhalf a dozen\b|\bhalf-dozen\b", re.IGNORECASE)
ONE_PART = re.compile(rf"(?<![\w-])one[ -]({'|'.join(ORDINALS)})\b", re.IGNORECASE)
ANOTHER = re.compile(rf"\b(?:a|yet a)[ -](?:{'|'.join(ORDINALS)})\b(?! of\b)", re.IGNORECASE)
"""\"A third man\" beside two others is 还有一个 as well as 第三个."""
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
    text = ONE_PART.sub(r"\1", HALF_DOZEN.sub("six", HALF.sub(".5", text)))  # one third is not one and three
    text = re.sub(rf"\b({'|'.join(ONES)})\s+\.5", lambda m: f"{ONES[m[1].lower()]}.5", text, flags=re.IGNORECASE)

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


KILO = re.compile(r"(?<=[\d零一二两三四五六七八九十百点])\s?千(?=[克米瓦卡帕赫])")


def _split(text: str) -> Iterator[tuple[float, tuple[int, int]]]:
    """三点五 and 三米半, numbers with a half or a fraction behind the whole: values and where they stand."""
    for match in re.finditer(r"([零一二两三四五六七八九十百]+)点([零一二三四五六七八九]+)(?![十分刻])", text):
        yield chinese_number(match[1])[-1] + float("0." + "".join(str(DIGITS[c]) for c in match[2])), match.span()
    for match in re.finditer(r"([零一二两三四五六七八九十百]+|\d+)[个米年岁天小时公斤里]{1,3}半", text):
        value = float(match[1]) if match[1][0].isdigit() else chinese_number(match[1])[-1]
        yield value + 0.5, match.span()


def numbers(english: str, chinese: str) -> Finding | None:
    """Every number of the English is in the Chinese, and the Chinese counts nothing that the English does not count."""
    english, chinese, finding = without_times(english, chinese, chinese_number)
    if finding:
        return finding
    english, chinese, finding = without_shares(english, chinese, chinese_number)
    if finding:
        return finding
    wanted = english_numbers(ANOTHER.sub("another", english))
    # "400 万" and "400万" are one number.
    text = VAGUE.sub(" ", re.sub(r"(?<=\d) (?=[^\x00-\xff])", "", chinese))
    text = KILO.sub("公", text)  # 5千克 are 5 of them, not 5000
    allowed = {value % 100 for value in english_numbers(english)} | {
        MONTHS.index(m) + 1 for m in MONTHS if m in english.lower()
    }
    there: Counter[float] = Counter()
    counted: list[tuple[str, float]] = []
    split = list(_split(text))
    idioms = [(m.start(), m.end()) for m in IDIOM.finditer(text)]
    idioms += [span for value, span in split if value in wanted]
    for match in CHINESE_NUMBER.finditer(text):
        values = chinese_number(match[0])
        there.update(values)
        after = text[match.end() : match.end() + 1]
        firm = match[0][0].isdigit() or (after and after in MEASURE)
        if firm and not any(a <= match.start() < b for a, b in idioms):
            counted += [(match[0] + after, value) for value in values if value > 1]
    there.update(value for value, _ in split)
    if "半打" in text:
        there[6] += 1
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
WITHOUT_A_WORD = re.compile(
    r"光着|光秃|掉光|落光|空空|空荡|空着|空旷|空置|赤[脚足裸膊身]|裸露|裸着|打赤|禁止|严禁|禁[烟停]|谢绝|静止|纯色|素色|素面"
)
"""What is not there, said without a negation."""
HARDLY = re.compile(r"\b(?:hardly|scarcely|barely|seldom|rarely)\b", re.IGNORECASE)
HARDLY_ZH = re.compile(r"几乎|近乎|[很极甚较]少|少有|少见|罕|寥|稀|勉强|难以?|没|不|无|未|刚|才|仅|只|微|隐约|依稀")
CERTAIN_NOT = re.compile(r"没有?|不是|并非|未|并[不无]|不在|不戴|不穿|不带|看不[到见]|毫无|空无|无人")


def negation(english: str, chinese: str) -> Finding | None:
    """As many negations as the English has ("neither … nor" is one), and no more denials than it has words that deny."""
    english, chinese = outside_quotes(english), outside_quotes(chinese)
    wanted = _nots(english, chinese)
    bare = NO_NEGATION.sub(" ", chinese)
    there = len(CHINESE_NOT.findall(bare))
    unsaid = len(WITHOUT_A_WORD.findall(chinese)) - len(NEAR_NOT.findall(english))  # "bare" has its own 空空
    if there + max(0, unsaid) < wanted:
        return "negation", f"{wanted} in the English, {there} in the Chinese"
    hardly = HARDLY.search(english)
    if hardly and not HARDLY_ZH.search(chinese):
        return "negation", f"“{hardly[0]}” is nowhere in the Chinese"
    pairs = [(english, bare)]
    own, theirs = sentences.split(english), sentences.split(bare)
    if len(own) == len(theirs) > 1:
        pairs = list(zip(own, theirs, strict=True))
    for en, zh in pairs:
        lost = _nots(en, zh) - len(CHINESE_NOT.findall(zh))
        if lost > max(0, len(WITHOUT_A_WORD.findall(zh))):
            return "negation", f"{lost} lost in “{zh[:40]}”"
        certain, room = CERTAIN_NOT.findall(zh), _denials(en, zh)
        if len(certain) > room:
            said = f"the English has {room}" if room else "the English denies nothing"
            return "negation", f"{len(certain)} denials (“{certain[0]}”) where {said}"
    return None


UNEQUAL = re.compile(r"(?:\bnot|n['’]t) (?:(?:quite|nearly|even) )?(?:as|so) [\w-]+ as\b", re.IGNORECASE)
FALLS_SHORT = re.compile("没有?[^，。；没]{1,8}[高大长宽厚重快老旧多深远亮粗胖]")


def _nots(english: str, chinese: str) -> int:
    """How many negations the Chinese must have: "not as tall as" may be 比 … 矮."""
    return len(ENGLISH_NOT.findall(english)) - (len(UNEQUAL.findall(english)) if "比" in chinese else 0)


def _denials(english: str, chinese: str) -> int:
    """How many negations of the Chinese the English accounts for. "Not closed" is one, "no houses or roads" may be two."""
    nots = [match.end() for match in ENGLISH_NOT.finditer(english)]
    near = [match for match in NEAR_NOT.finditer(english) if not any(0 <= match.start() - end <= 6 for end in nots)]
    repeated = len(re.findall(r"\bor\b", english)) if nots and re.search("也[没不无]", chinese) else 0
    compared = min(len(re.findall(r"\bthan\b", english)), len(FALLS_SHORT.findall(chinese)))  # 塔没有山高
    return len(nots) + len(near) + repeated + compared


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
    left = _latin(english, chinese)[0]
    return ("untranslated", f"left in English: {', '.join(left[:5])}") if left else None


def without_names(english: str, chinese: str) -> str:
    """The Chinese without the Latin words that it may have."""
    text = SHAPED_LIKE.sub(" ", without_glosses(english, chinese))
    for run in _latin(english, text)[1]:
        text = text.replace(run, " ")
    return text


def _latin(english: str, chinese: str) -> tuple[list[str], list[str]]:
    """Runs of Latin words that should not be in the Chinese, and those that may."""
    source = _plain(english)
    starts = {m.end() for m in re.finditer(r"(?:^|[.!?]\s+)[\"“'(]*", english)}
    names = {_plain(m[0]).strip(".") for m in re.finditer(r"\b[A-ZÀ-Þ][\w'’&.-]*", english) if m.start() not in starts}
    quoted = " ".join(_plain(m[0]) for m in QUOTED.finditer(english))
    left: list[str] = []
    allowed: list[str] = []
    for match in RUN.finditer(GLOSS.sub(" ", SHAPED_LIKE.sub(" ", outside_quotes(chinese)))):
        run = match[0].strip()
        key = _plain(run)
        acronym = run.isupper() and len(run) <= 5 and key in source
        name = key in source and any(re.search(rf"\b{re.escape(n)}\b", key) for n in names)
        (allowed if acronym or name or key in quoted or key in MEASURES else left).append(run)
    return left, allowed


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


COURTESY_ZH = re.compile(r"谢谢|感谢(?:您|你|观看|阅读)|请(?:您|看|注意|欣赏|大家)|敬请|您|不客气")
COURTESY_EN = re.compile(r"\b(?:thank\w*|please|you|your|welcome|sorry|notice)\b", re.IGNORECASE)


def courtesy(english: str, chinese: str) -> Finding | None:
    """Words to a reader whom the English does not speak to."""
    match = COURTESY_ZH.search(outside_quotes(chinese))
    return ("meta", f"“{match[0]}”: the English speaks to nobody") if match and not COURTESY_EN.search(english) else None


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


SHE = (
    r"\w*wom[ae]n|girls?|lad(?:y|ies)|females?|she|her|mothers?|brides?|\w*maids?|nuns?|\w+ess(?:es)?|daughters?|wi(?:fe|ves)|sisters?"
    r"|queens?|witch|aunt|grandm\w+|ballerinas?|hens?|cows?"
)
HE = r"(?!\w*wom)\w*m[ae]n|\w*boys?|males?|guys?|he|his|him|fathers?|groom|sons?|husband|brothers?|kings?|prince|uncle|grandf\w+|monks?"
ON = r"on|above|over|atop|top|upper|up|onto|upon|upside|standing"
UNDER = r"under|below|beneath|underneath|bottom|lower|down|floor|ground|low|hang\w*"
OPEN = r"open\w*|(?:switched|turned) on|lit|on"
OPPOSITES = (
    (r"left", "左|剩|留|离", r"right", "右"),
    (r"right", "右", r"left", "左"),
    (r"wom[ae]n|girls?|lady|ladies|she|her", "女|妇|她|娘|妈|母|姐|妹|奶|婆|姨|姑|尼", HE, "男"),
    (r"m[ae]n|boys?|guys?|he|his|him", "男|他|父|爸|爷|叔|伯|哥|弟|儿子|丈夫|先生|小伙|绅士|汉|少年|老头", SHE, "女|妇"),
    (r"indoors", "室内|屋|里|内", r"outdoors?|outside", "室外|户外"),
    (r"outdoors", "外", r"indoors?|inside", "室内|屋内"),
    (r"under|below|beneath|underneath", "下|底", ON, "上面|上方|顶上|顶部"),
    (r"on top of|above|atop", "上|顶|面", UNDER, "下面|下方|底下"),
    (r"(?:switched|turned) off|closed|shut|unlit", "关|闭|熄|灭|合|没|不|未", OPEN, "开着|打开|亮着|敞开"),
    (r"taller|higher", "高|大", r"shorter|lower|smaller", "矮|低"),
    (r"shorter", "矮|短|小|低", r"taller|higher|longer", "高|长"),
    (r"older", "老|大|长|旧", r"younger|newer", "年轻|年少|年幼"),
    (r"eyes (?:are )?(?:closed|shut)|(?:closed|shut) eyes", "闭|合|眯|[没未不]有? ", r"open\w*", "睁"),
    (r"eyes (?:are )?(?:wide )?open|(?:wide-)?open eyes", "睁|开", r"closed|shut", "闭着|闭上|紧闭|合着眼"),
    (r"sunset|dusk|sundown", "日落|落日|夕|傍晚|黄昏|暮|晚", r"sunrise|dawn|morning|day\w*", "日出|清晨|黎明|拂晓|破晓|朝霞"),
    (
        r"sunrise|dawn",
        "日出|晨|黎明|拂晓|破晓|朝|晓|曙",
        r"sunset|dusk|sundown|evening|night",
        "日落|落日|夕阳|傍晚|黄昏|暮色|晚霞",
    ),
    (r"unlit", "[未没不无]有?被? |熄|灭", r"lit|lights?|burn\w*|glow\w*|candlelit", "点燃|点着|亮着|燃烧"),
)
"""An English word, what renders it (a denied opposite is a blank by then); its opposite, and what surely says that."""


def opposite(english: str, chinese: str) -> Finding | None:
    """The Chinese says the opposite of a word and the word itself nowhere, and the English has no such opposite."""
    english, chinese = outside_quotes(english), re.sub("左右", " ", outside_quotes(chinese))
    # "A is taller than B" is B比A矮 too: which of the two it is, who knows the nouns tells (`crossing`)
    compared = re.search(r"\bthan\b", english, re.IGNORECASE) and "比" in chinese
    for word, rendered, other, denied in OPPOSITES:
        if compared and "taller" in word + other:
            continue
        mine, said = re.search(rf"\b(?:{word})\b", english, re.IGNORECASE), re.search(denied, chinese)
        if not mine or not said or re.search(rf"\b(?:{other})\b", english, re.IGNORECASE):
            continue
        if not re.search(rendered, re.sub(denied, " ", chinese)):
            return "opposite", f"“{mine[0]}” in the English, {said[0]} in the Chinese"
    return None
