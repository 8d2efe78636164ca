import math

import pytest

from operators.boxes import BadBox, iou, numbers, repair, sent_size, suppress, to_pixels


def test_pixels_of_the_sent_picture_become_exact_fractions():
    assert repair((0, 0, 252, 196), 504, 392) == (0.0, 0.0, 0.5, 0.5)


def test_swapped_corners_are_put_right_and_overflow_is_clipped():
    assert repair((60, 80, 20, 40), 100, 100) == (0.2, 0.4, 0.6, 0.8)
    assert repair((-10, 10, 110, 50), 100, 100) == (0.0, 0.1, 1.0, 0.5)


@pytest.mark.parametrize(
    ("box", "reason"), [((10, 10, 10, 50), "empty_box"), ((200, 200, 300, 300), "outside"), ((50, 50, 400, 400), "outside")]
)
def test_boxes_of_which_little_is_in_the_picture_are_refused(box, reason):
    with pytest.raises(BadBox) as error:
        repair(box, 100, 100)
    assert error.value.reason == reason


@pytest.mark.parametrize(
    "value",
    [
        None,
        "1,2,3,4",
        [1, 2, 3],
        [1, 2, 3, "4"],
        [1, 2, 3, True],
        [1, 2, 3, math.inf],
        [1, 2, 3, math.nan],
        [1, 2, 3, 10**400],
        {},
    ],
)
def test_anything_but_four_finite_numbers_is_no_box(value):
    with pytest.raises(BadBox) as error:
        numbers(value)
    assert error.value.reason == "not_a_box"


def test_overlap_and_suppression():
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0
    boxes = [(0, 0, 10, 10), (0, 0, 10, 9), (20, 20, 30, 30), (0, 0, 4, 4)]
    assert suppress(boxes, 0.7) == [None, 0, None, None]
    assert suppress([], 0.7) == []


def test_fractions_become_pixels_at_least_one_pixel_large():
    assert to_pixels((0.0, 0.0, 0.5, 0.5), 504, 392) == [0, 0, 252, 196]
    assert to_pixels((0.999, 0.999, 1.0, 1.0), 56, 56) == [55, 55, 56, 56]


def test_boxes_need_to_know_the_size_that_was_sent():
    with pytest.raises(RuntimeError, match="sent_size"):
        sent_size((10, 10), object())
