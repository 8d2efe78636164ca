"""A rank's batch from chosen samples: pictures decoded and cut one at a time, all texts tokenised in one call per length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from fgclip2_train.batch import TEXTS_PER_GROUP, Batch, pack_phrases, pad_rows
from fgclip2_train.data import images
from fgclip2_train.data.samples import Chosen, text_hash
from fgclip2_train.data.shards import Raw
from fgclip2_train.data.tokens import Texts

LANGUAGES = ("en", "zh")
UNDECODABLE = "bad: picture cannot be decoded"


def fill_patches(
    raws: list[Raw],
    patches: torch.Tensor,
    counts: Counter[str],
    replace: Callable[[int], Raw],
    vary: Callable[[int, Image.Image], Image.Image],
) -> np.ndarray:
    """Writes the pictures to patches [B, bucket, 768], whatever was there, and gives their grids [B, 2]. A picture that cannot be
    decoded is counted, and `replace(row)` gives another sample for its row; it takes the bucket as it is. `vary(row, picture)` is the
    picture as it is trained on."""
    room, bucket = patches.numpy(), patches.shape[1]
    grids = np.zeros((len(raws), 2), dtype=np.int64)
    for row, raw in enumerate(raws):
        while True:
            try:
                picture = images.decode(raw.picture)
                break
            except images.BAD_PICTURE:
                counts[UNDECODABLE] += 1
                raw = replace(row)
        picture = vary(row, images.enlarge_small(picture))
        rows, columns = images.grid_for(*picture.size, bucket)
        grids[row] = rows, columns
        images.to_patches(picture, rows, columns, room[row, : rows * columns])
        room[row, rows * columns :] = 0
    return grids


def collate(
    chosen: list[Chosen],
    pictures: list[int],
    patches: torch.Tensor,
    grids: np.ndarray,
    texts: Texts,
    lengths: tuple[int, int],
    slots: int,
    multiple: int,
) -> Batch:
    """pictures: a hash of each picture. lengths: tokens of the short and the long walk. slots: box slots per image. multiple: what
    regions, groups and phrases are padded to."""
    short_length, long_length = lengths
    boxes = np.zeros((len(chosen), max(1, slots), 4), dtype=np.float32)
    region_slot, region_language, hard_slot, phrases, hard = [], [], [], [], []
    for image, sample in enumerate(chosen):
        for slot, (box, phrase, group) in enumerate(sample.regions):
            boxes[image, slot] = box
            region_slot.append(image * boxes.shape[1] + slot)
            region_language.append(LANGUAGES.index(sample.language))
            phrases.append(phrase)
            if group is not None:
                hard_slot.append(region_slot[-1])
                hard.append(group)
    tokens = texts([sample.short for sample in chosen] + phrases + [text for group in hard for text in group], short_length)
    short, region_ids, hard_ids = tokens.split([len(chosen), len(phrases), len(tokens) - len(chosen) - len(phrases)])
    distinct, region_phrase, hard_phrases = pack_phrases(region_ids, hard_ids.view(-1, TEXTS_PER_GROUP, short_length), multiple)

    def padded(values: list[int] | torch.Tensor) -> torch.Tensor:
        return pad_rows(torch.as_tensor(values, dtype=torch.int64), multiple)

    return Batch(
        patches=patches,
        grid=torch.from_numpy(grids),
        short=short.clone(),
        long=texts([sample.long for sample in chosen], long_length),
        picture=torch.tensor(pictures),
        text=torch.tensor([[text_hash(sample.short), text_hash(sample.long)] for sample in chosen]),
        boxes=torch.from_numpy(boxes),
        phrases=distinct,
        region_slot=padded(region_slot),
        region_phrase=padded(region_phrase),
        region_language=padded(region_language),
        region_valid=padded([1] * len(region_slot)).bool(),
        hard_slot=padded(hard_slot),
        hard_phrases=pad_rows(hard_phrases, multiple),
        hard_valid=padded([1] * len(hard_slot)).bool(),
        # A bound that changes little from batch to batch keeps the shapes of the region weights the same.
        extent=-(-int(grids.max()) // 16) * 16,
        uids=[sample.uid for sample in chosen],
    )
