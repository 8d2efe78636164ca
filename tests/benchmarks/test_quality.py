"""The measure itself is measured: on texts whose truth is known, and with a stand-in for the served model that knows the truth."""

import asyncio
import json
import random
import sys
from collections import Counter

import pytest

from benchmarks.quality import __main__ as command
from benchmarks.quality.blind import centroid
from benchmarks.quality.figures import Report, Share
from benchmarks.quality.negatives import judge_groups, lexical
from benchmarks.quality.served import _claims, _verify
from benchmarks.quality.truth import Truth
from benchmarks.quality.unseen import unseen
from demo.scenes import captions
from operators.base import Answer
from prompts.images import fit
from tests.kit.in_process import ModelServer


@pytest.fixture(scope="module")
def scenes():
    return list(unseen(5, 12, [], []))


def test_what_the_renderer_says_is_true_of_its_own_thing_only(scenes):
    for language in ("en", "zh"):
        truth = Truth(language)
        for thing, other in ((a, b) for one in scenes for a in one.scene.things for b in one.scene.things):
            verdict = truth(thing.short(language), other)
            assert verdict is True if thing is other else verdict is not True
        assert not truth.unknown


@pytest.mark.parametrize(
    ("language", "text", "verdict"),
    [
        ("en", "a {colour} thing of gloom", None),
        ("en", "seventeen {colour} {shape}s", False),
        ("en", "a {colour} or teal or scarlet or lime green {shape}", False),
        ("zh", "十七个{shape}", False),
    ],
)
def test_words_that_cannot_be_judged_are_no_verdict(scenes, language, text, verdict):
    from demo.words import SHAPES

    thing = scenes[0].scene.things[0]
    shape = thing.shape if language == "en" else SHAPES[thing.shape][1]
    assert Truth(language)(text.format(colour=thing.colour, shape=shape), thing) is verdict


def test_a_kind_of_the_own_colour_is_neither_true_nor_false(scenes):
    near = {"red": "crimson", "blue": "navy blue", "green": "forest green", "white": "off-white", "black": "charcoal"}
    found = [t for one in scenes for t in one.scene.things if t.colour in near]
    assert found and all(Truth("en")(f"{near[t.colour]} {t.shape}", t) is None for t in found)
    assert all(Truth("en")(f"{near['red']} {t.shape}", t) is False for t in found if t.colour in ("blue", "green"))


def test_claims_of_true_captions_are_all_right_and_of_other_scenes_hardly_any(scenes):
    for language in ("en", "zh"):
        right, wrong = Counter(), Counter()
        for one, other in zip(scenes, scenes[1:] + scenes[:1], strict=True):
            _claims(one.scene, captions(one.scene, language, "long"), Truth(language), right)
            _claims(one.scene, captions(other.scene, language, "long"), Truth(language), wrong)
        for kind in ("objects", "attributes", "relations", "whole", "sentences"):
            assert right[f"{kind} said"] == right[f"{kind} right"] > 0
        assert right["objects found"] == right["objects there"] and right["attributes found"] == right["attributes there"]
        assert wrong["whole right"] < wrong["whole said"] / 5


class Knows:
    """A stand-in for a served model that sees: it knows the scene, and errs in a share of its verdicts."""

    def __init__(self, one, language, errors):
        self.one, self.truth, self.errors, self.rng = one, Truth(language), errors, random.Random(one.uid)

    def sent_size(self, size):
        return fit(*size, 200704)

    async def __call__(self, prompt, variables, image=None, region=None):
        width, height = self.sent_size(image.size)
        x = (variables["box"][0] + variables["box"][2]) / 2 / width
        y = (variables["box"][1] + variables["box"][3]) / 2 / height
        scene = self.one.scene
        boxes = [scene.normalised(thing) for thing in scene.things]
        apart = [abs((b[0] + b[2]) / 2 - x) + abs((b[1] + b[3]) / 2 - y) for b in boxes]
        thing = scene.things[apart.index(min(apart))]
        said = [(self.truth(text, thing) is True) != (self.rng.random() < self.errors) for text in variables["texts"]]
        return Answer(json.dumps({"verdicts": said}), "stop", 0, 0, "")


