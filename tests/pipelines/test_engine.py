"""The engine with a real Ray: shards that raise, kill and flicker; runs that are killed, repeated, bounded and locked."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
from in_process import run_here

from pipelines.config import load_recipe
from pipelines.flow import ray_says
from pipelines.progress import Progress
from pipelines.rejects import count, entries_in_force
from pipelines.run import Options, RunBusy, execute, lock, look, reach

MARK = "faulty_operators:Mark"


def run(recipe, tmp_path, overrides=(), **options):
    return execute(load_recipe(recipe, overrides), tmp_path / "runs", Options(cpus=2, **options), Progress())


def packed(recipe, tmp_path, overrides=()):
    """uid → mark of everything that went all the way, read through the ledger."""
    chain = look(load_recipe(recipe, overrides), tmp_path / "runs")
    found = {}
    for view, at in reach(chain, chain.shards()).values():
        if at is None:
            table = pq.read_table(chain.run / view.uid_file)
            assert not set(table["uid"].to_pylist()) & set(found), "a sample stands in two shards"
            found.update(zip(table["uid"].to_pylist(), table["mark"].to_pylist(), strict=True))
    return found


def committed(recipe, root):
    """(stage, shard) → fingerprint, rows and refusals, of what stands under the recipe."""
    chain = look(load_recipe(recipe), root)
    found = {}
    for entry, _ in entries_in_force(chain):
        rows, refused = (pq.read_table(chain.run / entry.files[role].path).to_pylist() for role in ("data", "rejects"))
        found[entry.stage, entry.shard] = entry.fingerprint, rows, refused
    return found


def test_one_shard_that_raises_one_that_kills_and_one_flaky_leave_all_others_whole(make_recipe, tmp_path):
    settings = {"operator": MARK, "notes": str(tmp_path), "raise_on": 7, "kill_on": 12, "flaky_on": 22, "exit_on": 38}
    recipe = make_recipe({"mark": settings}, rows=40)
    result = run(recipe, tmp_path)
    assert not result.ok
    failed = {failure.shard: failure for failure in result.failures}
    assert set(failed) == {1, 7} and result.whole == result.shards - 2
    assert "row 7 is cursed" in failed[1].error and "faulty_operators.py" in failed[1].trace
    assert "SystemExit: a library" in failed[7].error
    assert sorted(packed(recipe, tmp_path).values()) == [*range(5), *range(10, 12), *range(13, 35)]

    mended = {"operator": MARK, "notes": str(tmp_path), "flaky_on": 22}
    recipe = make_recipe({"mark": mended}, rows=40)
    assert run(recipe, tmp_path).ok
    assert sorted(packed(recipe, tmp_path).values()) == list(range(40))


def test_samples_that_kill_their_worker_are_found_and_refused_alone(make_recipe, tmp_path):
    """Two in one shard of forty; the run is killed while it looks for them, and called again."""
    settings = {"operator": MARK, "notes": str(tmp_path), "kill_on": 23, "kill_on_too": 31}
    recipe = make_recipe({"mark": settings}, rows=80, shard_size=40)
    command = [sys.executable, "-m", "pipelines", "run", recipe, "--root", str(tmp_path / "runs"), "--cpus", "2"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deaths = tmp_path / "deaths"
    limit = time.monotonic() + 400
    while not deaths.exists() or len(deaths.read_text().split("\n")) < 4:
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    deaths.unlink()
    assert run(recipe, tmp_path).ok
    assert sorted(packed(recipe, tmp_path).values()) == [row for row in range(80) if row not in (23, 31)]
    chain = look(load_recipe(recipe), tmp_path / "runs")
    assert count(chain)["mark"]["samples"] == {"crashed_worker": 2}
    assert len(deaths.read_text().split("\n")) < 14, "each costs a few deaths, whatever the size of the shard"
    assert run(recipe, tmp_path).nothing_to_do


def test_shards_that_ray_loses_give_their_place_back_and_are_taken_up_again(make_recipe, tmp_path, monkeypatch):
    """As many as the window holds: without their places nothing more would ever be admitted."""
    monkeypatch.setattr("pipelines.engine.LOST_AFTER", 1.0)
    recipe = make_recipe({"lose": {"operator": "faulty_operators:Lose", "notes": str(tmp_path), "lose": [0, 1]}}, window=2)
    said = []
    progress = Progress()
    monkeypatch.setattr(progress, "say", said.append)
    result = execute(load_recipe(recipe), tmp_path / "runs", Options(cpus=2), progress)
    assert result.ok, result
    assert [line for line in said if line.startswith("2 shards went in and did not come out")], said
    assert sorted(packed(recipe, tmp_path).values()) == list(range(20))


def test_the_pool_of_a_slow_stage_grows_and_a_quick_one_before_it_does_not_run_ahead_of_the_window(make_recipe, tmp_path):
    """The slow one lets nothing through until it has a second process and the quick one has filled the window."""
    notes, window = {"notes": str(tmp_path), "resources": {"cpus": 0.1}}, 5
    slow = {**notes, "operator": "faulty_operators:Hold", "workers": 2, "begun": window}
    slow["resources"] = {"cpus": 0.1, "workers": [1, 3]}
    stages = {"quick": {**notes, "operator": "faulty_operators:Count"}, "slow": slow}
    recipe = make_recipe(stages, rows=24, shard_size=1, window=window)
    on_their_way, over = [], threading.Event()

    def look_on():
        while not over.wait(0.01):
            begun = len(list(tmp_path.glob("begun-*")))
            on_their_way.append(begun - len(list((tmp_path / "runs" / "tiny" / "ledger" / "slow").glob("*/*.json"))))

    thread = threading.Thread(target=look_on)
    thread.start()
    result = run(recipe, tmp_path)
    over.set()
    thread.join()
    assert result.ok, result
    assert 2 <= len(list(tmp_path.glob("process-*"))) <= 3
    assert max(on_their_way) == window


class Killing(Progress):
    """Kills the monitor's process each time that the ledger's folder holds so many entries."""

    def __init__(self, ledger, *entries):
        super().__init__()
        self.ledger, self.entries = ledger, entries
        self.killed, self.said = [], []

    def say(self, line):
        self.said.append(line)

    @contextmanager
    def watch(self, monitor, stages, shards):
        thread = threading.Thread(target=self.kill, args=(monitor,), daemon=True)
        thread.start()
        with super().watch(monitor, stages, shards):
            yield
        thread.join(5)

    def kill(self, monitor):
        for entries in self.entries:
            while len(list(self.ledger.glob("*/*.json"))) < entries:
                time.sleep(0.02)
            pid = ray.get(monitor.__ray_call__.remote(lambda _: os.getpid()))
            os.kill(pid, signal.SIGKILL)
            self.killed.append(pid)


def test_a_run_goes_on_when_its_monitor_is_killed_and_forgets_nothing(make_recipe, tmp_path):
    """Twice, with a window of two shards that would soon be shut if lost ones were counted for ever."""
    recipe = make_recipe({"mark": {"operator": MARK, "seconds": 0.1}}, rows=60, window=2)
    progress = Killing(tmp_path / "runs" / "tiny" / "ledger" / "mark", 2, 6)
    result = execute(load_recipe(recipe), tmp_path / "runs", Options(cpus=2), progress)
    assert len(set(progress.killed)) == 2
    assert result.ok and not [line for line in progress.said if line.startswith("lost")], "no shard had to be begun anew"
    assert {stage: counts["shards"] for stage, counts in result.stages.items()} == {"source": 12, "mark": 12}
    assert sorted(packed(recipe, tmp_path).values()) == list(range(60))


def test_a_finished_run_starts_nothing(make_recipe, tmp_path):
    recipe = make_recipe({"mark": {"operator": MARK}})
    first = run(recipe, tmp_path)
    assert first.ok and not first.nothing_to_do
    again = run(recipe, tmp_path)
    assert again.ok and again.nothing_to_do


def test_limited_work_is_reused_and_changed_settings_redo_only_their_stage(make_recipe, tmp_path):
    stages = {"first": {"operator": MARK}, "select": {"keep": "mark < 18"}}
    recipe = make_recipe(stages)
    assert run(recipe, tmp_path, limit=6).shards == 2
    counts = run(recipe, tmp_path).stages
    assert counts["first"]["shards"] == 2, "the two shards of the limited run were not taken up"
    counts = run(recipe, tmp_path, ["select.keep=mark < 10"]).stages
    assert set(counts) == {"select"}
    # Shards 0 and 1 lose nothing by the new expression, but it is another expression: all four are judged again.
    assert counts["select"]["shards"] == 4


def test_a_stage_beyond_its_refusal_bound_stops_the_run(make_recipe, tmp_path):
    recipe = make_recipe({"mark": {"operator": MARK, "refuse_from": 2, "refuse_at_most": 0.5}})
    result = run(recipe, tmp_path)
    assert "mark refused 90.0%" in result.stopped and not result.ok


def test_a_stage_that_cannot_start_stops_the_run_before_a_shard_gets_to_it(make_recipe, tmp_path):
    stages = {"first": {"operator": MARK, "raise_on": 0}, "second": {"operator": "faulty_operators:Lacks"}}
    result = run(make_recipe(stages, rows=5), tmp_path)
    assert result.stopped == "stage second cannot start: FileNotFoundError: no weights in this folder"
    assert result.whole == 0, "a shard that the stop left on its way is not whole"


def test_workers_that_cannot_even_begin_are_told_with_what_ray_says_and_with_what_became_another(
    make_recipe, tmp_path, monkeypatch
):
    """A file of the program was edited under the run: here their module is there for the command and for none of its workers."""
    (tmp_path / "apart.py").write_text("from faulty_operators import Mark\n\n\nclass Apart(Mark):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    recipe = make_recipe({"mark": {"operator": "apart:Apart"}}, rows=5)
    stamps = iter([{"pipelines/worker.py": 1}])
    monkeypatch.setattr("pipelines.program.stamps", lambda: next(stamps, {"pipelines/worker.py": 2}))
    failed = run(recipe, tmp_path).failures[0]
    assert failed.error.startswith("was lost 3 times on its way; since the run began pipelines/worker.py became another")
    assert "No module named 'apart'" in failed.trace


def test_of_what_a_task_raised_its_text_alone_is_kept():
    """It is a source that cannot begin, as often as a worker of a stage; what is raised then Ray Data tells to its log only."""
    try:
        raise ModuleNotFoundError("No module named 'apart'")
    except ModuleNotFoundError:
        record = logging.LogRecord("ray.data", logging.ERROR, "", 0, "a task raised", (), sys.exc_info())
    assert ray_says.filter(record) and "No module named 'apart'" in ray_says.last
    assert record.exc_info is None and ray_says.last in logging.Formatter().format(record)


def test_two_runs_on_one_folder_do_not_mix(make_recipe, tmp_path):
    recipe = make_recipe({"mark": {"operator": MARK}})
    with lock(tmp_path / "runs" / "tiny"), pytest.raises(RunBusy, match=f"process {os.getpid()}"):
        run(recipe, tmp_path)


def test_a_full_disk_stops_before_work(make_recipe, tmp_path):
    recipe = make_recipe({"mark": {"operator": MARK}}, disk_floor_gb=10_000_000)
    with pytest.raises(ValueError, match="below disk_floor_gb"):
        run(recipe, tmp_path)


def test_a_run_killed_at_any_moment_goes_on_to_the_same_end(make_recipe, tmp_path):
    """SIGKILL to the driver and to every process it started, when some entries are there; and so to the run that goes on."""
    recipe = make_recipe({"mark": {"operator": MARK, "seconds": 0.2, "refuse_from": 53}}, rows=60)
    command = [sys.executable, "-m", "pipelines", "run", recipe, "--root", str(tmp_path / "runs"), "--cpus", "2"]
    ledger = tmp_path / "runs" / "tiny" / "ledger" / "mark"
    before: dict[Path, bytes] = {}
    for entries in (3, 7):
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        limit = time.monotonic() + 400
        while len(list(ledger.glob("*/*.json"))) < entries:
            assert process.poll() is None and time.monotonic() < limit, "the run ended before it could be killed"
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        before = {path: path.read_bytes() for path in ledger.glob("*/*.json")} | before
    assert run(recipe, tmp_path).ok
    run_here(load_recipe(recipe), tmp_path / "undisturbed")
    wanted = committed(recipe, tmp_path / "undisturbed")
    assert len(wanted) == 24 and committed(recipe, tmp_path / "runs") == wanted, "rows, refusals and their order"
    assert all(path.read_bytes() == content for path, content in before.items()), "a committed entry was written again"


def test_samples_put_back_keep_their_identity_and_get_shards_of_their_own(make_recipe, tmp_path):
    from pipelines.rejects import requeue

    recipe = make_recipe({"mark": {"operator": MARK, "refuse_from": 18}})
    assert run(recipe, tmp_path).ok
    refused = {18, 19}
    chain = look(load_recipe(recipe), tmp_path / "runs")
    assert requeue(chain, "too_far").rows == len(refused)
    assert requeue(look(load_recipe(recipe), tmp_path / "runs"), "too_far") is None, "the same samples were put back twice"
    changed = ["stages.mark.refuse_from=100"]
    assert run(recipe, tmp_path, changed, shards=(4, 4)).ok
    marks = packed(recipe, tmp_path, changed)
    assert refused <= set(marks.values())
    with pytest.raises(ValueError, match="Did you mean too_far"):
        requeue(look(load_recipe(recipe), tmp_path / "runs"), "to_far")
