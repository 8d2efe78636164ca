"""Operators that go wrong on purpose, for tests of the engine. A recipe names them as `operator: faulty_operators:Class`."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from operators.base import GlobalOperator, Operator, Outcome, keep, schema
from operators.needs import Need


class Mark(Operator):
    """Writes `mark`, after doing to chosen rows what its settings say. `notes` counts tries across processes."""

    notes: str = ""
    raise_on: int = -1
    kill_on: int = -1
    kill_on_too: int = -1
    flaky_on: int = -1
    exit_on: int = -1
    seconds: float = 0.0
    refuse_from: int = 1_000_000_000

    @property
    def reads(self) -> pa.Schema:
        return schema(row=pa.int64())

    @property
    def writes(self) -> pa.Schema:
        return schema(mark=pa.int64())

    def __call__(self, batch: pa.Table, images: Any = None) -> Outcome:
        rows = batch["row"].to_pylist()
        time.sleep(self.seconds)
        if self.raise_on in rows:
            raise ValueError(f"row {self.raise_on} is cursed")
        if self.exit_on in rows:
            sys.exit("a library that thinks it is a program")
        if self.kill_on in rows or self.kill_on_too in rows:
            with Path(self.notes, "deaths").open("a") as file:
                file.write(f"{rows}\n")
            ctypes.string_at(0)  # the fault of this very thread; one sent by kill() strikes another, and later
        if self.flaky_on in rows:
            note = Path(self.notes) / "flaky"
            if not note.exists():
                note.touch()
                raise ConnectionError("only the first time")
        refused = [row >= self.refuse_from for row in rows]
        return keep(batch, {"mark": pa.array(rows, pa.int64())}, {"too_far": (refused, lambda i: f"row {rows[i]}")})


class Needy(Mark):
    """Needs something that only the process `there_in` has, or that only `not_in` has not."""

    there_in: int = 0
    not_in: int = 0

    def needs(self) -> list[Need]:
        if os.getpid() == self.there_in or self.not_in not in (0, os.getpid()):
            return [Need("weights", "weights w", found="there")]
        return [Need("weights", "weights w", lacks="no such file", do="put them there")]


class Lacks(Mark):
    """Mark, but what it needs is not there."""

    def setup(self) -> None:
        raise FileNotFoundError("no weights in this folder")


class Lose(Mark):
    """Mark, but the rows of Ray Data that carry the shards `lose` are gone the first time, as with an actor that ends without an
    answer: no worker knows, and nobody is told."""

    lose: list[int]

    def setup(self) -> None:
        from pipelines import flow

        through = flow._Base.step
        lose, notes = self.lose, Path(self.notes)

        async def step(actor: Any, batch: dict[str, Any]) -> dict[str, Any]:
            shard = int(batch["shard"][0])
            note = notes / f"lost-{shard}"
            if shard in lose and not note.exists():
                note.touch()
                raise RuntimeError("the task's output is lost")
            return await through(actor, batch)

        flow._Base.step = step  # type: ignore[method-assign]  # in the worker's own process, which has this stage only


class Count(Mark):
    """Mark, and a note of each shard that it began."""

    def __call__(self, batch: pa.Table, images: Any = None) -> Outcome:
        Path(self.notes, f"begun-{batch['row'][0]}").touch()
        return super().__call__(batch, images)


class Hold(Mark):
    """Mark, but no shard gets through until `workers` processes have come to hold one and `Count` has begun `begun` shards."""

    workers: int
    begun: int

    def __call__(self, batch: pa.Table, images: Any = None) -> Outcome:
        notes = Path(self.notes)
        (notes / f"process-{os.getpid()}").touch()
        limit = time.monotonic() + 120
        while len(list(notes.glob("process-*"))) < self.workers or len(list(notes.glob("begun-*"))) < self.begun:
            if time.monotonic() > limit:
                raise TimeoutError("no other process came")
            time.sleep(0.05)
        return super().__call__(batch, images)


class Meet(Operator):
    """Writes `column`: the row's number, beginning anew after `repeats`. Rows from `waits_from` on are held until a stage that
    `tells` has begun."""

    notes: str
    column: str
    repeats: int = 1_000_000_000
    waits_from: int = 1_000_000_000
    tells: bool = False

    @property
    def reads(self) -> pa.Schema:
        return schema(row=pa.int64())

    @property
    def writes(self) -> pa.Schema:
        return pa.schema([(self.column, pa.string())])

    def __call__(self, batch: pa.Table, images: Any = None) -> Outcome:
        rows = batch["row"].to_pylist()
        told = Path(self.notes) / "told"
        if self.tells:
            told.touch()
        limit = time.monotonic() + 200
        while max(rows, default=0) >= self.waits_from and not told.exists():
            if time.monotonic() > limit:
                raise TimeoutError("nobody told")
            time.sleep(0.02)
        return keep(batch, {self.column: pa.array([str(row % self.repeats) for row in rows], pa.string())})


class Judge(GlobalOperator):
    """Keeps what lies below `refuse_from`, after it has noted in `notes` that it was called, and with which resources, and done what
    `does` says."""

    notes: str
    does: str = ""
    times: int = 1_000_000_000
    refuse_from: int = 1_000_000_000

    in_waves: ClassVar[bool] = True

    @property
    def reads(self) -> pa.Schema:
        return schema(row=pa.int64())

    @property
    def writes(self) -> pa.Schema:
        return schema(judged=pa.int64())

    def __call__(self, samples: pa.Table, known: pa.Table | None = None) -> Outcome:
        import ray

        calls = Path(self.notes, "calls")
        with calls.open("a") as file:
            file.write(f"{sorted(ray.get_runtime_context().get_assigned_resources().items())}\n")
        if len(calls.read_text().splitlines()) <= self.times:
            if self.does == "raise":
                raise ValueError("nothing can be judged")
            if self.does == "exit":
                sys.exit("a library that thinks it is a program")
            if self.does == "die":
                os._exit(9)
        rows = samples["row"].to_pylist()
        refused = [row >= self.refuse_from for row in rows]
        return keep(samples, {"judged": pa.array(rows, pa.int64())}, {"too_far": (refused, lambda i: f"row {rows[i]}")})
