"""Sums over all ranks' texts without ever holding them: rows travel round a ring of neighbours.

At every moment a rank holds its own rows and one visitor's. Works on gloo and NCCL, and for one process without a process group.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor


def world(group: dist.ProcessGroup | None = None) -> int:
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def rank(group: dist.ProcessGroup | None = None) -> int:
    return dist.get_rank(group) if dist.is_available() and dist.is_initialized() else 0


def shift(tensors: list[Tensor], group: dist.ProcessGroup | None) -> list[Tensor]:
    """Hand every tensor to the next rank and take the previous rank's, all at once."""
    here, count = rank(group), world(group)
    ranks = dist.get_process_group_ranks(group or dist.group.WORLD)
    following, preceding = ranks[(here + 1) % count], ranks[(here - 1) % count]
    received = [torch.empty_like(tensor) for tensor in tensors]
    work = [dist.P2POp(dist.isend, tensor.contiguous(), following, group) for tensor in tensors]
    work += [dist.P2POp(dist.irecv, tensor, preceding, group) for tensor in received]
    for request in dist.batch_isend_irecv(work):
        request.wait()
    return received


def travel(tensors: list[Tensor], group: dist.ProcessGroup | None) -> Iterator[tuple[bool, list[Tensor]]]:
    """Yield (own, tensors) once per rank, this rank's own first. What is yielded may be changed in place: after the last stop
    everything has come home again, so a gradient that rides along ends where its rows belong. Every rank must exhaust it."""
    for stop in range(world(group)):
        yield stop == 0, tensors
        if world(group) > 1:
            tensors[:] = shift(tensors, group)


def mean_over_ranks(values: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    total = values.clone()
    if world(group) > 1:
        dist.all_reduce(total, group=group)
    return total / world(group)
