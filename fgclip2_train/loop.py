"""Training, both stages: `train(settings)`. The same function runs under torchrun, under Ray Train, and alone on a CPU."""

from __future__ import annotations

import json
import math
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fgclip2_train.alone import alone
from fgclip2_train.batch import Batch
from fgclip2_train.checkpoint import Saver, latest, load_optimizer, load_trainer, point, way_out
from fgclip2_train.config import Settings, changed
from fgclip2_train.counting import look
from fgclip2_train.data.loader import Loader, Reader
from fgclip2_train.data.order import START
from fgclip2_train.data.shards import rewritten
from fgclip2_train.errors import NonFinite, writing
from fgclip2_train.evaluation.during import InTraining
from fgclip2_train.evaluation.pictures import from_rank_0
from fgclip2_train.optim import learning_rate, load_named_state, make_optimizer, named_state, warmup_steps
from fgclip2_train.parallel import full, spread
from fgclip2_train.ring import rank, world
from fgclip2_train.setup import join_processes, start_from, total_steps
from fgclip2_train.step import Stepper
from fgclip2_train.stopping import INTERRUPTED, NOT, StopRequests, nothing_to_save
from fgclip2_train.together import ending_together
from fgclip2_train.watch import Watch

NAMED = 50
"""Reasons for skipped samples that a line of the log has at most; each shard that was cut short is one."""


def train(settings: Settings, stop: Path | None = None) -> Path:
    """Train to the end, or to a SIGTERM, or until there is a file `stop`; gives the newest checkpoint. A run that has a checkpoint in
    `out` goes on from it.

    Writes <out>/settings.json, <out>/metrics.jsonl, <out>/checkpoints/. Raises ValueError for what the user can mend, NonFinite
    when a loss or gradient is not finite on any rank, and KeyboardInterrupt after a Ctrl-C or the end of the terminal, with all saved.
    """
    device = join_processes(settings)
    with ending_together():
        return _train(settings, device, stop)


