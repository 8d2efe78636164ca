import pyarrow as pa
import pytest

from operators.columns import POSITIVES, REGIONS
from operators.hard_positives import HardPositives

LEFT, RIGHT = [0.0, 0.0, 0.4, 1.0], [0.6, 0.0, 1.0, 1.0]


def run(*pairs, **settings):
    regions = [
        {"box": box, "score": None, "short": text, "long": text, "language": None, "origin": "human"} for text, box in pairs
    ]
    outcome = HardPositives(**settings)(pa.table({"uid": ["a"], "regions": pa.array([regions], REGIONS)}))
    assert outcome.kept.schema.field("positives").type == POSITIVES
    texts = [[positive["text"] for positive in row] for row in outcome.kept["positives"].to_pylist()[0]]
    return texts, [(reject.item, reject.reason) for reject in outcome.rejects]


def test_only_synonyms_that_are_sure_are_exchanged():
    ((sofa, dog, chair), rejects) = run(("a grey sofa", LEFT), ("一只黑色的狗", RIGHT), ("a crimson chair", [0.4, 0, 0.6, 1]))
    assert len(sofa) == 2 and set(sofa) <= {"a gray sofa", "a grey couch", "a gray couch"}
    assert dog == ["一只黑色狗"]
    assert chair == [] and rejects == [("positives[2]", "no_paraphrase")]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("a red ball", r"a red ball, not an? \w+ one"),
        ("two striped balls", r"two striped balls, not [\w -]+ ones"),
        ("一个红色的球", r"一个红色的球，而不是\w+的"),
    ],
)
def test_a_right_denial_names_what_the_thing_is_not(text, form):
    import re

    ((texts,), _) = run((text, LEFT), negation=True)
    assert re.fullmatch(form, texts[-1]) and "red one" not in texts[-1] and "不是红色" not in texts[-1]


def test_expressions_that_contradict_each_other_get_none():
    texts, rejects = run(("a grey sofa", LEFT), ("a red sofa", LEFT), ("", RIGHT))
    assert texts == [[], [], []] and [reason for _, reason in rejects] == ["contradiction", "contradiction", "no_text"]


def test_at_most_so_many_as_asked_for():
    ((texts,), _) = run(("a large grey sofa", LEFT), count=1)
    assert len(texts) == 1
