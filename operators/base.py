"""The contract of an operator: a batch of samples in, new columns and refusals out.

An operator is a validated settings model that can be called. It knows nothing of Ray, files or shards, and it never drops a
sample silently: a sample that comes in either leaves in `Outcome.kept` or in a `Reject` that says why.

Three kinds:
    GlobalOperator   array work over narrow columns of all shards at once (duplicates)
    Operator         array work over a whole batch, synchronous
    ModelOperator    asks the served model, asynchronous, one sample at a time (the engine runs many at once)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import pyarrow as pa
from PIL import Image
from pydantic import BaseModel, ConfigDict

from operators.needs import Need

DETAIL_LENGTH = 900
"""Characters of a refusal's detail that are kept."""


class OtherVersion(RuntimeError):
    """A process that would make something else of a stage than was planned."""


def other_version(what: str) -> OtherVersion:
    """The error, with what to do. what: the operator, prompt or file that is another one here."""
    return OtherVersion(
        f"{what} is another version here than where the run began. Was a file edited or the program updated under the run, or has a "
        "node another version? Put it back, or run again with it everywhere; what is committed holds"
    )


@dataclass(frozen=True)
class Reject:
    """One refusal. With `item` None the whole sample leaves; otherwise only the named part of it was refused.

    reason   short machine word, counted in reports and usable in `fineloom rejects --requeue`
    detail   what a person needs to understand this one case: the value and the limit it broke
    item     e.g. "long_caption_en", "regions[2]", "negatives[2][7]"
    """

    uid: str
    reason: str
    detail: str = ""
    item: str | None = None

    def __post_init__(self) -> None:
        if len(self.detail) > DETAIL_LENGTH:  # a stranger's megabytes do not belong into a reject
            object.__setattr__(self, "detail", self.detail[: DETAIL_LENGTH - 1] + "…")
        if not self.detail.isascii():  # half of a surrogate pair, from JSON or a file's name, could not be written
            object.__setattr__(self, "detail", self.detail.encode(errors="replace").decode())


@dataclass(frozen=True)
class Outcome:
    """What an operator made of a batch.

    kept     column `uid` and exactly the operator's `writes`, one row per surviving sample, in the order of the input
    rejects  refusals of whole samples (item None: input rows = kept rows + these) and of parts (item named)
    """

    kept: pa.Table
    rejects: list[Reject] = field(default_factory=list)


class Settings(BaseModel):
    """Validated, frozen settings; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class OperatorBase(Settings):
    version: ClassVar[int] = 1
    """Raised when the output for the same input changes; part of the stage's fingerprint."""
    needs_image: ClassVar[bool] = False
    """Whether the operator is given decoded pictures."""
    reasons: ClassVar[dict[str, str]] = {}
    """Every reason this operator may give, with one line of explanation."""

    @property
    def reads(self) -> pa.Schema:
        """Columns read, beside `uid`. A property, since settings may name them."""
        raise NotImplementedError

    @property
    def writes(self) -> pa.Schema:
        """Columns written, beside `uid`."""
        raise NotImplementedError

    @property
    def optional(self) -> frozenset[str]:
        """Columns of `reads` that a recipe may leave unmade: they are then all null."""
        return frozenset()

    @property
    def warning(self) -> str:
        """What a run says once when it starts, where these settings leave out what one would expect; empty for most."""
        return ""

    def needs(self) -> list[Need]:
        """What `setup` must find on the machine of a worker (weights, packages, files), looked for here and now and not loaded."""
        return []

    def setup(self) -> None:
        """Make heavy things (models, spaCy pipelines) once per worker. Keep them in a module-level cache or private attribute."""


class GlobalOperator(OperatorBase):
    in_waves: ClassVar[bool] = False
    """Whether it can judge some shards now and others later, when it is told what it kept before."""

    def __call__(self, samples: pa.Table, known: pa.Table | None = None) -> Outcome:
        """samples: `uid` and the columns of `reads` over all shards, in the order of shards and rows. known: the same of what was
        kept in earlier waves; None where there are none, and always for operators that are not `in_waves`."""
        raise NotImplementedError


class Operator(OperatorBase):
    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        """batch: `uid` and the columns of `reads`. images: RGB, upright (EXIF applied), row i = batch row i, if `needs_image`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Answer:
    """What the model server said to one request.

    text       raw content as it came ("" when there was none)
    finish     "stop", "length" (cut at the token cap) or another word of the server's
    hash       key of the request in the answer store
    system, user   the texts that were sent, from whichever folder the prompt came
    """

    text: str
    finish: str
    prompt_tokens: int
    output_tokens: int
    hash: str
    system: str = ""
    user: str = ""


class Ask(Protocol):
    """How a model operator reaches the model. Looks into the answer store first; a dead server raises, it never returns.

    prompt     a prompt file's name, e.g. "long_caption_en"
    variables  values for the prompt's placeholders
    image      the sample's whole RGB picture, or None
    region     x1, y1, x2, y2 in its pixels, to send only that part of it
    """

    async def __call__(
        self,
        prompt: str,
        variables: dict[str, Any],
        image: Image.Image | None = None,
        region: tuple[int, int, int, int] | None = None,
    ) -> Answer: ...

    def sent_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height at which a picture of `size` is sent: boxes in an answer are in these pixels."""
        ...


class ModelOperator(OperatorBase):
    @property
    def prompts(self) -> list[str]:
        """Names of the prompts it uses: their content is part of the fingerprint."""
        raise NotImplementedError

    async def __call__(
        self, sample: dict[str, Any], image: Image.Image | None, ask: Ask
    ) -> tuple[dict[str, Any] | None, list[Reject]]:
        """sample: `uid` and the columns of `reads` as Python values.

        Returns the written columns (None: the whole sample is refused, and a Reject with item None says why) and refusals.
        """
        raise NotImplementedError


def schema(**columns: pa.DataType) -> pa.Schema:
    """`schema(width=pa.int32())` for short declarations of `reads` and `writes`."""
    return pa.schema(list(columns.items()))


def keep(
    batch: pa.Table,
    columns: dict[str, Any],
    unless: dict[str, tuple[Sequence[bool] | pa.Array | pa.ChunkedArray, Callable[[int], str]]] | None = None,
    items: list[Reject] | None = None,
) -> Outcome:
    """Outcome of a batch from whole columns and masks of refusals.

    columns   name → values for every row of `batch` (refused rows included; they are dropped here)
    unless    reason → (mask, detail of row i); the first reason that holds for a row is the one given
    items     refusals of parts, passed on for the surviving rows
    """
    uids = batch["uid"].to_pylist()
    reason_of: dict[int, Reject] = {}
    for reason, (mask, detail) in (unless or {}).items():
        values = mask.to_pylist() if isinstance(mask, pa.Array | pa.ChunkedArray) else list(mask)
        for i, bad in enumerate(values):
            if bad and i not in reason_of:
                reason_of[i] = Reject(uids[i], reason, detail(i))
    table = pa.table({"uid": batch["uid"], **columns})
    if reason_of:
        table = table.take(pa.array([i for i in range(len(uids)) if i not in reason_of], pa.int64()))
    gone = {reject.uid for reject in reason_of.values()}
    return Outcome(table, [*reason_of.values(), *(item for item in items or [] if item.uid not in gone)])
