import random

from demo import check_vlm, lessons
from demo.negatives import Claim, claim_of
from demo.scenes import render


def test_captions_are_read_back_as_what_they_say():
    for seed in range(60):
        scene = render(seed)
        for language in ("en", "zh"):
            text = lessons.long_caption(scene, language, random.Random(seed)).answer
            assert check_vlm.claims(text, language) == [claim_of(thing) for thing in scene.things]


def test_text_about_nothing_claims_nothing():
    assert check_vlm.claims("I cannot describe this picture. A dog stands on grass.", "en") == []
    assert check_vlm.claims("抱歉，我无法描述这张图片。", "zh") == []


def test_claims_are_compared_whatever_their_order():
    red, blue, green = (Claim("circle", colour, "plain", "medium", 1) for colour in ("red", "blue", "green"))
    assert list(check_vlm.paired([red, blue], [blue, red])) == [(red, red), (blue, blue)]
    assert list(check_vlm.paired([red, red, blue], [green, red])) == [(red, red), (red, green), (blue, None)]
    assert list(check_vlm.paired([red], [green, blue, red])) == [(red, red)]
    assert list(check_vlm.paired([red], [green, blue])) == [(red, green)]


def test_iou():
    assert check_vlm.iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert check_vlm.iou((0, 0, 10, 10), (5, 0, 15, 10)) == 50 / 150
    assert check_vlm.iou((0, 0, 10, 10), (20, 20, 30, 30)) == 0


class Known:
    """Answers with the truth, as a perfect model would."""

    def __init__(self, scenes):
        self.answers = scenes

    def ask(self, lesson, image):
        return self.answers(lesson)


def test_a_perfect_answer_scores_one():
    pixels, number = 28_224, 5
    scene = check_vlm.scene_of(number, pixels)
    tally = check_vlm.Tally()
    boxes = {thing.short("zh"): list(thing.box) for thing in scene.things}

    def located(user):
        texts = [line.split(". ", 1)[1] for line in user.splitlines()]
        assert len(texts) == 1 or texts[: len(boxes)] != list(boxes)  # the number of a phrase does not tell the thing
        return {"boxes": [{"phrase": i, "bbox_2d": boxes[text]} for i, text in enumerate(texts, 1) if text in boxes]}

    answer = {
        "long_caption_en": {"caption": lessons.joined([en for en, _ in lessons.long_pairs(scene, random.Random(1))], "en")},
        "long_caption_zh": {"caption": lessons.joined([zh for _, zh in lessons.long_pairs(scene, random.Random(1))], "zh")},
    }
    server = Known(lambda lesson: located(lesson.user) if lesson.prompt == "ground" else answer[lesson.prompt])
    check_vlm.check_captions(server, tally, pixels, number)
    for together, group in ((1, "boxes, one by one"), (8, "boxes, 8 together")):
        check_vlm.check_boxes(server, tally, pixels, number, together)
        assert {f"{group}: absent things without a box", f"{group}: near misses without a box"} <= set(tally.values)
    assert all(tally.mean(name) == 1 for name in tally.values), list(tally.lines())


def test_no_answer_scores_nothing_and_does_not_fail():
    tally = check_vlm.Tally()
    silent = Known(lambda lesson: None)
    for check in (check_vlm.check_captions, check_vlm.check_verdicts, check_vlm.check_translation):
        check(silent, tally, 28_224, 3)
    check_vlm.check_boxes(silent, tally, 28_224, 3, together=8)
    assert tally.mean("captions en: colour") == 0 and tally.mean("boxes, 8 together: mean IoU") == 0
