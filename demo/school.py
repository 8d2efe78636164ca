"""What a step of the tiny model's training shows: ever-new scenes, with questions and answers about them, as rows of tokens."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from demo import lessons, seeing, words
from demo.captions import joined, long_pairs, short_pair
from demo.evaluation import MODEL_SEEDS
from demo.model import SPECIAL, tokenizer_of
from demo.negatives import negatives
from demo.scenes import SIDES, Box, Scene, render
from prompts.images import fit

SIZES = [*SIDES, *SIDES[-2:], (252, 168), (168, 252), (196, 196), *2 * [(364, 112), (112, 364)]]
"""Widths and heights that are drawn, the widest and tallest twice: boxes are harder to learn there, for each place is seen less often.
`--pixels` says what the client then makes of them."""
INTEGERS = 512
"""0 … 511 are one token each."""
LITERALS = [
    '{"caption":"', '{"boxes":[', '{"phrase":', ',"bbox_2d":[', ']},', ']}]}', '{"verdicts":[', "true", "false", '{"texts":["', '","',
    '{"translation":"', '{"errors":[', '{"span":"', '","kind":"mistranslation","severity":"major"}', '"}', '"]}', "]}",
]  # fmt: skip
"""Fixed parts of the answers' JSON, one token each: the server spends its time on what differs."""
BOX = ',"bbox_2d":['
AFTER_USER = "<|im_end|>\n<|im_start|>assistant\n"
PHOTOS = Path(__file__).parent / "photos"
PROMPTS = [
    "long_caption_en", "long_caption_zh", "ground", "hard_negatives", "verify_negatives", "check_sentences",
    "translate_en_zh", "translate_zh_en", "judge_translation",
]  # fmt: skip


