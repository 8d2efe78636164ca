"""Attention forward and backward on a CPU: torch's fused kernel against whole products, per type and shape of a B/16 step.

    python benchmarks/train_attention.py [--rounds 3]

`fgclip2_train/model/attention.py` chooses by what this shows. CPU time of one thread, medians, both in turn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fgclip2_train.model.attention import Padding, attend_plainly, padding

HEADS, WIDTH = 12, 64
SHAPES = {"a picture of 576 patches": (1, 576, 0.95), "16 phrases": (16, 64, None), "2 long texts": (2, 196, None)}
"""Sequences, tokens, and the share of them that is no padding (None: no mask)."""


def fused(query: Tensor, key: Tensor, value: Tensor, pad: Padding | None) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=pad.keys if pad else None)


def milliseconds(attend, joint: Tensor, pad: Padding | None, upstream: Tensor) -> float:
    leaf = joint.clone().requires_grad_()
    query, key, value = (part.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for part in leaf.chunk(3, dim=-1))
    started = time.process_time()
    attend(query, key, value, pad).backward(upstream)
    return 1000 * (time.process_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'ms':<34} {'fused':>8} {'products':>9}")
    for dtype in (torch.float32, torch.bfloat16):
        for name, (count, tokens, share) in SHAPES.items():
            joint = torch.randn(count, tokens, 3 * HEADS * WIDTH, dtype=dtype)
            upstream = torch.randn(count, HEADS, tokens, WIDTH, dtype=dtype)
            pad = padding(torch.arange(tokens).expand(count, -1) < share * tokens) if share else None
            times: dict[str, list[float]] = {"fused": [], "products": []}
            for _ in range(arguments.rounds + 1):
                times["fused"].append(milliseconds(fused, joint, pad, upstream))
                times["products"].append(milliseconds(attend_plainly, joint, pad, upstream))
            middle = {side: statistics.median(all_[1:]) for side, all_ in times.items()}
            kind = str(dtype).removeprefix("torch.")
            print(f"{kind + ', ' + name:<34} {middle['fused']:>8.1f} {middle['products']:>9.1f}", flush=True)


if __name__ == "__main__":
    main()
