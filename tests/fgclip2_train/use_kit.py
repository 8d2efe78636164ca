"""A tiny checkpoint and pictures for the tests of use."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from fgclip2_train.checkpoint import write_checkpoint
from fgclip2_train.data.tokens import train_tokenizer
from fgclip2_train.model.configuration import sized
from fgclip2_train.model.initialise import from_scratch

TEXTS = ["a red circle", "a blue square beside a green triangle", "红色圆形", "蓝色方块和绿色三角形"]


def make_checkpoint(folder: Path, seed: int = 0) -> Path:
    texts = train_tokenizer(TEXTS, 400)
    config = sized(16, 1, 2, 16, len(texts), positions=24, keep=20)
    model = from_scratch(config, seed, 2.3, -6.0)
    trainer = {"settings": {"data": {"patches": 64}}}
    return write_checkpoint(folder / "checkpoints", 1, model.state_dict(), {}, config, texts, trainer)


def picture(seed: int, size: tuple[int, int] = (90, 70)) -> Image.Image:
    """Coarse coloured noise: every seed another picture."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize(size)


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    data = io.BytesIO()
    image.save(data, form)
    return data.getvalue()


def write_pictures(folder: Path, count: int, first: int = 0) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:04d}.png" for number in range(first, first + count)]
    for number, file in enumerate(files, first):
        file.write_bytes(encoded(picture(number)))
    return files


def bomb(side: int = 50_000) -> bytes:
    """A small PNG whose header promises side × side pixels."""
    data = bytearray(encoded(Image.new("1", (8, 8))))
    data[16:24] = side.to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)
