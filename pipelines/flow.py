"""A segment of a recipe as one Ray Data flow: rows are shards, one actor pool per stage.

The source is a generator over pending shards that admits one only while fewer than `window` are on their way: Ray's own
back-pressure counts bytes, and these rows are a few hundred. Rows come back whatever happens to them: a shard that raises is
returned as failed; one that kills its workers is searched for the sample that does it, which is refused.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import traceback
import warnings
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy
from ray.util.annotations import RayDeprecationWarning

from operators.base import OtherVersion
from pipelines.chain import Chain
from pipelines.config import Stage
from pipelines.monitor import DEATHS, Failure, pieces
from pipelines.reach import Reach
from pipelines.room import cpu_share, nodes_of_ray
from pipelines.view import View
from pipelines.worker import StopRun, Worker

MAX_STARTS = 24
"""A shard that was begun this often without an end is given up: three samples that kill their worker are found and left out before."""
MODEL_SHARDS = 4
"""Shards that a model worker holds at once, so that the server's slots stay filled across shard boundaries."""
RANGE = 10_000
"""Shards per range of the source generator."""
WAIT = 0.05
"""Seconds between looks at a full window."""
BEAT = 10.0
"""Seconds between a worker's signs of life while it has a shard."""


def run_flow(
    chain: Chain, done: list[Stage], stages: list[Stage], shards: list[int], monitor: Any, beside: Sequence[Stage] = ()
) -> list[Failure]:
    """Take every pending shard through `stages`. Returns the shards that failed.

    done    stages of earlier segments
    beside  stages of other flows that run at the same time and need room, too
    """
    _configure()
    ray_says.last = ""
    for stage in stages:
        chain.made_by(stage)  # by which workers know whether they are of one version with this process
    ranges = [{"shards": shards[i : i + RANGE]} for i in range(0, len(shards), RANGE)]
    flow: Dataset = ray.data.from_items([{"index": i} for i in range(len(ranges))], override_num_blocks=len(ranges))
    source = _Source(chain, done, stages, ranges, monitor)
    # One source task at a time: shards are admitted in order, and a waiting source holds one process, not one per range.
    flow = flow.map_batches(source, batch_size=1, num_cpus=0.01, compute=TaskPoolStrategy(size=1))  # type: ignore[arg-type]
    share = cpu_share([*stages, *beside], nodes_of_ray())
    for position, stage in enumerate(stages):
        model = stage.kind == "model"
        workers = stage.resources.workers
        least, most = (workers, workers) if isinstance(workers, int) else workers
        with warnings.catch_warnings():
            # `max_task_retries` has no named parameter yet, and its old way is deprecated.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            flow = flow.map_batches(
                _ModelActor if model else _Actor,
                fn_constructor_args=(chain, stage, monitor, stages[0].name if position == len(stages) - 1 else None),
                batch_size=1,
                num_cpus=stage.resources.cpus * share,
                num_gpus=stage.resources.gpus or None,
                memory=stage.resources.memory_gb * 1e9 or None,
                compute=ActorPoolStrategy(
                    min_size=least,
                    max_size=most,
                    max_tasks_in_flight_per_actor=2 * MODEL_SHARDS if model else 2,
                    max_concurrent_calls_per_actor=MODEL_SHARDS if model else None,
                ),
                # Ray's default retries the task of a dying actor for ever; MAX_STARTS ends it earlier, this is the second fence.
                max_task_retries=2 * MAX_STARTS * (MODEL_SHARDS if model else 1),
            )
    failures: list[Failure] = []
    for row in flow.iter_rows():
        if row["failed"]:
            failures.append(Failure(int(row["shard"]), row["stage"], row["failed"], row["trace"]))
    return failures


def _configure() -> None:
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    # One row per block: rows stream, and no stage waits for a batch of them.
    context.target_max_block_size = context.target_min_block_size = 1
    context.max_errored_blocks = -1
    context.print_on_execution_start = False
    logging.getLogger("ray.data._internal.execution.streaming_executor_state").addFilter(ray_says)


class _RaySays(logging.Filter):
    """Ray Data logs what a task raised. Who keeps the record would keep the frames of its traceback, and with them the handles of this
    flow's workers: they would never end, and the next flow would wait for their room for ever. Its text alone is kept."""

    last = ""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info:
            self.last = record.exc_text = logging.Formatter().formatException(record.exc_info)
            record.exc_info = None
        return True


ray_says = _RaySays()


class _Source:
    """Ranges of shards in, pending shards out, as the window allows."""

    def __init__(
        self, chain: Chain, done: list[Stage], stages: list[Stage], ranges: list[dict[str, Any]], monitor: Any
    ) -> None:
        self.chain = chain
        self.done = done
        self.stages = stages
        self.ranges = ranges
        self.monitor = monitor

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        flow = self.stages[0].name
        for index in batch["index"]:
            shards = self.ranges[int(index)]["shards"]
            before = Reach(self.chain, shards)
            before.advance(self.done)
            behind = set(before.pending())  # failed in an earlier segment; they were reported there
            pending = [shard for shard in before.onward(self.stages).pending() if shard not in behind]
            skipped = len(shards) - len(behind) - len(pending)
            for shard in pending:
                while (word := ray.get(self.monitor.admit.remote(flow, shard, skipped))) == "wait":
                    skipped = 0
                    time.sleep(WAIT)
                if word == "stop":
                    return
                skipped = 0
                yield _row(shard, before[shard][0])
            if skipped:
                self.monitor.skip.remote(flow, skipped)


