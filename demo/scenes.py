"""Seeded scenes whose truth is known: what is where, what it looks like, how it stands to the rest.

    scene = render(7)
    scene.image, scene.things[0].short("en"), scene.normalised(scene.things[0]), captions(scene, "zh", "long")

A scene is the same for the same seed, size and `held_out` in every process and on every machine (up to the last bits of the
Pillow and NumPy builds). Pictures are about 50,000 pixels in nine shapes, from 3:1 to 1:3.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image

from demo import shapes
from demo.captions import caption
from demo.words import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    LIGHTS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    STYLES,
    SURFACES,
    TONES,
    most,
    phrase,
)

SIDES = [(224, 224), (252, 196), (196, 252), (280, 168), (168, 280), (224, 224), (308, 140), (140, 308), (336, 112), (112, 336)]
"""Widths and heights of scenes when none is asked for."""

GAP = 0.02
"""Least free room between things, as a share of sqrt(width · height)."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Thing:
    """One region of a scene: a single object or a group of equal ones.

    box        pixels x1, y1, x2, y2, right and lower edge exclusive, exactly around the drawn pixels
    instances  the boxes of its members
    """

    shape: str
    colour: str
    surface: str
    size: str
    count: int
    box: Box
    instances: tuple[Box, ...]
    place: tuple[int, int]

    @property
    def attributes(self) -> dict[str, str]:
        """Family → value of everything that can be said of it: colour, shape, count, size, and pattern or material."""
        values = {"shape": self.shape, "colour": self.colour, "size": self.size, "count": str(self.count)}
        if self.surface != "plain":
            values[SURFACES[self.surface][0]] = self.surface
        return values

    def short(self, language: str) -> str:
        """The expression that only this thing of the scene fits."""
        return phrase(language, self.shape, self.colour, self.surface, self.size, self.count)


@dataclass(frozen=True)
class Scene:
    seed: int
    image: Image.Image
    things: tuple[Thing, ...]
    background: str
    tone: str
    light: str
    style: str

    @property
    def width(self) -> int:
        return self.image.width

    @property
    def height(self) -> int:
        return self.image.height

    def normalised(self, thing: Thing) -> tuple[float, float, float, float]:
        x1, y1, x2, y2 = thing.box
        return x1 / self.width, y1 / self.height, x2 / self.width, y2 / self.height

    def relation(self, a: Thing, b: Thing) -> str | None:
        """How `a` stands to `b`: "left", "right", "above" or "below" where one of them is plainly true, else None."""
        gap = {
            "left": b.box[0] - a.box[2],
            "right": a.box[0] - b.box[2],
            "above": b.box[1] - a.box[3],
            "below": a.box[1] - b.box[3],
        }
        name, free = max(gap.items(), key=lambda item: item[1])
        return name if free >= 0 else None

    def neighbour(self, thing: Thing) -> tuple[str, Thing] | None:
        """The nearest other thing with a plain relation to `thing`, and that relation."""
        x, y = _centre(thing.box)
        others = sorted(
            (other for other in self.things if other is not thing),
            key=lambda other: (_centre(other.box)[0] - x) ** 2 + (_centre(other.box)[1] - y) ** 2,
        )
        for other in others:
            relation = self.relation(thing, other)
            if relation is not None:
                return relation, other
        return None

    def long(self, thing: Thing, language: str) -> str:
        """The short expression with the thing's place and its neighbour."""
        near = self.neighbour(thing)
        place = PLACES[thing.place][language == "zh"]
        if language == "zh":
            beside = f"，位于{near[1].short('zh')}的{RELATIONS[near[0]][1]}" if near else ""
            return f"画面{place}的{thing.short('zh')}{beside}"
        beside = f", {RELATIONS[near[0]][0]} {near[1].short('en')}" if near else ""
        return f"{thing.short('en')} {place}{beside}"


def captions(scene: Scene, language: str, length: str) -> str:
    """A true caption of the scene, "short" or "long", "en" or "zh"; the wording follows the scene's seed."""
    return caption(scene, language, length)


