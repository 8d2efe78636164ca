"""What a run says about itself: JSON lines, a line for people, and reasons to stop."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fgclip2_train.model import Fgclip2Model
from fgclip2_train.parallel import total_norm
from fgclip2_train.ring import rank, world
from fgclip2_train.step import Outcome

SILENT_STEPS = 50
"""Steps after which a region term that is exactly zero, while there are regions, means that something is broken."""


class NonFinite(RuntimeError):
    """A loss or gradient was not finite on some rank; no update was made with it or after it."""


class Watch:
    """Collects on the device, reads once per `every` steps, writes `metrics.jsonl` on rank 0."""

    def __init__(self, out: Path, model: Fgclip2Model, every: int, steps: int, batch: int):
        self.file, self.model, self.every, self.steps, self.batch = out / "metrics.jsonl", model, every, steps, batch
        self.sums: dict[str, Tensor] = {}
        self.count, self.waited, self.silent = 0, 0.0, dict[str, int]()
        self.since = self.started = time.monotonic()
        self.tensorboard = _tensorboard(out) if rank() == 0 else None

    def drop_after(self, step: int) -> None:
        """Forget lines of steps that a resumed run does again."""
        if rank() == 0 and self.file.is_file():
            kept = [line for line in self.file.read_text().splitlines() if line and json.loads(line)["step"] <= step]
            self.file.write_text("".join(line + "\n" for line in kept))

    def add(self, outcome: Outcome, waited: float) -> None:
        terms = outcome.terms
        seen = {"loss": terms.total.detach(), **{name: value.detach() for name, value in terms.values.items()}}
        seen |= {"grad_norm": outcome.grad_norm, "regions": terms.regions, "groups": terms.groups}
        for name, value in seen.items():
            value = value.to(torch.float64)
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1
        self.waited += waited

    def report(self, step: int, lr: float, notes: dict[str, Any]) -> dict[str, Any]:
        """Means over the steps since the last report and over ranks, with rates; also written and shown on rank 0."""
        stacked = torch.stack(list(self.sums.values())) / self.count
        if world() > 1:
            dist.all_reduce(stacked)
            stacked /= world()
        line: dict[str, Any] = {"step": step, **dict(zip(self.sums, stacked.tolist(), strict=True))}
        self._check_silence(line)
        seconds = time.monotonic() - self.since
        model = self.model
        line |= {
            "lr": lr,
            "threshold": model.rank_threshold.item(),
            "logit_scale": model.logit_scale.exp().item(),
            "logit_bias": model.logit_bias.item(),
            "logit_scale_finegraind": model.logit_scale_finegraind.exp().item(),
            "logit_scale_hardneg": model.logit_scale_hardneg.exp().item(),
            "param_norm": total_norm([p.detach() for p in model.parameters()]).item(),
            "samples_per_s": self.count * self.batch * world() / seconds,
            "data_wait": self.waited / seconds,
            "seconds": time.monotonic() - self.started,
            **notes,
        }
        self.sums, self.count, self.waited, self.since = {}, 0, 0.0, time.monotonic()
        if rank() == 0:
            self._write(line)
        return line

    def _write(self, line: dict[str, Any]) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self.tensorboard:
            for name, value in line.items():
                if isinstance(value, (int, float)):
                    self.tensorboard.add_scalar(name, value, line["step"])
        left = (self.steps - line["step"]) * self.batch * world() / line["samples_per_s"]
        terms = "  ".join(
            f"{name} {line[name]:.3f}" for name in ("short", "long", "fgv", "tic", "hard_group", "hard_rank") if name in line
        )
        print(
            f"step {line['step']}/{self.steps}  loss {line['loss']:.4f}  {terms}  lr {line['lr']:.1e}  "
            f"{line['samples_per_s']:.1f} samples/s  waiting {line['data_wait']:.0%}  ETA {_clock(left)}",
            flush=True,
        )

    def _check_silence(self, line: dict[str, Any]) -> None:
        for term, present in (("fgv", "regions"), ("tic", "regions"), ("hard_group", "groups")):
            dead = line.get(term) == 0 and line[present] > 1
            self.silent[term] = self.silent.get(term, 0) + self.count if dead else 0
            if self.silent[term] >= SILENT_STEPS:
                raise ValueError(
                    f"{term} has been exactly 0 for {self.silent[term]} steps with {line[present]:.0f} {present} per step"
                )


def _tensorboard(out: Path):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "tensorboard"))


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} m" if hours else f"{minutes} m {seconds:02} s"
