"""The run's memory while it runs: who is at work on what, how fast, what was refused, and whether to stop.

It runs as one Ray actor and holds counters only; what is committed lies in the ledger. What must not be forgotten (counts of budgets
and bounds, the reason to stop, which shards killed their workers) is saved before anybody is answered, so that the process that
Ray starts in the place of a lost one goes on from there: nobody sees more than a pause.
"""

from __future__ import annotations

import itertools
import pickle
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from pipelines.counted import counted

MIN_SAMPLES = 200
"""A refusal rate is judged once this many samples have been seen, or when a stage has finished all its shards."""
LOST_AFTER = 900.0
"""Seconds without a word from a worker, or from any worker while a shard waits for one, after which a shard counts as lost."""


@dataclass
class StageCount:
    """What one stage did in this run."""

    shards: int = 0
    rows_in: int = 0
    rows_out: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    parts: Counter[str] = field(default_factory=Counter)
    usage: Counter[str] = field(default_factory=Counter)
    live: Counter[str] = field(default_factory=Counter)  # of shards still at work: samples done, tokens
    seconds: float = 0.0
    active: int = 0

    def refused(self) -> float:
        return (self.rows_in - self.rows_out) / self.rows_in if self.rows_in else 0.0


@dataclass(frozen=True)
class Limits:
    """When to stop by itself: refusal rate per stage, and budgets of the run (None: no limit)."""

    refuse_at_most: dict[str, float]
    output_tokens: int | None = None
    gpu_hours: float | None = None
    gpus: dict[str, float] = field(default_factory=dict)  # model stage → GPUs that it keeps, from when the first of them begins


PIECES = 16
"""Into so many pieces the rows are cut in which a sample is looked for that kills its worker."""
DEATHS = 2
"""A worker may die of anything once. The second time the sample is looked for that does it, and is known by as many deaths alone."""


@dataclass
class Hunt:
    """The search for samples of one shard that kill the worker. Rows are numbered as they come into the stage."""

    mark: tuple[int, int] | None = None  # rows at work, written down before they are begun
    whole: int = 0  # deaths while the whole shard was at work
    alone: Counter[int] = field(default_factory=Counter)  # row → deaths while it was at work alone
    found: list[int] = field(default_factory=list)

    def next(self, rows: int) -> tuple[list[int], tuple[int, int] | None]:
        """After a death: the rows to leave out, and the range to try piece by piece first (None: all others at once)."""
        mark, self.mark = self.mark, None
        if mark is None:
            self.whole += 1
            return self.found, (0, rows) if self.whole >= DEATHS else None
        first, last = mark
        if last - first > 1:
            return self.found, mark
        self.alone[first] += 1
        if self.alone[first] < DEATHS:
            return self.found, mark
        self.found.append(first)
        self.whole = DEATHS - 1  # if that was not the only one, the next death is followed up at once
        return self.found, None


