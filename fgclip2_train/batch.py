"""What one rank gets for one step."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fgclip2_train.data.room import Lent

TEXTS_PER_GROUP = 11
"""One positive and ten negatives, exactly: the shard format promises ten or none."""


@dataclass
class Batch:
    """One rank's step: B images, S box slots per image, R regions, H hard groups, U distinct phrases.

    Regions and groups are packed over the batch and padded to a multiple that the collate chooses, none at all to one row, so that
    every loss has something to run on; `region_valid` and `hard_valid` say which rows count. Indices into slots count over the
    batch: image · S + slot.

    patches       [B, T, 768] uint8      resized pictures cut into patches, zero beyond rows · columns
    grid          [B, 2] int64           rows, columns of patches
    short, long   [B, 64], [B, 196]      token ids
    picture [B], text [B, 2] int64       hashes of the picture and of its short and long text: equal ones are no negatives
    boxes         [B, S, 4] float32      x1 y1 x2 y2 as fractions of the upright picture; an empty slot is all zero
    phrases       [U, 64] int64          token ids of the box walk, each distinct text once
    region_slot, region_phrase  [R]      where the region lies, which phrase describes it
    region_language             [R]      0 English, 1 Chinese
    hard_slot [H], hard_phrases [H, 11]  the group's box, its positive and its ten negatives
    extent        int                    bound on rows and columns of any picture here
    """

    patches: Tensor
    grid: Tensor
    short: Tensor
    long: Tensor
    picture: Tensor
    text: Tensor
    boxes: Tensor
    phrases: Tensor
    region_slot: Tensor
    region_phrase: Tensor
    region_language: Tensor
    region_valid: Tensor
    hard_slot: Tensor
    hard_phrases: Tensor
    hard_valid: Tensor
    extent: int
    uids: list[str] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    """Host-side notes of the reader (position after this batch, counters); never read by model or losses."""
    lent: Lent | None = None
    """Where `patches` lie on the way out of a reader's process."""

    def __len__(self) -> int:
        return len(self.patches)

    @property
    def distinct_phrases(self) -> int:
        """How many rows of `phrases` are not padding. Waits for the device if the batch is there."""
        used = [self.region_phrase[self.region_valid], self.hard_phrases[self.hard_valid].flatten()]
        return max((int(rows.max()) + 1 for rows in used if len(rows)), default=0)

    def tokens(self, regional: bool) -> int:
        """Patches and text positions that count; padding of a text is part of it, that of pictures and phrases is not."""
        phrases = self.distinct_phrases if regional else 0
        return int(self.grid.prod(1).sum()) + self.long.numel() + (len(self) + phrases) * self.short.shape[1]

    def __getstate__(self) -> dict[str, Any]:
        """On the way out of a reader's process tensors go by value, but for patches, which are where both processes see them: each
        tensor takes a file handle and a handshake to hand it over, which is more work than all of the texts."""
        state: dict[str, Any] = {
            name: value.numpy() if isinstance(value, Tensor) and name != "patches" and value.device.type == "cpu" else value
            for name, value in vars(self).items()
        }
        return state | {"patches": None} if self.lent else state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, torch.from_numpy(value) if isinstance(value, np.ndarray) else value)
        if self.lent:
            self.patches, self.lent = self.lent.received(), None

    def tensors(self) -> dict[str, Tensor]:
        return {item.name: value for item in fields(self) if isinstance(value := getattr(self, item.name), Tensor)}

    def to(self, device: torch.device | str) -> Batch:
        moved: dict[str, Any] = {name: value.to(device, non_blocking=True) for name, value in self.tensors().items()}
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        pinned: dict[str, Any] = {name: value.pin_memory() for name, value in self.tensors().items()}
        return replace(self, **pinned)


def pack_phrases(regions: Tensor, groups: Tensor, multiple: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct rows among region phrases [R, L] and hard groups [H, K, L], and where each one went.

    -> phrases [U, L], region_phrase [R], hard_phrases [H, K]; U as `pad_rows` has it.
    """
    rows = torch.cat([regions, groups.flatten(0, 1)])
    place: dict[bytes, int] = {}
    whole = rows.numpy().view((np.void, rows.shape[1] * rows.itemsize)).ravel().tolist()  # a row's bytes
    where = torch.tensor([place.setdefault(row, len(place)) for row in whole], dtype=torch.int64)
    phrases = rows.new_empty(len(place), rows.shape[1])
    phrases[where] = rows  # equal rows, so it does not matter which of them is written last
    return pad_rows(phrases, multiple), where[: len(regions)], where[len(regions) :].view(groups.shape[:2])


def pad_rows(rows: Tensor, multiple: int) -> Tensor:
    """Zero rows up to a multiple: shapes repeat, so compiled kernels and allocations are reused. None at all become one, not more: it
    is computed on, for nothing, so that a step without boxes still runs every part of the model on every rank."""
    wanted = -(-len(rows) // multiple) * multiple or 1
    return torch.cat([rows, rows.new_zeros(wanted - len(rows), *rows.shape[1:])])


def hash_rows(rows: Tensor) -> Tensor:
    """[N, L] int64 -> [N] int64, equal for equal rows, wherever they lie. Different token rows meet with a probability below 2⁻⁴⁶."""
    random = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**63), 2**63 - 1, rows.shape[1:], generator=random).to(rows.device)
    return (rows * factors).sum(1)  # modulo 2⁶⁴
