import pyarrow as pa
import pytest

from operators.columns import NEGATIVES, REGIONS
from pipelines.fingerprint import column_hash

REGION = {"box": [0, 0, 0.5, 1], "score": None, "short": "一只猫", "long": "a cat", "language": "zh", "origin": "model"}
NEGATIVE = {"text": "a dog", "family": "object", "start": 2, "end": 5, "original": "cat", "origin": "lexical", "flags": []}


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.string(), ["a", None, "ccc", ""]),
        (pa.binary(), [b"\x00", None, b""]),
        (pa.uint64(), [2**64 - 1, None, 0]),
        (pa.float32(), [0.1, None, float("nan")]),
        (pa.bool_(), [True, None, False]),
        (pa.list_(pa.string()), [["a", "b"], None, [], ["ab"]]),
        (REGIONS, [[REGION], None, [], [REGION, REGION]]),
        (NEGATIVES, [[[NEGATIVE], []], None, []]),
    ],
)
def test_the_layout_in_memory_does_not_matter_and_every_value_does(kind, values):
    plain = pa.array(values, kind)
    sliced = pa.array([values[0], *values, values[0]], kind).slice(1, len(values))
    chunked = pa.chunked_array([pa.array(values[:1], kind), pa.array([], kind), pa.array(values[1:], kind)])
    assert column_hash(plain) == column_hash(sliced) == column_hash(chunked)
    for i in range(len(values)):
        other = [*values[:i], None if values[i] is not None else values[0], *values[i + 1 :]]
        assert column_hash(pa.array(other, kind)) != column_hash(plain)


def test_boundaries_between_texts_count():
    assert column_hash(pa.array(["ab", "c"])) != column_hash(pa.array(["a", "bc"]))
    assert column_hash(pa.array([["a"], ["b"]])) != column_hash(pa.array([["a", "b"], []]))


def test_null_is_not_the_empty_value():
    assert column_hash(pa.array(["", None])) != column_hash(pa.array([None, ""], pa.string()))
    assert column_hash(pa.array([0, None])) != column_hash(pa.array([None, 0]))


def test_type_is_part_of_the_content():
    assert column_hash(pa.array([1], pa.int32())) != column_hash(pa.array([1], pa.int64()))
    assert column_hash(pa.array([], pa.string())) != column_hash(pa.array([], pa.int32()))
