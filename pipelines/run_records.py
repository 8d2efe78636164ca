"""What the calls of a run were given and what they did: `runs/<number>.<when>.json`, counted, since a clock may be set back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.durable import files, replace

NUMBERED = re.compile(r"([0-9]+)\..*json")


def keep(run: Path, record: dict[str, Any]) -> None:
    """Write the record of a call that has ended, under the run's lock."""
    number = 1 + max((_number(path) for path in files(run / "runs")), default=0)
    name = f"{number:05d}.{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    replace(run / "runs" / name, json.dumps(record, indent=1, ensure_ascii=False, default=str).encode())


def newest(run: Path) -> Iterator[dict[str, Any]]:
    """The records, newest first; one that cannot be read is left out. Those of older versions have no number and are the oldest."""
    named = (path for path in files(run / "runs") if path.suffix == ".json" and path.name[0] != ".")
    for path in sorted(named, key=lambda path: (_number(path), path.name), reverse=True):
        try:
            record = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(record, dict):
            yield record


def _number(path: Path) -> int:
    found = NUMBERED.fullmatch(path.name)
    return int(found[1]) if found else 0
