import asyncio
import json

import pytest
from PIL import Image

from operators.base import Answer
from operators.verify_negatives import VerifyNegatives
from prompts.images import fit

COLOURS = ("blue", "green", "pink", "white", "black", "grey", "brown", "yellow", "orange", "purple")
TEXTS = [f"a {colour} ball" for colour in COLOURS]
REGION = {
    "box": [0.0, 0.0, 0.5, 0.5],
    "score": None,
    "short": "a red ball",
    "long": "a red ball",
    "language": "en",
    "origin": "model",
}
GROUP = [
    {
        "text": t,
        "family": "colour",
        "start": 2,
        "end": 6,
        "original": "red",
        "origin": "lexical",
        "flags": ["present_elsewhere"],
    }
    for t in TEXTS
]


class Judge:
    """Finds exactly the texts in `true` true; or answers with `text` whatever it is asked."""

    def __init__(self, true=(), text=None) -> None:
        self.true, self.text, self.asked = true, text, []

    def sent_size(self, size):
        return fit(*size, 200704)

    async def __call__(self, prompt, variables, image=None):
        self.asked.append(variables)
        verdicts = json.dumps({"verdicts": [t in self.true for t in variables["texts"]]})
        return Answer(verdicts if self.text is None else self.text, "stop", 0, 0, "hash")


def run(ask, regions=(REGION,), negatives=(GROUP,), picture=True, **settings):
    image = Image.new("RGB", (640, 480)) if picture else None
    sample = {"uid": "1", "regions": list(regions), "negatives": list(negatives)}
    columns, rejects = asyncio.run(VerifyNegatives(**settings)(sample, image, ask))
    return columns["negatives"], [(r.item, r.reason) for r in rejects]


def flags(group):
    return [negative["flags"][-1:] for negative in group]


def test_false_texts_are_flagged_verified_and_keep_their_other_flags():
    ask = Judge(true=["a red ball"])
    (group,), rejects = run(ask)
    assert rejects == [] and {tuple(n["flags"]) for n in group} == {("present_elsewhere", "verified")}
    assert ask.asked[0] == {"box": [0, 0, 252, 196], "texts": TEXTS}
    assert GROUP[0]["flags"] == ["present_elsewhere"]


def test_the_expression_is_asked_about_in_the_place_of_a_verified_text():
    ask = Judge(true=["a red ball"])
    run(ask)
    first, second = (asked["texts"] for asked in ask.asked)
    assert "a red ball" not in first and second.count("a red ball") == 1 and len(set(first) & set(second)) == 9
    ask = Judge()
    run(ask, check_positive=False)
    assert len(ask.asked) == 1


def test_a_true_text_gives_its_place_to_another_that_is_looked_at_too():
    ask = Judge(true=["a pink ball", "a red ball"])
    (group,), rejects = run(ask)
    texts = [negative["text"] for negative in group]
    assert rejects == [("negatives[0][2]", "true")] and "a pink ball" not in texts and len(set(texts)) == 10
    assert flags(group) == [["verified"]] * 10 and group[2]["origin"] == "lexical"
    assert len(ask.asked) == 2, "the second look also asks about the expression"
    assert [a == b for a, b in zip(texts, TEXTS, strict=True)].count(False) == 1


class Never(Judge):
    """Finds every text true that is not in the first group, and one that is."""

    async def __call__(self, prompt, variables, image=None):
        self.asked.append(variables)
        verdicts = [t not in TEXTS or t == "a pink ball" for t in variables["texts"]]
        return Answer(json.dumps({"verdicts": verdicts}), "stop", 0, 0, "hash")


def test_after_the_last_correction_there_is_no_group_or_one_that_says_what_nobody_looked_at():
    ask = Never()
    groups, rejects = run(ask, corrections=2)
    assert groups == [[]] and len(ask.asked) == 3
    assert rejects == [("negatives[0][2]", "true")] * 3 + [("negatives[0]", "true")]
    (group,), _ = run(Never(), corrections=1, then="fill")
    assert flags(group).count(["verified"]) == 9 and "verified" not in group[2]["flags"]
    assert group[2]["text"] not in TEXTS
    (group,), _ = run(Never(), then="flag", corrections=0)
    assert flags(group).count(["doubtful"]) == 1 and group[2]["text"] == "a pink ball"


def test_a_positive_that_is_found_false_empties_its_group():
    assert run(Judge()) == ([[]], [("negatives[0]", "wrong_positive")])
    assert run(Judge(true=["a pink ball"])) == ([[]], [("negatives[0][2]", "true"), ("negatives[0]", "wrong_positive")])


