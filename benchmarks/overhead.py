"""What the engine costs: a whole recipe against its bare operators, the same number of processes on the same cores, in one run.

    python -m benchmarks.overhead [--pictures 12000] [--processes 2] [--shard 200]

    bare     each process takes a share of the shards: the source's rows, Download.fetch, decode, the operators of `measure`, `select`,
             Pack.write, all in memory but the two tars. No Ray, no Parquet, no ledger, no fsync, no fingerprints
    engine   `execute` of the recipe on a Ray that was started before: actors start, shards stream, every stage is committed

Pictures are JPEGs of 1280 x 960 in a folder, a few distinct ones under many names. Both sides must end with as many samples. Seconds of
Ray's start are printed apart; the start of the stages' workers is the engine's own and counted. The disk wants twice the pictures'
bytes, some 0.4 MB each; choose as many as keep the bare side busy for ten minutes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
ROWS = 128


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=12_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--shard", type=int, default=200)
    a = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder / "pictures", a.pictures)
        recipe = write_recipe(folder, a.shard, a.processes)
        bare, kept = run_bare(recipe, folder / "bare", a.processes)
        print(f"bare    {bare:7.1f} s  {a.pictures / bare:6.1f} pictures/s  {kept:,} packed", flush=True)
        shutil.rmtree(folder / "bare")  # twice the pictures' bytes, which the other side wants now
        engine, packed, start = run_engine(recipe, folder / "runs", a.processes)
        print(
            f"engine  {engine:7.1f} s  {a.pictures / engine:6.1f} pictures/s  {packed:,} packed; Ray's start {start:.1f} s apart"
        )
        print(f"engine / bare: {engine / bare:.3f}" + ("" if kept == packed else "  NOT THE SAME SAMPLES"))


def make(folder: Path, count: int, distinct: int = 24) -> None:
    """JPEGs with the detail of photographs, a caption beside each."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    random = np.random.default_rng(0)
    bodies = []
    for number in range(distinct):
        coarse = Image.fromarray(random.integers(0, 255, (30, 40, 3), np.uint8)).resize((1280, 960), Image.Resampling.BICUBIC)
        grain = random.normal(0, 6, (960, 1280, 3))
        bodies.append(folder.with_name(f"picture{number}.jpg"))
        Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).save(bodies[-1], quality=85)
    for i in range(count):
        (folder / f"{i:06d}.jpg").hardlink_to(bodies[i % distinct])
        (folder / f"{i:06d}.txt").write_text(f"a made-up picture of colours, number {i}\n")


def write_recipe(folder: Path, shard_size: int, processes: int) -> str:
    source = {"format": "folder", "tables": str(folder / "pictures"), "language": "en"}
    (folder / "folder.yaml").write_text(json.dumps(source))
    measure = {"operators": {"size": {}, "phash": {}, "sharpness": {}, "overlay": {}}, "resources": {"workers": processes}}
    recipe = {
        "recipe": "overhead",
        "sources": [str(folder / "folder.yaml")],
        "shard_size": shard_size,
        "window": 16,
        "disk_floor_gb": 0,
        "stages": {"download": {}, "measure": measure, "select": {"keep": "sharpness >= 1"}, "pack": {}},
    }
    (folder / "overhead.yaml").write_text(json.dumps(recipe))
    return str(folder / "overhead.yaml")


# Bare operators.


def run_bare(recipe: str, root: Path, processes: int) -> tuple[float, int]:
    """Seconds, and samples packed. `prepare` only cuts the folder into shards, as the engine's run does too."""
    from pipelines.config import load_recipe
    from pipelines.run import Options, prepare

    began = time.perf_counter()
    chain = prepare(load_recipe(recipe), root, Options())
    context: Any = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        counts = pool.starmap(bare, [(chain, shard, root) for shard in chain.shards()], chunksize=1)
    return time.perf_counter() - began, sum(counts)


def bare(chain: Any, shard: int, folder: Path) -> int:
    """One shard through the recipe's operators."""
    import pyarrow as pa

    from operators.pictures import decode
    from pipelines.sources import read_slice

    stages = {stage.name: stage for stage in chain.recipe.stages}
    table, cut = chain.tables.table_of(shard), chain.tables.slice_of(shard)
    base, _ = read_slice(chain.sources[table.source], chain.paths[table.index], table.digest, cut)
    tar = folder / f"{shard:05d}.tar"
    fetched = stages["download"].operator.fetch(base, tar, folder / f"{shard:05d}.json").kept
    rows = joined(base, fetched)
    with tar.open("rb") as file:

        def bytes_of(sample: dict[str, Any]) -> bytes:
            file.seek(sample["image_offset"])
            return file.read(sample["image_size"])

        pieces = []
        for start in range(0, rows.num_rows, ROWS):
            piece = rows.slice(start, ROWS)
            pictures = [decode(bytes_of(sample)) for sample in piece.select(["image_offset", "image_size"]).to_pylist()]
            for operator in stages["measure"].operators.values():
                piece = joined(piece, operator(piece, pictures if operator.needs_image else None).kept)
            pieces.append(piece)
        rows = pa.concat_tables(pieces)
        rows = joined(rows, stages["select"].operator(rows).kept)
        outcome = stages["pack"].operator.write(rows, bytes_of, folder / f"{shard:05d}.packed.tar", {})
    return outcome.kept.num_rows


def joined(rows: Any, kept: Any) -> Any:
    """The rows that were kept, with their new columns."""
    import pyarrow.compute as pc

    if kept.num_rows < rows.num_rows:
        rows = rows.filter(pc.is_in(rows["uid"], value_set=kept["uid"].combine_chunks()))
    for name in kept.column_names:
        if name != "uid":
            rows = rows.append_column(name, kept[name])
    return rows


# The engine.


def run_engine(recipe: str, root: Path, processes: int) -> tuple[float, int, float]:
    """Seconds, samples packed, and seconds of Ray's start."""
    from pipelines.cluster import connect
    from pipelines.config import load_recipe
    from pipelines.progress import Progress
    from pipelines.run import Options, execute

    began = time.perf_counter()
    connect(None, processes)
    started = time.perf_counter()
    result = execute(load_recipe(recipe), root, Options(cpus=processes), Progress())
    if not result.ok:
        sys.exit(f"the run failed: {result.stopped or result.failures}")
    return time.perf_counter() - started, result.stages["pack"]["rows_out"], started - began


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
