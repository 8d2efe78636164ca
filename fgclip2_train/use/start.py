"""Start the server: checkpoint, cache, index, then the port."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import faiss
import torch

from fgclip2_train.setup import wants_gpu
from fgclip2_train.use.cache import Cache
from fgclip2_train.use.search import Searcher
from fgclip2_train.use.server import Server
from fgclip2_train.use.service import Service
from fgclip2_train.use.settings import ServeSettings
from fgclip2_train.use.towers import load


def run(checkpoint: str, settings: ServeSettings, tell: Callable[[str], None]) -> None:
    """Until SIGTERM. Raises ValueError for a port in use, a checkpoint or cache that does not do."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
        faiss.omp_set_num_threads(settings.threads)
    service = make(checkpoint, settings, tell)
    try:
        asyncio.run(Server(service).run(lambda address: tell(f"serving on {address}")))
    finally:
        service.close()
    tell("ended")


def make(checkpoint: str, settings: ServeSettings, tell: Callable[[str], None]) -> Service:
    cache = Cache.open(settings.cache) if settings.cache else None
    patches = settings.patches or (cache.identity["patches"] if cache else None)
    precision = cache.identity["precision"] if cache else settings.precision
    device = "cuda" if wants_gpu(settings.device) else "cpu"
    towers = load(checkpoint, patches=patches, device=device, precision=precision, batch=settings.batch)
    if cache:
        cache.check(towers.identity())
    searcher = Searcher(cache, settings.index, tell=tell) if cache else None
    if settings.host not in ("127.0.0.1", "::1", "localhost"):
        tell(f"warning: anyone who reaches {settings.host} may ask; there is no password")
    tell(
        f"checkpoint {towers.digest[:12]} on {towers.encoder.model.device}, {len(searcher.rows) if searcher else 0} vectors to search"
    )
    return Service(towers, settings, searcher)
