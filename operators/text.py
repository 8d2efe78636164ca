"""Measure the captions of a sample: language, length, script.

Reads    captions                       list<string>, short captions (another column by `column`)
Writes   caption_language               string, ISO 639-1 code of all captions together; null where nothing tells
         caption_language_confidence    float32, 0-1; null likewise
         caption_count                  int32, captions that are not blank
         caption_chars                  int32, characters of the longest caption
         caption_han_share              float32, Han characters / letters of all captions; null without letters
Refuses  nothing: `select` judges
Source   lingua (n-gram models), restricted to `languages`: on short alt-texts 75 candidates guess far more than a dozen

Only the first `MAX_CHARS` characters of a caption and of a sample are looked at, so a megabyte of text costs no more than a
page. (Only `caption_chars` counts them all.)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image
from pydantic import field_validator

from operators.base import Operator, Outcome, keep, schema

MAX_CHARS = 2000


@functools.cache
def _detector(codes: tuple[str, ...]) -> Any:
    """Made once per process: the models of a dozen languages take some seconds and 300 MB."""
    from lingua import IsoCode639_1, LanguageDetectorBuilder

    return LanguageDetectorBuilder.from_iso_codes_639_1(*(getattr(IsoCode639_1, code.upper()) for code in codes)).build()


def detect_languages(texts: Sequence[str], codes: tuple[str, ...]) -> list[tuple[str, float] | None]:
    """Most likely language and its probability among `codes`, None for texts without letters."""
    found: list[tuple[str, float] | None] = []
    for ranking in _detector(codes).compute_language_confidence_values_in_parallel([text[:MAX_CHARS] for text in texts]):
        best = max(ranking, key=lambda entry: (entry.value, entry.language.name), default=None)
        found.append((best.language.iso_code_639_1.name.lower(), best.value) if best is not None and best.value > 0 else None)
    return found


class Text(Operator):
    column: str = "captions"
    languages: tuple[str, ...] = ("de", "en", "es", "fr", "it", "ja", "ko", "nl", "pt", "ru", "zh")

    version: ClassVar[int] = 1

    @field_validator("languages")
    @classmethod
    def _known(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        from lingua import Language

        valid = {language.iso_code_639_1.name.lower() for language in Language.all()}
        unknown = sorted(set(codes) - valid)
        if unknown or len(set(codes)) < 2:
            raise ValueError(f"found {', '.join(codes)}; expected two or more ISO 639-1 codes of {', '.join(sorted(valid))}")
        return tuple(sorted(set(codes)))

    @property
    def reads(self) -> pa.Schema:
        return pa.schema([(self.column, pa.list_(pa.string()))])

    @property
    def writes(self) -> pa.Schema:
        return schema(
            caption_language=pa.string(),
            caption_language_confidence=pa.float32(),
            caption_count=pa.int32(),
            caption_chars=pa.int32(),
            caption_han_share=pa.float32(),
        )

    def setup(self) -> None:
        _detector(self.languages)

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        rows = len(batch)
        lists = batch[self.column].cast(pa.list_(pa.string())).combine_chunks()
        parent = pc.list_parent_indices(lists).to_numpy()
        flat = pc.fill_null(pc.list_flatten(lists), "")
        lengths = pc.utf8_length(flat).to_numpy()
        blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(flat)), 0).to_numpy(zero_copy_only=False)
        head = pc.utf8_slice_codeunits(flat, 0, MAX_CHARS)
        letters = np.bincount(parent, pc.count_substring_regex(head, r"\p{L}").to_numpy(), rows)
        han = np.bincount(parent, pc.count_substring_regex(head, r"\p{Han}").to_numpy(), rows)
        longest = np.zeros(rows, np.int64)
        np.maximum.at(longest, parent, lengths)

        joined: list[str] = [""] * rows
        for row, text in zip(parent.tolist(), head.to_pylist(), strict=True):
            if len(joined[row]) < MAX_CHARS:
                joined[row] += text + "\n"
        found = detect_languages(joined, self.languages)
        return keep(
            batch,
            {
                "caption_language": pa.array([entry and entry[0] for entry in found], pa.string()),
                "caption_language_confidence": pa.array([entry and entry[1] for entry in found], pa.float32()),
                "caption_count": pa.array(np.bincount(parent, ~blank, rows).astype(np.int32)),
                "caption_chars": pa.array(longest.astype(np.int32)),
                "caption_han_share": pa.array(han / np.maximum(letters, 1), pa.float32(), mask=letters == 0),
            },
        )
