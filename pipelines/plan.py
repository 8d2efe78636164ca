"""What a run would do, without doing it: per stage the shards done and to do, samples, model calls, tokens and hours.

Committed work is found as a run finds it. From the first stage that a shard still has to do, the plan goes on in memory as far as
it can without pictures or a server: expressions and parsers are run, model stages look into the answer store and count what is
not in it. Beyond that it estimates from the rates and survival of what is committed, and says so.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from operators.base import ModelOperator, Operator, Outcome, Reject
from operators.pictures import LazyPicture
from pipelines.answers import AnswerStore
from pipelines.chain import Chain
from pipelines.config import Stage
from pipelines.ledger import shard_name
from pipelines.model_client import ModelClient
from pipelines.reach import Reach
from pipelines.run import reach
from pipelines.stores import Place
from pipelines.view import View, read_columns

DRY_SHARDS = 50
"""Shards gone through in memory; with more to do the rest is taken in proportion, and the plan says so."""


@dataclass
class StagePlan:
    """One line of the plan. `calls` are model requests not answered by the store; `exact` is False where they are estimated.

    stored, read   bytes that the stage will write, answers and the copies in `shards/` included, and bytes of pictures that it will
                   read back, by what committed shards measured
    """

    name: str
    kind: str
    shards_done: int = 0
    shards_to_do: int = 0
    samples: float = 0.0
    calls: float = 0.0
    output_tokens: float = 0.0
    seconds: float = 0.0
    exact: bool = True
    stored: float = 0.0
    read: float = 0.0


@dataclass
class Plan:
    shards: int
    stages: list[StagePlan]
    sampled: int | None = None  # shards gone through, where not all were
    gpu_hours: float = 0.0
    hours: float = 0.0
    storage_gb: float = 0.0  # that the rest of the run adds
    egress_gb: float = 0.0  # that leaves the store for the workers: pictures, once for every stage that looks at them
    unmeasured: list[str] = field(default_factory=list)  # stages with work to do of which nothing is committed yet
    cost: dict[str, float] = field(default_factory=dict)  # by kind of price, where prices were given


@dataclass
class _Measured:
    """What committed entries of a stage say about its cost."""

    rows_in: int = 0
    rows_out: int = 0
    seconds: float = 0.0
    requests: int = 0
    asked: int = 0  # requests, and those that the store had an answer to
    output_tokens: int = 0
    answer_bytes: int = 0
    bytes: int = 0
    picture_bytes: int = 0

    def per_row(self, what: str, default: float) -> float:
        return getattr(self, what) / self.rows_in if self.rows_in else default


@dataclass
class _Reached:
    """A shard in the middle of a dry walk.

    rows      samples it would have, estimated once `table` is None
    table     its samples with the columns that are known
    unknown   columns that a stage would have written if its answers were there
    """

    rows: float
    table: pa.Table | None
    unknown: frozenset[str] = frozenset()


class _Missing(Exception):
    """Raised where the store has no answer."""


class _StoreOnly(ModelClient):
    """A client that knows whom it would ask, and never does."""

    async def identity(self) -> dict[str, Any]:
        assert self._identity is not None
        return self._identity

    async def _request(self, *_: Any) -> dict[str, Any]:
        raise _Missing


PRICES = ("gpu_hour", "gb_month", "egress_gb")


def make_plan(
    chain: Chain,
    shards: Sequence[int],
    *,
    tokens_per_second: float | None = None,
    gpus: float | None = None,
    prices: dict[str, float] | None = None,
) -> Plan:
    """
    tokens_per_second   given rate of the model server, all workers together; by default the one measured in the committed entries
    gpus                behind the model server; by default those that the recipe names
    prices              of a GPU-hour, a GB stored for a month, a GB read from the store (`PRICES`), in any currency
    """
    at = reach(chain, shards)
    stages = {stage.name: StagePlan(stage.name, stage.kind) for stage in chain.recipe.stages}
    measured = _measure(chain, at)
    for name, count in at.counts().items():
        stages[name].shards_done = count["shards"]
    waiting = at.waiting()
    gone_through = list(waiting)[:DRY_SHARDS]
    for shard in gone_through:
        _walk(chain, at[shard][0], waiting[shard], stages, measured)
    scale = len(waiting) / len(gone_through) if gone_through else 1.0
    for plan in stages.values():
        plan.shards_to_do = len(shards) - plan.shards_done
        plan.samples, plan.calls, plan.output_tokens = plan.samples * scale, plan.calls * scale, plan.output_tokens * scale
        plan.seconds, plan.stored, plan.read = plan.seconds * scale, plan.stored * scale, plan.read * scale
        if plan.kind == "model":
            # A worker's seconds are measured; all workers of a stage together are faster.
            speed = tokens_per_second or _speed(measured[plan.name]) * chain.recipe.stage(plan.name).resources.most_workers
            plan.seconds = plan.output_tokens / speed if speed else 0.0
            plan.exact = plan.exact and scale == 1.0
    result = Plan(len(shards), list(stages.values()), len(gone_through) if scale > 1 else None)
    asking = {plan.name: plan.seconds for plan in result.stages if plan.kind == "model"}
    model_seconds = sum(asking.values())
    for name, seconds in asking.items():
        result.gpu_hours += seconds / 3600 * (chain.recipe.gpus(chain.recipe.stage(name)) if gpus is None else gpus)
    workers = {stage.name: stage.resources.most_workers for stage in chain.recipe.stages}
    alone = [plan.seconds / workers[plan.name] for plan in result.stages if plan.kind != "model"]
    result.hours = max(model_seconds, *alone) / 3600  # stages work at the same time: the slowest one is what takes the time
    result.storage_gb = sum(plan.stored for plan in result.stages) / 1e9
    result.egress_gb = sum(plan.read for plan in result.stages) / 1e9
    result.unmeasured = [
        plan.name
        for plan in result.stages
        if plan.shards_to_do and (not measured[plan.name].rows_in or (plan.output_tokens and not plan.seconds))
    ]
    amounts = {"gpu_hour": result.gpu_hours, "gb_month": result.storage_gb, "egress_gb": result.egress_gb}
    result.cost = {name: price * amounts[name] for name, price in (prices or {}).items()}
    return result


def _measure(chain: Chain, at: Reach) -> dict[str, _Measured]:
    """Sum the costs of all entries; those that the recipe has left behind still tell a stage's rate."""
    found: dict[str, _Measured] = defaultdict(_Measured)
    for stage in chain.recipe.stages:
        costs = at.table(stage.name).costs()
        row = found[stage.name]
        for name in ("rows_in", "rows_out", "bytes", "picture_bytes"):
            setattr(row, name, getattr(row, name) + (pc.sum(costs[name]).as_py() or 0))
        silent: list[str] = []  # usages of entries that asked nothing: their seconds say nothing of the server
        for text in pc.value_counts(costs["usage"]).to_pylist():
            usage = json.loads(text["values"])
            row.requests += usage.get("requests", 0) * text["counts"]
            row.asked += (usage.get("requests", 0) + usage.get("answers_found", 0)) * text["counts"]
            row.output_tokens += usage.get("output_tokens", 0) * text["counts"]
            row.answer_bytes += usage.get("answer_bytes", 0) * text["counts"]
            if stage.kind == "model" and not usage.get("requests"):
                silent.append(text["values"])
        timed = costs.filter(pc.invert(pc.is_in(costs["usage"], value_set=pa.array(silent, pa.string()))))
        row.seconds += pc.sum(timed["seconds"]).as_py() or 0.0
    return found