def pieces(first: int, last: int) -> list[tuple[int, int]]:
    """Rows first … last - 1 in at most `PIECES` ranges."""
    step = max(1, -(-(last - first) // PIECES))
    return [(at, min(at + step, last)) for at in range(first, last, step)]


@dataclass(frozen=True)
class Failure:
    """A shard that did not go all the way: where it stopped, and why. Of a stage over many, the first of `shards` that it holds up."""

    shard: int
    stage: str
    error: str
    trace: str
    shards: int = 1


class Memory(Protocol):
    """Where a monitor keeps what must outlive its process."""

    def load(self) -> bytes | None: ...

    def save(self, state: bytes) -> None: ...


class Heard(NamedTuple):
    """What was heard of a shard last."""

    stage: str
    at_work: bool  # else it waits for a worker of that stage
    when: float
    turn: int  # shards that the stage had begun by then


@dataclass
class Flow:
    """One pass of shards through some stages. Several run at once where shards go in waves.

    lost    shards that gave their place in the window back without having come out: the next pass takes them up
    """

    in_flight: dict[int, Heard] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
    admitted: int = 0
    finished: int = 0
    skipped: int = 0
    began: float = field(default_factory=time.monotonic)


SAVED = ("stages", "starts", "hunts", "flows", "flow_of", "begun", "waiting", "onward", "stop_reason", "asking_since")


class Monitor:
    """Plain Python: the engine makes a Ray actor of it. A flow is known by the name of its first stage.

    memory      None: what is known is lost with the process
    lost_after  see LOST_AFTER
    """

    def __init__(self, window: int, limits: Limits, memory: Memory | None = None, lost_after: float = LOST_AFTER) -> None:
        self.window = window
        self.limits = limits
        self.memory = memory
        self.lost_after = lost_after
        self.stages: dict[str, StageCount] = {}
        self.flows: dict[str, Flow] = {}
        self.flow_of: dict[str, str] = {}  # stage → the flow it is in
        self.begun: Counter[str] = Counter()  # shards that a stage has begun
        self.starts: Counter[tuple[str, int]] = Counter()
        self.hunts: dict[tuple[str, int], Hunt] = {}
        self.live: dict[tuple[str, int], Counter[str]] = {}
        self.waits_for: dict[tuple[str, int], str] = {}
        self.onward: dict[str, str] = {}  # stage → the next one of its flow
        self.waiting: dict[str, set[int]] = {}  # shards that a stage's predecessor handed over and that it has not begun
        self.stop_reason: str | None = None
        self.asking_since: float | None = None  # when the first model stage was about to begin
        saved = memory.load() if memory is not None else None
        if saved is not None:
            self._take_up(saved)

    def _save(self) -> None:
        """Before an answer is given that somebody relies on."""
        if self.memory is not None:
            state = {name: getattr(self, name) for name in SAVED}
            self.memory.save(pickle.dumps((time.monotonic(), state)))

    def _take_up(self, saved: bytes) -> None:
        """What is in flight is not known any more, since shards went on meanwhile: for a while up to two windows are on their way."""
        then, state = pickle.loads(saved)
        for name, value in state.items():
            setattr(self, name, value)
        later = time.monotonic() - then  # another machine's clock may have another zero
        if self.asking_since is not None:
            self.asking_since += later
        for flow in self.flows.values():
            flow.in_flight.clear()
            flow.began += later

    def begin_flow(self, order: Sequence[str], anew: bool = True) -> None:
        """A new pass of shards through the stages `order`; what was done and refused stays.

        anew    what was admitted, finished and skipped counts anew; else this is the next wave on the same way
        """
        if anew or order[0] not in self.flows:
            self.flows[order[0]] = Flow()
        self.flows[order[0]].in_flight.clear()
        self.flows[order[0]].lost.clear()
        self.flow_of.update((stage, order[0]) for stage in order)
        self.onward.update(itertools.pairwise(order))
        if self.asking_since is None and not self.limits.gpus.keys().isdisjoint(order):
            self.asking_since = time.monotonic()
        self.waiting.update((stage, set()) for stage in order)
        for known in (self.starts, self.hunts, self.live, self.waits_for):
            for key in [key for key in known if key[0] in order]:
                del known[key]
        self._save()

    def admit(self, flow: str, shard: int, skipped: int = 0) -> str:
        """One shard more, unless the window is full: "go", "wait" or "stop"."""
        at = self.flows[flow]
        at.skipped += skipped
        if self.stop_reason:
            return "stop"
        if shard in at.in_flight:  # a source that was begun anew says it again
            return "go"
        if len(at.in_flight) >= self.window:
            self._give_up_lost(at)
        if len(at.in_flight) >= self.window:
            return "wait"
        at.in_flight[shard] = Heard(flow, False, time.monotonic(), self.begun[flow])
        at.admitted += 1
        return "go"

    def _give_up_lost(self, at: Flow) -> None:
        """Take shards that Ray seems to have lost out of a full window: with a task that ends without an answer the row is gone, and
        nobody says so. A worker speaks of its shards every few seconds. One that waits is lost when many that came later have
        been begun, or when there is no sign of the whole flow. Who is given up wrongly costs nothing: it goes on beside one more.
        """
        now = time.monotonic()
        silent = now - max(heard.when for heard in at.in_flight.values()) > self.lost_after
        for shard, heard in list(at.in_flight.items()):
            overtaken = not heard.at_work and self.begun[heard.stage] - heard.turn > 2 * self.window
            if silent or overtaken or (heard.at_work and now - heard.when > self.lost_after):
                del at.in_flight[shard]
                at.lost.add(shard)

    def _hear(self, stage: str, shard: int, at_work: bool) -> None:
        at = self.flows.get(self.flow_of.get(stage, ""))
        if at is not None and shard in at.in_flight:
            at.in_flight[shard] = Heard(stage, at_work, time.monotonic(), self.begun[stage])

    def beat(self, stage: str, shard: int, waits_for: str = "") -> None:
        """A worker is still at it, or waits for something that is no shard's own."""
        self._hear(stage, shard, True)
        self.waits_for[stage, shard] = waits_for

    def skip(self, flow: str, shards: int) -> None:
        """Shards that turned out to be done already."""
        self.flows[flow].skipped += shards

    def start(self, stage: str, shard: int) -> tuple[int, str | None]:
        """Mark a try before it begins: how often it was begun, and the reason to stop, if there is one."""
        self.starts[stage, shard] += 1
        self.begun[stage] += 1
        self._hear(stage, shard, True)
        self.waiting.get(stage, set()).discard(shard)
        if self.stop_reason is None:
            self.live[stage, shard] = Counter()
        self._save()
        return self.starts[stage, shard], self.stop_reason

    def hunt(self, stage: str, shard: int, rows: int) -> tuple[list[int], tuple[int, int] | None]:
        """Of a shard whose last try never ended: see `Hunt.next`."""
        found = self.hunts.setdefault((stage, shard), Hunt()).next(rows)
        self._save()
        return found

    def mark(self, stage: str, shard: int, rows: tuple[int, int] | None) -> None:
        """The rows that a worker begins now, on their own."""
        self.hunts.setdefault((stage, shard), Hunt()).mark = rows
        self._save()

    def progress(self, stage: str, shard: int, counts: dict[str, int]) -> str | None:
        """Samples and tokens so far of a shard at work. Returns the reason to stop, if there is one."""
        self.live[stage, shard] = Counter(counts)
        self._check_budget()
        return self.stop_reason

    def end(self, stage: str, shard: int, entry: dict[str, Any] | None, onward: bool = False) -> None:
        """A try ended; `entry` has the committed counts, None when nothing was committed. `onward`: the shard goes on.

        Said again by a call that is repeated, it counts once.
        """
        self.live.pop((stage, shard), None)
        self.waits_for.pop((stage, shard), None)
        begun = self.starts.pop((stage, shard), 0)
        self.hunts.pop((stage, shard), None)
        if onward and stage in self.onward:
            self.waiting[self.onward[stage]].add(shard)
        self._hear(self.onward.get(stage, stage), shard, False)
        if entry is not None and begun:
            self._count(stage, entry)
        self._save()

    def _count(self, stage: str, entry: dict[str, Any]) -> None:
        count = self.stages.setdefault(stage, StageCount())
        count.shards += entry.get("shards", 1)
        count.rows_in += entry["rows_in"]
        count.rows_out += entry["rows_out"]
        count.rejects.update(entry["rejects"])
        count.parts.update(entry["parts"])
        count.usage.update(entry["usage"])
        count.seconds += entry["seconds"]
        if count.rows_in >= MIN_SAMPLES:
            self._check_refusals(stage)
        self._check_budget()

    def finish(self, flow: str, shard: int, shards: int = 1) -> None:
        """One shard came out; or all `shards` of a stage over many, of which it is the first."""
        at = self.flows[flow]
        at.in_flight.pop(shard, None)
        at.lost.discard(shard)
        at.finished += shards

    def end_of_flow(self) -> None:
        """All shards of the stages seen so far have gone through."""
        for stage in self.stages:
            self._check_refusals(stage)

    def stop(self, reason: str) -> None:
        if self.stop_reason is None:
            self.stop_reason = reason
            self._save()

    def snapshot(self) -> dict[str, Any]:
        stages = {}
        for name, count in self.stages.items():
            stages[name] = {**count.__dict__, "live": Counter(), "active": 0}
        for (stage, _), counts in self.live.items():
            row = stages.setdefault(stage, {**StageCount().__dict__})
            row["live"] = row["live"] + counts
            row["active"] += 1
        shown = next(reversed(self.flows.values()), Flow())  # of several flows at once, the one that is furthest
        return {
            "stages": stages,
            "admitted": shown.admitted,
            "finished": shown.finished,
            "skipped": shown.skipped,
            "lost": sum(len(flow.lost) for flow in self.flows.values()),
            "window": self.window,
            "in_flight": sum(len(flow.in_flight) for flow in self.flows.values()),
            "waiting": {stage: len(shards) for stage, shards in self.waiting.items()},
            "waits_for": sorted({f"{stage}: {word}" for (stage, _), word in self.waits_for.items() if word}),
            "stop": self.stop_reason,
            "seconds": time.monotonic() - shown.began,
        }

    def _check_refusals(self, stage: str) -> None:
        bound, count = self.limits.refuse_at_most.get(stage, 1.0), self.stages[stage]
        if count.refused() > bound:
            reasons = ", ".join(f"{reason} {n}" for reason, n in count.rejects.most_common(3))
            self.stop(
                f"stage {stage} refused {count.refused():.1%} of {counted(count.rows_in, 'sample')}, more than its bound "
                f"refuse_at_most={bound:g} ({reasons}). Look at `fineloom rejects`, mend the cause or raise the bound, and run again"
            )

    def _check_budget(self) -> None:
        tokens = sum(c.usage["output_tokens"] for c in self.stages.values()) + sum(
            c["output_tokens"] for c in self.live.values()
        )
        if self.limits.output_tokens is not None and tokens >= self.limits.output_tokens:
            self.stop(
                f"the budget of {self.limits.output_tokens} output tokens is spent ({tokens}). Run again with a larger one to go on"
            )
        if self.limits.gpu_hours is not None:
            gpus = max(self.limits.gpus.values(), default=0.0)
            spent = (time.monotonic() - (self.asking_since or time.monotonic())) / 3600 * gpus
            if spent >= self.limits.gpu_hours:
                self.stop(f"the budget of {self.limits.gpu_hours:g} GPU-hours is spent ({spent:.3f}). Run again to go on")
