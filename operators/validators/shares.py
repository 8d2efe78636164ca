"""Parts of a whole: four fifths are 五分之四, 百分之八十 and 80%, and hardly a number is the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

from operators.validators import Finding

TIMES = re.split(" ", "a one two three four five six seven eight nine")
PARTS = re.split(" ", "half third quarter fifth sixth seventh eighth ninth tenth")
ENGLISH = re.compile(rf"\b({'|'.join(TIMES)})[ -]({'|'.join(PARTS[1:])})s?\b|\bhalf\b", re.IGNORECASE)
PERCENT = re.compile(r"%|\bper ?cent", re.IGNORECASE)
CHINESE = re.compile(r"([二三四五六七八九十])分之([一二三四五六七八九])")
PERCENT_ZH = re.compile(r"(百)分之([一二三四五六七八九十]+|\d+)|(\d+)[%％]")


def without_shares(english: str, chinese: str, number: Callable[[str], Sequence[float]]) -> tuple[str, str, Finding | None]:
    """Both texts without the parts that both say, and whether the Chinese says others. "A third" may be one more, and then the Chinese
    has no part; per cent of the English are left to those who compare numbers.

    number   what a Chinese numeral says
    """
    parts = {match: _of_english(match) for match in ENGLISH.finditer(english)}
    if not parts:
        return english, chinese, None
    patterns = (CHINESE,) if PERCENT.search(english) else (CHINESE, PERCENT_ZH)
    said = {match: _of_chinese(match, number) for pattern in patterns for match in pattern.finditer(chinese)}
    other = set(said.values()) - set(parts.values())
    if other:
        return english, chinese, ("numbers", f"{', '.join(map(str, other))} is not in the English")
    return _without(english, [one for one, share in parts.items() if share in said.values()]), _without(chinese, said), None


def _of_english(match: re.Match[str]) -> Fraction:
    times, part = (match[1] or "a").lower(), (match[2] or "half").lower()
    return Fraction(max(1, TIMES.index(times)), PARTS.index(part) + 2)


def _of_chinese(match: re.Match[str], number: Callable[[str], Sequence[float]]) -> Fraction:
    below, above = ("百", match[3]) if match.re is PERCENT_ZH and match[3] else match.group(1, 2)
    return Fraction(int(number(above)[0]), 100 if below == "百" else int(number(below)[0]))


def _without(text: str, matches: Iterable[re.Match[str]]) -> str:
    for match in sorted(matches, key=re.Match.start, reverse=True):
        text = f"{text[: match.start()]} {text[match.end() :]}"
    return text
