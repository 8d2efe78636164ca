"""Can the positive be found among its ten negatives without the picture, or with another picture?

A group is eleven texts, the positive first. Chance is 1/11 = 9.1 %.
    centroid   takes the text most like the other ten (bag of words and word pairs, characters in Chinese)
    outlier    takes the text least like the others
    n-gram     a linear choice model over n-grams, trained on groups of other phrases
    joint      the same with, for every n-gram, how many of the group's texts share it: a trained centroid attack
    picture    n-grams times the colours inside the box, trained alike: what a look gives; `shuffled`: the same model, asked with
               another group's picture
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

Group = list[str]
BUCKETS = 1 << 16
SEEN = 1 << 10
"""Buckets of n-grams that are multiplied with the colours."""


def grams(text: str, longest: int) -> list[str]:
    units = re.findall(r"[a-z0-9-]+|[^\sa-z0-9-]", text.lower())
    units = ["<", *units, ">"]
    return [" ".join(units[i : i + n]) for n in range(1, longest + 1) for i in range(len(units) - n + 1)]


def centroid(group: Group, sign: int = 1) -> float:
    """Probability that the positive is chosen as most (sign 1) or least (-1) like the sum of the others; ties are shared."""
    bags = [Counter(grams(text, 2)) for text in group]
    total: Counter[str] = Counter()
    for bag in bags:
        total.update(bag)
    scores = []
    for bag in bags:
        rest = {gram: total[gram] - bag[gram] for gram in total}
        dot = sum(count * rest[gram] for gram, count in bag.items())
        length = math.sqrt(sum(v * v for v in bag.values()) * sum(v * v for v in rest.values()))
        scores.append(sign * dot / length)
    best = max(scores)
    tied = [i for i, score in enumerate(scores) if score >= best - 1e-9]
    return (0 in tied) / len(tied)


def features(group: Group, joint: bool) -> list[list[int]]:
    bags = [set(grams(text, 3)) for text in group]
    if joint:
        shared = Counter(gram for bag in bags for gram in bag)
        marks = {gram: "1" if n == 1 else "2" if n < 6 else "6" if n < 11 else "=" for gram, n in shared.items()}
        bags = [bag | {f"{gram}#{marks[gram]}" for gram in bag} | {f"#{marks[gram]}" for gram in bag} for bag in bags]
    return [[_bucket(gram) for gram in sorted(bag)] for bag in bags]


def _bucket(gram: str) -> int:
    value = 2166136261
    for byte in gram.encode():
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value % BUCKETS


def learned(groups: Sequence[Group], joint: bool, seed: int, folds: int = 3) -> float:
    """Accuracy on groups of phrases that were not trained on (cross-validated)."""
    torch.manual_seed(seed)
    bags = [features(group, joint) for group in groups]
    right = 0.0
    for fold in range(folds):
        test = list(range(fold, len(bags), folds))
        held = set(test)
        train = [i for i in range(len(bags)) if i not in held]
        weights = torch.zeros(BUCKETS, requires_grad=True)
        optimizer = torch.optim.Adam([weights], lr=0.05)
        score = _scorer([bags[i] for i in train])
        for _ in range(60):
            optimizer.zero_grad()
            loss = -torch.log_softmax(score(weights), 1)[:, 0].mean() + 3e-4 * weights.square().sum()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            scores = _scorer([bags[i] for i in test])(weights)
            tied = scores >= scores.max(1, keepdim=True).values - 1e-6
            right += float((tied[:, 0] / tied.sum(1)).sum())
    return right / len(bags)


def _scorer(bags: list[list[list[int]]]) -> Callable[[torch.Tensor], torch.Tensor]:
    flat = torch.tensor([bucket for group in bags for bag in group for bucket in bag])
    sizes = torch.tensor([len(bag) for group in bags for bag in group])
    owner = torch.repeat_interleave(torch.arange(len(sizes)), sizes)

    def score(weights: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(sizes)).index_add(0, owner, weights[flat]).view(len(bags), -1)

    return score


def attack(groups: Sequence[Group], seed: int) -> dict[str, float]:
    return {
        "centroid": sum(centroid(group) for group in groups) / len(groups),
        "outlier": sum(centroid(group, -1) for group in groups) / len(groups),
        "n-gram": learned(groups, False, seed),
        "joint": learned(groups, True, seed),
    }


def colours(part: Image.Image) -> torch.Tensor:
    """Shares of 27 kinds of colour among the inner pixels of what a box shows."""
    small = np.asarray(part.convert("RGB").resize((12, 12), Image.Resampling.BILINEAR))[2:10, 2:10]
    kinds = (small // 86).reshape(-1, 3) @ np.array([9, 3, 1])
    return torch.tensor(np.bincount(kinds, minlength=27) / len(kinds), dtype=torch.float32)


def seen(groups: Sequence[Group], pictures: torch.Tensor, seed: int, folds: int = 3) -> tuple[float, float]:
    """Accuracy of a model that sees the colours of the box, and of the same model when the pictures are shuffled; cross-validated.

    pictures   [groups, 27]
    """
    torch.manual_seed(seed)
    bags = [[[_bucket(gram) % SEEN for gram in sorted(set(grams(text, 2)))] for text in group] for group in groups]
    right = shuffled = 0.0
    for fold in range(folds):
        test = list(range(fold, len(bags), folds))
        train = [i for i in range(len(bags)) if i % folds != fold]
        weights = torch.zeros(27, SEEN, requires_grad=True)
        optimizer = torch.optim.Adam([weights], lr=0.05)
        texts = _bags([bags[i] for i in train])
        for _ in range(80):
            optimizer.zero_grad()
            scores = torch.einsum("gts,gs->gt", texts, pictures[train] @ weights)
            loss = -torch.log_softmax(scores, 1)[:, 0].mean() + 1e-4 * weights.square().sum()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            texts = _bags([bags[i] for i in test])
            right += _first(torch.einsum("gts,gs->gt", texts, pictures[test] @ weights))
            others = [test[(k + 1 + len(test) // 2) % len(test)] for k in range(len(test))]
            shuffled += _first(torch.einsum("gts,gs->gt", texts, pictures[others] @ weights))
    return right / len(bags), shuffled / len(bags)


def _bags(groups: Sequence[list[list[int]]]) -> torch.Tensor:
    out = torch.zeros(len(groups), len(groups[0]), SEEN)
    for g, group in enumerate(groups):
        for t, bag in enumerate(group):
            out[g, t, bag] = 1.0
    return out


def _first(scores: torch.Tensor) -> float:
    """How often the first text is the best; ties are shared."""
    tied = scores >= scores.max(1, keepdim=True).values - 1e-6
    return float((tied[:, 0] / tied.sum(1)).sum())
