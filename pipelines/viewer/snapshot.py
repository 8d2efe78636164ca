"""A run as it stood at one instant: how far each shard came, what was refused, and the samples at given places.

Everything goes through the ledger. Of a shard only the columns asked for are read, and only of the shards on the page.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import run_records
from pipelines.config import ConfigError, Recipe, Stage, load_recipe
from pipelines.durable import read_table
from pipelines.run import look, reach
from pipelines.show import follow
from pipelines.stores import StoreError
from pipelines.view import View, read_columns
from pipelines.viewer.record import record
from pipelines.withheld import taken_down
from pipelines.worker import PictureReader

UNREADABLE = (OSError, ValueError, KeyError, pa.ArrowException, StoreError)
"""What reading raises where files are gone, torn or foreign."""
FRESH = 5.0
"""Seconds after which the ledger is looked at again; longer where that takes long itself."""
PATIENCE = 1.0


class NotThere(Exception):
    """`status` and what to tell the visitor: a text, which the pages translate, and the values in it."""

    def __init__(self, status: int, text: str, **values: Any) -> None:
        super().__init__(text.format(**values) if values else text)
        self.status, self.text, self.values = status, text, values

    def told(self, say: Callable[..., str]) -> str:
        return say(self.text, **self.values)


class Snapshot:
    def __init__(self, run: Path, recipe: Recipe, prompts: Path | None) -> None:
        self.chain = look(recipe, run.parent, prompts)
        self.run, self.recipe = self.chain.run, recipe
        self.at = reach(self.chain, self.chain.shards())
        self.rows = {shard: rows for shard, rows in sorted(self.at.rows_out().items())}
        taken = self.chain.withheld.taken
        for shard in taken:
            if shard in self.rows:  # they may lie in the files still, and are never shown
                self.rows[shard] = self._left(shard)
        self.shards = list(self.rows)
        self.counts = self.at.counts()
        known = set(self.chain.ledger.stages())
        self.other = [s.name for s in recipe.stages if s.name in known and not self.counts[s.name]["shards"]]
        """Stages of which the ledger holds results, but none of them made with the present settings."""
        schema = {column.name: column for stage in recipe.stages for column in stage.writes() if column.name != "uid"}
        self.schema = pa.schema(list(schema.values()))
        self.sortable = sorted(column.name for column in self.schema if _number(column.type))
        told = [self.counts, list(self.rows.items()), sorted((s, sorted(uids)) for s, uids in taken.items()), self.other]
        self.stamp = hashlib.sha256(json.dumps(told).encode()).hexdigest()
        self._refused: dict[str, dict[str, Counter[str]]] = {}
        self._refused_shards = 0
        self._refused_lock = threading.Lock()

    def _left(self, shard: int) -> int:
        return read_columns(self.run, self.at[shard][0], pa.schema([])).num_rows

    def taken(self, shard: int) -> frozenset[str]:
        return self.chain.withheld.taken.get(shard, frozenset())

    @property
    def total(self) -> int:
        return sum(self.rows.values())

    def refused(self) -> tuple[dict[str, dict[str, Counter[str]]], int]:
        """stage → samples and parts refused by reason, and how many shards were counted by now."""
        until = time.monotonic() + PATIENCE
        with self._refused_lock:
            while self._refused_shards < len(self.shards) and time.monotonic() < until:
                for entry in self.at.entries(self.shards[self._refused_shards]):
                    row = self._refused.setdefault(entry.stage, {"samples": Counter(), "parts": Counter()})
                    row["samples"].update(entry.rejects)
                    row["parts"].update(entry.parts)
                self._refused_shards += 1
            names = [stage.name for stage in self.recipe.stages if stage.name in self._refused]
            counted = {name: {kind: Counter(n) for kind, n in self._refused[name].items()} for name in names}
            return counted, self._refused_shards

    # Samples at places.

    def cards(self, places: Sequence[Any]) -> list[dict[str, Any]]:
        """What a page shows of each place, in their order; one that cannot be read says why."""
        by_file: dict[tuple[int, int], list[int]] = {}
        for i, place in enumerate(places):
            by_file.setdefault((place.shard, place.stage), []).append(i)
        made: dict[int, dict[str, Any]] = {}
        for (shard, stage), mine in by_file.items():
            rows = [places[i].row for i in mine]
            try:
                found = self._survivors(shard, rows) if stage < 0 else self._refusals(shard, stage, rows)
            except UNREADABLE as error:
                found = [{"fault": f"shard {shard} cannot be read: {error}"}] * len(rows)
            made.update(zip(mine, found, strict=True))
        return [made[i] for i in range(len(places))]

    def _survivors(self, shard: int, rows: list[int]) -> list[dict[str, Any]]:
        view, waits = self.at[shard]
        table = self._columns(view)
        if max(rows) >= table.num_rows:
            raise ValueError("samples were taken down meanwhile; load the page again")
        waiting = waits.name if waits else None
        return [{"shard": shard, "waits": waiting, **record(row)} for row in table.take(rows).to_pylist()]

    def _refusals(self, shard: int, position: int, rows: list[int]) -> list[dict[str, Any]]:
        entries = self.at.entries(shard)
        entry, before = entries[position], View(shard)
        for earlier in entries[:position]:
            before = before.after(earlier)
        refusals = read_table(self.run / entry.files["rejects"].path).take(rows).to_pylist()
        known: dict[str, dict[str, Any]] = {}
        if before.uid_file:
            table = self._columns(before)
            wanted = pa.array([refusal["uid"] for refusal in refusals], pa.string())
            known = {row["uid"]: row for row in table.filter(pc.is_in(table["uid"], value_set=wanted)).to_pylist()}
        return [
            {
                "shard": shard,
                "waits": None,
                **record(known.get(refusal["uid"], {"uid": refusal["uid"]})),
                "refusal": {**refusal, "stage": entry.stage},
            }
            for refusal in refusals
        ]

    def _columns(self, view: View) -> pa.Table:
        return read_columns(self.run, view, pa.schema([c for c in self.schema if c.name in view.columns]))

    # One sample.

    def place(self, shard: int) -> tuple[View, Stage | None]:
        if shard not in self.rows:
            raise NotThere(404, "There is no shard {shard} in this run, or nothing of it is committed yet.", shard=shard)
        return self.at[shard]

    def sample(self, shard: int, uid: str) -> dict[str, Any]:
        """Everything known of it, as `fineloom show` tells it, and what the page draws. NotThere where it is unknown or gone."""
        view, waits = self.place(shard)
        self.refuse_taken(shard, uid)
        told = follow(self.chain, view, uid, waits)
        if all(step["columns"] is None and step["refused"] is None for step in told["stages"]):
            raise NotThere(404, "Shard {shard} has no sample {uid}.", shard=shard, uid=uid)
        columns: dict[str, Any] = {}
        for step in told["stages"]:
            columns.update(step["columns"] or {})
        return {"told": told, **record({**columns, "uid": uid}), "shard": shard}

    def refuse_taken(self, shard: int, uid: str) -> None:
        """Asked of the run as it is now: a takedown does not wait for the next snapshot."""
        if uid in taken_down(self.run).get(shard, ()):
            raise NotThere(410, "This sample was taken down.")

    def picture(self, shard: int, uid: str, most: int) -> bytes:
        view, _ = self.place(shard)
        self.refuse_taken(shard, uid)
        if view.images is None or "image_offset" not in view.columns:
            raise NotThere(404, "No picture of this sample was fetched.")
        places = read_table(
            self.run / view.columns["image_offset"].file,
            columns=["uid", "image_offset", "image_size"],
            filters=[("uid", "=", uid)],
        ).to_pylist()
        if not places:
            raise NotThere(404, "No picture of this sample was fetched.")
        if places[0]["image_size"] > most:
            raise NotThere(413, "The picture has {bytes} bytes, too many to draw.", bytes=f"{places[0]['image_size']:,}")
        with PictureReader(self.run / view.images) as read:
            return read(places[0])


class Run:
    """One run's folder, and its newest snapshot."""

    def __init__(self, folder: Path, recipe: str | None, overrides: Sequence[str] | None, prompts: Path | None) -> None:
        self.folder, self.name, self.prompts = folder, folder.name, prompts
        self.label = self.name  # in addresses; another one where two runs have the same name
        self._recipe, self._overrides = recipe, overrides
        self._loaded: Recipe | None = None
        self._snapshot: Snapshot | None = None
        self._until = 0.0
        self._lock = threading.Lock()

    def snapshot(self) -> Snapshot:
        """NotThere when the run cannot be read. Several visitors share one; while a newer one is made, the others get the old."""
        if self._snapshot is not None and (time.monotonic() < self._until or self._lock.locked()):
            return self._snapshot
        with self._lock:
            began = time.monotonic()
            if self._snapshot is not None and began < self._until:
                return self._snapshot
            try:
                fresh = Snapshot(self.folder, self._load(), self.prompts)
            except ConfigError as error:
                raise NotThere(503, str(error)) from error
            except (*UNREADABLE, IndexError, TypeError) as error:
                why = f"{type(error).__name__}: {error}"
                raise NotThere(
                    503,
                    "The run in {folder} cannot be read: {why}. Was a part of it deleted, or is it of another version?",
                    folder=self.folder,
                    why=why,
                ) from error
            if self._snapshot is None or self._snapshot.stamp != fresh.stamp:
                self._snapshot = fresh
            self._until = time.monotonic() + max(FRESH, 20 * (time.monotonic() - began))
            return self._snapshot

    def _load(self) -> Recipe:
        if self._loaded is None:
            overrides = self._last_overrides() if self._overrides is None else self._overrides
            recipe = load_recipe(self._recipe or self._last_file() or self.name, overrides)
            if recipe.name != self.name:
                raise ConfigError(f"{recipe.file} is the recipe {recipe.name}, and {self.folder} a run of {self.name}")
            self._loaded = recipe
        return self._loaded

    def _last_file(self) -> str | None:
        """The recipe's file that the newest run was given, where it was one of the user's own and is seen from here."""
        file = next(run_records.newest(self.folder), {}).get("file")
        return file if isinstance(file, str) and os.path.isfile(file) else None

    def _last_overrides(self) -> list[str]:
        """Those that the newest run was called with: another setting would be another run."""
        for call in run_records.newest(self.folder):
            if isinstance(found := call.get("overrides"), list):
                return [text for text in found if isinstance(text, str)]
        return []


def _number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
