"""The size at which a picture is sent to the model.

Qwen2.5-VL answers with boxes in pixels of the picture after the server's `smart_resize`. A picture whose sides are already
multiples of 28 within the pixel budget passes that step unchanged, so the client resizes first, and both sides know the size.
"""

from __future__ import annotations

import math

MAX_RATIO = 200
"""Qwen2.5-VL's processor refuses pictures whose longer side is more than 200 times the shorter one."""


def fit(width: int, height: int, max_pixels: int, min_pixels: int = 3136, factor: int = 28) -> tuple[int, int]:
    """Width and height to send: multiples of `factor`, min_pixels <= area <= max_pixels, the aspect kept as near as possible.

    A picture that already fits keeps its size, hence fit(*fit(w, h)) == fit(w, h). Only the aspect of ribbons is bent: their
    short side cannot go below `factor`.
    """
    if width < 1 or height < 1:
        raise ValueError(f"a picture of {width} x {height} pixels cannot be sent")
    if max_pixels < max(min_pixels, factor * factor):
        raise ValueError(f"max_pixels {max_pixels} is below {max(min_pixels, factor * factor)}, the least picture")
    if _fits(width, height, max_pixels, min_pixels, factor):
        return width, height
    area = width * height
    scale = math.sqrt(min(max(area, min_pixels), max_pixels) / area)
    ideal_w, ideal_h = width * scale, height * scale
    widths, heights = _around(ideal_w, factor), _around(ideal_h, factor)
    # A ribbon's short side is held at `factor`; its long side then takes what the budget and the ratio leave.
    longest = min(max_pixels // factor // factor, MAX_RATIO) * factor
    widths.append(min(widths[-1], longest))
    heights.append(min(heights[-1], longest))
    candidates = {(w, h) for w in widths for h in heights if _fits(w, h, max_pixels, min_pixels, factor)}
    if not candidates:
        # Rounding down undercut the least area: the smallest square-ish grid that holds it.
        side = math.ceil(math.sqrt(min_pixels) / factor) * factor
        return side, side
    aspect = width / height
    return min(candidates, key=lambda wh: (round(abs(math.log(wh[0] / wh[1] / aspect)), 6), -wh[0] * wh[1], wh))


def _around(ideal: float, factor: int) -> list[int]:
    low = max(1, math.floor(ideal / factor))
    return [low * factor, max(1, math.ceil(ideal / factor)) * factor]


def _fits(width: int, height: int, max_pixels: int, min_pixels: int, factor: int) -> bool:
    return (
        width % factor == 0
        and height % factor == 0
        and min_pixels <= width * height <= max_pixels
        and max(width, height) <= MAX_RATIO * min(width, height)
    )
