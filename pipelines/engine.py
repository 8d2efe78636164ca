"""Ray and the monitor of a run, started when the first pending shard is found: a finished run needs neither."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pipelines import program
from pipelines.config import Recipe, Stage
from pipelines.metrics import ask
from pipelines.monitor import LOST_AFTER, Limits, Monitor
from pipelines.needs import look_at_workers, look_here
from pipelines.progress import Progress
from pipelines.ray_alive import begins, watched
from pipelines.ray_start import lacks
from pipelines.room import bundles, lacking, nodes_of_ray

if TYPE_CHECKING:
    from pipelines.run import Options

ROOM_SECONDS = 900.0
"""How long a cluster that a run has joined may take to grow to what the recipe asks for."""
ROOM_LOOK = 5.0
"""Seconds between two looks at it."""


class Engine:
    """Segments that work at the same time share one engine, each from a thread of its own."""

    def __init__(self, recipe: Recipe, options: Options, progress: Progress, due: Callable[[], Collection[str]]) -> None:
        """due: which stages have work left when the run begins; of the others nothing is asked of a machine."""
        self.recipe = recipe
        self.due = due
        self.options = options
        self.progress = progress
        self.started = False
        self.own_ray = False
        self.joined = bool(options.address or os.environ.get("RAY_ADDRESS"))
        self.monitor: Any = None
        self.totals: dict[str, Any] = {}
        self._memory: Any = None
        self._program = program.stamps()
        self._watched = False
        self._looked_after = ExitStack()
        self._starting = threading.Lock()

    def start(self) -> None:
        """Raises ConfigError where a machine lacks what a stage's workers need, of the later stages, too."""
        with self._starting:
            if self.started:
                return
            if not self.joined:
                look_here(self.recipe, self.due)
            import ray

            from pipelines.cluster import connect

            self.own_ray = not ray.is_initialized()
            connect(self.options.address, self.options.cpus)
            if self.own_ray:  # else it is the caller's
                self._looked_after.enter_context(watched(not self.joined, self._gone))
            self._watch_over()
            if self.own_ray:
                self._looked_after.enter_context(begins(self.monitor.__ray_ready__.remote(), self._gone))
            if self.joined:
                look_at_workers(self.recipe, self.due, ROOM_SECONDS, self.progress.say)
            self.started = True

    def _gone(self, what: str) -> None:
        """End this process: Ray would, without a word, and whoever waits for an answer of it waits until then."""
        self.progress.console.show_cursor()
        self.progress.say(f"stopped: {what}. Everything committed is kept; call this again to go on")
        self.progress.console.file.flush()
        os._exit(1)

    def _watch_over(self) -> None:
        """Start the monitor, on the driver's own node: it need not outlive the driver, and other nodes come and go.

        When its process is lost Ray starts another, which takes up what the first one saved, and repeats the calls that were on
        their way. Without that every call would fail: the tasks in flight would lose their shards for this pass, and the window
        the places of those shards.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from pipelines.cluster import ClusterMemory

        stages = self.recipe.stages
        limits = Limits(
            {stage.name: stage.refuse_at_most for stage in stages},
            self.options.output_tokens,
            self.options.gpu_hours,
            {stage.name: self.recipe.gpus(stage) for stage in stages if stage.kind == "model"},
        )
        here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self._memory = ClusterMemory(f"monitor-{uuid4().hex}")
        actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)(Monitor)
        self.monitor = actor.remote(self.recipe.window, limits, self._memory, LOST_AFTER)

    def no_room(self, stages: Sequence[Stage]) -> str | None:
        """Why these stages cannot begin, or None. A cluster of others may grow: it is asked to, and waited for. A machine does not, so
        what a later stage will lack of it is told with the first ones."""
        import ray
        from ray.autoscaler.sdk import request_resources

        began, asked = time.monotonic(), False
        together = [stages] if self.joined else [stages, *self.recipe.segments()]
        if not self.joined and _lacking(together) is not None:
            due = self.due()
            together = [stages, *([stage for stage in segment if stage.name in due] for segment in self.recipe.segments())]
        while (lack := _lacking(together)) is not None:
            if not self.joined or time.monotonic() - began > ROOM_SECONDS:
                waited = f"after {ROOM_SECONDS / 60:.0f} minutes" if self.joined else "on this machine"
                return f"no room {waited}: {lack}. Ask for less, or for a larger cluster, and run again"
            if not asked:
                self.progress.say(f"waiting for room, {ROOM_SECONDS / 60:.0f} minutes at most: {lack}")
                with suppress(ray.exceptions.RayError, RuntimeError, OSError):
                    request_resources(bundles=bundles(stages))
            asked = True
            time.sleep(ROOM_LOOK)
        if asked:
            with suppress(ray.exceptions.RayError, RuntimeError, OSError):
                request_resources(bundles=[])  # from now on the workers themselves hold the nodes
        return None

    def lost(self, monitor: Any, error: Exception) -> None:
        """A monitor that Ray could not bring back is replaced by one whose counts begin anew; what is committed lies in the ledger."""
        with self._starting:
            if monitor is self.monitor:
                self.progress.say(f"lost: {str(error).splitlines()[0]} Going on with what is committed")
                self._watch_over()

    def why_lost(self) -> str:
        """What this machine knows of why Ray lost what it had, to be put behind that it did."""
        files = program.changed(self._program)
        if files:
            more = f" and {len(files) - 3} more" if len(files) > 3 else ""
            told = f"since the run began {', '.join(files[:3])}{more} became another: run again when the program stays as it is"
        else:
            told = "" if self.joined else lacks()
        return f"; {told}" if told else ""

    @contextmanager
    def watch(self, stages: Sequence[str], shards: int) -> Iterator[None]:
        """Show the progress of `stages` while the body runs, unless somebody shows it already."""
        if self._watched:
            yield
            return
        self._watched = True
        try:
            with self.progress.watch(self.monitor, stages, shards):
                yield
        finally:
            self._watched = False

    def snapshot(self) -> dict[str, Any] | None:
        return ask(self.monitor) if self.started else None

    def stop(self, reason: str) -> None:
        """End the run: what is at work is committed, nothing new begins."""
        if self.started:
            self.monitor.stop.remote(reason)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave Ray. After a Ctrl-C a Ray of our own is left to end with this process: threads of Ray Data are in its native code
        still, and a shutdown beneath them can crash."""
        self._looked_after.close()
        if not (self.own_ray or self.started):
            return  # nothing was to be done, and Ray was not even imported
        import ray

        if kind is None and self.started and (self.joined or not self.own_ray):  # a cluster that outlives this run
            ray.kill(self.monitor)
            self._memory.forget()
        if self.own_ray and kind is not KeyboardInterrupt:
            ray.shutdown()


def _lacking(together: Sequence[Sequence[Stage]]) -> str | None:
    """What the first of these groups lacks whose stages have no room at the same time."""
    nodes = nodes_of_ray()
    return next((lack for stages in together if (lack := lacking(stages, nodes)) is not None), None)


__all__ = ["Engine"]
