"""The loss terms of FG-CLIP 2, each usable alone, all of them on masked rows so that every rank runs every term in every step.

Notation of the paper: v image, t text, r region, c region caption, g region with hard negatives, p its positive, n its negatives; all
vectors have unit length. `valid` marks the rows that count; a batch without any gives exactly zero, with zero gradients. Computed in
the features' own precision (float32 in training, float64 against reference numbers), `chunk` rows of a similarity matrix at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fgclip2_train.ring import mean_over_ranks, travel


def sigmoid_contrastive(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    identity: Tensor | None = None,
    chunk: int = 1024,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Pairwise sigmoid loss over all ranks (SigLIP; FG-CLIP 2 §3.2), each rank's mean over its own images.

    L = 1/B  sum_i sum_j  softplus(-y_ij (scale <v_i, t_j> + bias)),   y_ij = +1 iff i = j

    image  [B, D] unit rows     text  [B, D] unit rows, row i belongs to image i
    scale  one number, already exponentiated     bias  one number
    identity  [B, K] int64, optional: pairs i ≠ j that share any column's value say the same and are left out

    The gradient is summed up along with the value, block by block, so no logits outlive their block: memory is chunk · B, whatever
    the number of ranks. Texts (and their gradients) travel round the ring of ranks; averaging gradients over ranks then gives those
    of one big batch.
    """
    return _SigmoidContrastive.apply(image, text, scale, bias, identity, chunk, group)


class _SigmoidContrastive(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image, text, scale, bias, identity, chunk, group):
        wanted = any(ctx.needs_input_grad[:4])
        total = image.new_zeros(())
        d_image, d_scale, d_bias = torch.zeros_like(image), image.new_zeros(()), image.new_zeros(())
        ids = image.new_zeros((len(image), 0), dtype=torch.int64) if identity is None else identity
        riding = [text, torch.zeros_like(text), ids]  # after the last stop these are this rank's own again
        for own, (visitor, d_visitor, visitor_ids) in travel(riding, group):
            for start in range(0, len(image), chunk):
                rows = slice(start, start + chunk)
                cosine = image[rows] @ visitor.T
                logits = scale * cosine + bias
                # softplus(z) for negatives, softplus(-z) = softplus(z) - z for a row's own text.
                value, slope = _softplus(logits), torch.sigmoid(logits)
                if identity is not None:
                    alike = (ids[rows, None] == visitor_ids[None]).any(-1)
                    value, slope = value.masked_fill(alike, 0), slope.masked_fill(alike, 0)
                if own:
                    diagonal = logits.diagonal(start)
                    if identity is not None:
                        # Every row is "alike" itself: put back what the mask took.
                        value.diagonal(start).copy_(_softplus(diagonal))
                        slope.diagonal(start).copy_(torch.sigmoid(diagonal))
                    total -= diagonal.sum()
                    slope.diagonal(start).sub_(1)
                total += value.sum()
                if wanted:
                    d_image[rows] += slope @ visitor
                    d_visitor += slope.T @ image[rows]
                    d_scale += (slope * cosine).sum()
                    d_bias += slope.sum()
        if wanted:
            factor = scale / len(image)
            ctx.save_for_backward(d_image * factor, riding[1] * factor, d_scale / len(image), d_bias / len(image))
            ctx.shapes = scale.shape, bias.shape
        return total / len(image)

    @staticmethod
    def backward(ctx, upstream):
        d_image, d_text, d_scale, d_bias = (saved * upstream for saved in ctx.saved_tensors)
        scale_shape, bias_shape = ctx.shapes
        return d_image, d_text, d_scale.reshape(scale_shape), d_bias.reshape(bias_shape), None, None, None


def _softplus(logits: Tensor) -> Tensor:
    """log(1 + exp(z)), to the last digit: torch's takes z itself from 20 on, which is 2e-9 off."""
    return F.softplus(logits, threshold=40)


