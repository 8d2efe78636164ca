"""Where sentences and quotations begin and end, in English and Chinese."""

from __future__ import annotations

import re

ABBREVIATIONS = frozenset(
    re.split(" ", "mr mrs ms dr prof st mt no vs etc fig approx e.g i.e a.m p.m u.s u.k inc ltd jr sr ca")
)
END = re.compile(r"""[.!?…]+["'”’)\]]*(?=\s|$)|[。！？…]+["'”’」』）)]*""")
QUOTED = re.compile(r"“[^“”]*”|\"[^\"]*\"|「[^「」]*」|『[^『』]*』|《[^《》]*》|‘[^‘’]*’|(?<!\w)'[^'\n]{1,80}'(?!\w)")
TERMINAL = re.compile(r"""[.!?…。！？]["'”’」』）)\]]*$""")


def split(text: str) -> list[str]:
    """Sentences in order; joined by spaces (English) or nothing (Chinese) they give the text back. Quotations are not cut."""
    inside = [(m.start(), m.end()) for m in QUOTED.finditer(text)]
    sentences, start = [], 0
    for match in END.finditer(text):
        if any(a < match.start() and match.end() < b for a, b in inside):
            continue
        if match[0].startswith(".") and _abbreviation(text[start : match.start()]):
            continue
        sentences.append(text[start : match.end()].strip())
        start = match.end()
    sentences.append(text[start:].strip())
    return [s for s in sentences if s]


def join(sentences: list[str], language: str) -> str:
    return ("" if language == "zh" else " ").join(sentences)


def ends_whole(text: str) -> bool:
    """Whether the text ends with a full stop of either script."""
    return TERMINAL.search(text.rstrip()) is not None


def outside_quotes(text: str) -> str:
    """The text with quoted words blanked out: what is written in the picture is not the caption's own voice.

    Where quotations make up most of the text they are no quotations, and the text is given back as it is.
    """
    blanked = QUOTED.sub(lambda m: " " * len(m[0]), text)
    return blanked if len(blanked.split()) and len(blanked.replace(" ", "")) * 2 >= len(text.replace(" ", "")) else text


def _abbreviation(before: str) -> bool:
    words = before.split()
    if not words:
        return False
    word = words[-1].lstrip("(\"'“‘").lower()
    if word.isdigit():
        return len(words) == 1  # "1." at the start numbers a list
    return word in ABBREVIATIONS or re.fullmatch(r"[b-hj-z]", word) is not None
