"""Collecting what no ledger entry names: files of attempts that lost a race or were killed before they were published.

Only what is named as attempts name their files is ever looked at, and tables of samples whose putting back was killed: tombstones,
receipts, records and whatever else a user put into the folder of a run are nobody's leftovers.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipelines import compact
from pipelines.durable import Damaged, files, folders, sweep_scratch
from pipelines.ledger import Entry, Ledger
from pipelines.locks import orphans
from pipelines.stores import Place
from pipelines.tables import Tables

KEEP = ("ledger", "answers", "shards", "runs", "tables", "tombstones")
"""Folders that are not made of attempt files: the ledger itself, paid-for answers, links handed over, records."""
ATTEMPT = re.compile(r"[0-9]{5,}\.[0-9a-z]{1,12}\.[0-9a-f]{12}(\.parquet|\.tar|_stats\.json)")
"""`Attempt.file`: shard, fingerprint, attempt."""


def leftovers(run: Path) -> list[Path]:
    """Files below `run` that nothing names.

    Call it under the run's lock: the files of a live attempt are not named yet.
    """
    named = {file.path for entry in Ledger(run).entries() for file in entry.files.values()}
    if not named and (run / "index.parquet").is_file():
        raise Damaged(
            f"{run / 'ledger'}: names nothing, though shards of this run were handed over: put it back. Nothing is removed"
        )
    found = [*Tables(run).unregistered(), *orphans(run)]
    for folder in folders(run):
        for path in files(folder, deep=True) if folder.name not in KEEP else ():
            if ATTEMPT.fullmatch(path.name) and str(path.relative_to(run)) not in named:
                found.append(path)
    return found + [path for path in files(run, deep=True) if path.name[0] == "." and path.suffix == ".tmp"]


def remove(run: Path, left: list[Path]) -> None:
    """Remove `leftovers`. A worker that the lock knows nothing of, cut off while its run died, may still publish: it looks for its
    files afterwards (`Attempt.commit`), and what it published before they were removed is taken back here."""
    for path in left:
        path.unlink(missing_ok=True)
    gone = {str(path.relative_to(run)) for path in left}
    for entry in _loose(Ledger(run)) if gone else ():
        if gone & {file.path for file in entry.files.values()}:
            Ledger(run).remove_loose(entry.stage, entry.fingerprint, entry.shard)


def collect(run: Path, *, delete: bool) -> tuple[int, int]:
    """Count, and with `delete` remove, what nothing names below `run`, under its lock; returns files and bytes.

    In a store, uploads that were never ended count as files, of unknown size.
    """
    left, segments = leftovers(run), compact.unnamed(Ledger(run))
    found, size = len(left) + len(segments), sum(map(_size, [*left, *segments]))
    if delete:
        remove(run, left)
        compact.remove_unnamed(Ledger(run))
    if isinstance(run, Place):
        if delete:
            sweep_scratch()
        found += run.store.unfinished(f"{run.key}/", delete=delete)
    return found, size


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # what writes beside this (`plan`, `compact`, `report`) has ended it
        return 0


def _loose(ledger: Ledger) -> list[Entry]:
    """What was not compacted yet, whatever was published last among it."""
    return [entry for stage in ledger.stages() for entry in ledger.read_loose(ledger.loose(stage)) if entry is not None]
