"""What a run says about itself: JSON lines, a line for people, and reasons to stop."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tensorboardX import SummaryWriter
from torch import Tensor

from fgclip2_train.batch import Batch
from fgclip2_train.config import Settings
from fgclip2_train.flops import peak_flops, step_flops
from fgclip2_train.model import Fgclip2Model
from fgclip2_train.optim import update_norm
from fgclip2_train.parallel import total_norm
from fgclip2_train.ring import rank, world
from fgclip2_train.step import Outcome

SILENT_STEPS = 50
"""Steps after which a region term that is exactly zero, while there are regions, means that something is broken."""


@dataclass
class Work:
    """What one rank did since the last report: tokens that count, operations that the model needs for them, seconds without data."""

    tokens: int = 0
    flops: float = 0.0
    waited: float = 0.0


class Watch:
    """Collects on the device, reads once per `log_every` steps, writes `metrics.jsonl`, TensorBoard and wandb on rank 0."""

    def __init__(self, out: Path, model: Fgclip2Model, settings: Settings, steps: int):
        self.file, self.model, self.settings, self.steps = out / "metrics.jsonl", model, settings, steps
        self.peak = peak_flops(model.device)
        self.sums: dict[str, Tensor] = {}
        self.count, self.work, self.silent = 0, Work(), dict[str, int]()
        self.since = self.started = time.monotonic()
        self.boards = _boards(out, settings) if rank() == 0 else []

    def pause(self, seconds: float) -> None:
        """Take time that was not spent on training (an evaluation) out of the rates."""
        self.since += seconds

    def drop_after(self, step: int) -> None:
        """Forget lines of steps that a resumed run does again, and what a kill or a full disk left of one."""
        if rank() == 0 and self.file.is_file():
            kept = [line for line in self.file.read_text(errors="replace").splitlines() if _step_of(line) <= step]
            hidden = self.file.with_name(f".{self.file.name}")
            hidden.write_text("".join(line + "\n" for line in kept))
            hidden.rename(self.file)

    def add(self, outcome: Outcome, micro: list[Batch], waited: float) -> None:
        """micro: the step's batch as it left the reader, on the host."""
        for batch in micro:
            self.work.tokens += batch.tokens(self.settings.regional)
            self.work.flops += step_flops(self.model.config, batch, self.settings.regional)
        self.work.waited += waited
        terms = outcome.terms
        seen = {"loss": terms.total.detach(), **{name: value.detach() for name, value in terms.values.items()}}
        seen |= {"grad_norm": outcome.grad_norm, "regions": terms.regions, "groups": terms.groups}
        for name, value in seen.items():
            value = value.to(torch.float64)
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1

    def report(self, step: int, optimizer: torch.optim.Optimizer, notes: dict[str, Any]) -> dict[str, Any]:
        """Means over the steps since the last report and over ranks, with rates; also written and shown on rank 0."""
        stacked = torch.stack(list(self.sums.values())) / self.count
        work = stacked.new_tensor([self.work.tokens, self.work.flops, self.work.waited])
        if world() > 1:
            dist.all_reduce(stacked)
            dist.all_reduce(work)
            stacked /= world()
        line: dict[str, Any] = {"step": step, **dict(zip(self.sums, stacked.tolist(), strict=True))}
        tokens, flops, waited = work.tolist()
        self._check_silence(line)
        seconds = time.monotonic() - self.since
        model, samples = self.model, self.settings.batch * world()
        line |= {
            "lr": optimizer.param_groups[0]["lr"],
            "threshold": model.rank_threshold.item(),
            "logit_scale": model.logit_scale.exp().item(),
            "logit_bias": model.logit_bias.item(),
            "logit_scale_finegraind": model.logit_scale_finegraind.exp().item(),
            "logit_scale_hardneg": model.logit_scale_hardneg.exp().item(),
            "param_norm": total_norm([p.detach() for p in model.parameters()]).item(),
            "update_norm": update_norm(optimizer).item(),
            "samples_per_s": self.count * samples / seconds,
            "tokens_per_s": tokens / seconds,
            "tflops_per_s": flops / seconds / 1e12,
            "mfu": flops / seconds / (self.peak * world()) if self.peak else None,
            "data_wait": waited / world() / seconds,
            "seconds": time.monotonic() - self.started,
            "eta_seconds": (self.steps - step) * seconds / self.count,
            **notes,
        }
        self.sums, self.count, self.work, self.since = {}, 0, Work(), time.monotonic()
        if rank() == 0:
            self._write(line)
        return line

    def _write(self, line: dict[str, Any]) -> None:
        try:
            with self.file.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise ValueError(
                f"{self.file}: the run's numbers cannot be written ({error}); its checkpoints are whole"
            ) from error
        numbers = {name: value for name, value in line.items() if isinstance(value, (int, float)) and name != "step"}
        for board in self.boards:
            board(numbers, line["step"])
        terms = "  ".join(
            f"{name} {line[name]:.3f}" for name in ("short", "long", "fgv", "tic", "hard_group", "hard_rank") if name in line
        )
        used = f"  MFU {line['mfu']:.1%}" if line["mfu"] else ""
        print(
            f"step {line['step']}/{self.steps}  loss {line['loss']:.4f}  {terms}  lr {line['lr']:.1e}  "
            f"{line['samples_per_s']:.1f} samples/s  {line['tokens_per_s'] / 1000:.1f}k tokens/s{used}  "
            f"waiting {line['data_wait']:.0%}  ETA {_clock(line['eta_seconds'])}{_skipped(line.get('bad', {}))}",
            flush=True,
        )

    def _check_silence(self, line: dict[str, Any]) -> None:
        for term, present in (("fgv", "regions"), ("tic", "regions"), ("hard_batch", "groups"), ("hard_group", "groups")):
            dead = line.get(term) == 0 and line[present] > 1
            self.silent[term] = self.silent.get(term, 0) + self.count if dead else 0
            if self.silent[term] >= SILENT_STEPS:
                raise ValueError(
                    f"{term} has been exactly 0 for {self.silent[term]} steps with {line[present]:.0f} {present} per step"
                )


def _step_of(line: str) -> float:
    """Of a line of metrics.jsonl; infinity for a torn one."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


Board = Callable[[dict[str, float], int], None]


def _boards(out: Path, settings: Settings) -> list[Board]:
    """TensorBoard's files, and wandb if the run asks for it."""
    writer = SummaryWriter(str(out / "tensorboard"))

    def tensorboard(numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        writer.flush()  # what a killed run said last is the most wanted

    return [tensorboard, _wandb(out, settings)] if settings.wandb else [tensorboard]


def _wandb(out: Path, settings: Settings) -> Board:
    """A wandb run that a resumed training goes on with. Its own variables (WANDB_MODE=offline and so on) hold."""
    try:
        import wandb
    except ImportError:
        raise ValueError(
            f"wandb={settings.wandb}: the package wandb is not installed; install it or leave the setting out"
        ) from None
    name = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]
    run = wandb.init(
        project=settings.wandb, name=out.name, id=name, resume="allow", dir=str(out), config=settings.model_dump(mode="json")
    )
    return lambda numbers, step: run.log(numbers, step=step)


def _skipped(bad: dict[str, int]) -> str:
    """The commonest reasons for which samples were left out since the start."""
    if not bad:
        return ""
    told = [f"{reason.removeprefix('bad: ')} {count}" for reason, count in sorted(bad.items(), key=lambda item: -item[1])[:3]]
    return f"  skipped {sum(bad.values())}: {', '.join(told)}{' …' if len(bad) > 3 else ''}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} m" if hours else f"{minutes} m {seconds:02} s"