def _train(settings: Settings, device: torch.device, stop: Path | None) -> Path:
    out = Path(settings.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out={out}: no folder can be made there ({error.strerror})") from error
    with alone(out) if rank() == 0 else nullcontext():
        checkpoint = from_rank_0(latest(out))  # nobody may see a checkpoint that rank 0 writes later
        with nothing_to_save():
            run = Run(settings, device, checkpoint)
        with StopRequests(stop) as requests:
            return run.to_the_end(requests)


class Run:
    def __init__(self, settings: Settings, device: torch.device, checkpoint: Path | None):
        self.settings, self.out = settings, Path(settings.out)
        # What is not there is told before a model is loaded, and a model that is not before records are counted: both may take long.
        if rank() == 0:
            look(settings.data)
        else:
            settings.data.found()
        trainer = load_trainer(checkpoint) if checkpoint else None
        if trainer:
            self._refuse_another_stage(trainer["settings"]["stage"])
        self.step: int = trainer["step"] if trainer else 0
        self.pairs = _pairs(trainer) if trainer else 0
        self.evaluation: InTraining | None = None
        if settings.evaluate:
            about = {"checkpoint": settings.out, "stage": settings.stage, "preset": settings.preset}
            self.evaluation = InTraining(settings.evaluate, self.out, self.step, settings.data.patches, about)
        try:
            self.model, self.texts = start_from(settings, checkpoint)
        except (ValueError, FileNotFoundError) as error:
            if not checkpoint:
                raise
            raise ValueError(f"{error}. {way_out(checkpoint)}") from error
        self.steps = total_steps(settings, world(), self.step, self.pairs, self.out)
        model = self.model
        torch.nn.Module.to(model, device)
        model.freeze_unused(settings.regional)
        model.train()
        if settings.checkpoint_layers:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if settings.compile:
            model.compile_layers()
        runner = spread(model, settings)
        self.optimizer = make_optimizer(model, settings.optimizer)
        reader = self._reader()
        self.order, self.written = from_rank_0((reader.order(), reader.written()) if rank() == 0 else ({}, {}))
        if checkpoint and trainer:
            reader = self._resume(checkpoint, trainer, reader)
        self.loader = Loader(reader, settings.data.workers, pin=model.device.type == "cuda")
        if trainer:
            self.loader.count_on(trainer["readers"])
        self.stepper = Stepper(model, runner, self.optimizer, settings, self.steps)
        self.watch = Watch(self.out, model, settings, self.steps, self.step)
        self.saver = Saver(self.out / "checkpoints", settings.save.keep)
        # As far back as the device's verdict may lie.
        self.recent: deque[tuple[int, list[str], dict[str, Tensor]]] = deque(maxlen=settings.log_every + 1)
        if rank() == 0:
            with writing(self.out / "settings.json"):
                (self.out / "settings.json").write_text(settings.model_dump_json(indent=1))

    # -- resume -----------------------------------------------------------------------------------------------------------

    def _reader(self, step: int = 0, positions: dict[str, Any] | None = None) -> Reader:
        settings = self.settings
        return Reader(
            settings.data,
            self.texts,
            settings.batch // settings.accumulate,
            lengths=self.model.lengths,
            seed=settings.seed,
            rank=rank(),
            ranks=world(),
            step=step,
            positions=positions,
            parts=settings.accumulate,
        )

    def _refuse_another_stage(self, before: int) -> None:
        if before != self.settings.stage:
            raise ValueError(
                f"{self.out} holds a run of stage {before}. Give stage {self.settings.stage} an out= of its own; "
                f"model.start={self.out}/checkpoints/last lets it start from those weights"
            )

    def _resume(self, checkpoint: Path, trainer: dict[str, Any], reader: Reader) -> Reader:
        now = self.settings.model_dump(mode="json")
        other = list(changed(trainer["settings"], now))
        if other:
            self._say(f"changed since {checkpoint.name}: {', '.join(other)}")
        if trainer.get("steps", self.steps) != self.steps:
            self._say(f"the run has {self.steps} steps now, {trainer['steps']} before")
        load_named_state(self.model, self.optimizer, lambda empty: load_optimizer(checkpoint, empty))
        readers, reasons = trainer["readers"], list(self._disordered(trainer))
        if not reasons:
            exact = not any(name.startswith(("data.", "batch", "accumulate")) for name in other)
            where = "with the exact next batch" if exact else "with the next sample of every source"
            again = self._written_again(trainer, reader.sources)
            if again:
                where += (
                    f" if {len(again)} shards that were written again since, with the names and sizes that they had, hold the same "
                    f"samples: {', '.join(again[:3])}" + " …" * (len(again) > 3)
                )
            self._say(f"going on from {checkpoint} at step {self.step}, {where}")
            mine = readers[rank()]
            return self._reader(mine["step"], mine["positions"])
        self._say(
            f"going on from {checkpoint} at step {self.step}: weights, optimizer and schedule as they were, but "
            f"{', '.join(reasons)}, so the current epoch's order starts anew"
        )
        epochs = [at["epoch"] for reader in readers for turn in reader["positions"].values() for at in turn.values()]
        start = {**START, "epoch": max(epochs, default=0)}
        workers = max(1, self.settings.data.workers)
        positions = {str(turn): dict.fromkeys(reader.names, start) for turn in range(workers)}
        return self._reader(self.step * self.settings.accumulate, positions)

    def _written_again(self, trainer: dict[str, Any], sources: dict[str, tuple[list[str], float]]) -> list[str]:
        """Shards that are other files than at a checkpoint: copies, or other samples, which only reading them would tell."""
        before = trainer.get("written", self.written)
        return [
            shard
            for name, (shards, _) in sources.items()
            for shard in rewritten(shards, before.get(name, ""), self.written[name])
        ]

    def _disordered(self, trainer: dict[str, Any]) -> Iterator[str]:
        """Why the positions of a checkpoint do not hold in this run."""
        readers, workers = len(trainer["readers"]), trainer["workers"]
        if (readers, max(1, workers)) != (world(), max(1, self.settings.data.workers)):  # none is one of its own
            yield f"{readers} × {workers} readers became {world()} × {self.settings.data.workers}"
        before = trainer.get("order", self.order)
        for name in sorted(before.keys() | self.order.keys()):
            if before.get(name) != self.order.get(name):
                yield f"{name} changed"

    # -- loop -------------------------------------------------------------------------------------------------------------

    def to_the_end(self, requests: StopRequests) -> Path:
        self._say(
            f"stage {self.settings.stage}: {self.steps} steps of {self.settings.batch} × {world()} pairs on {self.model.device}, "
            f"{sum(p.numel() for p in self.model.parameters()):,} parameters, from step {self.step}"
        )
        optimizer = self.settings.optimizer
        if warmup_steps(self.steps, optimizer) >= self.steps > 1:
            highest = learning_rate(self.steps - 1, self.steps, optimizer)
            self._say(
                f"optimizer.warmup={optimizer.warmup:g} is as long as the run or longer: of optimizer.lr={optimizer.lr:g} it reaches "
                f"{highest:g}"
            )
        stopped = NOT
        saved_at = self.step
        gone_on_from = latest(self.out)
        if self._evaluate() and rank() == 0 and gone_on_from:
            point(gone_on_from.parent / "best", gone_on_from)
        while self.step < self.steps and not stopped:
            started = time.monotonic()
            micro = [next(self.loader) for _ in range(self.settings.accumulate)]
            waited = time.monotonic() - started
            outcome = self.stepper(self.step, micro)
            self._remember(micro, outcome)
            self.step += 1
            self.pairs += self.settings.batch * world()
            self.watch.add(outcome, micro, waited)
            del micro  # before the next one is asked for, which takes its room
            if self.step % self.settings.log_every == 0 or self.step == self.steps:
                self._report()
            stopped = requests.agreed()
            best = not stopped and self._evaluate()
            if self.step % self.settings.save.every == 0 or self.step == self.steps or stopped or best:
                self._check()
                self._save(best)
                saved_at = self.step
        self._check()
        self.saver.wait()
        if world() > 1:
            dist.barrier()
        if stopped:
            self._say(f"asked to stop: saved at step {saved_at} of {self.steps}; the same command goes on from there")
        if stopped == INTERRUPTED and self.step < self.steps:
            raise KeyboardInterrupt
        final = latest(self.out)
        assert final is not None
        return final

    def _evaluate(self) -> bool:
        """Whether an evaluation was due and these weights are the best so far."""
        if not self.evaluation or not self.evaluation.due(self.step):
            return False
        self._check()
        started = time.monotonic()
        best = self.evaluation(self.model, self.texts, self.step, self.watch.file, self.watch.boards)
        self.watch.pause(time.monotonic() - started)
        return best

    def _report(self) -> None:
        self._check()
        seen: list[Any] = [(self.loader.counts, self.loader.samples)]
        if world() > 1:
            seen = [None] * world()
            dist.all_gather_object(seen, (self.loader.counts, self.loader.samples))
        bad = sum((counts for counts, _ in seen), Counter[str]())
        notes = {"bad": dict(bad.most_common(NAMED)), "samples": sum(samples for _, samples in seen)}
        self.watch.report(self.step, self.optimizer, notes)

    def _remember(self, micro: list[Batch], outcome) -> None:
        uids = [uid for batch in micro for uid in batch.uids]
        values = {"total": outcome.terms.total.detach(), "grad_norm": outcome.grad_norm, **outcome.terms.values}
        self.recent.append((self.step, uids, {name: value.detach() for name, value in values.items()}))

    def _check(self) -> None:
        """Stop if anything was not finite since the last look; the weights are still those before it."""
        if self.stepper.trouble.item() == 0:
            return
        file = self.out / f"nonfinite-rank{rank()}.json"
        steps: list[dict[str, Any]] = [
            {"step": step, "uids": uids, "values": {name: value.item() for name, value in values.items()}}
            for step, uids, values in self.recent
        ]
        # The gradient's norm is the same on all ranks, so they agree on the step, whichever of them it came from.
        first = next((i for i, step in enumerate(steps) if not math.isfinite(step["values"]["grad_norm"])), 0)
        try:
            file.write_text(json.dumps(steps[first:], indent=1))
            told = f"The samples of that step and the values of its terms: {file}"
        except OSError as error:
            told = f"The samples of that step could not be written to {file} ({error}): {', '.join(steps[first]['uids'])}"
        raise NonFinite(
            f"a loss or gradient is not finite at step {steps[first]['step'] + 1}; no update was made with it or since. {told}"
        )

    # -- checkpoints ------------------------------------------------------------------------------------------------------

    def _save(self, best: bool = False) -> None:
        reader = self.loader.state()
        readers: list[Any] = [reader]
        if world() > 1:
            readers = [None] * world()
            dist.all_gather_object(readers, reader)
        self.saver.wait()  # the last one's copy of the weights is let go before the next is made
        self.saver.save(
            self.step,
            _on_host(self.model.state_dict()),
            named_state(self.model, self.optimizer),
            self.model.config,
            self.texts,
            {
                "step": self.step,
                "steps": self.steps,
                "pairs": self.pairs,
                "order": self.order,
                "written": self.written,
                "readers": readers,
                "workers": self.settings.data.workers,
                "settings": self.settings.model_dump(mode="json"),
            },
            (lambda folder: point(folder.parent / "best", folder)) if best else None,
        )

    def _say(self, text: str) -> None:
        if rank() == 0:
            print(text, flush=True)


def _pairs(trainer: dict[str, Any]) -> int:
    """Pairs that all ranks had seen by a checkpoint; an older one does not say so."""
    return trainer.get("pairs", trainer["step"] * trainer["settings"]["batch"] * len(trainer["readers"]))


def _on_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the whole tensors that later steps cannot change, on rank 0; nothing on the others, which must take part."""
    copies = {}
    for name, tensor in tensors.items():
        whole = full(tensor.detach())
        if rank() == 0:
            copies[name] = whole.to("cpu", copy=True)
    return copies
