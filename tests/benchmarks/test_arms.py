"""The arms' data is what it is said to be, their bootstrap tells a difference from none, and the command goes on where it was."""

import json
import tarfile

import numpy as np
import pytest
import torch

from benchmarks.arms import __main__ as command
from benchmarks.arms import data
from benchmarks.arms.figures import NONE, PARTS, Hits, in_words, result, table
from benchmarks.arms.score import METRICS, retrieval
from benchmarks.arms.train import ARMS, COMPARED, needed
from fgclip2_train.cli import app
from fgclip2_train.evaluation.pictures import Words

WORLD = data.World(scenes=12, tests=6, misread=0.3, true_negatives=0.5)


@pytest.fixture(scope="module")
def versions():
    """Picture and records of twelve training scenes, with the scenes themselves."""
    made = [data.versions(number, WORLD, ["told", "truth", "unverified"]) for number in range(WORLD.scenes)]
    return [(data.training_scene(number, WORLD), *rest) for number, rest in enumerate(made)]


def texts_of(record):
    for region in record["regions"]:
        yield from (region["short"], *(negative["text"] for negative in region["negatives"]))


def test_fifteen_percent_of_either_kind_of_pair_are_held_out_and_another_seed_takes_others():
    pairs = data.held_out_pairs(0, 0.15)
    assert sum(word in data.COLOURS for word, _ in pairs) == 15
    assert sum(word in data.SURFACES for word, _ in pairs) == 9
    assert pairs != data.held_out_pairs(1, 0.15)


def test_no_training_text_names_a_held_out_pair_and_no_picture_shows_one(versions):
    pairs, forbidden = data.held_out_pairs(0, 0.15), data.held_out_phrases(0, 0.15)
    for scene, _, records in versions:
        assert not any(data.holds(thing, pairs) for thing in scene.things)
        for record in records.values():
            assert not forbidden & set(texts_of(record))
            assert not any(phrase in text["text"].lower() for phrase in forbidden for text in record["texts"])


def test_checked_negatives_are_false_and_unverified_ones_are_partly_true(versions):
    true = {"told": 0, "truth": 0, "unverified": 0}
    for scene, _, records in versions:
        things = [(thing, language) for thing in scene.things for language in ("en", "zh")]
        for version, record in records.items():
            for region, (thing, language) in zip(record["regions"], things, strict=True):
                texts = [negative["text"] for negative in region["negatives"]]
                assert len({region["short"], *texts}) == 11
                true[version] += len(set(texts) & set(data.true_texts(thing, language)))
    assert true["told"] == true["truth"] == 0 and true["unverified"] > 50


def test_what_is_told_is_misread_now_and_then_and_the_truth_never(versions):
    said = [
        (record["regions"][2 * number]["short"], thing.short("en"), version)
        for scene, _, records in versions
        for version, record in records.items()
        for number, thing in enumerate(scene.things)
    ]
    assert all(short == own for short, own, version in said if version == "truth")
    wrong = np.mean([short != own for short, own, version in said if version == "told"])
    assert 0.5 < wrong < 1  # one of five attributes, each with probability 0.3