def render(seed: int, size: tuple[int, int] | None = None, held_out: bool | None = None, things: int | None = None) -> Scene:
    """Draw the scene of a seed.

    size      width, height in pixels; by default one of SIDES
    held_out  True: every thing has a pair of colour and shape from HELD_OUT; False: none has; None: no matter
    things    how many, 2–5 by default (fewer where they do not fit, never below 2)
    """
    digest = hashlib.sha256(f"scene {seed} {held_out}".encode()).digest()
    rng = random.Random(int.from_bytes(digest[:8], "big"))
    noise = np.random.Generator(np.random.PCG64(int.from_bytes(digest[8:16], "big")))
    width, height = size or rng.choice(SIDES)
    kind, tone = rng.choice(list(BACKGROUNDS)), rng.choice(list(TONES))
    light, style = rng.choice(list(LIGHTS)), rng.choice(list(STYLES))
    layout = _arrange(rng, width, height, things or rng.choice((2, 3, 3, 4, 4, 5)), held_out)

    canvas = shapes.background(kind, tone, width, height, noise)
    placed = [_draw(canvas, rng, plan, style) for plan in layout]
    canvas *= _lighting(light, width, height)
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    ordered = sorted(placed, key=lambda thing: (thing.box[0] + thing.box[2]) / width + (thing.box[1] + thing.box[3]) / height)
    return Scene(seed, image, tuple(ordered), kind, tone, light, style)


@dataclass(frozen=True)
class _Plan:
    """What will be drawn where: cells are the boxes of the members before their exact masks are known."""

    shape: str
    colour: str
    surface: str
    size: str
    cells: tuple[tuple[float, float, float], ...]  # x, y, side


def _arrange(rng: random.Random, width: int, height: int, wanted: int, held_out: bool | None) -> list[_Plan]:
    """Things that do not touch, no expression fitting two of them; over half of the scenes have a same-shape distractor."""
    while True:
        plans: list[_Plan] = []
        taken: list[tuple[float, float, float, float]] = []
        for number in range(wanted):
            shape = plans[0].shape if number == 1 and rng.random() < 0.6 else None
            for _ in range(24):
                kind = _looks(rng, shape, held_out)
                if any(_confusable(kind, (plan.shape, plan.colour, plan.surface)) for plan in plans):
                    continue
                size = rng.choice(list(SIZES))
                count = min(rng.choice((1, 1, 1, 1, 1, 2, 2, 3, 3, 4)), most(size))
                cells = _cells(rng, width, height, size, count, taken)
                if cells:
                    taken.append(_hull(cells))
                    plans.append(_Plan(*kind, size, cells))
                    break
        if len(plans) >= 2:
            return plans


def _looks(rng: random.Random, shape: str | None, held_out: bool | None) -> tuple[str, str, str]:
    """Shape, colour and surface of a thing."""
    while True:
        if held_out:
            colour, drawn = rng.choice(sorted(pair for pair in HELD_OUT if shape in (None, pair[1])))
        else:
            colour, drawn = rng.choice(list(COLOURS)), shape or rng.choice(list(SHAPES))
        if held_out is not False or (colour, drawn) not in HELD_OUT:
            return drawn, colour, rng.choice(("plain", "plain", *list(SURFACES)[1:]))


def _confusable(a: tuple[str, str, str], b: tuple[str, str, str]) -> bool:
    """Whether the expression of one could mean the other: "a red ball" fits a red striped ball too."""
    return a[:2] == b[:2] and (a[2] == b[2] or "plain" in (a[2], b[2]))


