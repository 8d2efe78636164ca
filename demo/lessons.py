"""What the tiny model is taught: the project's real prompts about rendered scenes, with the true answers.

Each lesson is one exchange: system text, picture (or none), user text, and the answer as constrained decoding would write it
(compact JSON, keys in the schema's order). All claims about truth come from the renderer.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from demo import rewordings
from demo.captions import backdrop, definite, joined, long_pairs, short_pair
from demo.negatives import Claim, claim_of
from demo.scenes import Scene, Thing
from demo.words import BACKGROUNDS, COLOURS, COUNTS, LIGHTS, PLACES, SHAPES, SIZES, STYLES, SURFACES, TONES, most

Fits = Callable[[Thing], bool]

PROMPTS = Path(__file__).resolve().parents[1] / "prompts"

NOTHING = {"en": "I cannot describe this picture.", "zh": "抱歉，我无法描述这张图片。"}
"""The answer to a picture that is no rendered scene: recaption's validators refuse it."""

# Words that name nothing in any scene; negatives from elsewhere use them.
STRANGE = {
    "en": {
        "colour": ["grey", "beige", "silver", "turquoise", "tan", "lilac", "khaki", "teal", "gold", "navy", "maroon", "cyan"],
        "surface": [
            "plastic", "leather", "fabric", "paper", "stone", "rubber", "ceramic", "concrete", "floral", "plaid", "wavy", "marbled",
        ],
        "count": ["five", "six", "seven", "eight", "nine", "ten", "twelve"],
        "shape": ["cat", "dog", "car", "tree", "table", "house", "chair", "bird", "flower", "boat"],
    },
    "zh": {
        "colour": ["灰色", "米色", "银色", "青色", "金色", "咖啡色", "天蓝色", "墨绿色", "酒红色", "卡其色"],
        "surface": ["塑料", "皮革", "布艺", "陶瓷", "大理石", "橡胶", "石头", "碎花", "格子", "波浪纹"],
        "count": ["五", "六", "七", "八", "九", "十"],
        "shape": ["猫", "狗", "汽车", "树", "桌子", "房子", "椅子", "鸟", "花", "船"],
    },
}  # fmt: skip


@dataclass(frozen=True)
class Note:
    """What the model should know at one place of a lesson, for a head that is trained beside the answers.

    at       the character of the question or, with `answering`, of the answer, whose token knows it
    truth    whether the statement that ends there is true
    thing    the thing that is spoken of there, or next
    place    the number of the list's member that comes next
    behind   the character of the question at which what comes next is known
    """

    at: int
    answering: bool = False
    truth: bool | None = None
    thing: Thing | None = None
    place: int | None = None
    behind: int | None = None


@dataclass(frozen=True)
class Lesson:
    prompt: str
    user: str
    answer: str
    picture: bool = True
    notes: tuple[Note, ...] = ()

    @property
    def system(self) -> str:
        return system_text(self.prompt)


@cache
def system_text(prompt: str) -> str:
    """The fixed system text of a prompt file, includes expanded (what `prompts.load` renders)."""
    import yaml

    text = yaml.safe_load((PROMPTS / f"{prompt}.yaml").read_text(encoding="utf-8"))["system"]
    part = re.compile(r"""\{%-?\s*include\s+["']([^"']+)["']\s*-?%\}""")
    return str(part.sub(lambda match: (PROMPTS / match[1]).read_text(encoding="utf-8").strip(), text)).strip()


def numbered(texts: Sequence[str]) -> str:
    return "\n".join(f"{i}. {text}" for i, text in enumerate(texts, 1))


def _json(**answer: object) -> str:
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":"))


def _line_ends(text: str) -> list[int]:
    return [match.start() for match in re.finditer(r"\n|$", text)]


def _verdict_notes(user: str, answer: str, truths: Sequence[bool]) -> tuple[Note, ...]:
    """Whether each text is true, where it ends; and its number, where the answer has come to it."""
    ends = _line_ends(user)[-len(truths) :]
    starts = [match.start() - 1 for match in re.finditer("true|false", answer)]
    known = [Note(end, truth=truth) for end, truth in zip(ends, truths, strict=True)]
    said = [
        Note(start, answering=True, place=number, behind=end)
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]
    return (*known, *said)


