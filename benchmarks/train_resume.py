"""Losses of a training that was interrupted against those of one that was not, step by step.

    python benchmarks/train_resume.py [--steps 24] [--folder DIR]

Real processes of the tiny preset, stage 2 on drawn scenes, with readers of their own and a checkpoint every fifth step: one straight
through; one that gets a SIGTERM in the middle of it and is called again; one that gets a `kill -9`, with all of its processes, and is
called again. Each column is the loss as metrics.jsonl has it, every digit of it. Exit status 1 if any of them differ, or if an
interruption came too late to be one.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "fgclip2_train"))

from make_shards import write_scenes

from fgclip2_train.checkpoint import resolve

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ["stage=2", "batch=16", "log_every=1", "save.every=5", "data.workers=2", "data.shuffle_block=64"]


def run(out: Path, shards: str, steps: int, how: signal.Signals | None = None) -> int:
    """Train until the end, or until the middle, where all of its processes get a signal. The step that it reached."""
    command = [sys.executable, "-m", "fgclip2_train", "train", "--preset", "tiny", *SETTINGS, f"steps={steps}"]
    command += [f"data.shards={shards}", f"out={out}", "model.tokenizer=train"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    said = []
    assert process.stdout
    for line in process.stdout:
        said.append(line)
        if how and line.startswith(f"step {steps // 2}/"):
            os.killpg(process.pid, how)
            how = None
    status = process.wait()
    if status not in (0, -signal.SIGKILL):
        raise SystemExit(f"{out.name} ended with {status}:\n{''.join(said)}")
    return json.loads((resolve(out) / "trainer.json").read_text())["step"]


def losses(out: Path) -> dict[int, float]:
    lines = (json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--folder", type=Path, help="for shards and runs; kept if given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        return compare(options.folder or Path(temporary), options.steps)


def compare(folder: Path, steps: int) -> int:
    shards = write_scenes(folder / "shards", shards=4, per_shard=60)
    names = ("straight", "SIGTERM", "kill -9")
    runs = [folder / name.replace(" ", "") for name in names]
    run(runs[0], shards, steps)
    for name, out, how in zip(names[1:], runs[1:], (signal.SIGTERM, signal.SIGKILL), strict=True):
        saved = run(out, shards, steps, how)
        if saved >= steps:
            raise SystemExit(f"{name} came after the last step; take more --steps")
        print(f"{name} after step {steps // 2}: the second call goes on from step {saved}", flush=True)
        run(out, shards, steps)
    found = [losses(out) for out in runs]
    print(f"{'step':>4}" + "".join(f"{name:>22}" for name in names))
    for step in range(1, steps + 1):
        print(f"{step:>4}" + "".join(f"{one.get(step, float('nan'))!r:>22}" for one in found))
    for name, one in zip(names[1:], found[1:], strict=True):
        different = [step for step in range(1, steps + 1) if one.get(step) != found[0].get(step)]
        print(f"{name}: {f'first difference at step {different[0]}' if different else 'equal'}")
    return int(any(one != found[0] for one in found))


if __name__ == "__main__":
    sys.exit(main())
