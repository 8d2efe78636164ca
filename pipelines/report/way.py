"""The way of the samples, gathered from the ledger alone: counts, refusals, costs, and whether the sums come out.

One pass over the entries in force, in the order of shards; of each entry only counts are kept.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipelines.chain import Chain
from pipelines.counted import counted
from pipelines.durable import read_table
from pipelines.ledger import Entry, shard_name
from pipelines.rejects import already_requeued
from pipelines.run import reach
from pipelines.tables import REQUEUED
from pipelines.view import View

FAULTS = 20
"""Broken promises that are spelled out; the others are counted."""
EXAMPLE_FILES = 40
"""Reject files of one stage that are opened to find an example of each reason."""
USAGE = ("requests", "answers_found", "prompt_tokens", "output_tokens")


@dataclass
class StageWay:
    """One stage over all its shards. `rejects` are whole samples, `parts` captions, boxes … of samples that went on."""

    name: str
    kind: str
    shards: int = 0
    rows_in: int = 0
    rows_out: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    parts: Counter[str] = field(default_factory=Counter)
    usage: Counter[str] = field(default_factory=Counter)
    spent: Counter[str] = field(default_factory=Counter)  # usage of every commit there ever was, superseded ones included
    seconds: float = 0.0
    bytes: int = 0
    examples: dict[str, tuple[str, str]] = field(default_factory=dict)  # reason → uid, detail
    reasons: dict[str, str] = field(default_factory=dict)  # reason → what it means

    @property
    def refused(self) -> int:
        return sum(self.rejects.values())


@dataclass
class Way:
    """
    rows        in the tables in use, without those put back
    put_back    rows of tables made by requeueing; each of them was refused before
    superseded  refusals whose sample was put back later
    kept        samples that went through all stages
    on_the_way  samples of shards that have stages still to do, and rows of shards not begun
    ends        (view, True if through all stages), for shards that hold samples
    faults      broken promises, the first of them in words; `fault_count` counts all
    """

    stages: dict[str, StageWay]
    rows: int = 0
    put_back: int = 0
    superseded: int = 0
    kept: int = 0
    on_the_way: int = 0
    shards: int = 0
    finished: int = 0
    shard_bytes: int = 0
    tables: list[dict[str, Any]] = field(default_factory=list)
    ends: list[tuple[View, bool]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    fault_count: int = 0

    @property
    def refused(self) -> int:
        """Refused and not put back later."""
        return sum(stage.refused for stage in self.stages.values()) - self.superseded

    @property
    def twice(self) -> int:
        """Samples that were put back but are no longer refused where they first were: they stand in two shards."""
        return self.put_back - self.superseded

    @property
    def balanced(self) -> bool:
        return not self.fault_count and self.twice == 0 and self.rows == self.kept + self.refused + self.on_the_way

    def fault(self, text: str) -> None:
        self.fault_count += 1
        if len(self.faults) < FAULTS:
            self.faults.append(text)


def walk(chain: Chain) -> Way:
    stages = {stage.name: StageWay(stage.name, stage.kind) for stage in chain.recipe.stages}
    for stage in chain.recipe.stages:
        for operator in stage.operators.values():
            stages[stage.name].reasons.update(getattr(operator, "reasons", {}))
    way = Way(stages)
    for index in sorted(chain.paths):
        table = chain.tables.all[index]
        way.tables.append({"source": table.source, "rows": table.rows, "shards": table.shards, "digest": table.digest})
        if table.source == REQUEUED:
            way.put_back += table.rows
        else:
            way.rows += table.rows
    back = already_requeued(chain) if way.put_back else {}
    opened: Counter[str] = Counter()
    for shard, (view, at) in reach(chain, chain.shards()).items():
        way.shards += 1
        rows = chain.tables.slice_of(shard)["rows"]
        for name, fingerprint in view.entries.items():
            entry = chain.ledger.get(name, fingerprint, shard)
            if entry is None:
                way.fault(f"shard {shard}, stage {name}: the ledger entry was there a moment ago and is gone")
                break
            _check(way, entry, rows, len(chain.withheld.taken.get(shard, ())))
            _add(stages[name], entry)
            _examples(chain, way, stages[name], entry, opened)
            way.superseded += _superseded(chain, way, entry, back)
            rows = entry.rows_out
        if at is None:
            way.finished += 1
            way.kept += rows
            _check_handoff(chain, way, view)
        else:
            way.on_the_way += rows
        if view.rows:
            way.ends.append((view, at is None))
    for asking in stages.values():
        if asking.kind == "model":
            for entry in chain.ledger.entries(asking.name):
                asking.spent.update(entry.usage)
    return way


def _add(stage: StageWay, entry: Entry) -> None:
    stage.shards += 1
    stage.rows_in += entry.rows_in
    stage.rows_out += entry.rows_out
    stage.rejects.update(entry.rejects)
    stage.parts.update(entry.parts)
    stage.usage.update(entry.usage)
    stage.seconds += entry.seconds
    stage.bytes += sum(file.bytes for file in entry.files.values())


def _check(way: Way, entry: Entry, came: int, taken: int) -> None:
    """taken: samples of the shard that were taken down, and may have left between two stages."""
    where = f"shard {entry.shard}, stage {entry.stage}"
    if not came - taken <= entry.rows_in <= came:
        way.fault(f"{where}: {counted(came, 'sample')} came from the stage before, but {entry.rows_in:,} went in")
    if entry.rows_in != entry.rows_out + sum(entry.rejects.values()):
        way.fault(f"{where}: {entry.rows_in:,} in, {entry.rows_out:,} out, {sum(entry.rejects.values()):,} refused")


def _check_handoff(chain: Chain, way: Way, view: View) -> None:
    """The tar under shards/ is the one that the pack stage committed."""
    pack = next((stage.name for stage in chain.recipe.stages if stage.kind == "pack"), None)
    if pack is None or not view.rows:
        return
    entry = chain.ledger.get(pack, view.entries[pack], view.shard)
    tar = chain.run / "shards" / f"{shard_name(view.shard)}.tar"
    assert entry is not None
    way.shard_bytes += entry.files["shard"].bytes
    found = tar.stat().st_size if tar.is_file() else None
    if found != entry.files["shard"].bytes:
        what = "is not there" if found is None else f"has {found:,} bytes instead of {entry.files['shard'].bytes:,}"
        way.fault(f"shards/{tar.name} {what}: run the recipe again to hand it over")


def _examples(chain: Chain, way: Way, stage: StageWay, entry: Entry, opened: Counter[str]) -> None:
    missing = {*entry.rejects, *entry.parts} - stage.examples.keys()
    if not missing or opened[stage.name] >= EXAMPLE_FILES:
        return
    opened[stage.name] += 1
    for row in _rejects(chain, way, entry, ["uid", "reason", "detail"]):
        if row["reason"] in missing:
            missing.discard(row["reason"])
            stage.examples[row["reason"]] = (row["uid"], row["detail"] or "")


def _superseded(chain: Chain, way: Way, entry: Entry, back: dict[str, int]) -> int:
    if not back or not entry.rejects:
        return 0
    rows = _rejects(chain, way, entry, ["uid", "item"])
    return sum(row["item"] is None and back.get(row["uid"], -1) > entry.shard for row in rows)


def _rejects(chain: Chain, way: Way, entry: Entry, columns: list[str]) -> list[dict[str, Any]]:
    path = entry.files["rejects"].path
    try:
        return read_table(chain.run / path, columns=columns).to_pylist()
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        way.fault(f"{path}: cannot be read: {error}")
        return []