def region_contrastive(
    region: Tensor, text: Tensor, scale: Tensor, valid: Tensor, *, identity: Tensor | None = None, chunk: int = 1024
) -> Tensor:
    """Region–caption contrast within a rank (FGV): ½ [CE(α R Cᵀ, diag) + CE(α C Rᵀ, diag)].

    region, text  [R, D]     scale  α, exponentiated     valid  [R]
    identity  [R] int64, optional: different regions whose captions have the same one are not counted as negatives
    """
    scaled = scale * region

    def of_rows(rows: slice) -> Tensor:
        absent = ~valid[None]
        if identity is not None:
            absent = absent | (_same(identity, identity, rows) & ~_own(len(region), rows, region.device))
        target = torch.arange(rows.start, rows.stop, device=region.device)
        logits = scaled[rows] @ text.T
        transposed = logits.T if len(logits) == len(text) else text[rows] @ scaled.T
        to_text = F.cross_entropy(_without(logits, absent), target, reduction="none")
        to_region = F.cross_entropy(_without(transposed, absent), target, reduction="none")
        return (to_text + to_region) / 2

    return masked_mean(_in_chunks(of_rows, len(region), chunk), valid)


def text_intra_modal(
    text: Tensor,
    valid: Tensor,
    *,
    remove_above: float = 0.95,
    hardest: int = 10,
    removed: str = "zeroed",
    reduce: str = "mean",
    language: Tensor | None = None,
    chunk: int = 1024,
) -> Tensor:
    """Push apart region captions that are near but not the same (TIC): mean_i log sum_{k in top 10} exp(S_ik), S = C Cᵀ.

    text  [R, D]     valid  [R]     language  [R], optional: only captions of one language are compared
    removed  what becomes of pairs above `remove_above`: "zeroed" (released code: they come back into the top ten where fewer
             positive similarities remain) or "dropped" (paper). A row's own entry is a zero in both
    reduce   over rows: "mean" (released code) or "sum" (paper)
    """

    def of_rows(rows: slice) -> Tensor:
        similarity = text[rows] @ text.T
        own = _own(len(text), rows, text.device)
        gone = own | (similarity > remove_above)
        absent = ~valid[None]
        if language is not None:
            absent = absent | ~_same(language, language, rows)
        similarity = similarity.masked_fill(gone, 0)
        if removed == "dropped":
            absent = absent | (gone & ~own)  # the own entry stays as a zero, so that no row is empty
        nearest = _without(similarity, absent).topk(min(hardest, len(text)), dim=-1).values
        return nearest.logsumexp(-1)

    terms = _in_chunks(of_rows, len(text), chunk)
    return masked_mean(terms, valid) if reduce == "mean" else torch.where(valid, terms, 0).sum()


@dataclass
class HardNegatives:
    """Terms of the hard-negative block, not weighted, and this rank's mean margin.

    batch    A: the right pair among all texts and all regions of the rank     (in the released code only)
    group    G: the positive among its own eleven texts
    rank     C: the margin between positive and negatives, at least the threshold
    margin   mean positive minus mean negative similarity: the next threshold; 0 without groups
    """

    batch: Tensor
    group: Tensor
    rank: Tensor
    margin: Tensor


