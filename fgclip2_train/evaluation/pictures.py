"""Encode every picture once, whatever sets use it, on all ranks; rank 0 gets the vectors in the order asked.

Work is cut into chunks of one fixed size, and chunk i belongs to rank i mod ranks: what is encoded together, and with it every last
bit of the vectors, does not depend on how many ranks there are.
"""

from __future__ import annotations

import base64
import io
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor

from fgclip2_train.data import images
from fgclip2_train.evaluation.encode import Encoder
from fgclip2_train.evaluation.settings import Patches
from fgclip2_train.ring import rank, world

CHUNK = 128
"""Pictures (and four times as many texts) that one rank takes at a time."""

READ, MISSING, BROKEN, EMPTY = range(4)
INSIDE, OUTSIDE, UNSEEN = range(3)
REASONS = {MISSING: "picture missing", BROKEN: "picture cannot be decoded"}

_STANDARD = bytes.maketrans(b"-_", b"+/")
Box = Sequence[float]


@dataclass(frozen=True)
class View:
    """How a picture becomes patches."""

    patches: Patches
    upright: bool
    small: Literal["square", "as_is"]


@dataclass(frozen=True)
class File:
    """A picture's bytes: a whole file, or `size` bytes of base64 from `start` on."""

    path: str
    start: int = 0
    size: int | None = None

    def read(self) -> bytes:
        with open(self.path, "rb") as file:
            if self.size is None:
                return file.read()
            file.seek(self.start)
            # Tables come in both alphabets of base64.
            return base64.b64decode(file.read(self.size).translate(_STANDARD), validate=True)


@dataclass(frozen=True)
class Held:
    """A picture whose bytes are here already."""

    data: bytes

    def read(self) -> bytes:
        return self.data


@dataclass(frozen=True)
class Wanted:
    """A picture, and boxes in it: x1 y1 x2 y2 in pixels, or as fractions. `crop`, in pixels, takes that part for the picture."""

    picture: File | Held
    view: View
    boxes: Sequence[Box] = ()
    fractions: bool = False
    crop: tuple[int, int, int, int] | None = None


@dataclass
class Seen:
    """Vectors of N pictures and of their B boxes, box by box in the order of the pictures.

    whole [N, D]   state [N] READ, MISSING, BROKEN, EMPTY (a crop without area)   digest [N, 2] of the bytes
    regions [B, D]   inside [B] INSIDE, OUTSIDE (no area within the picture), UNSEEN (no picture)
    """

    whole: Tensor
    state: Tensor
    digest: Tensor
    regions: Tensor
    inside: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        return self.whole, self.state, self.digest, self.regions, self.inside

    def take(self, pictures: Sequence[int], boxes: Sequence[int]) -> Seen:
        rows, parts = torch.tensor(pictures, dtype=torch.int64), torch.tensor(boxes, dtype=torch.int64)
        return Seen(self.whole[rows], self.state[rows], self.digest[rows], self.regions[parts], self.inside[parts])

    def alike(self, kinds: Sequence[Hashable]) -> Seen:
        """Pictures of the same bytes with the first one's vector, from which rounding makes another at another place of a batch. kinds:
        what else a picture's vector depends on."""
        first: dict[tuple[Hashable, ...], int] = {}
        keys = zip(kinds, map(tuple, self.digest.tolist()), strict=True)
        rows = [first.setdefault(key, row) for row, key in enumerate(keys)]
        return replace(self, whole=self.whole[torch.tensor(rows, dtype=torch.int64)])

    def skipped(self) -> Counter[str]:
        return Counter(REASONS[state] for state in self.state.tolist() if state in REASONS)

    def fingerprint(self) -> str:
        """Of all the pictures' bytes, in their order."""
        return blake2b(self.digest.numpy().tobytes(), digest_size=16).hexdigest()


# -- one chunk --------------------------------------------------------------------------------------------------------------


@dataclass
class _Ready:
    """A picture cut into patches, its boxes as fractions within it."""

    state: int
    digest: tuple[int, int] = (0, 0)
    bucket: int = 0
    grid: tuple[int, int] = (0, 0)
    patches: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.uint8))
    boxes: list[list[float]] = field(default_factory=list)


