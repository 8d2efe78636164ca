"""How well does the served tiny model see? Asked through its real server, greedily, about scenes that it was never shown.

    python -m demo.check_vlm --url http://127.0.0.1:8000/v1 --model qwen2.5-vl --scenes 200 --pixels 28224

Prints, each with its number of cases: attributes named in captions (colour, pattern or material, shape, size, count) in both
languages, on pairs of colour and shape held out as a test too; boxes of phrases asked for one by one and together (mean IoU, wide
and tall pictures apart; boxes of absent things); balanced accuracy of yes/no verdicts; translations whose every attribute is right;
what remains when the picture is blanked; captions of photographs that recaption's validators let through.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import random
import re
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from PIL import Image

from demo import lessons
from demo.negatives import Claim, claim_of
from demo.pictures import PHOTOS, photographs
from demo.scenes import Box, Scene, render
from demo.school import sent
from demo.words import COLOURS, COUNTS, SHAPES, SIZES, SURFACES
from prompts.images import fit
from prompts.load import load

CHECK_SEEDS = 500_000_000
"""Seeds of no table, no evaluation shard and no training."""
SLOTS = ("colour", "surface", "shape", "size", "count")


@dataclass
class Server:
    url: str
    model: str
    temperature: float = 0.0

    def ask(self, lesson: lessons.Lesson, image: Image.Image | None) -> Any:
        """The parsed answer to a lesson's question, or None where it is no JSON."""
        prompt = load(lesson.prompt)
        content: list[dict[str, Any]] = [{"type": "text", "text": lesson.user}]
        if lesson.picture and image:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=95, subsampling=0)
            data = base64.b64encode(buffer.getvalue()).decode()
            content.insert(0, {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}})
        body = {
            "model": self.model,
            "messages": [{"role": "system", "content": lesson.system}, {"role": "user", "content": content}],
            "temperature": self.temperature,
            "max_tokens": prompt.sampling["max_tokens"],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": prompt.answer_schema},
            },
        }
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=600) as reply:
            text = json.load(reply)["choices"][0]["message"]["content"]
        try:
            return json.loads(text, strict=False)
        except (ValueError, TypeError):
            return None


def claims(text: str, language: str) -> list[Claim]:
    """The things that a text names in full ("a small red striped ball"); those named again with "the" are left out."""
    return [claim for claim, known in named(text, language) if not known]


def named(text: str, language: str) -> list[tuple[Claim, bool]]:
    """All things that a text names, and whether as known: with "the" or 那, or without a number, which is then one."""
    if language == "en":
        counts = {word: number for number, (word, _) in COUNTS.items()} | {"an": 1}
        nouns = {noun: shape for shape, (plural, _, _) in SHAPES.items() for noun in (shape, plural)}
        pattern = (
            rf"\b(the )?(?:({'|'.join(counts)}) )?(?:(small|large) )?({'|'.join(COLOURS)}) "
            rf"(?:({'|'.join(list(SURFACES)[1:])}) )?({'|'.join(nouns)})\b"
        )
        found = re.findall(pattern, text.lower())
        return [
            (Claim(nouns[n], c, s or "plain", z or "medium", counts.get(q, 1)), bool(the or not q))
            for the, q, z, c, s, n in found
        ]
    counts = {zh: number for number, (_, zh) in COUNTS.items()}
    colours = {zh: name for name, (zh, _) in COLOURS.items()}
    surfaces = {zh: name for name, (_, zh) in SURFACES.items() if zh}
    sizes = {zh: name for name, (zh, _) in SIZES.items() if zh}
    nouns = {zh: name for name, (_, zh, _) in SHAPES.items()}
    pattern = (
        rf"(那)?(?:([{''.join(counts)}])[个颗])?({'|'.join(colours)})({'|'.join(surfaces)})?"
        rf"([{''.join(sizes)}])?({'|'.join(nouns)})"
    )
    return [
        (Claim(nouns[n], colours[c], surfaces.get(s, "plain"), sizes.get(z, "medium"), counts.get(q, 1)), bool(the or not q))
        for the, q, c, s, z, n in re.findall(pattern, text)
    ]


def paired(truth: list[Claim], said: list[Claim]) -> Iterable[tuple[Claim, Claim | None]]:
    """What each true claim is compared with: itself, wherever it is said; of the others the first with the first that is left."""
    both = Counter(truth) & Counter(said)
    missed, wrong = Counter(truth) - both, Counter(said) - both
    yield from ((claim, claim) for claim in both.elements())
    yield from islice(zip_longest(missed.elements(), wrong.elements()), missed.total())


