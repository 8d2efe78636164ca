"""The engine at 200,000 pending shards of a no-op stage: seconds to the first commit, and growth of the driver's memory.

python benchmarks/engine.py [--shards 200000] [--until 200]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import yaml

KIT = Path(__file__).parents[1] / "tests" / "kit"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=200_000)
    parser.add_argument("--until", type=int, default=200, help="commits of the no-op stage after which to stop")
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = str(KIT)
    sys.path.insert(0, str(KIT))
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments.shards, arguments.until)


def measure(folder: Path, shards: int, until: int) -> None:
    from pipelines.cluster import connect
    from pipelines.config import load_recipe
    from pipelines.progress import Progress
    from pipelines.run import Options, execute, prepare

    recipe = load_recipe(write_recipe(folder, shards))
    began = time.monotonic()
    prepare(recipe, folder / "runs", Options())
    print(f"table of {shards:,} rows cut into {shards:,} shards: {time.monotonic() - began:.1f} s")
    began = time.monotonic()
    connect(None)
    print(f"Ray started: {time.monotonic() - began:.1f} s", flush=True)
    threading.Thread(target=watch, args=(folder / "runs" / "noop" / "ledger" / "noop", until), daemon=True).start()
    execute(recipe, folder / "runs", Options(), Progress())


def write_recipe(folder: Path, shards: int) -> Path:
    """One link a shard, and one stage that does nothing."""
    table = folder / "table.jsonl"
    with table.open("w") as file:
        for i in range(shards):
            file.write(json.dumps({"u": f"http://example.org/{i}.jpg", "t": "a cat"}) + "\n")
    source = {"format": "jsonl", "tables": str(table), "language": "en", "columns": {"url": "u", "captions": ["t"]}}
    (folder / "links.yaml").write_text(yaml.safe_dump(source))
    stages = {"noop": {"operator": "faulty_operators:Mark"}}
    body = {"recipe": "noop", "sources": [str(folder / "links.yaml")], "shard_size": 1, "window": 64, "stages": stages}
    recipe = folder / "noop.yaml"
    recipe.write_text(yaml.safe_dump({**body, "disk_floor_gb": 0}))
    return recipe


def watch(ledger: Path, until: int) -> None:
    """Look at the ledger until enough is committed, print, and end the process: the other shards are not wanted."""
    driver, start = psutil.Process(), time.monotonic()
    first = memory = 0.0
    while True:
        commits = sum(1 for _ in ledger.glob("*/*.json")) if ledger.is_dir() else 0
        now = time.monotonic() - start
        if commits and not first:
            first, memory = now, driver.memory_info().rss
        if commits >= until:
            print(f"first commit after {first:.1f} s; {commits} shards after {now:.1f} s")
            grown = driver.memory_info().rss - memory
            print(f"driver memory: {memory / 1e6:.0f} MB at the first commit, {grown / 1e6:+.1f} MB since", flush=True)
            os._exit(0)  # Ray's processes end with their driver
        time.sleep(0.05)


if __name__ == "__main__":
    main()