def _row(shard: int, view: View, stage: str = "", failed: str = "", trace: str = "") -> dict[str, Any]:
    return {"shard": [shard], "view": [view.to_json()], "stage": [stage], "failed": [failed], "trace": [trace]}


class _Base:
    def __init__(self, chain: Chain, stage: Stage, monitor: Any, ends: str | None) -> None:
        """ends: the flow whose last stage this is, if it is one's"""
        self.stage = stage
        self.monitor = monitor
        self.ends = ends
        self.suspects = asyncio.Lock()
        self.worker: Worker | None = None
        self.broken: str | None = None
        try:
            self.worker = Worker(chain, stage)
        except (
            Exception
        ) as error:  # kept and given as the reason of the stop: a constructor that raises would only be restarted
            told = "" if isinstance(error, OtherVersion) else f"stage {stage.name} cannot start: {type(error).__name__}: "
            self.broken = f"{told}{error}"
            monitor.stop.remote(self.broken)  # now, not when the first shard gets here: the stages before this may cost hours

    async def step(self, batch: dict[str, Any]) -> dict[str, Any]:
        shard, view = int(batch["shard"][0]), View.from_json(str(batch["view"][0]))
        row = _row(shard, view, str(batch["stage"][0]), str(batch["failed"][0]), str(batch["trace"][0]))
        if not row["failed"][0]:
            row = await self._run(shard, view)
        if self.ends is not None:
            await self.monitor.finish.remote(self.ends, shard)
        return row

    async def _run(self, shard: int, view: View) -> dict[str, Any]:
        name = self.stage.name
        if self.worker is None:
            await self.monitor.stop.remote(self.broken)
            return _row(shard, view, name, "stopped")
        starts, stop = await self.monitor.start.remote(name, shard)
        if stop is not None:
            return _row(shard, view, name, "stopped")
        if starts > MAX_STARTS or (
            starts > DEATHS + 1 and self.stage.kind == "source"
        ):  # rows of a table have no try of their own
            await self.monitor.end.remote(name, shard, None)
            return _row(shard, view, name, f"killed its worker {starts - 1} times")
        beating = asyncio.ensure_future(self._beat(shard))
        try:
            if starts == 1:
                return await self._try(shard, view)
            async with self.suspects:  # alone, so that a killer takes no innocent shard of this worker with it again and again
                return await self._try(shard, view, await self._killers(shard, view))
        finally:
            beating.cancel()

    async def _beat(self, shard: int) -> None:
        assert self.worker is not None
        while True:
            await asyncio.sleep(BEAT)
            with suppress(ray.exceptions.RayError):  # the next call that matters meets it, too
                await self.monitor.beat.remote(self.stage.name, shard, self.worker.waits_for())

    async def _killers(self, shard: int, view: View) -> list[int]:
        """Rows that are known to kill the worker. Where one is looked for, the rows that may be it are tried piece by piece, and each
        piece is marked before: if the worker dies of it, the next one goes on within that piece."""
        name = self.stage.name
        assert self.worker is not None
        found, within = await self.monitor.hunt.remote(name, shard, view.rows)
        if within is not None:
            for piece in pieces(*within):
                await self.monitor.mark.remote(name, shard, piece)
                with suppress(Exception):  # what merely raises will do so again, and is told then
                    await self.worker.probe(view, *piece, found)
            await self.monitor.mark.remote(name, shard, None)
        return found

    async def _try(self, shard: int, view: View, killers: Sequence[int] = ()) -> dict[str, Any]:
        name = self.stage.name
        assert self.worker is not None
        error, trace = "", ""
        for _ in range(self.stage.attempts):
            try:
                entry, fresh = await self.worker.process(view, self._progress(shard), killers)
            except StopRun as stop:
                await self.monitor.end.remote(name, shard, None)
                await self.monitor.stop.remote(str(stop))
                return _row(shard, view, name, "stopped")
            except Exception as caught:  # the shard fails and is named with its trace; every other shard goes on
                error, trace = f"{type(caught).__name__}: {caught}", traceback.format_exc()
            else:
                counts = {k: getattr(entry, k) for k in ("rows_in", "rows_out", "rejects", "parts", "usage", "seconds")}
                await self.monitor.end.remote(name, shard, counts if fresh else None, True)
                return _row(shard, view.after(entry))
        await self.monitor.end.remote(name, shard, None)
        return _row(shard, view, name, error, trace)

    def _progress(self, shard: int) -> Any:
        last = 0.0

        async def report(counts: dict[str, int]) -> None:
            nonlocal last
            if time.monotonic() - last < 0.5:
                return
            last = time.monotonic()
            stop = await self.monitor.progress.remote(self.stage.name, shard, counts)
            if stop is not None:
                raise StopRun(stop)

        return report


class _Actor(_Base):
    """One shard at a time."""

    def __init__(self, *args: Any) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        super().__init__(*args)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return asyncio.run_coroutine_threadsafe(self.step(batch), self.loop).result()


class _ModelActor(_Base):
    """Several shards at a time, over one client and its slots."""

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        yield await self.step(batch)


__all__ = ["Failure", "run_flow"]