def hard_negatives(
    region: Tensor,
    texts: Tensor,
    scale: Tensor,
    threshold: Tensor,
    valid: Tensor,
    *,
    similarity: str = "logit",
    identity: Tensor | None = None,
    chunk: int = 1024,
) -> HardNegatives:
    """The three losses over hard groups (released code: 0.3 A + 1.5 G + 0.2 C).

    region  [H, D]     texts  [H, 11, D], the positive first     scale  β, exponentiated     threshold  one number     valid  [H]
    similarity  what C and the margin are measured in: "logit" (β times the cosine, released code) or "cosine" (paper)
    identity  [H, 11] int64 of the texts, optional: in A, other texts that say what the row's positive says, and regions that it also
              describes, are not counted as negatives
    """
    own = scale * torch.einsum("hd,hkd->hk", region, texts)

    def of_rows(rows: slice) -> Tensor:
        everything = scale * torch.einsum("hd,gkd->hkg", region[rows], texts)  # [chunk, 11, H]: each region with every text
        no_text = ~valid[None, None]
        no_region = ~valid[None]
        if identity is not None:
            positive = identity[:, 0]
            alike = positive[rows, None, None] == identity.T[None]
            alike[:, 0] &= ~_own(len(region), rows, region.device)
            no_text = no_text | alike
            no_region = no_region | alike[:, 0]
        target = torch.arange(rows.start, rows.stop, device=region.device)
        over_texts = _without(everything, no_text).flatten(1)  # positives are the first H columns
        over_regions = _without(scale * texts[rows, 0] @ region.T, no_region)
        return (
            F.cross_entropy(over_texts, target, reduction="none") + F.cross_entropy(over_regions, target, reduction="none")
        ) / 2

    among_own = F.cross_entropy(own, torch.zeros(len(own), dtype=torch.int64, device=own.device), reduction="none")

    measured = own if similarity == "logit" else own / scale
    positive, negative = measured[:, :1], measured[:, 1:]
    short_by = F.relu(threshold + negative - positive).mean(-1)
    margin = (positive.squeeze(-1) - negative.mean(-1)).detach()
    return HardNegatives(
        batch=masked_mean(_in_chunks(of_rows, len(region), chunk), valid),
        group=masked_mean(among_own, valid),
        rank=masked_mean(short_by, valid),
        margin=masked_mean(margin, valid),
    )


@torch.no_grad()
def next_threshold(
    margin: Tensor,
    count: Tensor,
    threshold: Tensor,
    *,
    over: str = "ranks",
    clamp: tuple[float, float] = (0.0, 10.0),
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """The rank loss's threshold for the next step. Communicates in every step, whatever the data.

    margin, count  this rank's mean margin and number of groups
    over  "ranks": mean of the ranks' means, a rank without groups hands on the old threshold (released code)
          "pairs": mean over all groups of all ranks; the old threshold where there are none (paper)
    """
    if over == "ranks":
        sums = mean_over_ranks(torch.where(count > 0, margin, threshold), group)
        return sums.clamp(*clamp)
    weighted, groups = mean_over_ranks(torch.stack([margin * count, count.to(margin)]), group)
    return torch.where(groups > 0, weighted / groups.clamp(min=torch.finfo(groups.dtype).tiny), threshold).clamp(*clamp)


def masked_mean(rows: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid rows; 0 without any. `where` keeps what invalid rows hold out of value and gradient."""
    return torch.where(valid, rows, 0).sum() / valid.sum().clamp(min=1)


def _without(logits: Tensor, absent: Tensor) -> Tensor:
    """Take entries out of a softmax. A finite floor, so that a row with nothing left stays finite; its exponential is exactly 0."""
    return logits.masked_fill(absent, torch.finfo(logits.dtype).min / 4)


def _in_chunks(of_rows: Callable[[slice], Tensor], count: int, chunk: int) -> Tensor:
    """of_rows(slice) for all rows, one after another. More than one chunk is computed again in the backward, so that no block outlives
    its use."""
    if count <= chunk:
        return of_rows(slice(0, count))
    parts = [slice(start, min(start + chunk, count)) for start in range(0, count, chunk)]
    return torch.cat([checkpoint(of_rows, rows, use_reentrant=False, preserve_rng_state=False) for rows in parts])


def _same(one: Tensor, other: Tensor, rows: slice) -> Tensor:
    return one[rows, None] == other[None]


def _own(count: int, rows: slice, device: torch.device) -> Tensor:
    """[rows, count] bool: where a row meets itself"""
    numbers = torch.arange(count, device=device)
    return _same(numbers, numbers, rows)
