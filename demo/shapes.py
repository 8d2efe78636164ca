"""Masks, surfaces and backgrounds of the rendered world: array and Pillow work, no chance but what the caller passes in."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from demo.words import COLOURS, TONES

SIDE = 256
"""Masks are drawn once at this size and scaled down, which smooths their edges."""
TILTS = (-10, -5, 0, 5, 10)
"""Degrees a shape may lean."""


@cache
def mask(shape: str, tilt: int, mirrored: bool) -> tuple[Image.Image, Image.Image]:
    """Mask of a shape and its relief (128 = neutral, brighter and darker parts), both "L", cropped to the shape."""
    image, relief = Image.new("L", (SIDE, SIDE)), Image.new("L", (SIDE, SIDE), 128)
    _DRAW[shape](ImageDraw.Draw(image), ImageDraw.Draw(relief))
    if mirrored:
        image, relief = (part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for part in (image, relief))
    if tilt:
        image = image.rotate(tilt, Image.Resampling.BICUBIC, expand=True)
        relief = relief.rotate(tilt, Image.Resampling.BICUBIC, expand=True, fillcolor=128)
    box = image.point(lambda value: 255 if value > 127 else 0).getbbox()
    return image.crop(box), relief.crop(box)


def _ball(draw: ImageDraw.ImageDraw, relief: ImageDraw.ImageDraw) -> None:
    draw.ellipse((8, 8, 247, 247), fill=255)
    relief.ellipse((62, 44, 110, 84), fill=215)


def _box(draw: ImageDraw.ImageDraw, relief: ImageDraw.ImageDraw) -> None:
    draw.rectangle((14, 14, 241, 241), fill=255)
    relief.rectangle((0, 0, 255, 74), fill=158)
    relief.rectangle((0, 74, 255, 86), fill=78)


def _cone(draw: ImageDraw.ImageDraw, relief: ImageDraw.ImageDraw) -> None:
    draw.polygon([(128, 6), (20, 214), (236, 214)], fill=255)
    draw.ellipse((20, 182, 236, 246), fill=255)
    relief.polygon([(128, 6), (150, 255), (255, 255), (255, 230)], fill=98)


def _ring(draw: ImageDraw.ImageDraw, relief: ImageDraw.ImageDraw) -> None:
    draw.ellipse((8, 8, 247, 247), fill=255)
    draw.ellipse((72, 72, 183, 183), fill=0)
    relief.arc((22, 22, 233, 233), 190, 280, fill=190, width=18)


def _star(draw: ImageDraw.ImageDraw, relief: ImageDraw.ImageDraw) -> None:
    points = [(128 + r * math.sin(i * math.pi / 5), 136 - r * math.cos(i * math.pi / 5)) for i, r in enumerate([128, 54] * 5)]
    draw.polygon(points, fill=255)
    for i in range(0, 10, 2):
        relief.polygon([(128, 136), points[i], points[i + 1]], fill=108)


def _heart(draw: ImageDraw.ImageDraw, relief: ImageDraw.ImageDraw) -> None:
    t = np.linspace(0, 2 * math.pi, 160)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    draw.polygon(list(zip(128 + 7.4 * x, 116 - 7.4 * y, strict=True)), fill=255)
    relief.ellipse((50, 48, 96, 84), fill=205)


def _cross(draw: ImageDraw.ImageDraw, relief: ImageDraw.ImageDraw) -> None:
    draw.rectangle((88, 10, 167, 245), fill=255)
    draw.rectangle((10, 88, 245, 167), fill=255)
    relief.rectangle((88, 88, 167, 167), fill=146)


def _moon(draw: ImageDraw.ImageDraw, relief: ImageDraw.ImageDraw) -> None:
    draw.ellipse((10, 8, 249, 247), fill=255)
    draw.ellipse((86, -8, 300, 206), fill=0)
    relief.ellipse((50, 120, 84, 154), fill=98)
    relief.ellipse((84, 186, 108, 210), fill=104)


def _cup(draw: ImageDraw.ImageDraw, relief: ImageDraw.ImageDraw) -> None:
    draw.ellipse((150, 66, 250, 190), fill=255)
    draw.ellipse((178, 94, 222, 162), fill=0)
    draw.polygon([(10, 34), (196, 34), (176, 240), (30, 240)], fill=255)
    draw.ellipse((10, 12, 196, 58), fill=255)
    relief.ellipse((24, 20, 182, 50), fill=66)


def _bottle(draw: ImageDraw.ImageDraw, relief: ImageDraw.ImageDraw) -> None:
    draw.rectangle((104, 6, 152, 100), fill=255)
    draw.rounded_rectangle((66, 92, 190, 250), 34, fill=255)
    draw.polygon([(104, 70), (152, 70), (188, 124), (68, 124)], fill=255)
    relief.rectangle((98, 6, 158, 34), fill=84)
    relief.rectangle((66, 160, 190, 214), fill=160)


_DRAW = {
    "ball": _ball, "box": _box, "cone": _cone, "ring": _ring, "star": _star,
    "heart": _heart, "cross": _cross, "moon": _moon, "cup": _cup, "bottle": _bottle,
}  # fmt: skip


def contrast(colour: str) -> np.ndarray:
    """The second colour of a pattern: the same hue, much lighter or darker, so that the thing keeps its colour's name."""
    base = np.array(COLOURS[colour][1], np.float32)
    luma = float(base @ np.array([0.3, 0.59, 0.11], np.float32))
    return base * 0.50 if luma > 135 else base * 0.42 + 255 * 0.58


