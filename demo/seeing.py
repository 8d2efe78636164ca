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
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

from demo.scenes import Scene, Thing
from demo.words import BACKGROUNDS, COLOURS, LIGHTS, SHAPES, SIZES, STYLES, SURFACES, TONES

CELL = 28
"""Pixels that one visual token stands for, each way."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

TOKEN_FACTS = {"colour": len(COLOURS), "shape": len(SHAPES), "surface": len(SURFACES), "size": len(SIZES), "count": 4}
SIDE = 512
"""Boxes are told to the heads in pixels, as answers name them, divided by this; shares of the picture's sides would have to be
multiplied by sides that the language model does not see."""
LISTED = 12
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
        mixed = attend(q, k, qkv[2], size**-0.5, causal=False)
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


def read(
    model: Any, ids: torch.Tensor, places: torch.Tensor, seen: torch.Tensor | None, image_token: int
) -> list[torch.Tensor]:
    """Hidden states [N, T, hidden] of right-padded texts, after no layer, after one, … and the last ones, normed.

    ids [N, T]   places [3, N, T]   seen [N, tokens, hidden]: what stands in the place of each text's image tokens
    """
    x = model.model.language_model.embed_tokens(ids)
    if seen is not None:
        x = x.masked_scatter((ids == image_token)[..., None], seen.to(x.dtype))
    out = model.model.language_model(inputs_embeds=x, position_ids=places, use_cache=False, output_hidden_states=True)
    return [*out.hidden_states[:-1], out.last_hidden_state]


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float, causal: bool) -> torch.Tensor:
    """Attention [B, heads, T, d] by plain products: on a CPU in bfloat16 torch's fused kernel takes twice as long backwards."""
    length = q.shape[2]
    bias = torch.zeros(length, length, dtype=q.dtype, device=q.device)
    if causal:
        bias = bias.fill_(float("-inf")).triu(1)
    scores = torch.baddbmm(bias, q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2), alpha=scaling)
    return torch.bmm(scores.softmax(-1).to(v.dtype), v.flatten(0, 1)).view(q.shape)


