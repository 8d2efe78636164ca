"""Readers over little shards, and samples to put into these."""

from __future__ import annotations

import json
import random

import torch
from make_shards import record, scene

from fgclip2_train.data.loader import DataSettings, Reader
from fgclip2_train.data.samples import TextSettings

BOTH = TextSettings(region_languages=["en", "zh"], negative_languages=["en", "zh"])


def reader(shards, texts, batch=4, step=0, positions=None, rank=0, ranks=1, **settings) -> Reader:
    settings = {"patches": 16, "shuffle_block": 7, "open_shards": 2, "pad_regions_to": 4, "texts": BOTH} | settings
    chosen = DataSettings(shards=shards, **settings)
    return Reader(chosen, texts, batch, lengths=(24, 40), seed=3, rank=rank, ranks=ranks, step=step, positions=positions)


def same(one, other) -> bool:
    ours, theirs = one.tensors(), other.tensors()
    return one.uids == other.uids and all(torch.equal(ours[name], theirs[name]) for name in ours)


def sample(uid: str, /, **changes) -> tuple[str, bytes, bytes]:
    picture, objects = scene(random.Random(uid), 64)
    whole = record(uid, picture, objects, ["en"], 64) | changes
    return uid, picture, json.dumps(whole).encode()


def in_language(language: str, first: int, count: int) -> list:
    samples = []
    for number in range(first, first + count):
        picture, objects = scene(random.Random(number), 64)
        uid = f"{number:032x}"
        samples.append((uid, picture, json.dumps(record(uid, picture, objects, [language], 64)).encode()))
    return samples
