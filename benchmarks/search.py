"""Search over a million cached features on the CPU: milliseconds per query, and what the faster indexes miss.

    python benchmarks/search.py                     # 1,000,000 vectors of 768 numbers, 3.5 GB of memory, 1.6 GB of disk
    python benchmarks/search.py --vectors 50000     # a quick look

The vectors are made up: 20,000 clusters that overlap, in 256 directions of falling weight, with noise in all of them, as pictures'
vectors spread over a few hundred directions. A query is a stored vector with noise, so that its best answer has a cosine of about 0.65.
First each index by itself, with recall@10 against the exact search in the same run; then the server, started as a user starts it, asked
by 1 and by 64 clients over HTTP on the same cores, with vectors as queries (the search alone) and with texts (through a text tower of
B/16's size, random weights, no text twice).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import faiss
import numpy as np

from fgclip2_train.checkpoint import write_checkpoint
from fgclip2_train.data.tokens import train_tokenizer
from fgclip2_train.model.configuration import sized
from fgclip2_train.model.initialise import from_scratch
from fgclip2_train.use.cache import Cache, Writer
from fgclip2_train.use.search import Searcher
from fgclip2_train.use.towers import load

WORDS = [
    colour + size + thing
    for colour in ("red ", "blue ", "红色 ")
    for size in ("old ", "small ", "小 ")
    for thing in ("cat", "tree", "椅子")
]
BLOCK = 65_536


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=8.0, help="of asking the server, per case")
    parser.add_argument("--hnsw", type=int, default=20_000, help="vectors of the HNSW comparison, which takes long to build")
    parser.add_argument("--folder", type=Path, help="for the cache; kept if given")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="search-"))
    try:
        started = time.perf_counter()
        checkpoint = make_checkpoint(folder)
        cache, queries = make_cache(folder / "cache", checkpoint, options.vectors, options.queries)
        say(f"{cache.rows} vectors of {cache.width} made in {time.perf_counter() - started:.0f} s; {os.cpu_count()} cores")
        indexes(cache, queries, options.hnsw)
        for kind in ("exact", "scan"):
            with_server(checkpoint, cache, kind, queries, options.seconds)
        say(f"whole: {time.perf_counter() - started:.0f} s")
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


def make_checkpoint(folder: Path) -> Path:
    texts = train_tokenizer([" ".join(WORDS)] * 20, 400)
    model = from_scratch(sized(768, 12, 12, 3072, 400), 0, 2.3, -6.0)
    trainer = {"settings": {"data": {"patches": 256}}}
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    return write_checkpoint(folder / "checkpoints", 1, model.state_dict(), {}, model.config, texts, trainer)


def make_cache(folder: Path, checkpoint: Path, count: int, queries: int) -> tuple[Cache, np.ndarray]:
    towers = load(checkpoint)
    rng = np.random.default_rng(0)
    weight = ((1 + np.arange(256)) ** -0.4).astype(np.float32)
    weight *= 4 / np.linalg.norm(weight)
    basis = rng.standard_normal((256, towers.width), dtype=np.float32) / 16
    centres = rng.standard_normal((20_000, 256), dtype=np.float32) * weight

    def some(number: int) -> np.ndarray:
        inside = centres[rng.integers(len(centres), size=number)] + 0.8 * weight * rng.standard_normal(
            (number, 256), dtype=np.float32
        )
        return unit(inside @ basis + noise(number) * 0.6)

    def noise(number: int) -> np.ndarray:
        return rng.standard_normal((number, towers.width), dtype=np.float32) / np.float32(towers.width**0.5)

    with Writer(folder, towers.identity()) as writer:
        while writer.rows < count:
            for vector in some(min(BLOCK, count - writer.rows)):
                number = writer.rows + writer.pending
                writer.add({"place": f"/pictures/{number:07d}.jpg", "source": "/pictures", "sha256": f"{number:064x}"}, vector)
            writer.commit()
    cache = Cache.open(folder)
    chosen = cache.vectors()[np.sort(rng.choice(count, queries, replace=False))].astype(np.float32)
    return cache, unit(chosen + 0.5 * some(queries) + noise(queries))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# -- indexes by themselves ----------------------------------------------------------------------------------------------------


def indexes(cache: Cache, queries: np.ndarray, hnsw: int) -> None:
    say(f"\n{'index':<22}{'ready after':>12}{'ms/query, one':>15}{'64 together':>13}{'recall@10':>11}")
    truth = None
    for kind, probes in (("exact", 0), ("scan", 0), ("ivf", 16), ("ivf", 64)):
        started = time.perf_counter()
        searcher = Searcher(cache, kind, probes=probes or 1)
        ready = time.perf_counter() - started
        one, many, found = timed(lambda some, searcher=searcher: searcher.search(some, 10)[1], queries)
        truth = found if truth is None else truth
        line(f"{kind}{f', {probes} cells' if probes else ''}", ready, one, many, recall(found, truth))
        del searcher
    part = np.asarray(cache.vectors()[:hnsw], dtype=np.float32)
    flat = faiss.IndexFlatIP(cache.width)
    flat.add(part)
    started = time.perf_counter()
    graph = faiss.IndexHNSWSQ(cache.width, faiss.ScalarQuantizer.QT_fp16, 32, faiss.METRIC_INNER_PRODUCT)
    graph.train(part[:1000])
    graph.add(part)
    ready = time.perf_counter() - started
    graph.hnsw.efSearch = 64
    one, many, found = timed(lambda some: graph.search(some, 10)[1], queries)
    line(f"hnsw, of {hnsw:,}", ready, one, many, recall(found, flat.search(queries, 10)[1]))


def timed(search, queries: np.ndarray) -> tuple[float, float, np.ndarray]:
    search(queries[:1])
    times = []
    for query in queries[:16]:
        started = time.perf_counter()
        search(query[None])
        times.append(time.perf_counter() - started)
    started = time.perf_counter()
    found = np.concatenate([search(queries[start : start + 64]) for start in range(0, len(queries), 64)])
    return 1000 * float(np.median(times)), 1000 * (time.perf_counter() - started) / len(queries), found


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]))


def line(name: str, ready: float, one: float, many: float, share: float) -> None:
    say(f"{name:<22}{ready:>10.1f} s{one:>15.1f}{many:>13.1f}{share:>11.3f}")


# -- through the server -------------------------------------------------------------------------------------------------------


def with_server(checkpoint: Path, cache: Cache, kind: str, queries: np.ndarray, seconds: float) -> None:
    command = [sys.executable, "-m", "fgclip2_train", "serve", "--checkpoint", str(checkpoint), "port=0"]
    started = time.perf_counter()
    server = subprocess.Popen([*command, f"cache={cache.folder}", f"index={kind}"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        address = next(text for text in server.stdout if text.startswith("serving on")).split()[-1]
        say(f"\nserver, {kind}: ready after {time.perf_counter() - started:.1f} s")
        say(f"{'query':<10}{'clients':>8}{'p50 ms':>10}{'p99 ms':>10}{'queries/s':>11}{'ms/query':>10}")
        for what in ("features", "text") if kind == "scan" else ("features",):
            for clients in (1, 64):
                times, whole = asyncio.run(ask(address, what, clients, queries, seconds))
                p50, p99 = np.percentile(times, [50, 99]) * 1000
                say(
                    f"{what:<10}{clients:>8}{p50:>10.1f}{p99:>10.1f}{len(times) / whole:>11.1f}{1000 * whole / len(times):>10.1f}"
                )
        memory = Path(f"/proc/{server.pid}/status").read_text().split("VmHWM:")[1].split()[0]
        say(f"peak memory of the server {int(memory) / 1e6:.1f} GB, of which the mapped vectors may be given back")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


async def ask(address: str, what: str, clients: int, queries: np.ndarray, seconds: float) -> tuple[list[float], float]:
    encoded = [base64.b64encode(query.astype("<f4").tobytes()).decode() for query in queries]
    rng = np.random.default_rng(clients)
    times: list[float] = []
    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(address, connector=connector) as session:

        async def client() -> None:
            while time.perf_counter() < end:
                body = {"features": encoded[rng.integers(len(encoded))]}
                if what == "text":
                    body = {"text": " ".join(rng.choice(WORDS, 4)) + f" {rng.integers(1 << 30)}"}
                begun = time.perf_counter()
                async with session.post("/v1/search", json=body | {"k": 10}) as response:
                    assert response.status == 200, await response.text()
                    json.loads(await response.read())
                times.append(time.perf_counter() - begun)

        started = time.perf_counter()
        end = started + seconds
        await asyncio.gather(*(client() for _ in range(clients)))
    return times, time.perf_counter() - started


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
