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
from torch import Tensor

from fgclip2_train.batch import Batch
from fgclip2_train.config import Settings
from fgclip2_train.errors import writing
from fgclip2_train.flops import peak_flops, step_flops
from fgclip2_train.model import Fgclip2Model
from fgclip2_train.optim import update_norm
from fgclip2_train.parallel import total_norm
from fgclip2_train.ring import rank, world
from fgclip2_train.step import Outcome

SILENT_STEPS = 50
"""Steps after which a region term that is exactly zero, while there are regions, means that something is broken. A step with less than
one of what the term is about, on average, counts for as much less."""

NEEDED = {
    "fgv": ("regions", 1),
    "tic": ("regions", 1),
    "hard_batch": ("groups", 0),
    "hard_group": ("groups", 0),
    "hard_rank": ("groups", 0),
}
"""What a term is about, and how much of it may leave it at zero: a region alone is compared with nothing."""


@dataclass
class Work:
    """What one rank did since the last report: tokens that count, operations that the model needs for them, seconds without data, and
    how many regions the records of its samples hold, used or not."""

    tokens: int = 0
    flops: float = 0.0
    waited: float = 0.0
    offered: int = 0


class Watch:
    """Collects on the device, reads once per `log_every` steps, writes `metrics.jsonl`, TensorBoard and wandb on rank 0."""

    def __init__(self, out: Path, model: Fgclip2Model, settings: Settings, steps: int, step: int = 0):
        """step: where the run goes on; what was said of later ones is forgotten."""
        self.file, self.model, self.settings, self.steps = out / "metrics.jsonl", model, settings, steps
        self.peak = peak_flops(model.device)
        self.sums: dict[str, Tensor] = {}
        self.count, self.work, self.silent = 0, Work(), dict[str, float]()
        self.ids = torch.zeros(0, 3, dtype=torch.int64)
        self.since = self.started = time.monotonic()
        self.boards: list[Board] = []
        if rank() == 0:
            self._drop_after(step)
            self.boards = _boards(out, settings, step)

    def pause(self, seconds: float) -> None:
        """Take time that was not spent on training (an evaluation) out of the rates."""
        self.since += seconds

    def _drop_after(self, step: int) -> None:
        """Forget lines of steps that a resumed run does again, and what a kill or a full disk left of one."""
        if self.file.is_file():
            kept = [line for line in self.file.read_text(errors="replace").splitlines() if _step_of(line) <= step]
            hidden = self.file.with_name(f".{self.file.name}")
            with writing(self.file):
                hidden.write_text("".join(line + "\n" for line in kept))
                hidden.rename(self.file)

    def add(self, outcome: Outcome, micro: list[Batch], waited: float) -> None:
        """micro: the step's batch as it left the reader, on the host."""
        for batch in micro:
            self.work.tokens += batch.tokens(self.settings.regional)
            self.work.flops += step_flops(self.model.config, batch, self.settings.regional)
            self.work.offered += batch.info.get("regions", 0)
        self.work.waited += waited
        self.ids = torch.cat([torch.cat([batch.picture[:, None], batch.text], dim=1) for batch in micro])
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
        work = stacked.new_tensor([self.work.tokens, self.work.flops, self.work.waited, self.work.offered])
        if world() > 1:
            dist.all_reduce(stacked)
            dist.all_reduce(work)
            stacked /= world()
        line: dict[str, Any] = {"step": step, **dict(zip(self.sums, stacked.tolist(), strict=True))}
        tokens, flops, waited, offered = work.tolist()
        line["regions_offered"] = offered / world() / self.count
        self._check_silence(line)
        seconds = time.monotonic() - self.since
        model, samples = self.model, self.settings.batch * world()
        line |= {
            "pairs": samples,
            **self._masked(),
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

    def _masked(self) -> dict[str, int]:
        """Pairs of the last step, of all ranks, that the short and the long term leave out."""
        if not self.settings.loss.mask_duplicates:
            return {"masked_short": 0, "masked_long": 0}
        parts = [self.ids]
        if world() > 1:
            parts = [torch.empty_like(self.ids) for _ in range(world())]
            dist.all_gather(parts, self.ids)
        picture, short, long = torch.cat(parts).unbind(1)
        return {"masked_short": alike(picture, short), "masked_long": alike(picture, long)}

    def _write(self, line: dict[str, Any]) -> None:
        with writing(self.file), self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")
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
        """On what all ranks agree, so all of them stop."""
        # Beyond its ceiling the threshold asks for nothing more.
        content = {"hard_rank"} if self.model.rank_threshold.item() >= self.settings.loss.threshold_clamp[1] else set()
        for term, (present, least) in NEEDED.items():
            dead = line.get(term) == 0 and line[present] > least and term not in content
            if self._silent_for(term, line[present] if dead else 0) >= SILENT_STEPS:
                raise ValueError(
                    f"{term} has been exactly 0 for {self.silent[term]:.0f} steps with {line[present]:.2g} {present} per step"
                )
        texts = self.settings.data.texts
        wanted = self.settings.regional and texts.max_regions > 0 and texts.region_languages
        offered = line["regions_offered"] if wanted and line["regions"] == 0 else 0
        if self._silent_for("regions", offered) >= SILENT_STEPS:
            raise ValueError(
                f"no region was trained on for {self.silent['regions']:.0f} steps, while the samples hold {offered:.2g} per step: "
                f"none is in the language that its sample is read in and data.texts.region_languages={texts.region_languages} "
                "has. Set that, or data.texts.max_regions=0 to train without"
            )

    def _silent_for(self, what: str, present: float) -> float:
        """Steps in a row in which there was something, on any rank, and nothing came of it."""
        self.silent[what] = self.silent.get(what, 0) + self.count * min(1.0, present * world()) if present else 0
        return self.silent[what]


def alike(picture: Tensor, text: Tensor) -> int:
    """Pairs i ≠ j, counted both ways, of equal picture or equal text: those of either, less those of both. picture, text  [N] hashes"""

    def equal(*columns: Tensor) -> int:
        counts = torch.stack(columns, dim=1).unique(dim=0, return_counts=True)[1]
        return int((counts * (counts - 1)).sum())

    return equal(picture) + equal(text) - equal(picture, text)


def _step_of(line: str) -> float:
    """Of a line of metrics.jsonl; infinity for a torn one."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


Board = Callable[[dict[str, float], int], None]


def _boards(out: Path, settings: Settings, step: int) -> list[Board]:
    """TensorBoard's files, and wandb if the run asks for it."""
    tensorboard = _tensorboard(out / "tensorboard", step)
    return [tensorboard, _wandb(out, settings)] if settings.wandb else [tensorboard]


def _tensorboard(folder: Path, step: int) -> Board:
    """Written by this thread: SummaryWriter leaves it to another one, which a full disk ends, and then waits for it for ever."""
    from tensorboardX.event_file_writer import EventsWriter  # brings boto3 along, which the other ranks need not wait for
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.summary import scalar

    folder.mkdir(parents=True, exist_ok=True)

    def write(event: Event) -> None:
        with writing(folder):
            writer.write_event(event)
            writer.flush()  # what a killed run said last is the most wanted

    with writing(folder):
        writer = EventsWriter(str(folder / "events"), f".{step}")
    # TensorBoard then leaves out what another run of this training said of the steps from here on.
    write(Event(step=step + 1, wall_time=time.time(), session_log=SessionLog(status=SessionLog.START)))

    def board(numbers: dict[str, float], step: int) -> None:
        event = Event(step=step, wall_time=time.time())
        for name, value in numbers.items():
            event.summary.value.extend(scalar(name, value).value)
        write(event)

    return board


def _wandb(out: Path, settings: Settings) -> Board:
    """A wandb run that a resumed training goes on with. Its own variables (WANDB_MODE=offline and so on) hold."""
    try:
        import wandb
    except ImportError:
        raise ValueError(
            f"wandb={settings.wandb}: the package wandb is not installed; install it or leave the setting out"
        ) from None
    name = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]
    try:
        run = wandb.init(
            project=settings.wandb,
            name=out.name,
            id=name,
            resume="allow",
            dir=str(out),
            config=settings.model_dump(mode="json"),
        )
    except wandb.Error as error:  # no key, or no way there
        raise ValueError(f"wandb={settings.wandb}: {error} WANDB_MODE=offline logs to files only") from error
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
