"""Boxes by an open-vocabulary detector."""

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from operators.columns import PHRASE
from operators.detect import Detect
from tests.kit.tiny_detector import make_tiny_detector


def pictures(n=2):
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (60, 90, 3), dtype=np.uint8)) for _ in range(n)]


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    return make_tiny_detector(tmp_path_factory.mktemp("dino"))


def test_grounding_dino_gives_boxes_for_phrases(dino):
    phrases = [{"text": t, "start": 0, "end": 1, "head": t.split()[-1]} for t in ("a red car", "a small black dog", "it")]
    table = pa.table({"uid": ["1", "2"], "phrases_en": pa.array([phrases, None], pa.list_(PHRASE))})
    settings = {"model": dino, "device": "cpu", "nms_iou": 0.99, "max_area": 1.0, "min_area": 0.0}
    outcome = Detect(min_confidence=0.0, **settings)(table, pictures())
    found = outcome.kept["regions"].to_pylist()
    assert found[0] and found[1] == []
    for one in found[0]:
        x1, y1, x2, y2 = one["box"]
        assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1 and one["short"] in ("a red car", "a small black dog")
    assert [one["score"] for one in found[0]] == sorted((one["score"] for one in found[0]), reverse=True)
    assert ("text", "phrases_en[2]") in [(reject.reason, reject.item) for reject in outcome.rejects]
    nothing = Detect(min_confidence=1.0, **settings)(table, pictures())
    assert nothing.kept["regions"].to_pylist() == [[], []]
    assert [reject.reason for reject in nothing.rejects].count("absent") == 2


def test_a_detector_that_is_not_there_says_what_to_set(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RuntimeError, match="Set `model` to a local folder"):
        Detect(model=str(tmp_path)).setup()


def test_a_ribbon_is_not_shown_to_the_detector(dino):
    phrases = [{"text": "a red car", "start": 0, "end": 9, "head": "car"}]
    table = pa.table({"uid": ["1"], "phrases_en": pa.array([phrases], pa.list_(PHRASE))})
    outcome = Detect(model=dino, device="cpu", min_confidence=0.0)(table, [Image.new("RGB", (600, 3))])
    assert outcome.kept["regions"].to_pylist() == [[]] and [reject.reason for reject in outcome.rejects] == ["picture"]
