"""English word forms: plural and singular, a and an, capitals."""

from __future__ import annotations

import re

from operators import lexicon

VOWEL = re.compile(
    r"(?!(?:uni(?!n|m)|use|usu|uti|eu|one\b|once|ufo|ubi|ukulele|urin))(?:[aeiou]|hour|honest|honor|honour|heir)", re.I
)
SPELLED_VOWEL = re.compile(r"(?:[AEFHILMNORSX](?![a-z])|8|11\b|18\b)")


def article_for(word: str) -> str:
    """ "an" before a vowel sound, else "a"."""
    return "an" if VOWEL.match(word) or SPELLED_VOWEL.match(word) else "a"


def cased(old: str, new: str) -> str:
    """`new` with the capitals of `old`."""
    if old.isupper() and len(old) > 1:
        return new.upper()
    return new[0].upper() + new[1:] if old[:1].isupper() else new


def mend_articles(text: str) -> str:
    """The text with every "a" and "an" as the next word's sound wants it."""

    def mend(match: re.Match[str]) -> str:
        article = article_for(match[3])
        if match[1][0].isupper():
            article = article.upper() if len(match[1]) > 1 and match[1].isupper() else article.capitalize()
        return article + match[2] + match[3]

    return re.sub(r"\b(an?|An?|AN)(\s+)(\w[\w'-]*)", mend, text)


def plural(noun: str) -> str:
    """dog → dogs, glass → glasses, man → men; keeps the case of what it leaves."""
    nouns = lexicon.load("en").nouns
    low = noun.casefold()
    if low in nouns["unchanging"]:
        return noun
    for single, several in nouns["irregular"].items():
        if low == single or low.endswith("-" + single):
            return noun[: len(noun) - len(single)] + cased(noun[-len(single) :], several)
    if re.search(r"(?:s|x|z|ch|sh)$", low):
        return noun + "es"
    return noun[:-1] + "ies" if re.search(r"[^aeiou]y$", low) else noun + "s"


def singular(noun: str) -> str:
    """The inverse of `plural`; a word that is no plural comes back unchanged."""
    nouns = lexicon.load("en").nouns
    low = noun.casefold()
    if low in nouns["unchanging"] or low in nouns["irregular"] or low in lexicon.load("en").traps["pair_nouns"]:
        return noun
    for single, several in nouns["irregular"].items():
        if low == several or low.endswith("-" + several):
            return noun[: len(noun) - len(several)] + cased(noun[-len(several) :], single)
    if re.search(r"[^aeiou]ies$", low):
        return noun[:-3] + "y"
    if re.search(r"(?:ss|x|zz|ch|sh)es$", low):
        return noun[:-2]
    return noun[:-1] if re.search(r"[^su]s$", low) and low not in ("lens", "gas", "bus", "canvas") else noun
