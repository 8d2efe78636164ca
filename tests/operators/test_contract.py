"""What every operator promises, whatever it does: the contract of operators/base.py, tried on tidy, empty, null and ugly batches."""

import importlib
import itertools
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import operators
from operators import OPERATORS
from operators.base import GlobalOperator, ModelOperator, Operator, OperatorBase
from tests.kit.tiny_clip import make_tiny_clip
from tests.kit.tiny_detector import make_tiny_detector
from tests.kit.tiny_encoder import make_tiny_encoder
from tests.kit.tiny_onnx import make_tiny_onnx

SETTINGS: dict = {
    "select": {"keep": "width > 100 and caption_language == 'en'"},
    "sample": {"quotas": {"两只白色的猫坐在木桌上": 1}},
    "mix": {"weights": {"en": 1, "zh": 1}, "pairs": {"laion": {"en": 2}, "wukong": {"zh": 1}}},
    "blocklist": {"words": ["dog", "white cat", "白色的猫"], "hosts": ["example.org"]},
    "relabel": {"texts": "region_texts", "language": "zh"},
}
"""Settings for operators that have some without a default."""
TYPES = {"caption_language": pa.string()}
"""Types of columns that an operator reads as they are."""
ROWS = 7

TIDY = {
    "string": ["a red dog on the grass", "两只白色的猫坐在木桌上", "a small wooden table with a black metal frame"],
    "integer": [640, 480, 99, 3],
    "float": [0.5, 0.25, 3.0],
    "bool": [True, False],
    "binary": [b"\x00<\x00\x00", b"\x00\x00\x00<", b"\x9a9\x9a9"],
}
UGLY = {
    "string": [
        "",
        "\x00\x1b[2J\u202e\u2066",
        "x" * 1_000_000,
        "的" * 300_000,
        "🐶\ud7ff\uffff",
        "a\n\r\t b",
        None,
        "((((" * 999,
        " ",
    ],
    "integer": [0, -1, None, 2**31 - 1, -(2**31)],
    "float": [float("nan"), float("inf"), -float("inf"), None, -1e30],
    "bool": [None, True],
    "binary": [b"\x00\x00\x00\x00", None, b"\x00~\x00<", b"\x00|\x00|"],
}


@pytest.fixture(scope="module", autouse=True)
def tiny_weights(tmp_path_factory):
    clip = {"model": make_tiny_clip(tmp_path_factory.mktemp("clip")), "device": "cpu"}
    SETTINGS["score_negatives"] = {**clip, "pretrained": None}
    SETTINGS["region_similarity"] = {**clip, "pretrained": ""}
    SETTINGS["sentence_similarity"] = {**clip, "pretrained": "", "column": "long_caption_en"}
    SETTINGS["clip_score"] = {**clip, "pretrained": ""}
    SETTINGS["embed"] = {**clip, "pretrained": ""}
    SETTINGS["onnx_score"] = {"model": make_tiny_onnx(tmp_path_factory.mktemp("onnx") / "means.onnx"), "size": 8}
    detector = make_tiny_detector(tmp_path_factory.mktemp("detector"))
    SETTINGS["detect"] = {"model": detector, "device": "cpu", "min_confidence": 0.1}
    SETTINGS["tokens"] = {"column": "long_caption_zh", "tokenizer": detector}
    SETTINGS["pair_score"] = {"model": make_tiny_encoder(tmp_path_factory.mktemp("encoder")), "device": "cpu"}


def make(name):
    module, _, attribute = OPERATORS[name].partition(":")
    operator = getattr(importlib.import_module(module), attribute)(**SETTINGS.get(name, {}))
    operator.setup()
    return operator


def value(kind, pool, turn):
    """A value of an Arrow type, taken from the pool in turn."""
    if pa.types.is_struct(kind):
        return {field.name: value(field.type, pool, turn) for field in kind}
    if pa.types.is_fixed_size_list(kind):
        return [value(kind.value_type, pool, turn) for _ in range(kind.list_size)]
    if pa.types.is_list(kind):
        return [value(kind.value_type, pool, turn) for _ in range(next(turn) % 4)]
    if pa.types.is_boolean(kind):
        return pool["bool"][next(turn) % len(pool["bool"])]
    if pa.types.is_binary(kind):
        return pool["binary"][next(turn) % len(pool["binary"])]
    if pa.types.is_string(kind):
        return pool["string"][next(turn) % len(pool["string"])]
    if pa.types.is_floating(kind):
        return pool["float"][next(turn) % len(pool["float"])]
    found = pool["integer"][next(turn) % len(pool["integer"])]
    return abs(found) if found is not None and pa.types.is_unsigned_integer(kind) else found


