"""Regions with other expressions."""

import pyarrow as pa

from operators.columns import REGIONS
from operators.relabel import Relabel


def uid(n):
    return f"{n:032x}"


def table(**columns):
    rows = len(next(iter(columns.values())))
    kinds = {"regions": REGIONS}
    return pa.table(
        {"uid": [uid(i) for i in range(rows)], **{name: pa.array(values, kinds.get(name)) for name, values in columns.items()}}
    )


def region(short, language="en"):
    return {"box": [0, 0, 0.5, 0.5], "score": 0.5, "short": short, "long": short, "language": language, "origin": "model"}


def reasons(outcome):
    return [(reject.uid, reject.reason, reject.item) for reject in outcome.rejects]


def test_regions_get_new_expressions_and_those_without_one_leave():
    samples = table(
        regions=[[region("a car"), region("a dog")], [region("a cat")], []], zh=[["汽车。", None], ["一", "二"], None]
    )
    outcome = Relabel(texts="zh", language="zh")(samples)
    kept = outcome.kept["regions"].to_pylist()
    assert [[r["short"] for r in row] for row in kept] == [["汽车"], [], []] and kept[0][0]["language"] == "zh"
    assert reasons(outcome) == [(uid(0), "no_text", "regions[1]"), (uid(1), "no_text", "regions[0]")], (
        "a list that does not fit is not used"
    )
    strict = Relabel(texts="zh", language="zh", min_regions=1)(samples)
    assert strict.kept["uid"].to_pylist() == [uid(0)]
