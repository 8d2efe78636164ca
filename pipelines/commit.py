"""Commit of one stage on one shard: check conservation, write under attempt names, publish one ledger entry."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa

from operators.base import Reject
from pipelines.durable import scratch_root, settle, sha256_file, write_table
from pipelines.fingerprint import column_hash
from pipelines.ledger import DataFile, Entry, Ledger, shard_name
from pipelines.stores import Place

REJECTS = pa.schema({"uid": pa.string(), "reason": pa.string(), "detail": pa.string(), "item": pa.string()})


class NotConserved(RuntimeError):
    """A stage lost or invented samples: a defect of the stage, never committed."""


@dataclass
class Made:
    """What a stage made of a shard, before it is committed.

    kept     `uid` and the columns the stage adds, one row per survivor
    files    role → file already written under this attempt's name ("images", "stats", "shard")
    usage    counters to keep with the entry: requests, answers found, tokens
    seconds  what it cost its worker; None: all the time since the attempt began
    """

    kept: pa.Table
    rejects: list[Reject]
    files: dict[str, Path] = field(default_factory=dict)
    usage: dict[str, int] = field(default_factory=dict)
    seconds: float | None = None


@dataclass(frozen=True)
class Attempt:
    """One try at one stage of one shard. All its files carry its name, so two attempts never write the same file."""

    run: Path
    stage: str
    shard: int
    fingerprint: str
    id: str = field(default_factory=lambda: uuid4().hex[:12])
    started: float = field(default_factory=time.monotonic)

    def file(self, folder: str, suffix: str) -> Path:
        """Where to write a file of this attempt: in its place, or in the scratch folder if the run lies on a store."""
        path = self._base() / folder / f"{shard_name(self.shard)}.{self.fingerprint[:12]}.{self.id}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _base(self) -> Path:
        if not isinstance(self.run, Place):
            return self.run
        return scratch_root() / self.id

    def commit(
        self,
        ledger: Ledger,
        uids_in: pa.ChunkedArray | pa.Array,
        made: Made,
        columns: pa.Schema,
        inputs: dict[str, str],
        made_by: dict[str, Any],
    ) -> Entry:
        """Write what was made, durably, and publish it; returns the entry that won, this one or an earlier one."""
        kept = made.kept.select(["uid", *[name for name in columns.names if name != "uid"]])
        kept = kept.cast(pa.schema([("uid", pa.string()), *[c for c in columns if c.name != "uid"]]))
        _check_conservation(
            uids_in.to_pylist(), kept["uid"].to_pylist(), made.rejects, f"stage {self.stage}, shard {self.shard}"
        )
        data, refused = self.file(self.stage, ".parquet"), self.file(f"rejects/{self.stage}", ".parquet")
        publishing = False
        try:
            write_table(kept, data)
            write_table(_reject_table(made.rejects), refused)
            files = {role: self._settle(path) for role, path in {"data": data, "rejects": refused, **made.files}.items()}
            entry = Entry(
                stage=self.stage,
                fingerprint=self.fingerprint,
                shard=self.shard,
                attempt=self.id,
                files=files,
                rows_in=len(uids_in),
                rows_out=kept.num_rows,
                rejects=dict(Counter(r.reason for r in made.rejects if r.item is None)),
                parts=dict(Counter(r.reason for r in made.rejects if r.item is not None)),
                uids=column_hash(kept["uid"]),
                columns={name: column_hash(kept[name]) for name in kept.column_names if name != "uid"},
                inputs=inputs,
                made_by=made_by,
                seconds=round(time.monotonic() - self.started if made.seconds is None else made.seconds, 3),
                usage=made.usage,
            )
            publishing = True
            won = ledger.publish(entry)
            if won.attempt == self.id:
                self._check_files(ledger, entry)
            return won
        except BaseException:
            # Once it was asked to publish, a failure may mean that only the answer was lost: an entry may name the files, and
            # they stay. If none does they are `gc`'s.
            for path in (data, refused, *made.files.values()) if not publishing else ():
                with contextlib.suppress(OSError):  # a store that is away keeps what was uploaded, until `gc`
                    path.unlink(missing_ok=True)
                    (self.run / path.relative_to(self._base())).unlink(missing_ok=True)
            raise
        finally:
            self.clear()

    def clear(self) -> None:
        """Remove what lies in the scratch folder."""
        if isinstance(self.run, Place):
            shutil.rmtree(self._base(), ignore_errors=True)

    def discard(self, made: Made) -> None:
        """Remove the files of a try that was not meant to be committed."""
        for path in made.files.values():
            path.unlink(missing_ok=True)
        self.clear()

    def _check_files(self, ledger: Ledger, entry: Entry) -> None:
        """Take the entry back if a file is gone that it names: this worker was cut off, its run died, and `gc` went by."""
        gone = next((file.path for file in entry.files.values() if not (self.run / file.path).is_file()), None)
        if gone is not None:
            ledger.remove_loose(entry.stage, entry.fingerprint, entry.shard)
            raise RuntimeError(f"{self.run / gone} was removed before it was published: `fineloom gc` was called meanwhile")

    def _settle(self, path: Path) -> DataFile:
        """Make a written file durable in its place, and say what it is."""
        name, size, content = path.relative_to(self._base()), path.stat().st_size, sha256_file(path)
        settle(path, self.run / name)
        return DataFile(str(name), size, content)


def _reject_table(rejects: list[Reject]) -> pa.Table:
    return pa.table(
        {
            "uid": [r.uid for r in rejects],
            "reason": [r.reason for r in rejects],
            "detail": [r.detail for r in rejects],
            "item": [r.item for r in rejects],
        },
        schema=REJECTS,
    )


def _check_conservation(came: list[str], kept: list[str], rejects: list[Reject], where: str) -> None:
    """Samples in = survivors + whole refusals, each exactly once; survivors keep their order."""
    whole = [r.uid for r in rejects if r.item is None]
    gone = set(whole)
    if len(gone) != len(whole) or len(set(came)) != len(came):
        raise NotConserved(f"{where}: a sample stands twice among the {'rejects' if len(gone) != len(whole) else 'inputs'}")
    if kept != [uid for uid in came if uid not in gone] or not gone <= set(came):
        lost = [uid for uid in came if uid not in gone and uid not in set(kept)]
        raise NotConserved(
            f"{where}: {len(came)} samples in, {len(kept)} kept, {len(whole)} refused; "
            f"{len(lost)} neither kept nor refused{f', for example {lost[0]}' if lost else ''}"
        )
    stray = next((r for r in rejects if r.item is not None and r.uid in gone), None)
    if stray is not None:
        raise NotConserved(f"{where}: sample {stray.uid} was refused whole, and also in part ({stray.item})")
    unknown = next((r for r in rejects if r.uid not in set(came)), None) if rejects else None
    if unknown is not None:
        raise NotConserved(f"{where}: a refusal names the unknown sample {unknown.uid}")
