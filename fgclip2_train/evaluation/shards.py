"""Evaluate on shards: every number per language, from the shards' own texts, boxes and negatives."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from fgclip2_train.data.collate import BAD_PICTURE
from fgclip2_train.data.images import decode
from fgclip2_train.data.shards import Raw, find_shards, read_shard
from fgclip2_train.evaluation.encode import Encoder
from fgclip2_train.evaluation.scores import classify, picks_positive, recall_at_1

CHUNK = 128


@dataclass
class Collected:
    """Vectors of all pictures and boxes, and what the shards say of them."""

    pictures: list[Tensor] = field(default_factory=list)
    captions: dict[tuple[str, str], list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))
    """(language, length) -> (picture, text)"""
    regions: dict[str, list[tuple[Tensor, dict[str, Any]]]] = field(default_factory=lambda: defaultdict(list))
    """language -> (vector, record of the region)"""
    counts: Counter[str] = field(default_factory=Counter)


def evaluate_shards(encoder: Encoder, patterns: str | list[str], limit: int | None = None) -> dict[str, Any]:
    """Retrieval per language and length, boxes among all phrases, positives among ten negatives."""
    shards = find_shards(patterns)
    collected = collect(encoder, shards, limit)
    result: dict[str, Any] = {
        "samples": len(collected.pictures),
        "unreadable": dict(collected.counts),
        "retrieval": retrieval(encoder, collected),
        "boxes": boxes(encoder, collected),
        "hard_negatives": hard_negatives(encoder, collected),
    }
    return result


def collect(encoder: Encoder, shards: list[str], limit: int | None) -> Collected:
    found = Collected()
    samples = islice(_samples(shards, found.counts), limit)
    while chunk := list(islice(samples, CHUNK)):
        pictures = []
        kept: list[Raw] = []
        for raw in chunk:
            try:
                pictures.append(decode(raw.picture))
                kept.append(raw)
            except BAD_PICTURE:
                found.counts["bad: picture cannot be decoded"] += 1
        if not kept:
            continue
        own_boxes = [[region["box"] for region in raw.record["regions"]] for raw in kept]
        whole, parts = encoder.pictures(pictures, own_boxes)
        for raw, vector, regions in zip(kept, whole, parts, strict=True):
            number = len(found.pictures)
            found.pictures.append(vector)
            for text in raw.record["texts"]:
                found.captions[text["language"], text["length"]].append((number, text["text"]))
            for region, region_vector in zip(raw.record["regions"], regions, strict=True):
                found.regions[region["language"]].append((region_vector, region))
    if not found.pictures:
        raise ValueError(f"no readable sample in {len(shards)} shards")
    return found


def _samples(shards: list[str], counts: Counter[str]) -> Iterator[Raw]:
    for shard in shards:
        yield from read_shard(shard, counts, lambda place, record: True)


def retrieval(encoder: Encoder, found: Collected) -> dict[str, Any]:
    """Among the pictures that have a caption of that language and length. language -> length -> scores"""
    result: dict[str, Any] = defaultdict(dict)
    for (language, length), captions in sorted(found.captions.items()):
        distinct = {text: number for number, text in enumerate(dict.fromkeys(text for _, text in captions))}
        own = {picture: number for number, picture in enumerate(dict.fromkeys(picture for picture, _ in captions))}
        pairs = [(own[picture], distinct[text]) for picture, text in captions]
        pictures = torch.stack([found.pictures[picture] for picture in own])
        texts = encoder.words(list(distinct), "long" if length == "long" else "short")
        result[language][length] = recall_at_1(pictures, texts, pairs)
    return dict(result)


def boxes(encoder: Encoder, found: Collected) -> dict[str, Any]:
    """Each box among all distinct short phrases of its language. language -> scores"""
    result = {}
    for language, regions in sorted(found.regions.items()):
        phrases = {text: number for number, text in enumerate(dict.fromkeys(region["short"] for _, region in regions))}
        labels = torch.tensor([phrases[region["short"]] for _, region in regions])
        vectors = torch.stack([vector for vector, _ in regions])
        result[language] = classify(vectors, encoder.words(list(phrases), "box"), labels)
    return result


def hard_negatives(encoder: Encoder, found: Collected) -> dict[str, Any]:
    """Share of groups whose positive wins, in all and by family of the group's negatives. language -> scores"""
    result = {}
    for language, regions in sorted(found.regions.items()):
        groups = [(vector, region) for vector, region in regions if region["negatives"]]
        if not groups:
            continue
        flat = [text for _, region in groups for text in (region["short"], *(n["text"] for n in region["negatives"]))]
        texts = encoder.words(flat, "box").view(len(groups), -1, len(groups[0][0]))
        right = picks_positive(torch.stack([vector for vector, _ in groups]), texts)
        by_family: dict[str, list[bool]] = defaultdict(list)
        for hit, (_, region) in zip(right.tolist(), groups, strict=True):
            for family in {negative["family"] for negative in region["negatives"]}:
                by_family[family].append(hit)
        result[language] = {
            "accuracy": right.double().mean().item(),
            "chance": 1 / texts.shape[1],
            "groups": len(groups),
            "by_family": {family: sum(hits) / len(hits) for family, hits in sorted(by_family.items())},
        }
    return result
