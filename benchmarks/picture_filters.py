"""Measuring, filtering and hashing pictures against Data-Juicer's same operators: the same files, processes and cores, in one run.

    python -m benchmarks.picture_filters [--pictures 2000] [--processes 2] [--rounds 3]

    theirs    image_size_filter (bytes), image_shape_filter, image_aspect_ratio_filter, image_deduplicator (phash, equal hashes), by
              its own executor over a list of files: once as it comes, once with `op_fusion`, which lets filters share a picture
    ours      size, phash, select (bytes, sides, aspect), dedup (equal bytes or hashes), by the engine's own worker and commits over
              picture tars, each shard in one of as many processes

Data-Juicer (py-data-juicer, manifests/env/data-juicer.txt) gets an environment of its own in build/data-juicer when it is first asked
for. Not counted on either side: imports, making the pictures, and bringing them where the side reads them (ours: the download
stage). Counted: everything from the first picture read to the last result on the disk. Every fourth picture repeats another one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
ENVIRONMENT = HERE / "build" / "data-juicer"
PINS = HERE / "manifests" / "env" / "data-juicer.txt"
TOLD = "told.json"
SIDES = ("theirs", "theirs fused", "ours")
BYTES, SIDE, ASPECT = (1_000, 20_000_000), (64, 20_000), 4
"""Least and most bytes and pixels a side; most that one side may be longer than the other."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.side == "ours":
        ours(a.folder, a.processes)
    elif a.side:
        theirs(a.folder, a.processes, a.side == "theirs fused")
    else:
        compare(a.pictures, a.processes, a.rounds)


def compare(count: int, processes: int, rounds: int) -> None:
    python = environment()
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    kept: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = make(folder / "pictures", count)
        print(f"{count:,} JPEGs of 640 x 480, {size / count / 1000:.0f} KB each, {processes} processes", flush=True)
        for _ in range(rounds):
            for side in SIDES:
                seconds, kept[side] = measure(python if side != "ours" else Path(sys.executable), side, folder, processes)
                rates[side].append(count / seconds)
                print(f"{side:13} {count / seconds:8.1f} pictures/s  {seconds:6.1f} s  {kept[side]:,} kept", flush=True)
    if len(set(kept.values())) > 1:
        print(f"NOT THE SAME WORK: {kept}")
    for other in SIDES[:2]:
        ratios = [mine / its for mine, its in zip(rates["ours"], rates[other], strict=True)]
        print(f"ours / {other}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def environment() -> Path:
    """The interpreter of Data-Juicer's own environment, made when it is missing or its list has changed."""
    python, ready = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "ready.txt"
    if not ready.is_file() or ready.read_bytes() != PINS.read_bytes():
        uv = Path(sys.executable).parent / "uv"
        print(f"making {ENVIRONMENT.relative_to(HERE)} …", flush=True)
        subprocess.run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, ENVIRONMENT], check=True)
        subprocess.run([uv, "pip", "sync", "--quiet", "--python", python, PINS], check=True)
        ready.write_bytes(PINS.read_bytes())
    return python


