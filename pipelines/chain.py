"""How far a shard has come: stage fingerprints, and the walk along committed entries that plan, resume and report share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa

from operators.base import other_version
from pipelines.config import Recipe, Stage
from pipelines.durable import canonical_json
from pipelines.fingerprint import digest
from pipelines.ledger import Ledger
from pipelines.sources import Source
from pipelines.tables import REQUEUED, Table, Tables
from pipelines.view import View
from pipelines.withheld import Withheld
from prompts.load import load as load_prompt

SOURCE_VERSION = 3


@dataclass
class Chain:
    """Everything needed to say what a stage of a shard depends on. Built from plain data, so that any worker can make one.

    What was said of a stage once (`made_by`) goes along to workers: there it is what the run began with.

    paths     index of each table in use → where its file lies now (a table may have been moved since it was registered)
    globals   global stage → wave → fingerprint, which depends on all shards of that wave and of those before; the driver computes it
    """

    run: Path
    recipe: Recipe
    sources: dict[str, Source]
    identity: dict[str, Any] | None
    paths: dict[int, str]
    prompts: Path | None = None
    globals: dict[str, dict[int, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.run)
        self.tables = Tables(self.run)
        self.withheld = Withheld(self.run, self.tables)
        self._made_by: dict[str, dict[str, Any]] = {}

    def made_by(self, stage: Stage) -> dict[str, Any]:
        """Operators with their versions and settings, prompts with their content, and the model: what makes a stage's output."""
        if stage.name not in self._made_by:
            self._made_by[stage.name] = self._made_by_here(stage)
        return self._made_by[stage.name]

    def _made_by_here(self, stage: Stage) -> dict[str, Any]:
        record: dict[str, Any] = {
            "operators": {
                name: {"version": getattr(op, "version", 1), "settings": op.model_dump(mode="json")}
                for name, op in stage.operators.items()
            }
        }
        names = stage.operator.prompts if stage.kind == "model" else []
        prompts = [load_prompt(name, self.prompts).capped(self.recipe.model.max_answer_tokens) for name in names]
        if prompts:  # without prompts it asks nothing, and the model is none of its business
            record["prompts"] = {
                prompt.name: {"version": prompt.version, "content": digest(prompt.content())} for prompt in prompts
            }
            record["model"] = self.identity
            pictures = ("max_pixels", "min_pixels", "picture_format")  # how a picture is sent changes what is said of it
            record["pictures"] = {name: getattr(self.recipe.model, name) for name in pictures}
        return record

    def check_version(self, stage: Stage) -> None:
        """Raise OtherVersion where this process has another version of the stage's operators or prompts than the one that planned: a
        file was edited under the run, or a node has another version. What it made would stand under the wrong name.

        The prompts that this reads are those that the process asks with from now on.
        """
        planned, here = self.made_by(stage), self._made_by_here(stage)
        if planned != here:
            parts = ((kind[:-1], planned.get(kind, {}), here.get(kind, {})) for kind in ("operators", "prompts"))
            other = [f"{kind} {name}" for kind, was, now in parts for name in was if now.get(name) != was[name]]
            raise other_version(f"{' and '.join(other)} of stage {stage.name}")

    def inputs(self, stage: Stage, view: View) -> dict[str, str]:
        """Content hashes of the columns that the stage reads; a pack stage reads all there are."""
        names: Sequence[str] = sorted(view.columns) if stage.kind == "pack" else stage.reads().names
        return {name: view.columns[name].hash for name in names if name in view.columns}

    def fingerprint(self, stage: Stage, view: View) -> str:
        if stage.kind == "source":
            return digest({"source": self.source_record(view.shard), "version": SOURCE_VERSION})
        if stage.kind == "global":
            return self.globals[stage.name][self.wave(view.shard)]
        return digest(self.fingerprint_record(stage, view))

    def fingerprint_record(self, stage: Stage, view: View) -> dict[str, Any]:
        """What the fingerprint of a stage that works shard by shard is the digest of."""
        record = {"made_by": self.made_by(stage), "inputs": self.inputs(stage, view), "uids": view.uids}
        if stage.kind == "pack":
            record["provenance"] = self.provenance(view)
            gone = [*self.withheld.of(view), *sorted(self.withheld.taken.get(view.shard, ()))]
            if gone:
                record["without"] = gone
        return record

    def source_record(self, shard: int) -> dict[str, Any]:
        return self._slice_record(self.tables.table_of(shard), self.tables.slice_of(shard))

    def _slice_record(self, table: Table, cut: Mapping[str, Any]) -> dict[str, Any]:
        places = {"patterns", "base", "image_folder", "about"}  # where things lie and what is said of them decides nothing
        mapping = None if table.source == REQUEUED else self.sources[table.source].model_dump(mode="json", exclude=places)
        return {
            "source": table.source,
            "digest": table.digest,
            "first_row": cut["first_row"],
            "rows": cut["rows"],
            "mapping": mapping,
        }

    def source_fingerprints(self, shards: Sequence[int]) -> list[str]:
        """The source stage's fingerprint of many shards: the record of a table is made once, and only its two numbers change."""
        found = []
        for table, mine in groupby(shards, self.tables.table_of):
            marked = self._slice_record(table, {"first_row": "@first_row@", "rows": "@rows@"})
            text = canonical_json({"source": marked, "version": SOURCE_VERSION}).replace(b"%", b"%%")
            form = text.replace(b'"@first_row@"', b"%d", 1).replace(b'"@rows@"', b"%d", 1)  # keys are sorted: in this order
            first_rows, rows = self.tables.cuts(table)
            for shard in mine:
                at = shard - table.first_shard
                found.append(sha256(form % (first_rows[at], rows[at])).hexdigest()[:32])
        return found

    def provenance(self, view: View) -> dict[str, Any]:
        """Per stage: operators, prompt, model and fingerprint, as the shard format records them."""
        made = {}
        for stage in self.recipe.stages:
            if stage.name not in view.entries:
                continue
            record = self.made_by(stage)
            prompts = record.get("prompts") or {}
            made[stage.name] = {
                "operators": [f"{name}@{op['version']}" for name, op in record["operators"].items()],
                "prompt": ", ".join(f"{name}@{prompt['version']}" for name, prompt in prompts.items()) or None,
                "model": (record.get("model") or {}).get("name"),
                "columns": stage.writes().names,
                "fingerprint": view.entries[stage.name],
            }
        return made

    def advance(self, view: View, stages: Sequence[Stage]) -> tuple[View, Stage | None]:
        """Follow committed entries as far as they go: the view reached, and the first stage still to do (None: all done)."""
        for stage in stages:
            if stage.kind == "global" and self.wave(view.shard) not in self.globals.get(stage.name, {}):
                return view, stage
            entry = self.ledger.get(stage.name, self.fingerprint(stage, view), view.shard)
            if entry is None:
                return view, stage
            view = view.after(entry)
        return view, None

    def shards(self) -> list[int]:
        """Every shard of the tables in use, in order."""
        return list(self.tables.shards([self.tables.all[index] for index in sorted(self.paths)]))

    def wave(self, shard: int) -> int:
        """The wave in which a shard goes through the global stages: a matter of its number alone, so that it is always the same."""
        return shard // self.recipe.wave if self.recipe.wave else 0

    def waves(self, shards: Sequence[int]) -> dict[int, list[int]]:
        """wave → its shards, of those given (in order)."""
        return {wave: list(mine) for wave, mine in groupby(shards, self.wave)}

    def columns_before(self, stage: Stage) -> pa.Schema:
        """Every column that stages before this one write, with its type."""
        known: dict[str, pa.Field] = {}
        for earlier in self.recipe.stages:
            if earlier.name == stage.name:
                break
            known.update({column.name: column for column in earlier.writes()})
        return pa.schema(list(known.values()))
