"""Little shards for tests: drawn scenes of coloured shapes with captions, boxes and negatives in both languages, and ugly variants."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLOURS = {
    "red": ("红色", "#d03030"), "green": ("绿色", "#30a040"), "blue": ("蓝色", "#3050d0"), "yellow": ("黄色", "#e0d030"),
    "purple": ("紫色", "#8030b0"), "orange": ("橙色", "#f08020"), "black": ("黑色", "#101010"), "white": ("白色", "#f8f8f8"),
    "pink": ("粉色", "#f090c0"), "brown": ("棕色", "#704020"), "cyan": ("青色", "#30c0c0"), "grey": ("灰色", "#808080"),
}  # fmt: skip
SHAPES = {"circle": "圆形", "square": "方块", "triangle": "三角形", "diamond": "菱形", "cross": "十字"}
PLACES = {"left": "左边", "right": "右边", "top": "上面", "bottom": "下面"}


def scene(rng: random.Random, side: int = 160) -> tuple[bytes, list[dict[str, Any]]]:
    """A picture with two to four objects in the quarters of it, and what stands where."""
    image = Image.new("RGB", (side, side), rng.choice(["#c8c8c0", "#a0b0b8", "#d8d0b0"]))
    draw, half = ImageDraw.Draw(image), side // 2
    objects = []
    for quarter in rng.sample(range(4), rng.randint(2, 4)):
        colour, shape = rng.choice(list(COLOURS)), rng.choice(list(SHAPES))
        size = rng.randint(half // 2, half - 8)
        x = quarter % 2 * half + rng.randint(2, half - size - 2)
        y = quarter // 2 * half + rng.randint(2, half - size - 2)
        _draw(draw, shape, COLOURS[colour][1], x, y, size)
        place = ("top" if quarter < 2 else "bottom") if rng.random() < 0.5 else ("left" if quarter % 2 == 0 else "right")
        box = [value / side for value in (x, y, x + size, y + size)]
        objects.append({"colour": colour, "shape": shape, "place": place, "box": box})
    data = io.BytesIO()
    image.save(data, "JPEG", quality=90)
    return data.getvalue(), objects


def _draw(draw: ImageDraw.ImageDraw, shape: str, fill: str, x: int, y: int, s: int) -> None:
    match shape:
        case "circle":
            draw.ellipse([x, y, x + s, y + s], fill=fill)
        case "square":
            draw.rectangle([x, y, x + s, y + s], fill=fill)
        case "triangle":
            draw.polygon([(x + s // 2, y), (x, y + s), (x + s, y + s)], fill=fill)
        case "diamond":
            draw.polygon([(x + s // 2, y), (x, y + s // 2), (x + s // 2, y + s), (x + s, y + s // 2)], fill=fill)
        case "cross":
            draw.rectangle([x + s // 3, y, x + 2 * s // 3, y + s], fill=fill)
            draw.rectangle([x, y + s // 3, x + s, y + 2 * s // 3], fill=fill)


def phrase(item: dict[str, Any], language: str, colour: str | None = None, place: bool = False) -> str:
    colour = colour or item["colour"]
    if language == "zh":
        return (PLACES[item["place"]] + "的" if place else "") + COLOURS[colour][0] + SHAPES[item["shape"]]
    return f"{colour} {item['shape']}" + (f" at the {item['place']}" if place else "")


def record(uid: str, picture: bytes, objects: list[dict[str, Any]], languages: list[str], side: int, **extra) -> dict[str, Any]:
    texts, regions = [], []
    for language in languages:
        joint, start = ("和", "") if language == "zh" else (" and ", "a picture with ")
        names = [phrase(item, language) for item in objects]
        placed = [phrase(item, language, place=True) for item in objects]
        for length, parts in (("short", names), ("long", placed)):
            texts.append(
                {"text": start + joint.join(parts), "language": language, "length": length, "origin": "source", "by": "test"}
            )
        for item in objects:
            wrong = [colour for colour in COLOURS if colour != item["colour"]][:10]
            negatives = [
                {"text": phrase(item, language, colour), "family": "colour", "span": [0, 1], "original": item["colour"],
                 "origin": "lexical", "flags": []}
                for colour in wrong
            ]  # fmt: skip
            regions.append(
                {"box": item["box"], "score": None, "language": language, "short": phrase(item, language),
                 "long": phrase(item, language, place=True), "origin": "source", "negatives": negatives, "positives": []}
            )  # fmt: skip
    return {
        "format": "fineloom/1", "uid": uid, "source": "test", "license": None, "url": None,
        "sha256": hashlib.sha256(picture).hexdigest(), "image_format": "JPEG", "width": side, "height": side, "texts": texts,
        "regions": regions, "long_negatives": [], "scores": {}, "provenance": {}, **extra,
    }  # fmt: skip


def write_shard(path: Path, samples: list[tuple[str, bytes, bytes]]) -> Path:
    """samples: (uid, picture bytes, json bytes); None for a member leaves it out."""
    with tarfile.open(path, "w") as tar:
        for uid, picture, text in samples:
            for extension, data in (("jpg", picture), ("json", text)):
                if data is not None:
                    member = tarfile.TarInfo(f"{uid}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return path


def write_scenes(
    folder: Path, shards: int, per_shard: int, *, seed: int = 0, languages: tuple[str, ...] = ("en", "zh"), side: int = 160
) -> str:
    """Shards of scenes in `folder`; with two languages every second sample is of each. Gives the pattern that finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    for shard in range(shards):
        samples = []
        for number in range(per_shard):
            uid = hashlib.md5(f"{seed}/{shard}/{number}".encode()).hexdigest()
            picture, objects = scene(rng, side)
            language = languages[(shard * per_shard + number) % len(languages)]
            samples.append((uid, picture, json.dumps(record(uid, picture, objects, [language], side)).encode()))
        write_shard(folder / f"{shard:05d}.tar", samples)
    return str(folder / "*.tar")
