"""Attention as each kind of device does it fastest; the same numbers up to rounding for every token that counts.

SDPA with a key mask cannot use the flash kernels. On a GPU in half precision the padded batch [B, T] is therefore read as 2·B
sequences one after another, a picture's tokens and then its padding: nothing is moved, shapes stay fixed, nothing waits for the
device, and padding only meets padding. What padded queries hold differs from the masked form; nobody reads it.

On a CPU SDPA is slow in bfloat16, slower than in float32; two batched products and a softmax take a half to a quarter of its time.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # before torch 2.10
    varlen_attn = None  # type: ignore[assignment]

NAME = "fgclip2"
PLAIN_UP_TO = 1024
"""Tokens up to which a CPU in bfloat16 keeps all scores: 25 MB per picture and layer of B/16 at that length."""


class Padding(NamedTuple):
    """keys [B, 1, 1, T]: true where a token counts. ends [2·B + 1] int32: where pictures and paddings begin and end."""

    keys: Tensor
    ends: Tensor


class Row(NamedTuple):
    """Texts one after another in one row of tokens [1, T, …]: pairs of how many and how long, as (100, 64), (20, 196)."""

    pieces: tuple[tuple[int, int], ...]

    def split(self, row: Tensor) -> list[Tensor]:
        """[1, T, …] -> of each length [count, length, …]"""
        parts = row[0].split([count * length for count, length in self.pieces])
        return [part.unflatten(0, piece) for part, piece in zip(parts, self.pieces, strict=True)]


def padding(valid: Tensor) -> Padding:
    """valid [B, T], true for the first tokens of every row."""
    batch, tokens = valid.shape
    starts = torch.arange(batch, device=valid.device, dtype=torch.int32) * tokens
    borders = torch.stack([starts + valid.sum(1, dtype=torch.int32), starts + tokens], dim=1).flatten()
    return Padding(valid[:, None, None], F.pad(borders, (1, 0)))


def layer_attention(
    module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Padding | Row | None, **_
) -> tuple[Tensor, None]:
    """What transformers' encoder layers call: query, key, value [B, heads, T, d] -> [B, T, heads, d]."""
    if isinstance(attention_mask, Row):
        parts = zip(*(attention_mask.split(part.transpose(1, 2)) for part in (query, key, value)), strict=True)
        return torch.cat([attend_texts(*part).flatten(0, 1) for part in parts])[None], None
    return attend(query, key, value, attention_mask).transpose(1, 2), None


def attend_texts(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[B, T, heads, d], every token over its own text."""
    return attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), None).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, pad: Padding | None) -> Tensor:
    """[B, heads, T, d], every token over the tokens that count."""
    half = query.dtype in (torch.bfloat16, torch.float16)
    if pad is not None and varlen_attn is not None and query.is_cuda and half and query.shape[2] == key.shape[2]:
        return attend_sequences(query, key, value, pad)
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and key.shape[2] <= PLAIN_UP_TO:
        return attend_plainly(query, key, value, pad)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=pad.keys if pad else None)


def attend_sequences(query: Tensor, key: Tensor, value: Tensor, pad: Padding) -> Tensor:
    """The same for tokens that count; padding attends to the padding of its own picture."""
    batch, heads, tokens, width = query.shape
    query, key, value = (part.transpose(1, 2).reshape(batch * tokens, heads, width) for part in (query, key, value))
    mixed = cast(Tensor, varlen_attn(query, key, value, pad.ends, pad.ends, tokens, tokens))
    return mixed.view(batch, tokens, heads, width).transpose(1, 2)


def attend_plainly(query: Tensor, key: Tensor, value: Tensor, pad: Padding | None) -> Tensor:
    """The same by products of whole matrices, which keep the scores."""
    batch, heads, tokens, width = query.shape
    query, key, value = (part.reshape(batch * heads, -1, width) for part in (query, key, value))
    bias = query.new_zeros(1, 1, 1)
    if pad is not None:
        bias = torch.where(pad.keys, 0.0, float("-inf")).to(query.dtype).expand(-1, heads, -1, -1).reshape(batch * heads, 1, -1)
    scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=width**-0.5)
    return torch.bmm(scores.softmax(-1).to(value.dtype), value).view(batch, heads, tokens, width)


ALL_ATTENTION_FUNCTIONS.register(NAME, layer_attention)
