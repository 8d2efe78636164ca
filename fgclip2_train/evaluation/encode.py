"""Pictures, boxes and texts to unit vectors, in batches, for evaluation and use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fgclip2_train.checkpoint import read_trainer, resolve
from fgclip2_train.data import images
from fgclip2_train.data.tokens import Texts, load_texts
from fgclip2_train.model import Fgclip2Model
from fgclip2_train.model.initialise import load_model
from fgclip2_train.model.model import unit


@dataclass
class Encoder:
    """A checkpoint ready to encode. patches: per picture, or "official" for each picture's own bucket, batch or not."""

    model: Fgclip2Model
    texts: Texts
    patches: int | Literal["official"] = "official"
    batch: int = 64
    half: bool = False
    """bfloat16 where the model's layers compute; vectors are made to unit length in float32."""

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        patches: int | Literal["official"] | None = None,
        device: str | None = None,
        batch: int = 64,
    ) -> Encoder:
        """From a checkpoint's or run's folder, or a hub name. `patches` defaults to what the checkpoint was trained with."""
        folder = _folder(checkpoint)
        model = load_model(folder).eval()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        torch.nn.Module.to(model, device)
        return cls(model, load_texts(folder), patches or trained_patches(folder), batch)

    def bucket(self, picture: Image.Image) -> int:
        if self.patches != "official":
            return self.patches
        return images.official_bucket(images.patch_estimate(images.enlarge_small(picture)))

    @torch.inference_mode()
    def pictures(
        self, pictures: Sequence[Image.Image], boxes: Sequence[Sequence[Sequence[float]]] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Global vectors [N, D], and for every picture the vectors of its boxes [n, D] (x1 y1 x2 y2 as fractions)."""
        boxes = boxes if boxes is not None else [[]] * len(pictures)
        by_bucket: dict[int, list[int]] = defaultdict(list)
        for index, picture in enumerate(pictures):
            by_bucket[self.bucket(picture)].append(index)
        width = self.model.config.vision.hidden_size
        whole, parts = torch.empty(len(pictures), width), [torch.empty(0, width)] * len(pictures)
        for bucket, indices in by_bucket.items():
            for start in range(0, len(indices), self.batch):
                chosen = indices[start : start + self.batch]
                vectors, regions = self._encode([pictures[i] for i in chosen], [boxes[i] for i in chosen], bucket)
                whole[chosen] = vectors
                for index, region in zip(chosen, regions, strict=True):
                    parts[index] = region
        return whole, parts

    def _encode(self, pictures, boxes, bucket: int) -> tuple[Tensor, list[Tensor]]:
        return self.patched(*images.batch_patches(pictures, bucket), boxes)

    @torch.inference_mode()
    def patched(self, patches: np.ndarray, grids: np.ndarray, boxes: Sequence[Sequence[Sequence[float]]]):
        """As `pictures`, of one batch that is cut already: uint8 [B, T, 768], grids [B, 2]."""
        model, device = self.model, self.model.device
        grid = torch.from_numpy(grids).to(device)
        with self._precision():
            tokens, places, pad = model.vision(torch.from_numpy(patches).to(device), grid)
            whole = unit(model.vision_model.head(tokens, pad)).float().cpu()
        slots = max(map(len, boxes))
        if not slots:
            return whole, [whole[:0]] * len(boxes)
        padded = torch.zeros(len(boxes), slots, 4)
        for row, own in enumerate(boxes):
            padded[row, : len(own)] = torch.tensor(own) if own else 0
        with self._precision():
            dense = model.dense_feature_head.dense(tokens, pad)
        vectors = unit(model.regions(dense, padded.to(device), grid, places, int(grids.max()))).float().cpu()
        return whole, [vectors[row, : len(own)] for row, own in enumerate(boxes)]

    @torch.inference_mode()
    def dense(self, picture: Image.Image) -> Tensor:
        """Unit dense map [rows, columns, D] of one picture."""
        patches, grids = images.batch_patches([picture], self.bucket(picture))
        device = self.model.device
        dense = self.model.encode_dense(torch.from_numpy(patches).to(device), torch.from_numpy(grids).to(device))
        rows, columns = grids[0].tolist()
        return unit(dense[0, : rows * columns]).cpu().view(rows, columns, -1)

    def words(self, texts: Sequence[str], walk: Literal["short", "long", "box"]) -> Tensor:
        """[N, D]; the walk fixes length and head. Equal texts are encoded once."""
        distinct = {text: None for text in texts}
        place = {text: index for index, text in enumerate(distinct)}
        return self._words(list(distinct), walk, self.texts)[[place[text] for text in texts]]

    def exact(self, texts: Sequence[str], walk: Literal["short", "long", "box"]) -> Tensor:
        """As `words`, in the case they are in, whatever the tokenizer's convention; texts are taken to be distinct."""
        return self._words(texts, walk, Texts(self.texts.tokenizer, lower=False))

    @torch.inference_mode()
    def _words(self, texts: Sequence[str], walk: Literal["short", "long", "box"], tokens: Texts) -> Tensor:
        length = self.model.lengths[walk == "long"]
        found = [torch.empty(0, self.text_width)]
        for start in range(0, len(texts), 4 * self.batch):
            ids = tokens(texts[start : start + 4 * self.batch], length).to(self.model.device)
            with self._precision():
                vectors = self.model.encode_text(ids, walk)
            found.append(unit(vectors).float().cpu())
        return torch.cat(found)

    @property
    def text_width(self) -> int:
        return self.model.config.text.projection_size or self.model.config.text.hidden_size

    @property
    def keeps_case(self) -> bool:
        """Whether the tokenizer itself tells upper from lower case; if not, no setting about case changes anything."""
        plain = Texts(self.texts.tokenizer, lower=False)
        return not torch.equal(plain(["A CAT"], 16), plain(["a cat"], 16))

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.half)


def _folder(checkpoint: str | Path) -> str | Path:
    """Of a checkpoint or a run's newest one; a hub name stays one."""
    return resolve(checkpoint) if Path(checkpoint).exists() else checkpoint


def trained_patches(checkpoint: str | Path) -> int | Literal["official"]:
    """Of a picture by itself, as the checkpoint was trained; "official" where it does not say."""
    said = read_trainer(Path(_folder(checkpoint)))
    return own_patches(said["settings"]["data"]["patches"]) if said.get("settings") else "official"


def own_patches(trained: int | str) -> int | Literal["official"]:
    """Patches of a picture by itself, as `data.patches` has it: each one's own bucket unless all have the same number."""
    return trained if isinstance(trained, int) else "official"
