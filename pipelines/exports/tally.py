"""What an export holds, counted while it streams: for the data set card and for the person at the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from pipelines.shard_format import Record, Region, Text

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

    def add(
        self,
        record: Record,
        texts: Iterable[Text] | None = None,
        regions: Sequence[Region] | None = None,
        negatives: bool = True,
    ) -> None:
        """Count a sample. texts, regions: which of its own the layout took, where it is not all; negatives: whether with theirs."""
        c = self.counts
        texts, regions = list(record.texts if texts is None else texts), record.regions if regions is None else regions
        c["samples"]["all"] += 1
        c["texts"].update(f"{text.language} {text.length}" for text in texts)
        c["origins"].update(f"{text.language} {text.length} by {text.origin}" for text in texts)
        c["regions"].update(region.language for region in regions)
        for region in regions if negatives else ():
            c["families"].update(negative.family for negative in region.negatives)
            c["groups"].update([region.language] if region.negatives else [])
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
    def languages(self) -> list[str]:
        """Of the texts and regions."""
        return sorted({kind.split()[0] for name in ("texts", "regions") for kind in self.counts[name]})

    @property
    def samples(self) -> int:
        return self.counts["samples"]["all"]


def total(parts: Iterable[dict[str, Any]]) -> Tally:
    whole = Tally()
    for part in parts:
        for kind, counter in part.items():
            whole.counts[kind].update(counter)
    return whole
