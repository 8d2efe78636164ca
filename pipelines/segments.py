"""The way of the shards through a recipe: flows on Ray, and between them the stages that must see many shards at once.

A recipe is cut at its global stages into segments. Without `wave` all shards go through one segment before the next begins. With
it they go in waves of so many shards: while a wave is in one segment, the next wave is in the one before, so that captioning
starts while later shards download. A global stage then judges a wave knowing what was kept of the waves before it.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from pipelines.chain import Chain
from pipelines.config import Stage
from pipelines.counted import counted
from pipelines.engine import Engine
from pipelines.monitor import Failure
from pipelines.reach import Reach, reach

if TYPE_CHECKING:
    from pipelines.run import Result

MAX_PASSES = 3
"""A flow is repeated while shards are missing that have not failed (lost with a node), until so many passes finished none."""


def go_through(chain: Chain, shards: Sequence[int], engine: Engine, result: Result) -> None:
    """Take `shards` as far as they go; what failed or stopped is noted in `result`."""
    waves = list(chain.waves(shards).values())
    segments = chain.recipe.segments()
    if len(waves) > 1 and len(segments) > 1:
        _Lanes(chain, segments, engine, result).go(waves)
        return
    done: list[Stage] = []
    for segment in segments:
        if segment[0].kind == "global":
            failure, result.stopped = judge(chain, segment[0], done, shards, engine)
            if failure is not None:
                result.failures.append(failure)
                return
        else:
            failures, result.stopped = flow(chain, done, segment, shards, engine)
            result.failures += failures
            shards = _without(shards, failures)
        if result.stopped is not None:
            return
        done = done + segment


def _without(shards: Sequence[int], failures: Sequence[Failure]) -> list[int]:
    failed = {failure.shard for failure in failures}
    return [shard for shard in shards if shard not in failed]


class _Lanes:
    """One thread per segment; waves are handed from each to the next one, with the verdicts' fingerprints known so far."""

    def __init__(self, chain: Chain, segments: list[list[Stage]], engine: Engine, result: Result) -> None:
        self.chain = chain
        self.segments = segments
        self.engine = engine
        self.result = result
        self.boxes: list[SimpleQueue[tuple[list[int], dict[str, Any]] | None]] = [
            SimpleQueue() for _ in range(len(segments) + 1)
        ]
        self.error: BaseException | None = None

    def go(self, waves: list[list[int]]) -> None:
        shards = [shard for wave in waves for shard in wave]
        pending = reach(replace(self.chain, globals={}), shards).pending()
        if not pending:
            return
        for wave in waves:
            self.boxes[0].put((wave, {}))
        self.boxes[0].put(None)
        self.engine.start()
        import ray

        with self.engine.watch([stage.name for segment in self.segments for stage in segment], len(pending)):
            threads = [threading.Thread(target=self._lane, args=(i,), daemon=True) for i in range(len(self.segments))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if self.error is not None:
            raise self.error
        if self.result.stopped is None:
            ray.get(self.engine.monitor.end_of_flow.remote())
        snapshot = ray.get(self.engine.monitor.snapshot.remote())
        self.engine.totals = snapshot["stages"]
        self.result.stopped = self.result.stopped or snapshot["stop"]  # a monitor begun anew knows of no stop before it

    def _lane(self, number: int) -> None:
        try:
            self._waves(number)
        except BaseException as error:  # raised again by the thread that everybody looks at
            self.error = self.error or error
            with suppress(Exception):  # Ray itself may be gone
                self.engine.monitor.stop.remote(f"{type(error).__name__}: {error}")
        finally:
            self.boxes[number + 1].put(None)

    def _waves(self, number: int) -> None:
        segment = self.segments[number]
        done = [stage for earlier in self.segments[:number] for stage in earlier]
        chain = replace(self.chain, globals={})  # what it remembers is no other thread's
        beside = [stage for other in self.segments if other is not segment for stage in other]
        so_far: list[int] = []
        failed: Failure | None = None
        while (box := self.boxes[number].get()) is not None:
            wave, chain.globals = box
            if self.error is not None or self.result.stopped is not None:
                return
            if failed is not None:  # later waves are judged by what is kept of earlier ones
                failed = replace(failed, shards=failed.shards + len(wave))
                continue
            if segment[0].kind == "global":
                so_far += wave
                failed, stopped = judge(chain, segment[0], done, so_far, self.engine, beside)
            else:
                failures, stopped = flow(chain, done, segment, wave, self.engine, beside)
                self.result.failures += failures
                wave = _without(wave, failures)
            if stopped is not None:
                self.result.stopped = stopped
                return
            if failed is None:
                self.boxes[number + 1].put((wave, chain.globals))
        if failed is not None:
            self.result.failures.append(failed)


def flow(
    chain: Chain,
    done: list[Stage],
    segment: list[Stage],
    shards: Sequence[int],
    engine: Engine,
    beside: Sequence[Stage] | None = None,
) -> tuple[list[Failure], str | None]:
    """Passes over the pending shards until none is missing; a shard that vanished without a word is tried again.

    beside    stages of other segments that are at work at the same time on other waves; None: these are all shards there are
    Returns   the shards that failed, and why the run must stop, if it must
    """
    failures: list[Failure] = []
    last = ""  # what Ray said of a pass from which shards did not come back
    names = [stage.name for stage in segment]
    before, passes, again = len(shards) + 1, 0, False
    while True:
        left = _pending(chain, done + segment, _without(shards, failures))
        if not left:
            return failures, None
        before, passes = len(left), passes + 1 if len(left) >= before else 0
        if passes >= MAX_PASSES:
            break
        if again:
            engine.progress.say(f"{counted(len(left), 'shard')} went in and did not come out, without a word: taken up again")
        again = True
        engine.start()
        no_room = engine.no_room([*segment, *(beside or ())])
        if no_room is not None:
            return failures, no_room
        import ray

        from pipelines.flow import ray_says, run_flow

        monitor = engine.monitor
        try:
            with engine.watch(names, len(left)):
                ray.get(monitor.begin_flow.remote(names, beside is None))
                came_back = run_flow(chain, done, segment, left, monitor, beside or ())
                # What Ray Data caught is kept by its traceback, and with it the workers of this flow: the next one would wait for
                # their room for ever.
                gc.collect()
                if beside is None:
                    ray.get(monitor.end_of_flow.remote())
            snapshot = ray.get(monitor.snapshot.remote())
            last = ray_says.last
        except ray.exceptions.RayActorError as error:
            engine.lost(monitor, error)
            last = str(error)
            continue
        engine.totals = snapshot["stages"]
        failures += [failure for failure in came_back if failure.error != "stopped"]
        if snapshot["stop"]:
            return failures, snapshot["stop"]
    told = f"was lost {MAX_PASSES} times on its way{engine.why_lost()}"
    failures += [Failure(shard, segment[0].name, told, last if shard == left[0] else "") for shard in left]
    return failures, None


def _pending(chain: Chain, stages: Sequence[Stage], shards: Sequence[int]) -> list[int]:
    """The shards that `stages` have not finished."""
    at = Reach(chain, shards)
    at.advance(stages)
    return at.pending()


def judge(
    chain: Chain, stage: Stage, done: list[Stage], shards: Sequence[int], engine: Engine, beside: Sequence[Stage] | None = None
) -> tuple[Failure | None, str | None]:
    """Commit the verdicts of a global stage over the shards that `done` let through, wave by wave, where they are missing.

    beside    as in `flow`
    Returns   how the stage failed, if it did (no shard goes on then), and why the run must stop, if it must
    """
    at = Reach(chain, shards)
    at.advance(done)
    through = at.finished()
    at.settle(stage)
    at.advance([stage])
    missing = set(through) - set(at.finished())
    earlier: list[int] = []
    for wave in chain.waves(through).values():
        if missing & set(wave):
            failure, stopped = _judge_wave(chain, stage, done, wave, earlier, engine, beside)
            if failure is not None or stopped is not None:
                return failure, stopped
        earlier = earlier + wave
    return None, None


def _judge_wave(
    chain: Chain,
    stage: Stage,
    done: list[Stage],
    wave: list[int],
    earlier: list[int],
    engine: Engine,
    beside: Sequence[Stage] | None,
) -> tuple[Failure | None, str | None]:
    """One wave, of which verdicts are missing."""
    engine.start()
    no_room = engine.no_room([stage, *(beside or ())])
    if no_room is not None:
        return None, no_room
    import ray

    from pipelines.verdicts import run_global

    engine.progress.say(f"{stage.name} over {counted(len(wave), 'shard')}" + (f", after {len(earlier):,}" if earlier else ""))
    name, first = stage.name, wave[0]
    for _ in range(MAX_PASSES):
        monitor = engine.monitor
        try:
            with engine.watch([name], len(wave)):
                ray.get(monitor.begin_flow.remote([name], beside is None))
                _, stop = ray.get(monitor.start.remote(name, first))
                if stop is not None:
                    return None, stop
                judged = run_global(chain, stage, done, wave, earlier, monitor, beside or ())
                ray.get(monitor.end.remote(name, first, judged.counts))
                if judged.stop is not None:
                    ray.get(monitor.stop.remote(judged.stop))  # flows that are at work at the same time end, too
                if judged.counts is not None:
                    ray.get(monitor.finish.remote(name, first, len(wave)))
                    if beside is None:
                        ray.get(monitor.end_of_flow.remote())
            snapshot = ray.get(monitor.snapshot.remote())
        except ray.exceptions.RayActorError as error:
            engine.lost(monitor, error)
            continue
        engine.totals = snapshot["stages"]
        if judged.error:
            lost = engine.why_lost() if judged.lost else ""
            told = f"over {counted(len(wave), 'shard')}: {judged.error}{lost}"
            return Failure(first, name, told, judged.trace, len(wave)), None
        return None, snapshot["stop"]
    told = f"over {counted(len(wave), 'shard')}: was lost {MAX_PASSES} times{engine.why_lost()}"
    return Failure(first, name, told, "", len(wave)), None


__all__ = ["flow", "go_through", "judge"]
