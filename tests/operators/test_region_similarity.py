"""Regions that fit their expressions."""

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from operators.columns import REGIONS
from operators.region_similarity import RegionSimilarity
from tests.kit.tiny_clip import make_tiny_clip


def pictures(n=2):
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (60, 90, 3), dtype=np.uint8)) for _ in range(n)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_tiny_clip(tmp_path_factory.mktemp("clip"))


def region(short="a red car", box=(0.1, 0.1, 0.6, 0.9)):
    return {"box": list(box), "score": 0.5, "short": short, "long": short, "language": "en", "origin": "model"}


def test_regions_are_kept_above_the_threshold_and_their_scores_stay_aligned(clip):
    rows = [[region(), region("a dog", (0, 0, 1, 1)), region("bad", (0.5, 0.5, 0.5, 0.9))], None]
    table = pa.table({"uid": ["1", "2"], "regions": pa.array(rows, REGIONS)})
    everything = RegionSimilarity(model=clip, pretrained="", min_similarity=-1)(table, pictures())
    scores = everything.kept["region_similarity"].to_pylist()
    assert [len(row) for row in everything.kept["regions"].to_pylist()] == [2, 0] == [len(row) for row in scores]
    between = sum(scores[0]) / 2
    some = RegionSimilarity(model=clip, pretrained="", min_similarity=between)(table, pictures())
    assert some.kept["region_similarity"].to_pylist() == [[max(scores[0])], []]
    assert [reject.reason for reject in some.rejects] == ["dissimilar"]
