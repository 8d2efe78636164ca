"""A whole run of a recipe: prepare, take every segment as far as it goes, hand the shards over, say what was made.

prepare()   validate, lock, register tables, know the model: everything that can be wrong is found here, before work
execute()   all segments (pipelines/segments.py), with an engine that is started when it is needed
handoff()   shards/NNNNN.tar as links to the committed tars, index.parquet
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shlex
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import run_records
from pipelines.chain import Chain
from pipelines.compact import meanwhile
from pipelines.config import MANIFESTS, ConfigError, Recipe, Stage
from pipelines.counted import counted
from pipelines.durable import (
    PARQUET,
    THREADS,
    Damaged,
    as_written,
    canonical_json,
    check_store,
    files,
    free_bytes,
    link_or_copy,
    many,
    open_table,
    read_table,
    replace,
    replace_by,
)
from pipelines.engine import Engine
from pipelines.ledger import shard_name
from pipelines.locks import RunBusy, lock
from pipelines.metrics import exported
from pipelines.model_identity import ServerUnavailable
from pipelines.monitor import Failure
from pipelines.progress import Progress
from pipelines.reach import reach
from pipelines.segments import go_through
from pipelines.sources import Source, index_table, load_source
from pipelines.stores import Place, place
from pipelines.tables import REQUEUED, Tables

INDEX = pa.schema({"uid": pa.string(), "tar": pa.string(), "offset": pa.int64(), "size": pa.int64()})
OF = b"fineloom.packed"
"""In the metadata of the index: the hash of what was committed when it was written."""


@dataclass(frozen=True)
class Options:
    """What one call of `fineloom run` adds to the recipe; none of it changes what a stage makes of a shard."""

    shards: tuple[int, int] | None = None  # first and last shard
    limit: int | None = None  # samples, rounded up to whole shards
    output_tokens: int | None = None
    gpu_hours: float | None = None
    prompts: Path | None = None
    address: str | None = None  # of a Ray cluster; None starts one on this machine
    cpus: int | None = None
    metrics: str | None = None  # [host:]port of the figures for Prometheus; None serves none


@dataclass
class Result:
    """How a run ended. `ok` only if every shard went all the way; `whole` counts those that did."""

    run: Path
    shards: int
    whole: int = 0
    failures: list[Failure] = field(default_factory=list)
    stopped: str | None = None
    nothing_to_do: bool = False
    seconds: float = 0.0
    stages: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.failures and self.stopped is None


def prepare(recipe: Recipe, root: Path, options: Options) -> Chain:
    """Load sources, register their tables, learn the model's identity; returns the chain that all workers share.

    Where the tables and the model are known already, nothing is written: `fineloom plan` of a root that may only be read.
    """
    run = place(root) / recipe.name
    sources = sources_of(recipe)
    there = {name: [Path(path) for path in source.tables()] for name, source in sources.items()}
    tables = Tables(run)
    used: dict[str, dict[int, str]] = {name: {} for name in sources}
    for name, source in sources.items():
        for path in there[name]:
            cut, beside = source.cut(), source.beside(str(path))
            # A folder's own date says nothing of its files.
            table = tables.known(name, path, cut, beside) if path.is_file() else None
            if table is None:
                index = index_table(source, str(path), recipe.shard_size)
                table = tables.register(name, path, index.digest, index.rows, index.slices, cut, beside)
            used[name][table.index] = str(path)
    tables.use(used)
    paths = tables.used(recipe.sources)
    if not any(tables.all[index].rows for index in paths):
        found = "rows in their tables" if paths else "tables"
        raise ConfigError(f"{recipe.file}: sources {', '.join(recipe.sources)} have no {found}")
    return Chain(run, recipe, sources, _identity(run, recipe), paths, options.prompts)


def look(recipe: Recipe, root: Path, prompts: Path | None = None) -> Chain:
    """The chain of a run as it was left, for reading: nothing is registered and no server is asked."""
    run = place(root) / recipe.name
    if not (run / "tables").is_dir():
        raise ConfigError(
            f"{run}: no run of recipe {recipe.name} is here. Start one with "
            f"`{shlex.join(['fineloom', 'run', recipe.given, '--root', str(root)])}`"
        )
    tables = Tables(run)
    record = run / "model.json"
    identity = _recorded(record) if record.is_file() and recipe.model is not None else None
    return Chain(run, recipe, sources_of(recipe), identity, tables.used(recipe.sources), prompts)


def sources_of(recipe: Recipe) -> dict[str, Source]:
    """The sources that the recipe names, read from their manifests."""
    folders = [Path("manifests/sources"), MANIFESTS / "sources"]
    sources = {name: load_source(name, folders) for name in recipe.sources}
    called: dict[str, str] = {}
    for given, source in sources.items():
        if source.name in called:  # it is part of a sample's identity
            both = f"{called[source.name]} and {given} are both called {source.name}"
            raise ConfigError(f"{recipe.file}: sources: {both}; give one of them a `name` of its own")
        called[source.name] = given
    return sources


def _identity(run: Path, recipe: Recipe) -> dict[str, Any] | None:
    """Who answers, from the server; from the last run's record where the server is away: a finished run needs none.

    A stage that has something to ask meets the missing server itself and stops the run.
    """
    if recipe.model is None or not any(stage.kind == "model" for stage in recipe.stages):
        return None
    record = run / "model.json"
    try:
        identity = asyncio.run(_ask_identity(recipe.model))
    except ServerUnavailable:
        if not record.is_file():
            raise
        return _recorded(record)
    if not record.is_file() or record.read_bytes() != canonical_json(identity):
        replace(record, canonical_json(identity))
    return identity


def _recorded(record: Path) -> dict[str, Any]:
    try:
        return json.loads(record.read_bytes())
    except ValueError as error:
        raise Damaged(
            f"{record}: not what was written there ({error}). `fineloom plan` writes it again from the server"
        ) from error


async def _ask_identity(settings: Any) -> dict[str, Any]:
    from pipelines.model_client import ModelClient  # every worker process imports this module, few ask a model

    client = ModelClient(settings)
    try:
        return await client.identity()
    finally:
        await client.close()


def warnings(chain: Chain) -> list[str]:
    """What is to be known of the settings before work begins."""
    return [word for word in (*recipe_warnings(chain.recipe), _cut_otherwise(chain), _left_out(chain)) if word]


def recipe_warnings(recipe: Recipe) -> list[str]:
    """What the recipe's operators say of their settings; each once."""
    said = (getattr(operator, "warning", "") for stage in recipe.stages for operator in stage.operators.values())
    return list(dict.fromkeys(word for word in said if word))