@pytest.mark.parametrize(("language", "errors"), [("en", 0.05), ("zh", 0.0)])
def test_a_verifier_that_mostly_sees_makes_groups_clean(language, errors, capsys):
    many = list(unseen(9, 30, [], []))
    made, _ = lexical(many, language, 0.3, 1)
    after, rejects = asyncio.run(_verify(made, lambda one: Knows(one, language, errors)))
    truth, report = Truth(language), Report()
    report.section("test")
    judge_groups(report, "before", made, truth)
    judge_groups(report, "after", after, truth)
    figures = report.sections["test"]
    assert figures["before: share of true positives"]["value"] < 0.8
    assert figures["after: share of true positives"]["value"] > 0.93
    assert figures["after: falsity per negative"]["value"] > max(0.99, figures["before: falsity per negative"]["value"])
    assert figures["after: groups wholly clean"]["value"] > figures["before: groups wholly clean"]["value"]
    assert figures["after: yield, groups of regions"]["value"] > 0.5
    assert {"wrong_positive", "true"} <= {reject.reason for reject in rejects}


def test_the_positive_in_the_middle_is_found_without_a_picture():
    colours = ["blue", "green", "pink", "white", "black", "brown", "grey", "teal", "tan", "gold"]
    around = [
        "a red ball",
        *(f"a {c} ball" for c in colours[:5]),
        *(f"a red {c} ball" for c in ("big", "tiny", "wet", "new", "old")),
    ]
    assert centroid(around) == 1.0
    assert centroid(["a red ball", *(f"a {c} ball" for c in colours)]) == pytest.approx(1 / 11)


def test_a_share_knows_how_sure_it_is():
    low, high = Share(98, 100).interval
    assert low == pytest.approx(0.930, abs=0.001) and high == pytest.approx(0.994, abs=0.001)
    assert Share(0, 10).interval[0] == 0 and "n = 0" in str(Share(0, 0))


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["quality", *map(str, arguments)])
    command.main()


def test_the_whole_command_over_a_served_model(monkeypatch, tmp_path, capsys):
    """A canned model that answers nonsense to everything: the yields say so and nothing breaks."""
    replies = {"Kinds": '{"texts": ["a red cat"]}', "Box": json.dumps({"verdicts": [False] * 10})}
    with ModelServer(lambda text: next((r for key, r in replies.items() if text.startswith(key)), "")) as server:
        options = ["--base-url", server.url, "--model", server.name, "--json", tmp_path / "f.json"]
        run(monkeypatch, "--scenes", 4, "--sizes", "224x224,336x112", "--backgrounds", "plain,tiled", "--seed", 2, *options)
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["Captions, en"]["yield: captions of pictures"]["value"] == 0
    assert figures["Verifier, zh"]["balanced accuracy"] == "50.0%"
    assert figures["Negatives written by the model, engine llm, en"]["before: yield, groups of regions"]["value"] == 0
    verified = next(value for name, value in figures.items() if name.startswith("Negatives verified, en"))
    assert verified["after: yield, groups of regions"]["value"] == 0, "it finds every expression false"
    assert figures["Boxes, en"]["absent phrases without a box"]["value"] == 1


def test_sizes_and_backgrounds_are_those_asked_for():
    found = list(unseen(1, 4, [(224, 224), (336, 112)], ["tiled"]))
    assert [one.picture.size for one in found] == [(224, 224), (336, 112)] * 2
    assert {one.scene.background for one in found} == {"tiled"}
    assert len({one.uid for one in found}) == 4


def test_an_audit_explains_its_refusals(monkeypatch, tmp_path, capsys):
    row = {"pos_expression": ["a grey wooden table"], "test_type": "1_attributes"}
    row["neg_expression"] = ["a gray wooden table", "a grey oak table", "a red metal table", "an red wooden table"] + [
        f"a {colour} wooden table" for colour in ("blue", "pink", "green", "black", "brown", "yellow")
    ]
    (tmp_path / "set.jsonl").write_text(json.dumps(row) + "\n")
    run(monkeypatch, "audit", tmp_path / "set.jsonl", "--json", tmp_path / "f.json")
    (figures,) = json.loads((tmp_path / "f.json").read_text()).values()
    counts = {
        name.split(" (")[0]: round(figure["value"] * 10) for name, figure in figures.items() if name.startswith("truth: ")
    }
    assert counts["truth: synonym"] == 1 and counts["truth: not_false"] == 1 and counts["truth: false, as it must be"] == 8
    assert round(figures["fluency: any flaw"]["value"] * 10) == 1
    assert round(figures["families: several changed (1_attributes)"]["value"] * 10) == 1
    assert "is a kind of it" in capsys.readouterr().out
