"""All terms of a step, weighted and summed: FG-CLIP 2's total loss under the rules that a preset chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.distributed as dist
from pydantic import Field, field_validator
from torch import Tensor

from fgclip2_train import losses
from fgclip2_train.batch import Batch
from fgclip2_train.model import Features, Fgclip2Model
from fgclip2_train.strict import Strict

Weight = Annotated[float, Field(ge=0, le=1e6)]


class Weights(Strict):
    """What each term counts in the total. Defaults: the released code's."""

    short: Weight = 1.0
    long: Weight = 1.0
    fgv: Weight = 0.2
    tic: Weight = 0.1
    hard_batch: Weight = 0.3
    hard_group: Weight = 1.5
    hard_rank: Weight = 0.2


class LossSettings(Strict):
    """Rules of the terms. Every default is the released code's; presets/paper.yaml names what the paper says otherwise."""

    weights: Weights = Weights()
    tic_remove_above: float = Field(default=0.95, ge=-1, le=2)
    """Cosine; above 1 nothing is."""
    tic_hardest: int = Field(default=10, ge=1)
    tic_removed: Literal["zeroed", "dropped"] = "zeroed"
    tic_reduce: Literal["mean", "sum"] = "mean"
    tic_within_language: bool = False
    rank_similarity: Literal["logit", "cosine"] = "logit"
    threshold_over: Literal["ranks", "pairs"] = "ranks"
    threshold_clamp: tuple[float, float] = (0.0, 10.0)
    """Least and most."""
    mask_duplicates: bool = False
    """Leave out pairs whose picture or text is the same instead of counting them as negatives."""
    chunk: int = Field(default=1024, ge=1)
    """Rows of a matrix of similarities that are computed at a time."""

    @field_validator("threshold_clamp")
    @classmethod
    def _least_is_not_most(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(f"[least, most], and {value[0]} is above {value[1]}")
        return value


@dataclass
class Terms:
    """One step's outcome on this rank; all scalars on the device, nothing waits for them.

    values     unweighted, by the names of `Weights`     total  their weighted sum
    threshold  the rank loss's, for the next step        counts of what the terms saw
    margin     this rank's mean margin of its hard groups; 0 without any
    """

    total: Tensor
    values: dict[str, Tensor]
    threshold: Tensor
    regions: Tensor
    groups: Tensor
    margin: Tensor


def compute(
    features: Features,
    batch: Batch,
    model: Fgclip2Model,
    settings: LossSettings,
    group: dist.ProcessGroup | None = None,
) -> Terms:
    """Terms of one rank's step. Region terms only if `features` has them; the threshold's collective runs either way.

    `model` lends its four scalars and its threshold; the new threshold is returned, not written.
    """
    threshold = model.rank_threshold
    scale, bias = model.logit_scale.exp(), model.logit_bias
    values = {}
    for column, length in enumerate(("short", "long")):
        values[length] = losses.sigmoid_contrastive(
            features.image,
            getattr(features, length),
            scale,
            bias,
            identity=torch.stack([batch.picture, batch.text[:, column]], dim=-1) if settings.mask_duplicates else None,
            chunk=settings.chunk,
            group=group,
        )
    margin = count = torch.zeros_like(threshold)
    regions = groups = batch.hard_valid.new_zeros((), dtype=torch.int64)
    if features.region is not None:
        hard = _regional(features, batch, model, settings, threshold, values)
        margin, count = hard.margin.to(threshold), batch.hard_valid.sum().to(threshold)
        regions, groups = batch.region_valid.sum(), batch.hard_valid.sum()
    weights = settings.weights.model_dump()
    return Terms(
        total=sum(weights[name] * value for name, value in values.items()),
        values=values,
        threshold=losses.next_threshold(
            margin, count, threshold, over=settings.threshold_over, clamp=settings.threshold_clamp, group=group
        ),
        regions=regions,
        groups=groups,
        margin=margin,
    )


def _regional(features, batch, model, settings, threshold, values) -> losses.HardNegatives:
    """Adds the region terms to `values`, and gives the hard-negative block back for its margin."""
    masked = settings.mask_duplicates
    values["fgv"] = losses.region_contrastive(
        features.region,
        features.region_text,
        model.logit_scale_finegraind.exp(),
        batch.region_valid,
        identity=batch.region_phrase if masked else None,
        chunk=settings.chunk,
    )
    values["tic"] = losses.text_intra_modal(
        features.region_text,
        batch.region_valid,
        remove_above=settings.tic_remove_above,
        hardest=settings.tic_hardest,
        removed=settings.tic_removed,
        reduce=settings.tic_reduce,
        language=batch.region_language if settings.tic_within_language else None,
        chunk=settings.chunk,
    )
    hard = losses.hard_negatives(
        features.hard_region,
        features.hard_text,
        model.logit_scale_hardneg.exp(),
        threshold,
        batch.hard_valid,
        similarity=settings.rank_similarity,
        identity=batch.hard_phrases if masked else None,
        chunk=settings.chunk,
    )
    values |= {"hard_batch": hard.batch, "hard_group": hard.group, "hard_rank": hard.rank}
    return hard
