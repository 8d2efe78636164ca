import pytest

from operators.validators import translation


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("a quarter to nine", "八点四十五分"),
        ("a quarter to nine", "八点三刻"),
        ("a quarter to nine", "九点差一刻"),
        ("a quarter to nine", "差一刻九点"),
        ("a quarter past twelve", "十二点一刻"),
        ("half past three", "三点半"),
        ("half past eleven", "十一点三十分"),
        ("half past two", "14:30"),
        ("ten past ten", "10点10分"),
        ("ten to three", "两点五十分"),
        ("twenty minutes to 3", "两点四十"),
        ("five minutes past one", "一点零五分"),
        ("twelve o'clock", "十二点整"),
    ],
)
def test_a_time_may_be_read_out_in_other_numbers(english, chinese):
    assert translation.numbers(f"The clock shows {english}, and two men wait.", f"时钟显示{chinese}，两名男子在等候。") is None


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("half past three", "三点十分"),
        ("a quarter to nine", "九点一刻"),
        ("ten to three", "三点十分"),
        ("six o'clock", "七点钟"),
    ],
)
def test_another_time_is_another_number(english, chinese):
    finding = translation.numbers(f"The clock shows {english}.", f"时钟显示{chinese}。")
    assert finding is not None and finding[0] == "numbers"


def test_numbers_beside_a_time_are_still_counted():
    finding = translation.numbers("At half past three, two men wait.", "三点半，三名男子在等候。")
    assert finding is not None
    assert translation.numbers("Two to three o'clock signs hang there.", "那里挂着两三个牌子。") is None