def _speed(row: _Measured) -> float:
    """Output tokens of one worker in a second of its time; 0 where none was ever asked for."""
    return row.output_tokens / row.seconds if row.seconds else 0.0


def _walk(chain: Chain, view: View, first: Stage, stages: dict[str, StagePlan], measured: dict[str, _Measured]) -> None:
    """Take one shard from its first undone stage to the end, in memory while possible."""
    order = chain.recipe.stages
    fetched = [row for row in measured.values() if row.picture_bytes and row.rows_out]
    picture = sum(row.picture_bytes for row in fetched) / max(1, sum(row.rows_out for row in fetched))
    shard = _Reached(float(view.rows), None)
    if first.kind == "source":
        shard.rows = float(chain.tables.slice_of(view.shard)["rows"])
    else:
        names = pa.schema([column for column in chain.columns_before(first) if column.name in view.columns])
        shard.table = read_columns(chain.run, view, names)
    for stage in order[order.index(first) :]:
        plan, cost = stages[stage.name], measured[stage.name]
        plan.samples += shard.rows
        copies = 2 if stage.kind == "pack" and isinstance(chain.run, Place) else 1  # a folder holds links to the committed tars
        plan.stored += shard.rows * cost.per_row("bytes", 0.0) * copies
        if stage.needs_image or stage.kind == "pack":
            plan.read += shard.rows * picture
        plan.seconds += shard.rows * cost.per_row("seconds", 0.0) if stage.kind != "model" else 0.0
        table = shard.table
        if table is None or not _can_run_dry(stage, shard):
            if stage.kind == "model":
                _estimate(plan, cost, shard.rows * cost.per_row("asked", 1.0), _max_tokens(chain, stage))
                plan.exact = False
            survive = cost.rows_out / cost.rows_in if cost.rows_in else 1.0
            shard = _Reached(shard.rows * survive, None)
        elif stage.kind == "model":
            outcome, missing = asyncio.run(_ask_dry(chain, stage, view.shard, table))
            _estimate(plan, cost, missing, _max_tokens(chain, stage))
            plan.exact = plan.exact and not shard.unknown
            if outcome is not None:
                shard = _Reached(float(outcome.kept.num_rows), _joined(table, outcome.kept), shard.unknown)
            else:  # its texts are unknown, but samples mostly survive without: later stages that read other columns can be told
                writes = stage.writes().names
                rest = table.select([name for name in table.column_names if name not in writes])
                shard = _Reached(shard.rows, rest, shard.unknown | set(writes))
        else:
            kept = _operate_dry(stage, table)
            shard = _Reached(float(kept.num_rows), kept, shard.unknown)


