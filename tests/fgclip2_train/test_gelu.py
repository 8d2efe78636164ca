"""GELU with its slope computed on the way says what torch's says."""

import pytest
import torch
import torch.nn.functional as F

from fgclip2_train.model import gelu as module
from fgclip2_train.model.gelu import Gelu


def gradients(function, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    value = function(x)
    return value.detach(), torch.autograd.grad(value.float().sum(), x)[0]


@pytest.mark.parametrize("shape", [(0,), (1,), (7, 3), (2, 100, 33)])
def test_value_and_gradient_are_those_of_torch_in_more_precision_rounded(shape, monkeypatch):
    monkeypatch.setattr(module, "PIECE", 64)  # pieces that do not divide what there is
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3).bfloat16()
    value, gradient = gradients(Gelu(), x)
    true_value, true_gradient = gradients(lambda v: F.gelu(v, approximate="tanh"), x.double())
    assert value.dtype == gradient.dtype == torch.bfloat16 and value.shape == x.shape
    torch.testing.assert_close(value.double(), true_value, rtol=2**-8, atol=1e-6)
    torch.testing.assert_close(gradient.double(), true_gradient, rtol=2**-8, atol=1e-6)


def test_every_finite_bfloat16_up_to_1e18_gives_finite_numbers():
    every = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    value, gradient = gradients(Gelu(), every[every.abs() < 1e18])
    assert value.isfinite().all() and gradient.isfinite().all()


def test_not_a_number_stays_one():
    value, gradient = gradients(Gelu(), torch.tensor([float("nan"), 1.0]).bfloat16())
    assert value.isnan().tolist() == gradient.isnan().tolist() == [True, False]


def test_a_transposed_input_keeps_its_places():
    x = torch.randn(5, 4).bfloat16().t()
    torch.testing.assert_close(gradients(Gelu(), x), gradients(Gelu(), x.contiguous()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_types_are_torchs_to_the_last_digit(dtype):
    x = torch.randn(50, dtype=dtype)
    for ours, theirs in zip(gradients(Gelu(), x), gradients(lambda v: F.gelu(v, approximate="tanh"), x), strict=True):
        assert torch.equal(ours, theirs)
