"""What the server does for a request, apart from HTTP: vectors through batches and memory, scores, search."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from fgclip2_train.use.batching import Batcher, Recent
from fgclip2_train.use.pictures import open_picture
from fgclip2_train.use.scores import Scores, scores_of
from fgclip2_train.use.search import Hit, Searcher
from fgclip2_train.use.settings import ServeSettings
from fgclip2_train.use.towers import Prepared, Towers, Walk

Read = Literal["short", "long", "box"]
DECODING = 4
"""Pictures decoded at once."""


class Metrics:
    """In a registry of its own, so that several servers may live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("fgclip2_requests", "answered requests", ["route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "fgclip2_request_seconds",
            "from the request's head to its answer",
            ["route"],
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
            registry=self.registry,
        )
        sizes = (1, 2, 4, 8, 16, 32, 64, 128)
        self.batches = Histogram("fgclip2_batch_items", "items of a batch", ["kind"], buckets=sizes, registry=self.registry)
        self.waiting = Gauge("fgclip2_waiting_items", "items in the queue", ["kind"], registry=self.registry)
        self.memory = Counter("fgclip2_memory", "vectors asked of the memory", ["kind", "found"], registry=self.registry)
        self.vectors = Gauge("fgclip2_cache_vectors", "vectors that a search covers", registry=self.registry)


class Service:
    def __init__(self, towers: Towers, settings: ServeSettings, searcher: Searcher | None):
        self.towers, self.settings, self.searcher, self.metrics = towers, settings, searcher, Metrics()
        # The model's kernels use all cores: a second batch at once would only slow both. A search may go beside them.
        self.model_thread = ThreadPoolExecutor(1, "model")
        self.search_thread = ThreadPoolExecutor(1, "search")
        self.decoders = ThreadPoolExecutor(DECODING, "decode")
        self.text_batches = self._batcher("text", self._run_texts, self.model_thread)
        self.picture_batches = self._batcher("picture", self._run_pictures, self.model_thread)
        self.search_batches = self._batcher("search", self._run_searches, self.search_thread)
        self.known_texts: Recent[tuple[np.ndarray, Read]] = Recent(settings.remembered)
        self.known_pictures: Recent[np.ndarray] = Recent(settings.remembered)
        self.indexed = self._by_content(searcher) if searcher else {}
        if searcher:
            self.metrics.vectors.set(len(searcher.rows))

    def close(self) -> None:
        for pool in (self.model_thread, self.search_thread, self.decoders):
            pool.shutdown(wait=False, cancel_futures=True)

    async def texts(self, texts: Sequence[str], walk: Walk = "auto") -> tuple[np.ndarray, list[Read]]:
        """Unit vectors [N, D] and the walk that each was read by."""
        keys = [(walk, text) for text in texts]
        found = {key: self.known_texts.get(key) for key in keys}
        await self._find("text", found, {key: key for key in keys}, self.known_texts, self.text_batches)
        return np.stack([found[key][0] for key in keys]), [found[key][1] for key in keys]  # type: ignore[index]

    async def pictures(self, pictures: Sequence[bytes]) -> np.ndarray:
        """Unit vectors [N, D]. Raises BadPicture."""
        keys = [hashlib.sha256(data).digest() for data in pictures]
        found = {key: self._picture(key) for key in keys}
        new = {key: data for key, data in zip(keys, pictures, strict=True) if found[key] is None}
        loop = asyncio.get_running_loop()
        opened = await asyncio.gather(*(loop.run_in_executor(self.decoders, self._open, data) for data in new.values()))
        prepared = dict(zip(new, opened, strict=True))
        await self._find("picture", found, prepared, self.known_pictures, self.picture_batches)
        return np.stack([found[key] for key in keys])  # type: ignore[misc]

    async def score(self, pictures: Sequence[bytes], texts: Sequence[str], walk: Walk) -> Scores:
        seen, (read, walks) = await asyncio.gather(self.pictures(pictures), self.texts(texts, walk))
        return scores_of(self.towers, torch.from_numpy(seen), torch.from_numpy(read), list(walks))

    async def search(self, query: np.ndarray, k: int) -> list[Hit]:
        (hits,) = await self.search_batches([(query, k)])
        return hits

    # -- batches ----------------------------------------------------------------------------------------------------------

    def _batcher(self, kind: str, run: Callable, pool: ThreadPoolExecutor) -> Batcher:
        batcher: Batcher = Batcher(
            run, self.settings.batch, self.settings.queue, pool, self.metrics.batches.labels(kind).observe
        )
        self.metrics.waiting.labels(kind).set_function(lambda: len(batcher.queue))
        return batcher

    async def _find(self, kind: str, found: dict, items: dict, known: Recent, batches: Batcher) -> None:
        """Fill in what is None in `found`: by key, from `items` through a batch. What is new is remembered."""
        missing = [key for key, value in found.items() if value is None]
        self.metrics.memory.labels(kind, "yes").inc(len(found) - len(missing))
        self.metrics.memory.labels(kind, "no").inc(len(missing))
        if missing:
            for key, value in zip(missing, await batches([items[key] for key in missing]), strict=True):
                found[key] = value
                known.put(key, value)

    def _picture(self, key: bytes) -> np.ndarray | None:
        """From memory, or from the feature cache if it is one of the indexed pictures."""
        vector = self.known_pictures.get(key)
        if vector is None and self.searcher and key in self.indexed:
            vector = self.searcher.vectors[self.indexed[key]].astype(np.float32)
            vector /= np.linalg.norm(vector)
            self.known_pictures.put(key, vector)
        return vector

    def _by_content(self, searcher: Searcher) -> dict[bytes, int]:
        entries = searcher.cache.entries
        pairs = zip(entries["sha256"].to_pylist(), entries["vector"].to_pylist(), strict=True)
        return {bytes.fromhex(sha): row for sha, row in pairs if row is not None and sha}

    def _open(self, data: bytes) -> Prepared:
        return self.towers.prepare(open_picture(data, self.settings.pixels))

    def _run_texts(self, items: list[tuple[Walk, str]]) -> list[tuple[np.ndarray, Read]]:
        # The tokenizer is not safe in two threads at once, so that walks are decided here too.
        walks: list[Read] = [self.towers.walks([text], walk)[0] for walk, text in items]
        found = np.empty((len(items), self.towers.width), dtype=np.float32)
        for walk in set(walks):
            rows = [row for row, own in enumerate(walks) if own == walk]
            found[rows] = self.towers.texts([items[row][1] for row in rows], walk).numpy()
        return list(zip(found, walks, strict=True))

    def _run_pictures(self, items: list[Prepared]) -> np.ndarray:
        return self.towers.encode(items).numpy()

    def _run_searches(self, items: list[tuple[np.ndarray, int]]) -> list[list[Hit]]:
        assert self.searcher is not None
        hits = self.searcher.hits(np.stack([query for query, _ in items]), max(k for _, k in items))
        return [own[:k] for own, (_, k) in zip(hits, items, strict=True)]
