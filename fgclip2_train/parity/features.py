"""Image processing, start from SigLIP 2, and every feature of the forward pass."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from fgclip2_train.data.images import patch_estimate
from fgclip2_train.model.geometry import resize_positions, token_places
from fgclip2_train.model.initialise import from_siglip2
from fgclip2_train.model.model import TEMPERATURE, unit
from fgclip2_train.parity.golden import Finding, Golden, furthest

STRETCH = 2.5e-7
LARGE = 10.0
"""Entries up to which float32's tolerance is meant; vectors with larger ones may deviate by as much more."""


def check_images(golden: Golden) -> list[Finding]:
    """Grids, masks and bytes of every stored group must be exact; so must the values that the model makes of the bytes."""
    stored = golden.tensors("images")
    table = stored["value_table"]
    findings = []
    for group in golden.json("images").cases("groups"):
        name = group["name"]
        patches, grids, pictures = golden.patches(group)
        grid = torch.from_numpy(grids)
        mask = token_places(grid, patches.shape[1])[2]
        pixels = np.where(mask.numpy()[..., None], table.numpy()[patches], np.float32(0))
        wrong = {
            "estimate": [patch_estimate(picture) for picture in pictures] != group["q"],
            "bucket": patches.shape[1] != group["bucket"],
            "grid": grids.tolist() != group["spatial_shapes"],
            "mask": mask.sum(1).tolist() != group["mask_sum"],
            "digest": hashlib.sha256(pixels.tobytes()).hexdigest() != group["pixel_values_sha256"],
        }
        findings += [Finding("image processing", f"{name} {what}", float(bad), 0.0) for what, bad in wrong.items()]
        made = {"spatial_shapes": grid, "pixel_attention_mask": mask, "pixels_u8": torch.from_numpy(patches)}
        if f"{name}.rows" in stored:
            image, row = torch.arange(len(grid))[:, None], stored[f"{name}.rows"]
            there = row < patches.shape[1]  # not so where the bucket is wrong
            made["row_pixels"] = torch.from_numpy(pixels)[image, row.where(there, 0)].where(there[..., None], torch.nan)
        for what, ours in made.items():
            if f"{name}.{what}" in stored:  # of large groups only some rows are
                findings.append(Finding("image processing", f"{name} {what}", furthest(ours, stored[f"{name}.{what}"]), 0.0))
    every_byte = torch.arange(256, dtype=torch.uint8)
    values = (every_byte.float() / 255 - 0.5) / 0.5
    return [*findings, Finding("image processing", "values of bytes", furthest(values, table), 0.0)]


def check_initialisation(golden: Golden) -> list[Finding]:
    """The state dict after a start from SigLIP 2: same names, copies equal bit by bit, stretched positions to rounding."""
    expected, base, told = golden.tensors("after_init"), golden.tensors("siglip2_base"), golden.json("init_config")
    state = from_siglip2(base, told).state_dict()
    state.pop("rank_threshold")
    new, same = set(state) - set(base), {name for name in set(state) & set(base) if torch.equal(state[name], base[name])}
    differing = {
        "names": set(state) ^ set(expected),
        "new tensors": new ^ set(told["new_tensors"]),
        "unchanged tensors": set(told["unchanged_tensors"]) - same,
    }
    findings = [Finding("initialisation", f"{what} that differ", float(len(names)), 0.0) for what, names in differing.items()]
    temperature = abs(TEMPERATURE - told.number("new_temperature_value"))
    findings.append(Finding("initialisation", "new temperature", temperature, 0.0))
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
    phrases = [stored["box_texts"], stored["hard_texts"]]
    box, hard = model.encode_text(torch.cat(phrases), "box").split([len(texts) for texts in phrases])
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
    findings = []
    for name, value in ours.items():
        size = expected[name].abs().max().item() if dtype == torch.float32 and expected[name].numel() else 0.0
        findings.append(Finding(area, name, furthest(value, expected[name]) / max(1.0, size / LARGE), tolerance))
    # An image has twice the slots here: those of its regions, and then those of its groups.
    per_image = batch.boxes.shape[1] // 2
    for name, slots in (("region.slot", regions), ("hard.slot", hards)):
        theirs = slots // (2 * per_image) * per_image + slots % per_image
        findings.append(Finding(area, name, furthest(theirs, expected[name]), 0.0))
    return findings
