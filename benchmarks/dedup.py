"""How long the search for near-duplicates takes, beside comparing all pairs.

    python benchmarks/dedup.py [samples=1000000] [distances=3,4,6]

A tenth of the random hashes are copies with 1 to 3 bits turned. All pairs are timed on a part and scaled by the square.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np
import pyarrow as pa

from operators.dedup import Dedup, keep_apart

PART = 20_000


def hashes(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    values = random.integers(0, 2**64, count, dtype=np.uint64)
    copies = count // 10
    values[-copies:] = values[:copies]
    for _ in range(3):
        values[-copies:] ^= np.uint64(1) << random.integers(0, 64, copies, dtype=np.uint64)
    return values


def all_pairs(values: np.ndarray, distance: int) -> np.ndarray:
    found = np.arange(len(values))
    for i in range(1, len(values)):
        near = np.flatnonzero((np.bitwise_count(values[:i] ^ values[i]) <= distance) & (found[:i] == np.arange(i)))
        if len(near):
            found[i] = near[0]
    return found


def main(count: int = 1_000_000, distances: str = "3,4,6") -> None:
    part = hashes(PART)
    for distance in map(int, distances.split(",")):
        start = time.perf_counter()
        expected = all_pairs(part, distance)
        slow = (time.perf_counter() - start) * (count / PART) ** 2
        assert (keep_apart(part, distance) == expected).all()
        values = hashes(count)
        table = pa.table(
            {
                "uid": [f"{i:032x}" for i in range(count)],
                "sha256": [f"{i:064x}" for i in range(count)],
                "phash": pa.array(values),
            }
        )
        start = time.perf_counter()
        gone = count - Dedup(max_distance=distance).verdicts(table)["duplicate_of"].null_count
        fast = time.perf_counter() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{count:,} samples, within {distance} bits: {fast:.1f} s, {gone:,} duplicates, peak {memory:.0f} MB; "
            f"all pairs about {slow:,.0f} s: {slow / fast:,.0f} times as long"
        )


if __name__ == "__main__":
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    main(int(options.get("samples", 1_000_000)), options.get("distances", "3,4,6"))
