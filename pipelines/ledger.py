"""The ledger: the record of what has been committed, and the only way to data.

    ledger/<stage>/<fingerprint>/<shard>.json     one entry per stage, fingerprint and shard, until it is compacted
    ledger/@compacted/                            many entries in few files (pipelines/compact.py)

An entry names the attempt files of that commit with their checksums, what they were made from and by what. It is published
by create-if-absent: the first attempt wins, the loser adopts the winner's entry and deletes its own files. Readers never
list data folders.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines import compact, entry_segments
from pipelines.durable import create_if_absent, files, folders, read_many, remove_if_empty, sealed, unsealed

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
        if raw.get("layout") != LAYOUT:
            raise ValueError("a ledger entry of another layout version: this root was written by another version of fineloom")
        raw = unsealed(raw)
        raw["files"] = {role: DataFile(**file) for role, file in raw["files"].items()}
        return cls(**{key: value for key, value in raw.items() if key != "layout"})

    def to_json(self) -> bytes:
        return sealed({"layout": LAYOUT, **asdict(self)})


class Ledger:
    """The entries below one run's folder: small files as they are published, and the compacted ones (pipelines/compact.py).

    What is compacted is read once and kept; whether there is more is asked at every look-up that would otherwise answer by a small
    file or by its absence, so an answer is never older than the question.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.folder = run / "ledger"
        self._generation: compact.Generation | None = None
        self._indexes: dict[str, entry_segments.StageIndex] = {}

    def __reduce__(self) -> Any:  # workers read what they need themselves
        return Ledger, (self.run,)

    def path(self, stage: str, fingerprint: str, shard: int) -> Path:
        return self.folder / stage / fingerprint / f"{shard_name(shard)}.json"

    def get(self, stage: str, fingerprint: str, shard: int) -> Entry | None:
        while True:
            generation = self.generation
            entry = self.compacted(stage, fingerprint, shard)
            if entry is not None:
                return entry
            loose = _parsed(self.path(stage, fingerprint, shard))
            # A small file that is gone was compacted before; one that is there may be a late writer's, who lost.
            if compact.is_newest(self, generation):
                return loose
            self.refresh()

    def publish(self, entry: Entry) -> Entry:
        """Commit `entry`, or adopt the one that was first and delete the files of this attempt."""
        path = self.path(entry.stage, entry.fingerprint, entry.shard)
        created = create_if_absent(path, entry.to_json())
        winner = self.get(entry.stage, entry.fingerprint, entry.shard)
        assert winner is not None, "entries are never removed while a run is alive"
        if winner.attempt == entry.attempt:
            return winner
        if created:  # the winner's small file was compacted and removed before
            path.unlink(missing_ok=True)
        for file in entry.files.values():
            (self.run / file.path).unlink(missing_ok=True)
        return winner

    # Compacted entries.

    @property
    def generation(self) -> compact.Generation:
        if self._generation is None:
            self._generation = compact.newest(self)
        return self._generation

    def refresh(self) -> None:
        """Look for newer generations."""
        self._generation = compact.newest(self, self.generation)

    def index(self, stage: str) -> entry_segments.StageIndex:
        """Of the segments that hold now. Only those that are new are read."""
        while True:
            names = self.generation.segments.get(stage, [])
            found = self._indexes.get(stage)
            known = {segment.path.name: segment for segment in found.segments} if found is not None else {}
            if found is not None and list(known) == names:
                return found
            try:
                for name in names:
                    if name not in known:
                        known[name] = entry_segments.Segment(self.folder / compact.FOLDER / name)
            except FileNotFoundError:  # joined into a larger one and collected
                if compact.is_newest(self, self.generation):
                    raise
                self.refresh()
                continue
            self._indexes[stage] = entry_segments.StageIndex(stage, [known[name] for name in names])

    def compacted(self, stage: str, fingerprint: str, shard: int) -> Entry | None:
        return self.index(stage).find(fingerprint, shard) if stage in self.generation.segments else None

    # Small files.

    def stages(self) -> list[str]:
        """Stages with entries, by name."""
        names = {path.name for path in folders(self.folder)} | set(self.generation.segments)
        return sorted(names - {compact.FOLDER})

    def loose(self, stage: str) -> Iterator[Path]:
        """The small files of a stage, as a listing tells."""
        return (path for path in files(self.folder / stage, deep=True) if path.suffix == ".json" and path.name[0] != ".")

    def read_loose(self, paths: Iterable[Path]) -> Iterator[Entry | None]:
        """Entries of small files; None for one that is gone by now."""
        named, paths = itertools.tee(paths)
        return (_entry(path, data) if data is not None else None for path, data in zip(named, read_many(paths), strict=True))

    def remove_loose(self, stage: str, fingerprint: str, shard: int) -> None:
        """Remove the small file of an entry that is compacted, and its folder if that was the last one in it."""
        path = self.path(stage, fingerprint, shard)
        path.unlink(missing_ok=True)
        remove_if_empty(path.parent)

    def snapshot(self, stage: str) -> tuple[entry_segments.StageIndex, list[Entry]]:
        """All entries of a stage at one instant: the compacted ones, and the small files that are not among them."""
        while True:
            generation, index = self.generation, self.index(stage)
            loose = [entry for entry in self.read_loose(self.loose(stage)) if entry is not None]
            if index.rows and loose:
                loose = [entry for entry in loose if index.find(entry.fingerprint, entry.shard) is None]
            if compact.is_newest(self, generation):
                return index, loose
            self.refresh()

    def entries(self, stage: str | None = None) -> Iterator[Entry]:
        """Every entry of one stage, or of all: for reports, gc and audits, not for planning."""
        for name in self.stages() if stage is None else [stage]:
            index, loose = self.snapshot(name)
            yield from index.entries()
            yield from loose


class BrokenEntry(ValueError):
    """A small file of the ledger that is no entry: torn or changed after it was published, which no fault of a run does."""


def _entry(path: Path, data: bytes) -> Entry:
    try:
        return Entry.from_json(data)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BrokenEntry(
            f"{path}: not a whole ledger entry ({error}). Something else than a run changed it, or its disk lost what it had "
            "confirmed. Remove the file, or let `fineloom verify --again` do so: that stage of that shard is then done again"
        ) from error


def _parsed(path: Path) -> Entry | None:
    try:
        return _entry(path, path.read_bytes())
    except FileNotFoundError:
        return None
