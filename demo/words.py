"""The words of the rendered world: what can be in a scene, and how English and Chinese name it.

Everything that has a name here can be seen in the picture, and nothing else is ever said of one: texts made from these words
are true because the renderer drew what they say. Captions are in `demo/captions.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

COLOURS: dict[str, tuple[str, tuple[int, int, int]]] = {
    "red": ("红色", (214, 36, 38)),
    "orange": ("橙色", (245, 138, 24)),
    "yellow": ("黄色", (244, 218, 44)),
    "green": ("绿色", (40, 158, 62)),
    "blue": ("蓝色", (40, 84, 214)),
    "purple": ("紫色", (132, 50, 176)),
    "pink": ("粉色", (248, 140, 190)),
    "brown": ("棕色", (122, 74, 36)),
    "black": ("黑色", (26, 26, 28)),
    "white": ("白色", (246, 246, 244)),
}

# English singular, English plural, Chinese noun, Chinese measure word
SHAPES: dict[str, tuple[str, str, str]] = {
    "ball": ("balls", "球", "个"),
    "box": ("boxes", "盒子", "个"),
    "cone": ("cones", "圆锥", "个"),
    "ring": ("rings", "圆环", "个"),
    "star": ("stars", "星星", "颗"),
    "heart": ("hearts", "爱心", "颗"),
    "cross": ("crosses", "十字架", "个"),
    "moon": ("moons", "月亮", "个"),
    "cup": ("cups", "杯子", "个"),
    "bottle": ("bottles", "瓶子", "个"),
}

# Surface → family of the attribute, Chinese. A plain surface is not mentioned.
SURFACES: dict[str, tuple[str, str]] = {
    "plain": ("", ""),
    "striped": ("pattern", "条纹"),
    "dotted": ("pattern", "圆点"),
    "checkered": ("pattern", "方格"),
    "wooden": ("material", "木制"),
    "metal": ("material", "金属"),
    "glass": ("material", "玻璃"),
}

# Size → Chinese prefix of the noun, range of the longer side as a share of sqrt(width · height). The gaps keep the words true.
SIZES: dict[str, tuple[str, tuple[float, float]]] = {
    "small": ("小", (0.17, 0.21)),
    "medium": ("", (0.26, 0.32)),
    "large": ("大", (0.39, 0.48)),
}

COUNTS: dict[int, tuple[str, str]] = {1: ("a", "一"), 2: ("two", "两"), 3: ("three", "三"), 4: ("four", "四")}

TONES: dict[str, tuple[str, tuple[int, int, int]]] = {
    "light grey": ("浅灰色", (198, 199, 201)),
    "dark grey": ("深灰色", (92, 93, 97)),
    "beige": ("米色", (223, 209, 180)),
    "pale blue": ("淡蓝色", (172, 201, 224)),
    "pale green": ("淡绿色", (183, 213, 184)),
    "lavender": ("淡紫色", (201, 192, 222)),
}

# Background kind → English and Chinese with the tone's place
BACKGROUNDS: dict[str, tuple[str, str]] = {
    "plain": ("a plain {} background", "纯{}的背景"),
    "gradient": ("a {} background that fades into shade", "由明渐暗的{}背景"),
    "grainy": ("a grainy {} background", "带颗粒感的{}背景"),
    "cloudy": ("a cloudy {} background", "云雾状的{}背景"),
    "tiled": ("a tiled {} wall", "铺着瓷砖的{}墙面"),
    "lined": ("a {} background with fine lines", "带细横线的{}背景"),
}

# Light → English, Chinese
LIGHTS: dict[str, tuple[str, str]] = {
    "even": ("even", "均匀"),
    "left": ("from the left", "从左侧照来"),
    "right": ("from the right", "从右侧照来"),
    "above": ("from above", "从上方照来"),
}

STYLES: dict[str, tuple[str, str]] = {
    "flat": ("a flat poster", "平面海报"),
    "shaded": ("a soft computer rendering", "柔和的电脑渲染图"),
    "outlined": ("a cartoon with dark outlines", "带深色轮廓的卡通画"),
}

# Row, column of a three by three grid → English, Chinese
PLACES: dict[tuple[int, int], tuple[str, str]] = {
    (0, 0): ("in the upper left", "左上方"),
    (0, 1): ("at the top", "上方"),
    (0, 2): ("in the upper right", "右上方"),
    (1, 0): ("on the left", "左侧"),
    (1, 1): ("in the middle", "中间"),
    (1, 2): ("on the right", "右侧"),
    (2, 0): ("in the lower left", "左下方"),
    (2, 1): ("at the bottom", "下方"),
    (2, 2): ("in the lower right", "右下方"),
}

RELATIONS: dict[str, tuple[str, str]] = {
    "left": ("to the left of", "左边"),
    "right": ("to the right of", "右边"),
    "above": ("above", "上面"),
    "below": ("below", "下面"),
}


def _held_out() -> frozenset[tuple[str, str]]:
    """15 of the 100 pairs of colour and shape: each shape and each colour once, every second colour twice."""
    colours, shapes = list(COLOURS), list(SHAPES)
    once = {(colours[i], shapes[(3 * i + 1) % 10]) for i in range(10)}
    twice = {(colours[i], shapes[(3 * i + 6) % 10]) for i in range(0, 10, 2)}
    return frozenset(once | twice)


HELD_OUT = _held_out()
"""Pairs of colour and shape that a training set may leave out and a test set may be made of."""


def article(words: str) -> str:
    """ "a" or "an" before English words."""
    return "an" if words[:1] in "aeiou" else "a"


def phrase(language: str, shape: str, colour: str, surface: str = "plain", size: str = "medium", count: int = 1) -> str:
    """The short referring expression of a thing: "three small red striped balls", "三个红色条纹小球"."""
    if language == "zh":
        _, noun, measure = SHAPES[shape]
        return f"{COUNTS[count][1]}{measure}{COLOURS[colour][0]}{SURFACES[surface][1]}{SIZES[size][0]}{noun}"
    words = [size] if size != "medium" else []
    words += [colour] + ([surface] if surface != "plain" else []) + [shape if count == 1 else SHAPES[shape][0]]
    text = " ".join(words)
    return f"{article(text) if count == 1 else COUNTS[count][0]} {text}"


def listed(language: str, parts: Sequence[str]) -> str:
    """Parts of a list joined as the language does."""
    if len(parts) == 1:
        return parts[0]
    comma, last = ("、", "和") if language == "zh" else (", ", " and ")
    return comma.join(parts[:-1]) + last + parts[-1]


def all_phrases(language: str) -> list[str]:
    """Every short expression that the renderer can draw (large things come in ones and twos)."""
    return [
        phrase(language, shape, colour, surface, size, count)
        for shape in SHAPES
        for colour in COLOURS
        for surface in SURFACES
        for size in SIZES
        for count in COUNTS
        if count <= most(size)
    ]


def most(size: str) -> int:
    """How many of a size fit into one group."""
    return 2 if size == "large" else 4
