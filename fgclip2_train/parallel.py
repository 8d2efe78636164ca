"""One model on several processes: replicated (DDP) or sharded (FSDP2). In float32 numbers are the same; memory and traffic are not.

In bfloat16 the sharded layers get their weights in half precision, as the released program's are, and so is what they hand on to one
another; replicated ones are autocast, which keeps that in float32. Losses then differ in the third digit, gradient norms in the second.
"""

from __future__ import annotations

import warnings

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from fgclip2_train.config import Settings
from fgclip2_train.model import Fgclip2Model
from fgclip2_train.ring import world


def spread(model: Fgclip2Model, settings: Settings) -> nn.Module:
    """What the forward is to be called through. Sharding replaces the parameters in place: make the optimizer afterwards."""
    if world() == 1:
        return model
    if settings.parallel == "ddp":
        # The threshold is the only buffer, and the same everywhere by its own collective.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
            return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
    half = settings.precision == "bf16"
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if half else None,
        reduce_dtype=torch.float32 if half else None,
        cast_forward_inputs=False,
    )
    # The temperatures are used in the losses, outside of any forward: they stay whole on every rank.
    whole: set[nn.Parameter] = set(temperatures(model))
    for tower in (model.vision_model, model.text_model):
        for layer in tower.encoder.layers:
            fully_shard(layer, mp_policy=policy)
    fully_shard(model, mp_policy=policy, ignored_params=whole)
    return model


def temperatures(model: Fgclip2Model) -> list[nn.Parameter]:
    return [model.logit_scale, model.logit_bias, model.logit_scale_finegraind, model.logit_scale_hardneg]


def average_whole_gradients(model: Fgclip2Model) -> None:
    """Under FSDP2, the mean over ranks of the gradients that it does not manage. One collective, in every step."""
    gradients = [p.grad for p in temperatures(model) if p.grad is not None]
    joined = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(joined)
    joined /= world()
    for gradient, mean in zip(gradients, joined.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def total_norm(tensors: list[Tensor]) -> Tensor:
    """Norm over all tensors, sharded ones by all their parts."""
    sharded = [tensor for tensor in tensors if isinstance(tensor, DTensor)]
    plain = [tensor for tensor in tensors if not isinstance(tensor, DTensor)]
    norms = [torch.nn.utils.get_total_norm(group) for group in (sharded, plain) if group]
    return torch.stack([full(norm) for norm in norms]).norm() if len(norms) > 1 else full(norms[0])


def full(tensor: Tensor) -> Tensor:
    """The whole tensor; a collective if it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
