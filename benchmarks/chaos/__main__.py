"""Runs of a small recipe through faults at seeded instants, on a real Ray cluster of several nodes on this machine.

python -m benchmarks.chaos [--seeds 200] [--first 0] [--log build/chaos.jsonl] [--quick]

Every run is called again until it ends, and must then be what an undisturbed one is: the same rows, refusals and tars, no sample
lost, no answer paid twice beyond the promise, valid shards, and nothing left over after `gc`. Finished seeds stand in the log; the
same command goes on after them. Exit status 1 if there was a difference.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.chaos import taps
from benchmarks.chaos.schedule import KINDS, Carried, Report, draw
from benchmarks.chaos.world import STAGES, World


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--log", type=Path, default=Path("build/chaos.jsonl"))
    parser.add_argument("--folder", type=Path, help="where runs and logs lie, kept afterwards; by default a temporary one")
    parser.add_argument("--quick", action="store_true", help="one fault a seed, and none that costs a new node twice")
    arguments = parser.parse_args()
    arguments.log.parent.mkdir(parents=True, exist_ok=True)
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    done = {line["seed"]: line for line in _read(arguments.log)}
    left = [seed for seed in seeds if seed not in done]
    if left:
        with tempfile.TemporaryDirectory(prefix="fineloom-chaos-") as temporary:
            folder = arguments.folder or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            for report in carry_out(folder, left, arguments.quick):
                print(report.line(), flush=True)
                if report.wrong:
                    print(*report.wrong, *_last_words(folder / "logs" / f"{report.seed}.log"), sep="\n", flush=True)
                with arguments.log.open("a") as log:
                    log.write(json.dumps(asdict(report)) + "\n")
    lines = [line for line in _read(arguments.log) if line["seed"] in seeds]
    print(summary(lines))
    sys.exit(1 if any(line["wrong"] for line in lines) else 0)


def carry_out(folder: Path, seeds: list[int], quick: bool = False) -> Any:
    """Yield the report of each seed, after an undisturbed run of each recipe that they are compared with."""
    with World(folder) as world:
        recipes = {name: world.write_recipe(name) for name in STAGES}
        steps: dict[tuple[str, str], int] = {}
        expected: dict[str, dict[str, Any]] = {}
        for seed in seeds:
            report = draw(seed, steps, quick)
            key = (report.recipe, report.store if not quick else "folder")  # it comes to the same in both
            if key not in steps:
                began = time.monotonic()
                calm = Report(-1, *key, faults=[])
                found = Carried(world, calm, recipes).go(expected.get(report.recipe))
                steps[key] = taps.steps(world.control)
                expected.setdefault(report.recipe, found)
                if calm.wrong:
                    print(*_last_words(folder / "logs" / f"{calm.seed}.log"), sep="\n", file=sys.stderr)
                    raise SystemExit(f"without any fault: {calm.line()}")
                told = f"{len(found['stages'])} commits, {len(found['shards'])} tars, {steps[key]} steps"
                print(f"undisturbed: {report.recipe} in {key[1]} · {told} · {time.monotonic() - began:.0f} s", flush=True)
                report = draw(seed, steps, quick)
            Carried(world, report, recipes).go(expected[report.recipe])
            yield report


def _last_words(log: Path) -> list[str]:
    """The end of what the calls of the run said."""
    return log.read_text(errors="replace").splitlines()[-400:] if log.exists() else []


def _read(path: Path) -> list[dict[str, Any]]:
    """Whole lines: the last one may be half of one, if this was killed."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def summary(lines: list[dict[str, Any]]) -> str:
    """A table: schedules, faults by kind, differences."""
    kinds = Counter(f"{f['kind']} {f['variant']}".strip() for line in lines for f in line["faults"] if f["injected"])
    whole = Counter(f["kind"] for line in lines for f in line["faults"] if f["injected"])
    wrong = [line for line in lines if line["wrong"]]
    rows = [f"| schedules | {len(lines)} |", f"| faults injected | {whole.total()} |"]
    for kind in KINDS:
        variants = ", ".join(f"{v} {kinds[f'{kind} {v}']}" for v in KINDS[kind] if v)
        rows.append(f"| {kind} | {whole[kind]}{f' ({variants})' if variants else ''} |")
    rows.append(f"| calls of the run | {sum(line['calls'] for line in lines)} |")
    rows.append(f"| answers asked again | {sum(line['asked_again'] for line in lines)} |")
    told = "".join(f"; seed {line['seed']}: {line['wrong'][0]}" for line in wrong[:10])
    rows.append(f"| schedules with differences | {len(wrong)}{told} |")
    seconds = sum(line["seconds"] for line in lines)
    return "\n".join(["| | |", "|---|---|", *rows, f"| seconds a schedule | {seconds / max(1, len(lines)):.1f} |"])


if __name__ == "__main__":
    main()
