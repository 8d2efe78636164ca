"""Room for a batch's pictures that a reader's process and the main one share, and that is used again for every batch.

New pages of shared memory cost a reader more than anything else it does for a picture beside decoding and resizing it: the system
clears each of them first. So a few places are made before the process is forked, and go to and fro.
"""

from __future__ import annotations

import itertools
import mmap
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

PLACES = 3
"""Two batches that wait for the main process, as many as a worker prefetches, and one that it is just copying out."""
_ALL: weakref.WeakValueDictionary[int, Room] = weakref.WeakValueDictionary()
_numbers = itertools.count()


class Room:
    """Places of `size` bytes; pages are the system's only once something is written to them."""

    def __init__(self, size: int):
        self.size, self.number = size, next(_numbers)
        # A byte for each place says whether it is taken; only the reader sets it, only the main process clears it.
        self.memory = mmap.mmap(-1, mmap.PAGESIZE + PLACES * size)
        _ALL[self.number] = self

    def take(self, shape: tuple[int, ...]) -> tuple[Tensor, Lent] | None:
        """Bytes that hold anything, and the note that goes with the batch; None if all places are taken."""
        place = self.memory[:PLACES].find(0)
        if place < 0:
            return None
        self.memory[place] = 1
        lent = Lent(self.number, place, shape)
        return lent.view(), lent


@dataclass(frozen=True)
class Lent:
    """A place of a room, in either process."""

    room: int
    place: int
    shape: tuple[int, ...]

    def view(self) -> Tensor:
        room = _ALL[self.room]
        count, start = torch.Size(self.shape).numel(), mmap.PAGESIZE + self.place * room.size
        return torch.frombuffer(room.memory, dtype=torch.uint8, count=count, offset=start).view(self.shape)

    def give_back(self) -> None:
        _ALL[self.room].memory[self.place] = 0