def _sentence_notes(key: str, sentences: Sequence[str], language: str, things: Sequence[Thing | None]) -> tuple[Note, ...]:
    """The thing that each sentence of the answer is about, before it begins."""
    at, notes = len(f'{{"{key}":"') - 1, []
    for number, (sentence, thing) in enumerate(zip(sentences, things, strict=True)):
        notes.append(Note(at, answering=True, thing=thing, place=number))
        at += len(sentence) + (language == "en" and number > 0)
    return tuple(notes)


# Questions about a picture. `scene` None: a picture that is no scene, where the right answer is to abstain.


def long_caption(scene: Scene | None, language: str, rng: random.Random) -> Lesson:
    user = {"en": "Describe this picture.", "zh": "描述这张图片。"}[language]
    if scene is None:
        return Lesson(f"long_caption_{language}", user, _json(caption=NOTHING[language]))
    sentences = [pair[language == "zh"] for pair in long_pairs(scene, rng)]
    things = (*scene.things, *[None] * (len(sentences) - len(scene.things)))
    notes = _sentence_notes("caption", sentences, language, things)
    return Lesson(f"long_caption_{language}", user, _json(caption=joined(sentences, language)), notes=notes)


def ground(scene: Scene | None, language: str, rng: random.Random, other: Scene) -> Lesson:
    """Phrases of things that are there and of things that are not; `other` is a scene to take absent things from."""
    phrases = _phrases(scene, language, rng, other)
    boxes = [
        {"phrase": number, "bbox_2d": list(thing.box)}
        for number, (_, fits) in enumerate(phrases, 1)
        for thing in (scene.things if scene else ())
        if fits(thing)
    ]
    user, answer = numbered([text for text, _ in phrases]), _json(boxes=boxes)
    notes, ends = [], _line_ends(user)
    for end, (_, fits) in zip(ends, phrases, strict=True):
        fitting = [thing for thing in (scene.things if scene else ()) if fits(thing)]
        notes.append(Note(end, truth=bool(fitting), thing=fitting[0] if len(fitting) == 1 else None))
    for match in re.finditer(r'(\d+),"bbox_2d":\[(\d+),(\d+),(\d+),(\d+)', answer):
        # Where the number comes next, then the sides.
        asked_for = (match.start(1) - 1, *(match.end(part) for part in (1, 2, 3, 4)))
        notes += [Note(at, answering=True, behind=ends[int(match[1]) - 1]) for at in asked_for]
    return Lesson("ground", user, answer, notes=tuple(notes))


def verify(scene: Scene | None, language: str, rng: random.Random, other: Scene) -> Lesson:
    """Ten texts about one box."""
    shown = scene or other
    thing = rng.choice(shown.things)
    width, height = shown.width, shown.height
    jitter = rng.choice((0, 0, 2, 5))
    x1, y1, x2, y2 = (value + rng.randint(-jitter, jitter) for value in thing.box)
    box = max(0, x1), max(0, y1), min(width, max(x2, x1 + 4)), min(height, max(y2, y1 + 4))
    texts = _gathered(shown, thing, language, rng) if rng.random() < 0.45 else _mixed(shown, thing, language, rng)
    user = f"Box: [{', '.join(map(str, box))}]\n{numbered([text for text, _ in texts])}"
    truths = [truth and scene is not None for _, truth in texts]
    answer = _json(verdicts=truths)
    boxed = Note(user.index("]"), thing=thing if scene else None)
    return Lesson("verify_negatives", user, answer, notes=(boxed, *_verdict_notes(user, answer, truths)))


