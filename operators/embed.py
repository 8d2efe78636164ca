"""Write a picture's vector by a CLIP-like model of open_clip: what `semantic_dedup` compares.

Reads    the picture
Writes   embedding    binary, D float16 little endian, of unit length: two bytes a number, a kilobyte for ViT-B's 512
Refuses  nothing
Source   OpenCLIP; weights are the user's: `model: local-dir:FOLDER`, or a name with `pretrained: FILE`

Cosines of different models are not comparable: all waves and runs that are compared must use one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa
from PIL import Image

from operators.base import Operator, Outcome, keep, schema
from operators.needs import Need, open_clip_model
from operators.picture_text import encoder


class Embed(Operator):
    model: str = "ViT-B-16-SigLIP2"
    pretrained: str = "webli"
    device: str = "auto"

    version: ClassVar[int] = 1
    needs_image: ClassVar[bool] = True

    @property
    def reads(self) -> pa.Schema:
        return schema()

    @property
    def writes(self) -> pa.Schema:
        return schema(embedding=pa.binary())

    def needs(self) -> list[Need]:
        return open_clip_model(self.model, self.pretrained)

    def setup(self) -> None:
        encoder(self.model, self.pretrained, self.device)

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        encode = encoder(self.model, self.pretrained, self.device)
        # One picture at a time: a vector must not depend on its neighbours in the batch.
        vectors = [encode.pictures([image])[0].astype("<f2").tobytes() for image in images or []]
        return keep(batch, {"embedding": pa.array(vectors, pa.binary())})


def unpack(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that have a usable vector, int64 [N], and those vectors, float32 [N, D] of unit length."""
    rows = np.flatnonzero(column.is_valid().to_numpy())
    packed = [vector for vector in column.to_pylist() if vector is not None]
    if not packed:
        return rows, np.zeros((0, 1), np.float32)
    sizes = {len(vector) for vector in packed}
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(f"embeddings of {', '.join(map(str, sorted(sizes)))} bytes: all must come from one model")
    vectors = np.frombuffer(b"".join(packed), "<f2").reshape(len(packed), -1).astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1)
    usable = np.isfinite(lengths) & (lengths > 0)
    return rows[usable], vectors[usable] / lengths[usable, None]
