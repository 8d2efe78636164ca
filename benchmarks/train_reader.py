"""The reader's rate against bare JPEG decoding and resizing of the same pictures on the same cores, in one run.

    python benchmarks/train_reader.py [--workers 1] [--samples 256] [--rounds 3] [--patches 576] [--shards 'DIR/*.tar']

Without `--shards` it writes some of its own: pictures of 640 × 480 with the detail of a photograph, captions in both
languages, four regions each, a quarter of them with ten hard negatives. "bare" is as many processes as the reader has
workers, each decoding pictures that it holds in memory, resizing them as the model needs them, and dropping the result:
no tar, no record, no text, no batch. "reader" gives finished batches to this process. Both keep their memory, as the
reader's workers do. Sides take turns. Everything runs on as many cores as there are workers.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tarfile
import tempfile
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fgclip2_train.data import images
from fgclip2_train.data.buckets import bucket_of
from fgclip2_train.data.loader import DataSettings, Loader, Reader
from fgclip2_train.data.samples import TextSettings
from fgclip2_train.data.shards import Raw, find_shards, read_shard
from fgclip2_train.data.tokens import train_tokenizer
from fgclip2_train.memory import keep_memory

WORDS = [
    "red",
    "green",
    "blue",
    "small",
    "old",
    "wooden",
    "car",
    "dog",
    "table",
    "man",
    "woman",
    "tree",
    "hat",
    "near",
    "under",
]
BATCH = 32


def write_shards(folder: Path, samples: int) -> str:
    rng = np.random.default_rng(0)

    def text(words: int) -> str:
        return " ".join(rng.choice(WORDS, words))

    for shard in range(4):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for number in range(samples // 4):
                uid = hashlib.md5(f"{shard}/{number}".encode()).hexdigest()
                layers = [
                    Image.fromarray(rng.integers(0, 256, (480 // step, 640 // step, 3), dtype=np.uint8)).resize((640, 480))
                    for step in (80, 16, 4)
                ]
                picture = Image.blend(Image.blend(layers[0], layers[1], 0.4), layers[2], 0.25)
                data = io.BytesIO()
                picture.save(data, "JPEG", quality=90)
                add(tar, f"{uid}.jpg", data.getvalue())
                add(tar, f"{uid}.json", json.dumps(record(uid, data.getvalue(), text, rng)).encode())
    return str(folder / "*.tar")


def record(uid: str, picture: bytes, text, rng) -> dict[str, Any]:
    texts = [
        {"text": text(12 if length == "short" else 90), "language": language, "length": length, "origin": "model", "by": "-"}
        for language in ("en", "zh")
        for length in ("short", "long")
    ]
    regions = []
    for number in range(4):
        corner = rng.random(2) * 0.5
        negatives = [
            {"text": text(5), "family": "colour", "span": [0, 1], "original": "red", "origin": "lexical", "flags": []}
            for _ in range(10 if number == 0 else 0)
        ]
        regions.append(
            {"box": [*corner, *(corner + 0.4)], "score": 0.9, "language": "en", "short": text(3), "long": text(7),
             "origin": "model", "negatives": negatives, "positives": []}
        )  # fmt: skip
    return {
        "format": "fineloom/1", "uid": uid, "source": "-", "license": None, "url": None, "sha256": hashlib.sha256(picture).hexdigest(),
        "image_format": "JPEG", "width": 640, "height": 480, "texts": texts, "regions": regions, "long_negatives": [],
        "scores": {}, "provenance": {},
    }  # fmt: skip


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def bare(raws: list[Raw], bucket: int, repeats: int, ready, go) -> None:
    keep_memory()
    ready.release()
    go.wait()
    for _ in range(repeats):
        for raw in raws:
            picture = Image.open(io.BytesIO(raw.picture)).convert("RGB")
            rows, columns = images.grid_for(*picture.size, bucket)
            np.asarray(picture.resize((columns * images.PATCH, rows * images.PATCH), Image.Resampling.BILINEAR))


def cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def cpu_of_workers() -> float:
    """Of this process and of its children that are at work."""
    ticks = 0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:13]))  # user and system time
    return sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) + ticks / os.sysconf("SC_CLK_TCK")


def run_bare(raws: list[Raw], bucket: int, workers: int, samples: int) -> tuple[float, float]:
    """Seconds and CPU seconds per picture."""
    context = multiprocessing.get_context("fork")
    ready, go = context.Semaphore(0), context.Event()
    repeats = max(1, samples // workers // len(raws))
    work = [context.Process(target=bare, args=(raws, bucket, repeats, ready, go)) for _ in range(workers)]
    for process in work:
        process.start()
    for _ in work:
        ready.acquire()
    started, before = time.perf_counter(), cpu_seconds()
    go.set()
    for process in work:
        process.join()
    done = repeats * len(raws) * workers
    return (time.perf_counter() - started) / done, (cpu_seconds() - before) / done


def run_reader(settings: DataSettings, texts, workers: int, samples: int) -> tuple[float, float]:
    """The same of the reader, once its workers are at work and their queue is full."""
    loader = Loader(Reader(settings, texts, BATCH, lengths=(64, 196), seed=0), workers)
    for _ in range(2 * workers + 1):  # what is prefetched while nobody asks does not count
        next(loader)
    started, before, done = time.perf_counter(), cpu_of_workers(), 0
    while done < samples:
        done += len(next(loader))
    seconds, cpu = (time.perf_counter() - started) / done, (cpu_of_workers() - before) / done
    loader.close()
    return seconds, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patches", default="576")
    parser.add_argument("--shards")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.workers])
    with tempfile.TemporaryDirectory() as folder:
        shards = arguments.shards or write_shards(Path(folder), 256)
        patches = int(arguments.patches) if arguments.patches.isdecimal() else arguments.patches
        settings = DataSettings(shards=shards, patches=patches, mixing="sample", shuffle_block=128, texts=TextSettings())
        texts = train_tokenizer([" ".join(WORDS)] * 10, 400)
        first = read_shard(find_shards(shards)[0], Counter(), lambda place, record: True)
        raws = list(islice(first, 64))
        bucket = patches if isinstance(patches, int) else bucket_of(raws)
        sides = {
            "bare": lambda: run_bare(raws, bucket, arguments.workers, arguments.samples),
            "reader": lambda: run_reader(settings, texts, arguments.workers, arguments.samples),
        }
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for _ in range(arguments.rounds):
            for name, side in sides.items():
                seen[name].append(side())
    size = len(raws[0].picture) / 1000
    print(
        f"{arguments.workers} workers on as many cores, {bucket} patches, pictures of about {size:.0f} KB, {arguments.rounds} rounds"
    )
    print(f"{'side':<7} {'pictures/s':>10} {'CPU ms each':>12}")
    for name, rows in seen.items():
        wall, cpu = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{name:<7} {1 / wall:>10.1f} {cpu * 1000:>12.2f}")
    ratios = [one[0] / other[0] for one, other in zip(seen["bare"], seen["reader"], strict=True)]
    share = statistics.median(row[1] for row in seen["bare"]) / statistics.median(row[1] for row in seen["reader"])
    told = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"reader / bare: {told} of the rate, {share:.2f} by CPU time")


if __name__ == "__main__":
    main()
