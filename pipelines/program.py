"""The program's own files as they were when a run began. Ray's processes that start later read them anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

HOME = Path(__file__).parents[1]


def stamps() -> dict[str, int]:
    """File → when it was changed last, in nanoseconds."""
    files = (path for folder in ("pipelines", "operators", "prompts") for path in (HOME / folder).rglob("*.py"))
    return {str(path.relative_to(HOME)): path.stat().st_mtime_ns for path in files}


def changed(since: Mapping[str, int]) -> list[str]:
    """Files that are others than they were, new or gone."""
    return sorted({name for name, _ in since.items() ^ stamps().items()})