def make_tokenizer(scenes: int = 300) -> Any:
    """Byte-level BPE with atomic integers, whole attribute words in Chinese, fixed JSON and system sentences as one token."""
    from tokenizers import Regex, pre_tokenizers

    rng = random.Random(0)
    corpus: list[str] = []
    for seed in range(scenes):
        scene = render(MODEL_SEEDS + seed)
        for _ in range(2):
            pairs = long_pairs(scene, rng)
            corpus += [joined([en for en, _ in pairs], "en"), joined([zh for _, zh in pairs], "zh"), *short_pair(scene, rng)]
        corpus += [thing.short(language) for thing in scene.things for language in ("en", "zh")]
        rewritten = [record["text"] for record in negatives(scene, rng.choice(scene.things), "en", rng)]
        corpus += [json.dumps({"texts": rewritten}, separators=(",", ":")), lessons.judge(scene, rng).answer]
    corpus += [
        word for language in lessons.STRANGE.values() for group in language.values() for word in group for _ in range(20)
    ]
    corpus += [text for text in lessons.NOTHING.values() for _ in range(50)]
    systems = [lessons.system_text(name) for name in PROMPTS]
    corpus += systems * 20
    whole_words = "|".join(lessons.all_words())
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(whole_words), "isolated"),
            pre_tokenizers.Split(Regex('[。，、；：！？“”（）\\[\\]{}":,]'), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    pieces = (
        [str(number) for number in range(INTEGERS)]
        + LITERALS
        + sorted({piece for text in systems for piece in _sentences(text)})
    )
    return tokenizer_of(corpus, 1500, whole=pieces, split=split)


def _sentences(text: str) -> list[str]:
    """The sentences of a system text, each of which becomes a token."""
    parts = [
        part for part in text.replace("。", "。\n").replace("; ", "; \n").replace(". ", ". \n").split("\n") if part.strip()
    ]
    return [part.strip() for part in parts]


class School(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    """Endless batches: pictures of one size, several questions about each, and questions about texts alone."""

    def __init__(
        self, tokenizer: Any, scenes: int, questions: int, texts: int, seed: int, pixels: int = 28_224, first: int = 0
    ) -> None:
        self.tokenizer, self.scenes, self.questions, self.texts, self.seed = tokenizer, scenes, questions, texts, seed
        self.pixels, self.first = pixels, first
        self.special = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
        self.photos = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*.jpg"))]

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = torch.utils.data.get_worker_info()
        number, step = (worker.id, worker.num_workers) if worker else (0, 1)
        torch.set_num_threads(1)
        batch = self.first + number
        while True:
            yield self.batch(batch)
            batch += step

    def batch(self, number: int) -> dict[str, torch.Tensor]:
        rng = random.Random(f"{self.seed} {number}")
        drawn = rng.choice(SIZES)
        width, height = fit(*drawn, self.pixels)
        pictures = np.empty((self.scenes, height, width, 3), np.uint8)
        truths: list[tuple[np.ndarray, ...]] = []
        asked: list[tuple[Row, int]] = []
        first = MODEL_SEEDS + 100_000 + (self.seed << 32) + number * self.scenes
        previous = sent(render(first - 1, size=drawn), width, height, rng)
        for i in range(self.scenes):
            real = sent(render(first + i, size=drawn), width, height, rng)
            scene = real if rng.random() > 0.06 else None
            pictures[i] = np.asarray(real.image if scene else self.no_scene(rng, (width, height)))
            truths.append(seeing.facts_of(scene, width, height))
            for _ in range(self.questions):
                asked.append((self.encode(self.about_picture(scene, previous, rng), width, height), i))
            previous = real
        asked.sort(key=lambda item: len(item[0].ids))
        texts = [self.encode(self.about_text(render_like(previous, rng), rng), 0, 0) for _ in range(self.texts)]
        facts, boxes, named = (torch.from_numpy(np.stack(part)) for part in zip(*truths, strict=True))
        rows = [row for row, _ in asked] + texts
        return {
            "pictures": torch.from_numpy(pictures),
            "facts": facts,
            "boxes": boxes,
            "scene": named,
            "owner": torch.tensor([i for _, i in asked]),
            "notes": torch.tensor([[i, *note] for i, row in enumerate(rows) for note in row.notes]).reshape(-1, 14),
            **padded(rows, self.special["<|endoftext|>"], self.tokenizer.convert_tokens_to_ids(BOX)),
        }

    def about_picture(self, scene: Scene | None, other: Scene, rng: random.Random) -> lessons.Lesson:
        language = rng.choice(["en", "zh"])
        kind = rng.random()
        if kind < 0.26:
            return lessons.long_caption(scene, language, rng)
        if kind < 0.66:
            return lessons.ground(scene, language, rng, other)
        if kind < 0.94:
            return lessons.verify(scene, language, rng, other)
        return lessons.check(scene, language, rng, other)

    def about_text(self, scene: Scene, rng: random.Random) -> lessons.Lesson:
        kind = rng.random()
        if kind < 0.30:
            return lessons.translate(scene, rng)
        if kind < 0.45:
            return lessons.translate_back(scene, rng)
        if kind < 0.78:
            return lessons.rewrite(scene, rng.choice(["en", "zh"]), rng)
        if kind < 0.92:
            return lessons.correct(scene, rng.choice(["en", "zh"]), rng)
        return lessons.judge(scene, rng)

    def no_scene(self, rng: random.Random, size: tuple[int, int]) -> Image.Image:
        """A part of a photograph, or a plain, smooth or noisy field."""
        kind = rng.random()
        if kind < 0.6:
            photo = rng.choice(self.photos)
            w = rng.uniform(0.4, 1) * min(photo.width, photo.height * size[0] / size[1])
            h = w * size[1] / size[0]
            x, y = rng.uniform(0, photo.width - w), rng.uniform(0, max(0.0, photo.height - h))
            part = photo.resize(size, Image.Resampling.BICUBIC, box=(x, y, x + w, min(photo.height, y + h)))
            return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part
        cells = rng.choice([1, 1, 2, 3, 6, 20])
        noise = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (cells, cells, 3), np.uint8)
        return Image.fromarray(noise).resize(size, rng.choice([Image.Resampling.BICUBIC, Image.Resampling.NEAREST]))

    def encode(self, lesson: lessons.Lesson, width: int, height: int) -> Row:
        rows, columns = height // seeing.CELL, width // seeing.CELL
        before, after = chat(lesson)
        question, answer = (
            self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=bool(lesson.notes))
            for text in (before, after)
        )
        ids, start = question["input_ids"], -1
        if lesson.picture:
            start = ids.index(self.special["<|image_pad|>"])
            ids[start : start + 1] = [self.special["<|image_pad|>"]] * (rows * columns)
        notes, shift = [], rows * columns - 1 if lesson.picture else 0
        user = len(before) - len(lesson.user) - len(AFTER_USER)
        for note in lesson.notes:
            token = token_at(answer, note.at) + len(ids) if note.answering else token_at(question, user + note.at) + shift
            behind = -1 if note.behind is None else token_at(question, user + note.behind) + shift
            notes.append([token, behind, *seeing.note_row(note.truth, note.thing, note.place, lesson.picture)])
        everything = np.array(ids + answer["input_ids"], np.int64)
        return Row(everything, seeing.positions(len(everything), start, rows, columns), len(ids), notes)


