"""The outer form of a text: long enough, not looping, not cut, made of sentences."""

from __future__ import annotations

import re
from collections import Counter

from operators.validators import Finding
from operators.validators.language import HAN, LATIN_WORD
from operators.validators.sentences import ends_whole, join, outside_quotes, split

FUNCTION_EN = frozenset(
    re.findall(
        r"\w+",
        "a an the of in on at to and or is are with by from its it that this there as for into near while has have his her "
        "their under over behind beside above below between against be which who one two",
    )
)
FUNCTION_ZH = re.compile(r"[的是在了和着有与上下中里一这个两着为并及或左右前后]")


def length_of(text: str, language: str) -> int:
    """Words of an English text; characters of a Chinese one, spaces not counted."""
    return len(text.split()) if language == "en" else len(re.sub(r"\s", "", text))


def length(text: str, language: str, least: int, most: int) -> Finding | None:
    n = length_of(text, language)
    unit = "words" if language == "en" else "characters"
    if n < least:
        return "length", f"{n} {unit} < {least}"
    if n > most:
        return "length", f"{n} {unit} > {most}"
    return None


def tokens(text: str, language: str) -> list[str]:
    """Lower-case words, or single characters of Chinese."""
    if language == "en":
        return re.findall(r"[\w'’-]+", text.lower())
    return re.findall(r"[A-Za-z]+|\d+|[^\W_]", text.lower())


def repetition(text: str, language: str, most: float = 0.35) -> Finding | None:
    """Loops: one unit said over and over in a row, or too large a share of repeated word 4-grams (8 characters in Chinese)."""
    words = tokens(text, language)
    for period in range(1, 13):
        times = 4 if period > 1 else 5
        run = 0
        for i in range(period, len(words)):
            run = run + 1 if words[i] == words[i - period] else 0
            if run >= period * (times - 1):
                unit = ("" if language == "zh" else " ").join(words[i - period + 1 : i + 1])
                return "repetition", f"“{unit}” {times} times in a row"
    n = 4 if language == "en" else 8
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    if len(grams) >= 12:
        share = 1 - len(set(grams)) / len(grams)
        if share > most:
            return "repetition", f"{share:.2f} of {n}-grams are repeats > {most:.2f}"
    return None


def repeated_sentences(sentences: list[str]) -> set[int]:
    """Indices of sentences that were said before, word for word."""
    seen: Counter[str] = Counter()
    again = set()
    for i, sentence in enumerate(sentences):
        key = re.sub(r"[\W_]+", "", sentence.lower())
        seen[key] += 1
        if key and seen[key] > 1:
            again.add(i)
    return again


def whole_sentences(text: str, language: str, was_cut: bool) -> str:
    """The text without an unfinished last sentence; "" when no sentence is whole.

    A text that the model itself ended keeps its only sentence even without a full stop.
    """
    if ends_whole(text):
        return text
    sentences = split(text)
    if len(sentences) == 1:
        return "" if was_cut else text
    return join(sentences[:-1], language)


NONSENSE_EN = re.compile(
    r"\b(?:a|an|the|of|and|with|is|are)\s*[.,;:!?]|\b(?:a|an|the)\s+(?:a|an|the|is|are|of|on|in|to|and)\b|[.,;]\s*[,;.](?!\.)"
    r"|\b(?:is|are)\s+(?:is|are)\b|(?-i:(?<=[a-z]\. )[a-z])",
    re.IGNORECASE,
)
DOTTED = re.compile(r"\b(?:[a-z]\.){2,}", re.IGNORECASE)
"""a.m., e.g., U.S.: letters with stops of their own."""
NONSENSE_ZH = re.compile(r"[，。；、][，。；、]|的的|[，。；、](?:的|着|了|辆|只)|(?:和|与|在|一辆|一只|一个|一张)[，。；、]")
"""What no writer puts together: an article before a full stop, two commas, a particle at the beginning of a clause."""


def coherence(text: str, language: str) -> Finding | None:
    """Word salad: real prose of 20 units or more holds function words and words of ordinary length."""
    bare = outside_quotes(text)
    if language == "zh":
        han = HAN.findall(bare)
        if len(han) < 20:
            return None
        share = len(FUNCTION_ZH.findall(bare)) / len(han)
        if not 0.04 <= share <= 0.45:
            return "incoherent", f"{share:.2f} of the characters are function words, prose has 0.04 to 0.45"
        marks = len(re.findall(r"[，。；、！？,.;!?]", bare))
        if marks < len(han) / 60:
            return "incoherent", f"{marks} punctuation marks in {len(han)} characters"
        return _nonsense(NONSENSE_ZH, text, len(han))
    words = [w.lower() for w in LATIN_WORD.findall(bare)]
    if len(words) < 20:
        return None
    share = sum(w in FUNCTION_EN for w in words) / len(words)
    if not 0.15 <= share <= 0.75:
        return "incoherent", f"{share:.2f} of the words are function words, prose has 0.15 to 0.75"
    mean = sum(map(len, words)) / len(words)
    if not 2.8 <= mean <= 9:
        return "incoherent", f"words of {mean:.1f} letters on average"
    return _nonsense(NONSENSE_EN, DOTTED.sub("", bare), len(words))


def _nonsense(pattern: re.Pattern[str], text: str, size: int) -> Finding | None:
    """More than one impossible combination, and more than two in a hundred units."""
    found = [m[0] for m in pattern.finditer(text)]
    if len(found) > max(1, size / 50):
        return "incoherent", f"{len(found)} combinations that no sentence holds, e.g. “{found[0]}”"
    return None
