"""`fineloom view` over roots of different sizes: first page, pages, filters, search and sorting in seconds, memory, many visitors.

python benchmarks/viewer.py [--samples 1000 100000] [--folder DIR] [--visitors 50]

Makes a finished run of so many samples with the engine's own worker and commits (a table with boxes, pictures of 96 x 72 pixels, the
stages download, size, text and select), starts `fineloom view` on it and asks as a browser would. Start: from the command to the
address that it prints, imports and a first look at the ledger included. First page: the first request of all. Final: asked again until
the page says that every shard was looked at. Visitors: each asks for a gallery page of its own, six pictures and one sample, all at the
same time.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "kit")]
from browser import Served  # noqa: E402
from in_process import run_here  # noqa: E402

from pipelines.config import load_recipe  # noqa: E402

SHARD = 1000
WORDS = "red blue green yellow small large wooden striped dotted glass".split()  # noqa: SIM905
THINGS = "cup ball chair lamp bottle house dog boat kite drum".split()  # noqa: SIM905
QUESTIONS = {
    "gallery, page 2": {"page": 2},
    "drawn by a seed": {"seed": 7},
    "filter that keeps half, first page": {"where": "row % 2 == 0"},
    "filter that keeps one in 1,000, all shards": {"where": "row % 1000 == 7", "sort": "row"},
    "search in English, all shards": {"q": "wooden boat 99", "sort": "row"},
    "search in Chinese, all shards": {"q": "木船 九十九", "sort": "row"},
    "sorted by a number, all shards": {"sort": "megapixels"},
}


def write(folder: Path, samples: int) -> Path:
    """Pictures (100 different ones), table, manifest and recipe of a run."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    for i in range(100):
        image = Image.radial_gradient("L").resize((96, 72)).convert("RGB")
        image.putpixel((i % 96, i // 96), (255, 0, 0))
        image.save(pictures / f"{i:02d}.jpg", quality=60)
    captions, chunks = [], []
    for i in range(samples):
        text = f"a {WORDS[i % 10]} {THINGS[i // 10 % 10]} beside a {WORDS[i // 7 % 10]} {THINGS[i // 3 % 10]}"
        captions.append([f"{text} {i % 100}", f"木船 和 {WORDS[i % 10]} {'九十九' if i % 1000 == 99 else '八'}"])
        end = text.index(" beside")
        chunks.append([[0.0, float(end), 0.1, 0.1, 0.6, 0.7, 0.9], [end + 8.0, float(len(text)), 0.5, 0.2, 0.9, 0.8, 0.8]])
    names = [f"{i % 100:02d}.jpg" for i in range(samples)]
    pq.write_table(pa.table({"image": names, "captions": captions, "chunks": chunks}), folder / "table.parquet")
    columns = {"image": "image", "captions": "captions", "regions": ["chunks"]}
    source = {"format": "parquet", "tables": str(folder / "table.parquet"), "image_folder": str(pictures), "columns": columns}
    (folder / "bench.yaml").write_text(yaml.safe_dump({**source, "language": "en", "license": "CC0-1.0"}))
    stages = {"download": {}, "measure": {"operators": {"size": {}, "text": {}}}, "select": {"keep": "width >= 64"}}
    recipe = {
        "recipe": "bench",
        "sources": [str(folder / "bench.yaml")],
        "shard_size": SHARD,
        "disk_floor_gb": 0,
        "stages": stages,
    }
    (folder / "bench_recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder / "bench_recipe.yaml"


def timed(client: httpx.Client, path: str, **query: object) -> tuple[float, str]:
    began = time.perf_counter()
    answer = client.get(path, params=query)
    answer.raise_for_status()
    return time.perf_counter() - began, answer.text


def answered(client: httpx.Client, query: dict[str, object]) -> tuple[float, float, int]:
    """Seconds to the first page shown, seconds until it is final, and how often it was asked for."""
    began, asked, first = time.perf_counter(), 0, 0.0
    while True:
        text = timed(client, "/bench/", **query)[1]
        asked += 1
        first = first or time.perf_counter() - began
        if "data-again" not in text:
            return first, time.perf_counter() - began, asked


def visitors(url: str, count: int) -> dict[str, float]:
    """Latencies of `count` visitors at the same time."""
    pages: list[float] = []
    pictures: list[float] = []
    together = threading.Barrier(count)

    def visit(number: int) -> None:
        with httpx.Client(base_url=url, timeout=300) as client:
            together.wait()
            seconds, text = timed(client, "/bench/", page=1 + number % 40)
            pages.append(seconds)
            for path in re.findall(r'href="(/bench/picture/[^"]+)"', text)[:6]:
                pictures.append(timed(client, path.replace("&amp;", "&"))[0])
            pages.append(timed(client, re.findall(r'href="(/bench/sample/[^"]+)"', text)[0])[0])

    threads = [threading.Thread(target=visit, args=(i,)) for i in range(count)]
    began = time.perf_counter()
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "answers/s": (len(pages) + len(pictures)) / seconds,
        "page median": statistics.median(pages),
        "page worst": max(pages),
        "picture median": statistics.median(pictures),
        "picture worst": max(pictures),
    }


def measure(folder: Path, samples: int, people: int) -> None:
    recipe = write(folder, samples)
    began = time.perf_counter()
    run_here(load_recipe(recipe), folder / "runs")
    print(f"{samples:,} samples in {-(-samples // SHARD):,} shards, made in {time.perf_counter() - began:.0f} s", flush=True)
    began = time.perf_counter()
    served = Served("view", str(folder / "runs" / "bench"), "--recipe", str(recipe), "--port", "0")
    try:
        process = psutil.Process(served.process.pid)
        before = process.memory_info().rss
        told: dict[str, object] = {"samples": samples, "start": time.perf_counter() - began}
        with httpx.Client(base_url=served.url.rstrip("/"), timeout=300) as client:
            seconds, text = timed(client, "/bench/")
            told["first page"], told["first page, again"] = seconds, timed(client, "/bench/")[0]
            path = re.findall(r'href="(/bench/sample/[^"]+)"', text)[0]
            told["a sample's page"] = timed(client, path)[0]
            told["refusals"] = timed(client, "/bench/rejects")[0]
            for name, query in QUESTIONS.items():
                first, whole, asked = answered(client, query)
                told[name] = f"{first:.2f} s shown, {whole:.2f} s final, {asked} requests"
        told["memory at start, GB"], told["memory after all that, GB"] = before / 1e9, process.memory_info().rss / 1e9
        for name, value in visitors(served.url.rstrip("/"), people).items():
            told[f"{people} visitors: {name}"] = value
        told["memory after the visitors, GB"] = process.memory_info().rss / 1e9
        for name, value in told.items():
            print(f"  {name:<46} {value:.3f}" if isinstance(value, float) else f"  {name:<46} {value}", flush=True)
        print(json.dumps(told))
    finally:
        served.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--folder", help="where the runs are made; by default a temporary folder")
    parser.add_argument("--visitors", type=int, default=50)
    arguments = parser.parse_args()
    for samples in arguments.samples:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            measure(Path(name) / "made", samples, arguments.visitors)


if __name__ == "__main__":
    main()
