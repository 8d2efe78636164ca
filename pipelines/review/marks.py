"""The words that a validator's finding speaks of, marked in the texts that it compared."""

from __future__ import annotations

import re

from operators.validators import translation as pair

TERMS = re.compile(r"[A-Za-z][A-Za-z'’-]+|[\u3400-\u9fff]+|\d+(?:\.\d+)?")
WORDS = re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)*|\d+(?:\.\d+)?")
NUMERALS = re.compile("[〇零一二两三四五六七八九十百千万]+")
COMMON = re.compile(
    "(a|added|all|an|and|chinese|colours|english|han|in|is|it|language|latin|left|less|lost|missing|more|negation|not|numbers|of|or|other|"
    "quotes|script|segment|than|texts?|the|to|untranslated|words?)",
    re.IGNORECASE,
)


def marked(text: str, findings: list[str]) -> list[tuple[bool, str]]:
    """The text in pieces; True: a finding names it."""
    spans: list[tuple[int, int]] = []
    for finding in findings:
        for term in TERMS.findall(finding.partition(": ")[2].partition(" in the English")[0] or finding):
            if COMMON.fullmatch(term):
                continue
            bounds = r"\b{}\b" if term.isascii() else "{}"
            spans += [match.span() for match in re.finditer(bounds.format(re.escape(term)), text, re.IGNORECASE)]
            if term[0].isdigit():
                spans += _numbers(text, float(term))
    pieces: list[tuple[bool, str]] = []
    end = 0
    for start, stop in sorted(spans):
        if start < end:
            continue
        if start > end:
            pieces.append((False, text[end:start]))
        pieces.append((True, text[start:stop]))
        end = stop
    return [*pieces, (False, text[end:])] if end < len(text) else pieces


def _numbers(text: str, value: float) -> list[tuple[int, int]]:
    found = [match.span() for match in WORDS.finditer(text) if pair.english_numbers(match[0]) == [value]]
    return found + [match.span() for match in NUMERALS.finditer(text) if value in pair.chinese_number(match[0])]