def surface(kind: str, colour: str, width: int, height: int, phase: float, slant: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours [height, width, 3] of a surface, 0–255 float32, and its opacity [height, width] where it is not solid.

    phase   0–1, shifts the pattern
    slant   0–2, which way stripes and grain run
    """
    base = np.array(COLOURS[colour][1], np.float32)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    scale = max(width, height)
    axis = (y, x, (x + y) * 0.7071)[slant]
    if kind == "striped":
        period = max(8.0, 0.24 * scale)
        blend = ((axis / period + phase) % 1.0 < 0.42).astype(np.float32)
        return _mixed(base, contrast(colour), blend), None
    if kind == "dotted":
        period = max(9.0, 0.27 * scale)
        u, v = (x / period + phase) % 1.0 - 0.5, (y / period + phase) % 1.0 - 0.5
        blend = np.clip((0.33 - np.hypot(u, v)) * period, 0, 1)
        return _mixed(base, contrast(colour), blend), None
    if kind == "checkered":
        cell = max(5.5, 0.16 * scale)
        blend = (np.floor(x / cell + phase) + np.floor(y / cell + phase)) % 2
        return _mixed(base, contrast(colour), blend), None
    if kind == "wooden":
        along, across = (x, y) if slant != 1 else (y, x)
        wave = across / max(3.6, 0.075 * scale) + 0.9 * np.sin(along / (0.31 * scale) + 6.3 * phase)
        grain = np.sin(6.2832 * wave * 0.5) * 0.5 + np.sin(6.2832 * (wave * 0.23 + phase)) * 0.5
        tan = np.array([150, 104, 58], np.float32)
        rough = base * 0.8 + tan * 0.2
        return rough * (1 + 0.30 * grain[..., None]) + (18 * grain[..., None] if colour == "black" else 0), None
    if kind == "metal":
        ramp = (x + 0.6 * y) / (width + 0.6 * height)
        glow = np.exp(-(((ramp - 0.33) / 0.085) ** 2)) + 0.55 * np.exp(-(((ramp - 0.78) / 0.05) ** 2))
        dark = 0.62 + 0.45 * np.cos(6.2832 * (ramp - 0.36)) ** 2
        return _mixed(base * dark[..., None], np.array([255, 255, 255], np.float32), np.clip(glow, 0, 0.92)), None
    colours = np.broadcast_to(base, (height, width, 3)).copy()
    if kind == "glass":
        streak = (np.abs((x - y) / scale + 0.12) < 0.07) | (np.abs((x - y) / scale - 0.1) < 0.022)
        colours[streak] = colours[streak] * 0.35 + 255 * 0.65
        return colours, np.where(streak, 0.9, 0.58).astype(np.float32)
    return colours, None


def _mixed(a: np.ndarray, b: np.ndarray, blend: np.ndarray) -> np.ndarray:
    return a + (b - a) * blend[..., None]


def background(kind: str, tone: str, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Background colours [height, width, 3], 0–255 float32."""
    base = np.array(TONES[tone][1], np.float32)
    bright: np.ndarray = np.ones((height, width), np.float32)
    if kind == "gradient":
        angle = rng.uniform(0, 2 * math.pi)
        y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None, :]
        bright = 0.92 + 0.22 * (x * math.cos(angle) + y * math.sin(angle)) / (abs(math.cos(angle)) + abs(math.sin(angle)))
    elif kind == "grainy":
        coarse = rng.normal(0, 1, (height // 2 + 1, width // 2 + 1)).astype(np.float32)
        bright = 1 + 0.07 * coarse.repeat(2, 0).repeat(2, 1)[:height, :width]
    elif kind == "cloudy":
        cells = rng.uniform(-1, 1, (max(3, height // 36), max(3, width // 36))).astype(np.float32)
        bright = 1 + 0.17 * np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC))
    elif kind == "tiled":
        cell, joint = int(rng.integers(30, 46)), 0.80
        rows = (np.arange(height) + int(rng.integers(cell))) % cell < 2
        columns = (np.arange(width) + int(rng.integers(cell))) % cell < 2
        bright = np.where(rows[:, None] | columns[None, :], joint, 1).astype(np.float32)
    elif kind == "lined":
        rows = (np.arange(height) + int(rng.integers(9))) % 9 == 0
        bright = np.where(rows[:, None], 0.84, 1.0).astype(np.float32).repeat(width, 1)
    return base * bright[..., None]


def shade(relief: np.ndarray, style: str) -> np.ndarray:
    """Brightness [height, width, 1] of a thing from its relief: flat pictures show a trace of it, shaded ones add roundness."""
    height, width = relief.shape
    strength = {"flat": 0.55, "outlined": 0.75, "shaded": 0.9}[style]
    bright = 1 + strength * (relief.astype(np.float32) - 128) / 160
    if style == "shaded":
        y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None, :]
        bright *= 1.06 - 0.17 * (x * 0.6 + y) - 0.10 * (x * x + y * y)
    return bright[..., None]


def rim(alpha: Image.Image, thickness: int) -> np.ndarray:
    """The inner edge of a mask [height, width], 0–1."""
    inner = alpha.filter(ImageFilter.MinFilter(2 * thickness + 1))
    return (np.asarray(alpha, np.float32) - np.asarray(inner, np.float32)) / 255
