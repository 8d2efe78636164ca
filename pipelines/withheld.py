"""Samples that a shard must not hand over any more: those put back into a later shard, and those that were taken down.

    tables/requeued.*.parquet    rows put back, each with `from_shard` and the stage and fingerprint of the entry that refused it
    tombstones/0000.json …       takedowns: uids by shard, addresses, SHA-256 sums; never changed, and never removed

A sample lives in one shard only: once it was put back, that is the later one, also if its first shard would take it now (other
settings, a host that answers again). Where the entry that refused it is still in force there is nothing to withhold or to look at.

A tombstone may be published while a run is at work. Samples still to come are refused by what lies there when their rows are read and
their pictures have come; fingerprints go by what lay there when the run began, so that all its workers agree on them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.durable import Damaged, as_written, files, open_table, read_table, unsealed
from pipelines.public_url import public

if TYPE_CHECKING:
    from pipelines.tables import Tables
    from pipelines.view import View

FROM = pa.schema({"from_shard": pa.int64(), "from_stage": pa.string(), "from_fingerprint": pa.string()})
"""Columns of a table of samples put back, beside those of the source."""
PUT_BACK = "put_back"
"""Reason under which a stage refuses a sample that lives in a later shard."""
TAKEN_DOWN = "taken_down"
"""Reason under which a sample is refused that was taken down before: by the source stage for its identity or address, by the download
for its picture."""


@dataclass(frozen=True)
class Taken:
    """What all takedowns of a run name together.

    shards   shard → uids
    urls     addresses that no sample may have, and `hashes` SHA-256 sums that no picture may have
    """

    shards: dict[int, frozenset[str]]
    urls: frozenset[str]
    hashes: frozenset[str]

    @property
    def uids(self) -> frozenset[str]:
        return frozenset().union(*self.shards.values())


def tombstones(run: Path) -> list[dict]:
    """Takedowns of a run, the first one first. Damaged where one is unreadable or missing: what it names would be shown again."""
    there = {path.name.partition(".")[0] for path in files(run / "tombstones")}  # of each its receipt tells, too
    stones = []
    for number in range(1 + max((int(stem) for stem in there if stem.isdecimal()), default=-1)):
        path = run / "tombstones" / f"{number:04d}.json"
        try:
            stones.append(unsealed(json.loads(path.read_bytes())))
        except (FileNotFoundError, ValueError, TypeError, AttributeError) as error:
            problem = "is not there any more" if isinstance(error, FileNotFoundError) else f"is no takedown any more ({error})"
            raise Damaged(f"{path}: {problem}. Put it back, or the samples that it names are shown again") from error
    return stones


def all_taken(run: Path) -> Taken:
    shards: dict[int, set[str]] = {}
    urls: set[str] = set()
    hashes: set[str] = set()
    for stone in tombstones(run):
        for shard, uids in stone["uids"].items():
            shards.setdefault(int(shard), set()).update(uids)
        urls.update(map(public, stone.get("urls", ())))  # those of older versions name uids only
        hashes.update(stone.get("sha256", ()))
    return Taken({shard: frozenset(uids) for shard, uids in shards.items()}, frozenset(urls), frozenset(hashes))


def taken_down(run: Path) -> dict[int, frozenset[str]]:
    """shard → uids that were taken down."""
    return all_taken(run).shards


class Withheld:
    """What is withheld in one run: `taken` (shard → uids that were taken down) as it was when this was made, what was put back when it
    is first asked for."""

    def __init__(self, run: Path, tables: Tables) -> None:
        from pipelines.tables import REQUEUED

        self.run = run
        self._origins: list[tuple[int, Path]] = []
        self._tables = [(table.first_shard, tables.file(table)) for table in tables.all if table.source == REQUEUED]
        self.taken = taken_down(run)

    @cached_property
    def refusers(self) -> dict[int, frozenset[tuple[str, str]]]:
        """Shard that samples were put back from → stage and fingerprint of the entries that had refused them."""
        found: dict[int, set[tuple[str, str]]] = {}
        for first, path in self._tables:
            with open_table(path) as parquet, as_written(path):
                if FROM.names[0] not in parquet.schema_arrow.names:
                    continue
                self._origins.append((first, path))
                for batch in parquet.iter_batches(columns=FROM.names):
                    for row in pa.Table.from_batches([batch]).group_by(FROM.names).aggregate([]).to_pylist():
                        found.setdefault(row["from_shard"], set()).add((row["from_stage"], row["from_fingerprint"]))
        return {shard: frozenset(pairs) for shard, pairs in found.items()}

    def put_back(self, shard: int) -> frozenset[str]:
        """All samples that were ever put back from a shard."""
        uids: set[str] = set()
        if shard not in self.refusers:
            return frozenset()
        for first, path in self._origins:
            if first > shard:
                uids.update(read_table(path, columns=["uid"], filters=[("from_shard", "=", shard)])["uid"].to_pylist())
        return frozenset(uids)

    def matters(self, shard: int, entry_of: Callable[[str], str | None]) -> bool:
        """Whether a shard may hold a sample that lives elsewhere; entry_of: stage → fingerprint of its entry in force."""
        return any(entry_of(stage) != fingerprint for stage, fingerprint in self.refusers.get(shard, ()))

    def of(self, view: View, uids: pa.ChunkedArray | None = None) -> list[str]:
        """Samples among the survivors of `view`, which may be given, that live in a later shard; sorted."""
        entries: Mapping[str, str] = view.entries
        if not self.matters(view.shard, entries.get):
            return []
        if uids is None:
            uids = read_table(self.run / view.uid_file, columns=["uid"])["uid"]
        gone = self.put_back(view.shard)
        return sorted(pc.unique(uids.filter(pc.is_in(uids, value_set=pa.array(sorted(gone), pa.string())))).to_pylist())
