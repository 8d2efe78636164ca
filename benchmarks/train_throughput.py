"""Samples/s, utilisation and memory of whole optimizer steps on this machine's GPU, synthetic batches, bf16.

    python benchmarks/train_throughput.py [--sizes base so400m] [--stages 1 2] [--tokens 256] [--batch N] [--eager]

Stage 2 has 3.3 regions and 0.83 hard groups per picture, FineHARD's proportions (40M boxes and 10M groups over 12M pictures).
Utilisation: operations the model needs (fgclip2_train/flops.py) over time over the data sheet's dense bf16 peak.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fgclip2_train.batch import Batch, pad_rows
from fgclip2_train.config import validate
from fgclip2_train.flops import peak_flops, step_flops
from fgclip2_train.model import Fgclip2Model
from fgclip2_train.model.configuration import FAMILY, GEMMA_VOCABULARY, sized
from fgclip2_train.optim import make_optimizer
from fgclip2_train.step import Stepper

REGIONS, GROUPS = 3.3, 0.83


def synthetic_batch(images: int, tokens: int, regional: bool, seed: int = 0, vocabulary: int = GEMMA_VOCABULARY) -> Batch:
    """Pictures of several aspects that fill the bucket as real ones do; all phrases distinct."""
    random = torch.Generator().manual_seed(seed)
    side = math.isqrt(tokens)
    shapes = [(side, side), (side - 2, tokens // (side - 2)), (tokens // (side - 4), side - 4)]
    grid = torch.tensor([shapes[i % 3] for i in range(images)])
    regions, groups = (round(images * REGIONS), round(images * GROUPS)) if regional else (1, 1)
    phrases = regions + 10 * groups
    corner = torch.rand(images, 4, 2, generator=random) * 0.6
    boxes = torch.cat([corner, corner + 0.1 + 0.3 * torch.rand(images, 4, 2, generator=random)], dim=-1)

    def ids(count: int, length: int, used: int) -> torch.Tensor:
        rows = torch.randint(5, vocabulary, (count, length), generator=random)
        return rows.masked_fill(torch.arange(length) >= used, 0)

    first = torch.arange(groups)[:, None]
    return Batch(
        patches=torch.randint(0, 256, (images, tokens, 768), dtype=torch.uint8, generator=random),
        grid=grid,
        short=ids(images, 64, 16),
        long=ids(images, 196, 140),
        picture=torch.arange(images),
        text=torch.arange(images)[:, None].expand(-1, 2),
        boxes=boxes,
        phrases=pad_rows(ids(phrases, 64, 9), 64),
        region_slot=pad_rows(torch.arange(regions) % (images * 4), 64),
        region_phrase=pad_rows(torch.arange(regions), 64),
        region_language=pad_rows(torch.zeros(regions, dtype=torch.int64), 64),
        region_valid=pad_rows(torch.ones(regions, dtype=torch.bool), 64),
        hard_slot=pad_rows(torch.arange(groups), 64),
        hard_phrases=pad_rows(torch.cat([first, regions + 10 * first + torch.arange(10)], dim=1), 64),
        hard_valid=pad_rows(torch.ones(groups, dtype=torch.bool), 64),
        extent=-(-int(grid.max()) // 16) * 16,
    )


def measure(
    size: str, stage: int, tokens: int, images: int, compiled: bool, checkpointed: bool, steps: int, device: torch.device
):
    settings = validate(
        {"stage": stage, "out": "-", "batch": images, "steps": 10**6, "precision": "bf16", "optimizer": {"lr": 1e-6}},
        "benchmark",
    )
    with torch.device(device):
        model = Fgclip2Model(sized(**FAMILY[size], vocabulary=GEMMA_VOCABULARY))
    model.freeze_unused(stage == 2)
    model.train()
    if checkpointed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if compiled:
        model.compile_layers()
    stepper = Stepper(model, model, make_optimizer(model, settings.optimizer), settings, settings.steps)
    batch = synthetic_batch(images, tokens, stage == 2).to(device)
    started = time.monotonic()
    for step in range(3):
        stepper(step, [batch])
    torch.cuda.synchronize()
    warm = time.monotonic() - started
    torch.cuda.reset_peak_memory_stats()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for step in range(steps):
        stepper(step + 3, [batch])
    end.record()
    torch.cuda.synchronize()
    seconds = begin.elapsed_time(end) / 1000 / steps
    flops = step_flops(model.config, batch, stage == 2)
    peak = peak_flops(device)
    return {
        "samples_per_s": images / seconds,
        "ms": seconds * 1000,
        "tflops": flops / seconds / 1e12,
        "mfu": flops / seconds / peak if peak else float("nan"),
        "gib": torch.cuda.max_memory_allocated() / 2**30,
        "warm": warm,
        "trouble": stepper.trouble.item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["base", "so400m"])
    parser.add_argument("--stages", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--tokens", nargs="+", type=int, default=[256, 1024])
    parser.add_argument("--batch", type=int, nargs="+", default=[256])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--checkpointed", action="store_true")
    arguments = parser.parse_args()
    device = torch.device("cuda", 0)
    torch.set_float32_matmul_precision("high")
    print(
        f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, bf16, {'eager' if arguments.eager else 'compiled'}"
    )
    print(
        f"{'model':<8} {'stage':>5} {'tokens':>6} {'batch':>5} {'samples/s':>9} {'ms/step':>8} {'TFLOP/s':>8} {'MFU':>6} {'GiB':>6}"
    )
    for size in arguments.sizes:
        for stage in arguments.stages:
            for tokens in arguments.tokens:
                for images in arguments.batch:
                    torch._dynamo.reset()
                    try:
                        r = measure(
                            size, stage, tokens, images, not arguments.eager, arguments.checkpointed, arguments.steps, device
                        )
                    except torch.OutOfMemoryError:
                        print(f"{size:<8} {stage:>5} {tokens:>6} {images:>5}   out of memory", flush=True)
                        torch.cuda.empty_cache()
                        continue
                    print(
                        f"{size:<8} {stage:>5} {tokens:>6} {images:>5} {r['samples_per_s']:>9.1f} {r['ms']:>8.1f} "
                        f"{r['tflops']:>8.1f} {r['mfu']:>6.1%} {r['gib']:>6.1f}"
                        + (f"   trouble {r['trouble']}" if r["trouble"] else ""),
                        flush=True,
                    )
                    torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