def _estimate(plan: StagePlan, cost: _Measured, calls: float, max_tokens: int) -> None:
    plan.calls += calls
    plan.stored += calls * cost.answer_bytes / cost.requests if cost.requests else 0.0
    plan.output_tokens += calls * (cost.output_tokens / cost.requests if cost.requests else float(max_tokens))


def _can_run_dry(stage: Stage, shard: _Reached) -> bool:
    """Whether the stage needs neither pictures nor a server, and everything it reads is known."""
    assert shard.table is not None
    cheap = stage.kind == "model" or (stage.kind == "batch" and not stage.needs_image)
    there, optional = set(shard.table.column_names), stage.optional() - shard.unknown
    return cheap and all(name in there or name in optional for name in stage.reads().names)


def _operate_dry(stage: Stage, table: pa.Table) -> pa.Table:
    for operator in stage.operators.values():
        assert isinstance(operator, Operator)
        operator.setup()
        table = _joined(table, operator(_with_nulls(table, stage), None).kept)
    return table


async def _ask_dry(chain: Chain, stage: Stage, shard: int, table: pa.Table) -> tuple[Outcome | None, int]:
    """Run a model operator against the answer store alone: what it would give, and how many samples lack an answer.

    With anything missing the outcome is unknown (None): the later stages are then estimated.
    """
    operator: ModelOperator = stage.operator
    operator.setup()
    client = _StoreOnly(chain.recipe.model, chain.identity)
    store = AnswerStore(chain.run / "answers" / stage.name / shard_name(shard), "plan")
    missing = 0
    rows: list[dict[str, Any]] = []
    rejects: list[Reject] = []
    try:
        for sample in _with_nulls(table, stage).to_pylist():
            ask = client.ask_for(store, sample["sha256"], chain.prompts)
            picture = LazyPicture((sample["width"], sample["height"]), _no_pixels) if operator.needs_image else None
            made: dict[str, Any] | None = None
            try:
                made, refused = await operator(sample, picture, ask)
                rejects += refused
            except* _Missing as group:  # an operator may ask for several texts at once
                missing += _count(group)
            if made is not None:
                rows.append({"uid": sample["uid"], **made})
    finally:
        await client.close()
    if missing:
        return None, missing
    return Outcome(pa.Table.from_pylist(rows, schema=pa.schema([("uid", pa.string()), *stage.writes()])), rejects), 0


def _count(group: BaseExceptionGroup[BaseException]) -> int:
    return sum(_count(e) if isinstance(e, BaseExceptionGroup) else 1 for e in group.exceptions)


def _no_pixels() -> Image.Image:
    raise RuntimeError("a plan needs no pixels")


def _max_tokens(chain: Chain, stage: Stage) -> int:
    from prompts.load import load

    cap = chain.recipe.model.max_answer_tokens
    return max(int(load(name, chain.prompts).capped(cap).sampling["max_tokens"]) for name in stage.operator.prompts)


def _with_nulls(table: pa.Table, stage: Stage) -> pa.Table:
    for column in stage.reads():
        if column.name not in table.column_names:
            table = table.append_column(column, pa.nulls(table.num_rows, column.type))
    return table


def _joined(table: pa.Table, kept: pa.Table) -> pa.Table:
    """The survivors of `table` with the columns of `kept` put in."""
    left = {uid: i for i, uid in enumerate(table["uid"].to_pylist())}
    table = table.take(pa.array([left[uid] for uid in kept["uid"].to_pylist()], pa.int64()))
    for column in kept.schema:
        if column.name != "uid":
            table = table.drop_columns([column.name]) if column.name in table.column_names else table
            table = table.append_column(column, kept[column.name])
    return table
