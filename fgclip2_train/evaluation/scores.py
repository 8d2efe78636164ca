"""Scores from unit vectors. A tie with the best counts as a hit only where the official protocol says so."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def recall_at_1(pictures: Tensor, texts: Tensor, pairs: Sequence[tuple[int, int]], chunk: int = 4096) -> dict[str, float]:
    """Retrieval both ways. pictures [N, D]; texts [T, D], all distinct; pairs: (picture, text) that belong together.

    A picture's best text is right if it is any of its own; a text's best picture is right if it is any that has this text, so
    that pictures described alike are no errors. Pictures without a text, and texts without a picture, are only distractors.
    """
    codes = torch.tensor([picture * len(texts) + text for picture, text in pairs])
    with_text = torch.tensor(sorted({picture for picture, _ in pairs}))
    with_picture = torch.tensor(sorted({text for _, text in pairs}))
    best_text = _best(pictures[with_text], texts, chunk)
    best_picture = _best(texts[with_picture], pictures, chunk)
    to_text = torch.isin(with_text * len(texts) + best_text, codes).double().mean().item()
    to_picture = torch.isin(best_picture * len(texts) + with_picture, codes).double().mean().item()
    return {
        "image_to_text": to_text,
        "text_to_image": to_picture,
        "mean": (to_text + to_picture) / 2,
        "chance": len(set(pairs)) / (len(with_text) * len(texts)),
        "pictures": len(pictures),
        "texts": len(texts),
    }


def _best(queries: Tensor, candidates: Tensor, chunk: int) -> Tensor:
    return torch.cat([(part @ candidates.T).argmax(1) for part in queries.split(chunk)])


def classify(regions: Tensor, classes: Tensor, labels: Tensor) -> dict[str, float]:
    """Top-1 of regions [N, D] among classes [C, D]; labels [N]."""
    right = (regions @ classes.T).argmax(1) == labels
    return {"top1": right.double().mean().item(), "chance": 1 / len(classes), "boxes": len(regions), "classes": len(classes)}


def picks_positive(region: Tensor, texts: Tensor) -> Tensor:
    """FG-OVD: whether the positive, texts[:, 0], reaches the best of its group. region [N, D], texts [N, K, D] -> bool [N]"""
    similarity = torch.einsum("nd,nkd->nk", region, texts)
    return similarity[:, 0] >= similarity.max(1).values
