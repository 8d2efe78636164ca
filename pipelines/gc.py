"""Collecting what no ledger entry names: files of attempts that lost a race or were killed before they were published."""

from __future__ import annotations

from pathlib import Path

from pipelines import compact
from pipelines.durable import files, folders, sweep_scratch
from pipelines.ledger import Ledger
from pipelines.stores import Place

KEEP = ("ledger", "answers", "shards", "runs")
"""Folders that are not made of attempt files: the ledger itself, paid-for answers, links handed over, records of runs."""


def _superseded(ledger: Ledger) -> list[Path]:
    """Segments of compacted entries that the newest generation does not name: joined into others, or never published."""
    named = {name for names in ledger.generation.segments.values() for name in names}
    folder = ledger.folder / compact.FOLDER
    return [path for path in files(folder) if path.suffix == ".parquet" and path.name not in named]


def collect(run: Path, *, delete: bool) -> tuple[int, int]:
    """Count, and with `delete` remove, unreferenced attempt files below `run`; returns files and bytes.

    Call it under the run's lock: the files of a live attempt are not named yet.
    """
    named = {file.path for entry in Ledger(run).entries() for file in entry.files.values()}
    named |= {f"tables/{path.name}" for path in files(run / "tables")}
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
            if str(path.relative_to(run)) not in named:
                found += 1
                size += path.stat().st_size
                if delete:
                    path.unlink()
    for path in files(run, deep=True):
        if path.name[0] == "." and path.suffix == ".tmp":
            found += 1
            size += path.stat().st_size
            if delete:
                path.unlink()
    return found, size
