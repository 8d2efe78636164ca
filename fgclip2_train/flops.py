"""Floating-point operations that the model needs, and what a device can do: their ratio is the utilisation.

Counted: matrix products of the towers, heads and attention, multiply and add as two, backward as twice the forward. Not counted:
recomputation, padding added for uniform shapes, embeddings, norms, losses. So recomputing or padding lowers the utilisation.
"""

from __future__ import annotations

import torch

from fgclip2_train.batch import Batch
from fgclip2_train.model import Fgclip2Config
from fgclip2_train.model.configuration import Fgclip2TextConfig

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}
"""Dense bf16 FLOP/s by a part of the device's name, from the makers' data sheets."""


def layer_flops(tokens: float, context: float, width: int, mlp: int) -> float:
    """Forward of one encoder layer over `tokens`, each attending to `context` tokens in the mean."""
    return tokens * (8 * width**2 + 4 * width * mlp + 4 * context * width)


def text_flops(text: Fgclip2TextConfig, number: int, length: int) -> float:
    """Forward of the text tower over `number` texts of `length` tokens."""
    width, mlp = text.hidden_size, text.intermediate_size
    whole = (text.num_hidden_layers - 1) * layer_flops(number * length, length, width, mlp)
    # The last layer: keys and values of all positions, everything else of one.
    return whole + number * (length * 4 * width**2 + 4 * width**2 + 4 * width * mlp + 4 * length * width)


def step_flops(config: Fgclip2Config, batch: Batch, regional: bool) -> float:
    """Forward and backward of one rank's batch, by the tokens that count. Waits for the device if the batch is there."""
    vision, text = config.vision, config.text
    counts = batch.grid.prod(1).double()
    tokens = counts.sum().item()
    context = counts.square().sum().item() / tokens  # a picture's tokens attend to each other
    layers = vision.num_hidden_layers + regional  # the dense head is one more
    total = layers * layer_flops(tokens, context, vision.hidden_size, vision.intermediate_size)
    total += tokens * 2 * 3 * vision.patch_size**2 * vision.hidden_size  # type: ignore[operator]
    total += tokens * 4 * vision.hidden_size**2  # keys and values of the pooling head
    short, long = text.max_position_embeddings, text.longtext_len
    texts = len(batch) + (batch.distinct_phrases if regional else 0)
    total += text_flops(text, texts, short) + text_flops(text, len(batch), long)
    return 3 * total


def peak_flops(device: torch.device) -> float | None:
    """Of a known GPU, else None."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK.items() if part in name), None)
