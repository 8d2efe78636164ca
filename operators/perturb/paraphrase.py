"""True paraphrases: the same words' synonyms, and nothing cleverer.

A model that only ever sees edits that are wrong learns that an edit is wrong. These edits change no truth.
"""

from __future__ import annotations

import itertools
import random
import re

from operators import lexicon
from operators.perturb import chinese_words
from operators.perturb.inflect import cased, mend_articles, singular
from operators.perturb.phrase import Edit, Phrase

SAFE_FAMILIES = {"en": {"colour", "size", "count", "relation"}, "zh": {"colour", "size"}}


def paraphrases(phrase: Phrase, count: int, rng: random.Random) -> list[str]:
    """Up to `count` different texts that say the same as the phrase; fewer, or none, where nothing is safe."""
    edits = [*_synonyms(phrase), *_nouns(phrase)]
    single = [Edit([part]).apply(phrase.text) for part in edits]
    double = [
        Edit([a, b]).apply(phrase.text) for a, b in itertools.combinations(edits, 2) if a[1] <= b[0] or b[1] <= a[0]
    ]  # several edits of one place exclude each other
    single += _rebuilt(phrase)
    if phrase.language == "en":
        single, double = ([mend_articles(text) for text in texts] for texts in (single, double))
    rng.shuffle(single)
    rng.shuffle(double)
    return [text for text in dict.fromkeys(single + double) if text != phrase.text][:count]


def _synonyms(phrase: Phrase) -> list[tuple[int, int, str]]:
    found = []
    loose = lexicon.load(phrase.language).traps["loose"]
    for slot in phrase.slots:
        if slot.family not in SAFE_FAMILIES[phrase.language]:
            continue
        old = phrase.text[slot.start : slot.end]
        for word in slot.value.words:
            if (
                word.casefold() == old.casefold()
                or word in loose
                or (slot.family == "size" and word not in ("large", "big", "small", "little"))
            ):
                continue
            if slot.family == "size" and old.casefold() not in ("large", "big", "small", "little"):
                continue
            if phrase.language == "zh" and (len(old) == 1 or len(word) == 1 or slot.family == "size"):
                continue
            if slot.value.shade and phrase.language == "en" and not re.search("gr[ae]y", word):
                continue
            if slot.form == "attr" and slot.family == "colour" and slot.value.noun and slot.value.id not in ("gold",):
                continue
            found.append((slot.start, slot.end, cased(old, word) if phrase.language == "en" else word))
    return found


def _nouns(phrase: Phrase) -> list[tuple[int, int, str]]:
    traps = lexicon.load(phrase.language).traps
    found = []
    for group in traps["nouns"]:
        for noun in group:
            if noun not in traps["safe_nouns"]:
                continue
            pattern = rf"(?<!\w){re.escape(noun)}(?!\w)" if phrase.language == "en" else re.escape(noun)
            for match in re.finditer(pattern, phrase.text, re.I):
                if phrase.language == "en" and match.group() != match.group().lower():
                    continue
                found += [
                    (match.start(), match.end(), other) for other in group if other != noun and other in traps["safe_nouns"]
                ]
    return found


def _rebuilt(phrase: Phrase) -> list[str]:
    """ "A red napkin made of fabric." → "A red fabric napkin.", "A dog with a tail" → "A dog that has a tail", where the phrase is that
    simple; Chinese 红色的车 → 红色车."""
    if phrase.language == "zh":
        slots = [slot for slot in phrase.slots if slot.family == "colour" and phrase.text[slot.end : slot.end + 1] == "的"]
        return [
            phrase.text[: s.end] + phrase.text[s.end + 1 :]
            for s in slots
            if chinese_words.ends_in_noun(phrase.text[s.end + 1 :])
        ]
    found = []
    head = (
        re.match(rf"((?:an?|the) (?:[\w-]+ )*?{re.escape(phrase.head)}) with (?=an? )", phrase.text, re.I)
        if phrase.head
        else None
    )
    if head:  # the first "with" right after a single thing: what it has is what it comes with
        found.append(f"{head[1]} that has {phrase.text[head.end() :]}")
    match = re.fullmatch(r"((?:an?|the) (?:[\w-]+ )*?)([\w-]+) made of ([\w-]+)(\.?)", phrase.text, re.I)
    if not match:
        return found
    slot = next((slot for slot in phrase.slots if slot.family == "material" and slot.form == "made"), None)
    if slot is None or phrase.head != singular(match[2].casefold()):
        return found
    return [*found, f"{match[1]}{slot.value.attr or slot.value.words[0]} {match[2]}{match[4]}"]