def _read_attention(
    module: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scaling: float, **_: Any
) -> tuple[torch.Tensor, None]:
    """What transformers calls for the language model's layers; right-padded texts need no mask but the causal one."""
    k, v = (part.repeat_interleave(q.shape[1] // part.shape[1], 1) for part in (k, v))
    return attend(q, k, v, scaling, causal=True).transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register("plain", _read_attention)


def glances(
    model: Any, layer: int, hidden: torch.Tensor, places: torch.Tensor, row: torch.Tensor, token: torch.Tensor
) -> torch.Tensor:
    """Where the first head of a layer looks from some tokens: log-probabilities [M, T], as the layer itself computes them.

    hidden [N, T, hidden] goes into the layer   places [3, N, T]   row, token [M]
    """
    language = model.model.language_model
    block = language.layers[layer]
    attention, x = block.self_attn, block.input_layernorm(hidden)
    size = attention.head_dim
    turns = language.rotary_emb(x, places)
    q = F.linear(x, attention.q_proj.weight[:size], attention.q_proj.bias[:size])
    k = F.linear(x, attention.k_proj.weight[:size], attention.k_proj.bias[:size])
    q, k = (part[:, 0].float() for part in apply_rotary_pos_emb(q[:, None], k[:, None], *turns))
    scores = torch.einsum("md,mtd->mt", q[row, token], k[row]) * attention.scaling
    later = torch.arange(hidden.shape[1], device=hidden.device) > token[:, None]
    return F.log_softmax(scores.masked_fill(later, float("-inf")), -1)


def missed(looks: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """How far `glances` are from falling on wanted tokens [M, T]: minus the log of the share that does, summed over those
    rows in which any is wanted."""
    some = wanted.any(-1)
    return -looks[some].masked_fill(~wanted[some], float("-inf")).logsumexp(-1).sum()


class Head(torch.nn.Module):
    """Says of each visual token what is there: whether a thing, its attributes and box, the box of its group; and of all
    together the background, light and style. Dropped when the model is exported."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.token = torch.nn.Linear(hidden, 1 + sum(TOKEN_FACTS.values()) + 8)
        self.scene = torch.nn.Linear(hidden, sum(SCENE_FACTS.values()))

    def forward(
        self, seen: torch.Tensor, facts: torch.Tensor, boxes: torch.Tensor, centres: torch.Tensor, scene: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss and accuracies. facts [B, tokens, 5] (-1: nothing there), boxes [B, tokens, 8],
        centres of the cells [tokens, 8], scene [B, 4] (-1: no scene)."""
        out = self.token(seen).float()
        boxes = boxes - centres  # the eye has no absolute positions
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
            + 24 * F.l1_loss(mine[:, at : at + 4], boxes[there][:, :4])
            + 24 * F.l1_loss(mine[:, at + 4 :], boxes[there][:, 4:])
        )
        marks["box"] = SIDE * (mine[:, at:] - boxes[there]).abs().mean()
        known = scene[:, 0] >= 0
        out, at = self.scene(seen.mean(1)).float()[known], 0
        for i, (name, size) in enumerate(SCENE_FACTS.items()):
            logits, truth = out[:, at : at + size], scene[known][:, i].long()
            loss = loss + 0.5 * F.cross_entropy(logits, truth)
            marks[name] = (logits.argmax(-1) == truth).float().mean()
            at += size
        return loss, {name: float(value) for name, value in marks.items()} if not self.training else {}


class Places(torch.nn.Module):
    """Says of each visual token, when the language model has put positions to it, the absolute boxes of what is there."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = torch.nn.RMSNorm(hidden)
        self.box = torch.nn.Linear(hidden, 8)

    def forward(self, hidden: torch.Tensor, facts: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Mean error, a share of SIDE. hidden [N, tokens, hidden], facts and boxes as of `Head`."""
        there = facts[..., 0] >= 0
        return _mean((self.box(self.norm(hidden[there].float())).float() - boxes[there]).abs())


def centres(rows: int, columns: int) -> torch.Tensor:
    """The middle of each cell, as two boxes without extent [tokens, 8]."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return ((torch.stack([x, y], -1).view(-1, 2) + 0.5) * CELL / SIDE).repeat(1, 4)


class NoteHead(torch.nn.Module):
    """Says at marked tokens of a text whether a statement is true, what the thing is that is spoken of, and how far a list has
    come (`lessons.Note`). It gives the language model a reason to compare and to count long before whole answers come right;
    dropped when the model is exported."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = torch.nn.RMSNorm(hidden)
        self.all = torch.nn.Linear(hidden, 1 + sum(TOKEN_FACTS.values()) + 4 + LISTED)

    def forward(self, hidden: torch.Tensor, notes: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss and accuracies. hidden [M, hidden]   notes [M, 11] as `note_row` writes them."""
        out = self.all(self.norm(hidden.float())).float()
        whole = notes[:, :7].long()
        said, spoken, listed, boxed = whole[:, 0] >= 0, whole[:, 1] >= 0, whole[:, 6] >= 0, notes[:, 7] >= 0
        logits, truth = out[said, 0], whole[said, 0]
        loss = _mean(F.binary_cross_entropy_with_logits(logits, truth.float(), reduction="none"))
        marks = {"truth": _mean(((logits > 0) == truth.bool()).float())}
        at, right = 1, []
        for i, size in enumerate(TOKEN_FACTS.values(), 1):
            logits, truth = out[spoken, at : at + size], whole[spoken, i]
            loss = loss + 0.4 * _mean(F.cross_entropy(logits, truth, reduction="none"))
            right.append(_mean((logits.argmax(-1) == truth).float()))
            at += size
        marks["spoken"] = torch.stack(right).mean()
        error = _mean((out[boxed, at : at + 4] - notes[boxed, 7:]).abs())
        marks["spoken box"] = SIDE * error
        logits, truth = out[listed, at + 4 :], whole[listed, 6]
        loss = loss + 16 * error + 0.3 * _mean(F.cross_entropy(logits, truth, reduction="none"))
        marks["place"] = _mean((logits.argmax(-1) == truth).float())
        return loss, {name: float(value) for name, value in marks.items()} if not self.training else {}


def _mean(values: torch.Tensor) -> torch.Tensor:
    """The mean, 0 where there is none."""
    return values.sum() / max(1, values.numel())


def note_row(truth: bool | None, thing: Thing | None, place: int | None, seen: bool) -> list[float]:
    """truth, five facts, place and box of one note, -1 for what is not known; a box only of what is `seen`."""
    facts = facts_of_thing(thing) if thing else [-1] * len(TOKEN_FACTS)
    box = [value / SIDE for value in thing.box] if thing and seen else [-1.0] * 4
    return [-1 if truth is None else float(truth), *facts, -1 if place is None else min(place, LISTED - 1), *box]


def facts_of_thing(thing: Thing) -> list[int]:
    return [
        list(COLOURS).index(thing.colour),
        list(SHAPES).index(thing.shape),
        list(SURFACES).index(thing.surface),
        list(SIZES).index(thing.size),
        thing.count - 1,
    ]


def facts_of(scene: Scene | None, width: int, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth for the head: facts [tokens, 5] int16, boxes [tokens, 8] float32 (pixels / SIDE), scene facts [4] int16."""
    rows, columns = height // CELL, width // CELL
    facts = np.full((rows, columns, 5), -1, np.int16)
    boxes = np.zeros((rows, columns, 8), np.float32)
    if scene is None:
        return facts.reshape(-1, 5), boxes.reshape(-1, 8), np.full(4, -1, np.int16)
    best = np.full((rows, columns), 0.18, np.float32)  # least share of the cell that a thing's box must cover
    for thing in scene.things:
        values = facts_of_thing(thing)
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
                        boxes[row, column] = np.array([x1, y1, x2, y2, *thing.box], np.float32) / SIDE
    named = [list(BACKGROUNDS).index(scene.background), list(TONES).index(scene.tone)]
    named += [list(LIGHTS).index(scene.light), list(STYLES).index(scene.style)]
    return facts.reshape(-1, 5), boxes.reshape(-1, 8), np.array(named, np.int16)
