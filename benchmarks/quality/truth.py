"""Is an expression true of a thing that was rendered? True, false, or None: words cannot say ("navy" of something blue).

    judge = Truth("en"); judge("a small crimson ball", thing)

Its words and the rules for them are its own (words.yaml, Pillow's web colours): it must not share the mistakes of what it measures.
"""

from __future__ import annotations

import colorsys
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from PIL import ImageColor

from demo.scenes import Thing
from demo.words import COLOURS, SHAPES, SURFACES

Value = tuple[str, Any]
"""What a word says: ("colour", (r, g, b) or a scene's colour), ("count", 3), ("shape", "ball") …"""


BREAKS = frozenset(["that", "is", "are", "in", "with", "made", "of", "由", "着", "带有", "印有"])
"""Words between which and a noun nothing is said of it."""


@dataclass(frozen=True)
class Mention:
    """A thing as a text names it."""

    shape: str
    values: tuple[Value, ...]
    start: int
    end: int


class Truth:
    def __init__(self, language: str) -> None:
        self.language = language
        self.table = _table(language)
        self.unknown: Counter[str] = Counter()
        """Words that could not be judged."""
        self._words = re.compile(_alternatives(self.table, language), re.I)

    def __call__(self, text: str, thing: Thing) -> bool | None:
        """Whether all of a short expression fits the thing; the whole text must be made of words that are known."""
        values, rest = self._read(text.strip().rstrip(".。"))
        if rest:
            self.unknown[rest] += 1
        verdicts = [self.fits(value, thing) for value in values] + [None] * bool(rest)
        return False if False in verdicts else None if None in verdicts else True

    def _read(self, text: str) -> tuple[list[Value], str]:
        values, rest, at, shade = [], "", 0, False
        for match in self._words.finditer(text):
            rest += text[at : match.start()]
            at = match.end()
            kind, value = self.table[match.group().casefold()]
            if kind == "shade":
                shade = True
            elif kind != "idle":
                values.append(("shaded" if shade and kind == "colour" else kind, value))
                shade = False
        rest = re.sub(r"[\s,，、-]+", " ", rest + text[at:]).strip()
        return values, rest

    def fits(self, value: Value, thing: Thing) -> bool | None:
        kind, said = value
        if kind == "shape":
            return said == thing.shape
        if kind == "count":
            return None if said == 0 else said == thing.count
        if kind == "size":
            return said == thing.size if thing.size != "medium" else None
        if kind == "size between":
            return None
        if kind == "material":
            if SURFACES[thing.surface][0] != "material":
                return None
            exact, group = said
            return exact == thing.surface or (None if group == thing.surface else False)
        if kind == "pattern":
            return self._pattern(said, thing)
        if kind == "shaded":
            return None if _alike(said, thing.colour) else False
        if isinstance(said, str):
            return said == thing.colour
        return None if _alike(said, thing.colour) else False

    @staticmethod
    def _pattern(said: tuple[str, str], thing: Thing) -> bool | None:
        exact, group = said
        if group == "plain":
            return True if thing.surface == "plain" else False if SURFACES[thing.surface][0] == "pattern" else None
        if SURFACES[thing.surface][0] == "material":
            return None
        return exact == thing.surface or (None if group == thing.surface else False)

    def mentions(self, text: str) -> list[Mention]:
        """The things that a longer text names, each with the words right before its noun (English) or up to it (Chinese)."""
        found: list[Mention] = []
        run: list[Value] = []
        at, begin, shade = 0, 0, False
        for match in self._words.finditer(text):
            gap = text[at : match.start()].strip()
            if gap or not run:
                run, shade, begin = [], False, match.start()
            at = match.end()
            if match.group().casefold() in BREAKS:
                run = []
                continue
            kind, value = self.table[match.group().casefold()]
            if kind == "shade":
                shade = True
                run.append(("idle", None))
            elif kind == "shape":
                values = tuple(v for v in run if v[0] != "idle")
                found.append(Mention(value, values, begin, match.end()))
                run = []
            else:
                run.append(("shaded" if shade and kind == "colour" else kind, value))
                shade = False
        return found


def _alike(said: str | tuple[int, int, int], colour: str) -> bool:
    """Whether some would give both names to one thing: near in hue, or both without hue and near in lightness."""
    ours = COLOURS[said][1] if isinstance(said, str) else said
    (h1, l1, s1), (h2, l2, s2) = (colorsys.rgb_to_hls(*(v / 255 for v in rgb)) for rgb in (ours, COLOURS[colour][1]))
    grey1, grey2 = _grey(l1, s1), _grey(l2, s2)
    if grey1 or grey2:
        return abs(l1 - l2) < 0.2 if grey1 and grey2 else abs(l1 - l2) < 0.12
    apart = abs(h1 - h2) * 360
    return min(apart, 360 - apart) < 28


def _grey(lightness: float, saturation: float) -> bool:
    return saturation < 0.2 or lightness > 0.94 or lightness < 0.07


@cache
def _table(language: str) -> dict[str, Value]:
    words = yaml.safe_load((Path(__file__).parent / "words.yaml").read_text(encoding="utf-8"))[language]
    zh = language == "zh"
    table: dict[str, Value] = {}
    if not zh:
        for name in ImageColor.colormap:  # its values become tuples once they have been looked up
            rgb = ImageColor.getrgb(name)
            table[name] = ("colour", rgb[:3])
            spaced = re.sub(r"^(dark|light|medium|pale|deep|hot)", r"\1 ", name)
            table.setdefault(spaced, ("colour", rgb[:3]))
    table |= {word: ("colour", tuple(rgb)) for word, rgb in words["colours"].items()}
    for name, (chinese, _) in COLOURS.items():
        for word in (chinese, chinese.removesuffix("色")) if zh else (name,):
            table[word] = ("colour", name)
    for kind in ("material", "pattern"):
        for group, members in words[f"{kind}s"].items():
            for word in members:
                table[word] = (kind, (word, group))
    for name, (family, chinese) in SURFACES.items():
        if family:
            table[chinese if zh else name] = (family, (name, name))
    for shape, others in words["shapes"].items():
        plural, chinese, _ = SHAPES[shape]
        for word in (chinese, *others) if zh else (shape, plural, *others, *(f"{other}s" for other in others)):
            table[word] = ("shape", shape)
    table |= {word: ("count", number) for word, number in words["numbers"].items()}
    table |= {str(number): ("count", number) for number in range(1, 100)}
    table |= {word: ("size", size) for size in ("small", "large") for word in words[size]}
    table |= {word: ("size between", word) for word in words["sizes_between"]}
    table |= {word: ("shade", word) for word in (*words["light"], *words["dark"])}
    table |= {word: ("idle", None) for word in words["idle"]}
    return {word.casefold(): value for word, value in table.items()}


def _alternatives(table: dict[str, Value], language: str) -> str:
    words = "|".join(re.escape(word) for word in sorted(table, key=len, reverse=True))
    return words if language == "zh" else rf"(?<![\w-])(?:{words})(?![\w-])"
