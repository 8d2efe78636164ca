import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from safetensors.numpy import save_file

from operators.clip_score import ClipScore
from operators.picture_text import encoder
from tests.kit.tiny_clip import make_tiny_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return {"model": make_tiny_clip(tmp_path_factory.mktemp("clip")), "pretrained": "", "device": "cpu"}


PICTURES = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue", "green")]
CAPTIONS = [["a cat", "a red dog"], [None, " "], ["sky"]]


def run(operator):
    table = pa.table({"uid": ["0", "1", "2"], "captions": pa.array(CAPTIONS, pa.list_(pa.string()))})
    return operator(table, PICTURES)


def test_the_best_caption_counts_and_none_is_null(clip):
    encode = encoder(clip["model"], "", "cpu")
    scores = run(ClipScore(**clip)).kept["clip_score"].to_pylist()
    best = max(float(encode.texts([text])[0] @ encode.pictures([PICTURES[0]])[0]) for text in CAPTIONS[0])
    assert scores[0] == pytest.approx(best, abs=1e-6) and scores[1] is None
    limit = (scores[0] + scores[2]) / 2
    outcome = run(ClipScore(**clip, min_clip_score=limit))
    assert [r.uid for r in outcome.rejects] == ["0" if scores[0] < limit else "2"], "what has no caption is not judged by it"


def test_the_aesthetic_head_is_a_row_of_weights_over_the_pictures_vector(clip, tmp_path):
    vector = encoder(clip["model"], "", "cpu").pictures(PICTURES[:1])[0]
    weight = np.arange(len(vector), dtype=np.float32)[None] / 10
    save_file({"weight": weight, "bias": np.array([5], np.float32)}, tmp_path / "head.safetensors")
    operator = ClipScore(**clip, aesthetic_head=str(tmp_path / "head.safetensors"))
    looks = run(operator).kept["aesthetic"].to_pylist()
    assert looks[0] == pytest.approx(float(weight[0] @ vector) + 5, rel=1e-5) and None not in looks
    assert operator.content and "aesthetic_head" not in operator.model_dump(), "the file's content counts, not its place"
    refused = run(operator.model_copy(update={"min_aesthetic": max(looks) - 1e-4})).rejects
    assert {r.reason for r in refused} == {"low_aesthetic"} and len(refused) == 2


def test_a_head_that_does_not_fit_or_is_none_is_named(clip, tmp_path):
    save_file({"weight": np.zeros((1, 3), np.float32), "bias": np.zeros(1, np.float32)}, tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match="3 weights"):
        run(ClipScore(**clip, aesthetic_head=str(tmp_path / "small.safetensors")))
    (tmp_path / "text").write_text("x")
    for file in ("text", "missing"):
        with pytest.raises(ValueError, match="aesthetic_head"):
            ClipScore(**clip, aesthetic_head=str(tmp_path / file))
    with pytest.raises(ValueError, match="needs an aesthetic_head"):
        ClipScore(**clip, min_aesthetic=5)
