"""Lessons have the forms in which operators ask, and their answers are what operators accept."""

import asyncio
import json
import random
import re
from dataclasses import replace

import pytest

from benchmarks.quality.truth import Truth
from demo import lessons
from demo.negatives import claim_of
from demo.rewordings import alternatives, fits, slots_of, star, text_of
from demo.scenes import render
from operators.base import Answer
from operators.ground import Ground
from operators.model_negatives import ModelNegatives
from operators.perturb import regions
from prompts.load import load

COUNTED = {
    "en": re.compile("(?:an?|one|two|three|four|five|six|seven|eight|nine|ten|[a-z]+teen|twenty|eleven|twelve) ", re.I),
    "zh": re.compile("[一两三四五六七八九十]"),
}

PLACED = {"en": re.compile(" (?:in|at|on) the "), "zh": re.compile("画面")}


def texts_of(user: str) -> list[str]:
    return [line.split(". ", 1)[1] for line in user.splitlines() if line[0].isdigit()]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_verdicts_agree_with_another_reading_of_the_same_words(language):
    truth, seen = Truth(language), {True: 0, False: 0}
    for seed in range(150):
        scene = render(seed)
        lesson = lessons.verify(scene, language, random.Random(seed), render(seed + 1000))
        box = [int(value) for value in lesson.user[6 : lesson.user.index("]")].split(",")]
        thing = min(scene.things, key=lambda t: sum(abs(a - b) for a, b in zip(t.box, box, strict=True)))
        texts = texts_of(lesson.user)
        for text, verdict in zip(texts, json.loads(lesson.answer)["verdicts"], strict=True):
            if COUNTED[language].match(text):  # "red ball" of two red balls is a matter of taste
                assert truth(text, thing) in (verdict, None), (text, thing.short(language))
            seen[verdict] += 1
    assert min(seen.values()) > 300
    known = sum(seen.values()) - sum(truth.unknown.values())
    assert known / sum(seen.values()) > 0.9


@pytest.mark.parametrize("language", ["en", "zh"])
def test_many_verifications_are_groups_around_one_expression(language):
    """Nine texts that differ from the true one in the same word: what `verify_negatives` asks about a sound group."""
    whole = 0
    for seed in range(60):
        scene = render(seed)
        texts = texts_of(lessons.verify(scene, language, random.Random(seed), scene).user)
        for thing in scene.things:
            said = claim_of(thing)
            around = {
                text_of(said, language, slot, word)
                for slot in slots_of(said, language)
                for word in alternatives(said, slot, language)
            }
            whole += thing.short(language) in texts and sum(text in around for text in texts) >= 8
    assert whole >= 6


def test_of_a_reworded_claim_nothing_is_taught_that_words_cannot_decide():
    things = (thing for scene in map(render, range(200)) for thing in scene.things)
    red = next(t for t in things if t.colour == "red" and t.surface == "plain" and t.size == "small")
    claim = claim_of(red)
    assert fits(claim, "colour", "red", "en", red) is True
    assert fits(claim, "colour", "teal", "en", red) is False
    assert fits(claim, "colour", "crimson", "en", red) is None
    striped = replace(claim, surface="striped")
    assert fits(striped, "surface", "plain", "en", red) is None
    assert fits(striped, "surface", "floral", "en", red) is False
    assert len(set(star(claim, "zh", random.Random(0)))) >= 10


class Told:
    """Answers with a lesson's answer."""

    def __init__(self, text):
        self.text = text

    def sent_size(self, size):
        return size

    async def __call__(self, prompt, variables, image=None):
        return Answer(self.text, "stop", 1, 1, "x")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_boxes_of_a_lesson_are_what_ground_writes(language):
    operator = Ground.model_validate({"use_source_boxes": False, "languages": [language]})
    near = present = 0
    truth = Truth(language)
    for seed in range(60):
        scene = render(seed)
        lesson = lessons.ground(scene, language, random.Random(seed), render(seed + 1000))
        texts = texts_of(lesson.user)
        assert 1 <= len(texts) <= operator.phrases_per_request and len({text.lower() for text in texts}) == len(texts)
        sample = {"uid": "u", f"phrases_{language}": [{"text": text, "head": None} for text in texts]}
        columns, rejects = asyncio.run(operator(sample, scene.image, Told(lesson.answer)))
        given = {box["phrase"]: box["bbox_2d"] for box in json.loads(lesson.answer)["boxes"]}
        assert {reject.reason for reject in rejects} <= {"absent", "duplicate"}
        assert sum(reject.reason == "absent" for reject in rejects) == len(texts) - len(given)
        boxes = {tuple(region["box"]) for region in columns["regions"]}
        assert boxes == {scene.normalised(t) for t in scene.things if list(t.box) in given.values()} or len(boxes) < len(given)
        for number, text in enumerate(texts, 1):
            if PLACED[language].search(text):
                continue
            verdicts = [truth(text, thing) for thing in scene.things]
            if None not in verdicts and COUNTED[language].match(text):
                assert any(verdicts) == (number in given), (text, given)
                near += not any(verdicts)
                present += any(verdicts)
    assert present > 80 and near > 45


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_texts_of_a_lesson_are_negatives_that_the_operator_takes(language):
    operator = ModelNegatives.model_validate({"engine": "llm", "fill": "none"})
    operator.setup()
    refused = []
    for seed in range(25):
        rng = random.Random(seed)
        for lesson in (lessons.rewrite(render(seed), language, rng), lessons.correct(render(seed), language, rng)):
            basis = lesson.user.splitlines()[1].removeprefix("Phrase: ")
            region = {"box": [0.1, 0.1, 0.5, 0.5], "short": basis, "language": language}
            setting = regions.setting(0, [region], regions.parse([[region]])[0], 0.5)
            taken = [line[2:] for line in lesson.user.split("Taken:")[-1].splitlines() if line.startswith("- ")]
            texts = json.loads(lesson.answer)["texts"]
            wanted = 10 if lesson.prompt == "hard_negatives" else int(lesson.user.split("Texts wanted: ")[1].split("\n")[0])
            assert len(texts) == wanted > 0
            for text in texts:
                _, family, finding = operator.judge(text, setting, taken)
                if finding or family not in lesson.user.splitlines()[0]:
                    refused.append((basis, text, family, finding))
                taken.append(text)
    assert not refused, (len(refused), refused[:8])


def test_corrections_are_asked_for_as_the_prompt_asks():
    for seed in range(20):
        lesson = lessons.correct(render(seed), ("en", "zh")[seed % 2], random.Random(seed))
        head, _, taken = lesson.user.partition("Taken:")
        lines = head.splitlines()
        variables = {
            "families": lines[0].removeprefix("Kinds: "),
            "phrase": lines[1].removeprefix("Phrase: "),
            "count": int(lines[2].removeprefix("Texts wanted: ")),
            "refused": [line[2:] for line in lines[4:]],
            "taken": [line[2:] for line in taken.strip().splitlines()],
        }
        assert load("correct_negatives").render(variables) == (lesson.system, lesson.user)
        reasons = set(ModelNegatives.reasons.values())
        assert all(text.split(" (", 1)[1][:-1] in reasons for text in variables["refused"])
