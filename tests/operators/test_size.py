import pyarrow as pa
import pytest

from operators.base import Reject
from operators.size import Size


def sizes(*pairs):
    return pa.table(
        {
            "uid": [f"{i}" for i in range(len(pairs))],
            "width": pa.array([w for w, _ in pairs], pa.int32()),
            "height": pa.array([h for _, h in pairs], pa.int32()),
        }
    )


def test_aspect_and_megapixels_do_not_depend_on_the_orientation():
    kept = Size()(sizes((2000, 1000), (1000, 2000))).kept
    assert kept["aspect"].to_pylist() == [2, 2]
    assert kept["megapixels"].to_pylist() == [2, 2]


@pytest.mark.parametrize("pair", [(None, 10), (10, None), (0, 10), (-3, 10), (None, None)])
def test_without_limits_an_unknown_size_is_null_and_kept(pair):
    outcome = Size()(sizes(pair))
    assert outcome.kept["aspect"].to_pylist() == [None]
    assert outcome.kept["megapixels"].to_pylist() == [None]
    assert outcome.rejects == []


def test_with_a_limit_an_unknown_size_is_refused_with_its_values():
    assert Size(min_side=1)(sizes((None, 10))).rejects == [Reject("0", "unknown_size", "width None, height 10")]


def test_each_limit_refuses_for_its_own_reason():
    size = Size(min_side=64, max_aspect=3, max_megapixels=1, min_megapixels=0.005)
    outcome = size(sizes((100, 100), (63, 100), (64, 64), (400, 100), (2000, 1000)))
    assert [(r.uid, r.reason, r.detail) for r in outcome.rejects] == [
        ("1", "too_small", "63x100 < 64 px and 0.005 MP"),
        ("2", "too_small", "64x64 < 64 px and 0.005 MP"),
        ("4", "too_large", "2.00 MP > 1.0 MP"),
        ("3", "ribbon", "aspect 4.00 > 3.0"),
    ]
    assert outcome.kept["uid"].to_pylist() == ["0"]


def test_the_largest_sides_do_not_overflow():
    assert Size()(sizes((2**31 - 1, 2**31 - 1))).kept["megapixels"].to_pylist()[0] == pytest.approx(4.6e12, rel=0.01)