def check(scene: Scene | None, language: str, rng: random.Random, other: Scene) -> Lesson:
    """Sentences of a long caption, some of them made false by one changed fact."""
    shown = scene or other
    state = rng.getrandbits(32)
    true = [pair[language == "zh"] for pair in long_pairs(shown, random.Random(state))]
    chosen: list[tuple[str, bool]] = []
    for number, sentence in enumerate(true):
        if rng.random() < 0.45:
            wrong = [pair[language == "zh"] for pair in long_pairs(_falsified(shown, number, rng), random.Random(state))][
                number
            ]
            chosen.append((wrong, wrong == sentence))
        else:
            chosen.append((sentence, True))
    if rng.random() < 0.3:
        chosen = chosen[rng.randrange(len(chosen)) :]
    truths = [truth and scene is not None for _, truth in chosen]
    user, answer = numbered([sentence for sentence, _ in chosen]), _json(verdicts=truths)
    return Lesson("check_sentences", user, answer, notes=_verdict_notes(user, answer, truths))


# Questions about texts alone.


def rewrite(scene: Scene, language: str, rng: random.Random) -> Lesson:
    """Ten texts that change one attribute of an expression, or of a negative that was made of one."""
    basis, kinds, slot, word = _basis(claim_of(rng.choice(scene.things)), language, rng)
    texts = rewordings.rewritten(basis, kinds, language, slot, word)[:10]
    return Lesson("hard_negatives", _asked_for(basis, kinds, language, slot, word), _json(texts=texts), False)


def correct(scene: Scene, language: str, rng: random.Random) -> Lesson:
    """More such texts, where some could not be used: the expression itself and what it makes true, or without any reason."""
    true = claim_of(rng.choice(scene.things))
    basis, kinds, slot, word = _basis(true, language, rng)
    texts = rewordings.rewritten(basis, kinds, language, slot, word)
    said, lost = texts[:10], rng.choice((1, 1, 1, 2, 3, 5))
    bad = [text for text in said if text == true.text(language)]
    bad += rng.sample([text for text in said if text not in bad], max(0, min(lost, len(texts) - 10) - len(bad)))
    told = [text for text in said if text in bad and (text == true.text(language) or rng.random() < 0.7)]
    reasons = {text: "the expression itself" if text == true.text(language) else rng.choice(REFUSED) for text in told}
    user = "\n".join(
        [
            _asked_for(basis, kinds, language, slot, word),
            f"Texts wanted: {len(bad)}",
            "Refused, with the reason:",
            *(f"- {text} ({reasons[text]})" for text in told),
            "Taken:",
            *(f"- {text}" for text in said if text not in bad),
        ]
    )
    return Lesson("correct_negatives", user, _json(texts=texts[10 : 10 + len(bad)]), False)


REFUSED = ["says the same in other words", "may be true beside the positive (a wider, narrower or neighbouring word)"]


def _basis(true: Claim, language: str, rng: random.Random) -> tuple[Claim, list[str], str, str]:
    """An expression, the kinds to change, and the slot in which another word stands in its place, as the operator asks."""
    slots = rewordings.slots_of(true, language)
    slot = rng.choice([slot for slot in slots if slot != "size"])
    kind = rewordings.family_of(true, slot)
    if rng.random() < 0.7:
        for name, word in rewordings.star(true, language, rng):
            if name == slot and len(rewordings.rewritten(true, [kind], language, slot, word)) > 10:
                return true, [kind], slot, word
    if rng.random() < 0.4 and len(rewordings.rewritten(true, [kind], language)) > 10:
        return true, [kind], "", ""
    # What a text says is not always found in it; the colour is.
    return true, [rewordings.family_of(true, name) for name in slots if name == "colour" or rng.random() < 0.9], "", ""


def _asked_for(basis: Claim, kinds: Sequence[str], language: str, slot: str, word: str) -> str:
    return f"Kinds: {', '.join(kinds)}\nPhrase: {rewordings.text_of(basis, language, slot, word)}"


def _parallel(scene: Scene, rng: random.Random) -> tuple[list[tuple[str, str]], Sequence[Thing | None]]:
    """Sentences of the scene in English, each with its Chinese translation, or a phrase; and what each is about."""
    kind = rng.random()
    if kind < 0.15:
        thing = rng.choice(scene.things)
        pair = rng.choice([(thing.short("en"), thing.short("zh")), (scene.long(thing, "en"), scene.long(thing, "zh"))])
        return [pair], [thing]
    if kind < 0.30:
        return [short_pair(scene, rng)], [None]
    pairs = long_pairs(scene, rng)
    start = rng.randrange(len(pairs))
    part = slice(0, None) if rng.random() < 0.4 else slice(start, start + rng.randint(1, 4))
    return pairs[part], (*scene.things, *[None] * (len(pairs) - len(scene.things)))[part]


