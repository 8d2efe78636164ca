"""Errors that nobody planted: texts of rendered scenes, translated by the served model at a temperature at which it errs.

A translation is wrong where its words make other claims of the things than the English text (what, which colour, surface, size, how
many), of those named for the first time or of those named again ("below the red ball" as below a cup; that again is left out of a
shortened name is no error); it is right where it is the expected one to the letter. What is neither, such as another preposition, is
not judged.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from benchmarks.quality.translations.pairs import Pair, Segment
from demo import lessons
from demo.check_vlm import Claim, Server, claims, named
from demo.scenes import render

SEEDS = 700_000_000
"""Of no scene that is shown, trained on or tried elsewhere."""


def translated(server: Server, texts: int, seed: int) -> Iterator[tuple[Pair, str | None]]:
    """Pairs of one segment, and what `judged` says of them."""
    with ThreadPoolExecutor(16) as threads:
        yield from threads.map(
            lambda number: _translated(server, number), range(SEEDS + seed * texts, SEEDS + (seed + 1) * texts)
        )


def _translated(server: Server, number: int) -> tuple[Pair, str | None]:
    lesson = lessons.translate(render(number), random.Random(number))
    english, expected = lesson.user.removeprefix("原文：").strip(), json.loads(lesson.answer)["translation"]
    chinese = str((server.ask(lesson, None) or {}).get("translation", ""))
    return Pair(str(number), "natural", (Segment(english, chinese),)), judged(english, chinese, expected)


def judged(english: str, chinese: str, expected: str) -> str | None:
    """ "right"; "wrong"; "again" where only a thing that is named again is another; None where it is not judged."""
    if chinese == expected:
        return "right"
    said, there = named(english, "en"), named(chinese, "zh")
    both = Counter(claim for claim, _ in said) & Counter(claim for claim, _ in there)
    missing = list((Counter(claim for claim, _ in said) - both).elements())
    extra = list((Counter(claim for claim, _ in there) - both).elements())
    again = {claim for claim, known in said if known}
    if len(missing) == len(extra) and all(any(_shortened(one, by) for by in extra) and one in again for one in missing):
        return None
    first = (Counter(claims(english, "en")), Counter(claims(chinese, "zh")))
    return "again" if first[0] == first[1] else "wrong"


def _shortened(claim: Claim, by: Claim) -> bool:
    kept = by.surface in ("plain", claim.surface) and by.size in ("medium", claim.size)
    return kept and (by.shape, by.colour, by.count) == (claim.shape, claim.colour, claim.count)