def prepare(wanted: Wanted) -> _Ready:
    try:
        data = wanted.picture.read()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return _Ready(MISSING)
    except (OSError, ValueError):  # no base64, or a name that no file can have
        return _Ready(BROKEN)
    try:
        view = wanted.view
        picture = images.decode(data) if view.upright else Image.open(io.BytesIO(data)).convert("RGB")
        if wanted.crop:
            left, top, right, bottom = wanted.crop
            if max(left, 0) >= min(right, picture.width) or max(top, 0) >= min(bottom, picture.height):
                return _Ready(EMPTY)
            picture = picture.crop(wanted.crop)
        size = (1, 1) if wanted.fractions else picture.size
        boxes = [[edge / size[axis % 2] for axis, edge in enumerate(box)] for box in wanted.boxes]
        if view.small == "square":
            picture = images.enlarge_small(picture)
        bucket = view.patches if view.patches != "official" else images.official_bucket(images.patch_estimate(picture))
        grid = images.grid_for(*picture.size, bucket)
        patches = images.to_patches(picture, *grid)
    except images.BAD_PICTURE:
        return _Ready(BROKEN)
    digest = np.frombuffer(blake2b(data, digest_size=16).digest(), "<i8").tolist()
    return _Ready(READ, (digest[0], digest[1]), bucket, grid, patches, [_within(box) for box in boxes])


def _within(box: list[float]) -> list[float]:
    """Cut to the picture; all zero if nothing is left."""
    x1, y1, x2, y2 = (min(1.0, max(0.0, edge)) for edge in box)
    return [x1, y1, x2, y2] if x1 < x2 and y1 < y2 else [0.0] * 4


def encode_chunk(encoder: Encoder, chunk: Sequence[Wanted], ready: Sequence[_Ready]) -> Seen:
    width = encoder.model.config.vision.hidden_size
    starts = np.cumsum([0, *(len(wanted.boxes) for wanted in chunk)]).tolist()
    seen = Seen(
        torch.zeros(len(chunk), width),
        torch.tensor([one.state for one in ready], dtype=torch.int64),
        torch.tensor([one.digest for one in ready], dtype=torch.int64).view(-1, 2),
        torch.zeros(starts[-1], width),
        torch.full((starts[-1],), UNSEEN, dtype=torch.int64),
    )
    by_bucket: dict[int, list[int]] = defaultdict(list)
    for row, one in enumerate(ready):
        if one.state == READ:
            by_bucket[one.bucket].append(row)
    for bucket, rows in sorted(by_bucket.items()):
        for first in range(0, len(rows), encoder.batch):
            batch = rows[first : first + encoder.batch]
            patches = np.zeros((len(batch), bucket, 3 * images.PATCH**2), np.uint8)
            for place, row in enumerate(batch):
                patches[place, : len(ready[row].patches)] = ready[row].patches
            grids = np.array([ready[row].grid for row in batch], np.int64)
            whole, parts = encoder.patched(patches, grids, [ready[row].boxes for row in batch])
            seen.whole[batch] = whole
            for row, vectors in zip(batch, parts, strict=True):
                here = slice(starts[row], starts[row + 1])
                seen.regions[here] = vectors
                empty = [box == [0.0] * 4 for box in ready[row].boxes]
                seen.inside[here] = torch.tensor([OUTSIDE if none else INSIDE for none in empty], dtype=torch.int64)
    return seen


