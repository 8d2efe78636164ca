"""What a checkpoint's trainer.json holds, key by key, so that a file that was edited or damaged is told by the key that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fgclip2_train.data.images import Patches
from fgclip2_train.strict import explain

Count = Annotated[int, Field(ge=0)]


class Saved(BaseModel):
    """Earlier programs wrote less: what has a default here may be missing, and the default is read by nobody."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class Position(Saved):
    """Of a stream (data/order.py)."""

    epoch: Count = 0
    block: Count = 0
    opened: Count = 0
    slots: list[tuple[Count, Count]] = []
    taken: Count = 0
    ends: list[tuple[Count, Count, Count]] = []
    replaced: Count = 0


class ReaderState(Saved):
    """Of a rank's loader (data/loader.py)."""

    step: Count
    positions: dict[str, dict[str, Position]]
    counts: dict[str, Count]
    samples: Count
    read: Count = 0


class ChosenData(Saved):
    patches: Patches | Literal["official", "bucketed"]


class Chosen(Saved):
    """Of a run's settings what is read by name; the rest is only compared."""

    stage: Literal[1, 2] | None = None
    preset: str | None = None
    data: ChosenData


class Told(Saved):
    """What evaluation and use ask of a checkpoint."""

    step: Count | None = None
    settings: Chosen | None = None


class ChosenToGoOn(Chosen):
    stage: Literal[1, 2]
    batch: Annotated[int, Field(ge=1)]


class ToGoOn(Saved):
    """What a run goes on with."""

    step: Count
    steps: Count = 0
    pairs: Count = 0
    order: dict[str, Any] = {}
    written: dict[str, str] = {}
    readers: Annotated[list[ReaderState], Field(min_length=1)]
    workers: Count
    settings: ChosenToGoOn


def read_saved(file: Path, kind: type[Saved]) -> dict[str, Any]:
    """The file's object. Raises ValueError that says what is wrong in it, by key, for what is not of that kind, and OSError."""
    values = json.loads(file.read_text())
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    try:
        kind.model_validate_json(json.dumps(values))  # lists are tuples in JSON only
    except ValidationError as error:
        told = (line for _, line in explain(error.errors(), values, lambda name: ()))
        raise ValueError("; ".join(line for line, _ in zip(told, range(3), strict=False))) from None
    return values
