"""One seed: which faults, at which instants; the run carried through them, called again until it ends; and what it came to."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos import check, taps
from benchmarks.chaos.world import SHARD, Call, World
from pipelines.durable import sweep_scratch
from pipelines.flow import MODEL_SHARDS
from pipelines.ledger import Ledger
from pipelines.stores import place

KINDS = {
    "worker_killed": ("outside", "inside"),  # at any instant; right before a step that makes something durable
    "node_killed": ("",),
    "driver_killed": ("",),
    "model_killed": ("back soon", "back later"),
    "store_cut": ("broken off", "away", "answers lost"),
    "disk_full": ("full", "step", "floor"),  # a small disk filled up; a write that fails; the floor undercut
    "torn_file": ("",),
    "worker_late": ("stopped", "node stopped", "commits late"),
    "commit_twice": ("inside", "outside"),
}
INSIDE = {("worker_killed", "inside"): "kill", ("torn_file", ""): "tear", ("disk_full", "step"): "full"}
INSIDE |= {("worker_late", "commits late"): "late", ("commit_twice", "inside"): "twice"}
OVERLAP = {"worker_late", "node_killed", "driver_killed"}
"""Faults after which two attempts may be at one shard at the same time, and both ask."""
LOSING = {"worker_killed", "node_killed", "driver_killed", "torn_file", "disk_full", "worker_late", "store_cut"}
"""Faults that may cost a worker the answers it has not flushed."""
STALLING = {"disk_full", "store_cut"}
"""Faults with which nothing can be flushed for a while, so that answers wait that would else be safe."""
BETWEEN = 0.5
"""Seconds between two calls: a call on a full disk ends in a tenth of a second, and nine of them would be over before it has room."""
CALLS, STILL, DYING = 9, 300.0, 60.0
"""Calls after which a run should be done; seconds without a step after which a call hangs, and in which what is over is gone, however
slow the machine is."""


@dataclass
class Fault:
    kind: str
    variant: str
    step: int
    seconds: float
    injected: bool = False


@dataclass
class Report:
    seed: int
    recipe: str
    store: str
    faults: list[Fault]
    calls: int = 0
    asked_again: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def line(self) -> str:
        told = ", ".join(
            f"{f.kind}{f' ({f.variant})' if f.variant else ''} at step {f.step}{'' if f.injected else ' not reached'}"
            for f in self.faults
        )
        verdict = "same" if not self.wrong else f"{len(self.wrong)} DIFFERENCES: {'; '.join(self.wrong[:3])}"
        return (
            f"seed {self.seed:>4} · {self.recipe} in {self.store} · {told} · {self.calls} calls, {self.seconds:.0f} s, "
            f"{self.asked_again} asked again · {verdict}"
        )


def draw(seed: int, steps: dict[tuple[str, str], int], quick: bool = False) -> Report:
    """The schedule of a seed: the first kind goes through all of them in turn, up to two more are drawn.

    steps   how many an undisturbed run has, by recipe and kind of store
    """
    rng = random.Random(f"fineloom-{seed}")
    kinds = [list(KINDS)[seed % len(KINDS)], *rng.choices(list(KINDS), k=rng.choice([0, 0, 1, 1, 2]))]
    if quick:  # nothing that makes a cluster wait for a node
        kinds = kinds[:1]
    store = "s3" if "store_cut" in kinds else "folder"
    recipe = "straight" if quick else rng.choices(["straight", "cut", "waves"], [6, 1, 1])[0]
    faults = []
    for kind in kinds:
        variants = [v for v in KINDS[kind] if store == "folder" or (kind, v) not in FOLDER_ONLY]
        if quick:
            variants = [v for v in variants if v != "node stopped"]
        if variants:
            last = steps.get((recipe, store), 400 if store == "folder" else 800)
            faults.append(Fault(kind, rng.choice(variants), rng.randint(1, last), round(rng.uniform(0.2, 1.5), 2)))
    return Report(seed, recipe, store, sorted(faults, key=lambda fault: fault.step))


FOLDER_ONLY = {("disk_full", "step"), ("torn_file", "")}
"""On a store nothing that is half written has a name; the disk that is full is that of the scratch folder."""


class Carried:
    """A schedule on its way."""

    def __init__(self, world: World, report: Report, recipes: dict[str, Path]) -> None:
        self.world = world
        self.report = report
        self.recipe = recipes[report.recipe]
        self.rng = random.Random(f"carried-{report.seed}")
        self.local = (world.disk or world.folder) / f"seed-{report.seed}"
        self.root = f"{world.s3()}/seed-{report.seed}" if report.store == "s3" else str(self.local)
        self.run = place(self.root) / report.recipe
        self.log = world.folder / "logs" / f"{report.seed}.log"
        self.later: list[tuple[float, Callable[[], None]]] = []  # what a fault takes back, and when; 0: after the call

    def go(self, expected: dict[str, Any] | None) -> dict[str, Any]:
        """Run to the end and compare; returns the outcome."""
        began = time.monotonic()
        self._prepare()
        found: dict[str, Any] = {}
        try:
            self._calls()
            self._release()
            wrong = check.faults(self.recipe, place(self.root), Path(os.environ["FINELOOM_SCRATCH"]))
            found = check.outcome(self.recipe, place(self.root))
            if expected is not None:
                wrong += check.differences(expected, found)
            self.report.wrong += wrong + self._paid_twice()
        except Exception as error:  # a harness that cannot look is no proof of anything
            self.report.wrong.append(f"cannot be looked at: {type(error).__name__}: {error}")
        finally:
            self._clean()
        self.report.seconds = time.monotonic() - began
        return found

    def _prepare(self) -> None:
        world = self.world
        shutil.rmtree(world.control, ignore_errors=True)
        world.control.mkdir(parents=True)
        self.log.parent.mkdir(exist_ok=True)
        self.log.unlink(missing_ok=True)
        world.start_model()
        with contextlib.suppress(FileNotFoundError):
            os.truncate(world.asked, 0)
        for left in Path(os.environ["FINELOOM_SCRATCH"]).iterdir():
            shutil.rmtree(left, ignore_errors=True)
        self._tell()

    def _tell(self, **more: Any) -> None:
        """Write what the processes' taps look at, in one step."""
        arms = [
            {"do": INSIDE[f.kind, f.variant], "step": f.step, "seconds": f.seconds}
            for f in self.report.faults
            if (f.kind, f.variant) in INSIDE
        ]
        run = "/".join(self.run.parts[1:]) if self.report.store == "s3" else str(self.run)
        content = json.dumps({"run": run, "arms": arms, **more}).encode()
        scratch = self.world.control / "control.new"
        scratch.write_bytes(content)
        os.rename(scratch, self.world.control / "control.json")

    def _calls(self) -> None:
        """Call the run until it says that everything is done."""
        while self.report.calls < CALLS:
            self.report.calls += 1
            size = self.log.stat().st_size if self.log.exists() else 0
            call = self.world.call(self.recipe, self.root, self.log)
            moved, step = time.monotonic(), 0
            while not call.ended(0.01):
                self._look(call)
                if (now := taps.steps(self.world.control)) != step:
                    moved, step = time.monotonic(), now
                if time.monotonic() - moved > STILL:
                    self.report.wrong.append(f"call {self.report.calls} hung for {STILL:.0f} s at step {step}")
                    with self.log.open("a") as log:
                        log.write(self.world.stacks())
                    call.kill()
                    call.ended(10)
                    self._take_back(after_call=True)
                    self.world.renew_cluster()
                    break
            call.close()
            self._take_back(after_call=True)
            if b"everything is done" in self.log.read_bytes()[size:]:
                break
            time.sleep(BETWEEN)
        else:
            self.report.wrong.append(f"not done after {CALLS} calls; see {self.log}")
        for what in self._done():
            for fault in self.report.faults:
                if INSIDE.get((fault.kind, fault.variant)) == what["do"]:
                    fault.injected = True

    def _done(self) -> list[dict[str, Any]]:
        path = self.world.control / "done.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _look(self, call: Call) -> None:
        step = taps.steps(self.world.control)
        for fault in self.report.faults:
            if not fault.injected and (fault.kind, fault.variant) not in INSIDE and step >= fault.step:
                fault.injected = self._inject(fault, call)
        self._take_back()

    def _take_back(self, after_call: bool = False) -> None:
        now = time.monotonic()
        due = [item for item in self.later if (item[0] and now >= item[0]) or after_call]
        self.later = [item for item in self.later if item not in due]
        for _, undo in due:
            undo()

    def _undo(self, seconds: float, undo: Callable[[], None]) -> None:
        """After so many seconds, or with the call; 0: with the call."""
        self.later.append((time.monotonic() + seconds if seconds else 0.0, undo))

    def _inject(self, fault: Fault, call: Call) -> bool:
        """Whether there was anything to do it to."""
        world, variant = self.world, fault.variant
        if fault.kind == "driver_killed":
            call.kill()
        elif fault.kind == "worker_killed" or variant == "stopped":
            workers = world.workers()
            if not workers:
                return False
            victim = self.rng.choice(workers)
            with contextlib.suppress(Exception):
                victim.kill() if fault.kind == "worker_killed" else victim.suspend()
            if variant == "stopped":
                self._undo(fault.seconds, lambda: _continue(victim.pid))
        elif fault.kind == "node_killed" or variant == "node stopped":
            return self._node(fault)
        elif fault.kind == "model_killed":
            world.stop_model()
            self._undo(fault.seconds if variant == "back soon" else 0, world.start_model)
        elif fault.kind == "store_cut":
            if variant == "answers lost":
                world.wire.swallow(self.rng.randint(1, 4))
            else:
                world.wire.break_off(down=variant == "away")
            self._undo(fault.seconds, world.wire.restore)
        elif variant == "floor":
            self._tell(floor=True)
            self._undo(0, self._tell)
        elif variant == "full":
            return self._fill_disk(fault)
        elif fault.kind == "commit_twice":
            return self._deliver_again()
        return True

    def _node(self, fault: Fault) -> bool:
        """A machine that dies with all its processes, or stands still until the cluster gives it up and then goes on."""
        world = self.world
        if not world.nodes:
            return False
        node = self.rng.choice(world.nodes)
        if fault.kind == "node_killed":
            world.kill_node(node)
        else:
            stopped = [*world.workers_of(node), world.raylet(node)]
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)

            def wake() -> None:
                for pid in stopped[:-1]:
                    _continue(pid)
                time.sleep(0.3)  # time to commit late, before its raylet learns that it is dead
                _continue(stopped[-1])
                world.kill_node(node)

            self._undo(world.dead_after, wake)
        self._undo(0, world.add_node)
        return True

    def _fill_disk(self, fault: Fault) -> bool:
        """Leave a few kilobytes of the small disk; where there is none, the write of a step fails instead."""
        if self.world.disk is None:
            return False
        balloon = self.world.disk / "balloon"
        left = self.rng.choice([0, 4096, 16384])
        with contextlib.suppress(OSError), balloon.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(self.world.disk).free - left))
        self._undo(fault.seconds, lambda: balloon.unlink(missing_ok=True))
        return True

    def _deliver_again(self) -> bool:
        ledger = Ledger(self.run)
        entries = list(ledger.entries()) if self.run.is_dir() else []
        if not entries:
            return False
        with contextlib.suppress(OSError):  # on a full disk it cannot be delivered
            taps.deliver_again(ledger, self.rng.choice(entries))
        return True

    def _release(self) -> None:
        """Let a commit that was kept back be delivered now, at last."""
        late = self.world.control / "late"
        if late.exists():
            (self.world.control / "release").touch()
            _wait(lambda: any(what["do"].startswith("late-") for what in self._done()))
            if not any(what["do"] == "late-delivered" for what in self._done()):
                self.report.wrong.append(f"a late commit failed: {self._done()[-1]}")
        _wait(lambda: not self.world.workers())  # of a driver that was killed
        _wait(self._scratch_is_left)

    def _scratch_is_left(self) -> bool:
        """Workers that their driver's end has killed hold their scratch folders until they are dead."""
        sweep_scratch()
        return not any(Path(os.environ["FINELOOM_SCRATCH"]).iterdir())

    def _paid_twice(self) -> list[str]:
        asked = Counter(self.world.asked.read_text().split()) if self.world.asked.exists() else Counter[str]()
        kept = check.answers(self.run)
        kinds = Counter(fault.kind for fault in self.report.faults if fault.injected)
        self.report.asked_again = asked.total() - len(asked)
        lost = asked.total() - kept.total()
        in_flight = 4
        may = 0
        for kind in LOSING & set(kinds):
            held = SHARD if kind in STALLING else taps.FLUSH
            may += kinds[kind] * (MODEL_SHARDS * held + in_flight)
        may += kinds["model_killed"] * 2 * in_flight
        wrong = []
        if lost > may:
            wrong.append(f"{lost} answers were paid and lost, {may} is what these faults may cost")
        twice = kept.total() - len(kept)
        if twice and not OVERLAP & set(kinds):
            wrong.append(f"{twice} answers that were kept were asked for again")
        return wrong

    def _clean(self) -> None:
        self._take_back(after_call=True)
        (self.world.control / "control.json").unlink(missing_ok=True)
        self.world.wire.restore()
        if self.report.wrong:
            kept = self.world.folder / "kept" / str(self.report.seed)
            shutil.rmtree(kept, ignore_errors=True)
            if self.report.store != "s3":
                shutil.copytree(self.local, kept, ignore_dangling_symlinks=True)
        shutil.rmtree(self.local, ignore_errors=True)


def _wait(over: Callable[[], bool]) -> None:
    ends = time.monotonic() + DYING
    while time.monotonic() < ends and not over():
        time.sleep(0.05)


def _continue(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
