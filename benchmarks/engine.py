"""The engine at 200,000 pending shards of a no-op stage beside 200: seconds to the first commit, and the driver's memory.

    python -m benchmarks.engine [--shards 200 200000] [--until 150]

Each number of shards is a process of its own, which registers the table, starts Ray and ends after so many commits. Memory is the
process's peak (VmHWM), and what it holds at the end: what `fineloom run` takes with imports, planning and all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import yaml

KIT = Path(__file__).resolve().parents[1] / "tests" / "kit"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[200, 200_000])
    parser.add_argument("--until", type=int, default=150, help="commits of the no-op stage after which to stop")
    parser.add_argument("--arm", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        os.environ["PYTHONPATH"] = str(KIT)
        sys.path.insert(0, str(KIT))
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), arguments.shards[0], arguments.until)
        return
    peaks = []
    for shards in arguments.shards:
        command = [sys.executable, __file__, "--arm", "--shards", str(shards), "--until", str(arguments.until)]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        found = json.loads(told[-1])
        peaks.append(found["peak"])
        print(
            f"{shards:>9,} shards: table registered in {found['table']:.1f} s, Ray started in {found['ray']:.1f} s; first commit after "
            f"{found['first']:.1f} s, {arguments.until} after {found['last']:.1f} s; driver {found['now']:.0f} MB, at most "
            f"{found['peak']:.0f} MB",
            flush=True,
        )
    few, many = arguments.shards[0], arguments.shards[-1]
    print(f"from {few:,} to {many:,} pending shards the driver's peak grows by {peaks[-1] - peaks[0]:+.0f} MB")


def measure(folder: Path, shards: int, until: int) -> None:
    from pipelines.cluster import connect
    from pipelines.config import load_recipe
    from pipelines.progress import Progress
    from pipelines.run import Options, execute, prepare

    recipe = load_recipe(write_recipe(folder, shards))
    began = time.monotonic()
    prepare(recipe, folder / "runs", Options())
    found = {"table": time.monotonic() - began}
    began = time.monotonic()
    connect(None)
    found["ray"] = time.monotonic() - began
    ledger = folder / "runs" / "noop" / "ledger" / "noop"
    threading.Thread(target=watch, args=(ledger, min(until, shards), found), daemon=True).start()
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


def watch(ledger: Path, until: int, found: dict[str, float]) -> None:
    """Look at the ledger until enough is committed, tell, and end the process: the other shards are not wanted."""
    start = time.monotonic()
    while True:
        commits = sum(1 for _ in ledger.glob("*/*.json")) if ledger.is_dir() else 0
        now = time.monotonic() - start
        if commits and "first" not in found:
            found["first"] = now
        if commits >= until:
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            held = {name: int(status[key].split()[0]) * 1024 / 1e6 for name, key in (("now", "VmRSS"), ("peak", "VmHWM"))}
            print(json.dumps({**found, "last": now, **held}), flush=True)
            os._exit(0)  # Ray's processes end with their driver
        time.sleep(0.05)


if __name__ == "__main__":
    main()
