"""The tiny Qwen2.5-VL that sees, as it is trained: whole batches of equal pictures without a loop, and a head that looks at
the visual tokens.

The weights are those of transformers' `Qwen2_5_VLForConditionalGeneration`; only the order of the arithmetic is another. All
vision blocks attend to the whole picture, so the windows that the original arranges its patches into play no part.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from demo.scenes import Scene
from demo.words import BACKGROUNDS, COLOURS, LIGHTS, SHAPES, SIZES, STYLES, SURFACES, TONES

CELL = 28
"""Pixels that one visual token stands for, each way."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

TOKEN_FACTS = {"colour": len(COLOURS), "shape": len(SHAPES), "surface": len(SURFACES), "size": len(SIZES), "count": 4}
SCENE_FACTS = {"background": len(BACKGROUNDS), "tone": len(TONES), "light": len(LIGHTS), "style": len(STYLES)}


def patches(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 [B, H, W, 3] → patches [B, tokens · 4, 3 · 2 · 14 · 14] as the processor orders them: a token's 2 by 2 together."""
    b, h, w, _ = pictures.shape
    mean, std = (torch.tensor(v, device=pictures.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    x = (pictures.permute(0, 3, 1, 2).float() / 255 - mean) / std
    x = x.view(b, 1, 3, h // CELL, 2, 14, w // CELL, 2, 14).expand(b, 2, 3, h // CELL, 2, 14, w // CELL, 2, 14)
    return x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(b, (h // 14) * (w // 14), 3 * 2 * 14 * 14)


def look(model: Any, pictures: torch.Tensor) -> torch.Tensor:
    """Merged visual tokens [B, tokens, hidden] of equal-sized pictures, uint8 [B, H, W, 3]."""
    visual = model.model.visual
    x = patches(pictures)
    weight = visual.patch_embed.proj.weight
    x = F.linear(x.to(weight.dtype), weight.view(weight.shape[0], -1))
    rows, columns = pictures.shape[1] // CELL, pictures.shape[2] // CELL
    y, x_at = torch.meshgrid(torch.arange(rows * 2), torch.arange(columns * 2), indexing="ij")
    order = torch.stack([y, x_at], -1).view(rows, 2, columns, 2, 2).permute(0, 2, 1, 3, 4).reshape(-1, 2)
    heads = visual.blocks[0].attn.num_heads
    size = weight.shape[0] // heads
    frequency = 1.0 / (10000.0 ** (torch.arange(0, size // 2, 2, dtype=torch.float) / (size // 2)))
    angle = (order[:, :, None].float() * frequency).flatten(1).repeat(1, 2).to(x.device)
    cos, sin = angle.cos()[None, None], angle.sin()[None, None]
    for block in visual.blocks:
        qkv = block.attn.qkv(block.norm1(x)).view(x.shape[0], x.shape[1], 3, heads, size).permute(2, 0, 3, 1, 4)
        q, k = (_turned(part.float(), cos, sin).to(qkv.dtype) for part in qkv[:2])
        mixed = F.scaled_dot_product_attention(q, k, qkv[2])
        x = x + block.attn.proj(mixed.transpose(1, 2).reshape(x.shape))
        x = x + block.mlp(block.norm2(x))
    merger = visual.merger
    return merger.mlp(merger.ln_q(x).reshape(x.shape[0], -1, 4 * x.shape[2]))


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def positions(length: int, start: int, rows: int, columns: int) -> np.ndarray:
    """Time, row and column of each token [3, length]; the picture's tokens begin at `start` (-1: no picture)."""
    if start < 0:
        return np.tile(np.arange(length, dtype=np.int16), (3, 1))
    tokens = rows * columns
    after = start + max(rows, columns)
    place = np.empty((3, length), np.int16)
    place[:, :start] = np.arange(start)
    place[0, start : start + tokens] = start
    place[1, start : start + tokens] = start + np.repeat(np.arange(rows), columns)
    place[2, start : start + tokens] = start + np.tile(np.arange(columns), rows)
    place[:, start + tokens :] = after + np.arange(length - start - tokens)
    return place


def read(model: Any, ids: torch.Tensor, places: torch.Tensor, seen: torch.Tensor | None, image_token: int) -> torch.Tensor:
    """Last hidden states [N, T, hidden] of right-padded texts.

    ids [N, T]   places [3, N, T]   seen [N, tokens, hidden]: what stands in the place of each text's image tokens
    """
    x = model.model.language_model.embed_tokens(ids)
    if seen is not None:
        x = x.masked_scatter((ids == image_token)[..., None], seen.to(x.dtype))
    return model.model.language_model(inputs_embeds=x, position_ids=places, use_cache=False).last_hidden_state


class Head(torch.nn.Module):
    """Says of each visual token what is there: whether a thing, its attributes and box, the box of its group; and of all
    together the background, light and style. Dropped when the model is exported."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.token = torch.nn.Linear(hidden, 1 + sum(TOKEN_FACTS.values()) + 8)
        self.scene = torch.nn.Linear(hidden, sum(SCENE_FACTS.values()))

    def forward(
        self, seen: torch.Tensor, facts: torch.Tensor, boxes: torch.Tensor, scene: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss and accuracies. facts [B, tokens, 5] (-1: nothing there), boxes [B, tokens, 8], scene [B, 4] (-1: no scene)."""
        out = self.token(seen).float()
        there = facts[..., 0] >= 0
        loss = 2 * F.binary_cross_entropy_with_logits(out[..., 0], there.float())
        marks = {"there": ((out[..., 0] > 0) == there).float().mean()}
        mine, at = out[there], 1
        for i, (name, size) in enumerate(TOKEN_FACTS.items()):
            logits, truth = mine[:, at : at + size], facts[..., i][there].long()
            loss = loss + F.cross_entropy(logits, truth)
            marks[name] = (logits.argmax(-1) == truth).float().mean()
            at += size
        loss = (
            loss
            + 8 * F.l1_loss(mine[:, at : at + 4], boxes[there][:, :4])
            + 8 * F.l1_loss(mine[:, at + 4 :], boxes[there][:, 4:])
        )
        marks["box"] = (mine[:, at:] - boxes[there]).abs().mean()
        known = scene[:, 0] >= 0
        out, at = self.scene(seen.mean(1)).float()[known], 0
        for i, (name, size) in enumerate(SCENE_FACTS.items()):
            logits, truth = out[:, at : at + size], scene[known][:, i].long()
            loss = loss + 0.5 * F.cross_entropy(logits, truth)
            marks[name] = (logits.argmax(-1) == truth).float().mean()
            at += size
        return loss, {name: float(value) for name, value in marks.items()} if not self.training else {}


def facts_of(scene: Scene | None, width: int, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth for the head: facts [tokens, 5] int16, boxes [tokens, 8] float32 (shares of the picture), scene facts [4] int16."""
    rows, columns = height // CELL, width // CELL
    facts = np.full((rows, columns, 5), -1, np.int16)
    boxes = np.zeros((rows, columns, 8), np.float32)
    if scene is None:
        return facts.reshape(-1, 5), boxes.reshape(-1, 8), np.full(4, -1, np.int16)
    best = np.full((rows, columns), 0.18, np.float32)  # least share of the cell that a thing's box must cover
    scale = np.array([width, height, width, height], np.float32)
    for thing in scene.things:
        values = (
            list(COLOURS).index(thing.colour),
            list(SHAPES).index(thing.shape),
            list(SURFACES).index(thing.surface),
            list(SIZES).index(thing.size),
            thing.count - 1,
        )
        for x1, y1, x2, y2 in thing.instances:
            for row in range(y1 // CELL, min(rows, (y2 - 1) // CELL + 1)):
                for column in range(x1 // CELL, min(columns, (x2 - 1) // CELL + 1)):
                    wide = min(x2, (column + 1) * CELL) - max(x1, column * CELL)
                    high = min(y2, (row + 1) * CELL) - max(y1, row * CELL)
                    covered = wide * high / CELL**2
                    middle = row == (y1 + y2) // 2 // CELL and column == (x1 + x2) // 2 // CELL
                    if covered > best[row, column] or (middle and facts[row, column, 0] < 0):
                        best[row, column] = covered
                        facts[row, column] = values
                        boxes[row, column] = np.array([x1, y1, x2, y2, *thing.box], np.float32) / np.tile(scale, 2)
    named = [list(BACKGROUNDS).index(scene.background), list(TONES).index(scene.tone)]
    named += [list(LIGHTS).index(scene.light), list(STYLES).index(scene.style)]
    return facts.reshape(-1, 5), boxes.reshape(-1, 8), np.array(named, np.int16)
