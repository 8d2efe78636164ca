"""Faults of a translator, planted into right pairs: by rules and words of its own (words.yaml), each with its kind and its place."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from benchmarks.quality.translations.pairs import Pair, Segment

HELD_OUT = "swapped arguments"  # what escapes of this kind is counted and never shown
NEAR = {
    "orange": {"red", "yellow", "brown", "gold", "pink"},
    "beige": {"white", "yellow", "brown"},
    "gold": {"yellow", "orange", "brown"},
}
NEAR |= {"silver": {"grey", "white"}, "pink": {"red", "purple"}, "brown": {"orange", "red"}, "red": {"orange", "pink", "brown"}}
NEAR |= {"grey": {"silver"}, "white": {"silver", "beige"}, "yellow": {"gold", "orange", "beige"}, "purple": {"pink"}}
JOINED = "、和与及"


@dataclass(frozen=True)
class Fault:
    """A pair whose Chinese is wrong in one place: the number of the segment, what stood there and what stands there now.

    parts: the Chinese of each segment, the wrong one among them; "" where a sentence was dropped.
    """

    pair: Pair
    kind: str
    parts: tuple[str, ...]
    segment: int
    was: str
    now: str

    @property
    def zh(self) -> str:
        return "".join(self.parts).strip()


Change = tuple[int, int, str]  # in a segment's Chinese: what stands from first to end is replaced


@cache
def words() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text(encoding="utf-8"))
    read["group"] = {colour: group for group, members in read["colours"].items() for colour in members}
    longest = sorted(read["group"], key=len, reverse=True)
    inside = "".join(sorted({char for colour in longest for char in colour} | set(read["shades"])))
    read["colour"] = re.compile(rf"(?<![{inside}])({'|'.join(longest)})色(的?)")
    numerals = "|".join(sorted(read["numerals"], key=len, reverse=True))
    measures = "|".join(sorted(read["measures"], key=len, reverse=True))
    read["number"] = re.compile(rf"(?<![另每同这那第几十百二一])({numerals}|一)(?=({measures}))")
    things = sorted(read["sized"], key=len, reverse=True)
    read["size"] = [
        (re.compile(rf"({'|'.join(pole['zh'])})(?=[^，。、的大小]{{0,4}}?({'|'.join(things)}))"), "|".join(pole["en"]))
        for pole in read["sizes"]
    ]
    read["denial"] = [(re.compile(pattern), by) for pattern, by in read["denials"]]
    return read


def _colour_spans(segment: Segment) -> Iterator[tuple[int, int, str, bool]]:
    """first, end, colour, whether it can be left out."""
    for found in words()["colour"].finditer(segment.zh):
        before, after = segment.zh[: found.start()][-1:], segment.zh[found.end() :][:1]
        free = bool(re.match(r"[一-鿿]", after)) and after not in JOINED + "的" and before not in JOINED + "是成呈刷为"
        yield found.start(), found.end(), found[1], free
    for first, end in segment.colours:
        yield first, end, segment.zh[first:end], True


def dropped_colour(segment: Segment, draw: random.Random) -> Iterator[Change]:
    for first, end, _, free in _colour_spans(segment):
        if free:
            yield first, end, ""


def changed_colour(segment: Segment, draw: random.Random) -> Iterator[Change]:
    for first, end, colour, _ in _colour_spans(segment):
        group = words()["group"][colour]
        around = segment.zh[max(0, first - 1) : first] + segment.zh[end : end + 1]
        joined = any(char in JOINED for char in around) or segment.zh[end - 1 : end + 1] == "色和"
        fit = [one for one in words()["wrong"] if words()["group"][one] not in {group, *NEAR.get(group, ())}]
        if joined:
            fit = [one for one in fit if one not in segment.zh]
        new, old = draw.choice(fit), segment.zh[first:end]
        shade = old[0] if old[0] in "深浅" and new in "红绿蓝紫灰棕" else ""
        yield first, end, shade + new + old[len(colour) :]


def dropped_size(segment: Segment, draw: random.Random) -> Iterator[Change]:
    for chinese, english in words()["size"]:
        for found in chinese.finditer(segment.zh):
            thing = words()["sized"][found[2]]
            if re.search(rf"\b({english}),?( [\w,-]+){{0,3}}? {thing}", segment.en, re.IGNORECASE):
                yield found.start(), found.end(), ""


def changed_number(segment: Segment, draw: random.Random) -> Iterator[Change]:
    for found in words()["number"].finditer(segment.zh):
        if found[1] == "一" and draw.random() > 0.2:
            continue  # "a dog" become "three dogs": some of these, not most
        said = words()["numerals"].get(found[1], 1)
        fit = [one for one in words()["wrong_numerals"] if words()["numerals"][one] != said and one not in segment.zh]
        if fit:
            yield found.start(), found.end(), draw.choice(fit)
    for found in re.finditer(r"\d+", segment.zh):
        last = found[0][-1]
        yield found.end() - 1, found.end(), draw.choice([digit for digit in "123456789" if digit != last])


def lost_negation(segment: Segment, draw: random.Random) -> Iterator[Change]:
    yield from segment.lost


def added_negation(segment: Segment, draw: random.Random) -> Iterator[Change]:
    yield from segment.added
    taken = [(first, end) for first, end, _ in (*segment.lost, *segment.added)]
    for pattern, by in words()["denial"]:
        for found in pattern.finditer(segment.zh):
            if any(first < found.end() + 1 and found.start() - 1 < end for first, end in taken):
                continue
            taken.append(found.span())
            yield found.start(), found.end(), found.expand(by)


def left_in_english(segment: Segment, draw: random.Random) -> Iterator[Change]:
    taken: list[tuple[int, int]] = []
    for chinese, english in sorted(words()["english"].items(), key=lambda item: -len(item[0])):
        at = segment.zh.find(chinese)
        stands = re.search(rf"\b{english}", segment.en, re.IGNORECASE)
        if at < 0 or not stands or any(first < at + len(chinese) and at < end for first, end in taken):
            continue
        taken.append((at, at + len(chinese)))
        yield at, at + len(chinese), draw.choice([english, f" {english} "])


def hallucinated_clause(segment: Segment, draw: random.Random) -> Iterator[Change]:
    clause, key = draw.choice(words()["inventions"])
    if key in segment.en.lower() or not segment.zh.endswith("。"):
        return
    end = len(segment.zh)
    yield (end - 1, end, f"{clause}。") if clause[0] == "，" else (end, end, clause)


def swapped_arguments(segment: Segment, draw: random.Random) -> Iterator[Change]:
    if segment.parties:
        (a, b), (c, d) = segment.parties
        zh = segment.zh
        yield a, d, zh[c:d] + zh[b:c] + zh[a:b]


KINDS: dict[str, Callable[[Segment, random.Random], Iterator[Change]]] = {
    "dropped colour": dropped_colour,
    "changed colour": changed_colour,
    "dropped size": dropped_size,
    "changed number": changed_number,
    "lost negation": lost_negation,
    "added negation": added_negation,
    "left in English": left_in_english,
    "hallucinated clause": hallucinated_clause,
    HELD_OUT: swapped_arguments,
}


def _of_pair(pair: Pair, kind: str, draw: random.Random) -> Iterator[Fault]:
    """Every fault of a kind that the pair offers."""
    for number, segment in enumerate(pair.segments):
        parts = [one.zh for one in pair.segments]
        if kind == "dropped sentence" or kind == "left in English":
            if len(parts) > 1:
                now = "" if kind == "dropped sentence" else f" {segment.en} "
                yield Fault(pair, kind, (*parts[:number], now, *parts[number + 1 :]), number, segment.zh, now)
            if kind == "dropped sentence":
                continue
        for first, end, new in KINDS[kind](segment, draw):
            parts[number] = segment.zh[:first] + new + segment.zh[end:]
            yield Fault(pair, kind, tuple(parts), number, segment.zh[first:end], new)


def plant(pairs: Sequence[Pair], seed: int, per_kind: int = 400) -> list[Fault]:
    """Up to `per_kind` of each kind: as many pairs as there are, hand-written before formed, before any pair has two."""
    faults: list[Fault] = []
    for kind in [*KINDS, "dropped sentence"]:
        draw = random.Random(f"{kind} {seed}")
        turns: list[tuple[int, bool, float, Fault]] = []
        for pair in pairs:
            found = list(_of_pair(pair, kind, draw))
            draw.shuffle(found)
            turns += [(turn, pair.origin != "written", draw.random(), fault) for turn, fault in enumerate(found)]
        turns.sort(key=lambda item: item[:3])
        faults += [fault for *_, fault in turns[:per_kind]]
    return faults
