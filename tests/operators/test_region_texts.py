"""Expressions as a list of texts."""

import pyarrow as pa

from operators.columns import REGIONS
from operators.region_texts import RegionTexts


def test_expressions_are_laid_out_in_the_order_of_the_regions():
    box = {"box": [0, 0, 0.5, 0.5], "score": None, "language": "en", "origin": "model"}
    rows = [[{**box, "short": "a car", "long": "a red car"}, {**box, "short": "a dog", "long": "a dog"}], [], None]
    samples = pa.table({"uid": ["1", "2", "3"], "regions": pa.array(rows, REGIONS)})
    assert RegionTexts()(samples).kept["region_texts"].to_pylist() == [["a car", "a dog"], [], []]
    assert RegionTexts(which="long")(samples).kept["region_texts"].to_pylist()[0] == ["a red car", "a dog"]
