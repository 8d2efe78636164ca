"""Right English–Chinese pairs: written by hand, made of forms, of human translators (the photographs' texts), of categories.

The hand-written ones stand in `written/*.txt` with marks in the Chinese (see the head of people.txt); `templates.yaml` holds the forms.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
PLURALS = {"goose": "geese", "deer": "deer", "wolf": "wolves", "sheep": "sheep", "pony": "ponies", "ox": "oxen"}
NOUNS = {"wooden": "wood"}


@dataclass(frozen=True)
class Segment:
    """Some English and its Chinese, with spans (first, end) in the Chinese."""

    en: str
    zh: str
    colours: tuple[tuple[int, int], ...] = ()  # colours that are one character without 色
    parties: tuple[tuple[int, int], ...] = ()  # none, or the two that can change places
    lost: tuple[tuple[int, int, str], ...] = ()  # negations, with what is left when they are lost
    added: tuple[tuple[int, int, str], ...] = ()  # statements, with what denies them


@dataclass(frozen=True)
class Pair:
    uid: str
    origin: str  # written, forms, photos, categories, natural
    segments: tuple[Segment, ...]

    @property
    def en(self) -> str:
        return " ".join(segment.en for segment in self.segments)

    @property
    def zh(self) -> str:
        return "".join(segment.zh for segment in self.segments)

    @property
    def for_looking_at(self) -> bool:
        """Half of the pairs, always the same, may be looked at while the checks are worked on; the other half gives the figure."""
        return hashlib.sha256(f"0 {self.uid}".encode()).digest()[0] < 128


def parse(en: str, marked: str) -> Segment:
    """A segment from its English and its marked Chinese; ValueError where the marks do not fit."""
    spans: dict[str, list[Any]] = {"{": [], "<": [], "-": [], "+": []}
    zh, opened = "", []
    at = 0
    while at < len(marked):
        char = marked[at]
        if char in "{<":
            opened.append((char, len(zh)))
        elif char in "}>":
            if not opened or opened[-1][0] != {"}": "{", ">": "<"}[char]:
                raise ValueError(f"{marked}: {char!r} closes nothing")
            kind, first = opened.pop()
            spans[kind].append((first, len(zh)))
        elif char == "[":
            found = re.match(r"\[([-+])([^/\]]*)/([^\]]*)\]", marked[at:])
            if not found:
                raise ValueError(f"{marked}: expected [-right/wrong] or [+right/wrong]")
            spans[found[1]].append((len(zh), len(zh) + len(found[2]), found[3]))
            zh += found[2]
            at += found.end() - 1
        else:
            zh += char
        at += 1
    if opened or len(spans["<"]) not in (0, 2):
        raise ValueError(f"{marked}: a mark is left open, or other than two parties are marked")
    return Segment(en, zh, tuple(spans["{"]), tuple(spans["<"]), tuple(spans["-"]), tuple(spans["+"]))


def _pair(uid: str, origin: str, en: str, zh: str) -> Pair:
    left, right = en.split(" | "), zh.split(" | ")
    if len(left) != len(right):
        raise ValueError(f"{uid}: {len(left)} English parts, {len(right)} Chinese ones: {zh}")
    return Pair(uid, origin, tuple(parse(a, b) for a, b in zip(left, right, strict=True)))


def written(folder: Path = HERE / "written") -> Iterator[Pair]:
    for path in sorted(folder.glob("*.txt")):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip() and not line.startswith("#")]
        if len(lines) % 2:
            raise ValueError(f"{path}: an English line without its Chinese")
        for number in range(0, len(lines), 2):
            yield _pair(f"{path.stem}-{number // 2 + 1}", "written", lines[number], lines[number + 1])


def formed(seed: int, per_form: int = 14, path: Path = HERE / "templates.yaml") -> Iterator[Pair]:
    words = yaml.safe_load(path.read_text(encoding="utf-8"))
    draw = random.Random(f"forms {seed}")
    for form, (en, zh) in enumerate(words["forms"]):
        for copy in range(per_form):
            yield _pair(f"form-{form + 1}-{copy + 1}", "forms", *_filled(en, zh, words, draw))


def _filled(en: str, zh: str, words: dict[str, Any], draw: random.Random) -> tuple[str, str]:
    people, animals, things = (draw.sample(words[name], 2) for name in ("people", "animals", "things"))
    named = {"p": people[0], "q": people[1], "a": animals[0], "b": animals[1], "t": things[0], "u": things[1]}
    worn = draw.choice(words["worn"])
    (colour, colour_zh), (other, other_zh) = draw.sample(list(words["colours"].items()), 2)
    material, material_zh = draw.choice(list(words["materials"].items()))
    number, number_zh = draw.choice(list(words["numbers"].items()))
    place, place_zh = draw.choice(words["places"])
    left = {"w": worn[0], "c": colour, "d": other, "m": material, "m.noun": NOUNS.get(material, material)}
    left |= {"n": number, "n.up": number.capitalize(), "l": place, "l.up": place[0].upper() + place[1:]}
    right = {
        "w.bare": worn[1],
        "w.verb": worn[3],
        "c": colour_zh,
        "d": other_zh,
        "m": material_zh,
        "n": number_zh,
        "l": place_zh,
    }
    for key, (english, chinese, measure) in named.items():
        left |= {key: english, f"{key}.plural": PLURALS.get(english, f"{english}s")}
        right |= {
            key: measure + chinese,
            f"{key}.measure": measure,
            f"{key}.bare": chinese,
            f"{key}.m": f"{measure}{material_zh}{chinese}",
        }
        right |= {f"{key}.c": f"{measure}{colour_zh}的{chinese}", f"{key}.d": f"{measure}{other_zh}的{chinese}"}
    made = re.sub(r"{([a-z.]+)}", lambda found: left[found[1]], en)
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", made), re.sub(r"{([a-z.]+)}", lambda found: right[found[1]], zh)


def photographs(path: Path) -> Iterator[Pair]:
    """The human pairs of a photographs' index: Traditional Chinese, converted to Simplified."""
    from opencc import OpenCC

    simplified = OpenCC("tw2sp")
    for row in json.loads(path.read_text(encoding="utf-8")):
        for what in ("title", "text"):
            en, zh = row.get(f"{what}_en"), row.get(f"{what}_zh_tw")
            if en and zh:
                yield Pair(f"{row['file']}-{what}", "photos", (Segment(en.strip(), simplified.convert(zh.strip())),))


def categories(path: Path) -> Iterator[Pair]:
    for row in json.loads(path.read_text(encoding="utf-8")):
        yield Pair(f"category-{row['id']}", "categories", (Segment(row["en"], row["zh"]),))
