"""A folder of reference numbers, read into this package's own terms. Nothing about sizes, counts or names of cases is assumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fgclip2_train.batch import Batch, pack_phrases, pad_rows
from fgclip2_train.data.images import BAD_PICTURE, ENLARGED_SIDE, batch_patches, enlarge_small
from fgclip2_train.model import Fgclip2Config, Fgclip2Model
from fgclip2_train.objective import LossSettings, Weights

LOSS_NAMES = {"hard_batch": "hard_A", "hard_group": "hard_G", "hard_rank": "hard_C"}
"""What the folder calls the weights of our losses that are called otherwise here."""
PADDING = 16
"""Regions and groups are padded to this multiple here too, so that the masks are part of what is checked."""


@dataclass(frozen=True)
class Finding:
    """One compared quantity: the largest deviation seen, what is allowed, and how it is measured (absolute unless said)."""

    area: str
    name: str
    deviation: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.deviation <= self.tolerance  # false for NaN


class Stored(dict[str, Any]):
    """What lies under names in a file of the folder, which is told of a name that is not there."""

    def __init__(self, file: Path, values: dict[str, Any]):
        super().__init__(values)
        self.file = file

    def __missing__(self, name: str) -> Any:
        raise ValueError(f"{self.file}: no {name!r} where there should be one")

    def number(self, name: str) -> float:
        found = self[name]
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise ValueError(f"{self.file}: {name!r} is a number, not {found!r}")
        return found

    def cases(self, name: str) -> Any:
        """A list or an object of cases, of which there is at least one."""
        found = self[name]
        if not isinstance(found, list | dict) or not found:
            raise ValueError(f"{self.file}: no case under {name!r}")
        return found


@dataclass
class Golden:
    folder: Path
    cache: dict[str, Stored] = field(default_factory=dict)

    def tensors(self, name: str) -> Stored:
        """Tensor by name"""
        return self._once(self.folder / f"{name}.safetensors", load_file)

    def json(self, name: str) -> Stored:
        """Every object in it is one that names the file for what it lacks."""
        file = self.folder / f"{name}.json"
        return self._once(file, lambda _: json.loads(file.read_text(), object_hook=lambda values: Stored(file, values)))

    def _once(self, file: Path, load: Callable[[Path], dict[str, Any]]) -> Stored:
        if file.name not in self.cache:
            try:
                self.cache[file.name] = Stored(file, load(file))
            except (ValueError, TypeError, SafetensorError) as error:
                raise ValueError(f"{file}: damaged ({error})") from error
        return self.cache[file.name]

    def patches(self, group: Stored) -> tuple[np.ndarray, np.ndarray, list[Image.Image]]:
        """Patches [n, bucket, 768] and grids [n, 2] that this package makes of a group's files, and the pictures they are of."""
        side = self.json("images").get("box_image_size", ENLARGED_SIDE)
        pictures = [enlarge_small(self._picture(name), side) for name in group.cases("files")]
        return *batch_patches(pictures), pictures

    def _picture(self, name: str) -> Image.Image:
        file = self.folder / "images" / name
        try:
            return Image.open(file).convert("RGB")
        except BAD_PICTURE as error:
            raise ValueError(f"{file}: cannot be decoded ({error})") from error

    @cached_property
    def settings(self) -> LossSettings:
        config = self.json("config")
        try:
            return LossSettings(
                weights=Weights(
                    **{name: config["loss_weights"].number(LOSS_NAMES.get(name, name)) for name in Weights.model_fields}
                ),
                tic_remove_above=config["tic_removal_above"],
                tic_hardest=config["tic_k"],
                threshold_clamp=tuple(config["threshold_clamp"]),
                chunk=2,  # several chunks even in a toy batch
            )
        except ValidationError as error:
            first = error.errors()[0]
            said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}, not {first['input']!r}"
            raise ValueError(f"{config.file}: {said}") from None

    def model(self, dtype: torch.dtype) -> Fgclip2Model:
        config = self.json("config")
        model = Fgclip2Model(
            Fgclip2Config(text_config=dict(config["text_config"]), vision_config=dict(config["vision_config"]))
        )
        torch.nn.Module.to(model, dtype)  # transformers wraps its own `to` in a way that type checkers cannot read
        state = {name: tensor.to(dtype) for name, tensor in self.tensors("weights").items()}
        missing, unexpected = model.load_state_dict(state, strict=False)
        if unexpected or missing != ["rank_threshold"]:
            raise ValueError(f"weights.safetensors: missing {missing}, unexpected {unexpected}")
        model.freeze_unused(regional=True)
        return model.eval()

    def batch(
        self, images: list[int] | None = None, box_nums: list[int] | None = None, hard_nums: list[int] | None = None
    ) -> Batch:
        """The stored batch, or these images of it with only the first `box_nums`, `hard_nums` of each image's slots valid."""
        stored = self.tensors("batch")
        pixels, grids = self._batch_pixels
        all_hard = stored["hard_nums"].tolist()
        count = len(all_hard)
        images = list(range(count)) if images is None else images
        box_nums = stored["box_nums"].tolist() if box_nums is None else box_nums
        hard_nums = all_hard if hard_nums is None else hard_nums
        per_image = len(stored["box_infos"]) // count
        per_group = self.json("config")["texts_per_hard_group"]
        groups = stored["hard_texts"].unflatten(0, (sum(all_hard), per_group))

        region_slot, hard_slot, regions, hards = [], [], [], []
        for place, image in enumerate(images):
            first = place * 2 * per_image  # region slots, then the slots of the hard groups
            for slot in range(box_nums[image]):
                region_slot.append(first + slot)
                regions.append(image * per_image + slot)
            for slot in range(hard_nums[image]):
                hard_slot.append(first + per_image + slot)
                hards.append(sum(all_hard[:image]) + slot)
        phrases, region_phrase, hard_phrases = pack_phrases(stored["box_texts"][regions], groups[hards], PADDING)
        boxes = torch.cat([stored[name].view(count, per_image, 4) for name in ("box_infos", "hard_infos")], dim=1)
        grid = grids[images]
        return Batch(
            patches=pixels[images],
            grid=grid,
            short=stored["text_short"][images],
            long=stored["text_long"][images],
            picture=torch.tensor(images),
            text=torch.tensor(images)[:, None].expand(-1, 2),
            boxes=boxes[images],
            phrases=phrases,
            region_slot=pad_rows(torch.tensor(region_slot).long(), PADDING),
            region_phrase=pad_rows(region_phrase, PADDING),
            region_language=pad_rows(torch.zeros(len(region_slot)).long(), PADDING),
            region_valid=pad_rows(torch.ones(len(region_slot), dtype=torch.bool), PADDING),
            hard_slot=pad_rows(torch.tensor(hard_slot).long(), PADDING),
            hard_phrases=pad_rows(hard_phrases, PADDING),
            hard_valid=pad_rows(torch.ones(len(hard_slot), dtype=torch.bool), PADDING),
            extent=int(grid.max()),
        )

    @cached_property
    def _batch_pixels(self) -> tuple[Tensor, Tensor]:
        """Bytes [B, bucket, 768] and grids [B, 2]. Bytes that a folder leaves out, as large ones, are made; their digest is checked."""
        stored = self.tensors("images")
        if "batch.pixels_u8" in stored:
            return stored["batch.pixels_u8"], stored["batch.spatial_shapes"]
        group = next((group for group in self.json("images")["groups"] if group["name"] == "batch"), None)
        if group is None:
            raise ValueError(f"{self.folder / 'images.json'}: no group named 'batch', of which the stored features are")
        patches, grids, _ = self.patches(group)
        return torch.from_numpy(patches), torch.from_numpy(grids)


def furthest(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference; NaN anywhere, or another shape, is never within a tolerance."""
    if ours.shape != theirs.shape:
        return float("inf")
    return (ours.double() - theirs.double()).abs().max().item() if ours.numel() else 0.0