def translate(scene: Scene, rng: random.Random) -> Lesson:
    pairs, things = _parallel(scene, rng)
    english, chinese = [en for en, _ in pairs], [zh for _, zh in pairs]
    notes = _sentence_notes("translation", chinese, "zh", things)
    return Lesson("translate_en_zh", f"原文：{joined(english, 'en')}", _json(translation=joined(chinese, "zh")), False, notes)


def translate_back(scene: Scene, rng: random.Random) -> Lesson:
    pairs, things = _parallel(scene, rng)
    english, chinese = [en for en, _ in pairs], [zh for _, zh in pairs]
    notes = _sentence_notes("translation", english, "en", things)
    return Lesson("translate_zh_en", joined(chinese, "zh"), _json(translation=joined(english, "en")), False, notes)


def judge(scene: Scene, rng: random.Random) -> Lesson:
    """A translation with no error, or with one attribute of one thing mistranslated."""
    state, number = rng.getrandbits(32), rng.randrange(len(scene.things))
    english, chinese = long_pairs(scene, random.Random(state))[number]
    errors: list[dict[str, str]] = []
    if rng.random() < 0.5:
        colours = {name: entry[0] for name, entry in COLOURS.items()}
        shapes = {name: entry[1] for name, entry in SHAPES.items()}
        thing = scene.things[number]
        values, own = rng.choice([(colours, colours[thing.colour]), (shapes, shapes[thing.shape])])
        wrong = rng.choice([value for value in values.values() if value != own])
        if own in chinese:
            chinese = chinese.replace(own, wrong, 1)
            errors = [{"span": wrong, "kind": "mistranslation", "severity": "major"}]
    return Lesson("judge_translation", f"English: {english}\nChinese: {chinese}", _json(errors=errors), False)


# Texts about things.


def _phrases(scene: Scene | None, language: str, rng: random.Random, other: Scene) -> list[tuple[str, Fits]]:
    """At most eight phrases that are asked for together, none twice, and what each fits."""
    shown = scene or other
    if rng.random() < 0.35:  # by itself, as the demo's recipe asks
        return [_lone_phrase(shown, language, rng, other)]
    phrases = [_expression(shown, thing, language, rng) for thing in shown.things]
    if rng.random() < 0.5:  # each thing beside one that differs from it in a single word
        phrases += [near_miss(shown, thing, language, rng) for thing in shown.things if rng.random() < 0.85]
        rng.shuffle(phrases)
        if rng.random() < 0.25:
            phrases = phrases[8:] or phrases[: rng.randint(1, 3)]  # what is left for the next request
    else:
        absent = [near_miss(shown, rng.choice(shown.things), language, rng) for _ in range(2)]
        absent.append(_claimed(claim_of(rng.choice(other.things)), language))
        phrases += rng.sample(absent, rng.randint(0, 3))
        if rng.random() < 0.3:
            phrases.append((rng.choice(_unthings(shown, language)), lambda _: False))
        if rng.random() < 0.75:  # or the number of a phrase would tell which thing it is
            rng.shuffle(phrases)
        phrases = phrases[: rng.randint(1, 8)] if rng.random() < 0.4 else phrases
    distinct = {text.lower(): (text, fits) for text, fits in reversed(phrases[:8])}
    return [(text, fits) for text, fits in reversed(distinct.values())]


def _lone_phrase(shown: Scene, language: str, rng: random.Random, other: Scene) -> tuple[str, Fits]:
    thing, kind = rng.choice(shown.things), rng.random()
    if kind < 0.55:
        return _expression(shown, thing, language, rng)
    if kind < 0.85:
        return near_miss(shown, thing, language, rng)
    if kind < 0.95:
        return _claimed(claim_of(rng.choice(other.things)), language)
    return rng.choice(_unthings(shown, language)), lambda _: False


