import pytest

from operators.validators import translation


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("Four fifths of the glass is full.", "杯子的五分之四是满的。"),
        ("Four fifths of the glass is full.", "杯子的百分之八十是满的。"),
        ("Four fifths of the glass is full.", "杯子的80%是满的。"),
        ("Half of the pie is left.", "馅饼还剩百分之五十。"),
        ("Half of the pie is left.", "馅饼还剩一半。"),
        ("Half of the pie, 50 percent, is left.", "馅饼还剩一半，百分之五十。"),
        ("A third man stands beside the two others.", "另外两个人旁边还站着一个男人。"),
    ],
)
def test_a_part_may_be_said_in_other_numbers(english, chinese):
    assert translation.numbers(english, chinese) is None


@pytest.mark.parametrize("chinese", ["杯子的五分之三是满的。", "杯子的百分之四十是满的。", "杯子的四分之三是满的。"])
def test_another_part_is_another_number(chinese):
    finding = translation.numbers("Four fifths of the glass is full.", chinese)
    assert finding is not None and finding[0] == "numbers"
