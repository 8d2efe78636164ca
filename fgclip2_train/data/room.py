"""Room for a batch's pictures that a reader's process and the main one share, and that is used again for every batch.

New pages of shared memory cost a reader more than anything else it does for a picture beside decoding and resizing it: the system
clears each of them first. So a few places are made before the process is forked, and go to and fro.
"""

from __future__ import annotations

import itertools
import mmap
import weakref
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_ALL: weakref.WeakValueDictionary[int, Room] = weakref.WeakValueDictionary()
_numbers = itertools.count()


class Room:
    """Places of `size` bytes; pages are the system's only once something is written to them."""

    def __init__(self, size: int, places: int):
        self.size, self.places, self.number = size, min(places, mmap.PAGESIZE), next(_numbers)
        # A byte for each place says whether it is taken; only the reader sets it, only the main process clears it.
        self.memory = mmap.mmap(-1, mmap.PAGESIZE + self.places * size)
        _ALL[self.number] = self

    def take(self, shape: tuple[int, ...]) -> tuple[Tensor, Lent] | None:
        """Bytes that hold anything, and the note that goes with the batch; None if all places are taken."""
        place = self.memory[: self.places].find(0)
        if place < 0:
            return None
        self.memory[place] = 1
        lent = Lent(self.number, place, shape)
        return torch.from_numpy(lent.bytes()), lent

    def give_back(self, place: int) -> None:
        self.memory[place] = 0


@dataclass(frozen=True)
class Lent:
    """A place of a room, in either process."""

    room: int
    place: int
    shape: tuple[int, ...]

    def bytes(self) -> np.ndarray:
        room = _ALL[self.room]
        return np.ndarray(self.shape, np.uint8, room.memory, mmap.PAGESIZE + self.place * room.size)

    def received(self) -> Tensor:
        """The bytes in the main process. Their place is given back once no tensor lies in it any more."""
        held = self.bytes()
        weakref.finalize(held, _ALL[self.room].give_back, self.place).atexit = False
        return torch.from_numpy(held)
