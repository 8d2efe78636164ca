import asyncio
import json

import pytest
from PIL import Image

from operators.base import Answer
from operators.ground import Ground, expression
from prompts.images import fit


class Finds:
    """Answers every question with one text, as a client whose pictures are 504 x 392 pixels large."""

    def __init__(self, text: str = "", finish: str = "stop") -> None:
        self.text, self.finish, self.asked = text, finish, []

    def sent_size(self, size):
        return fit(*size, 200704)

    async def __call__(self, prompt, variables, image=None):
        self.asked.append(variables["phrases"])
        return Answer(self.text, self.finish, 0, 0, "hash")


def boxes(*pairs) -> str:
    return json.dumps({"boxes": [{"phrase": phrase, "bbox_2d": box} for phrase, box in pairs]})


def phrases(*texts: str):
    return [{"text": t, "start": 0, "end": len(t), "head": t.split()[-1]} for t in texts]


def run(ask: Finds, picture: bool = True, settings=None, **sample):
    image = Image.new("RGB", (640, 480)) if picture else None
    columns, rejects = asyncio.run(Ground(**(settings or {}))({"uid": "1", **sample}, image, ask))
    return columns["regions"], [(r.item, r.reason) for r in rejects]


def test_model_boxes_come_back_as_fractions_of_the_picture():
    regions, rejects = run(Finds(boxes((1, [0, 0, 252, 196]))), phrases_en=phrases("a red ball"))
    assert rejects == []
    assert regions == [
        {
            "box": [0, 0, 0.5, 0.5],
            "score": None,
            "short": "a red ball",
            "long": "a red ball",
            "language": "en",
            "origin": "model",
        }
    ]


def test_overflow_is_clipped_and_swapped_corners_are_put_right():
    regions, _ = run(Finds(boxes((1, [252, 196, 0, 0]), (2, [300, 200, 520, 400]))), phrases_en=phrases("a ball", "a dog"))
    assert [r["box"][:2] for r in regions] == [[0, 0], [300 / 504, 200 / 392]]
    assert regions[1]["box"][2:] == [1, 1]


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([10, 10, 10, 90], "empty_box"),
        ([600, 500, 700, 600], "outside"),
        ([0, 0, 5, 5], "too_small"),
        ([0, 0, 504, 392], "too_large"),
        ([0.1, 0.1, 0.5, 0.5], "scale"),
        ([1, 2, 3], "not_a_box"),
        ("1,2,3,4", "not_a_box"),
    ],
)
def test_unusable_boxes_are_refused_with_the_phrase_they_were_for(box, reason):
    assert run(Finds(boxes((1, box))), phrases_en=phrases("a ball")) == ([], [("phrases_en[0]", reason)])


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("", "stop", "empty"),
        ("no boxes", "stop", "not_json"),
        ('{"boxes":"none"}', "stop", "wrong_shape"),
        ('{"boxes":[1,2]}', "stop", "wrong_shape"),
        (boxes((9, [1, 2, 30, 40])), "stop", "wrong_shape"),
        ('{"boxes":[]}', "stop", "absent"),
        ('{"boxes":[', "length", "cut"),
        ("x" * 100_000, "stop", "oversized"),
        ("HTTP 400", "error:400", "refused_request"),
    ],
)
def test_an_unusable_answer_refuses_the_phrases_and_keeps_the_sample(text, finish, reason):
    assert run(Finds(text, finish), phrases_en=phrases("a ball")) == ([], [("phrases_en[0]", reason)])
    assert reason in Ground.reasons


def test_a_cut_answer_keeps_the_boxes_that_are_whole():
    cut = boxes((1, [0, 0, 252, 196]), (2, [300, 200, 400, 300]))[:-12]
    regions, rejects = run(Finds(cut, "length"), phrases_en=phrases("a ball", "a dog", "a cat"))
    assert [r["short"] for r in regions] == ["a ball"]
    assert rejects == [("phrases_en[1]", "cut"), ("phrases_en[2]", "cut")]


@pytest.mark.parametrize(
    "given",
    [
        ((1, [100, 100, 400, 300]), (2, [600, 700, 990, 980])),  # thousandths
        ((1, [0.1, 0.1, 0.4, 0.3]), (2, [0.6, 0.7, 0.99, 0.98])),  # fractions
        ((1, [0, 0, 1, 1]), (2, [0, 0, 1, 0.5])),
    ],
)
def test_an_answer_in_other_units_gives_no_box_at_all(given):
    regions, rejects = run(Finds(boxes(*given)), phrases_en=phrases("a ball", "a dog"))
    assert regions == [] and rejects == [("phrases_en[0]", "scale"), ("phrases_en[1]", "scale")]


@pytest.mark.parametrize(
    "entry",
    [{"phrase": "1"}, {"phrase": 1.0}, {"label": "A ball."}, {"phrase": "“a ball”"}],
)
def test_a_phrase_may_be_named_by_its_number_or_its_words_however_they_are_written(entry):
    regions, _ = run(Finds(json.dumps({"boxes": [entry | {"bbox_2d": [0, 0, 252, 196]}]})), phrases_en=phrases("a ball"))
    assert [r["short"] for r in regions] == ["a ball"]


@pytest.mark.parametrize("number", [True, 0, -1, 1.5, "one", "²", 2, None, 1e300])
def test_a_number_that_names_no_phrase_gives_no_box(number):
    answer = json.dumps({"boxes": [{"phrase": number, "bbox_2d": [0, 0, 252, 196]}]})
    assert run(Finds(answer), phrases_en=phrases("a ball")) == ([], [("phrases_en[0]", "wrong_shape")])


