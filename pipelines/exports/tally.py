"""What an export holds, counted while it streams: for the data set card and for the person at the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pipelines.shard_format import Record

KINDS = (
    "samples",
    "texts",
    "regions",
    "groups",
    "sources",
    "licences",
    "models",
    "prompts",
    "operators",
    "notes",
    "origins",
    "families",
)
MOST = 1000
"""Different values of one kind that are remembered: licence fields of crawled tables can hold anything."""


class Tally:
    """Counters by kind.

    samples   exported           texts     "zh long" → count        regions, groups   boxes, and those with ten negatives
    sources, licences            of samples                         models, prompts, operators   of stages, per sample
    origins   "zh long by model" → count    families   of hard negatives
    notes     what was left out or changed, by reason
    """

    def __init__(self, counts: dict[str, dict[str, int]] | None = None) -> None:
        self.counts: dict[str, Counter[str]] = {kind: Counter((counts or {}).get(kind, {})) for kind in KINDS}

    def add(self, record: Record) -> None:
        c = self.counts
        c["samples"]["all"] += 1
        c["texts"].update(f"{text.language} {text.length}" for text in record.texts)
        c["origins"].update(f"{text.language} {text.length} by {text.origin}" for text in record.texts)
        for region in record.regions:
            c["families"].update(negative.family for negative in region.negatives)
        c["regions"].update(region.language for region in record.regions)
        c["groups"].update(region.language for region in record.regions if region.negatives)
        self._some("sources", record.source)
        self._some("licences", record.license or "not stated")
        for stage in record.provenance.values():
            for kind, values in (("models", [stage.model]), ("prompts", [stage.prompt]), ("operators", stage.operators)):
                for value in values:
                    if value:
                        self._some(kind, value)

    def _some(self, kind: str, value: str) -> None:
        found = self.counts[kind]
        found[value if value in found or len(found) < MOST else "others"] += 1

    def note(self, why: str, times: int = 1) -> None:
        self.counts["notes"][why] += times

    def plain(self) -> dict[str, dict[str, int]]:
        """In the order that it has when it was kept and read again: a card says the same whether its export was killed or not."""
        return {kind: dict(sorted(counter.items())) for kind, counter in self.counts.items()}

    @property
    def samples(self) -> int:
        return self.counts["samples"]["all"]


def total(parts: Iterable[dict[str, Any]]) -> Tally:
    whole = Tally()
    for part in parts:
        for kind, counter in part.items():
            whole.counts[kind].update(counter)
    return whole
