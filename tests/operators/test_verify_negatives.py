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


def test_false_texts_are_flagged_verified_and_keep_their_other_flags():
    ask = Judge()
    (group,), rejects = run(ask)
    assert rejects == [] and {tuple(n["flags"]) for n in group} == {("present_elsewhere", "verified")}
    assert ask.asked == [{"box": [0, 0, 252, 196], "texts": TEXTS}]
    assert GROUP[0]["flags"] == ["present_elsewhere"]


def test_a_group_with_a_true_text_is_emptied_or_flagged():
    assert run(Judge(true=["a pink ball"])) == ([[]], [("negatives[0]", "true")])
    (group,), rejects = run(Judge(true=["a pink ball"]), on_true="flag")
    assert rejects == [] and [n["flags"][-1] for n in group].count("doubtful") == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("no", "not_json"),
        ('{"verdicts":[false]}', "wrong_shape"),
        ('{"verdicts":' + json.dumps(["no"] * 10) + "}", "wrong_shape"),
        (json.dumps({"verdicts": [True] * 10}), "degenerate"),
    ],
)
def test_verdicts_that_cannot_be_used_leave_the_group_as_it_was(text, reason):
    assert run(Judge(text=text)) == ([GROUP], [("negatives[0].verdicts", reason)])
    assert reason in VerifyNegatives.reasons


def test_a_positive_that_is_found_false_empties_its_group():
    assert run(Judge(), check_positive=True) == ([[]], [("negatives[0]", "wrong_positive")])
    (group,), rejects = run(Judge(true=["a red ball"]), check_positive=True)
    assert len(group) == 10 and rejects == []


def test_empty_groups_stay_and_are_not_asked_about():
    ask = Judge()
    assert run(ask, negatives=([],)) == ([[]], []) and ask.asked == []
    assert run(ask, regions=(), negatives=()) == ([], [])


def test_without_a_picture_nothing_is_verified():
    assert run(Judge(), picture=False) == ([GROUP], [("negatives[0].verdicts", "no_picture")])
