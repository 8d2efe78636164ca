"""What stages need is looked for before work begins, on the machines whose business it is."""

import os

import pytest
from faulty_operators import Needy

from operators.needs import Need
from pipelines import needs
from pipelines.config import ConfigError, load_recipe
from pipelines.progress import Progress
from pipelines.run import Options, execute


def needy(**settings):
    return {"operator": "faulty_operators:Needy", **settings}


def run(recipe, tmp_path):
    return execute(load_recipe(recipe), tmp_path / "runs", Options(cpus=2), Progress())


def committed(tmp_path):
    """Stages of which something is."""
    return [path.parts[-3] for path in (tmp_path / "runs" / "tiny" / "ledger").rglob("*.json")]


def test_what_a_late_stage_lacks_ends_the_run_before_its_first_stage(make_recipe, tmp_path):
    recipe = make_recipe(
        {
            "mark": {"operator": "faulty_operators:Mark"},
            "judge": {"operator": "faulty_operators:Judge", "notes": str(tmp_path)},
            "late": needy(),
        }
    )
    with pytest.raises(ConfigError) as told:
        run(recipe, tmp_path)
    assert str(told.value) == f"{recipe}: stages.late.weights: weights w: no such file. Put them there"
    assert committed(tmp_path) == []


def test_of_several_that_are_lacking_the_first_is_named_and_the_others_counted(make_recipe, tmp_path):
    recipe = make_recipe(
        {"measure": {"operators": {"faulty_operators:Mark": {}, "faulty_operators:Needy": {}}}, "late": needy()}
    )
    with pytest.raises(
        ConfigError, match=r"stages\.measure\.operators\.faulty_operators:Needy\.weights: .*1 more: `fineloom doctor"
    ) as told:
        run(recipe, tmp_path)
    assert str(told.value).endswith("lists all")


def test_a_finished_run_needs_nothing_any_more(make_recipe, tmp_path, monkeypatch):
    recipe = make_recipe({"mark": needy(there_in=os.getpid())})
    assert run(recipe, tmp_path).ok
    monkeypatch.setattr(needs, "missing_here", lambda _: ["everything"])
    assert run(recipe, tmp_path).nothing_to_do


def test_a_stage_that_is_done_needs_nothing_any_more_while_those_behind_it_go_on(make_recipe, tmp_path, monkeypatch):
    """Neither its weights nor its GPUs, on a machine that is to do the rest."""
    early, judge = needy(there_in=os.getpid()), {"operator": "faulty_operators:Judge", "notes": str(tmp_path)}
    assert not run(make_recipe({"early": early, "judge": judge, "mark": needy(there_in=os.getpid(), raise_on=0)}), tmp_path).ok
    monkeypatch.setattr(Needy, "needs", lambda self: [Need("weights", "w", lacks="none", do="")] if self.there_in else [])
    early["resources"] = {"gpus": 1}
    assert run(make_recipe({"early": early, "judge": judge, "mark": needy()}), tmp_path).ok


def test_of_a_cluster_the_workers_are_looked_at_and_not_the_driver(make_recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert run(make_recipe({"mark": needy(not_in=os.getpid())}), tmp_path).ok
    recipe = make_recipe({"mark": needy(there_in=os.getpid())}, name="other")
    with pytest.raises(ConfigError, match=r"stages\.mark\.weights: weights w: no such file\. Put them there \(on "):
        run(recipe, tmp_path)


def test_a_cluster_without_a_free_machine_is_waited_for_and_then_left_to_the_workers(make_recipe, monkeypatch):
    monkeypatch.setattr(needs, "QUIET", 0.1)
    recipe = load_recipe(make_recipe({"mark": needy() | {"resources": {"gpus": 1}}}))
    said = []
    needs.look_at_workers(recipe, lambda: ["mark"], 0.2, said.append)
    assert said == [
        "waiting 0 minutes at most for machines that can look for what mark need",
        "no machine was free to look for what mark need: going on without",
    ]


def test_a_machine_that_lacks_room_for_a_late_stage_says_so_before_the_first(make_recipe, tmp_path):
    late = {"operator": "faulty_operators:Mark", "resources": {"gpus": 1}}
    judge = {"operator": "faulty_operators:Judge", "notes": str(tmp_path)}
    result = run(make_recipe({"judge": judge, "late": late}), tmp_path)
    assert "stages.late.resources.gpus" in result.stopped and committed(tmp_path) == []