def make(folder: Path, count: int) -> int:
    """Pictures like those of the web in size and detail, every fourth a repetition; their bytes together."""
    from benchmarks.download import pictures

    folder.mkdir()
    distinct = pictures(count - count // 4)
    total = 0
    for i in range(count):
        data = distinct[i - i // 4 if i % 4 != 3 else (7 * i) % max(1, i - i // 4)]
        (folder / f"{i:06d}.jpg").write_bytes(data)
        total += len(data)
    return total


def measure(python: Path, side: str, folder: Path, processes: int) -> tuple[float, int]:
    """Seconds of one side in a process of its own, and the samples that it kept."""
    command = [python, "-m", "benchmarks.picture_filters", "--side", side, "--folder", folder, "--processes", str(processes)]
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache"), "PYTHONPATH": str(HERE)}
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env={**os.environ, **quiet}, cwd=folder
    )
    if done.returncode:
        sys.exit(f"{side}: {done.stderr[-2000:]}")
    found = json.loads((folder / TOLD).read_text())
    (folder / TOLD).unlink()
    return found["seconds"], found["kept"]


def tell(folder: Path, began: float, kept: int) -> None:
    """In a file: Data-Juicer takes the standard output for its log."""
    seconds = time.perf_counter() - began
    (folder / TOLD).write_text(json.dumps({"seconds": seconds, "kept": kept}))


# Data-Juicer's side, run by its own interpreter.


def theirs(folder: Path, processes: int, fused: bool) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        with (work / "list.jsonl").open("w") as file:
            for picture in sorted((folder / "pictures").iterdir()):
                file.write(json.dumps({"text": "", "images": [str(picture)]}) + "\n")
        sides = {"min_width": SIDE[0], "max_width": SIDE[1], "min_height": SIDE[0], "max_height": SIDE[1]}
        recipe = {
            "project_name": "pictures",
            "dataset_path": str(work / "list.jsonl"),
            "export_path": str(work / "out" / "kept.jsonl"),
            "np": processes,
            "use_cache": False,
            "op_fusion": fused,
            "process": [
                {"image_size_filter": {"min_size": str(BYTES[0]), "max_size": str(BYTES[1])}},
                {"image_shape_filter": sides},
                {"image_aspect_ratio_filter": {"min_ratio": 1 / ASPECT, "max_ratio": ASPECT}},
                {"image_deduplicator": {"method": "phash"}},
            ],
        }
        (work / "recipe.yaml").write_text(json.dumps(recipe))
        from data_juicer.config import init_configs  # type: ignore[import-not-found]
        from data_juicer.core import DefaultExecutor  # type: ignore[import-not-found]
        from data_juicer.ops import load_ops  # type: ignore[import-not-found]

        executor = DefaultExecutor(init_configs(["--config", str(work / "recipe.yaml")]))
        load_ops(recipe["process"])  # what they import when they are first made is not counted
        began = time.perf_counter()
        executor.run(skip_return=True)
        tell(folder, began, sum(1 for _ in (work / "out" / "kept.jsonl").open()))


# Ours.


def ours(folder: Path, processes: int) -> None:
    import multiprocessing

    from operators.dedup import Dedup
    from pipelines.config import load_recipe
    from pipelines.reach import Reach
    from pipelines.run import Options, prepare
    from pipelines.verdicts import commit_verdicts

    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        chain = prepare(load_recipe(write_recipe(work, folder / "pictures", processes)), work / "runs", Options())
        shards = chain.shards()
        first, (measured, judged, dedup) = chain.recipe.stages[:2], chain.recipe.stages[2:5]
        assert isinstance(dedup.operator, Dedup)
        context: Any = multiprocessing.get_context("fork")  # as `datasets` does it on the other side
        with context.Pool(processes, begin, (chain,)) as pool:
            pool.starmap(work_on, [(shard, [stage.name for stage in first]) for shard in shards], chunksize=1)
            began = time.perf_counter()
            pool.starmap(work_on, [(shard, [measured.name, judged.name]) for shard in shards], chunksize=1)
            done = [*first, measured, judged]
            at = Reach(chain, shards)
            at.advance(done)
            at.settle(dedup)
            commit_verdicts(chain, dedup, done, shards)
            at = Reach(chain, shards)
            at.advance([*done, dedup])
            tell(folder, began, sum(at.rows_out().values()))


def write_recipe(work: Path, pictures: Path, processes: int) -> str:
    """A recipe over the pictures as links of a local table, some shards for each process."""
    count = sum(1 for _ in pictures.iterdir())
    source = {"format": "folder", "tables": str(pictures), "language": "en"}
    keep = " and ".join(
        f"{name} >= {least} and {name} <= {most}"
        for name, (least, most) in (("image_size", BYTES), ("width", SIDE), ("height", SIDE))
    )
    stages = {
        "download": {},
        "measure": {"operators": {"size": {}, "phash": {}}},
        "select": {"keep": f"{keep} and aspect <= {ASPECT}"},
        "dedup": {"max_distance": 0},
    }
    recipe = {
        "recipe": "pictures",
        "sources": [str(work / "folder.yaml")],
        "shard_size": max(1, count // (4 * processes)),
        "disk_floor_gb": 0,
        "stages": stages,
    }
    (work / "folder.yaml").write_text(json.dumps(source))
    (work / "pictures.yaml").write_text(json.dumps(recipe))
    return str(work / "pictures.yaml")


CHAIN: Any = None


def begin(chain: Any) -> None:
    global CHAIN
    CHAIN = chain


def work_on(shard: int, names: list[str]) -> None:
    """Some stages of one shard, each committed."""
    import asyncio

    from pipelines.view import View
    from pipelines.worker import Worker

    async def quiet(_: dict[str, int]) -> None:
        pass

    view, _ = CHAIN.advance(View(shard), CHAIN.recipe.stages[:2])
    for name in names:
        worker = Worker(CHAIN, CHAIN.recipe.stage(name))
        view = view.after(asyncio.run(worker.process(view, quiet))[0])


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
