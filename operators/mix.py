"""Thin out sources so that languages come in given proportions: sample by sample, without looking at the others.

Reads    language   string, of the source's captions
Writes   nothing
Refuses  "thinned"        left out so that the proportion of its language comes right
         "no_weight"      a language without a weight
Source   FG-CLIP 2, stage 1: LAION-2B-enhanced 1.6B pairs in English; Wukong 100M, Zero 250M and 500M of its authors' own in Chinese

`pairs` says how many pairs each source has; with `weights` it gives the share of each language that is kept (1 for the scarcest). A
sample is kept when a hash of its uid lies below that share, so billions can be thinned shard by shard, and always alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import pyarrow as pa
from PIL import Image
from pydantic import Field, model_validator

from operators.base import Operator, Outcome, keep, schema
from operators.sample import rank


class Mix(Operator):
    pairs: dict[str, dict[Literal["en", "zh"], float]] = Field(min_length=1, description="source → language → pairs it has")
    weights: dict[Literal["en", "zh"], float] = Field(min_length=1)
    seed: int = 0

    version: ClassVar[int] = 1
    reasons: ClassVar[dict[str, str]] = {
        "thinned": "left out so that its language has the recipe's share",
        "no_weight": "its language has no weight in the mix",
    }

    @model_validator(mode="after")
    def _sensible(self) -> Mix:
        for language, weight in self.weights.items():
            if weight < 0:
                raise ValueError(f"weights.{language} is {weight}; expected a number that is not negative")
            if weight and not self._available(language):
                raise ValueError(f"weights.{language} is {weight}, but `pairs` names no source with any of that language")
        if not any(self.weights.values()):
            raise ValueError("all weights are 0: nothing would be left")
        return self

    def _available(self, language: str) -> float:
        return sum(dict(by_language).get(language, 0.0) for by_language in self.pairs.values())  # type: ignore[call-overload]

    @cached_property
    def shares(self) -> dict[str, float]:
        """Share of each language that is kept; 1 for the one that is scarce against its weight."""
        wanted = {language: weight / self._available(language) for language, weight in self.weights.items() if weight}
        most = max(wanted.values())
        return {language: value / most for language, value in wanted.items()}

    @property
    def reads(self) -> pa.Schema:
        return schema(language=pa.string())

    @property
    def writes(self) -> pa.Schema:
        return schema()

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        languages = batch["language"].to_pylist()
        lots = [rank(uid, self.seed) / 2**64 for uid in batch["uid"].to_pylist()]
        unknown = [language not in self.shares for language in languages]
        thinned = [
            language in self.shares and lot >= self.shares[language] for language, lot in zip(languages, lots, strict=True)
        ]
        refused: dict[str, Any] = {
            "no_weight": (unknown, lambda i: f"language {languages[i]}"),
            "thinned": (thinned, lambda i: f"{self.shares[languages[i]]:.4f} of {languages[i]} is kept"),
        }
        return keep(batch.select(["uid"]), {}, unless=refused)