def encode_own(encoder: Encoder, chunks: Iterable[Sequence[Wanted]], workers: int) -> Iterator[Seen]:
    """Encode chunk by chunk; threads read and cut the next one meanwhile."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: tuple[Sequence[Wanted], list[Future[_Ready]]] | None = None
        for chunk in chunks:
            started = chunk, [pool.submit(prepare, wanted) for wanted in chunk]
            if waiting:
                yield encode_chunk(encoder, waiting[0], [future.result() for future in waiting[1]])
            waiting = started
        if waiting:
            yield encode_chunk(encoder, waiting[0], [future.result() for future in waiting[1]])


# -- all ranks --------------------------------------------------------------------------------------------------------------


def encode_all(encoder: Encoder, wanted: Sequence[Wanted], workers: int) -> Seen | None:
    """Every picture of `wanted`, encoded once, by all ranks together; None on other ranks than 0."""
    merged: dict[tuple, int] = {}
    boxes: list[list[Box]] = []
    places: list[tuple[int, int]] = []
    for one in wanted:
        number = merged.setdefault((one.view, one.picture, one.crop, one.fractions), len(merged))
        if number == len(boxes):
            boxes.append([])
        places.append((number, len(boxes[number])))
        boxes[number] += one.boxes
    distinct = [
        Wanted(picture, view, boxes[number], fractions, crop) for (view, picture, crop, fractions), number in merged.items()
    ]
    chunks = [distinct[first : first + CHUNK] for first in range(0, len(distinct), CHUNK)]
    own = list(encode_own(encoder, chunks[rank() :: world()], workers))
    encoded = gather(encoder, own, [(len(chunk), sum(len(one.boxes) for one in chunk)) for chunk in chunks])
    if encoded is None:
        return None
    encoded = encoded.alike([(one.view, one.crop) for one in distinct])
    starts = np.cumsum([0, *map(len, boxes)]).tolist()
    rows = [number for number, _ in places]
    parts = [
        starts[number] + first + step
        for one, (number, first) in zip(wanted, places, strict=True)
        for step in range(len(one.boxes))
    ]
    return encoded.take(rows, parts)


def gather(encoder: Encoder, own: list[Seen], sizes: Sequence[tuple[int, int]]) -> Seen | None:
    """Join the ranks' chunks in their order. sizes: pictures and boxes of every chunk."""
    width = encoder.model.config.vision.hidden_size
    none = Seen(
        torch.zeros(0, width),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, 2, dtype=torch.int64),
        torch.zeros(0, width),
        torch.zeros(0, dtype=torch.int64),
    )
    columns = list(zip(*(seen.tensors() for seen in [*own, none]), strict=True))
    pictures, regions = [size[0] for size in sizes], [size[1] for size in sizes]
    joined = [gather_rows(torch.cat(column), regions if index >= 3 else pictures) for index, column in enumerate(columns)]
    return Seen(*[rows for rows in joined if rows is not None]) if rank() == 0 else None


def gather_rows(own: Tensor, sizes: Sequence[int]) -> Tensor | None:
    """Rows of all ranks on rank 0, chunk after chunk; sizes: rows of every chunk, chunk i being rank i mod ranks'."""
    if world() == 1:
        return own
    group = _host_group()
    rows = [sum(sizes[number :: world()]) for number in range(world())]
    padded = own.new_zeros(max(1, *rows), *own.shape[1:])
    padded[: len(own)] = own
    found = [torch.empty_like(padded) for _ in rows] if rank() == 0 else None
    dist.gather(padded, found, dst=0, group=group)
    if found is None:
        return None
    taken, parts = [0] * world(), []
    for number, size in enumerate(sizes):
        turn = number % world()
        parts.append(found[turn][taken[turn] : taken[turn] + size])
        taken[turn] += size
    return torch.cat(parts) if parts else own


def from_rank_0(value):
    """What rank 0 has, on every rank."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_host_group())
    return box[0]


_GROUPS: dict[object, Any] = {}


def _host_group() -> Any:
    """All ranks, through host memory: vectors of a whole set need not fit on the device."""
    default = dist.group.WORLD
    if default not in _GROUPS:
        _GROUPS.clear()
        _GROUPS[default] = default if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
    return _GROUPS[default]


# -- texts ------------------------------------------------------------------------------------------------------------------

Walk = Literal["short", "long", "box"]


class Words:
    """Vectors of texts, each distinct one encoded once."""

    def __init__(self, place: dict[tuple[Walk, str], int], vectors: Tensor):
        self.place, self.vectors = place, vectors

    def __call__(self, texts: Sequence[str], walk: Walk) -> Tensor:
        """[len(texts), D]"""
        return self.vectors[torch.tensor([self.place[walk, text] for text in texts], dtype=torch.int64)]


def encode_texts(encoder: Encoder, texts: Iterable[tuple[Walk, str]]) -> Words | None:
    """(walk, text), with the case they are to be encoded in; by all ranks together, None on other ranks than 0."""
    distinct: list[tuple[Walk, str]] = sorted(set(texts))
    chunks: list[list[tuple[Walk, str]]] = []
    for walk in ("box", "long", "short"):
        own = [text for text in distinct if text[0] == walk]
        chunks += [own[first : first + 4 * CHUNK] for first in range(0, len(own), 4 * CHUNK)]
    mine = [encoder.exact([text for _, text in chunk], chunk[0][0]) for chunk in chunks[rank() :: world()]]
    joined = gather_rows(torch.cat([*mine, torch.zeros(0, encoder.text_width)]), [len(chunk) for chunk in chunks])
    return None if joined is None else Words({text: number for number, text in enumerate(distinct)}, joined)
