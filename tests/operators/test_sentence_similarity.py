"""Scores by sentence."""

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from operators.sentence_similarity import SentenceSimilarity
from tests.kit.tiny_clip import make_tiny_clip


def pictures(n=2):
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (60, 90, 3), dtype=np.uint8)) for _ in range(n)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_tiny_clip(tmp_path_factory.mktemp("clip"))


def test_each_sentence_has_a_score_and_the_worst_is_named(clip):
    table = pa.table({"uid": ["1", "2"], "caption": ["A red car. A small black dog is on the road.", None]})
    kept = SentenceSimilarity(column="caption", model=clip, pretrained="")(table, pictures()).kept
    scores, worst = kept["caption_similarity"].to_pylist(), kept["caption_worst"].to_pylist()
    assert len(scores[0]) == 2 and worst[0] == pytest.approx(min(scores[0])) and scores[1] is None is worst[1]
