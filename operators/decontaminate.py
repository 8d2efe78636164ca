"""Keep evaluation sets out of training: refuse samples whose picture or caption is in one.

Reads    sha256, phash   of the picture (`download` and `phash` write them); `column` list<string> or string (`captions` by default)
Writes   nothing
Refuses  "evaluation_picture"   the very bytes of an evaluation picture
         "evaluation_near"      perceptual hashes within `max_distance` of 64 bits
         "evaluation_caption"   a caption equal to an evaluation caption after `normal`, at least `min_chars` letters and digits long
Source   manifests made by `fineloom contamination FOLDER`: one JSON line a picture or caption, hashes only. Files or patterns; where
         the recipe names none, those of the environment variable FINELOOM_EVALUATION (several with `:` between them)

`normal` is NFKC, lower case, letters and digits alone: punctuation, spaces and width do not hide a caption. A rewritten or translated
one is not found; its picture is. Flat pictures share hashes with each other: hashes of almost no set or unset bits are not compared.
"""

from __future__ import annotations

import glob
import json
import os
import re
import unicodedata
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import Field, PrivateAttr, model_validator

from operators.base import Operator, Outcome, keep
from operators.columns import BASE

CAPTION_CHARS = 20_000
LEAST_BITS = 8
"""A perceptual hash with fewer bits set, or unset, is that of a nearly flat picture and says nothing."""
VARIABLE = "FINELOOM_EVALUATION"
BLOCK = 1 << 22
"""Pairs of hashes that are compared at a time."""


def normal(text: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text[:CAPTION_CHARS]).casefold())


def caption_key(text: str) -> str:
    """Of a normalised caption: 128 bits, so that a manifest does not spread the set itself."""
    return sha256(normal(text).encode("utf-8", "replace")).hexdigest()[:32]


def telling(hashes: np.ndarray) -> np.ndarray:
    bits = np.bitwise_count(hashes)
    return (bits >= LEAST_BITS) & (bits <= 64 - LEAST_BITS)


class Decontaminate(Operator):
    manifests: tuple[str, ...] = Field((), exclude=True)
    column: str = "captions"
    max_distance: int | None = Field(6, ge=0, le=16)
    min_chars: int = Field(12, ge=1)
    content: str = Field("", description="filled in: checksum of the manifests' content")

    _pictures: dict[str, str] = PrivateAttr(default_factory=dict)  # sha256 → set
    _captions: dict[str, str] = PrivateAttr(default_factory=dict)  # key → set
    _hashes: bytes = PrivateAttr(default=b"")  # uint64 each, as bytes: settings are compared with ==
    _sets: list[str] = PrivateAttr(default_factory=list)  # of `_hashes`, row by row

    version: ClassVar[int] = 1
    reasons: ClassVar[dict[str, str]] = {
        "evaluation_picture": "the picture is in an evaluation set",
        "evaluation_near": "the picture is next to one of an evaluation set",
        "evaluation_caption": "a caption is one of an evaluation set",
    }

    @model_validator(mode="after")
    def _read(self) -> Self:
        near: dict[int, str] = {}
        files = _files(self.manifests)
        for file in files:
            for number, line in enumerate(_lines(file), 1):
                try:
                    row = json.loads(line)
                    name = str(row["set"])
                    if "caption" in row:
                        self._captions[str(row["caption"])] = name
                    else:
                        self._pictures[str(row["sha256"])] = name
                        near[int(row["phash"], 16)] = name
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(f"manifests: {file}:{number}: {type(error).__name__}: {error}") from None
        if not files:
            return self
        if not (self._pictures or self._captions):
            raise ValueError(f"manifests: {', '.join(files)}: nothing in it")
        hashes = np.array(sorted(near), np.uint64)
        hashes = hashes[telling(hashes)]
        self._hashes, self._sets = hashes.tobytes(), [near[int(value)] for value in hashes]
        known = "\n".join([*sorted(self._pictures), "", *sorted(self._captions), "", *map(str, sorted(near))])
        object.__setattr__(self, "content", sha256(known.encode()).hexdigest())
        return self

    @property
    def reads(self) -> pa.Schema:
        kind = BASE.field(self.column).type if self.column in BASE.names else pa.string()
        return pa.schema([("sha256", pa.string()), ("phash", pa.uint64()), (self.column, kind)])

    @property
    def writes(self) -> pa.Schema:
        return pa.schema([])

    @property
    def warning(self) -> str:
        if self.content:
            return ""
        return (
            "no evaluation set is named, so none is kept out of training: `fineloom contamination FOLDER --out evaluation/SET.jsonl` "
            f"for each of them, then {VARIABLE}='evaluation/*.jsonl'"
        )

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        same = [self._pictures.get(value or "") for value in batch["sha256"].to_pylist()]
        near, distance = self._nearest(batch["phash"])
        said = [self._caption(value) for value in batch[self.column].to_pylist()]
        return keep(
            batch,
            {},
            unless={
                "evaluation_picture": ([name is not None for name in same], lambda i: str(same[i])),
                "evaluation_near": (
                    [name is not None for name in near],
                    lambda i: f"{near[i]}, {distance[i]} of 64 bits differ",
                ),
                "evaluation_caption": ([name is not None for name in said], lambda i: str(said[i])),
            },
        )

    def _caption(self, value: list[str | None] | str | None) -> str | None:
        for text in value if isinstance(value, list) else [value]:
            if (
                text
                and self._captions
                and len(normal(text)) >= self.min_chars
                and (name := self._captions.get(caption_key(text)))
            ):
                return name
        return None

    def _nearest(self, column: pa.ChunkedArray) -> tuple[list[str | None], np.ndarray]:
        """For every row the set of the nearest evaluation hash within `max_distance`, and how far that is."""
        rows = len(column)
        names: list[str | None] = [None] * rows
        best = np.full(rows, 65, np.uint8)
        known = np.frombuffer(self._hashes, np.uint64)
        if self.max_distance is None or not len(known) or not rows:
            return names, best
        hashes = column.fill_null(0).to_numpy().astype(np.uint64)
        at = np.zeros(rows, np.int64)
        step = max(1, BLOCK // rows)
        for start in range(0, len(known), step):
            bits = np.bitwise_count(hashes[:, None] ^ known[None, start : start + step])
            nearest = bits.argmin(axis=1)
            least = bits[np.arange(rows), nearest]
            closer = least < best
            best[closer], at[closer] = least[closer], start + nearest[closer]
        hit = (best <= self.max_distance) & telling(hashes) & column.is_valid().to_numpy()
        for row in np.flatnonzero(hit):
            names[row] = self._sets[at[row]]
        return names, best


def _files(given: Sequence[str]) -> list[str]:
    found: list[str] = []
    for pattern in given or filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        here = sorted(glob.glob(pattern, recursive=True))
        if not here:
            raise ValueError(f"manifests: {pattern}: nothing there. `fineloom contamination FOLDER --out FILE` makes one")
        found += here
    return list(dict.fromkeys(found))


def _lines(file: str) -> list[str]:
    try:
        return [line for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"manifests: {file}: {error}. `fineloom contamination FOLDER --out {file}` makes one") from None
