"""Train the tiny Qwen2.5-VL that sees rendered scenes and answers the project's prompts.

    python -m demo.train_vlm --out demo/model --seconds 500        on a GPU
    python -m demo.train_vlm --out demo/model --steps 20000        reproducible from the seed, on anything

Every step shows ever-new scenes of one size. A head on the visual tokens is trained jointly with the answers: without it the
model learns to write before it learns to see. Weights are written at intervals, whole or not at all.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from demo import lessons, seeing
from demo.captions import joined, long_pairs, short_pair
from demo.evaluation import MODEL_SEEDS
from demo.model import SPECIAL, build, save, tokenizer_of
from demo.scenes import SIDES, Scene, render

SIZES = [*SIDES, (252, 168), (168, 252), (364, 112), (112, 364), (196, 196), (252, 168)]
INTEGERS = 512
"""0 … 511 are one token each."""
LITERALS = [
    '{"caption":"', '{"boxes":[', '{"phrase":', ',"bbox_2d":[', ']},', ']}]}', '{"verdicts":[', "true", "false", '{"texts":["', '","',
    '{"translation":"', '{"errors":[', '{"span":"', '","kind":"mistranslation","severity":"major"}', '"}', '"]}', "]}",
]  # fmt: skip
"""Fixed parts of the answers' JSON, one token each: the server spends its time on what differs."""
SHAPE = {"hidden": 256, "layers": 5, "heads": 8, "vision_hidden": 160, "vision_depth": 6}
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
        corpus += [lessons.rewrite(scene, "en", rng).answer, lessons.judge(scene, rng).answer]
    corpus += [
        word for language in lessons.STRANGE.values() for words in language.values() for word in words for _ in range(20)
    ]
    corpus += [text for text in lessons.NOTHING.values() for _ in range(50)]
    systems = [lessons.system_text(name) for name in PROMPTS]
    corpus += systems * 20
    words = "|".join(lessons.all_words())
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
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

    def __init__(self, tokenizer: Any, scenes: int, questions: int, texts: int, seed: int) -> None:
        self.tokenizer, self.scenes, self.questions, self.texts, self.seed = tokenizer, scenes, questions, texts, seed
        self.special = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
        self.photos = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*.jpg"))]

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = torch.utils.data.get_worker_info()
        number, step = (worker.id, worker.num_workers) if worker else (0, 1)
        torch.set_num_threads(1)
        batch = number
        while True:
            yield self.batch(batch)
            batch += step

    def batch(self, number: int) -> dict[str, torch.Tensor]:
        rng = random.Random(f"{self.seed} {number}")
        width, height = rng.choice(SIZES)
        pictures = np.empty((self.scenes, height, width, 3), np.uint8)
        facts, boxes, named, rows, owner = [], [], [], [], []
        scene: Scene | None = None
        first = MODEL_SEEDS + 100_000 + (self.seed << 32) + number * self.scenes
        for i in range(self.scenes):
            real, other = render(first + i, size=(width, height)), scene or render(first - 1, size=(width, height))
            scene = real if rng.random() > 0.06 else None
            picture = _photographed(real.image, rng) if scene else self.no_scene(rng, (width, height), real)
            pictures[i] = np.asarray(picture)
            for part, value in zip((facts, boxes, named), seeing.facts_of(scene, width, height), strict=True):
                part.append(value)
            for _ in range(self.questions):
                rows.append(self.encode(self.about_picture(scene, other, rng), width, height))
                owner.append(i)
            scene = real
        scene = scene or render(first)
        rows += [self.encode(self.about_text(render_like(scene, rng), rng), 0, 0) for _ in range(self.texts)]
        return {
            "pictures": torch.from_numpy(pictures),
            "facts": torch.from_numpy(np.stack(facts)),
            "boxes": torch.from_numpy(np.stack(boxes)),
            "scene": torch.from_numpy(np.stack(named)),
            "owner": torch.tensor(owner),
            **padded(rows, self.special["<|endoftext|>"]),
        }

    def about_picture(self, scene: Scene | None, other: Scene, rng: random.Random) -> lessons.Lesson:
        language = rng.choice(["en", "zh"])
        kind = rng.random()
        if kind < 0.36:
            return lessons.long_caption(scene, language, rng)
        if kind < 0.62:
            return lessons.ground(scene, language, rng, other)
        if kind < 0.86:
            return lessons.verify(scene, language, rng, other)
        return lessons.check(scene, language, rng, other)

    def about_text(self, scene: Scene, rng: random.Random) -> lessons.Lesson:
        kind = rng.random()
        if kind < 0.45:
            return lessons.translate(scene, rng)
        if kind < 0.65:
            return lessons.translate_back(scene, rng)
        if kind < 0.85:
            return lessons.rewrite(scene, rng.choice(["en", "zh"]), rng)
        return lessons.judge(scene, rng)

    def no_scene(self, rng: random.Random, size: tuple[int, int], real: Scene) -> Image.Image:
        """A photograph's part, a smooth or noisy field, or a scene blurred beyond recognition."""
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

    def encode(self, lesson: lessons.Lesson, width: int, height: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Token ids, positions [3, T], and where the answer begins."""
        rows, columns = height // seeing.CELL, width // seeing.CELL
        before, after = chat(lesson)
        ids = self.tokenizer(before, add_special_tokens=False)["input_ids"]
        start = -1
        if lesson.picture:
            start = ids.index(self.special["<|image_pad|>"])
            ids[start : start + 1] = [self.special["<|image_pad|>"]] * (rows * columns)
        answer = self.tokenizer(after, add_special_tokens=False)["input_ids"]
        everything = np.array(ids + answer, np.int64)
        return everything, seeing.positions(len(everything), start, rows, columns), len(ids)


def chat(lesson: lessons.Lesson) -> tuple[str, str]:
    """What the model is given and what it must say, as the chat template writes them."""
    picture = "<|vision_start|><|image_pad|><|vision_end|>" if lesson.picture else ""
    before = (
        f"<|im_start|>system\n{lesson.system}<|im_end|>\n<|im_start|>user\n{picture}{lesson.user}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    return before, lesson.answer + "<|im_end|>"


def render_like(scene: Scene, rng: random.Random) -> Scene:
    """Another arrangement for lessons about texts: things of one scene with the surroundings of chance."""
    from dataclasses import replace

    from demo.words import BACKGROUNDS, COLOURS, LIGHTS, SHAPES, STYLES, SURFACES, TONES, most

    things = list(scene.things)
    rng.shuffle(things)
    things = [
        replace(
            thing,
            colour=rng.choice(list(COLOURS)),
            shape=rng.choice(list(SHAPES)),
            surface=rng.choice(list(SURFACES)),
            count=rng.randint(1, most(thing.size)),
        )
        for thing in things
    ]
    return replace(
        scene,
        things=tuple(things),
        background=rng.choice(list(BACKGROUNDS)),
        tone=rng.choice(list(TONES)),
        light=rng.choice(list(LIGHTS)),
        style=rng.choice(list(STYLES)),
    )


def _photographed(image: Image.Image, rng: random.Random) -> Image.Image:
    """The picture after what happens to it on its way: compression, and scaling."""
    if rng.random() < 0.25:
        scale = rng.uniform(0.8, 1.5)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC).resize(
            image.size, Image.Resampling.BICUBIC
        )
    if rng.random() < 0.6:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=rng.randint(80, 96))
        image = Image.open(buffer)
    return image


def padded(rows: list[tuple[np.ndarray, np.ndarray, int]], pad: int) -> dict[str, torch.Tensor]:
    """Right-padded ids [N, T], places [3, N, T] and targets [N, T] (the next token where it belongs to an answer, else -100)."""
    length = max(len(ids) for ids, _, _ in rows)
    ids = np.full((len(rows), length), pad, np.int64)
    targets = np.full((len(rows), length), -100, np.int64)
    places = np.zeros((3, len(rows), length), np.int64)
    for i, (row, place, start) in enumerate(rows):
        ids[i, : len(row)] = row
        places[:, i, : len(row)] = place
        places[:, i, len(row) :] = place[:, -1:] + np.arange(1, length - len(row) + 1)
        targets[i, start - 1 : len(row) - 1] = row[start:]
    return {"ids": torch.from_numpy(ids), "places": torch.from_numpy(places), "targets": torch.from_numpy(targets)}


def losses(
    model: Any, head: seeing.Head, batch: dict[str, torch.Tensor], image_token: int
) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """Loss of the answers, loss of the head, and the head's accuracies (in evaluation mode)."""
    seen = seeing.look(model, batch["pictures"])
    auxiliary, marks = head(seen, batch["facts"], batch["boxes"], batch["scene"])
    shown = len(batch["owner"])
    total = torch.zeros((), device=seen.device)
    count = torch.zeros((), device=seen.device)
    right = torch.zeros((), device=seen.device)
    for part, visual in ((slice(0, shown), seen[batch["owner"]]), (slice(shown, None), None)):
        ids, targets = batch["ids"][part], batch["targets"][part]
        if not len(ids):
            continue
        hidden = seeing.read(model, ids, batch["places"][:, part], visual, image_token)
        wanted = targets >= 0
        logits = model.lm_head(hidden[wanted]).float()
        total = total + F.cross_entropy(logits, targets[wanted], reduction="sum")
        count = count + wanted.sum()
        right = right + (logits.argmax(-1) == targets[wanted]).sum()
    if not head.training:
        marks["tokens"] = float(right / count)
    return total / count, auxiliary, marks


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    tokenizer = make_tokenizer()
    image_token = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    model = build(tokenizer, **SHAPE, seed=options.seed, all_attend=True, theta=1e4).to(device).train()
    head = seeing.Head(SHAPE["hidden"]).to(device).train()
    if options.init:
        from safetensors.torch import load_file

        model.load_state_dict(load_file(options.init), strict=False)
    parameters = [*model.parameters(), *head.parameters()]
    decayed = [p for p in parameters if p.ndim > 1]
    plain = [p for p in parameters if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=options.rate, betas=(0.9, 0.98), fused=device == "cuda",
    )  # fmt: skip
    school = School(tokenizer, options.scenes, options.questions, options.texts, options.seed)
    test = move(School(tokenizer, options.scenes, options.questions, options.texts, options.seed + 99).batch(7), device)
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"{size:,} parameters, {len(tokenizer)} tokens, {device}, {time.monotonic() - start:.0f} s", flush=True)
    loader = torch.utils.data.DataLoader(
        school, batch_size=None, num_workers=options.workers, pin_memory=device == "cuda",
        prefetch_factor=3 if options.workers else None, persistent_workers=options.workers > 0,
    )  # fmt: skip
    begun, said, saved = time.monotonic(), 0.0, time.monotonic()
    waited, sums, since = 0.0, np.zeros(2), 0
    autocast = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")
    batches = iter(loader)
    step = 0
    while True:
        progress = max(
            step / options.steps if options.steps else 0, (time.monotonic() - begun) / options.seconds if options.seconds else 0
        )
        if progress >= 1:
            break
        rate = options.rate * min(1, progress / 0.03 + 0.02) * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        asked = time.monotonic()
        batch = move(next(batches), device)
        waited += time.monotonic() - asked
        with autocast:
            answers, auxiliary, _ = losses(model, head, batch, image_token)
            loss = answers + options.auxiliary * auxiliary
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step, since = step + 1, since + 1
        if since == 1 or time.monotonic() - said > options.every:
            sums += [answers.item(), auxiliary.item()]
            now = time.monotonic()
            model.eval(), head.eval()
            with torch.no_grad(), autocast:
                unseen, _, marks = losses(model, head, test, image_token)
            model.train(), head.train()
            line = {
                "seconds": round(now - begun), "step": step, "scenes": step * options.scenes, "rate": round(rate, 6),
                "waited": round(waited, 1), "answers": round(answers.item(), 4), "unseen": round(unseen.item(), 4),
                **{name: round(value, 3) for name, value in marks.items()},
            }  # fmt: skip
            print(json.dumps(line), flush=True)
            with open(options.out / "log.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
            said, since = time.monotonic(), 1
        if time.monotonic() - saved > options.save_every:
            export(model, tokenizer, options.out)
            saved = time.monotonic()
    export(model, tokenizer, options.out)
    print(f"{step} steps, {step * options.scenes} scenes, {time.monotonic() - begun:.0f} s; wrote {options.out}", flush=True)


def move(batch: dict[str, torch.Tensor], device: str) -> dict[str, torch.Tensor]:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def export(model: Any, tokenizer: Any, out: Path) -> None:
    """Write the model (bfloat16, without the head) and its tokenizer, each file whole or not at all."""
    import copy

    part = out.with_name(f".{out.name}-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    save(copy.deepcopy(model).cpu(), tokenizer, part)
    for path in part.iterdir():
        os.replace(path, out / path.name)
    shutil.rmtree(part)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.train_vlm", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=0, help="end after so many steps")
    parser.add_argument("--seconds", type=float, default=0, help="end after so many seconds")
    parser.add_argument("--scenes", type=int, default=96, help="pictures of a step")
    parser.add_argument("--questions", type=int, default=4, help="about each picture")
    parser.add_argument("--texts", type=int, default=64, help="questions about texts alone, of a step")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--auxiliary", type=float, default=0.5, help="weight of the head's loss")
    parser.add_argument("--workers", type=int, default=max(0, (os.cpu_count() or 1) - 1), help="processes that draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", type=Path, help="weights to go on from")
    parser.add_argument("--every", type=float, default=15, help="seconds between reports")
    parser.add_argument("--save-every", type=float, default=60, help="seconds between exports")
    options = parser.parse_args()
    if not options.steps and not options.seconds:
        parser.error("say how long: --steps or --seconds")
    train(options)


if __name__ == "__main__":
    main()
