"""The ledger: the record of what has been committed, and the only way to data.

    ledger/<stage>/<fingerprint>/<shard>.json     one entry per stage, fingerprint and shard

An entry names the attempt files of that commit with their checksums, what they were made from and by what. It is published
by create-if-absent: the first attempt wins, the loser adopts the winner's entry and deletes its own files. Readers never
list data folders.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines.durable import canonical_json, create_if_absent

LAYOUT = 1
"""Version of the layout below a root; a newer one is refused."""


def shard_name(shard: int) -> str:
    return f"{shard:05d}"


@dataclass(frozen=True)
class DataFile:
    path: str  # relative to the run's folder
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Entry:
    """One committed stage of one shard. Counts are of samples; `parts` counts refusals of parts of surviving samples."""

    stage: str
    fingerprint: str
    shard: int
    attempt: str
    files: dict[str, DataFile]  # role → file: "data", "rejects", "images", "stats", "shard"
    rows_in: int
    rows_out: int
    rejects: dict[str, int]
    parts: dict[str, int]
    uids: str  # content hash of the surviving uids, in order
    columns: dict[str, str]  # column written → content hash
    inputs: dict[str, str]  # column read → content hash
    made_by: dict[str, Any]  # operators, prompts, model, versions
    seconds: float
    usage: dict[str, int] = field(default_factory=dict)  # requests, answers found, tokens

    @classmethod
    def from_json(cls, data: bytes) -> Entry:
        raw = json.loads(data)
        if raw.pop("layout", None) != LAYOUT:
            raise ValueError("a ledger entry of another layout version: this root was written by another version of fineloom")
        raw["files"] = {role: DataFile(**file) for role, file in raw["files"].items()}
        return cls(**raw)

    def to_json(self) -> bytes:
        return canonical_json({"layout": LAYOUT, **asdict(self)})


@dataclass(frozen=True)
class Ledger:
    """The entries below one run's folder."""

    run: Path

    def path(self, stage: str, fingerprint: str, shard: int) -> Path:
        return self.run / "ledger" / stage / fingerprint / f"{shard_name(shard)}.json"

    def get(self, stage: str, fingerprint: str, shard: int) -> Entry | None:
        try:
            return Entry.from_json(self.path(stage, fingerprint, shard).read_bytes())
        except FileNotFoundError:
            return None

    def publish(self, entry: Entry) -> Entry:
        """Commit `entry`, or adopt the one that was first and delete the files of this attempt."""
        if create_if_absent(self.path(entry.stage, entry.fingerprint, entry.shard), entry.to_json()):
            return entry
        winner = self.get(entry.stage, entry.fingerprint, entry.shard)
        assert winner is not None, "entries are never removed while a run is alive"
        for file in entry.files.values():
            (self.run / file.path).unlink(missing_ok=True)
        return winner

    def entries(self, stage: str | None = None) -> Iterator[Entry]:
        """Every entry of one stage, or of all: for reports, gc and audits, not for planning."""
        folder = self.run / "ledger"
        for stage_folder in sorted(folder.iterdir()) if folder.is_dir() else []:
            if stage is not None and stage_folder.name != stage:
                continue
            for fingerprint in sorted(stage_folder.iterdir()):
                for item in sorted(os.scandir(fingerprint), key=lambda found: found.name):
                    if item.name.endswith(".json") and not item.name.startswith("."):
                        yield Entry.from_json(Path(item.path).read_bytes())
