import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageFilter

from operators.sharpness import Sharpness


def noise(seed=0, size=(80, 60)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def run(operator, *pictures):
    return operator(pa.table({"uid": [str(i) for i in range(len(pictures))]}), list(pictures))


def test_blurring_lowers_the_sharpness():
    values = (
        run(Sharpness(), *(noise().filter(ImageFilter.GaussianBlur(radius)) for radius in (0, 1, 3)))
        .kept["sharpness"]
        .to_pylist()
    )
    assert values[0] > 3 * values[1] > 9 * values[2] > 0


def test_laplacian_and_entropy_of_pictures_that_can_be_reckoned_by_hand():
    halves = Image.new("L", (64, 64), 0)
    halves.paste(255, (32, 0, 64, 64))
    kept = run(Sharpness(), halves.convert("RGB"), Image.new("RGB", (64, 64), "red")).kept
    assert kept["entropy"].to_pylist() == [1, 0]
    # 62 columns inside the border: one of +255, one of -255 at the edge, the others 0
    assert kept["sharpness"].to_pylist() == pytest.approx([2 * 255**2 / 62, 0])


def test_a_large_picture_is_judged_at_the_reduced_size():
    assert run(Sharpness(side=640), noise(size=(640, 640))).kept["sharpness"][0].as_py() > 10_000
    assert run(Sharpness(side=64), noise(size=(640, 640))).kept["sharpness"][0].as_py() < 1000


@pytest.mark.parametrize("size", [(1, 1), (2, 500), (5000, 1)])
def test_pictures_thinner_than_the_filter_have_no_sharpness(size):
    kept = run(Sharpness(), noise(size=size)).kept
    assert kept["sharpness"].to_pylist() == [0]


def test_limits_refuse_with_value_and_limit():
    outcome = run(Sharpness(min_sharpness=5, min_entropy=1), noise(), Image.new("RGB", (64, 64), "red"))
    assert [(r.uid, r.reason, r.detail) for r in outcome.rejects] == [("1", "blurred", "0.0 < 5.0")]
    assert outcome.kept["uid"].to_pylist() == ["0"]
    assert run(Sharpness(min_entropy=1), Image.new("RGB", (9, 9))).rejects[0].detail == "0.00 bits < 1.0"
