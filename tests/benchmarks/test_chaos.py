"""Ten schedules of faults on a real Ray cluster of three nodes, by the command that `make chaos` runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.chaos.zygote import fork

ROOT = Path(__file__).parents[2]


def chaos(folder, *more):
    command = [sys.executable, "-m", "benchmarks.chaos", "--quick", "--log", str(folder / "log.jsonl"), *more]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.timeout(1500)
def test_runs_that_are_disturbed_end_as_one_that_is_not(tmp_path):
    ended = chaos(tmp_path, "--seeds", "10", "--folder", str(tmp_path / "runs"))
    assert ended.returncode == 0, ended.stdout + ended.stderr[-30000:]
    told = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [report["seed"] for report in told] == list(range(10))
    assert not any(report["wrong"] for report in told)
    assert len({fault["kind"] for report in told for fault in report["faults"]}) == 9
    assert sum(fault["injected"] for report in told for fault in report["faults"]) >= 8


def test_forked_processes_draw_names_of_their_own(tmp_path):
    """Two workers of a node that name their first objects the same would be one worker."""
    draws = tmp_path / "draws.py"
    draws.write_text("import ray\nprint(ray.ObjectRef.from_random().hex())")
    command = [sys.executable, "-m", "benchmarks.chaos.zygote", str(tmp_path / "z")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            into, out = os.pipe()
            for _ in range(3):
                fork(str(tmp_path / "z"), str(draws), ["draws.py"], dict(os.environ), out, out)
            os.close(out)
            with open(into) as drawn:
                assert len(set(drawn.read().split())) == 3
        finally:
            process.kill()


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
