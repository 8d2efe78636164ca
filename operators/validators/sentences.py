"""Where sentences and quotations begin and end, in English and Chinese."""

from __future__ import annotations

import re

ABBREVIATIONS = frozenset(
    re.split(" ", "mr mrs ms dr prof st mt no vs etc fig approx e.g i.e a.m p.m u.s u.k inc ltd jr sr ca")
)
END = re.compile(r"""[.!?…]+["'”’)\]]*(?=\s|$)|[。！？…]+["'”’」』）)]*""")
QUOTED = re.compile(r"“[^“”]*”|\"[^\"]*\"|「[^「」]*」|『[^『』]*』|《[^《》]*》|‘[^‘’]*’|(?<!\w)'[^'\n]{1,80}'(?!\w)")
UNIT = re.compile(r"[A-Za-zÀ-ɏ]+|[^\W\d_A-Za-zÀ-ɏ]")
"""A Latin word, or a letter of another script."""
TERMINAL = re.compile(r"""[.!?…。！？]["'”’」』）)\]]*$""")


def split(text: str) -> list[str]:
    """Sentences in order; joined by spaces (English) or nothing (Chinese) they give the text back. Quotations are not cut."""
    inside = [(m.start(), m.end()) for m in QUOTED.finditer(text)]
    sentences, start = [], 0
    for match in END.finditer(text):
        around = next(((a, b) for a, b in inside if a < match.start() and match.end() <= b), None)
        if around and (match.end() < around[1] or not _closes(text, start, around)):
            continue
        if match[0].startswith(".") and _abbreviation(text[start : match.start()]):
            continue
        sentences.append(text[start : match.end()].strip())
        start = match.end()
    sentences.append(text[start:].strip())
    return [s for s in sentences if s]


def _closes(text: str, start: int, quotation: tuple[int, int]) -> bool:
    """Whether a full stop at the end of a quotation also ends the sentence around it, which began at `start`."""
    after = text[quotation[1] :].lstrip()
    if not after:
        return True
    if after[0].isascii():
        return after[0].isupper()
    return bool(text[start : quotation[0]].strip())


def join(sentences: list[str], language: str) -> str:
    return ("" if language == "zh" else " ").join(sentences)


def ends_whole(text: str) -> bool:
    """Whether the text ends with a full stop of either script."""
    return TERMINAL.search(text.rstrip()) is not None


def outside_quotes(text: str) -> str:
    """The text with quoted words blanked out: what is written in the picture is not the caption's own voice.

    Where quotations make up two thirds of the text they are no quotations, and the text is given back as it is.
    """
    blanked = QUOTED.sub(lambda m: " " * len(m[0]), text)
    own, all_ = len(UNIT.findall(blanked)), len(UNIT.findall(text))
    return blanked if own >= 3 and own * 3 >= all_ else text


def _abbreviation(before: str) -> bool:
    words = before.split()
    if not words:
        return False
    word = words[-1].lstrip("(\"'“‘").lower()
    if word.isdigit():
        return len(words) == 1  # "1." at the start numbers a list
    return word in ABBREVIATIONS or re.fullmatch(r"[b-hj-z]", word) is not None
