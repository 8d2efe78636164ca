"""AdamW as FG-CLIP 2 is trained with it, and its learning rate."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from fgclip2_train.config import OptimizerSettings
from fgclip2_train.parallel import full


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


def warmup_steps(steps: int, settings: OptimizerSettings) -> int:
    return math.ceil(settings.warmup * steps) if settings.warmup < 1 else int(settings.warmup)


def learning_rate(step: int, steps: int, settings: OptimizerSettings) -> float:
    """Linear warm-up, then a cosine down to zero; `step` counts from 0."""
    warmup = warmup_steps(steps, settings)
    if step < warmup:
        return settings.lr * step / max(1, warmup)
    progress = (step - warmup) / max(1, steps - warmup)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@torch.no_grad()
def update_norm(optimizer: torch.optim.Optimizer) -> Tensor:
    """Norm of the last step's change of all parameters, worked out again from the moments that it was made with.

    Costs a pass over the parameters, but no copy of them.
    """
    squares = []
    for group in optimizer.param_groups:
        (beta1, beta2), lr = group["betas"], group["lr"]
        for parameter in group["params"]:
            state = optimizer.state.get(parameter)
            if state:
                mean = state["exp_avg"] / (1 - beta1 ** state["step"])
                scale = (state["exp_avg_sq"] / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
                change = mean.div_(scale).mul_(lr)
                # The decay was of the weight before the step: p' = (1 - lr·wd) p - change.
                before = (parameter + change).div_(1 - lr * group["weight_decay"])
                squares.append(full((before - parameter).square_().sum()))
    return torch.stack(squares).sum().sqrt() if squares else torch.zeros(())


def named_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors under their parameters' names, sharded as those are: `exp_avg.NAME`, `exp_avg_sq.NAME`, `step.NAME`."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{key}.{names[id(parameter)]}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def load_named_state(model: nn.Module, optimizer: torch.optim.Optimizer, fill: Callable[[dict[str, Tensor]], set[str]]) -> None:
    """`fill` overwrites the tensors that it is handed and says which ones; a parameter that it does not know starts anew."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    state = {}
    for name, parameter in trained.items():
        state[f"step.{name}"] = torch.zeros((), device=parameter.device)
        state |= {f"{key}.{name}": torch.zeros_like(parameter, requires_grad=False) for key in ("exp_avg", "exp_avg_sq")}
    found = fill(state)
    for name, parameter in trained.items():
        if f"exp_avg.{name}" in found:
            optimizer.state[parameter] = {key: state[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
