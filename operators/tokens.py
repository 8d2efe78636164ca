"""Count the tokens of a text: what a caption costs and whether a text tower reads all of it.

Reads    `column`           string
Writes   `into`_tokens      int32, tokens without special ones; null without a text
         `into`_beyond      float32, share of the tokens after the first `limit`, which a text tower does not read
Refuses  nothing: `select` judges
Source   LIT-CN: 131 tokens on average, by the tokenizer of the captioner (Qwen2.5-VL). FG-CLIP 2's text tower reads 196 of its own
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

import pyarrow as pa
from PIL import Image
from pydantic import Field

from operators.base import Operator, Outcome, keep
from operators.needs import TOKENIZER, Need, hub_model


class Tokens(Operator):
    column: str
    tokenizer: str = "Qwen/Qwen2.5-VL-32B-Instruct-AWQ"
    """Folder of a tokenizer, or its name on the model hub."""
    limit: int = Field(196, ge=1, description="tokens that are read: 196 in FG-CLIP 2, by the tokenizer of its text tower")
    into: str = Field("", description="beginning of the written columns' names; default: `column`")

    version: ClassVar[int] = 2

    @property
    def reads(self) -> pa.Schema:
        return pa.schema([(self.column, pa.string())])

    @property
    def writes(self) -> pa.Schema:
        name = self.into or self.column
        return pa.schema([(f"{name}_tokens", pa.int32()), (f"{name}_beyond", pa.float32())])

    def needs(self) -> list[Need]:
        return [hub_model("tokenizer", "tokenizer", self.tokenizer, TOKENIZER)]

    def setup(self) -> None:
        load(self.tokenizer)

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        texts = batch[self.column].to_pylist()
        there = [text for text in texts if text is not None]
        counts = iter([len(ids) for ids in load(self.tokenizer)(there, add_special_tokens=False)["input_ids"]] if there else [])
        counted = [None if text is None else next(counts) for text in texts]
        beyond = [None if n is None else max(0, n - self.limit) / n if n else 0.0 for n in counted]
        tokens, share = self.writes.names
        return keep(batch.select(["uid"]), {tokens: pa.array(counted, pa.int32()), share: pa.array(beyond, pa.float32())})


@lru_cache(maxsize=2)
def load(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise RuntimeError(
            f"no tokenizer {name!r}: neither a folder with one nor a name that the model hub answers to. "
            "Set `tokenizer` to a local folder"
        ) from error