def test_equal_captions_are_one_and_any_picture_with_it_is_right():
    vectors = torch.eye(3)
    words = Words({("short", "a ball"): 0, ("short", "a box"): 1}, torch.tensor([[0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]))
    hits, chance = retrieval(vectors, words, ["a ball", "a ball", "a box"], "short")
    assert hits.tolist() == [1, 1, 1] and chance == 0.5


def drawn(share, seeds=5, scenes=300, seed=0):
    rng = np.random.default_rng(seed)
    hits = np.zeros((seeds, 1, 2, scenes))
    hits[:, 0, 0] = rng.random((seeds, scenes)) < share
    counts = np.zeros((1, 2, scenes))
    counts[:, 0] = 1
    return Hits(tuple(range(seeds)), hits, counts)


def test_a_difference_is_told_from_none_and_nothing_is_made_of_what_was_not_tried():
    arms = {"stage1": drawn(0.3), "stage2": drawn(0.6, seed=1), "without-tic": drawn(0.6, seed=2)}
    figures = result(arms, COMPARED, ["boxes"], np.array([0.1]), draws=300)
    against = {one["minus"]: one[PARTS[0]]["boxes"] for one in figures["differences"]}
    assert against["stage1"]["detectable"] and 0.2 < against["stage1"]["low"] < 0.3 < against["stage1"]["high"] < 0.4
    assert not against["without-tic"]["detectable"]
    assert figures["differences"][0][PARTS[1]]["boxes"]["value"] is None
    printed = table(figures)
    assert f"stage2 against without-tic, seen pairs: {NONE}" in printed
    assert "stage2 against stage1, seen pairs: higher boxes" in printed
    assert "held-out pairs: nothing to compare" in printed


def test_pairing_finds_a_small_difference_that_every_scene_shares():
    """Scenes differ much more than the arms do; on the same scenes that does not matter."""
    one, other = drawn(0.5), drawn(0.5)
    other.hits[:, 0, 0, :15] = 0
    one.hits[:, 0, 0, :15] = 1
    cell = result({"stage1": other, "stage2": one}, COMPARED, ["boxes"], np.zeros(1), 500)["differences"][0][PARTS[0]]["boxes"]
    assert cell["detectable"] and cell["high"] - cell["low"] < 0.06


def test_words_name_what_is_higher_lower_and_not_to_be_told():
    cells = {
        "a": {"value": 0.2, "detectable": True},
        "b": {"value": -0.2, "detectable": True},
        "c": {"value": 0.1, "detectable": False},
    }
    assert in_words(cells) == f"higher a; lower b; {NONE} in c"
    assert in_words({"c": cells["c"]}) == NONE


def test_an_arm_brings_along_what_it_starts_from():
    assert [arm.name for arm in needed(["truth-captions", "without-tic"])] == [
        "stage1", "stage1-truth", "without-tic", "truth-captions"
    ]  # fmt: skip
    assert not ARMS["sigmoid-only"].region_heads and ARMS["without-both"].region_heads


def test_the_command_trains_tries_prints_and_does_nothing_twice(tmp_path, capsys, monkeypatch):
    # The trainer's command, without the seconds that every new process takes to import torch.
    monkeypatch.setattr("benchmarks.arms.train.trainer", lambda *words, log: app(list(words), standalone_mode=False))
    words = ["--out", str(tmp_path), "--scenes", "12", "--tests", "6", "--steps", "2", "2", "--jobs", "1", "--draws", "50"]
    words += ["--set", "batch=4", "data.workers=0", "data.patches=16", "data.shuffle_block=8"]
    command.main([*words, "--seeds", "1", "--arms", "shuffled-boxes"])
    printed = capsys.readouterr().out
    assert "held out of training (15% of pairs)" in printed and "shuffled-boxes" in printed and "1 seed" in printed
    figures = json.loads((tmp_path / "arms.json").read_text())
    assert set(figures["arms"]) == {"stage1", "shuffled-boxes"} and set(figures["chance"]) == set(METRICS)
    assert figures["arms"]["stage1"][PARTS[0]]["negatives EN"]["value"] is not None
    boxes = {name: boxes_of(tmp_path / "data" / name / "00000.tar") for name in ("told", "shuffled")}
    assert boxes["told"] != boxes["shuffled"] and sorted(boxes["told"]) == sorted(boxes["shuffled"])

    monkeypatch.setattr(command, "train", lambda *_: pytest.fail("trained again"))
    command.main([*words, "--seeds", "1", "--arms", "shuffled-boxes"])
    assert json.loads((tmp_path / "arms.json").read_text()) == figures
    with pytest.raises(SystemExit, match=r"misread was 0\.1, is 0\.5"):
        command.main([*words, "--misread", "0.5"])


def boxes_of(path):
    with tarfile.open(path) as tar:
        records = [json.load(tar.extractfile(member)) for member in tar if member.name.endswith(".json")]
    return [region["box"] for record in records for region in record["regions"]]


def test_an_unknown_arm_is_named_with_those_there_are(capsys):
    with pytest.raises(SystemExit):
        command.asked_for(["--arms", "stage3"])
    assert "no such arm: stage3. Arms: untrained, stage1" in capsys.readouterr().err
