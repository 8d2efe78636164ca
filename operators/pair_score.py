"""Score translations by a learned measure: sentence similarity, MetricX, or xCOMET. Optional; the recipe decides by the column.

Reads    `source`             string, or list<string> with `many`: the English
         `column`             likewise: the Chinese
Writes   `column`_<metric>    float32 (with `many` a list aligned with the texts); null where there is no pair
         with `many` also `column`_<metric>_worst   float32, the worst of the list
Refuses  nothing: `select` judges, or `reviewed` by its `doubtful`
Source   "similarity": cosine of multilingual sentence vectors (LaBSE, multilingual E5), 1 best; sees additions and other
         topics, hardly ever a changed colour. "metricx": MetricX-24 without reference (Juraska
         et al.), 0 best to 25. "xcomet": XCOMET without reference (Guerreiro et al.), 1 best

A text of several sentences is scored by sentence where both sides have as many, and the worst one counts: a fault of one sentence
drowns in a long caption. xCOMET's package pins older versions of what this project uses, so it runs in an environment of its own
(`python`: one with unbabel-comet) as a process beside the worker. Give the stage a GPU: `resources: {gpus: 1}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pyarrow as pa
from PIL import Image
from pydantic import Field, model_validator

from operators.base import Operator, Outcome, keep
from operators.needs import CONFIG, TOKENIZER, WEIGHTS, Need, file_at, hub_model, program
from operators.pair_models import measure
from operators.validators import sentences

MODELS = {
    "similarity": "sentence-transformers/LaBSE",
    "metricx": "google/metricx-24-hybrid-large-v2p6",
    "xcomet": "Unbabel/XCOMET-XL",
}
TOKENIZERS = {"metricx": "google/mt5-large"}
MAX_CHARS = 4000
"""Of one text; no measure reads more."""


class PairScore(Operator):
    metric: Literal["similarity", "metricx", "xcomet"] = "similarity"
    source: str = "long_caption_en"
    column: str = "translation_zh"
    many: bool = Field(False, description="the columns are lists of texts")
    model: str = Field("", description="folder or name on the hub; a checkpoint's file for xcomet. Default: a well-known one")
    tokenizer: str = Field("", description="of metricx, whose weights come without one")
    pooling: Literal["first", "mean"] = Field(
        "first", description="similarity: the first token's vector (LaBSE), or the mean (E5)"
    )
    prefix: str = Field("", description='similarity: what stands before every text; "query: " for E5')
    python: Path | None = Field(None, description="xcomet: of the environment with unbabel-comet")
    device: str = "auto"
    by_sentence: bool = True

    version: ClassVar[int] = 1

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.metric == "xcomet" and self.python is None:
            raise ValueError("python: xcomet runs in an environment of its own; name its Python, e.g. .venv-comet/bin/python")
        return self

    @property
    def reads(self) -> pa.Schema:
        kind = pa.list_(pa.string()) if self.many else pa.string()
        return pa.schema([(self.source, kind), (self.column, kind)])

    @property
    def writes(self) -> pa.Schema:
        name = f"{self.column}_{self.metric}"
        if not self.many:
            return pa.schema([(name, pa.float32())])
        return pa.schema([(name, pa.list_(pa.float32())), (f"{name}_worst", pa.float32())])

    def needs(self) -> list[Need]:
        model, tokenizer = self._names
        if self.metric == "xcomet":
            assert self.python is not None  # by `_complete`
            checkpoint = file_at("model", model)
            if checkpoint.lacks:
                checkpoint = hub_model("model", "xCOMET", model, ("checkpoints/model.ckpt",))
            return [program("python", self.python), checkpoint]
        if self.metric == "metricx":
            return [
                hub_model("tokenizer", "tokenizer", tokenizer, TOKENIZER),
                hub_model("model", "MetricX", model, CONFIG, WEIGHTS),
            ]
        return [hub_model("model", "encoder of sentences", model, CONFIG, WEIGHTS, TOKENIZER)]

    def setup(self) -> None:
        self._measure()

    @property
    def _names(self) -> tuple[str, str]:
        """Of the model and its tokenizer."""
        return self.model or MODELS[self.metric], self.tokenizer or TOKENIZERS.get(self.metric, "")

    def _measure(self) -> Any:
        return measure(self.metric, *self._names, self.pooling, self.prefix, str(self.python or ""), self.device)

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        english, chinese = (batch[name].to_pylist() for name in (self.source, self.column))
        if not self.many:
            english, chinese = ([[text] for text in texts] for texts in (english, chinese))
        pairs: list[tuple[str, str]] = []
        places: list[list[range | None]] = []
        for own, theirs in zip(english, chinese, strict=True):
            mine: list[range | None] = []
            # A list of translations is as long as that of its sources, unless a stranger made it.
            for i, zh in enumerate(theirs or []):
                en = own[i] if own and i < len(own) else None
                parts = self._parts(en, zh) if en and zh and en.strip() and zh.strip() else []
                mine.append(range(len(pairs), len(pairs) + len(parts)) if parts else None)
                pairs += parts
            places.append(mine)
        scores = self._measure().score(pairs) if pairs else []
        worst = max if self.metric == "metricx" else min
        rows = [[worst(scores[k] for k in place) if place else None for place in mine] for mine in places]
        if not self.many:
            flat = [row[0] if row else None for row in rows]
            return keep(batch.select(["uid"]), {self.writes.names[0]: pa.array(flat, pa.float32())})
        lists = [None if theirs is None else row for row, theirs in zip(rows, chinese, strict=True)]
        lowest = [worst(known) if (known := [s for s in row if s is not None]) else None for row in rows]
        return keep(
            batch.select(["uid"]),
            {
                self.writes.names[0]: pa.array(lists, pa.list_(pa.float32())),
                self.writes.names[1]: pa.array(lowest, pa.float32()),
            },
        )

    def _parts(self, english: str, chinese: str) -> list[tuple[str, str]]:
        english, chinese = english[:MAX_CHARS], chinese[:MAX_CHARS]
        own, theirs = sentences.split(english), sentences.split(chinese)
        if self.by_sentence and len(own) == len(theirs) > 1:
            return list(zip(own, theirs, strict=True))
        return [(english, chinese)]