def batch(operator, pool, rows=ROWS):
    turn = itertools.count()
    columns = {"uid": pa.array([f"{i:032x}" for i in range(rows)], pa.string())}
    for field in operator.reads:
        kind = TYPES.get(field.name, field.type)
        values = [None] * rows if pool is None else [value(kind, pool, turn) for _ in range(rows)]
        columns[field.name] = pa.array(values, kind)
    return pa.table(columns)


def pictures(rows=ROWS):
    random = np.random.default_rng(0)
    sizes = [(1, 1), (1, 300), (300, 1), (64, 48), (33, 200), (2, 2), (128, 128)]
    return [Image.fromarray(random.integers(0, 256, (*sizes[i % 7], 3), dtype=np.uint8)) for i in range(rows)]


def call(operator, table, images):
    return (
        operator(table) if isinstance(operator, GlobalOperator) else operator(table, images if operator.needs_image else None)
    )


BATCHED = [name for name in OPERATORS if OPERATORS[name].startswith("operators.")]


@pytest.fixture(params=BATCHED)
def operator(request):
    made = make(request.param)
    if isinstance(made, ModelOperator):
        pytest.skip("asks a model, one sample at a time")
    return made


@pytest.mark.parametrize("pool", [TIDY, UGLY, None], ids=["tidy", "ugly", "null"])
def test_every_sample_leaves_as_kept_or_as_refused(operator, pool):
    table = batch(operator, pool)
    outcome = call(operator, table, pictures())
    assert outcome.kept.schema.equals(pa.schema([("uid", pa.string()), *operator.writes]))
    outcome.kept.validate(full=True)
    came, stayed = table["uid"].to_pylist(), outcome.kept["uid"].to_pylist()
    gone = [reject.uid for reject in outcome.rejects if reject.item is None]
    assert sorted([*stayed, *gone]) == came
    assert stayed == sorted(stayed), "the order of the input"
    assert {reject.uid for reject in outcome.rejects if reject.item is not None} <= set(stayed)
    assert {reject.reason for reject in outcome.rejects} <= set(operator.reasons)
    assert all(len(reject.detail) < 1000 for reject in outcome.rejects)


@pytest.mark.parametrize("pool", [TIDY, UGLY], ids=["tidy", "ugly"])
def test_the_same_batch_gives_the_same_outcome(operator, pool):
    first, second = (call(again, batch(again, pool), pictures()) for again in (operator, operator.model_copy()))
    assert first.kept.equals(second.kept) or first.kept.to_pydict().__repr__() == second.kept.to_pydict().__repr__()
    assert first.rejects == second.rejects


def test_a_sample_is_judged_alone(operator):
    """Whatever else is in the batch; except where all samples are compared."""
    if isinstance(operator, GlobalOperator):
        pytest.skip("compares samples")
    table, images = batch(operator, TIDY), pictures()
    whole = operator(table, images if operator.needs_image else None)
    parts = [operator(table.slice(i, 1), images[i : i + 1] if operator.needs_image else None) for i in range(ROWS)]
    assert pa.concat_tables([part.kept for part in parts]).to_pydict() == whole.kept.to_pydict()
    key = str
    assert sorted((r for part in parts for r in part.rejects), key=key) == sorted(whole.rejects, key=key)


def test_no_samples(operator):
    outcome = call(operator, batch(operator, TIDY, 0), [])
    assert outcome.rejects == []
    assert outcome.kept.schema.names == ["uid", *operator.writes.names]
    assert len(outcome.kept) == 0


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_says_what_it_does(name):
    operator = make(name)
    assert isinstance(operator, Operator | ModelOperator | GlobalOperator) and isinstance(operator, OperatorBase)
    assert isinstance(operator.version, int) and operator.version >= 1
    assert "uid" not in [*operator.reads.names, *operator.writes.names]
    assert operator.optional <= set(operator.reads.names)
    assert all(re.fullmatch(r"[a-z_]+", reason) and line for reason, line in operator.reasons.items())
    text = importlib.import_module(OPERATORS[name].partition(":")[0]).__doc__
    assert all(word in text for word in ("Reads", "Writes", "Refuses", "Source"))
    places = {key: getattr(operator, key) for key, field in type(operator).model_fields.items() if field.exclude}
    assert type(operator).model_validate({**operator.model_dump(), **places}) == operator, "settings survive a round trip"


def test_every_operator_has_a_test_file_and_every_name_is_its_files_name():
    for name, target in OPERATORS.items():
        module, _, attribute = target.partition(":")
        assert module == f"operators.{name}"
        assert attribute == "".join(word.capitalize() for word in name.split("_"))
        assert (Path(operators.__file__).parents[1] / "tests" / "operators" / f"test_{name}.py").is_file()
