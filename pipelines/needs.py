"""Whether the machines of a run's workers have what its operators need, looked at before anything is downloaded or paid for.

On one machine it is this one that is looked at. Of a cluster it is a machine where a worker of the stage would be put: a small task
that asks for the worker's GPUs and memory looks there, since weights may lie where the GPUs are and nowhere else.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Sequence
from typing import Any

from operators.base import OperatorBase
from operators.needs import Need
from pipelines.config import ConfigError, Recipe, Stage

QUIET = 10.0
"""Seconds of looking after which a person is told what is waited for."""


def needs_of(stage: Stage) -> list[tuple[str, Need]]:
    """What the stage's workers need, each with the recipe's key that names it, as this machine has it."""
    found = []
    for name, operator in stage.operators.items():
        key = f"stages.{stage.name}" + (f".operators.{name}" if len(stage.operators) > 1 else "")
        for need in operator.needs() if isinstance(operator, OperatorBase) else []:
            found.append((f"{key}.{need.setting}" if need.setting else key, need))
    return found


def told(key: str, need: Need) -> str:
    return f"{key}: {need.what}: {need.lacks}. {need.do[:1].upper()}{need.do[1:]}"


def missing_here(stages: Sequence[Stage]) -> list[str]:
    """What this machine lacks, in words."""
    return [told(key, need) for stage in stages for key, need in needs_of(stage) if need.lacks]


def look_here(recipe: Recipe, due: Callable[[], Collection[str]]) -> None:
    """due: which stages have work left; asked only where something is lacking. Raises ConfigError."""
    if missing_here(recipe.stages):
        left = due()
        _refuse(recipe, missing_here([stage for stage in recipe.stages if stage.name in left]))


def look_at_workers(recipe: Recipe, due: Callable[[], Collection[str]], patience: float, say: Callable[[str], Any]) -> None:
    """Raises ConfigError. A stage for which no machine was free in `patience` seconds is left to its workers, which look themselves."""
    import ray

    needy = [stage for stage in recipe.stages if may_need(stage)]
    names = due() if needy else ()
    tasks = {_looking(stage): stage.name for stage in needy if stage.name in names}
    left, lacking = list(tasks), []
    for seconds, word in (
        (QUIET, f"waiting {patience / 60:.0f} minutes at most for machines that can look for what %s need"),
        (patience - QUIET, "no machine was free to look for what %s need: going on without"),
    ):
        done, left = ray.wait(left, num_returns=len(left), timeout=seconds) if left else ([], [])
        for task in done:
            try:
                lacking += ray.get(task)
            except ray.exceptions.RayError as error:  # a machine was lost, or has no such operator
                say(f"nobody could look for what {tasks[task]} needs: {str(error).splitlines()[0]}")
        _refuse(recipe, lacking)
        if left:
            say(word % ", ".join(tasks[task] for task in left))
    for task in left:
        ray.cancel(task)


def may_need(stage: Stage) -> bool:
    return any(isinstance(op, OperatorBase) and type(op).needs is not OperatorBase.needs for op in stage.operators.values())


def _looking(stage: Stage) -> Any:
    """The task that looks; it answers with what is lacking."""
    import ray

    # Hardly any CPU, so that it need not wait for a worker of another stage; some, since the head of a cluster may offer none.
    asks: dict[str, Any] = {"num_cpus": 0.01, "num_gpus": stage.resources.gpus}
    if stage.resources.memory_gb:
        asks["memory"] = stage.resources.memory_gb * 1e9
    return ray.remote(**asks)(_missing_there).remote(stage)


def _missing_there(stage: Stage) -> list[str]:
    return [f"{told(key, need)} (on {socket.gethostname()})" for key, need in needs_of(stage) if need.lacks]


def _refuse(recipe: Recipe, lacking: Sequence[str]) -> None:
    if lacking:
        more = f". {len(lacking) - 1} more: `fineloom doctor {recipe.given}` lists all" if len(lacking) > 1 else ""
        raise ConfigError(f"{recipe.file}: {lacking[0]}{more}")
