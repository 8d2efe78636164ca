"""Keep the samples for which a recipe's expression over columns is true.

Reads    the columns that the expression names
Writes   nothing
Refuses  "not_selected"    the expression is false or null; the detail names the first part of the top-level `and` that failed
Source   the expression language is operators/expressions.py

    select: {keep: "width >= 256 and 0.25 <= clip_score and caption_language in ('en', 'zh')"}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pyarrow as pa
from PIL import Image
from pydantic import field_validator

from operators.base import Operator, Outcome, keep, schema
from operators.columns import BASE, IMAGE
from operators.expressions import Expression

KNOWN_TYPES = {field.name: field.type for field in [*BASE, *IMAGE]}


class Select(Operator):
    keep: str

    version: ClassVar[int] = 1
    reasons: ClassVar[dict[str, str]] = {"not_selected": "the recipe's expression is not true for it"}

    @field_validator("keep")
    @classmethod
    def _parses(cls, text: str) -> str:
        Expression(text)
        return text

    @property
    def reads(self) -> pa.Schema:
        """Columns of other operators have the type null here, "whatever it is": only `check` can know them."""
        return pa.schema([(name, KNOWN_TYPES.get(name, pa.null())) for name in Expression(self.keep).columns if name != "uid"])

    @property
    def writes(self) -> pa.Schema:
        return schema()

    def check(self, available: pa.Schema) -> None:
        """ValueError unless the expression fits these columns; for an unknown name it tells the nearest one."""
        Expression(self.keep).check(available)

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        expression = Expression(self.keep)
        chosen = expression.evaluate(batch)
        failed = [value is not True for value in chosen.to_pylist()]
        explain = expression.explainer(batch)
        return keep(batch, {}, unless={"not_selected": (failed, explain)})
