"""A recipe that asks for more than a cluster has is told so, and does not wait for ever."""

import pytest

from pipelines.config import Resources, Stage
from pipelines.progress import Progress
from pipelines.room import _fit, _needs, cpu_share, lacking


def stage(name, **resources):
    return Stage(name, "batch", {}, Resources.model_validate(resources))


SMALL = {"CPU": 1.0, "memory": 4e9}
GPU = {"CPU": 8.0, "GPU": 1.0, "memory": 16e9}


def test_what_fits_lacks_nothing():
    assert lacking([stage("a"), stage("b", gpus=1, memory_gb=10), stage("c", workers=(2, 50))], [SMALL, SMALL, GPU]) is None


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"gpus": 1}, "asks for 1 GPUs (stages.b.resources.gpus); the largest node has 0 GPUs"),
        ({"memory_gb": 5}, "asks for 5.0 GB of memory (stages.b.resources.memory_gb); the largest node has 4.0 GB of memory"),
        ({"memory_gb": 3, "workers": 3}, "ask for 9.0 GB of memory together"),
    ],
)
def test_what_does_not_fit_is_named_with_its_setting(asked, told):
    assert told in lacking([stage("a"), stage("b", **asked)], [SMALL, SMALL])


def test_cpus_are_shared_until_every_worker_has_a_node():
    """Two thirds of a CPU each would make 90 % of three nodes, and leave the fourth worker without any."""
    four, three = [stage(name) for name in "abcd"], [SMALL] * 3
    share = cpu_share(four, three)
    assert _fit([{"CPU": share}] * 4, three) and share > 0.4
    wide = [stage("wide", cpus=4)]
    assert cpu_share(wide, [{"CPU": 2.0}] * 8) * 4 <= 2
    assert cpu_share(four, [GPU]) == 1.0 and len(_needs(wide)) == 1


def test_a_run_that_has_no_room_ends_with_the_reason(make_recipe, tmp_path):
    from pipelines.config import load_recipe
    from pipelines.run import Options, execute

    mark = {"operator": "faulty_operators:Mark", "resources": {"gpus": 1}}
    result = execute(load_recipe(make_recipe({"mark": mark})), tmp_path / "runs", Options(cpus=2), Progress())
    assert "no room on this machine" in result.stopped and "stages.mark.resources.gpus" in result.stopped


def test_a_cluster_that_was_joined_may_grow(make_recipe, tmp_path, monkeypatch):
    from pipelines import engine as engines
    from pipelines.config import load_recipe
    from pipelines.run import Options, execute

    smaller = {"CPU": 1.0, "memory": 1e7}
    looks = iter([[smaller], [smaller], [GPU]])
    monkeypatch.setattr(engines, "nodes_of_ray", lambda: next(looks, [GPU]))
    monkeypatch.setattr(engines, "ROOM_LOOK", 0.05)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    recipe = make_recipe({"mark": {"operator": "faulty_operators:Mark", "resources": {"memory_gb": 0.1}}}, rows=5)
    said = []
    monkeypatch.setattr(Progress, "say", lambda self, line: said.append(line))
    assert execute(load_recipe(recipe), tmp_path / "runs", Options(cpus=2), Progress()).ok
    assert sum("waiting for room" in line for line in said) == 1
