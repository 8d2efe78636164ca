"""Is this text in the language it should be in? Script shares first (cheap, explains itself), then lingua.

lingua-language-detector was right on all short samples tried where three others were not; it costs 0.2 ms a text and 215 MB a
process.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any

from operators.validators import Finding
from operators.validators.sentences import QUOTED, outside_quotes

HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
LATIN_WORD = re.compile(r"[A-Za-zÀ-ɏ]+(?:['’-][A-Za-zÀ-ɏ]+)*")
LATIN_LETTER = re.compile(r"[A-Za-zÀ-ɏḀ-ỿ]")
OTHER_LETTER = re.compile(r"[^\W\d_A-Za-zÀ-ɏ\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
HAN_LETTERS = 4
"""Letters that a Chinese character is worth, about."""
LEAST_LATIN, LEAST_HAN = 0.4, 0.2
"""Of a stranger's text, the share of its letters in the script of its language. Chinese captions are full of brands in Latin letters;
English ones quote other scripts rarely, and briefly."""
MOST_OTHER = 0.25
"""Of the letters of a Chinese text that are not Latin: kana in a brand's name are fewer, those of a Japanese sentence more."""
LEAST_ENGLISH = 0.05
"""Of 17,479 English texts by people with six such words the least had 0.08; sentences in other languages have mostly less than 0.03."""
HEAD = 2000
"""Characters of a stranger's text that are looked at."""
NAMES = {"ENGLISH": "en", "CHINESE": "zh"}


@lru_cache(maxsize=1)
def detector() -> Any:
    from lingua import Language, LanguageDetectorBuilder

    spoken = "ENGLISH CHINESE JAPANESE KOREAN GERMAN FRENCH SPANISH PORTUGUESE ITALIAN DUTCH RUSSIAN VIETNAMESE INDONESIAN"
    return LanguageDetectorBuilder.from_languages(*(getattr(Language, name) for name in spoken.split())).build()


@lru_cache(maxsize=1)
def converter() -> Any:
    """OpenCC's, of characters alone."""
    from opencc import OpenCC

    return OpenCC("t2s")


PARTICLE = re.compile("(?<![显原名专论编遗巨译合土昭卓])著(?![名作者称书述录译于闻])")
"""Taiwan's 著 of an action that lasts, which OpenCC leaves as it is since it may be that of 著名."""
MARKS = str.maketrans(",.;:!?", "，。；：！？")
NARROW = re.compile(rf"(?<={HAN.pattern})[,.;:!?](?={HAN.pattern}|\s|$)")


def to_simplified(text: str) -> str:
    """Traditional characters made simplified, stops and commas between Chinese ones made Chinese; quoted text, which may be what a
    sign says, stays as it is."""
    parts, start = [], 0
    for match in QUOTED.finditer(text):
        parts += [_simplified(text[start : match.start()]), match[0]]
        start = match.end()
    return "".join([*parts, _simplified(text[start:])])


def _simplified(text: str) -> str:
    text = PARTICLE.sub("着", converter().convert(text))
    return NARROW.sub(lambda match: match[0].translate(MARKS), text)


def units(text: str) -> tuple[int, int, int]:
    """Han characters, Latin words, letters of other scripts."""
    return len(HAN.findall(text)), len(LATIN_WORD.findall(text)), len(OTHER_LETTER.findall(text))


def script(text: str, language: str, least: float = 0.85) -> Finding | None:
    """The share of the language's own script outside quotations: Han characters for Chinese, Latin words for English."""
    han, latin, other = units(outside_quotes(text))
    total = han + latin + other
    if not total:
        return "language", "no letters"
    share = (han if language == "zh" else latin) / total
    if share < least:
        return (
            "language",
            f"{share:.2f} of the text in {language} script < {least:.2f} ({han} Han, {latin} Latin words, {other} other)",
        )
    return None


WRITING = re.compile(
    r"\b(?:read(?:s|ing)?|say(?:s|ing)?|writ\w+|words?|letter\w*|characters?|text|sign\w*|label\w*|inscri\w+|name[ds]?)\b", re.I
)


def foreign(sentence: str, language: str) -> Finding | None:
    """One sentence in another language than the text around it: in another script, or in Latin words that are surely no English."""
    bare = outside_quotes(sentence)
    han, latin, other = units(bare)
    if han + latin + other >= 4:
        finding = script(bare, language, 0.3)
        if finding:
            return finding
    if language == "en" and han and not WRITING.search(bare):
        return "language", f"Chinese among English words: “{sentence[:60]}”"
    tongue = _of_words(bare, 0.01) if language == "en" else ""
    return ("language", f"looks like {tongue}: “{sentence[:60]}”") if tongue else None


def _of_words(text: str, least: float) -> str:
    """The language that the text's Latin words are of, where English is less likely than `least`; empty where they are few."""
    small = [word for word in LATIN_WORD.findall(text) if word.islower()]  # names may be of any language
    if len(small) < 6:
        return ""
    values = detector().compute_language_confidence_values(" ".join(small))
    english = sum(value.value for value in values if value.language.name in NAMES)
    return values[0].language.name.title() if english < least else ""


def belied(text: str, language: str) -> str:
    """What speaks against a stranger's text being in the language that it is said to be in; empty where nothing does.

    A caption may be a file's name, a brand or a year, of which nobody can tell the language: its script alone can speak against it.
    Words are asked only where an English text has six that may be no names.
    """
    head = unicodedata.normalize("NFKC", text[:HEAD])
    han, latin = len(HAN.findall(head)), len(LATIN_LETTER.findall(head))
    other = sum(not LATIN_LETTER.match(letter) for letter in OTHER_LETTER.findall(head))
    total = latin + HAN_LETTERS * han + other
    if not total:
        return "" if any(map(str.isdigit, head)) else "neither a letter nor a digit"
    if language == "zh":
        fits = HAN_LETTERS * han >= LEAST_HAN * total and other <= MOST_OTHER * (han + other)
    else:
        fits = latin >= LEAST_LATIN * total
    if not fits:
        return f"{han} Han, {latin} Latin and {other} other letters"
    tongue = _of_words(head, LEAST_ENGLISH) if language == "en" else ""
    return f"looks like {tongue}" if tongue else ""


def identified(text: str, language: str, least_chars: int = 16) -> Finding | None:
    """lingua's opinion, asked only of texts long enough for it to have one."""
    bare = outside_quotes(text)
    if len(bare.strip()) < (least_chars if language == "en" else least_chars // 3):
        return None
    values = detector().compute_language_confidence_values(bare)
    if not values:
        return "language", "no language recognised"
    best = values[0]
    if NAMES.get(best.language.name) == language:
        return None
    return "language", f"looks like {best.language.name.title()} ({best.value:.2f}), expected {language}"
