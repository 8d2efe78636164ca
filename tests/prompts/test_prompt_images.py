import math
import random

import pytest
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from prompts.images import fit


def sizes(seed: int, n: int) -> list[tuple[int, int, int]]:
    draw = random.Random(seed)
    budgets = (3136, 12544, 50176, 200704, 1003520)
    return [
        (int(math.exp(draw.uniform(0, 9.6))) or 1, int(math.exp(draw.uniform(0, 9.6))) or 1, draw.choice(budgets))
        for _ in range(n)
    ]


def test_what_is_sent_passes_the_model_s_own_resize_unchanged():
    for width, height, budget in sizes(0, 5000):
        w, h = fit(width, height, budget)
        assert w % 28 == 0 and h % 28 == 0 and 3136 <= w * h <= budget
        assert smart_resize(h, w, factor=28, min_pixels=3136, max_pixels=budget) == (h, w)


def test_fitting_twice_is_fitting_once():
    for width, height, budget in sizes(1, 2000):
        once = fit(width, height, budget)
        assert fit(*once, budget) == once


def test_the_aspect_of_ordinary_pictures_is_kept_within_four_percent():
    for width, height in [(640, 480), (480, 640), (1000, 1000), (1920, 1080), (900, 300), (300, 900)]:
        w, h = fit(width, height, 200704)
        assert abs(math.log(w / h) - math.log(width / height)) < 0.04


@pytest.mark.parametrize("size", [(100000, 1), (1, 100000), (3000, 3), (1, 1)])
def test_ribbons_and_dots_still_get_a_size_that_the_model_takes(size):
    w, h = fit(*size, 200704)
    assert max(w, h) / min(w, h) <= 200


@pytest.mark.parametrize(("width", "height", "budget"), [(0, 10, 200704), (10, -1, 200704), (10, 10, 3000)])
def test_impossible_sizes_and_budgets_are_errors(width, height, budget):
    with pytest.raises(ValueError):
        fit(width, height, budget)
