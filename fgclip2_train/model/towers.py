"""The parts of SigLIP 2 that FG-CLIP 2 needs otherwise than transformers writes them; names and shapes stay the official ones.

Encoder layers are transformers' own. Replaced: position resize (a loop over images there), attention pooling (masks repeated per
head there), and pooled text (all positions normalised there, one needed).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.siglip2 import modeling_siglip2 as siglip2

from fgclip2_train.model.attention import Padding, Row, attend, attend_texts, padding
from fgclip2_train.model.configuration import Fgclip2TextConfig, Fgclip2VisionConfig
from fgclip2_train.model.geometry import Places, resize_positions, token_places


class VisionEmbeddings(siglip2.Siglip2VisionEmbeddings):
    def forward(self, pixels: Tensor, grid: Tensor, row: Tensor, column: Tensor) -> Tensor:  # type: ignore[override]
        """pixels [B, T, 3·p·p] -> [B, T, D]"""
        patches = self.patch_embedding(pixels)
        return patches + resize_positions(self.position_embedding.weight, grid, row, column).to(patches.dtype)


class AttentionHead(siglip2.Siglip2MultiheadAttentionPoolingHead):
    """SigLIP 2's pooling head; FG-CLIP 2 also uses a copy of it as a self-attention block over all tokens."""

    def forward(self, tokens: Tensor, pad: Padding | None) -> Tensor:  # type: ignore[override]
        """Pool by the learned probe. tokens [B, T, D] -> [B, D]"""
        probe = self.probe.to(tokens.dtype).expand(tokens.shape[0], 1, -1)
        return self._attend(probe, tokens, pad)[:, 0]

    def dense(self, tokens: Tensor, pad: Padding | None) -> Tensor:
        """Every token attends to the tokens that count; the input is not added back. -> [B, T, D]"""
        return self._attend(tokens, tokens, pad)

    def _attend(self, queries: Tensor, tokens: Tensor, pad: Padding | None) -> Tensor:
        attention, width = self.attention, tokens.shape[-1]
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        if queries is tokens:
            query, key, value = F.linear(tokens, weight, bias).chunk(3, dim=-1)
        else:
            query = F.linear(queries, weight[:width], bias[:width])
            key, value = F.linear(tokens, weight[width:], bias[width:]).chunk(2, dim=-1)
        mixed = attend(self._heads(query), self._heads(key), self._heads(value), pad)
        mixed = attention.out_proj(mixed.transpose(1, 2).flatten(2))
        return mixed + self.mlp(self.layernorm(mixed))

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class VisionTower(nn.Module):
    def __init__(self, config: Fgclip2VisionConfig):
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.encoder = siglip2.Siglip2Encoder(config)  # type: ignore[arg-type]
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.head = AttentionHead(config)

    def forward(self, pixels: Tensor, grid: Tensor) -> tuple[Tensor, Places, Padding]:
        """Tokens after the last norm [B, T, D], their places, and which of them count."""
        row, column, valid = places = token_places(grid, pixels.shape[1])
        pad = padding(valid)
        hidden = self.embeddings(pixels, grid, row, column)
        hidden = self.encoder(hidden, attention_mask=pad).last_hidden_state
        return self.post_layernorm(hidden), places, pad


class TextEmbeddings(siglip2.Siglip2TextEmbeddings):
    def __init__(self, config: Fgclip2TextConfig):
        super().__init__(config)
        self.keep = config.keep_len
        self.position_embedding_ori = nn.Embedding(config.longtext_len, config.hidden_size)
        self.position_embedding_res = nn.Embedding(config.longtext_len, config.hidden_size)

    def forward(self, ids: Tensor, long: bool) -> Tensor:  # type: ignore[override]
        """ids [B, L] -> [B, L, D]. L is part of the function: pads are attended to, and the last position is pooled."""
        if long:
            # Rows beyond `keep` of the one table and below it of the other exist only in the file.
            positions = torch.cat(
                [self.position_embedding_ori.weight[: self.keep], self.position_embedding_res.weight[self.keep :]]
            )
        else:
            positions = self.position_embedding.weight
        if ids.shape[-1] != positions.shape[0]:
            raise ValueError(
                f"the {'long' if long else 'short'} text walk takes exactly {positions.shape[0]} tokens, got {ids.shape[-1]}: "
                "pad on the right and truncate to that length"
            )
        return self.token_embedding(ids) + positions


class LastTextLayer(siglip2.Siglip2EncoderLayer):
    """The text encoder's last layer, for each text's last position alone: nothing else of it is ever read.

    Keys and values of all positions, everything else of one: a sixth of a layer's work. Same parameters as any other layer.
    """

    def forward(self, hidden_states: Tensor, attention_mask: Row, **_) -> Tensor:  # type: ignore[override]
        """[1, T, D] -> [1, N, D] of N texts."""
        attention, row = self.self_attn, attention_mask
        normed = self.layer_norm1(hidden_states)
        last, queries = (torch.cat([texts[:, -1] for texts in row.split(tokens)]) for tokens in (hidden_states, normed))
        query = attention.q_proj(queries).split([count for count, _ in row.pieces])
        key, value = (row.split(part) for part in (attention.k_proj(normed), attention.v_proj(normed)))
        mixed = [
            attend_texts(*(part.unflatten(-1, (attention.num_heads, -1)) for part in (one[:, None], keys, values)))
            for one, keys, values in zip(query, key, value, strict=True)
        ]
        last = last + attention.out_proj(torch.cat(mixed)[:, 0].flatten(1))
        return (last + self.mlp(self.layer_norm2(last)))[None]


class TextTower(nn.Module):
    def __init__(self, config: Fgclip2TextConfig):
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.encoder = siglip2.Siglip2Encoder(config)  # type: ignore[arg-type]
        self.encoder.layers[-1] = LastTextLayer(config)  # type: ignore[arg-type]
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.head = nn.Linear(config.hidden_size, config.projection_size or config.hidden_size)

    def forward(self, short: Tensor | None = None, long: Tensor | None = None) -> Tensor:
        """Hidden state of each text's last position, before any head: ids [N, 64], [M, 196] -> [N + M, D], the short ones first.

        Not causal, no mask, as FG-CLIP 2 is trained. Both lengths go through the layers in one row, so that weights are fetched once
        and their gradients summed within one product.
        """
        walks = [(ids, walk) for ids, walk in ((short, False), (long, True)) if ids is not None]
        row = Row(tuple((ids.shape[0], ids.shape[1]) for ids, _ in walks))
        hidden = torch.cat([self.embeddings(ids, walk).flatten(0, 1) for ids, walk in walks])[None]
        hidden = self.encoder(hidden, attention_mask=row).last_hidden_state  # type: ignore[arg-type]
        return self.final_layer_norm(hidden[0])
