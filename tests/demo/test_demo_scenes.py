import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from demo import words
from demo.scenes import SIDES, captions, render
from demo.shapes import mask

ROOT = Path(__file__).resolve().parents[2]


def background_of(seed):
    """The scene without its things: the same seed with drawing switched off."""
    import demo.scenes as module

    drawn = module._draw
    blank = module.Thing("ball", "red", "plain", "small", 1, (0, 0, 1, 1), ((0, 0, 1, 1),), (0, 0))
    try:
        module._draw = lambda canvas, rng, plan, style: blank
        return render(seed)
    finally:
        module._draw = drawn


def test_a_seed_gives_the_same_scene_in_another_process():
    code = (
        "import hashlib; from demo.scenes import render, captions; s = render(41); "
        "print(hashlib.sha256(s.image.tobytes()).hexdigest(), [t.box for t in s.things], captions(s, 'zh', 'long'))"
    )
    runs = {
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(runs) == 1


def test_boxes_are_exactly_around_the_pixels_that_were_drawn():
    for seed in range(40):
        scene, empty = render(seed), background_of(seed)
        if scene.style == "shaded":  # shadows fall outside the boxes, on purpose
            continue
        changed = np.abs(np.asarray(scene.image, int) - np.asarray(empty.image, int)).max(axis=2) > 8
        inside = np.zeros_like(changed)
        for thing in scene.things:
            for x1, y1, x2, y2 in thing.instances:
                inside[y1:y2, x1:x2] = True
        assert not (changed & ~inside).any()
        for thing in scene.things:
            x1, y1, x2, y2 = thing.box
            region = changed[y1:y2, x1:x2]
            rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
            # Soft edges and colours near the background's leave a pixel or two below the threshold.
            assert rows[0] <= 3 and columns[0] <= 3
            assert rows[-1] >= region.shape[0] - 4 and columns[-1] >= region.shape[1] - 4


def test_things_stay_inside_and_do_not_touch():
    for seed in range(200):
        scene = render(seed)
        assert 2 <= len(scene.things) <= 5
        assert (scene.width, scene.height) in SIDES
        boxes = [thing.box for thing in scene.things]
        for i, (x1, y1, x2, y2) in enumerate(boxes):
            assert 0 <= x1 < x2 <= scene.width and 0 <= y1 < y2 <= scene.height
            for a1, b1, a2, b2 in boxes[i + 1 :]:
                assert x2 <= a1 or a2 <= x1 or y2 <= b1 or b2 <= y1


def test_a_thing_keeps_the_colour_that_it_is_called():
    nearest = []
    names = list(words.COLOURS)
    table = np.array([words.COLOURS[name][1] for name in names])
    for seed in range(300):
        scene = render(seed)
        if scene.light != "even":
            continue
        for thing in scene.things:
            if thing.surface != "plain" or thing.shape in ("ring", "moon"):
                continue
            x1, y1, x2, y2 = thing.instances[0]
            patch = np.asarray(scene.image)[y1:y2, x1:x2]
            middle = np.median(patch[patch.shape[0] // 3 : -patch.shape[0] // 3].reshape(-1, 3), axis=0)
            nearest.append(names[int(np.abs(table - middle).sum(axis=1).argmin())] == thing.colour)
    assert len(nearest) > 30 and np.mean(nearest) > 0.9


def test_an_expression_fits_one_thing_only():
    for seed in range(300):
        scene = render(seed)
        for thing in scene.things:
            rivals = [o for o in scene.things if o is not thing and (o.shape, o.colour) == (thing.shape, thing.colour)]
            assert all("plain" not in (o.surface, thing.surface) and o.surface != thing.surface for o in rivals)


def test_most_scenes_have_a_distractor_of_the_same_shape():
    shared = [len({t.shape for t in scene.things}) < len(scene.things) for scene in map(render, range(200))]
    assert np.mean(shared) > 0.5


@pytest.mark.parametrize("language", ["en", "zh"])
def test_there_are_at_least_1800_distinct_expressions(language):
    phrases = words.all_phrases(language)
    print(f"{language}: {len(phrases)} expressions, {len(set(phrases))} distinct")
    assert len(set(phrases)) == len(phrases) >= 1800


def test_scenes_use_many_of_the_expressions():
    used = {thing.short("en") for seed in range(600) for thing in render(seed).things}
    assert used <= set(words.all_phrases("en"))
    assert len(used) > 1000


def test_fifteen_percent_of_colour_and_shape_pairs_can_be_held_out():
    assert len(words.HELD_OUT) == 0.15 * len(words.COLOURS) * len(words.SHAPES)
    assert {c for c, _ in words.HELD_OUT} == set(words.COLOURS) and {s for _, s in words.HELD_OUT} == set(words.SHAPES)
    for seed in range(60):
        pairs = {(t.colour, t.shape) for t in render(seed, held_out=False).things}
        assert not pairs & words.HELD_OUT
        assert {(t.colour, t.shape) for t in render(seed, held_out=True).things} <= words.HELD_OUT


@pytest.mark.parametrize("size", [(640, 480), (336, 112), (112, 336), (150, 150)])
def test_a_size_may_be_asked_for(size):
    scene = render(3, size=size)
    assert scene.image.size == size and len(scene.things) >= 2


def test_relations_are_true_of_the_boxes():
    for scene in map(render, range(100)):
        for a in scene.things:
            for b in scene.things:
                relation = scene.relation(a, b) if a is not b else None
                if relation == "left":
                    assert a.box[2] <= b.box[0]
                    assert scene.relation(b, a) == "right"
                elif relation == "above":
                    assert a.box[3] <= b.box[1]
                    assert scene.relation(b, a) == "below"


def test_long_captions_name_everything_and_end_with_the_style():
    for seed in range(100):
        scene = render(seed)
        en, zh = captions(scene, "en", "long"), captions(scene, "zh", "long")
        for thing in scene.things:
            assert thing.short("en").lower() in en.lower()
            assert thing.short("zh") in zh
        assert words.STYLES[scene.style][0] in en.split(". ")[-1]
        assert words.STYLES[scene.style][1] in zh.split("。")[-2]
        assert en.endswith(".") and zh.endswith("。") and en.count(". ") >= 4


def test_captions_do_not_follow_one_template():
    openings = {captions(render(seed), "en", "long").split()[0] for seed in range(100)}
    assert len(openings) >= 5


def test_chinese_texts_hold_no_english():
    for seed in range(50):
        scene = render(seed)
        text = captions(scene, "zh", "long") + captions(scene, "zh", "short") + scene.long(scene.things[0], "zh")
        assert not any("a" <= letter.lower() <= "z" for letter in text)


def test_articles_agree():
    assert words.phrase("en", "ball", "orange") == "an orange ball"
    assert words.phrase("en", "box", "red", "wooden", "large", 2) == "two large red wooden boxes"
    assert words.phrase("zh", "star", "yellow", "dotted", "small", 3) == "三颗黄色圆点小星星"


def test_masks_fill_their_box():
    for shape in words.SHAPES:
        alpha, relief = mask(shape, 5, True)
        assert alpha.size == relief.size
        assert alpha.point(lambda value: 255 if value > 127 else 0).getbbox() == (0, 0, *alpha.size)
