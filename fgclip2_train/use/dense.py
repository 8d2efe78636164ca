"""Where in a picture a phrase is seen: similarity of the phrase with every patch of the dense map, and a drawing of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from fgclip2_train.data.images import MAX_PATCHES
from fgclip2_train.use.towers import Towers

PANEL, MARGIN, LINE, BAR = 360, 12, 20, 14
SCALE = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], dtype=np.float64)
"""From low to high: readable in print and by colour-blind eyes (viridis' anchors)."""
COLOURS = [
    (230, 75, 53),
    (77, 187, 213),
    (0, 160, 135),
    (243, 155, 127),
    (60, 84, 136),
    (145, 209, 194),
    (126, 97, 72),
    (220, 180, 40),
]
CHINESE_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSerifCJK-Regular.ttc",
    "NotoSerifCJK-Bold.ttc",
    "SourceHanSansSC-Regular.otf",
    "wqy-zenhei.ttc",
    "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "msyh.ttc",
    "simsun.ttc",
)


def dense_maps(towers: Towers, picture: Image.Image, phrases: Sequence[str], patches: int | None = None) -> np.ndarray:
    """Cosine of every phrase (box walk) with every patch: float32 [phrases, rows, columns].

    patches: of the grid, more for finer maps; by default as the checkpoint was trained. The cost of attention grows with its square.
    """
    if patches is not None and not 1 <= patches <= MAX_PATCHES:
        raise ValueError(f"{patches} patches: 1 to {MAX_PATCHES} are possible")
    encoder = replace(towers.encoder, patches=patches or towers.encoder.patches)
    with torch.inference_mode():
        return torch.einsum("rcd,pd->prc", encoder.dense(picture), encoder.words(phrases, "box")).numpy()


def draw(
    picture: Image.Image,
    phrases: Sequence[str],
    maps: np.ndarray,
    *,
    boxes: Sequence[Sequence[Sequence[float]]] | None = None,
    font: Path | None = None,
) -> Image.Image:
    """The picture, a panel per phrase with the colours' range below it, and which phrase is nearest at every patch.

    Each panel has its own range, printed under it: maps tell where a phrase fits best, and not whether it fits at all.
    boxes: per phrase, as fractions, drawn into its panel.
    """
    letters = _font(font, "".join(phrases))
    width, height = _fit(*picture.size)
    under = picture.resize((width, height))
    panels: list[tuple[str, Image.Image, tuple[float, float] | None]] = [("picture", under, None)]
    for number, (phrase, values) in enumerate(zip(phrases, maps, strict=True)):
        shown = _lay_over(under, values)
        for place, box in enumerate(boxes[number] if boxes else ()):
            edges = [box[0] * width, box[1] * height, box[2] * width - 1, box[3] * height - 1]
            ImageDraw.Draw(shown).rectangle(edges, outline=(255, 255, 255) if place else (255, 40, 40), width=3 - (place > 0))
        panels.append((phrase, shown, (float(values.min()), float(values.max()))))
    if len(phrases) > 1:
        panels.append(("nearest phrase", _nearest(under, maps), None))

    columns = len(panels) if len(panels) <= 3 else 2 if len(panels) == 4 else 3
    rows = math.ceil(len(panels) / columns)
    legend = LINE * len(phrases) + MARGIN if len(phrases) > 1 else 0
    across, down = width + MARGIN, height + LINE + BAR + LINE + MARGIN
    sheet = Image.new("RGB", (columns * across + MARGIN, rows * down + MARGIN + legend), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (title, image, ends) in enumerate(panels):
        x, y = MARGIN + index % columns * across, MARGIN + index // columns * down
        pen.text((x, y), _shorten(pen, title, letters, width), fill="black", font=letters)
        sheet.paste(image, (x, y + LINE))
        if ends:
            below = y + LINE + height + 4
            sheet.paste(_ramp(width, BAR - 4), (x, below))
            pen.text((x, below + BAR - 3), f"{ends[0]:+.3f}", fill="black", font=letters)
            pen.text((x + width, below + BAR - 3), f"{ends[1]:+.3f}", fill="black", font=letters, anchor="ra")
    for number, phrase in enumerate(phrases if legend else ()):
        y = rows * down + MARGIN + number * LINE
        pen.rectangle([MARGIN, y + 2, MARGIN + 14, y + 16], fill=COLOURS[number % len(COLOURS)])
        pen.text((MARGIN + 22, y), _shorten(pen, phrase, letters, sheet.width - 3 * MARGIN - 22), fill="black", font=letters)
    return sheet


def find_font(name: Path | None = None) -> Path | None:
    """A font file with Chinese letters: the given one, or the first known one on this machine."""
    if name is not None:
        if not name.is_file():
            raise FileNotFoundError(f"no font file {name}")
        try:
            ImageFont.truetype(str(name), 14)
        except OSError as error:
            raise ValueError(f"{name}: no font ({error})") from error
        return name
    for known in CHINESE_FONTS:
        try:
            return Path(str(ImageFont.truetype(known, 14).path))
        except OSError:
            continue
    return None


def _font(name: Path | None, text: str) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    if name is None and text.isascii():
        return ImageFont.load_default(14)
    file = find_font(name)
    return ImageFont.truetype(str(file), 14) if file else ImageFont.load_default(14)


def _fit(width: int, height: int) -> tuple[int, int]:
    scale = PANEL / max(width, height)
    return max(48, round(width * scale)), max(48, round(height * scale))


def _lay_over(under: Image.Image, values: np.ndarray) -> Image.Image:
    low, high = float(values.min()), float(values.max())
    unit = (values - low) / (high - low) if high > low else np.zeros_like(values)
    smooth = Image.fromarray(unit.astype(np.float32)).resize(under.size, Image.Resampling.BICUBIC)
    heat = Image.fromarray(_colour(np.asarray(smooth).clip(0, 1)))
    return Image.blend(under.convert("L").convert("RGB"), heat, 0.6)


def _colour(unit: np.ndarray) -> np.ndarray:
    ends = np.linspace(0, 1, len(SCALE))
    return np.stack([np.interp(unit, ends, SCALE[:, channel]) for channel in range(3)], axis=-1).round().astype(np.uint8)


def _ramp(width: int, height: int) -> Image.Image:
    return Image.fromarray(_colour(np.linspace(0, 1, width)[None].repeat(height, 0)))


def _nearest(under: Image.Image, maps: np.ndarray) -> Image.Image:
    """Coloured by phrase, compared after each map was taken to mean zero: phrases differ in their level everywhere."""
    level = maps - maps.mean((1, 2), keepdims=True)
    colours = np.array([COLOURS[number % len(COLOURS)] for number in range(len(maps))], dtype=np.uint8)
    flat = Image.fromarray(colours[level.argmax(0)]).resize(under.size, Image.Resampling.NEAREST)
    return Image.blend(under.convert("L").convert("RGB"), flat, 0.5)


def _shorten(pen: ImageDraw.ImageDraw, text: str, font, width: int) -> str:
    text = " ".join(text.split())
    if pen.textlength(text, font=font) <= width:
        return text
    while text and pen.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text + "…"
