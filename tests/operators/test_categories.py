"""Head nouns of expressions, clustered over the whole data set."""

import pyarrow as pa

from operators.categories import Categories
from operators.columns import REGIONS


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


def test_expressions_of_one_thing_become_one_category_and_rare_ones_none():
    shorts = [
        "a red couch",
        "two small sofas",
        "the sofa with a pillow",
        "a wooden side table",
        "side tables",
        "a lone kitchen stool",
    ]
    outcome = Categories(min_count=2)(table(regions=[[region(s) for s in shorts], [region("running quickly")], None]))
    found = outcome.kept["region_categories"].to_pylist()
    assert found[0] == ["sofa", "sofa", "sofa", "side table", "side table", None]
    assert found[1:] == [[None], []]
    assert (uid(0), "rare_category", "regions[5]") in reasons(outcome) and (uid(1), "no_head", "regions[0]") in reasons(outcome)


def test_a_rare_compound_falls_back_to_its_head_and_only_the_commonest_categories_stay():
    rows = [
        [region("a coffee table")],
        [region("a table")],
        [region("a dog")],
        [region("a cat")],
        [region("a cat")],
        [region("a cat")],
    ]
    outcome = Categories(min_count=2, max_categories=1)(table(regions=rows))
    assert [row[0] for row in outcome.kept["region_categories"].to_pylist()] == [None, None, None, "cat", "cat", "cat"]
    both = Categories(min_count=2)(table(regions=rows))
    assert [row[0] for row in both.kept["region_categories"].to_pylist()] == ["table", "table", None, "cat", "cat", "cat"]
