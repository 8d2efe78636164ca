"""Collecting what no ledger entry names: files of attempts that lost a race or were killed before they were published.

Only what is named as attempts name their files is ever looked at: tombstones, receipts, records and whatever else a user put
into the folder of a run are nobody's leftovers.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipelines import compact
from pipelines.durable import Damaged, files, folders, sweep_scratch
from pipelines.ledger import Entry, Ledger
from pipelines.stores import Place

KEEP = ("ledger", "answers", "shards", "runs", "tables", "tombstones")
"""Folders that are not made of attempt files: the ledger itself, paid-for answers, links handed over, records."""
ATTEMPT = re.compile(r"[0-9]{5,}\.[0-9a-z]{1,12}\.[0-9a-f]{12}(\.parquet|\.tar|_stats\.json)")
"""`Attempt.file`: shard, fingerprint, attempt."""


def _superseded(ledger: Ledger) -> list[Path]:
    """Segments of compacted entries that the newest generation does not name: joined into others, or never published."""
    named = {name for names in ledger.generation.segments.values() for name in names}
    folder = ledger.folder / compact.FOLDER
    return [path for path in files(folder) if path.suffix == ".parquet" and path.name not in named]


def collect(run: Path, *, delete: bool) -> tuple[int, int]:
    """Count, and with `delete` remove, unreferenced attempt files below `run`; returns files and bytes.

    In a store, uploads that were never ended count as files, of unknown size.

    Call it under the run's lock: the files of a live attempt are not named yet. A worker that the lock knows nothing of, cut off
    while its run died, may still publish: it looks for its files afterwards (`Attempt.commit`), and what it published before they
    were removed is taken back here.
    """
    named = {file.path for entry in Ledger(run).entries() for file in entry.files.values()}
    if not named and (run / "index.parquet").is_file():
        raise Damaged(
            f"{run / 'ledger'}: names nothing, though shards of this run were handed over: put it back. Nothing is removed"
        )
    gone: set[str] = set()
    found = size = 0
    if delete and isinstance(run, Place):
        sweep_scratch()
    for path in _superseded(Ledger(run)):
        found += 1
        size += path.stat().st_size
        if delete:
            path.unlink()
    for folder in folders(run):
        for path in files(folder, deep=True) if folder.name not in KEEP else ():
            name = str(path.relative_to(run))
            if ATTEMPT.fullmatch(path.name) and name not in named:
                found += 1
                size += path.stat().st_size
                if delete:
                    path.unlink()
                    gone.add(name)
    if gone:
        for entry in _loose(Ledger(run)):
            if gone & {file.path for file in entry.files.values()}:
                Ledger(run).remove_loose(entry.stage, entry.fingerprint, entry.shard)
    for path in files(run, deep=True):
        if path.name[0] == "." and path.suffix == ".tmp":
            found += 1
            size += path.stat().st_size
            if delete:
                path.unlink()
    if isinstance(run, Place):
        found += run.store.unfinished(f"{run.key}/", delete=delete)
    return found, size


def _loose(ledger: Ledger) -> list[Entry]:
    """What was not compacted yet, whatever was published last among it."""
    return [entry for stage in ledger.stages() for entry in ledger.read_loose(ledger.loose(stage)) if entry is not None]
