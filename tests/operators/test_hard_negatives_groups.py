import random
import re

import pyarrow as pa
import pytest

from operators.columns import REGIONS
from operators.hard_negatives import HardNegatives
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


def negatives(text, **settings):
    region = {"box": [0.0, 0.0, 1.0, 1.0], "score": None, "short": text, "long": text, "language": None, "origin": "human"}
    outcome = HardNegatives(**settings)(pa.table({"uid": ["0"], "regions": pa.array([[region]], REGIONS)}))
    return outcome.kept["negatives"].to_pylist()[0][0]


@pytest.mark.parametrize(
    ("text", "opposites", "added"),
    [
        ("an open door", {"closed", "half-open"}, r"a (closed|half-open) [\w ]+ door"),
        ("the dirty shirts", {"clean"}, r"the clean [\w ]+ shirts"),
        ("一扇开着的窗", {"关着"}, r"一扇关着的\w+窗"),
        ("一只湿漉漉的狗", {"干燥"}, r"一只干燥的\w+狗"),
    ],
)
def test_the_opposite_of_an_only_attribute_is_given_colours_on_request(text, opposites, added):
    assert negatives(text) == []
    made = negatives(text, insert_when_bare=True)
    alone = [negative for negative in made if not negative["flags"]]
    assert len({negative["text"] for negative in made}) == SIZE and len(alone) == len(opposites)
    assert all(any(word in negative["text"] for word in opposites) for negative in made)
    assert all(re.fullmatch(added, n["text"]) and n["flags"] == ["inserted"] for n in made if n not in alone)
    assert {negative["family"] for negative in made} == {"state"}


@pytest.mark.parametrize("text", ["an empty street", "an old man", "a small dog on a large sofa"])
def test_nothing_is_added_where_no_colour_fits_or_more_is_said(text):
    assert negatives(text, insert_when_bare=True) == []


def test_what_somebody_does_before_a_place_is_an_action_in_chinese():
    made = negatives("坐在长椅上的老人")
    assert len(made) == SIZE and all(re.fullmatch(r"\w{1,2}在长椅上的老人", negative["text"]) for negative in made)


def test_a_latin_name_is_what_a_chinese_attribute_describes():
    (phrase,) = chinese.parse(["一辆白色SUV"])
    assert phrase.head == "SUV" and phrase.slots[0].noun == "SUV"
