"""Scores from unit vectors. Who wins among equal scores is always said, never left to a sort."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from fgclip2_train.batch import hash_rows

COMPARED_AT_ONCE = 1 << 24
"""Numbers of one block of similarities."""
RECALLS = (1, 5, 10)

Scorer = Callable[[Tensor], Tensor]


def sigmoid_scores(log_scale: float, bias: float) -> Scorer:
    """Cosines to the released scripts' ranking scores."""
    scale = torch.tensor(log_scale).exp()
    return lambda cosine: torch.sigmoid(cosine * scale.to(cosine) + bias)


def recall(pictures: Tensor, texts: Tensor, pairs: Sequence[tuple[int, int]], scorer: Scorer | None = None) -> dict[str, Any]:
    """Retrieval both ways. pictures [N, D]; texts [T, D]; pairs: (picture, text) that belong together.

    A picture's best text is right if it is any of its own, a text's best picture likewise, so that pictures described alike are no
    errors once equal texts are one. Pictures without a text, and texts without a picture, are only distractors. Among equal scores,
    which equal vectors always have, the first wins; with a `scorer`, the last, as in the released scripts' ascending sort.
    """
    pairs = sorted(set(pairs))
    to_text = recall_one_way(pictures, texts, pairs, scorer)
    to_picture = recall_one_way(texts, pictures, [(text, picture) for picture, text in pairs], scorer)
    return {
        "image_to_text": to_text[1],
        "text_to_image": to_picture[1],
        "mean": (to_text[1] + to_picture[1]) / 2,
        "chance": len(pairs) / (len({picture for picture, _ in pairs}) * len(texts)),
        "pictures": len(pictures),
        "texts": len(texts),
        **{f"image_to_text_at_{k}": to_text[k] for k in RECALLS[1:]},
        **{f"text_to_image_at_{k}": to_picture[k] for k in RECALLS[1:]},
    }


def recall_one_way(
    queries: Tensor, candidates: Tensor, pairs: Sequence[tuple[int, int]], scorer: Scorer | None = None
) -> dict[int, float]:
    """Share of queries with a right candidate among their best 1, 5, 10. pairs: (query, right candidate)."""
    place = ranks(queries, candidates, pairs, scorer)
    return {k: (place < k).double().mean().item() for k in RECALLS}


def ranks(queries: Tensor, candidates: Tensor, pairs: Sequence[tuple[int, int]], scorer: Scorer | None = None) -> Tensor:
    """Place of the best right candidate of each query that has one, 0 for the first; queries in ascending order. int64"""
    if not pairs:
        raise ValueError("no pairs: nothing can be found")
    query, right = torch.tensor(pairs, device=queries.device).T
    order = torch.arange(len(candidates), device=queries.device)
    at_once = max(1, COMPARED_AT_ONCE // len(candidates))
    same = _first_of_equals(candidates)
    places = []
    for asked, wanted in zip(query.split(at_once), right.split(at_once), strict=True):
        distinct, row = asked.unique(return_inverse=True)
        scores = (queries[distinct] @ candidates.T)[:, same]
        if scorer:
            scores = scorer(scores)
        scores = torch.nan_to_num(scores, nan=float("-inf"))[row]  # a vector of nothing finds nothing
        own = scores.gather(1, wanted[:, None])
        before = order < wanted[:, None] if scorer is None else order > wanted[:, None]
        places.append(((scores > own) | ((scores == own) & before)).sum(1))
    best = torch.full((len(queries),), len(candidates), dtype=torch.int64, device=queries.device)
    best.scatter_reduce_(0, query, torch.cat(places), "amin")
    return best[query.unique()].cpu()


def _first_of_equals(rows: Tensor) -> Tensor:
    """For each row [N, D] the number of the first one that is equal to it. A product of matrices rounds equal rows differently."""
    bits = rows.contiguous().view(torch.int32)
    hashes = torch.cat([hash_rows(part.long()) for part in bits.split(4096)])
    _, group = hashes.unique(return_inverse=True)
    numbers = torch.arange(len(rows), device=rows.device)
    return torch.empty_like(numbers).scatter_reduce_(0, group, numbers, "amin", include_self=False)[group]


def classify(regions: Tensor, classes: Tensor, labels: Tensor) -> dict[str, float]:
    """Top-1 and top-5 of regions [N, D] among classes [C, D]; labels [N]. Among equal scores the first class wins."""
    place = ranks(regions, classes, list(enumerate(labels.tolist())))
    return {
        "top1": (place < 1).double().mean().item(),
        "top5": (place < 5).double().mean().item(),
        "chance": 1 / len(classes),
        "boxes": len(regions),
        "classes": len(classes),
    }


def picks_positive(region: Tensor, group: Tensor, ties: Literal["hit", "miss"]) -> bool:
    """FG-OVD: whether the positive, group[0], is the best. region [D], group [K, D]

    ties   "hit": reaching the best negative is enough, as in the released script. "miss": it must be above it.
    """
    similarity = (group * region).sum(-1)  # each row alike; a product of matrices rounds equal texts differently
    positive, negative = similarity[0].item(), similarity[1:].max().item()
    return positive >= negative if ties == "hit" else positive > negative
