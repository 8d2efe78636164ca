"""AdamW as FG-CLIP 2 is trained with it, and its learning rate."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from fgclip2_train.config import OptimizerSettings
from fgclip2_train.parallel import full, like


def make_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """Parameters with decay and without, sharded and whole ones apart (kernels take one kind at a time).

    Fused, so that a step can be called off on the device (`found_inf`).
    """
    norms = {id(p) for module in model.modules() if isinstance(module, nn.LayerNorm) for p in module.parameters(recurse=False)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decayed = id(parameter) not in norms and "bias" not in name
            groups[decayed, isinstance(parameter, DTensor)].append(parameter)
    described: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": settings.weight_decay if decayed else 0.0}
        for (decayed, _), parameters in groups.items()
    ]
    return torch.optim.AdamW(described, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True)


def learning_rate(step: int, steps: int, settings: OptimizerSettings) -> float:
    """Linear warm-up, then a cosine down to zero; `step` counts from 0."""
    warmup = math.ceil(settings.warmup * steps) if settings.warmup < 1 else int(settings.warmup)
    if step < warmup:
        return settings.lr * step / max(1, warmup)
    progress = (step - warmup) / max(1, steps - warmup)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def named_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's whole tensors under their parameters' names: `exp_avg.NAME`, `exp_avg_sq.NAME`, `step.NAME`. Collective."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{key}.{names[id(parameter)]}": full(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def load_named_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and f"exp_avg.{name}" in state:
            optimizer.state[parameter] = {
                key: like(state[f"{key}.{name}"], parameter) for key in ("step", "exp_avg", "exp_avg_sq")
            }
