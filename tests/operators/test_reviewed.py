"""Reviewers' verdicts on translations."""

import json

import pyarrow as pa
import pytest
from pydantic import ValidationError

from operators.reviewed import Reviewed, read_reviews, settle


def uid(n):
    return f"{n:032x}"


def table(**columns):
    rows = len(next(iter(columns.values())))
    return pa.table({"uid": [uid(i) for i in range(rows)], **{name: pa.array(values) for name, values in columns.items()}})


def reasons(outcome):
    return [(reject.uid, reject.reason, reject.item) for reject in outcome.rejects]


def review(n=0, verdict="accept", reviewer="Li", time="2026-11-22T10:00:00+08:00", source="A dog.", **more):
    line = {"uid": uid(n), "column": "translation_zh", "place": None, "source": source, "translation": "一只狗。"}
    return line | {"verdict": verdict, "corrected": None, "reviewer": reviewer, "time": time} | more


def reviewed(tmp_path, *lines, **settings):
    path = tmp_path / "reviews.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return Reviewed(file=str(path), **settings)


def test_verdicts_are_honoured(tmp_path):
    operator = reviewed(
        tmp_path,
        review(0, "accept"),
        review(1, "reject"),
        review(2, "correct", corrected="一只棕色的狗。"),
        review(3, "reject", source="Another text."),
        review(4, "reject", translation="另一个译文。"),
    )
    samples = table(
        long_caption_en=["A dog.", "A  dog.", "A dog.", "A dog.", "A dog.", "A dog."],
        translation_zh=[None, "一只狗。", "一只狗。", "一只狗。", "一只狗。", "一只狗。"],
    )
    outcome = operator(samples)
    assert outcome.kept["translation_zh"].to_pylist() == ["一只狗。", None, None, "一只狗。", "一只狗。", "一只狗。"]
    assert outcome.kept["translation_zh_human"].to_pylist() == [None, None, "一只棕色的狗。", None, None, None]
    assert reasons(outcome) == [(uid(1), "rejected", "translation_zh"), (uid(3), "stale", "translation_zh")]


def test_the_majority_counts_each_reviewer_once_and_a_tie_leaves_the_text_out(tmp_path):
    changed_mind = review(0, "reject", "Li", "2026-11-22T11:00:00+08:00")
    operator = reviewed(
        tmp_path, review(0, "accept", "Li"), changed_mind, review(0, "accept", "Wang"), review(0, "accept", "Zhao")
    )
    samples = table(long_caption_en=["A dog."], translation_zh=["一只狗。"])
    assert operator(samples).kept["translation_zh"].to_pylist() == ["一只狗。"]
    divided = reviewed(tmp_path, review(0, "accept", "Li"), review(0, "reject", "Wang"))(samples)
    assert divided.kept["translation_zh"].to_pylist() == [None] and reasons(divided) == [(uid(0), "disputed", "translation_zh")]


def test_entries_of_lists_are_judged_by_their_place(tmp_path):
    operator = reviewed(
        tmp_path, review(0, "correct", place=1, source="A cat.", corrected="一只猫。"), source="long_captions", many=True
    )
    samples = table(long_captions=[["A dog.", "A cat."], None], translation_zh=[["一只狗。", "一只狗。"], None])
    outcome = operator(samples)
    assert outcome.kept["translation_zh"].to_pylist() == [["一只狗。", None], []]
    assert outcome.kept["translation_zh_human"].to_pylist() == [[None, "一只猫。"], []]


def test_the_files_content_and_not_its_place_decides_what_the_stage_is_made_from(tmp_path):
    first = reviewed(tmp_path, review(0))
    (tmp_path / "elsewhere").mkdir()
    second = reviewed(tmp_path / "elsewhere", review(0))
    third = reviewed(tmp_path, review(0, "reject"))
    assert first.model_dump() == second.model_dump() != third.model_dump() and "file" not in first.model_dump()
    assert Reviewed().model_dump()["content"] == ""


def test_bad_lines_are_named_with_number_and_reason(tmp_path):
    lines = [
        json.dumps(review(0)),
        "{broken",
        "[]",
        json.dumps(review(1, "perhaps")),
        json.dumps(review(2, "correct")),
        json.dumps(review(3, time="yesterday")),
        json.dumps(review(4, reviewer=" ")),
        json.dumps(review(5, verdict=None)),
        json.dumps(review(6) | {"uid": "x"}),
        json.dumps(review(7, "correct", corrected="好\u202e坏")),
        "",
        json.dumps(review(8, ""))[:-1] + ', "verdict": "reject"}',
    ]
    path = tmp_path / "reviews.jsonl"
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe\n")
    reviews, bad, waiting = read_reviews(path)
    assert len(reviews) == 1 and waiting == 1
    assert [number for number, _ in bad] == [2, 3, 4, 5, 6, 7, 9, 10, 12, 13]
    told = dict(bad)
    assert "not JSON" in told[2] and "accept, reject, correct" in told[4] and "no corrected text" in told[5]
    assert "ISO 8601" in told[6] and "a key stands twice" in told[12] and "not UTF-8" in told[13]
    with pytest.raises(ValidationError, match="line 2: not JSON"):
        Reviewed(file=str(path))
    with pytest.raises(ValidationError, match="no such file"):
        Reviewed(file=str(tmp_path / "gone.jsonl"))
    assert settle(reviews)
