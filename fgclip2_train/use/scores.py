"""How well texts fit pictures, as the model was trained to say it: cosine, and the sigmoid loss's probability of belonging together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from fgclip2_train.use.towers import Towers, Walk


@dataclass(frozen=True)
class Scores:
    """cosine, probability [pictures, texts]; walks: how each text was read. Each pair is judged by itself: rows do not sum to one."""

    cosine: Tensor
    probability: Tensor
    walks: list[str]


def score(towers: Towers, pictures: Sequence[Image.Image], texts: Sequence[str], walk: Walk = "auto") -> Scores:
    """Texts of any length, English or Chinese, are lower-cased and read by the walk that holds them."""
    walks = towers.walks(texts, walk)
    return scores_of(towers, towers.pictures(pictures), towers.texts(texts, walk), list(walks))


def scores_of(towers: Towers, pictures: Tensor, texts: Tensor, walks: list[str]) -> Scores:
    """The same from unit vectors [N, D] and [T, D]."""
    cosine = pictures @ texts.T
    return Scores(cosine, torch.sigmoid(towers.scale * cosine + towers.bias), walks)