def token_at(part: Any, character: int) -> int:
    """The number of the token that the character belongs to."""
    return next(i for i, (_, end) in enumerate(part["offset_mapping"]) if end > character)


class Row(NamedTuple):
    """Token ids [T], places [3, T], where the answer begins, and notes: token, the one to look back at (-1: none), and
    `seeing.note_row` of each."""

    ids: np.ndarray
    places: np.ndarray
    start: int
    notes: list[list[float]]


def chat(lesson: lessons.Lesson) -> tuple[str, str]:
    """What the model is given and what it must say, as the chat template writes them."""
    picture = "<|vision_start|><|image_pad|><|vision_end|>" if lesson.picture else ""
    before = f"<|im_start|>system\n{lesson.system}<|im_end|>\n<|im_start|>user\n{picture}{lesson.user}{AFTER_USER}"
    return before, lesson.answer + "<|im_end|>"


def render_like(scene: Scene, rng: random.Random) -> Scene:
    """The facts of another scene without a picture, for lessons about texts."""
    things = [
        replace(
            thing,
            colour=rng.choice(list(words.COLOURS)),
            shape=rng.choice(list(words.SHAPES)),
            surface=rng.choice(list(words.SURFACES)),
            count=rng.randint(1, words.most(thing.size)),
        )
        for thing in rng.sample(scene.things, len(scene.things))
    ]
    return replace(
        scene,
        things=tuple(things),
        background=rng.choice(list(words.BACKGROUNDS)),
        tone=rng.choice(list(words.TONES)),
        light=rng.choice(list(words.LIGHTS)),
        style=rng.choice(list(words.STYLES)),
    )


def sent(scene: Scene, width: int, height: int, rng: random.Random) -> Scene:
    """The scene as the model gets it: compressed on its way, scaled to the client's size, boxes in those pixels."""
    image = scene.image
    if rng.random() < 0.3:
        scale = rng.uniform(0.8, 1.5)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    if rng.random() < 0.6:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=rng.randint(80, 96))
        image = Image.open(buffer)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    x, y = width / scene.width, height / scene.height

    def scaled(box: Box) -> Box:
        return round(box[0] * x), round(box[1] * y), round(box[2] * x), round(box[3] * y)

    things = [
        replace(thing, box=scaled(thing.box), instances=tuple(scaled(box) for box in thing.instances)) for thing in scene.things
    ]
    return replace(scene, image=image, things=tuple(things))


def padded(rows: list[Row], pad: int, box: int) -> dict[str, torch.Tensor]:
    """Right-padded ids [N, T], places [3, N, T], targets [N, T] (the next token where it belongs to an answer, else -100) and
    which of the targets are coordinates: numbers among the seven tokens after the token `box`."""
    length = max(len(row.ids) for row in rows)
    ids = np.full((len(rows), length), pad, np.int64)
    targets = np.full((len(rows), length), -100, np.int64)
    places = np.zeros((3, len(rows), length), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = row.ids
        places[:, i, : len(row.ids)] = row.places
        places[:, i, len(row.ids) :] = row.places[:, -1:] + np.arange(1, length - len(row.ids) + 1)
        targets[i, row.start - 1 : len(row.ids) - 1] = row.ids[row.start :]
    coordinates = np.zeros((len(rows), length), bool)
    for after in (0, 2, 4, 6):
        coordinates[:, after:] |= (ids[:, : length - after] == box) & (targets[:, after:] >= 0)
    return {
        "ids": torch.from_numpy(ids),
        "places": torch.from_numpy(places),
        "targets": torch.from_numpy(targets),
        "coordinates": torch.from_numpy(coordinates),
    }
