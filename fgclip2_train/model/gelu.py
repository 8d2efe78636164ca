"""GELU in tanh's form, for a CPU in bfloat16, where torch's kernels for it and its derivative take twice the time they need."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

TANH_GELU = "gelu_pytorch_tanh"
"""Its name in a config.json."""
SCALE = 2 * math.sqrt(2 / math.pi)
CUBE = SCALE * 0.044715
PIECE = 2**16
"""Numbers that a thread takes at a time: what is computed of them stays in a core's own cache."""


class Gelu(nn.Module):
    """x · (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2, by torch wherever that is quick. The same numbers up to rounding."""

    def forward(self, x: Tensor) -> Tensor:
        slow = x.device.type == "cpu" and x.dtype == torch.bfloat16 and not torch.compiler.is_compiling()
        if slow and torch.is_grad_enabled() and x.requires_grad:
            return _KeepingSlope.apply(x)
        return F.gelu(x, approximate="tanh")


class _KeepingSlope(torch.autograd.Function):
    """Keeps the derivative in the place of x, which takes as much memory; the backward is then one product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        value, slope = with_slope(x)
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * ctx.saved_tensors[0]


def with_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """GELU of x and its derivative, of x's shape and type; computed in float32, piece by piece.

    (1 + tanh(y)) / 2 is the sigmoid s of 2y = x (a + b x²), so the value is x·s and the derivative s + x·s·(1 − s)·(a + 3b x²).
    """
    numbers = x.reshape(-1)
    value, slope = torch.empty_like(numbers), torch.empty_like(numbers)
    size = PIECE * torch.get_num_threads()
    room = torch.empty(3, min(size, len(numbers)), dtype=torch.float32)
    scale, doubled = torch.tensor(SCALE), torch.tensor(-2 * SCALE)
    for start in range(0, len(numbers), size):
        piece = slice(start, start + size)
        number, factor, sigmoid = room[:, : len(numbers[piece])]
        number.copy_(numbers[piece])
        torch.addcmul(scale, number, number, value=CUBE, out=factor)
        torch.mul(factor, number, out=sigmoid).sigmoid_()
        value[piece] = number.mul_(sigmoid)
        torch.add(doubled, factor, alpha=3, out=factor)
        slope[piece] = sigmoid.addcmul_(number.addcmul_(number, sigmoid, value=-1), factor)
    return value.view_as(x), slope.view_as(x)
