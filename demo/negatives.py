"""Ten texts that are false for a thing of a rendered scene, and known to be: one or two of its visible attributes are swapped.

Half of the groups swap the colour (and something else in one text), the other half are cells of a grid of two attributes. In
both the true text has a random place among the eleven, so that "the one most like the others" does not find it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from demo.scenes import Scene, Thing
from demo.words import COLOURS, COUNTS, SURFACES, most, phrase


@dataclass(frozen=True)
class Claim:
    """What a short expression says. Size "medium" and surface "plain" say nothing."""

    shape: str
    colour: str
    surface: str
    size: str
    count: int

    def text(self, language: str) -> str:
        return phrase(language, self.shape, self.colour, self.surface, self.size, self.count)

    def fits(self, thing: Thing) -> bool:
        return (
            (self.shape, self.colour, self.count) == (thing.shape, thing.colour, thing.count)
            and self.surface in ("plain", thing.surface)
            and self.size in ("medium", thing.size)
        )


def claim_of(thing: Thing) -> Claim:
    return Claim(thing.shape, thing.colour, thing.surface, thing.size, thing.count)


def negatives(scene: Scene, thing: Thing, language: str, rng: random.Random) -> list[dict[str, Any]]:
    """Ten negatives of a thing's short expression, as `docs/shard-format.md` describes them."""
    true = claim_of(thing)
    values = _values(true)
    second = rng.choice([slot for slot in values if slot != "colour"])
    chosen = (_along_colour if rng.random() < 0.5 else _in_grid)(true, values, second, rng)
    rng.shuffle(chosen)
    return [_record(scene, true, claim, language) for claim in chosen]


def _along_colour(true: Claim, values: dict[str, list[Any]], second: str, rng: random.Random) -> list[Claim]:
    """All nine other colours, and one text made from a random one of the ten colours by changing the second attribute."""
    colours = [replace(true, colour=colour) for colour in values["colour"]]
    other = rng.choice([value for value in values[second] if value != getattr(true, second)])
    return [claim for claim in colours if claim != true] + [_with(rng.choice(colours), {second: other})]


def _in_grid(true: Claim, values: dict[str, list[Any]], second: str, rng: random.Random) -> list[Claim]:
    """Ten cells of a grid of colours and values of the second attribute; the true text is a random eleventh."""
    columns = min(4, len(values[second]))
    cells = rng.sample([(row, column) for row in range(6) for column in range(columns)], 11)
    own_row, own_column = cells.pop()
    colours = _around(rng, values["colour"], true.colour, 6, own_row)
    others = _around(rng, values[second], getattr(true, second), columns, own_column)
    return [_with(true, {"colour": colours[row], second: others[column]}) for row, column in cells]


def _values(claim: Claim) -> dict[str, list[Any]]:
    """Slot → values it can take, for the slots that the text names."""
    values: dict[str, list[Any]] = {"colour": list(COLOURS), "count": [n for n in COUNTS if n <= most(claim.size)]}
    if claim.surface != "plain":
        values["surface"] = [surface for surface in SURFACES if surface != "plain"]
    if claim.size != "medium" and claim.count <= most("large"):
        values["size"] = ["small", "large"]
    return values


def _with(claim: Claim, changes: dict[str, Any]) -> Claim:
    return replace(claim, **changes)


def _around(rng: random.Random, values: list[Any], own: Any, size: int, place: int) -> list[Any]:
    """`size` of the values in random order, the own one at `place`."""
    chosen = rng.sample([value for value in values if value != own], size - 1)
    return [*chosen[:place], own, *chosen[place:]]


def _record(scene: Scene, true: Claim, false: Claim, language: str) -> dict[str, Any]:
    slot = next(slot for slot in ("colour", "surface", "size", "count") if getattr(true, slot) != getattr(false, slot))
    start, end, original = changed(true.text(language), false.text(language), by_words=language == "en")
    return {
        "text": false.text(language),
        "family": SURFACES[true.surface][0] if slot == "surface" else slot,
        "span": [start, end],
        "original": original,
        "origin": "lexical",
        "flags": ["present_elsewhere"] if any(false.fits(thing) for thing in scene.things) else [],
    }


def changed(before: str, after: str, by_words: bool) -> tuple[int, int, str]:
    """Where `after` differs from `before`: start and end in `after`, and the words of `before` that stood there."""
    head = 0
    while head < min(len(before), len(after)) and before[head] == after[head]:
        head += 1
    tail = 0
    while tail < min(len(before), len(after)) - head and before[-1 - tail] == after[-1 - tail]:
        tail += 1
    if by_words:
        while head > 0 and after[head - 1] != " ":
            head -= 1
        while tail > 0 and after[len(after) - tail] != " ":
            tail -= 1
    return head, len(after) - tail, before[head : len(before) - tail]
