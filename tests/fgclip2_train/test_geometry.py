"""Position resize and RoIAlign as matrix products, against the loops they replace."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import roi_align

from fgclip2_train.model import attention
from fgclip2_train.model.geometry import region_weights, resize_positions, token_places

GRIDS = torch.tensor([[16, 16], [9, 28], [31, 8], [1, 128], [3, 5], [12, 21]])
TOKENS = 256


def test_positions_are_resized_as_interpolate_does_and_padding_gets_the_first():
    table = torch.randn(256, 6, dtype=torch.float64)
    row, column, valid = token_places(GRIDS, TOKENS)
    ours = resize_positions(table, GRIDS, row, column)
    square = table.view(16, 16, 6).permute(2, 0, 1)[None]
    for image, (rows, columns) in enumerate(GRIDS.tolist()):
        theirs = F.interpolate(square, size=(rows, columns), mode="bilinear", antialias=True)[0].flatten(1).T
        torch.testing.assert_close(ours[image, : rows * columns], theirs, rtol=0, atol=1e-12)
        assert (ours[image, rows * columns :] == ours[image, 0]).all()
        assert valid[image].sum() == rows * columns


def test_regions_are_pooled_as_torchvision_does():
    random = torch.Generator().manual_seed(0)
    low = torch.rand(len(GRIDS), 7, 2, generator=random, dtype=torch.float64)
    boxes = torch.cat([low, low + (1 - low) * torch.rand(low.shape, generator=random, dtype=torch.float64)], dim=-1)
    boxes[:, 0] = torch.tensor([0.0, 0.0, 1.0, 1.0])  # the whole picture
    boxes[:, 1] = torch.tensor([0.4, 0.1, 0.401, 0.9])  # a strip much thinner than a patch
    dense = torch.randn(len(GRIDS), TOKENS, 5, dtype=torch.float64, generator=random)
    row, column, valid = token_places(GRIDS, TOKENS)
    ours = region_weights(boxes, GRIDS, row, column, valid, extent=128) @ dense
    for image, (rows, columns) in enumerate(GRIDS.tolist()):
        grid = dense[image, : rows * columns].T.reshape(1, 5, rows, columns)
        scaled = boxes[image] * torch.tensor([columns, rows, columns, rows])
        theirs = roi_align(grid, [scaled], output_size=1, spatial_scale=1.0, sampling_ratio=-1, aligned=True)
        torch.testing.assert_close(ours[image], theirs.flatten(1), rtol=0, atol=1e-12)


def test_half_precision_leaves_positions_and_regions_in_float32():
    """Under autocast a product of float32 tensors is one of bfloat16, with eight bits of every weight."""
    from fgclip2_train.model import Fgclip2Model
    from fgclip2_train.model.configuration import sized

    random = torch.Generator().manual_seed(0)
    row, column, valid = places = token_places(GRIDS, TOKENS)
    table = torch.randn(256, 6, generator=random)
    dense = torch.randn(len(GRIDS), TOKENS, 16, generator=random).bfloat16()
    low = torch.rand(len(GRIDS), 3, 2, generator=random) / 2
    boxes = torch.cat([low, low + 0.37], dim=-1)
    model = Fgclip2Model(sized(width=16, layers=1, heads=2, mlp=16, vocabulary=50))
    with torch.autocast("cpu", torch.bfloat16):
        positions = resize_positions(table, GRIDS, row, column)
        regions = model.regions(dense, boxes, GRIDS, places, 128)
    exact = resize_positions(table.double(), GRIDS, row, column)
    pooled = region_weights(boxes.double(), GRIDS, row, column, valid, 128) @ dense.double()
    for ours, theirs in ((positions, exact), (regions, pooled)):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
        assert (ours.bfloat16() == theirs.bfloat16()).float().mean() > 0.99  # rounded once


def test_an_empty_slot_pools_nothing():
    row, column, valid = token_places(GRIDS, TOKENS)
    assert not region_weights(torch.zeros(len(GRIDS), 2, 4), GRIDS, row, column, valid, extent=128).any()


def sequences_one_by_one(query, key, value, ends, ends_k, longest, longest_k):
    """What a variable-length kernel computes, sequence after sequence. [N, heads, d]"""
    out = torch.zeros_like(query)
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        if end > start:
            parts = (part[start:end].transpose(0, 1) for part in (query, key, value))
            out[start:end] = F.scaled_dot_product_attention(*parts).transpose(0, 1)
    return out


def test_pictures_and_paddings_as_sequences_equal_a_key_mask(monkeypatch):
    monkeypatch.setattr(attention, "varlen_attn", sequences_one_by_one)
    valid = token_places(GRIDS, TOKENS)[2]
    pad = attention.padding(valid)
    query, key, value = (torch.randn(len(GRIDS), 2, TOKENS, 8, dtype=torch.float64) for _ in range(3))
    masked = attention.attend(query, key, value, pad)
    packed = attention.attend_sequences(query, key, value, pad)
    kept = valid[:, None, :, None].expand_as(masked)
    torch.testing.assert_close(packed[kept], masked[kept])
    assert packed.isfinite().all()


@pytest.mark.parametrize("padded", [True, False])
def test_bfloat16_on_a_cpu_attends_as_float32_does_and_padding_counts_for_nothing(padded):
    random = torch.Generator().manual_seed(0)
    valid = token_places(GRIDS, TOKENS)[2] if padded else torch.ones(len(GRIDS), TOKENS, dtype=torch.bool)
    query, key, value = (torch.randn(len(GRIDS), 2, TOKENS, 8, generator=random).bfloat16() for _ in range(3))
    away = torch.where(valid[:, None, :, None], value, 100.0).to(value.dtype)  # what padding says must not be heard
    pad = attention.padding(valid) if padded else None
    leaves = [part.clone().requires_grad_() for part in (query, key, away)]
    exact = [part.float().requires_grad_() for part in (query, key, value)]
    ours = attention.attend(*leaves, pad)
    theirs = F.scaled_dot_product_attention(*exact, attn_mask=valid[:, None, None])
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), theirs, rtol=0.03, atol=0.03)
    ours.float().square().sum().backward()
    theirs.square().sum().backward()
    for mine, right in zip(leaves, exact, strict=True):
        torch.testing.assert_close(mine.grad.float(), right.grad, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("walk, tokens", [("short", 63), ("long", 64), ("box", 196)])
def test_a_text_of_another_length_than_its_walk_is_refused(walk, tokens):
    from fgclip2_train.model import Fgclip2Model
    from fgclip2_train.model.configuration import sized

    model = Fgclip2Model(sized(width=16, layers=1, heads=2, mlp=16, vocabulary=50))
    with pytest.raises(ValueError, match=f"takes exactly .* tokens, got {tokens}"):
        model.encode_text(torch.zeros(2, tokens, dtype=torch.int64), walk)
