"""Collecting what no ledger entry names: files of attempts that lost a race or were killed before they were published."""

from __future__ import annotations

from pathlib import Path

from pipelines.ledger import Ledger

KEEP = ("ledger", "answers", "shards", "runs")
"""Folders that are not made of attempt files: the ledger itself, paid-for answers, links handed over, records of runs."""


def collect(run: Path, *, delete: bool) -> tuple[int, int]:
    """Count, and with `delete` remove, unreferenced attempt files below `run`; returns files and bytes.

    Call it under the run's lock: the files of a live attempt are not named yet.
    """
    named = {file.path for entry in Ledger(run).entries() for file in entry.files.values()}
    named |= {f"tables/{path.name}" for path in (run / "tables").glob("*")}
    found = size = 0
    for folder in sorted(path for path in run.iterdir() if path.is_dir() and path.name not in KEEP):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            if str(path.relative_to(run)) not in named:
                found += 1
                size += path.stat().st_size
                if delete:
                    path.unlink()
    for scratch in sorted(run.rglob(".*.tmp")):
        found += 1
        size += scratch.stat().st_size
        if delete:
            scratch.unlink()
    return found, size
