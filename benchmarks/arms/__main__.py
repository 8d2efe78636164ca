"""What each part of the training teaches, arm by arm, on rendered scenes whose truth is known.

    python -m benchmarks.arms                                            # 20,000 scenes, 2,000 tests, 5 seeds: hours
    python -m benchmarks.arms --scenes 2000 --tests 400 --seeds 2 --steps 300 150 --arms stage2,without-tic

    untrained             random weights
    stage1                pairs only
    stage1-continued      the same for as many steps more as stage 2 has
    sigmoid-only          stage 2's program without its region terms, on the same data
    stage2                from stage1; so are the following, each with one thing changed
    without-tic, without-cmr, without-both
    shuffled-boxes        boxes dealt out anew
    unverified-negatives  negatives nobody checked, some of which are true
    truth-captions        both stages on texts in which nothing is misread

Every arm is trained by `python -m fgclip2_train train` and tried on the same test scenes; differences are paired by seed and scene.
An arm and seed that have been tried are a file in OUT/results and are not done again, and an interrupted training goes on, so the same
command goes on after any interruption. More seeds and arms may be asked for later. `table.txt` and `arms.json` end in OUT.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.arms import data
from benchmarks.arms.data import World
from benchmarks.arms.figures import Hits, in_words, result, table, told
from benchmarks.arms.train import ARMS, COMPARED, Arm, needed, train


@dataclass(frozen=True)
class Plan:
    """What is asked for. `world`, `steps` and `settings` may not change between two calls with the same `out`."""

    world: World
    out: Path
    arms: tuple[Arm, ...]
    seeds: range
    steps: tuple[int, int]
    settings: tuple[str, ...]
    jobs: int
    draws: int


def main(words: Sequence[str] | None = None) -> None:
    plan = asked_for(words)
    keep_or_refuse(plan)
    wanted = sorted({arm.version for arm in plan.arms})
    data.write(plan.out / "data", plan.world, wanted, plan.jobs)
    counted = {version: data.look(plan.out / "data", plan.world, version) for version in wanted}
    # An arm starts from another's weights at most once removed: first those that nothing has to be done for.
    for first in (True, False):
        todo = [(arm, seed) for seed in plan.seeds for arm in plan.arms if (arm.start is None) == first]
        all_of(todo, plan)
    report(plan, counted)


def asked_for(words: Sequence[str] | None) -> Plan:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.arms", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = World()
    parser.add_argument("--scenes", type=int, default=defaults.scenes, help="to train on")
    parser.add_argument("--tests", type=int, default=defaults.tests, help="scenes to try on")
    parser.add_argument("--seeds", type=int, default=5, help="runs of every arm")
    parser.add_argument("--steps", type=int, nargs=2, default=(1000, 200), metavar=("STAGE1", "STAGE2"))
    parser.add_argument("--arms", default=",".join(ARMS), help="names with commas between; those they start from come along")
    parser.add_argument("--held-out-seed", type=int, default=defaults.held_out_seed, help="draws the held-out pairs")
    parser.add_argument("--misread", type=float, default=defaults.misread, help="how often an attribute is told wrong")
    parser.add_argument("--true-negatives", type=float, default=defaults.true_negatives, help="share of unverified ones")
    parser.add_argument("--out", type=Path, default=Path("runs/arms"))
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, a core and a bit each")
    parser.add_argument("--draws", type=int, default=2000, help="of the bootstrap")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings for every training, as batch=16")
    given = parser.parse_args(words)
    names = [name for name in given.arms.split(",") if name]
    if unknown := [name for name in names if name not in ARMS]:
        parser.error(f"no such arm: {', '.join(unknown)}. Arms: {', '.join(ARMS)}")
    if min(given.scenes, given.tests, given.seeds, given.jobs, given.draws, *given.steps) < 1 or not names:
        parser.error("scenes, tests, seeds, steps, jobs, draws and arms: at least one of each")
    if not (0 <= given.misread < 1 and 0 <= given.true_negatives <= 1):
        parser.error("misread and true-negatives are shares: from 0 to 1")
    world = World(
        scenes=given.scenes,
        tests=given.tests,
        held_out_seed=given.held_out_seed,
        misread=given.misread,
        true_negatives=given.true_negatives,
    )
    arms, steps = tuple(needed(names)), (given.steps[0], given.steps[1])
    return Plan(world, given.out, arms, range(given.seeds), steps, tuple(given.set), given.jobs, given.draws)


def keep_or_refuse(plan: Plan) -> None:
    """Note what the results under `out` are made with; results made otherwise are not mixed with these."""
    now = {**asdict(plan.world), "steps": list(plan.steps), "set": list(plan.settings)}
    file = plan.out / "settings.json"
    if file.exists():
        before = json.loads(file.read_text())
        other = [f"{name} was {before.get(name)}, is {value}" for name, value in now.items() if before.get(name) != value]
        if other:
            sys.exit(f"{plan.out} holds results made otherwise ({'; '.join(other)}): take another --out")
    plan.out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(now, indent=1))


def all_of(todo: Sequence[tuple[Arm, int]], plan: Plan) -> None:
    with ThreadPoolExecutor(plan.jobs) as threads:
        work = [threads.submit(one, arm, seed, plan) for arm, seed in todo]
        try:
            for done in work:
                done.result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def file_of(arm: Arm, seed: int, plan: Plan) -> Path:
    return plan.out / "results" / arm.name / f"seed-{seed}.npz"


def one(arm: Arm, seed: int, plan: Plan) -> None:
    """Train and try an arm with a seed, unless its file of results is there. The file appears when it is whole."""
    file = file_of(arm, seed, plan)
    if file.exists():
        return
    folder = train(arm, seed, plan.out / "runs", plan.out / "data", plan.steps, plan.settings)
    import torch

    from benchmarks.arms.score import METRICS, score

    torch.set_num_threads(1)
    hits, counts, chance = score(folder, plan.out / "data" / "test", plan.world, arm.region_heads)
    file.parent.mkdir(parents=True, exist_ok=True)
    hidden = file.with_name(f".{file.stem}.{os.getpid()}.npz")
    np.savez_compressed(hidden, hits=hits, counts=counts, chance=chance, metrics=METRICS)
    hidden.rename(file)
    means = hits.sum((1, 2)) / counts.sum((1, 2))
    print(
        f"seed {seed}  {arm.name:<21}" + "".join(f"  {name} {mean:.1%}" for name, mean in zip(METRICS, means, strict=True)),
        flush=True,
    )


def report(plan: Plan, counted: dict[str, dict[str, int]]) -> None:
    arms, metrics, chance = {}, [], np.zeros(0)
    for arm in plan.arms:
        found = [np.load(file_of(arm, seed, plan)) for seed in plan.seeds]
        metrics, chance = found[0]["metrics"].tolist(), found[0]["chance"]
        arms[arm.name] = Hits(tuple(plan.seeds), np.stack([one["hits"] for one in found]), found[0]["counts"])
    figures = result(arms, COMPARED, metrics, chance, plan.draws)
    pairs = sorted(data.held_out_pairs(plan.world.held_out_seed, plan.world.held_out_share))
    whole = {"settings": json.loads((plan.out / "settings.json").read_text()), "seeds": len(plan.seeds), "draws": plan.draws}
    whole |= {"shards": counted, "held_out_pairs": pairs, **figures}
    text = "\n".join([*_about(plan, counted, pairs), "", table(figures), *_forgetting(figures)])
    (plan.out / "table.txt").write_text(text + "\n")
    (plan.out / "arms.json").write_text(json.dumps(whole, indent=1))
    print(f"\n{text}\n\nwritten: {plan.out / 'table.txt'}, {plan.out / 'arms.json'}")


def _about(plan: Plan, counted: dict[str, dict[str, int]], pairs: Sequence[tuple[str, str]]) -> list[str]:
    world, shown = plan.world, next(iter(counted.values()))
    seeds = f"{len(plan.seeds)} seeds" if len(plan.seeds) > 1 else "1 seed: intervals say nothing of other seeds"
    return [
        f"{world.scenes:,} training scenes ({shown['scenes with two of a shape']:,} with several things of one shape), "
        f"{shown['distinct phrases']:,} distinct phrases, {world.tests:,} test scenes, {seeds}, "
        f"{plan.steps[0]} + {plan.steps[1]} steps",
        f"misread {world.misread:.0%} of attributes, {world.true_negatives:.0%} of unverified negatives true by intent",
        f"held out of training ({world.held_out_share:.0%} of pairs): " + ", ".join(" ".join(pair) for pair in pairs),
    ]


def _forgetting(figures: dict) -> list[str]:
    """Short captions after stage 2 against before it: what the region terms cost."""
    for one in figures["differences"]:
        if (one["arm"], one["minus"]) == ("stage2", "stage1"):
            cells = {name: cell for name, cell in one["seen pairs"].items() if name.startswith("short")}
            cells |= {f"{name}, held-out": one["held-out pairs"][name] for name in list(cells)}
            parts = ", ".join(f"{name} {told(cell, '+')}" for name, cell in cells.items())
            return ["", f"zero-shot forgetting, R@1 of short captions, stage2 − stage1: {parts}. {in_words(cells)}"]
    return []


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on from here")
    except subprocess.CalledProcessError as error:
        log = next((word.removeprefix("out=") for word in error.cmd if word.startswith("out=")), "")
        sys.exit(f"a training ended with status {error.returncode}: see {log}/log.txt. The same command goes on from here")
