"""Position resize and RoIAlign as matrix products: no loop over images, nothing that waits for the device.

Both are separable linear maps, so each becomes "weights over tokens" that one batched matmul applies. `grid` is [B, 2], rows and
columns of patches of each image; its tokens are the first rows·columns ones in row-major order, the rest is padding.
"""

from __future__ import annotations

import torch
from torch import Tensor

Places = tuple[Tensor, Tensor, Tensor]
"""Row, column and validity of every token, each [B, T]."""


def token_places(grid: Tensor, tokens: int) -> Places:
    """Where every token stands. Padding stands at row 0, column 0."""
    rows, columns = grid[:, :1], grid[:, 1:]
    index = torch.arange(tokens, device=grid.device)[None]
    valid = index < rows * columns
    return torch.where(valid, index // columns, 0), torch.where(valid, index % columns, 0), valid


def resize_weights(place: Tensor, size: Tensor, source: int, dtype: torch.dtype) -> Tensor:
    """Rows of the matrix that resizes `source` points to `size` points, bilinear with antialias, half-pixel centres.

    place  [B, T]  which output point     size  [B, 1]  how many output points     ->  [B, T, source], rows sum to one

    The triangle has half-width max(1, source / size): `torch.nn.functional.interpolate(..., antialias=True)` in one expression.
    """
    scale = source / size.to(dtype)
    centre = (place.to(dtype) + 0.5) * scale
    points = torch.arange(source, device=place.device, dtype=dtype) + 0.5
    weights = (1 - (points - centre[..., None]).abs() / scale.clamp(min=1)[..., None]).clamp(min=0)
    return weights / weights.sum(-1, keepdim=True)


def resize_positions(table: Tensor, grid: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """E = R_h P R_wᵀ for every image of the batch at once.

    table  [S·S, D]  learned square grid     grid  [B, 2]     row, column  [B, T]     ->  [B, T, D]

    Each token's S + S one-dimensional weights give its S·S weights, and one [B·T, S·S] × [S·S, D] product does the rest. Padding
    tokens get the embedding of token 0, as in SigLIP 2. In at least float32, whatever the table is cast to, under autocast too.
    """
    side = round(table.shape[0] ** 0.5)
    exact = torch.promote_types(table.dtype, torch.float32)
    vertical = resize_weights(row, grid[:, :1], side, exact)
    horizontal = resize_weights(column, grid[:, 1:], side, exact)
    weights = (vertical[..., :, None] * horizontal[..., None, :]).flatten(-2)
    with torch.autocast(table.device.type, enabled=False):
        return weights @ table.to(exact)


def sample_weights(low: Tensor, high: Tensor, points: Tensor, extent: int) -> Tensor:
    """Mean bilinear weights along one axis of RoIAlign with a 1×1 output, aligned, adaptive sampling.

    low, high  [B, S]  edges in patches     points  [B, 1]  rows (or columns) of the image     ->  [B, S, extent]

    ⌈high − low⌉ sample points spread evenly inside the box, each shared by its two neighbours. `extent` bounds both the points of
    any image and the samples of any box. A box of no length has no samples, so its weights are zero.
    """
    length = high - low
    samples = torch.ceil(length)
    index = torch.arange(extent, device=low.device, dtype=low.dtype)
    # Half a pixel is what `aligned=True` takes off; positions beyond the outermost centres are held there.
    position = low[..., None] - 0.5 + (index + 0.5) * (length / samples.clamp(min=1))[..., None]
    position = torch.minimum(position.clamp(min=0), points[..., None] - 1)
    near = (1 - (position[..., :, None] - index).abs()).clamp(min=0)  # [B, S, samples, extent]
    counted = (index < samples[..., None]).to(low.dtype)
    return (near * counted[..., None]).sum(-2) / samples.clamp(min=1)[..., None]


def region_weights(boxes: Tensor, grid: Tensor, row: Tensor, column: Tensor, valid: Tensor, extent: int) -> Tensor:
    """RoIAlign as weights over tokens, so that region vectors are `region_weights(...) @ dense`.

    boxes  [B, S, 4]  x1 y1 x2 y2 as fractions of the image     grid  [B, 2]     row, column, valid  [B, T]
    extent  a bound known to the host on rows and columns of any image here     ->  [B, S, T]
    """
    rows, columns = grid[:, :1].to(boxes.dtype), grid[:, 1:].to(boxes.dtype)
    x1, y1, x2, y2 = boxes.unbind(-1)
    vertical = sample_weights(y1 * rows, y2 * rows, rows, extent)
    horizontal = sample_weights(x1 * columns, x2 * columns, columns, extent)
    slots = boxes.shape[1]
    at_row = vertical.gather(2, row[:, None].expand(-1, slots, -1))
    at_column = horizontal.gather(2, column[:, None].expand(-1, slots, -1))
    return at_row * at_column * valid[:, None]
