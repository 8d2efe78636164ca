"""Ten schedules of faults on a real Ray cluster of three nodes, by the command that `make chaos` runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def chaos(folder, *more):
    command = [sys.executable, "-m", "benchmarks.chaos", "--quick", "--log", str(folder / "log.jsonl"), *more]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.timeout(1500)
def test_runs_that_are_disturbed_end_as_one_that_is_not(tmp_path):
    ended = chaos(tmp_path, "--seeds", "10", "--folder", str(tmp_path / "runs"))
    assert ended.returncode == 0, ended.stderr[-3000:] + ended.stdout
    told = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [report["seed"] for report in told] == list(range(10))
    assert not any(report["wrong"] for report in told)
    assert len({fault["kind"] for report in told for fault in report["faults"]}) == 9
    assert sum(fault["injected"] for report in told for fault in report["faults"]) >= 8


def test_finished_seeds_are_not_done_again(tmp_path):
    fault = {"kind": "driver_killed", "variant": "", "step": 5, "seconds": 1.0, "injected": True}
    report = {"seed": 0, "recipe": "straight", "store": "folder", "faults": [fault], "calls": 2, "asked_again": 3}
    lines = [
        json.dumps({**report, "wrong": [], "seconds": 2.0}),
        json.dumps({**report, "seed": 1, "wrong": ["x"], "seconds": 2.0}),
    ]
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, '{"seed": 2, "rec']))
    ended = chaos(tmp_path, "--seeds", "2")
    assert ended.returncode == 1, "a difference is a failure, also of a call that has nothing left to do"
    assert "| driver_killed | 2 |" in ended.stdout and "| schedules with differences | 1; seed 1: x |" in ended.stdout
