"""How often each word describes things in a set of positives: what replacements should be drawn by.

python -m operators.perturb.distribution en < expressions.txt      # prints YAML for the recipe's `distribution`
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import yaml

from operators import lexicon
from operators.perturb import chinese, english


def measure(texts: Sequence[str], language: str, smooth: float = 0.02) -> dict[str, dict[str, float]]:
    """Family → word → weight, from expressions of one language; the form that `HardNegatives.distribution` takes.

    smooth   share of the lexicon's own weights mixed in, so that words unseen in a small sample stay possible. Families that the
             texts never use are left out: there the lexicon's weights stand.
    """
    engine: Any = {"en": english, "zh": chinese}[language]
    seen: dict[str, Counter[str]] = {}
    for phrase in engine.parse(list(texts)):
        for slot in phrase.slots:
            seen.setdefault(slot.family, Counter())[_word(slot.value, phrase.text[slot.start : slot.end])] += 1
    weights: dict[str, dict[str, float]] = {}
    for family, counts in sorted(seen.items()):
        values = [value for value in lexicon.load(language).families[family].values.values() if value.use and value.weight]
        total, mass = sum(counts.values()), sum(value.weight for value in values)
        weights[family] = {word: count / total * (1 - smooth) for word, count in sorted(counts.items())}
        if smooth:
            for value in values:
                word = value.words[0]
                weights[family][word] = weights[family].get(word, 0.0) + smooth * value.weight / mass
    return weights


def _word(value: lexicon.Value, text: str) -> str:
    """The word as the lexicon spells it; forms that depend on the place (木 in 木桌) count for the value's first word."""
    low = text.casefold()
    return next((word for word in value.words if word == low), value.words[0])


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in lexicon.LANGUAGES:
        sys.exit(f"usage: python -m operators.perturb.distribution {{{'|'.join(lexicon.LANGUAGES)}}} < expressions, one a line")
    found = measure([line for line in sys.stdin.read().splitlines() if line.strip()], sys.argv[1])
    rounded = {
        family: {word: round(weight, 5) for word, weight in words.items() if weight >= 5e-6} for family, words in found.items()
    }
    print(yaml.safe_dump({"distribution": rounded}, allow_unicode=True, sort_keys=False), end="")


if __name__ == "__main__":
    main()
