"""Whether every committed file is still what was committed: a disk may lose what it had confirmed, and people tidy up.

Each file that the ledger names is read and compared with the checksum in its entry, or with the receipt of the last takedown that
changed it. What is damaged can be made again: its entry is taken out of the ledger, and the next run does that stage of that shard once
more; stages after it only where the content comes out another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines import compact
from pipelines.durable import Damaged, files, many, read_table, sha256_file
from pipelines.entry_segments import Segment, StageIndex, planning_file
from pipelines.ledger import BrokenEntry, Entry, Ledger, shard_name
from pipelines.stores import Place


@dataclass(frozen=True)
class Damage:
    """A file that is not what was committed. `entry` names it; None: the file is itself a part of the ledger, or lies in `shards/`."""

    file: str  # relative to the run's folder
    found: str
    stage: str = ""
    entry: Entry | None = None


TORN = f"ledger/{compact.FOLDER}/0"
"""Begins the names of generations."""


@dataclass
class Looked:
    """How much was read by now."""

    files: int = 0
    bytes: int = 0


@dataclass
class _TakenDown:
    """What takedowns did to committed files since: checksum now, by path, and what they removed whole."""

    sums: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)


def damages(run: Path, looked: Looked, tell: Callable[[Looked], Any] = lambda looked: None) -> Iterator[Damage]:
    """Every damaged file of the run, as it is found. Beside a run it looks at what was committed when it came there.

    A torn generation is the only one that is found: what it names is not known before it is there again.
    """
    ledger, since = Ledger(run), _since(run)
    try:
        ledger.refresh()
    except compact.TornGeneration as torn:
        problem = "cannot be read, and what it names was not looked at: --again writes it anew from what lies beside it"
        yield Damage(str(torn.path.relative_to(run)), f"{problem}; then verify once more")
        return
    packed: dict[str, list[Entry]] = {}

    def check(one: Entry | Damage) -> tuple[Entry | Damage, list[Damage]]:
        return one, [one] if isinstance(one, Damage) else _compare(run, one, since)

    for stage in ledger.stages():
        for one, found in many(run, check, _parts(ledger, stage)):
            yield from found
            if isinstance(one, Entry):
                looked.files += len(one.files)
                looked.bytes += sum(file.bytes for file in one.files.values())
                tell(looked)
                if "shard" in one.files:
                    packed.setdefault(f"{shard_name(one.shard)}.tar", []).append(one)
    for tar in files(run / "shards"):
        if tar.suffix == ".tar" and not _is_one_of(run, tar, packed.get(tar.name, [])):
            yield Damage(f"shards/{tar.name}", "is not what was packed")


def make_again(run: Path, found: Iterable[Damage]) -> None:
    """Take out of the ledger what names damaged files, under the run's lock. The next run links anew what lies in `shards/`."""
    ledger = Ledger(run)
    by_stage: dict[str, list[Damage]] = {}
    for damage in found:
        if damage.file.startswith(TORN):
            compact.rebuild(ledger, int(Path(damage.file).stem))
            return
        by_stage.setdefault(damage.stage, []).append(damage)
    for stage, mine in by_stage.items():
        loose = [run / damage.file for damage in mine if damage.entry is None and not damage.file.endswith(".parquet")]
        loose += [ledger.path(stage, entry.fingerprint, entry.shard) for damage in mine if (entry := damage.entry) is not None]
        for path in loose:
            path.unlink(missing_ok=True)
        entries = {(damage.entry.fingerprint, damage.entry.shard) for damage in mine if damage.entry is not None}
        segments = {Path(damage.file).name for damage in mine if damage.entry is None and damage.file.endswith(".parquet")}
        compact.forget(ledger, stage, entries, segments)


def _parts(ledger: Ledger, stage: str) -> Iterator[Entry | Damage]:
    """Entries of a stage, whatever of the ledger itself cannot be read."""
    compacted: list[StageIndex] = []
    for name in ledger.generation.segments.get(stage, []):
        file = ledger.folder / compact.FOLDER / name
        try:
            index = StageIndex(stage, [Segment(file, planning=False)])
            yield from index.entries()
            compacted.append(index)
        except (Damaged, FileNotFoundError) as error:
            found = "is gone" if isinstance(error, FileNotFoundError) else "cannot be read"
            yield Damage(str(file.relative_to(ledger.run)), found, stage)
        try:
            read_table(planning_file(file))
        except Damaged:
            yield Damage(str(planning_file(file).relative_to(ledger.run)), "cannot be read", stage)
        except FileNotFoundError:  # older runs have none
            pass
    for path in ledger.loose(stage):
        try:
            entry = next(ledger.read_loose([path]))
            if entry is not None and not any(index.find(entry.fingerprint, entry.shard) for index in compacted):
                yield entry
        except BrokenEntry:
            yield Damage(str(path.relative_to(ledger.run)), "is no whole entry", stage)


def _compare(run: Path, entry: Entry, since: _TakenDown) -> list[Damage]:
    found = []
    for file in entry.files.values():
        if file.path in since.gone:
            continue
        try:
            same = sha256_file(run / file.path) == since.sums.get(file.path, file.sha256)
            problem = "" if same else f"has other content than the {file.bytes:,} bytes that were committed"
        except FileNotFoundError:
            problem = "is gone"
        if problem:
            found.append(Damage(file.path, problem, entry.stage, entry))
    return found


def _is_one_of(run: Path, tar: Path, entries: list[Entry]) -> bool:
    paths = [run / entry.files["shard"].path for entry in entries]
    if not isinstance(run, Place) and any(path.is_file() and tar.samefile(path) for path in paths):
        return True  # the same file: it was looked at
    return sha256_file(tar) in {entry.files["shard"].sha256 for entry in entries}


def _since(run: Path) -> _TakenDown:
    told = _TakenDown()
    for path in files(run / "tombstones"):
        if path.name.endswith(".receipt.json"):
            try:
                receipt = json.loads(path.read_bytes())
                told.sums.update({name: file["sha256"] for name, file in receipt["files"].items()})
                told.gone.update(receipt["gone"])
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise Damaged(f"{path}: not the receipt that was written there ({error}): put it back") from error
    return told


__all__ = ["Damage", "Looked", "damages", "make_again"]
