"""True captions of rendered scenes, short and long, English and Chinese.

Long ones go foreground → background → light → style in several sentences; every clause is a fact of the scene. Which of the
wordings is taken follows the scene's seed, so equal scenes read alike and different ones do not.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from demo.words import BACKGROUNDS, COUNTS, LIGHTS, PLACES, RELATIONS, SHAPES, STYLES, TONES, listed

if TYPE_CHECKING:
    from demo.scenes import Scene, Thing


def caption(scene: Scene, language: str, length: str) -> str:
    """language "en" or "zh", length "short" or "long"."""
    rng = random.Random(f"caption {scene.seed} {language} {length}")
    if length == "short":
        return short_pair(scene, rng)[language == "zh"]
    return joined([pair[language == "zh"] for pair in long_pairs(scene, rng)], language)


def joined(sentences: Sequence[str], language: str) -> str:
    return ("" if language == "zh" else " ").join(sentences)


def backdrop(scene: Scene, language: str) -> str:
    """ "a grainy pale blue background" / "带颗粒感的淡蓝色背景"."""
    pattern = BACKGROUNDS[scene.background]
    return pattern[1].format(TONES[scene.tone][0]) if language == "zh" else pattern[0].format(scene.tone)


def definite(thing: Thing, language: str) -> str:
    """The thing when it is spoken of again: "the three red balls", "那三个红色球"."""
    text = thing.short(language)
    if language == "zh":
        return "那" + text if thing.count > 1 else text[len(COUNTS[1][1] + SHAPES[thing.shape][2]) :]
    return "the " + (text if thing.count > 1 else text.split(" ", 1)[1])


def _related(scene: Scene, number: int) -> tuple[str, Thing] | None:
    """A thing mentioned before the thing of that number, nearest first, with a plain relation to it."""
    thing = scene.things[number]
    near = scene.neighbour(thing)
    if near and near[1] in scene.things[:number]:
        return near
    for other in reversed(scene.things[:number]):
        relation = scene.relation(thing, other)
        if relation:
            return relation, other
    return None


def short_pair(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """A short caption in English and its Chinese translation."""
    named = _most_seen(scene, rng)
    if len(named) == 2 and (relation := scene.relation(named[0], named[1])) and rng.random() < 0.5:
        (a, b), (en, zh) = named, RELATIONS[relation]
        return f"{a.short('en')} {en} {b.short('en')}", f"{a.short('zh')}在{b.short('zh')}的{zh}"
    english, chinese = rng.choice(_SHORT)
    return (
        english.format(listed("en", [thing.short("en") for thing in named]), backdrop(scene, "en")),
        chinese.format(listed("zh", [thing.short("zh") for thing in named]), backdrop(scene, "zh")),
    )


def _most_seen(scene: Scene, rng: random.Random) -> list[Thing]:
    """Two or more of the biggest things of the scene, in the scene's order; often all of them."""
    by_area = sorted(scene.things, key=lambda t: (t.box[0] - t.box[2]) * (t.box[3] - t.box[1]))
    chosen = by_area[: rng.choice((2, 3, 5, 5))]
    return [thing for thing in scene.things if thing in chosen]


def long_pairs(scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
    """The sentences of a long caption in English, each with its Chinese translation."""
    pairs = [_thing_pair(scene, number, rng) for number in range(len(scene.things))]
    for english, chinese in (rng.choice(_BEHIND), rng.choice(_light(scene.light)), rng.choice(_STYLE)):
        en = english.format(backdrop=backdrop(scene, "en"), style=STYLES[scene.style][0])
        zh = chinese.format(backdrop=backdrop(scene, "zh"), style=STYLES[scene.style][1])
        pairs.append((_sentence(en), zh + "。"))
    return pairs


def _thing_pair(scene: Scene, number: int, rng: random.Random) -> tuple[str, str]:
    thing = scene.things[number]
    place, verbs = PLACES[thing.place], ("are", "lie") if thing.count > 1 else ("is", "lies")
    english, chinese = rng.choice(_NEXT if number else _FIRST)
    english = english.format(thing.short("en"), place[0], *verbs)
    chinese = chinese.format(thing.short("zh"), place[1])
    if number and (near := _related(scene, number)):
        english += f", {RELATIONS[near[0]][0]} {definite(near[1], 'en')}"
        chinese += f"，位于{definite(near[1], 'zh')}的{RELATIONS[near[0]][1]}"
    return _sentence(english), chinese + "。"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _light(light: str) -> list[tuple[str, str]]:
    if light == "even":
        return [
            ("The light is even across the whole scene", "光线均匀地照亮整个画面"),
            ("Even light falls on every part of it", "整个画面光照均匀"),
        ]
    dark, shade = {"left": ("the right side", "右侧"), "right": ("the left side", "左侧"), "above": ("the lower part", "下方")}[
        light
    ]
    en, zh = LIGHTS[light]
    return [
        (f"Light falls {en}, and {dark} is darker", f"光线{zh}，{shade}较暗"),
        (f"The scene is lit {en}, with {dark} in shade", f"光源{zh}，{shade}处在阴影中"),
    ]


# English wordings with their Chinese translations. {0} is the thing and {1} its place, or {0} the things and {1} the background.
_SHORT = [
    ("{0} on {1}", "{1}上有{0}"),
    ("{0} against {1}", "以{1}为衬托的{0}"),
    ("{0}", "{0}"),
    ("{0} in front of {1}", "{1}前的{0}"),
]
_FIRST = [
    ("The picture shows {0} {1}", "这张图片展示了画面{1}的{0}"),
    ("{1}, there {2} {0}", "图中{1}有{0}"),
    ("{0} can be seen {1}", "画面{1}可以看到{0}"),
]
_NEXT = [
    ("{1}, there {2} {0}", "画面{1}有{0}"),
    ("{0} {3} {1}", "{1}是{0}"),
    ("{0} can be seen {1}", "{0}出现在{1}"),
]
_BEHIND = [
    ("Behind them is {backdrop}", "它们的后面是{backdrop}"),
    ("The scene is set against {backdrop}", "衬托它们的是{backdrop}"),
    ("All of this stands in front of {backdrop}", "这些物体放在{backdrop}前"),
]
_STYLE = [
    ("It looks like {style}", "整体看起来像{style}"),
    ("The style is that of {style}", "画面的风格如同{style}"),
    ("Everything is drawn as in {style}", "整幅画的风格是{style}"),
]
