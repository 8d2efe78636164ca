"""Which of several samples that repeat each other is kept: the one that comes first in this order."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def best_first(values: pa.ChunkedArray, known: int) -> np.ndarray:
    """int64 [N]: rows in the order of their rank. The first `known` ones, kept before, stay where they are; then the highest number
    first, ties as given, null and NaN last."""
    numbers = pc.fill_null(values.cast(pa.float64()), float("-inf")).to_numpy().copy()
    numbers[np.isnan(numbers)] = -np.inf
    return np.concatenate([np.arange(known), known + np.argsort(-numbers[known:], kind="stable")])