def _cut_otherwise(chain: Chain) -> str:
    tables, size = chain.tables, chain.recipe.shard_size
    known = [tables.all[index] for index in chain.paths if tables.all[index].source != REQUEUED]
    cut = {table.index: tables.slice_of(table.first_shard)["rows"] for table in known if table.shards}
    other = [index for index, rows in cut.items() if rows != min(size, tables.all[index].rows)]
    if not other:
        return ""
    kept = (
        f"{counted(len(other), 'table')} cut before keeps its shards"
        if len(other) == 1
        else f"{len(other):,} tables cut before keep theirs"
    )
    return f"shard_size={size:,} is for new tables: {kept} (of {cut[other[0]]:,} rows). Another root cuts all of them anew"


def _left_out(chain: Chain) -> str:
    """Samples are rows of a table's very content: of another content they are others, and nothing that was made is theirs."""
    now = {path: index for index, path in chain.paths.items()}
    mine = (table for table in chain.tables.all if table.source in chain.recipe.sources and table.index not in chain.paths)
    gone = [table for table in mine if table.index < now.get(table.path, len(chain.tables.all))]  # a later one was taken back
    if not gone:
        return ""
    shards = counted(sum(table.shards for table in gone), "shard")
    more = f" and {len(gone) - 1:,} more" if len(gone) > 1 else ""
    return (
        f"{gone[0].path}{more}: changed, gone or read another way since an earlier run, and left out with {shards} of its own"
    )


