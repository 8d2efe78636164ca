"""Rows per second and peak memory of indexing and reading tables.

    python -m benchmarks.sources [--rows 10000000] [--formats parquet,csv,jsonl]

Makes a table of each format (LAION's, Wukong's and Zero's columns; a quarter of the CSV's captions are quoted, some with line ends),
then measures, each in a process of its own: `index_table` with shards of 10,000 rows, and `read_slice` over 20 slices spread over the
whole table. Peak memory is the process's own high-water mark, imports included. The file has just been
written and mostly lies in the page cache, so the disk is not what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

BLOCK = 100_000
SHARD = 10_000
MANIFESTS: dict[str, dict[str, Any]] = {
    "parquet": {
        "columns": {"url": "URL", "captions": "TEXT", "width": "WIDTH?", "height": "HEIGHT?", "similarity": "similarity?"}
    },
    "csv": {"columns": {"url": "url", "captions": "caption"}},
    "jsonl": {"columns": {"url": "ImageUrl", "captions": ["Title", "Content?", "ImageQuery?"]}},
}


def make_table(kind: str, path: Path, rows: int) -> None:
    """Write blocks of 100,000 rows until there are enough."""
    caption = "雪山下的湖泊，倒映着蓝天和白云 {} a mountain lake under snow, with clouds"
    if kind == "parquet":
        columns = {
            "URL": [f"https://images.example.org/{i % 977}/{i}.jpg?width=640" for i in range(BLOCK)],
            "TEXT": [caption.format(i) for i in range(BLOCK)],
            "WIDTH": [float(200 + i % 900) for i in range(BLOCK)],
            "HEIGHT": [200 + i % 700 for i in range(BLOCK)],
            "similarity": [0.3 + i % 10 / 100 for i in range(BLOCK)],
        }
        table = pa.table(columns)
        with pq.ParquetWriter(path, table.schema) as writer:
            for group in range(0, rows, 10 * BLOCK):  # row groups of a million rows
                writer.write_table(pa.concat_tables([table] * min(10, (rows - group) // BLOCK)), row_group_size=10 * BLOCK)
        return
    lines = []
    for i in range(BLOCK):
        url, text = f"https://images.example.org/{i % 977}/{i}.jpg?width=640", caption.format(i)
        if kind == "csv":
            line = f'"{text}, ""{i}""{chr(10) if i % 12 == 0 else " "}end"' if i % 4 == 0 else text.replace(",", "，")
            lines.append(f"{url},{line}\n")
        else:
            lines.append(json.dumps({"ImageUrl": url, "Title": text, "ImageQuery": ["湖", "山"]}, ensure_ascii=False) + "\n")
    block = "".join(lines).encode()
    with open(path, "wb") as file:
        file.write(b"url,caption\n" if kind == "csv" else b"")
        for _ in range(0, rows, BLOCK):
            file.write(block)


def child(side: str, manifest: str) -> None:
    from pipelines.sources import index_table, load_source, read_slice

    source = load_source(manifest, [])
    (path,) = source.tables()
    saved = Path(manifest).with_suffix(".index")
    if side == "index":
        started, used = time.perf_counter(), time.process_time()
        index = index_table(source, path, SHARD)
        seconds, cpu, rows = time.perf_counter() - started, time.process_time() - used, index.rows
        saved.write_text(json.dumps([index.digest, index.slices]))
    else:
        digest, slices = json.loads(saved.read_text())
        picked = slices[:: max(1, len(slices) // 20)]
        started, used = time.perf_counter(), time.process_time()
        rows = sum(len(read_slice(source, path, digest, piece)[0]) for piece in picked)
        seconds, cpu = time.perf_counter() - started, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rows": rows, "seconds": seconds, "cpu": cpu, "peak": peak, "megabytes": os.path.getsize(path) / 1e6}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--formats", default="parquet,csv,jsonl")
    parser.add_argument("--side", default="")
    parser.add_argument("--manifest", default="")
    a = parser.parse_args()
    if a.side:
        child(a.side, a.manifest)
        return
    for kind in a.formats.split(","):
        with tempfile.TemporaryDirectory() as folder:
            table, manifest = Path(folder) / f"table.{kind}", Path(folder) / "bench.yaml"
            make_table(kind, table, a.rows)
            manifest.write_text(yaml.safe_dump({"format": kind, "tables": str(table), "language": "zh", **MANIFESTS[kind]}))
            for side in ("index", "read"):
                command = [sys.executable, "-m", "benchmarks.sources", "--side", side, "--manifest", str(manifest)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                m = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"{kind:8} {side:6} {m['rows']:>11,} rows {m['seconds']:6.1f} s, {m['rows'] / m['seconds']:>11,.0f} rows/s "
                    f"({m['rows'] / m['cpu']:>11,.0f} per processor second"
                    + (f", {m['megabytes'] / m['cpu']:5.0f} MB)" if side == "index" else ")")
                    + f"  peak {m['peak']:4.0f} MB",
                    flush=True,
                )


if __name__ == "__main__":
    main()
