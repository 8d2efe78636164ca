"""Search a feature cache by vectors: exactly, or by a smaller index whose candidates are then ranked exactly.

The kinds were chosen by `benchmarks/search.py`. An index lies in <cache>/index/, is named by the rows that it holds, and is made
again, or added to, when the cache has others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import faiss
import numpy as np

from fgclip2_train.use.cache import Cache

Kind = Literal["auto", "exact", "scan", "ivf"]
"""exact: every vector as it is. scan: every vector at 4 bits per 4 numbers, the best of them ranked exactly. ivf: the nearest cells of
vectors at 8 bits a number, likewise."""
EXACT_UP_TO = 20_000
"""Vectors up to which "auto" takes the exact search: a few milliseconds, and nothing to build."""
LEAST = 1000
"""Vectors below which there is too little to train an index on; the search is exact then."""
TRAINING = {"scan": 4_096, "ivf": 65_536}
BLOCK = 32_768


@dataclass
class Hit:
    """score: cosine. places: where the picture lies, more than one if there are copies."""

    score: float
    places: list[str]


class Searcher:
    """probes: cells of an "ivf" index that are searched. candidates: ranked exactly, for each of the k wanted (at least 100)."""

    def __init__(
        self,
        cache: Cache,
        kind: Kind = "auto",
        *,
        probes: int = 32,
        candidates: int = 10,
        tell: Callable[[str], None] = lambda line: None,
    ):
        self.cache, self.rows, self.vectors, self.places = cache, cache.live(), cache.vectors(), cache.places()
        if not len(self.rows):
            raise ValueError(f"{cache.folder}: no picture with a vector in this cache; `index` some first")
        small = len(self.rows) <= (EXACT_UP_TO if kind == "auto" else LEAST)
        self.kind = "exact" if small else "scan" if kind == "auto" else kind
        self.candidates, self.tell = candidates, tell
        self.index = self._exact() if self.kind == "exact" else self._kept()
        if self.kind == "ivf":
            faiss.extract_index_ivf(self.index).nprobe = probes

    def search(self, queries: np.ndarray, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """Unit queries float32 [Q, D] -> cosines [Q, k] and rows of the cache [Q, k], best first, of equal cosines the lower row; fewer
        than k rows: all of them."""
        if queries.shape[1:] != (self.cache.width,) or k < 1:
            raise ValueError(f"queries are [Q, {self.cache.width}] and k is 1 or more, not {list(queries.shape)} and {k}")
        k = min(k, len(self.rows))
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if self.kind == "exact":
            scores, found = self._nearest(queries, k)
            return scores, self.rows[found]
        pool = min(len(self.rows), max(100, self.candidates * k))
        _, found = self.index.search(queries, pool)
        scores, rows = np.full((len(queries), k), -np.inf, dtype=np.float32), np.full((len(queries), k), -1)
        for number, (query, own) in enumerate(zip(queries, found, strict=True)):
            near = np.sort(self.rows[own[own >= 0]])  # in the file's order
            # Row by row: a product of matrices rounds equal rows differently.
            parts = np.array_split(near, len(near) // BLOCK + 1)
            cosines = np.concatenate([(self.vectors[part].astype(np.float32) * query).sum(1) for part in parts])
            best = np.argsort(-cosines, kind="stable")[:k]
            scores[number, : len(best)], rows[number, : len(best)] = cosines[best], near[best]
        return scores, rows

    def hits(self, queries: np.ndarray, k: int = 10) -> list[list[Hit]]:
        scores, rows = self.search(queries, k)
        return [
            [Hit(float(score), self.places(int(row))) for score, row in zip(*each, strict=True) if row >= 0]
            for each in zip(scores, rows, strict=True)
        ]

    def _nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The exact index's k best. Of equals faiss keeps any, so that more are asked for until the last one is below the k-th."""
        wanted = k
        while True:
            wanted = min(wanted + 1, self.index.ntotal)
            scores, found = self.index.search(queries, wanted)
            if wanted == self.index.ntotal or (scores[:, -1] < scores[:, k - 1]).all():
                break
            wanted *= 2
        order = np.lexsort((found, -scores))[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(found, order, 1)

    # -- indexes ----------------------------------------------------------------------------------------------------------

    def _exact(self) -> faiss.Index:
        """All vectors as they are on the disk, in memory: 2 bytes a number."""
        index = faiss.IndexScalarQuantizer(self.cache.width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        index.is_trained = True
        codes = self.vectors if len(self.rows) == len(self.vectors) else self.vectors[self.rows]
        faiss.copy_array_to_vector(np.asarray(codes).view(np.uint8).reshape(-1), index.codes)
        index.ntotal = len(self.rows)
        return index

    def _kept(self) -> faiss.Index:
        """The index of this kind on the disk, brought up to date."""
        folder = self.cache.folder / "index"
        wanted = folder / self._name(len(self.rows))
        older = sorted(folder.glob(f"{self.kind}-*.faiss"), key=lambda file: file.stat().st_mtime)
        for file in reversed(older):
            held = int(file.stem.split("-")[1])
            # Half of the rows new: the cells no longer fit.
            if held <= len(self.rows) < 2 * held and file.name == self._name(held):
                try:
                    index = faiss.read_index(str(file))
                except RuntimeError:
                    self.tell(f"{file}: damaged; made again")
                    break
                if held < len(self.rows):
                    self._add(index, held)
                    self._keep(index, wanted, older)
                return index
        index = self._make()
        self._add(index, 0)
        self._keep(index, wanted, older)
        return index

    def _name(self, held: int) -> str:
        content = blake2b(self.rows[:held].tobytes(), digest_size=8).hexdigest()
        return f"{self.kind}-{held}-{content}.faiss"

    def _make(self) -> faiss.Index:
        """Trained on a sample; empty."""
        width, count = self.cache.width, len(self.rows)
        cells = min(1024, count // 64)
        parts = next(parts for parts in range(max(1, width // 4), 0, -1) if width % parts == 0)
        spec = {"ivf": f"IVF{cells},SQ8", "scan": f"PQ{parts}x4fs"}[self.kind]
        self.tell(f"{spec}: training and adding {count} vectors")
        index = faiss.index_factory(width, spec, faiss.METRIC_INNER_PRODUCT)
        chosen = np.sort(np.random.default_rng(0).choice(count, min(TRAINING[self.kind], count), replace=False))
        index.train(self.vectors[self.rows[chosen]].astype(np.float32))
        return index

    def _add(self, index: faiss.Index, first: int) -> None:
        for start in range(first, len(self.rows), BLOCK):
            index.add(self.vectors[self.rows[start : start + BLOCK]].astype(np.float32))

    def _keep(self, index: faiss.Index, file: Path, older: list[Path]) -> None:
        hidden = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            file.parent.mkdir(exist_ok=True)
            faiss.write_index(index, str(hidden))
            hidden.rename(file)
        except (OSError, RuntimeError) as error:
            with suppress(OSError):
                hidden.unlink()
            self.tell(f"the index is not kept: {error}")
            return
        for old in older:
            if old != file:
                old.unlink(missing_ok=True)