def test_what_only_a_wrong_expression_says_is_not_present_elsewhere():
    wrong = {**REGION, "box": [0.6, 0.0, 0.9, 0.4], "short": "a blue ball"}
    right = {**REGION, "box": [0.6, 0.6, 0.9, 0.9], "short": "a green ball"}
    others = [{**n, "text": "a red ball" if n["text"] == "a blue ball" else n["text"], "flags": []} for n in GROUP]
    groups, rejects = run(Judge(true=["a red ball"]), [REGION, wrong, right], [GROUP, others, []])
    assert ("negatives[1]", "wrong_positive") in rejects and groups[1] == []
    kept = {negative["text"] for negative in groups[0] if "present_elsewhere" in negative["flags"]}
    assert kept == {"a green ball"} and flags(groups[0]) == [["verified"]] * 10


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("no", "not_json"),
        ('{"verdicts":[false]}', "wrong_shape"),
        ('{"verdicts":' + json.dumps(["no"] * 10) + "}", "wrong_shape"),
        ('{"verdicts":[' + "false," * 7, "wrong_shape"),
        ("[" * 70_000, "oversized"),
    ],
)
def test_without_usable_verdicts_there_is_no_group_unless_the_recipe_keeps_it(text, reason):
    assert run(Judge(text=text)) == ([[]], [("negatives[0]", reason)])
    assert run(Judge(text=text), unverified="keep") == ([GROUP], [("negatives[0].verdicts", reason)])
    assert reason in VerifyNegatives.reasons


def test_who_finds_everything_true_does_not_look():
    everything = json.dumps({"verdicts": [True] * 10})
    assert run(Judge(text=everything)) == ([[]], [("negatives[0]", "degenerate")])


def changed(place, text):
    return [{**negative, "text": text} if i == place else negative for i, negative in enumerate(GROUP)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a crimson ball", "not_false"),
        ("A red ball", "unchanged"),
        ("a red cat", "object_changed"),
        ("a gray ball", "repeated"),
    ],
)
def test_words_decide_before_anyone_is_asked(text, reason):
    ask = Judge(true=["a red ball"])
    (group,), rejects = run(ask, negatives=(changed(7, text),))
    assert rejects == [("negatives[0][7]", reason)]
    assert text not in ask.asked[0]["texts"] and group[7]["text"] not in (text, "a red ball")


def test_what_an_overlapping_box_bears_is_replaced():
    other = {**REGION, "short": "a navy ball", "long": "a navy ball", "box": [0.0, 0.0, 0.3, 0.4]}
    (group, _), rejects = run(Judge(true=["a red ball"]), regions=(REGION, other), negatives=(GROUP, []))
    assert ("negatives[0][0]", "overlap") in rejects
    assert not {"a blue ball", "a dark blue ball"} & {negative["text"] for negative in group}


def test_scores_decide_plain_cases():
    def scored(own, scores, **settings):
        image = Image.new("RGB", (640, 480))
        sample = {"uid": "1", "regions": [REGION], "negatives": [GROUP], "positive_scores": [own], "negative_scores": [scores]}
        ask = Judge(true=["a red ball"])
        columns, rejects = asyncio.run(VerifyNegatives(**settings)(sample, image, ask))
        return columns["negatives"][0], [(r.item, r.reason) for r in rejects], ask

    assert scored(0.1, [0.2] * 10, min_positive_score=0.15)[:2] == ([], [("negatives[0]", "wrong_positive")])
    group, rejects, ask = scored(0.2, [0.1] * 9 + [0.4], max_advantage=0.1)
    assert rejects == [("negatives[0][9]", "clip")] and "a purple ball" not in ask.asked[0]["texts"] and len(group) == 10


def test_empty_groups_stay_and_are_not_asked_about():
    ask = Judge()
    assert run(ask, negatives=([],)) == ([[]], []) and ask.asked == []
    assert run(ask, regions=(), negatives=()) == ([], [])


def test_without_a_picture_nothing_is_verified():
    assert run(Judge(), picture=False) == ([[]], [("negatives[0]", "no_picture")])
    assert run(Judge(), picture=False, unverified="keep") == ([GROUP], [("negatives[0].verdicts", "no_picture")])


def test_the_same_sample_is_asked_the_same_questions():
    first, second = Judge(true=["a pink ball", "a red ball"]), Judge(true=["a pink ball", "a red ball"])
    assert run(first) == run(second) and first.asked == second.asked
