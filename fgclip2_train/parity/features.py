"""Image processing, start from SigLIP 2, and every feature of the forward pass."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from PIL import Image

from fgclip2_train.data.images import ENLARGED_SIDE, batch_patches, enlarge_small, patch_estimate
from fgclip2_train.model.geometry import resize_positions, token_places
from fgclip2_train.model.initialise import from_siglip2
from fgclip2_train.model.model import unit
from fgclip2_train.parity.golden import Finding, Golden, furthest

FLOAT64, STRETCH = 1e-9, 2.5e-7


def check_images(golden: Golden) -> list[Finding]:
    """Grids, masks and bytes of every stored group must be exact; so must the values that the model makes of the bytes."""
    stored, described = golden.tensors("images"), golden.json("images")
    table = stored["value_table"]
    findings = []
    for group in described["groups"]:
        side = described.get("box_image_size", ENLARGED_SIDE)
        pictures = [enlarge_small(Image.open(golden.folder / "images" / name).convert("RGB"), side) for name in group["files"]]
        estimates = [patch_estimate(picture) for picture in pictures]
        patches, grids = batch_patches(pictures)
        bytes_, grid = torch.from_numpy(patches), torch.from_numpy(grids)
        mask = token_places(grid, patches.shape[1])[2]
        pixels = np.where(mask.numpy()[..., None], table.numpy()[patches], np.float32(0))
        wrong = {
            "estimate": estimates != group["q"],
            "bucket": patches.shape[1] != group["bucket"],
            "grid": grids.tolist() != group["spatial_shapes"],
            "mask": mask.sum(1).tolist() != group["mask_sum"],
            "digest": hashlib.sha256(pixels.tobytes()).hexdigest() != group["pixel_values_sha256"],
        }
        if f"{group['name']}.pixels_u8" in stored:
            wrong["bytes"] = not torch.equal(bytes_, stored[f"{group['name']}.pixels_u8"])
        findings += [Finding("image processing", f"{group['name']} {name}", float(bad), 0.0) for name, bad in wrong.items()]
    every_byte = torch.arange(256, dtype=torch.uint8)
    values = (every_byte.float() / 255 - 0.5) / 0.5
    return [*findings, Finding("image processing", "values of bytes", furthest(values, table), 0.0)]


def check_initialisation(golden: Golden) -> list[Finding]:
    """The state dict after a start from SigLIP 2: same names, copies equal bit by bit, stretched positions to rounding."""
    expected = golden.tensors("after_init")
    state = from_siglip2(golden.tensors("siglip2_base"), golden.json("init_config")).state_dict()
    state.pop("rank_threshold")
    findings = [Finding("initialisation", "names that differ", float(len(set(state) ^ set(expected))), 0.0)]
    for name in sorted(set(state) & set(expected)):
        stretched = "position_embedding_" in name
        findings.append(Finding("initialisation", name, furthest(state[name], expected[name]), STRETCH if stretched else 0.0))
    return findings


@torch.no_grad()
def check_features(golden: Golden, dtype: torch.dtype, tolerance: float, area: str) -> list[Finding]:
    expected, stored = golden.tensors("expected"), golden.tensors("batch")
    model, batch = golden.model(dtype), golden.batch()
    tokens, places, pad = model.vision(batch.patches, batch.grid)
    row, column, _ = places
    pooled = model.vision_model.head(tokens, pad)
    dense = model.dense_feature_head.dense(tokens, pad)
    slots = model.regions(dense, batch.boxes, batch.grid, places, batch.extent).flatten(0, 1)
    regions, hards = batch.region_slot[batch.region_valid], batch.hard_slot[batch.hard_valid]
    table = model.vision_model.embeddings.position_embedding.weight
    text = {walk: model.encode_text(stored[f"text_{walk}"], walk) for walk in ("short", "long")}
    box, hard = model.encode_text(stored["box_texts"], "box"), model.encode_text(stored["hard_texts"], "box")
    features = model(batch)
    inside = [int(count) for count in batch.grid.prod(1)]

    ours = {
        "image.pooled": pooled,
        "image.unit": unit(pooled),
        "image0.position_resized": resize_positions(table, batch.grid, row, column)[0, : inside[0]],
        "region.roi": slots[regions],
        "region.unit": features.region[batch.region_valid],
        "hard.roi": slots[hards],
        "hard.unit": features.hard_region[batch.hard_valid],
        "text.short": text["short"],
        "text.long": text["long"],
        "text.short.unit": features.short,
        "text.long.unit": features.long,
        "text.box": box,
        "text.hard": hard,
        "region.text.unit": features.region_text[batch.region_valid],
        "hard.text.unit": features.hard_text[batch.hard_valid].flatten(0, 1),
    }
    ours |= {f"dense.{image}": dense[image, :count] for image, count in enumerate(inside)}
    return [Finding(area, name, furthest(value, expected[name]), tolerance) for name, value in ours.items()]


__all__ = ["FLOAT64", "check_features", "check_images", "check_initialisation"]
