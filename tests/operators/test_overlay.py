import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from operators.overlay import Overlay

FONT = ImageFont.load_default(24)


def scene(seed=0, size=(400, 300)):
    """Soft shapes in colours: neither letters nor repetition."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(small)
    for number in range(5):  # no two alike: two of a kind are a repetition too
        x, y = rng.integers(0, 300), rng.integers(0, 200)
        draw.ellipse([x, y, x + 50 + 13 * number, y + 70 - 11 * number], fill=tuple(int(c) for c in rng.integers(0, 256, 3)))
    noise = Image.fromarray(rng.integers(0, 12, (size[1], size[0], 3), dtype=np.uint8))
    return Image.fromarray(np.clip(np.asarray(small, int) + np.asarray(noise), 0, 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(0.6)
    )


def with_text(picture):
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 220, 400, 300), fill="white")
    draw.text((10, 225), "FREE SHIPPING TODAY", fill="black", font=FONT)
    draw.text((10, 260), "only 9.99 while it lasts", fill="black", font=FONT)
    return picture


def with_mark(picture):
    layer = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    for y in range(0, picture.height, 60):
        for x in range(0, picture.width, 110):
            draw.text((x, y), "stock", fill=(255, 255, 255, 90), font=FONT)
    return Image.alpha_composite(picture.convert("RGBA"), layer).convert("RGB")


def measured(*pictures, **settings):
    operator = Overlay(**settings)
    operator.setup()
    return operator(pa.table({"uid": [str(i) for i in range(len(pictures))]}), list(pictures))


@pytest.mark.parametrize("seed", range(4))
def test_lines_of_letters_take_area_and_shapes_do_not(seed):
    plain, text = measured(scene(seed), with_text(scene(seed))).kept["text_area"].to_pylist()
    assert plain < 0.01 and text > 0.05


@pytest.mark.parametrize("seed", range(4))
def test_a_tiled_mark_repeats_and_a_scene_does_not(seed):
    plain, marked = measured(scene(seed), with_mark(scene(seed))).kept["repetition"].to_pylist()
    assert plain < 0.07 < marked


def test_limits_refuse_with_value_and_limit():
    outcome = measured(scene(), with_text(scene()), max_text_area=0.04)
    assert [(r.uid, r.reason) for r in outcome.rejects] == [("1", "text")] and "> 0.04" in outcome.rejects[0].detail


@pytest.mark.parametrize("size", [(1, 1), (5000, 3), (64, 64)])
def test_flat_and_thin_pictures_have_neither(size):
    kept = measured(Image.new("RGB", size, "red")).kept
    assert kept["text_area"].to_pylist() == [0] and kept["repetition"].to_pylist() == [0]
