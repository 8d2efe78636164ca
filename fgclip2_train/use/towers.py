"""A checkpoint ready for use: checked before it is trusted, and named by the content of its files."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fgclip2_train.checkpoint import resolve
from fgclip2_train.data import images
from fgclip2_train.evaluation.encode import Encoder
from fgclip2_train.model.weights import fetch

Walk = Literal["auto", "short", "long", "box"]
WALKS: tuple[Walk, ...] = ("auto", "short", "long", "box")


class Prepared(NamedTuple):
    """patches uint8 [bucket, 768], padded with zeros; grid int64 [2], rows and columns"""

    patches: np.ndarray
    grid: np.ndarray


@dataclass(frozen=True)
class Towers:
    """encoder: the model and its tokenizer. digest: of weights, config and tokenizer. scale, bias: logits are scale · cos + bias."""

    encoder: Encoder
    digest: str
    scale: float
    bias: float
    precision: str = "fp32"

    @property
    def width(self) -> int:
        return self.encoder.model.config.vision.hidden_size

    def identity(self) -> dict[str, Any]:
        """All that a picture's vector depends on besides the picture."""
        return {"checkpoint": self.digest, "patches": self.encoder.patches, "precision": self.precision, "width": self.width}

    def prepare(self, picture: Image.Image) -> Prepared:
        """A picture cut into patches: all that is needed of it, a small part of its size. For threads beside the model's."""
        patches, grids = images.batch_patches([picture], self.encoder.bucket(picture))
        return Prepared(patches[0], grids[0])

    def encode(self, prepared: Sequence[Prepared]) -> Tensor:
        """Unit vectors [N, D]. Pictures of one size go through the model together; none depends on its neighbours."""
        found = torch.empty(len(prepared), self.width)
        by_size: dict[int, list[int]] = defaultdict(list)
        for row, each in enumerate(prepared):
            by_size[len(each.patches)].append(row)
        for rows in by_size.values():
            for start in range(0, len(rows), self.encoder.batch):
                part = rows[start : start + self.encoder.batch]
                patches, grids = (np.stack([prepared[row][kind] for row in part]) for kind in (0, 1))
                found[part] = self.encoder.patched(patches, grids, [[]] * len(part))[0]
        return found

    def pictures(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Unit vectors [N, D]."""
        return self.encode([self.prepare(picture) for picture in pictures])

    def texts(self, texts: Sequence[str], walk: Walk = "auto") -> Tensor:
        """Unit vectors [N, D], each text by its own walk if that is "auto"."""
        walks = self.walks(texts, walk)
        found = torch.empty(len(texts), self.width)
        for each in set(walks):
            rows = [row for row, own in enumerate(walks) if own == each]
            found[rows] = self.encoder.words([texts[row] for row in rows], each)
        return found

    def walks(self, texts: Sequence[str], walk: Walk = "auto") -> list[Literal["short", "long", "box"]]:
        """The walk of each text; "auto" is the short one where all of the text's tokens fit into it, else the long one."""
        if walk != "auto":
            return [walk] * len(texts)
        fits, longest = self.encoder.model.lengths
        pad = self.encoder.texts.tokenizer.pad_token_id
        # One token more than the short walk holds tells whether anything would be cut off.
        probe = self.encoder.texts(list(texts), min(fits + 1, longest))
        return ["long" if cut else "short" for cut in (probe[:, fits:] != pad).any(1).tolist()]

    def cut(self, texts: Sequence[str], walk: Walk = "auto") -> list[str]:
        """Those of the texts whose end is beyond what their walk reads."""
        limit = self.encoder.model.lengths[walk in ("auto", "long")]
        pad = self.encoder.texts.tokenizer.pad_token_id
        probe = self.encoder.texts(list(texts), limit + 1)
        return [text for text, over in zip(texts, (probe[:, limit] != pad).tolist(), strict=True) if over]


def load(
    checkpoint: str | Path,
    *,
    patches: int | Literal["official"] | None = None,
    device: str | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    batch: int = 64,
) -> Towers:
    """From a checkpoint's or a run's folder, or a hub name.

    patches: per picture; by default what the checkpoint was trained with. Raises ValueError or FileNotFoundError that says what is
    wrong with the checkpoint: missing, cut short, of other shapes than its config says, without tokenizer, not finite.
    """
    if isinstance(patches, int) and not 1 <= patches <= images.MAX_PATCHES:
        raise ValueError(f"{patches} patches per picture: 1 to {images.MAX_PATCHES} are possible")
    folder = find(checkpoint)
    encoder = Encoder.load(folder, patches, device, batch)
    for name, tensor in encoder.model.named_parameters():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{folder}: {name} holds numbers that are not finite; take an earlier checkpoint")
    scale, bias = encoder.model.logit_scale.double().exp().item(), encoder.model.logit_bias.double().item()
    if precision == "bf16":
        torch.nn.Module.to(encoder.model, torch.bfloat16)
    return Towers(encoder, digest(folder), scale, bias, precision)


def find(checkpoint: str | Path) -> Path:
    """The folder of a checkpoint, of a run's newest one, or of a hub name's copy on this machine (fetched if need be)."""
    return resolve(checkpoint) if Path(checkpoint).exists() else fetch(str(checkpoint))


def digest(folder: Path) -> str:
    """Of everything that decides a feature: names and contents of weights, config and tokenizer."""
    whole = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        weights = file.suffix == ".safetensors" and file.name != "optimizer.safetensors"
        if weights or file.name in ("config.json", "tokenizer.json", "tokenizer.model"):
            with file.open("rb") as content:
                whole.update(f"{file.name}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()
