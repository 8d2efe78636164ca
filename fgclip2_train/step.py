"""One optimizer step: features, losses, gradients, and an update that a non-finite number anywhere calls off.

Nothing here waits for the device. Whether all is well is decided there: `trouble` stays set once a loss or gradient was not finite
on any rank, the fused optimizer skips every update while it is set, and the host looks where it reads the device anyway: before a
line of the log, a checkpoint and an evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from fgclip2_train.batch import Batch, hash_rows
from fgclip2_train.config import Settings
from fgclip2_train.model import Features, Fgclip2Model
from fgclip2_train.objective import Terms, compute
from fgclip2_train.optim import learning_rate
from fgclip2_train.parallel import average_whole_gradients, temperatures, total_norm
from fgclip2_train.ring import world


@dataclass
class Outcome:
    """Of one step, on the device: the loss terms and the norm of the (averaged) gradient."""

    terms: Terms
    grad_norm: Tensor


class Stepper:
    """`model` is the bare module, `runner` what its forward is called through (the DDP wrapper, or the module itself)."""

    def __init__(
        self, model: Fgclip2Model, runner: nn.Module, optimizer: torch.optim.Optimizer, settings: Settings, steps: int
    ):
        self.model, self.runner, self.optimizer, self.settings, self.steps = model, runner, optimizer, settings, steps
        self.device = model.logit_scale.device
        self.trouble = torch.zeros((), device=self.device)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def __call__(self, step: int, micro: list[Batch]) -> Outcome:
        """micro: the step's batch, in one part or several; parts may lie on the host, of which one at a time comes to the device."""
        lr = learning_rate(step, self.steps, self.settings.optimizer)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        terms = self._backward_whole(micro[0]) if len(micro) == 1 else self._backward_in_parts(micro)
        norm = self._finish(terms)
        return Outcome(terms, norm)

    # -- gradients --------------------------------------------------------------------------------------------------------

    def _encode(self, batch: Batch) -> Features:
        with self._precision():
            return self.runner(batch.to(self.device), regional=self.settings.regional)

    def _backward_whole(self, batch: Batch) -> Terms:
        batch = batch.to(self.device)
        terms = compute(self._encode(batch), batch, self.model, self.settings.loss)
        terms.total.backward()
        return terms

    def _backward_in_parts(self, micro: list[Batch]) -> Terms:
        """The exact gradient of the whole batch with the memory of a part (cached features).

        First all features without a graph; then the loss over all of them, and its gradient by feature; then each part again with
        a graph, pulled back by its share of that gradient. Nothing in the model is random, so both passes agree.
        """
        with torch.no_grad():
            parts = [self._encode(batch) for batch in micro]
        whole, batch = join_features(parts), join_batches(micro).to(self.device)
        leaves = {name: value.detach().requires_grad_() for name, value in whole.present().items()}
        terms = compute(Features(**leaves), batch, self.model, self.settings.loss)
        scalars = [p for p in temperatures(self.model) if p.requires_grad]
        wanted = [*leaves.values(), *scalars]
        gradients = dict(zip([*leaves, *range(len(scalars))], torch.autograd.grad(terms.total, wanted), strict=True))
        for index, part in enumerate(micro):
            last = index == len(micro) - 1
            with nullcontext() if last else self._no_sync():
                features = self._encode(part).present()
                pulled = [(value * share).sum() for name, value, share in self._shares(features, gradients, parts, index)]
                if last:  # the temperatures are no features: their gradient joins once
                    pulled += [(scalar * gradients[number]).sum() for number, scalar in enumerate(scalars)]
                torch.stack(pulled).sum().backward()
        return terms

    def _shares(self, features, gradients, parts: list[Features], index: int) -> Iterator[tuple[str, Tensor, Tensor]]:
        for name, value in features.items():
            start = sum(len(getattr(part, name)) for part in parts[:index])
            yield name, value, gradients[name][start : start + len(value)]

    def _no_sync(self) -> AbstractContextManager[Any]:
        return self.runner.no_sync() if isinstance(self.runner, DistributedDataParallel) else nullcontext()

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16")

    # -- update -----------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _finish(self, terms: Terms) -> Tensor:
        if isinstance(self.model, FSDPModule):
            average_whole_gradients(self.model)
        norm = total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.settings.optimizer.clip:
            for group in self.optimizer.param_groups:
                torch.nn.utils.clip_grads_with_norm_(group["params"], self.settings.optimizer.clip, norm)
        here = ~(terms.total.isfinite() & norm.isfinite() & terms.threshold.isfinite())
        self.trouble = torch.maximum(self.trouble, here.to(self.trouble))
        if world() > 1:
            dist.all_reduce(self.trouble, dist.ReduceOp.MAX)
        self.optimizer.found_inf = self.trouble  # type: ignore[attr-defined]  # what GradScaler hands a fused optimizer
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.model.rank_threshold.copy_(torch.where(self.trouble > 0, self.model.rank_threshold, terms.threshold))
        return norm


def join_features(parts: list[Features]) -> Features:
    return Features(**{name: torch.cat([getattr(part, name) for part in parts]) for name in parts[0].present()})


_OF_LOSSES = ("picture", "text", "region_language", "region_valid", "hard_valid")


def join_batches(parts: list[Batch]) -> Batch:
    """What the losses read of several batches, without the pictures. A phrase's number is its hash, equal in all parts: the losses only
    ask which phrases are the same."""
    joined: dict[str, Any] = {field.name: getattr(parts[0], field.name) for field in fields(Batch)}
    joined["patches"] = parts[0].patches[:0]
    joined |= {name: torch.cat([getattr(part, name) for part in parts]) for name in _OF_LOSSES}
    hashes = [hash_rows(part.phrases) for part in parts]
    for name in ("region_phrase", "hard_phrases"):
        joined[name] = torch.cat([own[getattr(part, name)] for own, part in zip(hashes, parts, strict=True)])
    joined["uids"] = [uid for part in parts for uid in part.uids]
    return Batch(**joined)
