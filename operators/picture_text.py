"""Pictures and texts as unit vectors of one CLIP-like model of open_clip, loaded once per process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

BATCH = 64
MAX_CHARS = 500
"""Of a text; no tower reads more, and a tokenizer may take the square of a word's length."""


class Encoder:
    """model         name of an open_clip architecture, or `local-dir:FOLDER` with open_clip's own configuration and weights
    pretrained    tag or file of the weights; "" where the folder has them
    """

    def __init__(self, model: str, pretrained: str, device: str) -> None:
        import open_clip
        import torch

        self._torch = torch
        self._device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        # Where it finds no weights open_clip begins with random ones, and scores would be numbers like any others.
        made, _, self._transform = open_clip.create_model_and_transforms(
            model, pretrained=pretrained or None, require_pretrained=True
        )
        self._model: Any = made.eval().to(self._device)
        self._tokenizer = open_clip.get_tokenizer(model)

    def pictures(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """float32 [N, D], rows of unit length."""
        return self._encode(
            pictures, lambda part: self._torch.stack([self._transform(p) for p in part]), self._model.encode_image
        )

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [N, D], rows of unit length. A text beyond the tower's length is cut: score long ones by sentence."""
        return self._encode(texts, lambda part: self._tokenizer([text[:MAX_CHARS] for text in part]), self._model.encode_text)

    def _encode(self, given: Sequence[Any], prepare: Any, encode: Any) -> np.ndarray:
        found = []
        with self._torch.inference_mode():
            for start in range(0, len(given), BATCH):
                vectors = encode(prepare(given[start : start + BATCH]).to(self._device)).float()
                found.append(self._torch.nn.functional.normalize(vectors, dim=-1).cpu().numpy())
        return np.concatenate(found) if found else np.zeros((0, 1), np.float32)


@lru_cache(maxsize=2)
def encoder(model: str, pretrained: str, device: str) -> Encoder:
    return Encoder(model, pretrained, device)
