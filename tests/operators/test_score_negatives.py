import pyarrow as pa
import pytest
from PIL import Image

from operators.columns import NEGATIVES, REGIONS
from operators.score_negatives import ScoreNegatives
from tests.kit.tiny_clip import make_tiny_clip


def region(box, text="a red ball"):
    return {"box": box, "score": None, "short": text, "long": text, "language": "en", "origin": "model"}


def negative(text):
    return {"text": text, "family": "colour", "start": 0, "end": 1, "original": "x", "origin": "lexical", "flags": []}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_clip(tmp_path_factory.mktemp("clip"))


def score(model, regions, negatives, image):
    batch = pa.table({"uid": ["a"], "regions": pa.array([regions], REGIONS), "negatives": pa.array([negatives], NEGATIVES)})
    kept = ScoreNegatives(model=model, pretrained=None, device="cpu")(batch, [image]).kept
    return kept["positive_scores"].to_pylist()[0], kept["negative_scores"].to_pylist()[0]


def test_each_text_is_scored_against_the_picture_in_its_own_box(model):
    picture = Image.new("RGB", (64, 64), "red")
    picture.paste("blue", (32, 0, 64, 64))
    group = [negative(f"a {colour} ball") for colour in ("blue", "green", "red")]
    left, right = [0.0, 0.0, 0.4, 1.0], [0.6, 0.0, 1.0, 1.0]
    positives, negatives = score(model, [region(left), region(right)], [group, group], picture)
    assert all(-1 <= value <= 1 for value in [*positives, *negatives[0], *negatives[1]])
    assert negatives[0][2] == pytest.approx(positives[0], abs=1e-5), "the same text, the same score"
    assert negatives[0] != pytest.approx(negatives[1], abs=1e-6), "another box, other scores"


def test_regions_without_a_group_or_a_box_are_not_scored(model):
    picture = Image.new("RGB", (40, 30))
    assert score(model, [region([0, 0, 1, 1]), region([0.5, 0.5, 0.5, 0.5])], [[], [negative("a cat")]], picture) == (
        [None, None],
        [[], []],
    )
    assert score(model, None, None, picture) == ([], [])