def chosen_shards(chain: Chain, options: Options) -> list[int]:
    """The shards this call works on. A limit in samples is rounded up to whole shards, so that a full run reuses them."""
    shards = chain.shards()
    if options.shards is not None:
        first, last = options.shards
        shards = [shard for shard in shards if first <= shard <= last]
        if not shards:
            raise ConfigError(f"--shards {first}-{last}: this recipe has the shards 0-{len(chain.shards()) - 1}")
    if options.limit is not None:
        chosen, rows = [], 0
        for shard in shards:
            if rows >= options.limit:
                break
            chosen.append(shard)
            rows += chain.tables.slice_of(shard)["rows"]
        shards = chosen
    return shards


def execute(recipe: Recipe, root: Path, options: Options, progress: Progress) -> Result:
    """Run the recipe. Raises only for what was found before work began; everything later is in the result."""
    run = place(root) / recipe.name
    with lock(run, progress.say) as held:
        began = time.monotonic()
        if free_bytes(run) < recipe.disk_floor_gb * 1e9:
            raise ConfigError(f"{run}: {free_bytes(run) / 1e9:.1f} GB free, below disk_floor_gb={recipe.disk_floor_gb:g}")
        progress.say(f"recipe {recipe.name} · {run}")
        check_store(run)
        chain = prepare(recipe, root, options)
        for word in warnings(chain):
            progress.say(f"warning: {word}")
        shards = chosen_shards(chain, options)
        result = Result(run, len(shards))
        stages = [stage.name for stage in recipe.stages]
        progress.say(f"{counted(len(shards), 'shard')} · {counted(len(stages), 'stage')}: {', '.join(stages)}")
        engine = Engine(recipe, options, progress, lambda: _due(chain, shards))
        held.lost = engine.stop
        with engine, exported(options.metrics, recipe.name, engine.snapshot) as port, meanwhile(run):
            if port is not None:
                progress.say(f"figures for Prometheus at port {port}, /metrics")
            go_through(chain, shards, engine, result)
        result.seconds = time.monotonic() - began
        result.whole = result.shards if result.ok else len(reach(chain, shards).finished())
        result.nothing_to_do = result.ok and not engine.started
        result.stages = engine.totals
        if not result.nothing_to_do or not _handed_over(chain):
            handoff(chain)
        if not result.nothing_to_do:
            _record(chain, options, result)
        return result


def _due(chain: Chain, shards: list[int]) -> list[str]:
    """The stages that some of these shards have still to go through."""
    return [name for name, count in reach(chain, shards).counts().items() if count["shards"] < len(shards)]


def handoff(chain: Chain) -> None:
    """Make `shards/` exactly the committed tars of this recipe, as links, and then write the index of their samples."""
    pack = _pack_of(chain)
    if pack is None:
        return
    folder = chain.run / "shards"
    folder.mkdir(exist_ok=True)
    packed = _packed(chain, pack)
    _hand_over(chain.run, {name: paths["shard"] for name, paths in packed.items()})
    pack.operator.write_card(folder)
    _write_index(chain.run, packed)


def _pack_of(chain: Chain) -> Stage | None:
    return next((stage for stage in chain.recipe.stages if stage.kind == "pack"), None)


def _packed(chain: Chain, pack: Stage) -> dict[str, dict[str, str]]:
    """Tar → role → committed path: entries themselves would be too many to hold."""
    packed: dict[str, dict[str, str]] = {}
    at = reach(chain, chain.shards())
    rows = at.rows_out()
    for shard in at.finished():
        if rows[shard]:
            made = at.entry(shard, pack.name).files
            packed[f"{shard_name(shard)}.tar"] = {role: made[role].path for role in ("shard", "data")}
    return packed


