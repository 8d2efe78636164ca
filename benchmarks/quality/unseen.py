"""Scenes that neither the model nor the code was made on: seeds, sizes and backgrounds come from the command line."""

from __future__ import annotations

import hashlib
import io
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from benchmarks.quality.truth import Truth
from demo.negatives import Claim, claim_of
from demo.scenes import Scene, Thing, render
from demo.words import COLOURS, SURFACES

FIRST = 700_000_000
"""Where the benchmark's seeds begin: far from those of tables, evaluation shards, model training and check_vlm."""


@dataclass(frozen=True)
class Told:
    """A region whose expression may be wrong.

    true   whether the expression is true of the thing
    """

    scene: Scene
    thing: Thing
    language: str
    text: str
    true: bool

    def region(self) -> dict[str, Any]:
        box = list(self.scene.normalised(self.thing))
        return {"box": box, "score": None, "short": self.text, "long": self.text, "language": self.language, "origin": "source"}


@dataclass(frozen=True)
class Unseen:
    scene: Scene
    uid: str
    picture: Image.Image
    sha256: str


def unseen(seed: int, count: int, sizes: Sequence[tuple[int, int]], backgrounds: Sequence[str]) -> Iterator[Unseen]:
    """`count` scenes of a seed, sizes in turn, only the given backgrounds (all, where none is given), as JPEG makes them."""
    found = 0
    for number in itertools.count():
        size = sizes[found % len(sizes)] if sizes else None
        scene = render(FIRST + seed * 1_000_000 + number, size)
        if backgrounds and scene.background not in backgrounds:
            continue
        buffer = io.BytesIO()
        scene.image.save(buffer, "JPEG", quality=92)
        data = buffer.getvalue()
        digest = hashlib.sha256(data).hexdigest()
        yield Unseen(scene, digest[:32], Image.open(io.BytesIO(data)).convert("RGB"), digest)
        found += 1
        if found == count:
            return


def told(scene: Scene, language: str, wrong: float, rng: random.Random) -> list[Told]:
    """One expression per thing; a share of them is wrong in one attribute, or names another thing."""
    truth = Truth(language)
    found = []
    for thing in scene.things:
        text = thing.short(language)
        if rng.random() < wrong:
            others = [other.short(language) for other in scene.things if other is not thing]
            text = rng.choice([*others, *(altered(claim_of(thing), rng).text(language) for _ in range(2))])
        found.append(Told(scene, thing, language, text, truth(text, thing) is True))
    return found


def altered(claim: Claim, rng: random.Random) -> Claim:
    """A claim that is wrong in its colour, its surface or its number."""
    slot = rng.choice(["colour", "surface", "count"])
    values: dict[str, list[Any]] = {"colour": list(COLOURS), "surface": list(SURFACES)[1:], "count": [1, 2]}
    return replace(claim, **{slot: rng.choice([value for value in values[slot] if value != getattr(claim, slot)])})


def weaker(claim: Claim) -> list[Claim]:
    """True claims that say less: what a negative must never be."""
    return [c for c in (replace(claim, surface="plain"), replace(claim, size="medium")) if c != claim]