def _cells(
    rng: random.Random, width: int, height: int, size: str, count: int, taken: list
) -> tuple[tuple[float, float, float], ...] | None:
    """Room for the members of a group in a row, a column or a square, clear of what is taken; None where there is none."""
    unit = (width * height) ** 0.5
    low, high = SIZES[size][1]
    side = rng.uniform(low, high) * unit
    columns = rng.choice([c for c in (1, 2, 3, 4) if c <= count and (count % c == 0)])
    rows = count // columns
    step = side * 1.12
    full_w, full_h = step * (columns - 1) + side, step * (rows - 1) + side
    if full_w > width - 4 or full_h > height - 4:
        columns, rows, full_w, full_h = rows, columns, full_h, full_w
        if full_w > width - 4 or full_h > height - 4:
            return None
    for _ in range(12):
        x, y = rng.uniform(2, width - 2 - full_w), rng.uniform(2, height - 2 - full_h)
        room = GAP * unit
        if all(x - room >= t[2] or x + full_w + room <= t[0] or y - room >= t[3] or y + full_h + room <= t[1] for t in taken):
            return tuple((x + step * c, y + step * r, side) for r in range(rows) for c in range(columns))
    return None


def _draw(canvas: np.ndarray, rng: random.Random, plan: _Plan, style: str) -> Thing:
    """Draw the members of a plan and return the thing with the boxes of its pixels."""
    phase, slant = rng.random(), rng.randrange(3)
    boxes: list[Box] = []
    for x, y, side in plan.cells:
        mask, relief = shapes.mask(plan.shape, rng.choice(shapes.TILTS), rng.random() < 0.5)
        scale = side / max(mask.size)
        w, h = max(4, round(mask.width * scale)), max(4, round(mask.height * scale))
        left, top = int(x + (side - w) / 2), int(y + (side - h) / 2)
        alpha = mask.resize((w, h), Image.Resampling.BILINEAR, reducing_gap=2.0)
        colours, opacity = shapes.surface(plan.surface, plan.colour, w, h, phase, slant)
        colours = colours * shapes.shade(np.asarray(relief.resize((w, h), Image.Resampling.BILINEAR, reducing_gap=2.0)), style)
        edge = shapes.rim(alpha, 2 if style == "outlined" and side > 40 else 1)[..., None]
        ink = np.float32(24.0) if plan.colour != "black" or style == "outlined" else np.float32(78.0)
        colours += (ink - colours) * edge * {"flat": 0.35, "shaded": 0.3, "outlined": 0.9}[style]
        cover = np.asarray(alpha, np.float32) / 255
        if style == "shaded":
            _shadow(canvas, cover, left, top)
        solid = cover if opacity is None else cover * np.maximum(opacity, edge[..., 0])
        part = canvas[top : top + h, left : left + w]
        part += (np.clip(colours, 0, 255) - part) * solid[..., None]
        boxes.append((left, top, left + w, top + h))
    hull = min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes)
    centre_x, centre_y = _centre(hull)
    place = _third(centre_y / canvas.shape[0]), _third(centre_x / canvas.shape[1])
    return Thing(plan.shape, plan.colour, plan.surface, plan.size, len(boxes), hull, tuple(boxes), place)


def _shadow(canvas: np.ndarray, cover: np.ndarray, left: int, top: int) -> None:
    """A soft shadow, a little below and to the right."""
    height, width = canvas.shape[:2]
    dx, dy = 2, max(2, cover.shape[0] // 14)
    part = canvas[top + dy : min(height, top + dy + cover.shape[0]), left + dx : min(width, left + dx + cover.shape[1])]
    part *= 1 - 0.30 * cover[: part.shape[0], : part.shape[1], None]


def _lighting(light: str, width: int, height: int) -> np.ndarray:
    """Brightness [height, width or 1, 1] of the light that falls on the scene."""
    if light == "even":
        return np.ones((1, 1, 1), np.float32)
    length = height if light == "above" else width
    ramp = np.linspace(1.16, 0.70, length, dtype=np.float32)
    if light == "right":
        ramp = ramp[::-1]
    return ramp[:, None, None] if light == "above" else ramp[None, :, None]


def _hull(cells: tuple[tuple[float, float, float], ...]) -> tuple[float, float, float, float]:
    return (
        min(c[0] for c in cells),
        min(c[1] for c in cells),
        max(c[0] + c[2] for c in cells),
        max(c[1] + c[2] for c in cells),
    )


def _third(share: float) -> int:
    return min(2, int(share * 3))


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
