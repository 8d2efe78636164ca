"""Shards that go through a recipe in waves: later stages work while earlier ones still do, and what comes out is the same."""

import pytest
from in_process import run_here

from operators.dedup import Dedup
from pipelines.config import ConfigError, load_recipe
from pipelines.fingerprint import digest
from pipelines.progress import Progress
from pipelines.reach import Reach, global_fingerprint, reach
from pipelines.rejects import count
from pipelines.run import Options, execute, look
from pipelines.view import read_columns

MEET = "faulty_operators:Meet"
ROWS, REPEATS = 20, 12
"""Rows from the twelfth on repeat the first ones, from another wave."""


def stages(tmp_path, waits_from=1_000_000_000):
    meet = {"operator": MEET, "notes": str(tmp_path)}
    return {
        "look": {**meet, "column": "sha256", "repeats": REPEATS, "waits_from": waits_from},
        "dedup": {"max_distance": None},
        "tell": {**meet, "column": "told", "tells": True},
    }


def run(recipe, tmp_path, overrides=()):
    return execute(load_recipe(recipe, overrides), tmp_path / "runs", Options(cpus=2), Progress())


def rows_packed(recipe, tmp_path, overrides=()):
    chain = look(load_recipe(recipe, overrides), tmp_path / "runs")
    found = []
    wanted = chain.recipe.stage("look").operator.reads
    for view, at in reach(chain, chain.shards()).values():
        assert at is None
        found += read_columns(chain.run, view, wanted)["row"].to_pylist()
    return sorted(found), chain


def test_a_wave_goes_on_while_the_next_one_is_still_before_the_duplicates_and_repeats_across_waves_are_found(
    make_recipe, tmp_path
):
    """The first stage holds the second wave back until the last stage has seen the first one: in turn, that would never end."""
    recipe = make_recipe(stages(tmp_path, waits_from=10), rows=ROWS, shard_size=5, wave=2)
    result = run(recipe, tmp_path)
    assert result.ok, result
    assert {name: counts["shards"] for name, counts in result.stages.items()} == dict.fromkeys(
        ("source", "look", "dedup", "tell"), 4
    )
    rows, chain = rows_packed(recipe, tmp_path)
    assert rows == list(range(REPEATS))
    assert count(chain)["dedup"]["samples"] == {"duplicate": ROWS - REPEATS}
    assert run(recipe, tmp_path).nothing_to_do

    # All at once the same samples are kept: the verdicts are made anew, but no stage after them, since nothing differs.
    all_at_once = run(recipe, tmp_path, ["wave=null"])
    assert all_at_once.ok and set(all_at_once.stages) == {"dedup"}
    assert rows_packed(recipe, tmp_path, ["wave=null"])[0] == list(range(REPEATS))


def test_waves_of_which_nothing_is_left_hold_nobody_up(make_recipe, tmp_path):
    """The first is refused shard by shard, the third is all duplicates, the last is refused again."""
    meet = {"operator": MEET, "notes": str(tmp_path)}
    recipe = make_recipe(
        {
            "look": {**meet, "column": "sha256", "repeats": 5},
            "select": {"keep": "row >= 5 and row < 15"},
            "dedup": {"max_distance": None},
            "tell": {**meet, "column": "told"},
        },
        rows=ROWS,
        shard_size=5,
        wave=1,
    )
    result = run(recipe, tmp_path)
    assert result.ok, result
    assert {name: counts["shards"] for name, counts in result.stages.items()} == dict.fromkeys(
        ("source", "look", "select", "dedup", "tell"), 4
    )
    rows, chain = rows_packed(recipe, tmp_path)
    assert rows == list(range(5, 10))
    assert {stage: told["samples"] for stage, told in count(chain).items() if told["samples"]} == {
        "select": {"not_selected": 10},
        "dedup": {"duplicate": 5},
    }
    assert run(recipe, tmp_path).nothing_to_do


def test_the_verdict_of_a_wave_depends_on_the_waves_before_it_and_on_none_after(make_recipe, tmp_path):
    recipe = make_recipe(stages(tmp_path), rows=ROWS, shard_size=5, wave=2)
    run_here(load_recipe(recipe, ["wave=null"]), tmp_path / "runs")
    chain = look(load_recipe(recipe), tmp_path / "runs")
    dedup = chain.recipe.stage("dedup")

    def settled(shards):
        at = Reach(chain, shards)
        at.advance(chain.recipe.stages[:2])
        at.settle(dedup)
        return at, chain.globals["dedup"]

    at, whole = settled(range(4))
    assert settled(range(2))[1] == {0: whole[0]}
    without_first = settled([1, 2, 3])[1]
    assert without_first[0] != whole[0] and without_first[1] != whole[1]
    views = [at[shard][0] for shard in range(4)]
    first = global_fingerprint(chain, dedup, views[:2])
    assert whole == {0: first, 1: global_fingerprint(chain, dedup, views[2:], first)}
    inputs = [[view.shard, view.uids, chain.inputs(dedup, view)] for view in views[:2]]
    assert first == digest({"made_by": chain.made_by(dedup), "inputs": inputs}), "one wave is what runs without waves made"


def test_a_stage_that_must_see_everything_does_not_go_in_waves(make_recipe, tmp_path):
    recipe = make_recipe({"sample": {"quotas": {"links": 3}}}, wave=2)
    with pytest.raises(ConfigError, match=r"stages\.sample must see all shards at once.*leave out `wave`"):
        load_recipe(recipe)
    assert Dedup.in_waves
