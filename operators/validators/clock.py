"""Times of day as a clock is read out: "a quarter to nine" is 八点四十五分, 八点三刻 and 九点差一刻, and hardly a number is the same.

Times are minutes since twelve, below 720: which half of the day it is, other words tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from operators.validators import Finding

HOURS = re.split(" ", "twelve one two three four five six seven eight nine ten eleven")
MINUTES = {"quarter": 15, "half": 30, "five": 5, "ten": 10, "twenty": 20, "twenty-five": 25}
HOUR = rf"({'|'.join(HOURS)}|1?\d)\b"
READ_OUT = re.compile(
    rf"\b(?:(?:a )?(quarter|half|five|ten|twenty(?:-five)?|[1-5]?\d)(?: minutes)? (past|after|to|before) {HOUR}(?: o['’]clock)?"
    rf"|{HOUR} o['’]clock)",
    re.IGNORECASE,
)
HAN = "[零一二三四五六七八九十两]{1,3}"
NUMBER = rf"({HAN}|\d{{1,2}})"
SAID = re.compile(
    rf"差(一刻|{HAN}分|\d{{1,2}}分)钟?{NUMBER}点钟?|{NUMBER}点钟?(?:(差)?(半|[一三]刻|(?:零|过)?(?:{HAN}|\d{{1,2}})分?)|整|钟)|{NUMBER}[:：]([0-5]\d)"
)


def without_times(english: str, chinese: str, number: Callable[[str], Sequence[float]]) -> tuple[str, str, Finding | None]:
    """Both texts without the times that a clock is read out as, and whether the Chinese has others. Where one of the two has none
    they stay as they are.

    number   what a Chinese numeral says
    """
    asked = sorted(_of_english(match) for match in READ_OUT.finditer(english))
    said = sorted(_of_chinese(match, number) for match in SAID.finditer(chinese))
    if not asked or not said:
        return english, chinese, None
    finding = None
    if asked != said:
        finding = "numbers", f"{', '.join(map(_shown, asked))} in the English, {', '.join(map(_shown, said))} in the Chinese"
    return READ_OUT.sub(" ", english), SAID.sub(" ", chinese), finding


def _of_english(match: re.Match[str]) -> int:
    word, side, hour, full = match.groups()
    hours = (hour or full).lower()
    minutes = MINUTES.get(word.lower()) or int(word) if word else 0
    at = 60 * (HOURS.index(hours) if hours in HOURS else int(hours))
    return (at - minutes if side and side.lower() in ("to", "before") else at + minutes) % 720


def _of_chinese(match: re.Match[str], number: Callable[[str], Sequence[float]]) -> int:
    before, hour, other, lacking, minutes, digital, rest = match.groups()
    at = 60 * int(number(hour or other or digital)[0])
    if rest:
        return (at + int(rest)) % 720
    part = (before or minutes or "").rstrip("分").lstrip("零过")
    past = {"": 0, "半": 30, "一刻": 15, "三刻": 45}.get(part)
    past = int(number(part)[0]) if past is None else past
    return (at - past if before or lacking else at + past) % 720


def _shown(minutes: int) -> str:
    return f"{minutes // 60 or 12}:{minutes % 60:02d}"
