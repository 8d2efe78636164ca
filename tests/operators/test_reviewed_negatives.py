"""Reviewers' verdicts on groups of hard negatives."""

import json

import pyarrow as pa

from operators.columns import NEGATIVES, REGIONS
from operators.reviewed_negatives import ReviewedNegatives, fault_of

UID = "0" * 32
TEXTS = [
    f"a {colour} cup" for colour in ("red", "blue", "green", "black", "white", "pink", "grey", "brown", "orange", "purple")
]
SHOWN = "\n".join(TEXTS)


def negative(text):
    return {
        "text": text,
        "family": "colour",
        "start": 2,
        "end": 5,
        "original": "yellow",
        "origin": "model",
        "flags": ["verified"],
    }


def judged(tmp_path, verdict, **more):
    line = {"uid": UID, "column": "negatives", "place": 1, "source": "a yellow cup", "translation": SHOWN, "verdict": verdict}
    line |= {"corrected": None, "reviewer": "Li", "time": "2026-11-22T10:00:00Z"} | more
    (tmp_path / "reviews.jsonl").write_text(json.dumps(line) + "\n")
    region = {
        "box": [0, 0, 0.5, 0.5],
        "score": None,
        "short": "a yellow cup",
        "long": None,
        "language": "en",
        "origin": "model",
    }
    group = [negative(text) for text in TEXTS]
    columns = {"regions": pa.array([[region, region]], REGIONS), "negatives": pa.array([[group, group]], NEGATIVES)}
    outcome = ReviewedNegatives(file=str(tmp_path / "reviews.jsonl"))(pa.table({"uid": [UID], **columns}))
    first, second = outcome.kept["negatives"].to_pylist()[0]
    assert first == group
    return second, [(r.reason, r.detail, r.item) for r in outcome.rejects]


def test_an_accepted_group_stays_and_a_rejected_one_goes_with_its_reason(tmp_path):
    group, refused = judged(tmp_path, "accept")
    assert [n["text"] for n in group] == TEXTS and not refused
    group, refused = judged(tmp_path, "reject", reason="not false")
    assert group == [] and refused == [("rejected", "by Li: not false", "negatives[1]")]


def test_a_reviewers_wording_takes_the_place_of_the_texts_that_changed(tmp_path):
    group, refused = judged(tmp_path, "correct", corrected=SHOWN.replace("a red cup", "a scarlet cup"))
    assert not refused and group[1]["origin"] == "model" and group[1]["flags"] == ["verified"]
    assert group[0]["text"][group[0]["start"] : group[0]["end"]] == "scarlet" and group[0]["original"] == "yellow"
    assert group[0]["origin"] == "human" and group[0]["flags"] == ["reviewed"]


def test_a_verdict_on_other_texts_or_another_expression_is_not_used(tmp_path):
    for more in ({"translation": SHOWN + " "}, {"source": "a yellow mug"}):
        group, refused = judged(tmp_path, "reject", **more)
        assert len(group) == 10 and refused[0][0] == "stale"


def test_texts_that_make_no_group_of_ten_different_ones_leave_it_empty(tmp_path):
    for wording in (SHOWN.replace("red", "yellow"), SHOWN.replace("red", "Blue"), SHOWN + "\na cyan cup"):
        group, refused = judged(tmp_path, "correct", corrected=wording)
        assert group == [] and refused[0][0] == "unusable"
    assert fault_of("a yellow cup", SHOWN, SHOWN) is None
