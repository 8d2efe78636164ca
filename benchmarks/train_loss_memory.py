"""Memory and time of the sigmoid loss, forward and backward, by number of ranks: ours, and a plain one that keeps its
logits.

    python benchmarks/train_loss_memory.py [--ranks 1 2 4] [--batch 2048] [--width 768] [--chunk 512]

Real gloo processes on this machine. Memory is what forward and backward add at their peak on a rank to what was
resident before (VmHWM after a reset), the largest of all ranks. The plain loss gathers all texts and forms logits,
labels and log-sigmoids of its rows at once.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fgclip2_train.losses import sigmoid_contrastive
from fgclip2_train.ring import world


class Gathered(torch.autograd.Function):
    """All ranks' rows one after another; the gradient of this rank's is summed over ranks."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(world())]
        dist.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, upstream: Tensor) -> Tensor:
        dist.all_reduce(upstream)
        return upstream.chunk(world())[dist.get_rank()]


def plain(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    texts = Gathered.apply(text) if world() > 1 else text
    logits = image @ texts.T * scale + bias
    labels = -torch.ones_like(logits)
    labels[torch.arange(len(image)), torch.arange(len(image)) + len(image) * (dist.get_rank() if world() > 1 else 0)] = 1
    return -F.logsigmoid(labels * logits).sum() / len(image)


def resident(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def one_rank(rank: int, ranks: int, folder: str, batch: int, width: int, chunk: int) -> None:
    torch.set_num_threads(1)
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=ranks)
    torch.manual_seed(rank)
    rows = [F.normalize(torch.randn(batch, width), dim=-1).requires_grad_() for _ in range(2)]
    scalars = [torch.tensor(10.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)]
    losses = {"ours": lambda *inputs: sigmoid_contrastive(*inputs, chunk=chunk), "plain": plain}
    found = {}
    for name, loss in losses.items():
        for measured in (False, True):  # once to connect the ranks and to warm up
            for tensor in (*rows, *scalars):
                tensor.grad = torch.zeros_like(tensor)
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            if ranks > 1:
                dist.barrier()
            Path("/proc/self/clear_refs").write_text("5")
            before, started = resident("VmRSS"), time.process_time()
            value = loss(*rows, *scalars)
            value.backward()
            if measured:
                found[name] = (resident("VmHWM") - before, time.process_time() - started, value.item())
    torch.save(found, f"{folder}/{rank}.pt")
    if ranks > 1:
        dist.barrier()
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--chunk", type=int, default=512)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # freed memory goes back at once: what is measured is what is held
    size = f"{arguments.batch} pairs a rank, width {arguments.width}, chunk {arguments.chunk}, float32"
    print(
        f"{size}\n{'ranks':>5} {'ours MiB':>9} {'plain MiB':>10} {'ours CPU s':>11} {'plain CPU s':>12}   difference of the loss"
    )
    for ranks in arguments.ranks:
        with tempfile.TemporaryDirectory() as folder:
            work = (ranks, folder, arguments.batch, arguments.width, arguments.chunk)
            multiprocessing.start_processes(one_rank, args=work, nprocs=ranks, start_method="spawn")
            found = [torch.load(f"{folder}/{rank}.pt") for rank in range(ranks)]
        ours, theirs = ([one[name] for one in found] for name in ("ours", "plain"))
        mean = [sum(row[2] for row in rows) / ranks for rows in (ours, theirs)]
        print(
            f"{ranks:>5} {max(row[0] for row in ours) / 2**20:>9.1f} {max(row[0] for row in theirs) / 2**20:>10.1f} "
            f"{max(row[1] for row in ours):>11.2f} {max(row[1] for row in theirs):>12.2f}   {abs(mean[0] - mean[1]):.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