def near_miss(scene: Scene, thing: Thing, language: str, rng: random.Random) -> tuple[str, Fits]:
    """An expression of the thing with a wrong word in it, and what that fits, if anything."""
    if rng.random() < 0.25:
        return _strange(claim_of(thing), language, rng), lambda _: False
    claim = _changed(claim_of(thing), rng)
    if rng.random() < 0.15 and not any(map(claim.fits, scene.things)):
        return scene.long(thing, language).replace(thing.short(language), claim.text(language), 1), claim.fits
    return _claimed(claim, language)


def _claimed(claim: Claim, language: str) -> tuple[str, Fits]:
    return claim.text(language), claim.fits


def _gathered(scene: Scene, thing: Thing, language: str, rng: random.Random) -> list[tuple[str, bool]]:
    """Ten texts as operators gather them around an expression, which is wrong so often that its place among them tells nothing."""
    base = true = claim_of(thing)
    if rng.random() < 0.4:
        base = rng.choice([_changed(true, rng), claim_of(rng.choice(scene.things))])
    texts = []
    for slot, word in rewordings.star(base, language, rng):
        fits = rewordings.fits(base, slot, word, language, thing)
        if fits is not None:
            texts.append((rewordings.text_of(base, language, slot, word), fits))
    texts = texts[:10]
    if len(texts) < 10:
        return _mixed(scene, thing, language, rng)
    rng.shuffle(texts)
    for place in rng.sample(range(10), rng.choice((0, 0, 1, 1, 1, 2))):
        said = base if rng.random() < 0.7 else _weaker(true, rng)
        texts[place] = said.text(language), said.fits(thing)
    return texts


def _mixed(scene: Scene, thing: Thing, language: str, rng: random.Random) -> list[tuple[str, bool]]:
    """Ten texts of many kinds, none to most of them true."""
    true = claim_of(thing)
    texts = [(_variant(_weaker(true, rng), language, rng), True) for _ in range(rng.choice((0, 0, 1, 2, 4, 5, 6)))]
    while len(texts) < 10:
        kind = rng.random()
        if kind < 0.55:
            claim = _changed(true, rng)
        elif kind < 0.75:
            claim = _weaker(claim_of(rng.choice(scene.things)), rng)
        else:
            texts.append((_strange(true, language, rng), False))
            continue
        texts.append((_variant(claim, language, rng), claim.fits(thing)))
    rng.shuffle(texts)
    return texts


def _expression(scene: Scene, thing: Thing, language: str, rng: random.Random) -> tuple[str, Fits]:
    """One of the ways in which a caption's phrase may name a thing, and what it fits."""
    kind = rng.random()
    if kind < 0.12:
        return scene.long(thing, language), lambda other: other is thing
    if kind < 0.27:
        return definite(thing, language), claim_of(thing).fits
    if kind < 0.42:
        claim = _weaker(claim_of(thing), rng)
        return claim.text(language), claim.fits
    return _variant(claim_of(thing), language, rng), claim_of(thing).fits


def _variant(claim: Claim, language: str, rng: random.Random) -> str:
    """A claim's text as it stands, with a capital, or without its article or measure word."""
    text, kind = claim.text(language), rng.random()
    if language == "en":
        if kind < 0.15:
            return text[0].upper() + text[1:]
        return text.split(" ", 1)[1] if kind < 0.25 and claim.count == 1 else text
    return text[2:] if kind < 0.2 and claim.count == 1 else text


def _weaker(claim: Claim, rng: random.Random) -> Claim:
    """The claim, sometimes with less said."""
    if rng.random() < 0.2:
        claim = replace(claim, surface="plain")
    return replace(claim, size="medium") if rng.random() < 0.2 else claim


def _changed(claim: Claim, rng: random.Random) -> Claim:
    """A claim that contradicts the given one in one attribute, sometimes in two."""
    slot = rng.choice(["colour", "colour", "shape", "surface", "size", "count"])
    if slot == "size":
        if claim.size == "medium" or claim.count > most("large"):
            slot = "colour"
        else:
            return replace(claim, size="small" if claim.size == "large" else "large")
    values: dict[str, Sequence[str | int]] = {
        "colour": list(COLOURS),
        "shape": list(SHAPES),
        "surface": [surface for surface in SURFACES if surface != "plain"],
        "count": [count for count in COUNTS if count <= most(claim.size)],
    }
    value = rng.choice([value for value in values[slot] if value != getattr(claim, slot)])
    changed = replace(claim, **{slot: value})  # type: ignore[arg-type]
    return _changed(changed, rng) if rng.random() < 0.15 else changed


