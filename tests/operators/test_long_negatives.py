import pyarrow as pa
import pytest

from operators.columns import LONG_NEGATIVES, REGIONS
from operators.long_negatives import LongNegatives
from pipelines.shard_format import LongNegative

EN = "A small red ball lies on the left. Next to it stands a wooden chair. The light is even."
ZH = "画面左侧有一个红色的球。旁边是一把木制的椅子。光线均匀。"


def run(en=None, zh=None, said=(), uids=("a",), **settings):
    regions = [
        {"box": [0, 0, 1, 1], "score": None, "short": text, "long": text, "language": None, "origin": "human"} for text in said
    ]
    rows = len(uids)
    columns = {
        "uid": list(uids),
        "long_caption_en": pa.array([en] * rows, pa.string()),
        "long_caption_zh": pa.array([zh] * rows, pa.string()),
        "regions": pa.array([regions] * rows, REGIONS),
    }
    outcome = LongNegatives(**settings)(pa.table(columns))
    assert outcome.kept.schema.field("long_negatives").type == LONG_NEGATIVES
    return outcome.kept["long_negatives"].to_pylist(), [(r.item, r.reason) for r in outcome.rejects]


UIDS = [f"{i:032x}" for i in range(30)]


def test_one_unit_is_wrong_and_the_rest_is_as_it_was():
    made, rejects = run(EN, ZH, uids=UIDS)
    assert rejects == []
    for english, chinese in made:
        for entry, original in ((english, EN), (chinese, ZH)):
            start, end = entry["start"], entry["end"]
            assert entry["original"] == original and entry["text"][:start] == original[:start]
            assert original.endswith(entry["text"][end:]) and 0 < end - start < 15
            fields = {"span": (start, end), **{k: entry[k] for k in ("text", "language", "original", "family")}}
            LongNegative.model_validate(fields)
    assert len({entry["family"] for row in made for entry in row}) >= 3, "families in turn, not the commonest"


def test_what_may_be_true_of_something_else_in_the_picture_is_not_said():
    said = ["a blue ball", "a green ball"]
    made, _ = run(EN, said=said, uids=UIDS, families=("colour",))
    changed = {entry["text"][entry["start"] : entry["end"]] for row in made for entry in row}
    assert changed and not changed & {"blue", "green", "navy blue", "dark green", "light blue"}


def test_a_place_in_the_picture_becomes_another_one_and_a_place_of_nothing_stays():
    made, _ = run(zh="照片左侧有一只猫。右侧是一扇窗户。", uids=UIDS, families=("relation",))
    assert {entry["text"][:4] for (entry,) in made} <= {
        "照片右侧",
        "照片右边",
        "照片上面",
        "照片上方",
        "照片下面",
        "照片下方",
        "照片中间",
        "照片中央",
    }


def test_what_is_mentioned_twice_is_left_alone():
    twice = "There is a red ball on the left. The red ball is beside a wooden chair."
    made, _ = run(twice, uids=UIDS, count=5)
    families = {entry["family"] for row in made for entry in row}
    assert "material" in families and "colour" not in families


def test_several_per_caption_change_different_units():
    ((*entries,),), _ = run(EN, count=3)
    assert len(entries) == 3 and len({(entry["start"], entry["family"]) for entry in entries}) == 3


@pytest.mark.parametrize(("caption", "reason"), [("It is a fine day.", "no_unit"), ("写着“红色”两个字。", "no_unit")])
def test_a_caption_without_a_safe_unit_says_so(caption, reason):
    made, rejects = run(caption)
    assert made == [[]] and rejects == [("long_negatives.long_caption_en", reason)]


def test_no_caption_no_half_truth():
    assert run(None, None) == ([[]], []) and run("", "") == ([[]], [])
