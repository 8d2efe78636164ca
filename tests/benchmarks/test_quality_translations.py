"""Right pairs and the faults planted into them: what the measure of the translation checks stands on."""

import random
from collections import Counter

import pytest

from benchmarks.quality.translations import pairs, planter
from benchmarks.quality.translations.natural import judged

WRITTEN = list(pairs.written())
PAIRS = WRITTEN + list(pairs.formed(seed=0))


def test_there_are_enough_right_pairs_by_hand_and_each_has_both_sides():
    assert len(WRITTEN) >= 240
    assert all(pair.en and pair.zh and not set("[]<>{}|") & set(pair.zh) for pair in PAIRS)
    assert len({pair.uid for pair in PAIRS}) == len(PAIRS)


def test_every_kind_is_planted_often_enough_and_changes_the_chinese():
    faults = planter.plant(PAIRS, seed=0)
    assert min(Counter(fault.kind for fault in faults).values()) >= 200
    assert len(planter.KINDS) + 1 == len({fault.kind for fault in faults})
    assert all(fault.zh != fault.pair.zh for fault in faults)


def test_the_same_seed_plants_the_same_and_another_one_others():
    first, again, other = (planter.plant(PAIRS, seed, per_kind=20) for seed in (1, 1, 2))
    assert first == again != other


def test_both_halves_have_pairs_and_a_pair_stays_in_its_half():
    half = [pair.for_looking_at for pair in PAIRS]
    assert 0.4 < sum(half) / len(half) < 0.6
    assert half == [pair.for_looking_at for pair in (*WRITTEN, *pairs.formed(seed=5))]


def test_marks_are_read_and_do_not_stand_in_the_text():
    segment = pairs.parse("The dog has no tail.", "<{黑}狗>追着<[-没有尾巴/有尾巴]的猫>。")
    assert segment.zh == "黑狗追着没有尾巴的猫。"
    assert segment.colours == ((0, 1),) and segment.parties == ((0, 2), (4, 10)) and segment.lost == ((4, 8, "有尾巴"),)


@pytest.mark.parametrize("broken", ["<狗追着猫", "<狗>追着猫", "狗>", "[没有/有]"])
def test_marks_that_do_not_fit_are_refused(broken):
    with pytest.raises(ValueError):
        pairs.parse("A dog.", broken)


@pytest.mark.parametrize(
    ("kind", "zh", "wrong"),
    [
        ("dropped size", "一艘红色的大船。", "一艘红色的船。"),
        ("dropped size", "一只大狗在船上。", None),
        ("dropped colour", "他穿着深红色的毛衣。", "他穿着毛衣。"),
        ("dropped colour", "墙是红色的。", None),
        ("dropped colour", "红色、白色和蓝色的旗。", None),
        ("changed number", "第三个人和另一个人。", None),
        ("swapped arguments", "<狗>追<猫>。", "猫追狗。"),
        ("lost negation", "[-没有戴/戴着]帽子。", "戴着帽子。"),
        ("added negation", "他戴着一顶帽子。", "他没有戴帽子。"),
        ("added negation", "他[-没有戴/戴着]帽子。", None),
    ],
)
def test_faults_stand_where_they_fit_the_grammar(kind, zh, wrong):
    found = list(planter._of_pair(pairs.Pair("1", "written", (pairs.parse("A large red boat.", zh),)), kind, random.Random(0)))
    assert [fault.zh for fault in found] == ([wrong] if wrong else [])


def test_a_changed_colour_is_of_another_group():
    for fault in planter.plant(WRITTEN, seed=3):
        if fault.kind == "changed colour":
            assert fault.was != fault.now and not ("红" in fault.was and "粉" in fault.now)


@pytest.mark.parametrize(
    ("chinese", "right"),
    [
        ("画面中有一个红色条纹小球。", "right"),
        ("画面中有一个蓝色条纹小球。", "wrong"),
        ("画面中有两个红色条纹小球。", "wrong"),
        ("图中有一个红色条纹小球。", None),
        ("画面中有那个红色条纹小球。", None),
        ("", "wrong"),
    ],
)
def test_a_models_own_translation_is_wrong_where_it_claims_something_else(chinese, right):
    """Right to the letter, or wrong in a claim; other words of the same claims are not judged."""
    assert judged("There is a small red striped ball.", chinese, "画面中有一个红色条纹小球。") == right


@pytest.mark.parametrize(
    ("again", "right"),
    [
        ("那两个蓝色小杯子", None),
        ("那两个蓝色杯子", None),
        ("那两个蓝色小球", "again"),
        ("那三个蓝色小杯子", "again"),
        ("蓝色小杯子", "again"),
    ],
)
def test_a_thing_that_is_named_again_may_be_shortened_and_is_no_other(again, right):
    english = "There are two small blue cups. A red ball lies below the two small blue cups."
    assert judged(english, f"有两个蓝色小杯子。{again}的下面是一个红色球。", "") == right
