"""Duplicates by meaning: pictures whose vectors nearly agree, such as other crops, colours or watermarks of one photograph.

Reads    embedding                binary (`embed`); null: not compared
         `best`                   a column of numbers, if one is named
Writes   semantic_duplicate_of    string, null (the uid a refused sample repeats is in its Reject)
Refuses  "semantic_duplicate"     cosine with a kept sample of at least `min_similarity`
Source   Abbas et al., "SemDeDup: Data-efficient learning at web-scale through semantic deduplication", 2023: k-means, then all pairs of
         a cluster

Rule     Samples are taken in order, those with the highest `best` first (null last), and kept unless they are near one that is kept,
         in the same cluster. Pairs on two sides of a cluster's border are missed, a few in a hundred.

A global step, also in waves: samples kept before come first. Memory: four bytes a number, 2 GB for a million of 512 numbers. Work: N ·
clusters · D multiplications to find the clusters, N · 1,000 · D within them.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from operators.base import GlobalOperator, Outcome, keep, schema
from operators.best import best_first
from operators.embed import unpack

MEMBERS, CLUSTERS = 1000, 4096
"""Samples that a cluster should have, and how many clusters there are at most."""
ROUNDS = 20
BLOCK = 1024


class SemanticDedup(GlobalOperator):
    min_similarity: float = Field(0.95, gt=0, le=1)
    best: str | None = None
    """Of several alike the one with the highest number here is kept: `clip_score`, `megapixels` …; None: the first."""
    seed: int = 0

    version: ClassVar[int] = 1
    in_waves: ClassVar[bool] = True
    reasons: ClassVar[dict[str, str]] = {"semantic_duplicate": "nearly the same picture as a kept sample, by its vector"}

    @property
    def reads(self) -> pa.Schema:
        columns = schema(embedding=pa.binary())
        return columns if self.best is None else columns.append(pa.field(self.best, pa.null()))  # numbers of any type

    @property
    def writes(self) -> pa.Schema:
        return schema(semantic_duplicate_of=pa.string())

    def __call__(self, samples: pa.Table, known: pa.Table | None = None) -> Outcome:
        columns = ["uid", *self.reads.names]
        table = pa.concat_tables([t.select(columns) for t in (known, samples) if t is not None])
        old = len(table) - len(samples)
        rows, vectors = unpack(table["embedding"])
        order = np.argsort(self._rank(table, old)[rows], kind="stable")
        rows, vectors = rows[order], vectors[order]
        keeper, cosine = np.arange(len(table)), np.zeros(len(table))
        for members in self._clusters(vectors):
            known_first = int(np.count_nonzero(rows[members] < old))
            found, near = keep_apart(vectors[members], self.min_similarity, known_first)
            keeper[rows[members]], cosine[rows[members]] = rows[members][found], near
        keeper, cosine = keeper[old:], cosine[old:]
        gone = keeper != np.arange(old, len(table))
        uids = table["uid"]

        def detail(row: int) -> str:
            return f"of {uids[int(keeper[row])]}, cosine {cosine[row]:.3f}"

        nobody = pa.nulls(len(samples), pa.string())
        return keep(samples, {"semantic_duplicate_of": nobody}, unless={"semantic_duplicate": (gone.tolist(), detail)})

    def _rank(self, table: pa.Table, old: int) -> np.ndarray:
        """Smaller comes first: samples kept before, then by `best`, then as given."""
        if self.best is None:
            return np.arange(len(table))
        order = best_first(table[self.best], old)
        rank = np.empty(len(table), np.int64)
        rank[order] = np.arange(len(table))
        return rank

    def _clusters(self, vectors: np.ndarray) -> list[np.ndarray]:
        """Positions of the samples of each cluster, in their order."""
        count = min(CLUSTERS, len(vectors) // MEMBERS)
        if count < 2:
            return [np.arange(len(vectors))]
        import faiss

        means: Any = faiss.Kmeans(
            vectors.shape[1], count, niter=ROUNDS, seed=self.seed, spherical=True, min_points_per_centroid=1
        )
        means.train(vectors)
        nearest = means.index.search(vectors, 1)[1][:, 0]
        order = np.argsort(nearest, kind="stable")
        return np.split(order, np.searchsorted(nearest[order], np.arange(1, count)))


def keep_apart(vectors: np.ndarray, least: float, known: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Greedy choice of unit vectors whose cosines stay below `least`, in the order given; the first `known` are kept anyway.

    Returns  int64 [N]: own index where kept, else that of the kept vector it is nearest to among the first that suffice; and the cosine
    """
    found, cosine = np.arange(len(vectors)), np.zeros(len(vectors))
    kept = list(range(known))
    for start in range(known, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        before = block @ vectors[kept].T if kept else np.zeros((len(block), 0), np.float32)
        among = block @ block.T
        earlier = np.array(kept, np.int64)
        fresh: list[int] = []  # kept ones of this block
        for row in range(len(block)):
            if before.shape[1] and before[row].max() >= least:
                best = int(before[row].argmax())
                found[start + row], cosine[start + row] = earlier[best], before[row, best]
            elif fresh and among[row, fresh].max() >= least:
                best = fresh[int(among[row, fresh].argmax())]
                found[start + row], cosine[start + row] = start + best, among[row, best]
            else:
                fresh.append(row)
        kept += [start + row for row in fresh]
    return found, cosine
