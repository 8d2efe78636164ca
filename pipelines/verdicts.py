"""A stage over many shards at once: narrow columns of all of them in, one committed slice of verdicts per shard out.

One Ray task with what the stage's `resources` ask for. It ends as a shard of any other stage does: what raises is tried `attempts`
times and then told with its traceback, a process that dies is begun anew a few times, and a full disk stops the run. Slices that a
try has committed hold for the next one.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray

from operators.base import Reject
from pipelines.chain import Chain
from pipelines.commit import Attempt, Made
from pipelines.config import Stage
from pipelines.ledger import Entry, Ledger
from pipelines.monitor import DEATHS
from pipelines.reach import Reach
from pipelines.room import cpu_share, nodes_of_ray
from pipelines.view import View, read_columns
from pipelines.worker import StopRun, check_disk, no_exit, set_aside, stopping

THREADS = 16
"""Shards that are read or committed at a time: each is little work and much waiting for the disk or the store."""
SOME = 256
"""Shards between two looks at whether the run is to stop."""
COUNTED = ("rejects", "parts", "usage")


@dataclass(frozen=True)
class Judged:
    """How it ended: what was committed now, as `Monitor.end` takes it; or why it failed; or why the run must stop.

    lost    it failed because its process ended without a word
    """

    counts: dict[str, Any] | None = None
    error: str = ""
    trace: str = ""
    lost: bool = False
    stop: str | None = None


def run_global(
    chain: Chain,
    stage: Stage,
    done: list[Stage],
    shards: Sequence[int],
    earlier: Sequence[int],
    monitor: Any,
    beside: Sequence[Stage] = (),
) -> Judged:
    """`commit_verdicts` on the cluster. A process that dies is Ray's to report and ours to begin anew: by itself Ray would repeat one
    that ran out of memory for ever (`max_retries=0` ends that, too).

    beside   stages of flows that are at work at the same time and need room, too
    """
    asks = stage.resources
    chain.made_by(stage)  # by which the task knows whether it is of one version with this process
    task: Any = ray.remote(_task).options(
        name=stage.name,
        num_cpus=asks.cpus * cpu_share([stage, *beside], nodes_of_ray()),
        num_gpus=asks.gpus or None,
        memory=asks.memory_gb * 1e9 or None,
        max_retries=0,
    )
    trace = ""
    for _ in range(DEATHS + 1):
        try:
            return ray.get(task.remote(chain, stage, done, list(shards), list(earlier), monitor))
        except ray.exceptions.RayError as error:
            trace = f"{type(error).__name__}: {error}"
    return Judged(error=f"killed its worker {DEATHS + 1} times", trace=trace, lost=True)


def _task(chain: Chain, stage: Stage, done: list[Stage], shards: list[int], earlier: list[int], monitor: Any) -> Judged:
    def progress(samples: int) -> None:
        with suppress(ray.exceptions.RayError):  # whoever waits for this task meets it, too
            stop = ray.get(monitor.progress.remote(stage.name, shards[0], {"samples": samples}))
            if stop is not None:
                raise StopRun(stop)

    error = trace = ""
    for _ in range(stage.attempts):
        try:
            with stopping(chain.run), no_exit():
                chain.check_version(stage)
                return Judged(commit_verdicts(chain, stage, done, shards, earlier, progress))
        except StopRun as stop:
            return Judged(stop=str(stop))
        except Exception as caught:
            error, trace = f"{type(caught).__name__}: {caught}", traceback.format_exc()
    return Judged(error=error, trace=trace)


def commit_verdicts(
    chain: Chain,
    stage: Stage,
    done: list[Stage],
    shards: Sequence[int],
    earlier: Sequence[int] = (),
    progress: Callable[[int], None] = lambda samples: None,
) -> dict[str, Any]:
    """Judge all samples of `shards`, which are one wave, and commit the slices that are missing. Returns the counts of these.

    earlier    shards of waves that were judged before: the operator is told what was kept of them
    progress   is told the samples committed so far, and raises what is to end this
    """
    began = time.monotonic()
    check_disk(chain)
    fingerprint = chain.globals[stage.name][chain.wave(shards[0])]
    with ThreadPoolExecutor(THREADS) as threads:
        reached = Reach(chain, shards)
        reached.advance(done)
        views, wholes, asides = _narrow(chain, stage, reached, shards, threads)
        pieces = [piece for piece, _ in asides]
        stage.operator.setup()
        known = None
        if earlier:
            kept_before = Reach(chain, earlier)
            kept_before.advance([*done, stage])
            known = pa.concat_tables([piece for piece, _ in _narrow(chain, stage, kept_before, earlier, threads)[2]])
        samples = pa.concat_tables(pieces)
        outcome = stage.operator(samples, known) if known is not None else stage.operator(samples)
        slices = _slices(stage, pieces, outcome.kept, outcome.rejects)
        seconds = (time.monotonic() - began) / len(shards)
        made_by, own = chain.made_by(stage), threading.local()

        def commit(at: int) -> Entry | None:
            if not hasattr(own, "ledger"):
                own.ledger = Ledger(chain.run)  # what it has read is no two threads' at once
            view, (kept, refused) = views[at], slices[at]
            if own.ledger.get(stage.name, fingerprint, view.shard) is not None:
                return None
            made = Made(kept, [*asides[at][1], *refused], seconds=seconds)
            attempt = Attempt(chain.run, stage.name, view.shard, fingerprint)
            return attempt.commit(own.ledger, wholes[at]["uid"], made, stage.writes(), chain.inputs(stage, view), made_by)

        counts: dict[str, Any] = {"shards": 0, "rows_in": 0, "rows_out": 0, "seconds": 0.0}
        counts.update({name: Counter() for name in COUNTED})
        for first in range(0, len(shards), SOME):
            progress(counts["rows_in"])
            for entry in threads.map(commit, range(first, min(first + SOME, len(shards)))):
                if entry is not None:
                    _add(counts, entry)
    return counts


def _add(counts: dict[str, Any], entry: Entry) -> None:
    counts["shards"] += 1
    for name in ("rows_in", "rows_out", "seconds"):
        counts[name] += getattr(entry, name)
    for name in COUNTED:
        counts[name].update(getattr(entry, name))


def _slices(
    stage: Stage, pieces: Sequence[pa.Table], kept: pa.Table, rejects: Sequence[Reject]
) -> list[tuple[pa.Table, list[Reject]]]:
    """What was made of all samples, shard by shard."""
    refusals: dict[str, list[Reject]] = {}
    for reject in rejects:
        refusals.setdefault(reject.uid, []).append(reject)
    found = []
    at, kept_uids = 0, kept["uid"].to_pylist()
    for piece in pieces:
        uids = piece["uid"].to_pylist()
        mine = [reject for uid in uids for reject in refusals.get(uid, [])]
        gone = {reject.uid for reject in mine if reject.item is None}
        left = [uid for uid in uids if uid not in gone]
        if kept_uids[at : at + len(left)] != left:
            raise RuntimeError(f"stage {stage.name}: what it keeps is not its input without what it refuses, in the same order")
        found.append((kept.slice(at, len(left)), mine))
        at += len(left)
    return found


def _narrow(
    chain: Chain, stage: Stage, reached: Reach, shards: Sequence[int], threads: ThreadPoolExecutor
) -> tuple[list[View], list[pa.Table], list[tuple[pa.Table, list[Reject]]]]:
    """Of each shard its view, what the stage reads of it, and that without the samples that live elsewhere now."""
    views = [reached[shard][0] for shard in shards]
    wholes = list(threads.map(lambda view: read_columns(chain.run, view, stage.reads(), stage.optional()), views))
    return views, wholes, [set_aside(chain, view, whole) for view, whole in zip(views, wholes, strict=True)]


__all__ = ["Judged", "commit_verdicts", "run_global"]