class Tally:
    """Shares of hits by name."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = defaultdict(list)

    def add(self, name: str, value: float) -> None:
        self.values[name].append(value)

    def mean(self, name: str) -> float:
        return sum(self.values[name]) / max(1, len(self.values[name]))

    def lines(self) -> Iterable[str]:
        for name, values in sorted(self.values.items()):
            yield f"{name:44s} {self.mean(name):6.3f}   n = {len(values)}"


def iou(a: Box, b: Box) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0, wide) * max(0, high)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / max(1, area - shared)


def scene_of(number: int, pixels: int, held_out: bool | None = None) -> Scene:
    scene = render(CHECK_SEEDS + number, held_out=held_out)
    return sent(scene, *fit(scene.width, scene.height, pixels), random.Random(number))


def check_captions(server: Server, tally: Tally, pixels: int, number: int, held_out: bool = False, blank: bool = False) -> None:
    scene = scene_of(number, pixels, True if held_out else None)
    image = Image.new("RGB", scene.image.size, (128, 128, 128)) if blank else scene.image
    group = "blank picture" if blank else "held-out pairs" if held_out else "captions"
    for language in ("en", "zh"):
        answer = server.ask(lessons.long_caption(scene, language, random.Random(0)), image) or {}
        said = claims(str(answer.get("caption", "")), language)
        truth = [claim_of(thing) for thing in scene.things]
        for true, named in paired(truth, said):
            for slot in SLOTS:
                tally.add(
                    f"{group} {language}: {slot}", float(named is not None and getattr(named, slot) == getattr(true, slot))
                )
        for claim in said:
            tally.add(f"{group} {language}: things said that are there", float(claim in truth))


def check_boxes(server: Server, tally: Tally, pixels: int, number: int, together: int) -> None:
    """Phrases of all things of a scene and of some that are not there, in any order, so many in a question."""
    scene, other = scene_of(number, pixels), scene_of(number + 1_000_000, pixels)
    language = ("en", "zh")[number % 2]
    rng = random.Random(number)
    asked = {claim_of(thing).text(language): thing.box for thing in scene.things}
    others: list[tuple[str, str, lessons.Fits]] = [
        ("absent things", claim_of(thing).text(language), claim_of(thing).fits) for thing in other.things[:1]
    ]
    others += [("near misses", *lessons.near_miss(scene, thing, language, rng)) for thing in scene.things[:2]]
    absent = {text: kind for kind, text, fits in others if not any(map(fits, scene.things))}
    phrases = rng.sample([*asked, *absent], len(asked) + len(absent))
    boxes: dict[str, Box] = {}
    for start in range(0, len(phrases), together):
        part = phrases[start : start + together]
        answer = server.ask(lessons.Lesson("ground", lessons.numbered(part), ""), scene.image) or {}
        for item in reversed(answer.get("boxes", [])):
            if 1 <= item["phrase"] <= len(part):
                boxes[part[item["phrase"] - 1]] = tuple(item["bbox_2d"])
    ratio = scene.width / scene.height
    shape = "wide and tall" if max(ratio, 1 / ratio) > 2.5 else "squarish" if max(ratio, 1 / ratio) < 1.3 else "between"
    group = "boxes, one by one" if together == 1 else f"boxes, {together} together"
    for text, box in asked.items():
        value = iou(box, boxes[text]) if text in boxes else 0.0
        tally.add(f"{group}: mean IoU, {shape} pictures", value)
        tally.add(f"{group}: mean IoU", value)
        tally.add(f"{group}: IoU above one half", float(value > 0.5))
    for text, kind in absent.items():
        tally.add(f"{group}: {kind} without a box", float(text not in boxes))


def check_verdicts(server: Server, tally: Tally, pixels: int, number: int) -> None:
    scene, other = scene_of(number, pixels), scene_of(number + 1_000_000, pixels)
    language = ("en", "zh")[number % 2]
    lesson = lessons.verify(scene, language, random.Random(number), other)
    answer = server.ask(lesson, scene.image) or {}
    for given, true in zip(answer.get("verdicts", []), json.loads(lesson.answer)["verdicts"], strict=False):
        tally.add(f"verdicts: {'true' if true else 'false'} texts", float(given == true))


def check_translation(server: Server, tally: Tally, pixels: int, number: int) -> None:
    scene = replace(render(CHECK_SEEDS + number), seed=number)
    lesson = lessons.translate(scene, random.Random(number))
    answer = server.ask(lesson, None) or {}
    english = lesson.user.removeprefix("原文：")
    tally.add("translation: word for word", float(answer == json.loads(lesson.answer)))
    tally.add("translation: every attribute", float(claims(str(answer.get("translation", "")), "zh") == claims(english, "en")))


def check_photographs(server: Server, tally: Tally, pixels: int, folder: Path) -> None:
    from operators.base import Answer
    from operators.recaption import Recaption

    trained_on = {record["file"] for record in photographs()} if folder == PHOTOS else set()
    for path in sorted(folder.glob("*.jpg")):
        image = Image.open(path).convert("RGB")
        image = image.resize(fit(*image.size, pixels), Image.Resampling.BICUBIC)
        for language in ("en", "zh"):
            answer = server.ask(lessons.long_caption(None, language, random.Random(0)), image) or {}
            operator = Recaption.model_validate({"language": language})
            operator.setup()
            text, _, _ = operator.judge(Answer(json.dumps(answer, ensure_ascii=False), "stop", 0, 0, ""))
            group = "trained on" if path.name in trained_on else "never seen"
            tally.add(f"photographs ({group}): captions let through", float(text is not None))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.check_vlm", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", default="qwen2.5-vl")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--pixels", type=int, default=28_224, help="the pixel budget that the model was trained with")
    parser.add_argument("--photographs", type=Path, default=PHOTOS, help="a folder of JPEG photographs")
    options = parser.parse_args()
    server, tally = Server(options.url, options.model), Tally()
    checks = [
        check_captions,
        partial(check_captions, held_out=True),
        partial(check_captions, blank=True),
        partial(check_boxes, together=1),  # as the demo's recipe asks
        partial(check_boxes, together=8),
        check_verdicts,
        check_translation,
    ]
    with ThreadPoolExecutor(16) as pool:
        for check in checks:
            list(pool.map(lambda number, check=check: check(server, tally, options.pixels, number), range(options.scenes)))
    check_photographs(server, tally, options.pixels, options.photographs)
    for line in tally.lines():
        print(line)
    balanced = (tally.mean("verdicts: true texts") + tally.mean("verdicts: false texts")) / 2
    print(f"{'verdicts: balanced accuracy':44s} {balanced:6.3f}")


if __name__ == "__main__":
    main()
