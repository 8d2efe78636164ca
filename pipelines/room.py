"""Whether the workers of stages have room on a cluster's nodes. Ray waits for room without a word, and for ever.

A pool needs room for its least number of workers, all pools of a flow at the same time, each worker on one node. CPUs are a share
that is made smaller until they fit, as on a laptop; GPUs and memory are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.config import Stage

KINDS = ("CPU", "GPU", "memory")
"""As Ray names them; memory in bytes."""
SLACK = 1e-6

Node = Mapping[str, float]


def nodes_of_ray() -> list[Node]:
    """Resources of every node that is alive, whoever uses them now."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def cpu_share(stages: Sequence[Stage], nodes: Sequence[Node]) -> float:
    """What part of the CPUs they ask for the workers get, so that all pools have room at once: a flow with a pool without room would
    wait for ever. At most nine tenths of all CPUs, unless what is asked for is there."""
    wanted = sum(need["CPU"] for need in _needs(stages))
    have = sum(node.get("CPU", 0.0) for node in nodes)
    if not wanted or not have:
        return 1.0
    share = 1.0 if wanted <= 0.9 * have else 0.9 * have / wanted
    while share > 1e-3 and not _fit([{"CPU": need["CPU"] * share} for need in _needs(stages)], nodes):
        share *= 0.9
    return share


def lacking(stages: Sequence[Stage], nodes: Sequence[Node]) -> str | None:
    """What the cluster lacks for these stages, and which setting asks for it; None where all have room."""
    for stage in stages:
        need = _need(stage)
        for kind in ("GPU", "memory"):
            most = max((node.get(kind, 0.0) for node in nodes), default=0.0)
            if need[kind] > most + SLACK:
                asked = _told(kind, need[kind], stage.name)
                return f"a worker of stage {stage.name} asks for {asked}; the largest node has {_amount(kind, most)}"
    share = cpu_share(stages, nodes)
    if not _fit([{**need, "CPU": need["CPU"] * share} for need in _needs(stages)], nodes):
        sums = {kind: sum(need[kind] for need in _needs(stages)) for kind in ("GPU", "memory")}
        asked = " and ".join(_amount(kind, amount) for kind, amount in sums.items() if amount)
        return (
            f"the least workers of {', '.join(stage.name for stage in stages)} ask for {asked} together (resources.workers, gpus, "
            f"memory_gb); the cluster's {len(nodes)} nodes have no room for all of them at once"
        )
    return None


def bundles(stages: Sequence[Stage]) -> list[dict[str, float]]:
    """The same needs as Ray's autoscaler is asked for them."""
    return [{kind: amount for kind, amount in need.items() if amount} for need in _needs(stages)]


def _need(stage: Stage) -> dict[str, float]:
    asks = stage.resources
    return {"CPU": asks.cpus, "GPU": asks.gpus, "memory": asks.memory_gb * 1e9}


def _needs(stages: Sequence[Stage]) -> list[dict[str, float]]:
    """One for each of the workers that a pool begins with."""
    found: list[dict[str, float]] = []
    for stage in stages:
        workers: Any = stage.resources.workers
        found += [_need(stage)] * (workers if isinstance(workers, int) else workers[0])
    return found


def _fit(needs: Sequence[Mapping[str, float]], nodes: Sequence[Node]) -> bool:
    """Whether each finds a node: the most demanding first, on the node that offers least beyond it."""
    free = [{kind: node.get(kind, 0.0) for kind in KINDS} for node in nodes]

    def demand(needed: Mapping[str, float]) -> tuple[float, ...]:
        return tuple(needed.get(kind, 0.0) for kind in ("GPU", "memory", "CPU"))

    for need in sorted(needs, key=demand, reverse=True):
        room = [node for node in free if all(node[kind] + SLACK >= amount for kind, amount in need.items())]
        if not room:
            return False
        node = min(room, key=demand)
        for kind, amount in need.items():
            node[kind] -= amount
    return True


def _amount(kind: str, amount: float) -> str:
    return f"{amount / 1e9:.1f} GB of memory" if kind == "memory" else f"{amount:g} GPUs"


def _told(kind: str, amount: float, stage: str) -> str:
    setting = "memory_gb" if kind == "memory" else "gpus"
    return f"{_amount(kind, amount)} (stages.{stage}.resources.{setting})"


__all__ = ["bundles", "cpu_share", "lacking", "nodes_of_ray"]
