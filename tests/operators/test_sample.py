"""How many samples of which source are taken."""

import pyarrow as pa

from operators.sample import Sample


def uid(n):
    return f"{n:032x}"


def table(**columns):
    rows = len(next(iter(columns.values())))
    return pa.table({"uid": [uid(i) for i in range(rows)], **{name: pa.array(values) for name, values in columns.items()}})


def test_a_quota_is_kept_and_a_larger_one_keeps_what_a_smaller_one_took():
    samples = table(source=["a"] * 50 + ["b"] * 5)
    small, large = (set(Sample(quotas={"a": n})(samples).kept["uid"].to_pylist()) for n in (10, 20))
    assert len(small) == 15 and len(large) == 25 and small < large
    assert Sample(quotas={"a": 0}, others="drop")(samples).kept.num_rows == 0
    assert Sample(quotas={"a": 10})(samples).kept.equals(Sample(quotas={"a": 10})(samples).kept)
