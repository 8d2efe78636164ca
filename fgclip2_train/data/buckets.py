"""How many patches the pictures of a batch get.

The released rule takes it from the largest picture of the rank's batch, which is nearly always a large one: small pictures are
enlarged four to eight times, and ranks wait for whichever has the largest. Bucketed batches hold pictures of like size instead, and
which bucket a step has is drawn by the seed, alike on all ranks, in the proportions found in the shards.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import NamedTuple

from fgclip2_train.data import images
from fgclip2_train.data.shards import Raw, read_shard, sound

LOOK_SHARDS, LOOK_SAMPLES = 4, 250
"""Shards of each source, and samples of each, that the proportions are taken from."""


class Row(NamedTuple):
    """A sample, the stream it came from and that stream's epoch."""

    name: str
    epoch: int
    raw: Raw


def patch_estimate(record: dict) -> int:
    """Patches of a picture as it is, by the size that the shard states."""
    width, height = record["width"], record["height"]
    if min(width, height) < images.SMALL_SIDE:
        width = height = images.ENLARGED_SIDE
    return (width // images.PATCH) * (height // images.PATCH)


def bucket_of(raws: list[Raw]) -> int:
    """The released rule: enough patches for the largest picture of the batch."""
    return images.official_bucket(max(patch_estimate(raw.record) for raw in raws))


def bucket_shares(sources: dict[str, tuple[list[str], float]]) -> dict[str, float]:
    """How often each bucket is due, from the sources' first samples; the same on every rank, which reads the same ones."""
    shares: Counter[str] = Counter()
    for shards, weight in sources.values():
        every = max(1, len(shards) // LOOK_SHARDS)
        found: Counter[str] = Counter()
        for shard in shards[::every][:LOOK_SHARDS]:
            for raw in islice(read_shard(shard, Counter(), lambda place, record: sound(record), holes=True), LOOK_SAMPLES):
                found[str(bucket_of([raw]))] += 1
        for bucket, count in found.items():
            shares[bucket] += weight * count / found.total()  # type: ignore[assignment]
    if not shares:
        raise ValueError("data.patches=bucketed: no readable sample in the first shards to take the pictures' sizes from")
    return dict(sorted(shares.items(), key=lambda item: int(item[0])))


def by_size(drawn: dict[int, list[Row]], sizes: dict[int, int], apart: bool) -> dict[int, list[Row]]:
    """Deal the samples of several batches out again, small pictures to the steps with small buckets.

    apart: only among batches whose samples come from the same stream
    """
    groups: dict[str, list[int]] = {}
    for step, rows in drawn.items():
        groups.setdefault(rows[0].name if apart else "", []).append(step)
    dealt = {}
    for steps in groups.values():
        rows = sorted((row for step in steps for row in drawn[step]), key=lambda row: patch_estimate(row.raw.record))
        for step in sorted(steps, key=lambda step: sizes[step]):
            count = len(drawn[step])
            dealt[step], rows = rows[:count], rows[count:]
    return dealt
