"""All benchmarks in the order of docs/benchmarks.md, small enough to end within an hour or so on two cores.

    make bench [BASE_URL=http://127.0.0.1:8000/v1 MODEL=name] [ONLY="engine dedup"]

Each is a process of its own. One that needs what is not here is left out with a word; one that fails keeps no other back, and is
named at the end (exit status 1). For the sizes of the published figures give each its own command, as docs/benchmarks.md has it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
SERVER, GPU = "a served model: BASE_URL= and MODEL=", "a GPU"


@dataclass(frozen=True)
class Bench:
    """needs   SERVER, GPU, or a path pattern below the project and the command that makes it"""

    name: str
    arguments: str = ""
    needs: str | tuple[str, str] = ""


BENCHES = [
    Bench("engine"),
    Bench("overhead", "--pictures 600"),
    Bench("planning", "--shards 5000 --s3 folder"),
    Bench("chaos", "--seeds 3 --log build/bench/chaos.jsonl"),
    Bench("viewer", "--samples 1000 10000"),
    Bench("learning", "--seeds 2 --out build/bench/learning", ("runs/demo/shards/*.tar", "make demo")),
    Bench("arms", "--scenes 300 --tests 60 --seeds 1 --steps 40 20 --arms stage2,without-tic --out build/bench/arms"),
    Bench("dedup", "samples=200000"),
    Bench("picture_filters", "--pictures 400", ("build/data-juicer", "python -m benchmarks.picture_filters, 5 GB")),
    Bench("negatives_blind", "phrases=200"),
    Bench("quality", "--scenes 40"),
    Bench("quality", "translations"),
    Bench("download", "--mix clean --urls 500 --rounds 2"),
    Bench("download", "--mix faulty --urls 500 --rounds 1"),
    Bench("sources", "--rows 500000"),
    Bench("hostile"),
    Bench("client", "--requests 32 --rounds 2", SERVER),
    Bench("client_stage", "--shard 8 --rounds 1", SERVER),
    Bench("search", "--vectors 20000 --seconds 2 --hnsw 5000"),
    Bench("train_step", "--images 1 --rounds 1 --layers 2 --vocabulary 4000"),
    Bench("train_attention", "--rounds 1"),
    Bench("train_loss_memory", "--ranks 1 2 --batch 512"),
    Bench("train_reader", "--samples 64 --rounds 1"),
    Bench("train_resume"),
    Bench("train_throughput", "", GPU),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", default="", help="of a served model, for those that ask one")
    parser.add_argument("--model", default="", help="the name under which it is served")
    parser.add_argument("--only", nargs="*", default=[], choices=sorted({bench.name for bench in BENCHES}), metavar="NAME")
    given = parser.parse_args()
    (HERE / "build" / "bench").mkdir(parents=True, exist_ok=True)
    server = ["--base-url", given.base_url, "--model", given.model] if given.base_url and given.model else []
    failed = []
    for bench in BENCHES:
        if given.only and bench.name not in given.only:
            continue
        command = [sys.executable, "-m", f"benchmarks.{bench.name}", *bench.arguments.split()]
        print(f"\n== {' '.join(['python', *command[1:]])}", flush=True)
        if missing := lacks(bench, server):
            print(f"left out: it needs {missing}")
            continue
        began = time.monotonic()
        if subprocess.run([*command, *(server if bench.needs == SERVER else [])], cwd=HERE).returncode:
            failed.append(f"{bench.name} {bench.arguments}".strip())
        print(f"-- {time.monotonic() - began:.0f} s", flush=True)
    if failed:
        sys.exit("failed:\n" + "\n".join(failed))


def lacks(bench: Bench, server: Sequence[str]) -> str:
    """What the benchmark needs and is not here, in words; empty if nothing."""
    if isinstance(bench.needs, tuple):
        pattern, maker = bench.needs
        return "" if any(HERE.glob(pattern)) else f"{pattern} ({maker})"
    here = {SERVER: bool(server), GPU: shutil.which("nvidia-smi") is not None}
    return "" if here.get(bench.needs, True) else bench.needs


if __name__ == "__main__":
    main()