def _strange(claim: Claim, language: str, rng: random.Random) -> str:
    """A claim's text with one word that fits nothing in this world."""
    text = claim.text(language)
    slot = rng.choice(["colour", "colour", "surface", "count", "shape"])
    if slot == "surface" and claim.surface == "plain":
        slot = "colour"
    if slot == "count" and claim.count == 1:
        slot = "shape"
    word = rng.choice(STRANGE[language][slot])
    zh = language == "zh"
    if slot == "colour":
        own = COLOURS[claim.colour][0] if zh else claim.colour
        if rng.random() < 0.4:
            shade = rng.choice([name for name in COLOURS if name not in (claim.colour, "black", "white")])
            word = rng.choice("深浅") + COLOURS[shade][0] if zh else f"{rng.choice(['light', 'dark'])} {shade}"
    elif slot == "surface":
        own = SURFACES[claim.surface][1] if zh else claim.surface
    elif slot == "count":
        own = COUNTS[claim.count][zh]
    else:
        own = SHAPES[claim.shape][1] if zh else (claim.shape if claim.count == 1 else SHAPES[claim.shape][0])
        word = word if zh or claim.count == 1 else word + "s"
    text = text.replace(own, word, 1)
    return re.sub(r"^an? (\w)", lambda match: f"{'an' if match[1] in 'aeiou' else 'a'} {match[1]}", text)


def _unthings(scene: Scene, language: str) -> list[str]:
    """Noun phrases of captions that name no region."""
    return (
        [backdrop(scene, "en"), "the scene", "light", "the right side", "the lower part", STYLES[scene.style][0], "the picture"]
        if language == "en"
        else [backdrop(scene, "zh"), "画面", "光线", "右侧", "背景", STYLES[scene.style][1], "整体风格"]
    )


def _falsified(scene: Scene, number: int, rng: random.Random) -> Scene:
    """The scene with the fact changed that sentence `number` of a long caption is about."""
    extra = number - len(scene.things)
    if extra == 0:
        if rng.random() < 0.5:
            return replace(scene, tone=rng.choice([tone for tone in TONES if tone != scene.tone]))
        return replace(scene, background=rng.choice([kind for kind in BACKGROUNDS if kind != scene.background]))
    if extra == 1:
        return replace(scene, light=rng.choice([light for light in LIGHTS if light != scene.light]))
    if extra == 2:
        return replace(scene, style=rng.choice([style for style in STYLES if style != scene.style]))
    thing = scene.things[number]
    if rng.random() < 0.25:
        wrong = replace(thing, place=rng.choice([place for place in PLACES if _far(place, thing.place)]))
    else:
        claim = _changed(claim_of(thing), rng)
        wrong = replace(
            thing, shape=claim.shape, colour=claim.colour, surface=claim.surface, size=claim.size, count=claim.count
        )
    return replace(scene, things=(*scene.things[:number], wrong, *scene.things[number + 1 :]))


def _far(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Places that are not neighbours on the grid, so that nobody can mistake them for each other."""
    return abs(a[0] - b[0]) + abs(a[1] - b[1]) >= 2


def all_words() -> list[str]:
    """Chinese words that each stay one token in the seeing model's tokenizer."""
    words = [zh for zh, _ in COLOURS.values()] + [noun for _, noun, _ in SHAPES.values()] + ["个", "颗", "那"]
    words += [zh for _, zh in SURFACES.values() if zh] + [zh for zh, _ in SIZES.values() if zh]
    words += [zh for _, zh in COUNTS.values()] + [zh for zh, _ in TONES.values()] + [zh for _, zh in PLACES.values()]
    return sorted(set(words), key=lambda word: (-len(word), word))
