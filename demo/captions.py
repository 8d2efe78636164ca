"""True captions of rendered scenes, short and long, English and Chinese.

Long ones go foreground → background → light → style in several sentences; every clause is a fact of the scene. Which of the
wordings is taken follows the scene's seed, so equal scenes read alike and different ones do not.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

from demo.words import BACKGROUNDS, COUNTS, LIGHTS, PLACES, RELATIONS, SHAPES, STYLES, TONES, listed

if TYPE_CHECKING:
    from demo.scenes import Scene, Thing


def caption(scene: Scene, language: str, length: str) -> str:
    """language "en" or "zh", length "short" or "long"."""
    digest = hashlib.sha256(f"caption {scene.seed} {language} {length}".encode()).digest()
    rng = random.Random(int.from_bytes(digest[:8], "big"))
    return _WRITERS[language, length](scene, rng)


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


def _short_en(scene: Scene, rng: random.Random) -> str:
    named = _most_seen(scene, rng)
    if len(named) == 2 and (relation := scene.relation(named[0], named[1])) and rng.random() < 0.5:
        return f"{named[0].short('en')} {RELATIONS[relation][0]} {named[1].short('en')}"
    things = listed("en", [thing.short("en") for thing in named])
    return rng.choice(["{} on {}", "{} against {}", "{}", "{} in front of {}"]).format(things, backdrop(scene, "en"))


def _short_zh(scene: Scene, rng: random.Random) -> str:
    named = _most_seen(scene, rng)
    if len(named) == 2 and (relation := scene.relation(named[0], named[1])) and rng.random() < 0.5:
        return f"{named[0].short('zh')}在{named[1].short('zh')}的{RELATIONS[relation][1]}"
    things = listed("zh", [thing.short("zh") for thing in named])
    return rng.choice(["{1}前的{0}", "{0}，{1}", "{0}", "{1}上有{0}"]).format(things, backdrop(scene, "zh"))


def _most_seen(scene: Scene, rng: random.Random) -> list[Thing]:
    """Two or three things, the biggest of the scene, in the scene's order."""
    by_area = sorted(scene.things, key=lambda t: (t.box[0] - t.box[2]) * (t.box[3] - t.box[1]))
    chosen = by_area[: rng.choice((2, 2, 3))]
    return [thing for thing in scene.things if thing in chosen]


def _long_en(scene: Scene, rng: random.Random) -> str:
    sentences = []
    for number, thing in enumerate(scene.things):
        name, place, many = thing.short("en"), PLACES[thing.place][0], thing.count > 1
        if number == 0:
            wording = rng.choice(["The picture shows {0} {1}", "{1}, there {2} {0}", "{0} can be seen {1}"])
            sentences.append(wording.format(name, place, "are" if many else "is"))
            continue
        wording = rng.choice(["{1}, there {2} {0}", "{0} {3} {1}", "{0} can be seen {1}"])
        sentence = wording.format(name, place, "are" if many else "is", "lie" if many else "lies")
        if near := _related(scene, number):
            sentence += f", {RELATIONS[near[0]][0]} {definite(near[1], 'en')}"
        sentences.append(sentence)
    behind = rng.choice(["Behind {1} is {0}", "The scene is set against {0}", "All of this stands in front of {0}"])
    sentences.append(behind.format(backdrop(scene, "en"), "them"))
    sentences.append(rng.choice(_light_en(scene.light)))
    sentences.append(
        rng.choice(["It looks like {}", "The style is that of {}", "Everything is drawn as in {}"]).format(
            STYLES[scene.style][0]
        )
    )
    return " ".join(sentence[0].upper() + sentence[1:] + "." for sentence in sentences)


def _light_en(light: str) -> list[str]:
    if light == "even":
        return ["The light is even across the whole scene", "Even light falls on every part of it"]
    dark = {"left": "the right side", "right": "the left side", "above": "the lower part"}[light]
    side = LIGHTS[light][0]
    return [f"Light falls {side}, and {dark} is darker", f"The scene is lit {side}, with {dark} in shade"]


def _long_zh(scene: Scene, rng: random.Random) -> str:
    sentences = []
    for number, thing in enumerate(scene.things):
        name, place = thing.short("zh"), PLACES[thing.place][1]
        if number == 0:
            sentences.append(
                rng.choice(["这张图片展示了画面{1}的{0}", "图中{1}有{0}", "画面{1}可以看到{0}"]).format(name, place)
            )
            continue
        sentence = rng.choice(["{1}是{0}", "画面{1}有{0}", "{0}出现在{1}"]).format(name, place)
        if near := _related(scene, number):
            sentence += f"，位于{definite(near[1], 'zh')}的{RELATIONS[near[0]][1]}"
        sentences.append(sentence)
    behind = rng.choice(["它们的后面是{}", "这些物体放在{}前", "衬托它们的是{}"])
    sentences.append(behind.format(backdrop(scene, "zh")))
    sentences.append(rng.choice(_light_zh(scene.light)))
    sentences.append(rng.choice(["整体看起来像{}", "画面的风格如同{}", "整幅画的风格是{}"]).format(STYLES[scene.style][1]))
    return "".join(sentence + "。" for sentence in sentences)


def _light_zh(light: str) -> list[str]:
    if light == "even":
        return ["光线均匀地照亮整个画面", "整个画面光照均匀"]
    dark = {"left": "右侧", "right": "左侧", "above": "下方"}[light]
    return [f"光线{LIGHTS[light][1]}，{dark}较暗", f"光源{LIGHTS[light][1]}，{dark}处在阴影中"]


_WRITERS = {("en", "short"): _short_en, ("zh", "short"): _short_zh, ("en", "long"): _long_en, ("zh", "long"): _long_zh}
