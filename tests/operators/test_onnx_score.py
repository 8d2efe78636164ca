import pickle

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from operators.base import OtherVersion
from operators.onnx_score import OnnxScore
from tests.kit.tiny_onnx import make_tiny_onnx

PLAIN = {"size": 8, "scale": 1, "mean": (0, 0, 0), "std": (1, 1, 1)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_onnx(tmp_path_factory.mktemp("onnx") / "means.onnx")


def run(operator, *colours):
    pictures = [Image.new("RGB", (30, 20), colour) for colour in colours]
    return operator(pa.table({"uid": [str(i) for i in range(len(pictures))]}), pictures)


def test_the_output_is_that_of_the_model_on_the_prepared_picture(model):
    red = (200, 50, 0)
    assert run(OnnxScore(model=model, **PLAIN), red).kept["onnx_score"].to_pylist() == [200]
    assert run(OnnxScore(model=model, **PLAIN, channels="bgr"), red).kept["onnx_score"].to_pylist() == [0]
    prepared = OnnxScore(model=model, size=8, output=1, mean=(0, 0.5, 0), std=(1, 0.25, 1), column="mine")
    assert run(prepared, red).kept["mine"].to_pylist() == pytest.approx([(50 / 255 - 0.5) / 0.25], rel=1e-5)


def test_activations(model):
    settings = {**PLAIN, "scale": 0.01}
    assert run(OnnxScore(model=model, **settings, activation="sigmoid"), (100, 0, 0)).kept["onnx_score"][0].as_py() == (
        pytest.approx(1 / (1 + np.exp(-1)), rel=1e-5)
    )
    soft = run(OnnxScore(model=model, **settings, activation="softmax"), (100, 0, 0)).kept["onnx_score"][0].as_py()
    assert soft == pytest.approx(np.e / (np.e + 2), rel=1e-5)


def test_limits(model):
    outcome = run(OnnxScore(model=model, **PLAIN, min_score=10, max_score=100), (5, 0, 0), (50, 0, 0), (200, 0, 0))
    assert [(r.uid, r.reason) for r in outcome.rejects] == [("2", "score_high"), ("0", "score_low")]


def test_the_files_content_is_part_of_the_settings_and_its_place_is_not(model, tmp_path):
    again = make_tiny_onnx(tmp_path / "again.onnx")
    other = make_tiny_onnx(tmp_path / "other.onnx", side=16)
    settings = [OnnxScore(model=file).model_dump() for file in (model, again, other)]
    assert settings[0] == settings[1] != settings[2]


def test_a_file_that_is_another_than_the_one_planned_with_is_not_taken(tmp_path):
    planned = OnnxScore(model=make_tiny_onnx(tmp_path / "means.onnx"), **PLAIN)
    arrived = pickle.loads(pickle.dumps(planned))  # as on another node: nothing is validated again
    make_tiny_onnx(tmp_path / "means.onnx", side=16)
    with pytest.raises(OtherVersion, match=r"file \S+means\.onnx is another version here than where the run began"):
        arrived.setup()


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        OnnxScore(model=str(tmp_path / "nothing.onnx"))
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ValueError, match="cannot read"):
        OnnxScore(model=str(tmp_path / "text.onnx")).setup()


def test_an_output_that_the_model_does_not_have_is_named(model):
    with pytest.raises(ValueError, match="gives 3 numbers"):
        run(OnnxScore(model=model, **PLAIN, output=3), "red")
