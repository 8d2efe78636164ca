"""Languages in given proportions."""

import pyarrow as pa
import pytest
from pydantic import ValidationError

from operators.mix import Mix


def uid(n):
    return f"{n:032x}"


def table(**columns):
    rows = len(next(iter(columns.values())))
    return pa.table({"uid": [uid(i) for i in range(rows)], **{name: pa.array(values) for name, values in columns.items()}})


def reasons(outcome):
    return [(reject.uid, reject.reason, reject.item) for reject in outcome.rejects]


def test_weights_thin_only_the_language_that_has_too_much():
    mix = Mix(weights={"en": 1, "zh": 1}, pairs={"laion": {"en": 1600}, "wukong": {"zh": 400}})
    assert mix.shares == {"en": 0.25, "zh": 1.0}
    outcome = mix(table(language=["en"] * 4000 + ["zh"] * 100 + [None, "de"]))
    assert 900 < outcome.kept.num_rows - 100 < 1100
    assert [reason for _, reason, _ in reasons(outcome)].count("no_weight") == 2


def test_a_weight_without_any_source_is_an_error():
    with pytest.raises(ValidationError, match=r"weights.zh is 1"):
        Mix(weights={"en": 1, "zh": 1}, pairs={"laion": {"en": 1600}})
