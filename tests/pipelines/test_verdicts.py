"""Stages over all shards on a real Ray: what they ask for, and how one ends that raises, dies or refuses too much."""

import json
from contextlib import contextmanager

import pytest

from pipelines.config import load_recipe
from pipelines.progress import Progress
from pipelines.run import Options, execute, look, reach

JUDGE = "faulty_operators:Judge"


class Watching(Progress):
    """Keeps what was said and, of every stage that was watched, the counts at the end."""

    def __init__(self):
        super().__init__()
        self.said, self.watched = [], []

    def say(self, line):
        self.said.append(line)

    @contextmanager
    def watch(self, monitor, stages, shards):
        self.watched.append(list(stages))
        with super().watch(monitor, stages, shards):
            yield


@pytest.fixture
def judged(make_recipe, tmp_path):
    """A function that runs a recipe of 20 rows in 4 shards with a stage over all of them: the result, and what was said."""

    def run(progress=None, after=None, wave=None, **settings):
        stages = {"judge": {"operator": JUDGE, "notes": str(tmp_path), **settings}, **(after or {})}
        recipe = load_recipe(make_recipe(stages, **({"wave": wave} if wave else {})))
        return execute(recipe, tmp_path / "runs", Options(cpus=2), progress or Progress()), recipe

    return run


def calls(tmp_path):
    return (tmp_path / "calls").read_text().splitlines()


AFTER = {"mark": {"operator": "faulty_operators:Mark"}}


def test_it_is_shown_and_counted_and_its_slices_reach_the_stages_after_it(judged, tmp_path):
    progress = Watching()
    result, recipe = judged(progress, after=AFTER, refuse_from=18)
    assert result.ok
    assert ["judge"] in progress.watched
    assert [line for line in progress.said if "judge" in line and "4 shards" in line and "18 of 20 kept" in line], progress.said
    count = result.stages["judge"]
    assert (count["shards"], count["rows_in"], count["rows_out"]) == (4, 20, 18) and count["rejects"] == {"too_far": 2}
    assert (result.stages["mark"]["rows_in"], result.stages["mark"]["rows_out"]) == (18, 18)
    record = json.loads(next((result.run / "runs").iterdir()).read_text())
    assert record["stages"]["judge"]["rows_in"] == 20
    chain = look(recipe, tmp_path / "runs")
    assert not reach(chain, chain.shards()).pending()


def test_it_asks_for_its_resources(judged, tmp_path):
    assert judged(resources={"cpus": 1.5, "memory_gb": 0.5})[0].ok
    assert calls(tmp_path) == [str([("CPU", 1.5), ("memory", 5e8)])]


def test_what_no_node_has_is_said_and_not_waited_for(judged, tmp_path):
    result, _ = judged(resources={"memory_gb": 100_000})
    assert "stages.judge.resources.memory_gb" in result.stopped and not (tmp_path / "calls").exists()


@pytest.mark.parametrize(("does", "word"), [("raise", "ValueError: nothing can be judged"), ("exit", "SystemExit: a library")])
def test_one_that_raises_is_tried_as_often_as_it_says_and_then_failed_with_its_trace(judged, tmp_path, does, word):
    result, _ = judged(after=AFTER, does=does, attempts=3)
    assert not result.ok and result.stopped is None
    (failure,) = result.failures
    assert (failure.stage, failure.shard, failure.shards) == ("judge", 0, 4)
    assert word in failure.error and "faulty_operators.py" in failure.trace
    assert len(calls(tmp_path)) == 3 and "mark" not in result.stages


def test_a_wave_that_cannot_be_judged_holds_up_those_after_it(judged, tmp_path):
    result, _ = judged(after=AFTER, wave=1, does="raise", attempts=1)
    (failure,) = result.failures
    assert (failure.stage, failure.shard, failure.shards) == ("judge", 0, 4) and result.stopped is None
    assert len(calls(tmp_path)) == 1 and "mark" not in result.stages


def test_one_that_dies_is_begun_anew_a_few_times_and_then_failed(judged, tmp_path):
    result, _ = judged(after=AFTER, does="die")
    (failure,) = result.failures
    assert (failure.stage, failure.shards) == ("judge", 4) and "killed its worker 3 times" in failure.error
    assert len(calls(tmp_path)) == 3

    (tmp_path / "calls").unlink()
    result, _ = judged(after=AFTER, does="die", times=2)
    assert result.ok and len(calls(tmp_path)) == 3 and result.stages["mark"]["rows_out"] == 20


def test_beyond_its_refusal_bound_it_stops_the_run(judged):
    result, _ = judged(after=AFTER, refuse_from=5, refuse_at_most=0.5)
    assert "judge refused 75.0% of 20 samples" in result.stopped and "mark" not in result.stages


def test_slices_that_are_there_are_not_committed_again(judged, tmp_path):
    """As after a process that died in the middle of its commits."""
    assert judged()[0].ok
    entries = sorted((tmp_path / "runs" / "tiny" / "ledger" / "judge").glob("*/*.json"))
    there = entries[1].read_bytes()
    entries[2].unlink()
    result, _ = judged()
    assert result.ok and result.stages["judge"]["shards"] == 1
    assert entries[1].read_bytes() == there and entries[2].exists()
