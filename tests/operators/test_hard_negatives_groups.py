import random

import pytest

from operators.perturb import chinese, english
from operators.perturb.group import SIZE, Plan, Sampler, _systematic, around_another, build


def sampler(text, seed=0, weights=None, **plan):
    phrase = english.parse([text])[0]
    plan = Plan(**{"pivot": 0.9, "spread": 0.0, "families_changed": 1, "max_same": 2, **plan})
    return Sampler(
        phrase,
        [english.options(slot, weights) for slot in phrase.slots],
        [english.own_weight(slot, weights) for slot in phrase.slots],
        plan,
        random.Random(seed),
    )


def test_no_member_of_a_line_is_nearer_to_the_rest_than_another():
    made = sampler("a red ball")
    changes = build(made)
    assert len(changes) == SIZE and {slot for change in changes for slot in change} == {0}


def test_a_star_gathers_around_a_negative_and_the_positive_is_one_of_its_neighbours():
    made = sampler("a red cup with a green lid and a blue handle")
    changes = around_another(made, [0, 1, 2])
    members = [{}, *changes]

    def distance(a, b):
        return sum(a.get(i) != b.get(i) for i in range(3))

    centres = [member for member in members if all(distance(member, other) <= 1 for other in members)]
    assert len(changes) == SIZE and len(centres) == 1 and centres[0] != {}


def test_the_positive_is_no_more_often_the_usual_word_than_its_neighbours():
    """Positives drawn by weight, neighbours by the sampler: guessing the usual word gains nothing, with even draws it gains a lot."""
    weights = {f"word{i}": float(i) for i in range(1, 31)}
    rng = random.Random(0)
    right = {"ours": 0, "even": 0}
    rounds = 4000
    for _ in range(rounds):
        own = rng.choices(list(weights), list(weights.values()))[0]
        others = {word: weight for word, weight in weights.items() if word != own}
        ours = _systematic(others, SIZE, weights[own], rng)
        assert len(set(ours)) == SIZE
        right["ours"] += max([own, *ours], key=weights.__getitem__) == own
        right["even"] += max([own, *rng.sample(sorted(others), SIZE)], key=weights.__getitem__) == own
    assert right["ours"] / rounds == pytest.approx(1 / 11, abs=0.015)  # three standard errors
    assert right["even"] / rounds > 0.15


def test_values_drawn_for_one_slot_exclude_each_other_where_there_are_enough():
    made = sampler("a red ball")
    family = english.lexicon.load("en").families["colour"]
    values = [change[0].value for change in build(made)]
    assert all(family.excludes(a, b) for i, a in enumerate(values) for b in values[:i])


def test_stripes_never_get_the_colour_of_what_they_are_on():
    made = sampler("a black hat with white stripes")
    assert "black" not in {option.text for option in made.choices[1]} and "white" not in {
        option.text for option in made.choices[0]
    }


def test_a_phrase_with_little_to_change_gives_no_group():
    assert len(build(sampler("a large open box", max_same=1))) < SIZE


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        ("a light brown and white striped box", [("colour", "light brown"), ("colour", "white"), ("pattern", "striped")]),
        ("A bowl made of metal and grey in color.", [("material", "metal"), ("colour", "grey")]),
        ("a wood guitar", [("material", "wood")]),
        (
            "two small dogs lying on a red rug",
            [("count", "two"), ("size", "small"), ("action", "lying"), ("relation", "on"), ("colour", "red")],
        ),
        ("a black dog's bone", [("colour", "black")]),
        ("a grey-colored tube", [("colour", "grey")]),
        ("a two-story house", []),
        ("one of the dogs", []),
        ("a dog 2 years old", []),
        ("running shoes", []),
        ("a glass", []),
        ("a glass of milk", []),
        ("a box with text on it", []),
        ("a box with a text pattern", [("pattern", "text")]),
        ("a short man with short hair", [("size", "short"), ("size", "short")]),
        ("a bottle full of water", []),
        ("", []),
        ("\u200b\u0000 ???", []),
    ],
)
def test_english_slots(text, slots):
    phrase = english.parse([text])[0]
    assert [(slot.family, text[slot.start : slot.end]) for slot in phrase.slots] == slots


def test_short_is_the_opposite_of_tall_for_people_and_of_long_for_hair():
    man, hair = english.parse(["a short man with short hair"])[0].slots
    assert [option.text for option in english.options(man)] == ["tall"]
    assert [option.text for option in english.options(hair)] == ["long"]


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        ("三个红色条纹小球", [("count", "三"), ("colour", "红色"), ("pattern", "条纹"), ("size", "小")]),
        ("一张木桌", [("material", "木")]),
        ("一个玻璃杯", [("material", "玻璃")]),
        ("一个拿着红伞的女孩", [("action", "拿"), ("colour", "红")]),
        ("一把由金属制成的椅子", [("material", "金属")]),
        ("桌子上面的蓝色杯子", [("relation", "上面"), ("colour", "蓝色")]),
        ("第三只狗", []),
        ("一杯红茶", []),
        ("大象", []),
        ("写着“红色”的牌子", []),
        ("", []),
    ],
)
def test_chinese_slots(text, slots):
    phrase = chinese.parse([text])[0]
    assert [(slot.family, text[slot.start : slot.end]) for slot in phrase.slots] == slots
