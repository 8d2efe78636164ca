"""Errors that nobody planted: texts of rendered scenes, translated by the served model at a temperature at which it errs.

A translation is wrong where its words make other claims of the things than the English text (what, which colour, surface, size, how
many); it is right where it is the expected one to the letter. What is neither, such as another preposition, is not judged.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from benchmarks.quality.translations.pairs import Pair, Segment
from demo import lessons
from demo.check_vlm import Server, claims
from demo.scenes import render

SEEDS = 700_000_000
"""Of no scene that is shown, trained on or tried elsewhere."""


def translated(server: Server, texts: int, seed: int) -> Iterator[tuple[Pair, bool | None]]:
    """Pairs of one segment, and whether the translation is right; None where that is not judged."""
    with ThreadPoolExecutor(16) as threads:
        yield from threads.map(
            lambda number: _translated(server, number), range(SEEDS + seed * texts, SEEDS + (seed + 1) * texts)
        )


def _translated(server: Server, number: int) -> tuple[Pair, bool | None]:
    lesson = lessons.translate(render(number), random.Random(number))
    english, expected = lesson.user.removeprefix("原文：").strip(), json.loads(lesson.answer)["translation"]
    chinese = str((server.ask(lesson, None) or {}).get("translation", ""))
    return Pair(str(number), "natural", (Segment(english, chinese),)), judged(english, chinese, expected)


def judged(english: str, chinese: str, expected: str) -> bool | None:
    if chinese == expected:
        return True
    return None if claims(chinese, "zh") == claims(english, "en") else False
