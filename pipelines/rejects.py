"""Looking at refusals, and putting refused samples back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc

from operators.columns import BASE
from pipelines.chain import Chain
from pipelines.config import ConfigError, nearest
from pipelines.download import is_retryable
from pipelines.durable import read_table, sha256_file, write_new, write_table
from pipelines.ledger import Entry
from pipelines.run import reach
from pipelines.tables import REQUEUED, Table
from pipelines.view import View, read_columns
from pipelines.withheld import FROM


def entries_in_force(chain: Chain) -> Iterator[tuple[Entry, View]]:
    """Every entry that the present recipe stands on, with the view before it, in the order of shards and stages."""
    for view, _ in reach(chain, chain.shards()).values():
        before = View(view.shard)
        for stage, fingerprint in view.entries.items():
            entry = chain.ledger.get(stage, fingerprint, view.shard)
            assert entry is not None
            yield entry, before
            before = before.after(entry)


def count(chain: Chain) -> dict[str, dict[str, Counter[str]]]:
    """stage → {"samples": reason → n, "parts": reason → n}, of the entries in force."""
    found: dict[str, dict[str, Counter[str]]] = {}
    for entry, _ in entries_in_force(chain):
        row = found.setdefault(entry.stage, {"samples": Counter(), "parts": Counter()})
        row["samples"].update(entry.rejects)
        row["parts"].update(entry.parts)
    return found


def waiting(chain: Chain) -> Counter[str]:
    """Shards by the stage that they have not been through, as the recipe stands."""
    return Counter(stage.name for _, stage in reach(chain, chain.shards()).values() if stage)


def listed(chain: Chain, stage: str | None, reason: str | None) -> Iterator[dict[str, Any]]:
    """The refusals themselves: shard, stage, uid, reason, detail, item."""
    for entry, _ in entries_in_force(chain):
        if stage in (None, entry.stage) and (reason is None or reason in entry.rejects or reason in entry.parts):
            for row in read_table(chain.run / entry.files["rejects"].path).to_pylist():
                if reason in (None, row["reason"]):
                    yield {"shard": entry.shard, "stage": entry.stage, **row}


def requeue(chain: Chain, reason: str, stage: str | None = None) -> Table | None:
    """Put the samples refused for `reason` back as a new table with shards of its own; identities stay. None: there were none."""
    known: Counter[str] = Counter()
    table = put_back(chain, lambda why: why == reason, stage, known)
    if reason not in known:
        raise ConfigError(f"no sample was refused for {reason!r}.{nearest(reason, list(known))}")
    return table


def retry(chain: Chain) -> Table | None:
    """Put back what the download refused for a reason that may pass: dead time-outs, server errors; never 404 or an opt-out."""
    stages = [stage.name for stage in chain.recipe.stages if stage.kind == "download"]
    if not stages:
        raise ConfigError(f"{chain.recipe.file}: no download stage, so nothing that could be fetched again")
    return put_back(chain, is_retryable, stages[0], Counter())


def put_back(chain: Chain, wanted: Callable[[str], bool], stage: str | None, known: Counter[str]) -> Table | None:
    """Put back samples by the reason of their refusal; `known` counts the reasons met.

    A sample that was put back before and refused again is taken from its newest refusal only.
    """
    newest: dict[str, tuple[Entry, View]] = {}
    for entry, before in entries_in_force(chain):
        if stage in (None, entry.stage):
            known.update(entry.rejects)
            table = read_table(chain.run / entry.files["rejects"].path)
            whole = table.filter(pc.is_null(table["item"]))
            for uid, why in zip(whole["uid"].to_pylist(), whole["reason"].to_pylist(), strict=True):
                newest.pop(uid, None)
                if wanted(why):
                    newest[uid] = (entry, before)
    back = already_requeued(chain)
    pieces = []
    refused: dict[int, list[tuple[str, Entry]]] = {}
    for uid, (entry, _) in newest.items():
        refused.setdefault(entry.shard, []).append((uid, entry))
    for view in {entry.shard: before for entry, before in newest.values()}.values():
        if not view.uid_file:
            raise ConfigError("samples refused by the source stage have no row to put back: mend the table instead")
        rows = read_columns(chain.run, view, pa.schema([column for column in BASE if column.name != "uid"]))
        by = {uid: entry for uid, entry in refused.get(view.shard, ()) if back.get(uid, -1) <= view.shard}
        rows = rows.filter(pc.is_in(rows["uid"], value_set=pa.array(sorted(by), pa.string()))).cast(BASE)
        refusers = [by[uid] for uid in rows["uid"].to_pylist()]
        origin = {"from_shard": [view.shard] * len(refusers), "from_stage": [entry.stage for entry in refusers]}
        origin["from_fingerprint"] = [entry.fingerprint for entry in refusers]
        for name, column in zip(FROM.names, pa.table(origin, FROM).columns, strict=True):
            rows = rows.append_column(name, column)
        pieces.append(rows)
    samples = pa.concat_tables(pieces) if pieces else BASE.empty_table()
    if not samples.num_rows:
        return None
    # The same samples may be put back again: a name of its own makes the table another one.
    name = f"requeued.{uuid4().hex[:12]}"
    samples = samples.replace_schema_metadata({"table": name})
    path = chain.run / "tables" / f"{name}.parquet"
    write_new(path, lambda p: write_table(samples, p))
    size = chain.recipe.shard_size
    slices = [
        {"first_row": at, "rows": min(size, samples.num_rows - at), "offset": 0, "end": 0, "check": ""}
        for at in range(0, samples.num_rows, size)
    ]
    return chain.tables.register(REQUEUED, path, sha256_file(path), samples.num_rows, slices)


def already_requeued(chain: Chain) -> dict[str, int]:
    """uid → first shard of the newest table it was put back in: its older refusals are superseded."""
    found: dict[str, int] = {}
    for table in chain.tables.all:
        if table.source == REQUEUED:
            for uid in read_table(chain.tables.file(table), columns=["uid"])["uid"].to_pylist():
                found[uid] = table.first_shard
    return found
