"""Self-attention over padded pictures at the speed of attention without a mask.

SDPA with a key mask cannot use the flash kernels. On a GPU in half precision the padded batch [B, T] is therefore read as 2·B
sequences one after another, a picture's tokens and then its padding: nothing is moved, shapes stay fixed, nothing waits for the
device, and padding only meets padding. What padded queries hold differs from the masked form; nobody reads it.
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

NAME = "fgclip2_padded"


class Padding(NamedTuple):
    """keys [B, 1, 1, T]: true where a token counts. ends [2·B + 1] int32: where pictures and paddings begin and end."""

    keys: Tensor
    ends: Tensor


def padding(valid: Tensor) -> Padding:
    """valid [B, T], true for the first tokens of every row."""
    batch, tokens = valid.shape
    starts = torch.arange(batch, device=valid.device, dtype=torch.int32) * tokens
    borders = torch.stack([starts + valid.sum(1, dtype=torch.int32), starts + tokens], dim=1).flatten()
    return Padding(valid[:, None, None], F.pad(borders, (1, 0)))


def padded_attention(
    module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Padding | None, **_
) -> tuple[Tensor, None]:
    """What transformers' encoder layers call: query, key, value [B, heads, T, d] -> [B, T, heads, d]."""
    return attend(query, key, value, attention_mask).transpose(1, 2), None


def attend(query: Tensor, key: Tensor, value: Tensor, pad: Padding | None) -> Tensor:
    """[B, heads, T, d], every token over the tokens that count."""
    half = query.is_cuda and query.dtype in (torch.bfloat16, torch.float16)
    if pad is not None and varlen_attn is not None and half and query.shape[2] == key.shape[2]:
        return attend_sequences(query, key, value, pad)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=pad.keys if pad else None)


def attend_sequences(query: Tensor, key: Tensor, value: Tensor, pad: Padding) -> Tensor:
    """The same for tokens that count; padding attends to the padding of its own picture."""
    batch, heads, tokens, width = query.shape
    query, key, value = (part.transpose(1, 2).reshape(batch * tokens, heads, width) for part in (query, key, value))
    mixed = cast(Tensor, varlen_attn(query, key, value, pad.ends, pad.ends, tokens, tokens))
    return mixed.view(batch, tokens, heads, width).transpose(1, 2)


ALL_ATTENTION_FUNCTIONS.register(NAME, padded_attention)
