"""What an expression denies of its thing, or says only nearly: "a man without a red hat", 没戴红帽子的男人, "an almost black dog".

Another word there makes nothing false: a man without a red hat is without a white one too. So attributes in these spans are no slots,
and a text that gains or loses a denial is no longer the expression with one attribute changed.
"""

from __future__ import annotations

import re

from operators.validators.translation import NO_NEGATION

ENGLISH = re.compile(
    r"(?<![\w-])(?:no|not(?! only)|without|never|neither|nor|none|cannot|lacks?|lacking|missing|devoid of|free (?:of|from)|almost"
    r"|nearly|hardly|barely|scarcely|rather than|instead of|except(?: for)?|apart from|unlike)(?![\w-])|n['’]t\b",
    re.IGNORECASE,
)
CHINESE = re.compile(r"没有?|不是?|无|未|非|并非|缺少?|几乎|近乎|除了?")
HARMLESS = re.compile(NO_NEGATION.pattern.replace("不大|", ""))
STOP = re.compile(r"[,;.:!?，；。：！？]|\bbut\b|而是|但")


def marks(text: str, language: str) -> list[re.Match[str]]:
    """The words that deny or weaken."""
    if language == "en":
        return list(ENGLISH.finditer(text))
    return list(CHINESE.finditer(HARMLESS.sub(lambda m: " " * len(m[0]), text)))


def spans(text: str, language: str) -> list[tuple[int, int]]:
    """Where they reach: to the end of the clause; in Chinese to its last 的, behind which the thing itself stands."""
    found = []
    for mark in marks(text, language):
        stop = STOP.search(text, mark.end())
        end = stop.start() if stop else len(text)
        if language == "zh":
            last = text.rfind("的", mark.end(), end)
            end = last if last > 0 else end
        found.append((mark.end(), end))
    return found


def inside(position: int, found: list[tuple[int, int]]) -> bool:
    return any(first <= position < end for first, end in found)