def handed_over(chain: Chain) -> set[str] | None:
    """The tars that the last run handed over, unless these settings have not committed them: a run with others has, or one that was
    killed before its end. More may be committed by now."""
    digest, names = _indexed(chain.run)
    pack = _pack_of(chain)
    packed = _packed(chain, pack) if pack is not None else {}
    return names if names <= set(packed) and digest == _digest({name: packed[name] for name in names}) else None


def _handed_over(chain: Chain) -> bool:
    """Whether the index is of all that is committed now, and the tars are there: a run may end between its last commit and this."""
    pack = _pack_of(chain)
    if pack is None:
        return True
    digest, names = _indexed(chain.run)
    return digest == _digest(_packed(chain, pack)) and names <= {path.name for path in files(chain.run / "shards")}


def _indexed(run: Path) -> tuple[bytes | None, set[str]]:
    """What the index, which is written last, was made of: the hash of what was committed then, and the tars."""
    try:
        with open_table(run / "index.parquet") as index, as_written(run / "index.parquet"):
            groups = (index.metadata.row_group(i).column(INDEX.names.index("tar")) for i in range(index.num_row_groups))
            return (index.schema_arrow.metadata or {}).get(OF), {group.statistics.min for group in groups}
    except (FileNotFoundError, Damaged):
        return None, set()


def _digest(packed: dict[str, dict[str, str]]) -> bytes:
    return hashlib.sha256(canonical_json(packed)).hexdigest().encode()


def _hand_over(run: Path, wanted: dict[str, str]) -> None:
    """Links, or copies in a store; there a note of what each one is a copy of spares copying it again."""
    folder, note = run / "shards", run / "shards" / ".copies.json"
    known: dict[str, str] = {}
    if isinstance(run, Place) and note.is_file():
        known = json.loads(note.read_bytes())
    there = {path.name for path in files(folder) if path.suffix == ".tar"}
    new = [name for name, committed in wanted.items() if name not in there or known.get(name) != committed]
    deque(many(run, lambda name: link_or_copy(run / wanted[name], folder / name), new), maxlen=0)
    deque(many(run, lambda name: (folder / name).unlink(), there - set(wanted)), maxlen=0)
    if isinstance(run, Place):
        replace(note, canonical_json(wanted))


def _write_index(run: Path, packed: dict[str, dict[str, str]]) -> None:
    """`index.parquet`: uid, tar, offset and size of every packed sample, for access by identity; a row group is of one tar."""
    columns = INDEX.with_metadata({OF: _digest(packed)})

    def places(paths: dict[str, str]) -> pa.Table:
        return read_table(run / paths["data"], columns=["uid", "shard_offset", "shard_size"])

    def fill(path: Path) -> None:
        with pq.ParquetWriter(path, columns, **PARQUET) as writer:
            for name, rows in zip(packed, many(run, places, packed.values(), held=4 * THREADS), strict=True):
                tars = pa.array([name] * rows.num_rows, pa.string())
                writer.write_table(pa.table([rows["uid"], tars, rows["shard_offset"], rows["shard_size"]], schema=columns))

    replace_by(run / "index.parquet", fill)


def _record(chain: Chain, options: Options, result: Result) -> None:
    """Keep what this run was called with and what it did: for the report; nothing reads it to decide."""
    record = {
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": chain.recipe.name,
        "file": os.path.abspath(chain.recipe.file) if chain.recipe.given == chain.recipe.file else None,
        "overrides": list(chain.recipe.overrides),
        "options": {
            key: value
            for key, value in asdict(options).items()
            if key not in ("address", "prompts", "metrics") and value is not None
        },
        "seconds": round(result.seconds, 1),
        "stopped": result.stopped,
        "failures": [asdict(failure) for failure in result.failures],
        "stages": {
            name: {
                key: dict(value) if isinstance(value, dict) else value
                for key, value in count.items()
                if key not in ("live", "active")
            }
            for name, count in result.stages.items()
        },
    }
    run_records.keep(chain.run, record)


__all__ = ["Options", "Result", "RunBusy", "chosen_shards", "execute", "handoff", "lock", "look", "prepare", "reach"]