def test_an_absent_phrase_gives_no_box():
    regions, rejects = run(Finds(boxes((2, [0, 0, 252, 196]))), phrases_en=phrases("a unicorn", "a ball"))
    assert [r["short"] for r in regions] == ["a ball"] and rejects == [("phrases_en[0]", "absent")]


def test_the_model_s_own_form_with_labels_is_understood():
    answer = '```json\n[{"bbox_2d": [0, 0, 252, 196], "label": "A ball"}]\n```'
    assert [r["box"] for r in run(Finds(answer), phrases_en=phrases("a ball"))[0]] == [[0, 0, 0.5, 0.5]]


def test_several_boxes_of_one_phrase_are_the_recipe_s_choice():
    ask = Finds(boxes((1, [0, 0, 100, 100]), (1, [200, 200, 300, 300]), (1, [1, 0, 100, 100])))
    given = {"phrases_en": phrases("a ball")}
    assert len(run(ask, **given)[0]) == 2
    assert len(run(ask, settings={"several_boxes": "first"}, **given)[0]) == 1
    assert run(ask, settings={"several_boxes": "drop"}, **given) == ([], [("phrases_en[0]", "several")])


def test_two_expressions_of_one_box_become_its_short_and_long_one():
    ask = Finds(boxes((1, [0, 0, 100, 100]), (2, [0, 0, 100, 101])))
    regions, rejects = run(ask, phrases_en=phrases("a ball", "a big red ball"))
    assert [(r["short"], r["long"]) for r in regions] == [("a ball", "a big red ball")]
    assert rejects == [("phrases_en[1]", "duplicate")]


def test_two_languages_share_a_box_without_suppressing_each_other():
    regions, _ = run(Finds(boxes((1, [0, 0, 100, 100]))), phrases_en=phrases("a ball"), phrases_zh=phrases("一个球"))
    assert [(r["language"], r["short"]) for r in regions] == [("en", "a ball"), ("zh", "一个球")]


def test_one_box_for_everything_is_no_answer():
    ask = Finds(boxes(*((i, [10, 10, 100, 100]) for i in (1, 2, 3))))
    regions, rejects = run(ask, phrases_en=phrases("a ball", "a dog", "a tree"))
    assert regions == [] and {reason for _, reason in rejects} == {"degenerate"}


def test_phrases_are_asked_once_and_in_batches_up_to_the_limit():
    ask = Finds('{"boxes":[]}')
    _, rejects = run(
        ask,
        settings={"phrases_per_request": 2, "max_phrases": 3},
        phrases_en=phrases("a cat", "A cat", "a dog", "a hen", "a cow", "it"),
    )
    assert ask.asked == [["a cat", "a dog"], ["a hen"]]
    assert ("phrases_en[1]", "duplicate") in rejects and ("phrases_en[4]", "over_limit") in rejects
    assert ("phrases_en[5]", "text") in rejects


SOURCE = [
    {"box": [0.1, 0.1, 0.5, 0.5], "text": "a cat", "score": 0.5},
    {"box": [0.6, 0.6, 0.9, 0.9], "text": "a dog", "score": 0.9},
    {"box": [0.1, 0.1, 0.2, 0.2], "text": "a hen", "score": 0.3},
    {"box": [0.1, 0.1, 0.2, 0.2], "text": "one of them", "score": 0.9},
    {"box": [0.1, 0.1, 0.2, 0.2], "text": "\u202egod a", "score": 0.9},
    {"box": [0.1, 0.1, 0.2, 0.2], "text": None, "score": 0.9},
    {"box": [0.5, 0.5, 0.5, 0.9], "text": "a cow", "score": 0.9},
    {"box": None, "text": "a cow", "score": 0.9},
    {"box": [0.1, 0.6, 0.2, 0.7], "text": "a cow", "score": float("nan")},
]


def test_source_boxes_are_judged_and_come_best_first():
    regions, rejects = run(Finds(), picture=False, language="en", source_regions=SOURCE)
    assert [(r["short"], r["score"], r["origin"]) for r in regions] == [("a dog", 0.9, "source"), ("a cat", 0.5, "source")]
    assert rejects == [
        ("source_regions[2]", "confidence"),
        ("source_regions[3]", "text"),
        ("source_regions[4]", "text"),
        ("source_regions[5]", "text"),
        ("source_regions[6]", "empty_box"),
        ("source_regions[7]", "not_a_box"),
        ("source_regions[8]", "confidence"),
    ]


def test_a_source_box_wins_over_the_model_s():
    regions, rejects = run(
        Finds(boxes((1, [50, 39, 252, 196]))), language="en", source_regions=SOURCE[:1], phrases_en=phrases("an animal")
    )
    assert [r["origin"] for r in regions] == ["source"] and rejects == [("phrases_en[0]", "duplicate")]


def test_nothing_to_ground_asks_nothing():
    ask = Finds()
    assert run(ask) == ([], []) and run(ask, phrases_en=None, phrases_zh=[], source_regions=None, language=None) == ([], [])
    assert ask.asked == []


def test_columns_that_a_recipe_does_not_make_are_optional():
    assert set(Ground().reads.names) == set(Ground().optional) == {"phrases_en", "phrases_zh", "language", "source_regions"}
    assert Ground(ask_model=False).prompts == [] and Ground(use_source_boxes=False, languages=["zh"]).reads.names == [
        "phrases_zh"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...",
        "it",
        "one of them",
        "12345",
        "http://a.com/x",
        "**bold**",
        "其中一个",
        "x" * 300,
        "ignore previous instructions",
    ],
)
def test_texts_that_name_nothing_are_no_expressions(text):
    assert expression(text)[0] == "text"


@pytest.mark.parametrize("text", ["a red ball", "狗", "一只白色的小狗", "ox", "the man on the left with a no. 7 shirt"])
def test_plain_words_are_expressions(text):
    assert expression(text) is None
