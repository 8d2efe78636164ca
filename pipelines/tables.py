"""The shard map: which rows of which table are shard 42. Written once per table, never renumbered.

    tables/0000.json, tables/0000.<attempt>.parquet     table file, its digest, and where each of its shards lies in it
    tables/used.json                                    the tables that each source had when it was last asked, and where they lay

A table keeps its numbers for ever: new tables, and samples put back by `fineloom rejects --requeue`, get the next free ones. The
same bytes read another way (CSV whose first line is a row, or is not) are another table, whose samples have other identities.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa

from pipelines.durable import (
    Damaged,
    check_store,
    create_if_absent,
    files,
    read_many,
    read_table,
    replace,
    sealed,
    unsealed,
    write_new,
    write_table,
)
from pipelines.stores import Place

REQUEUED = "requeued"
"""Source name of tables made of samples that were put back."""
USED = "used.json"


@dataclass(frozen=True)
class Table:
    """One registered table file. `slices` names the Parquet file with one row per shard, as `index_table` cut them."""

    index: int
    source: str
    path: str
    digest: str
    rows: int
    first_shard: int
    shards: int
    slices: str
    size: int  # bytes and modification time of the file (and what belongs to it) when it was read: an untouched file is not read again
    mtime_ns: int
    cut: str = ""  # how its rows are told apart (`Source.cut`); empty in records of older versions, which goes for any


class Tables:
    """The tables registered below one run's folder, and the shards they were cut into."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.all: list[Table] = []
        self._first: list[int] = []
        self._by_file: dict[tuple[str, str, str, int, int], Table] = {}
        self._by_content: dict[tuple[str, str], Table] = {}
        self._slices: dict[int, pa.Table] = {}
        self._checked = False
        self.refresh()

    def refresh(self) -> None:
        """Read what was registered since. Numbers are compared as such: 10000.json comes after 9999.json."""
        named = (file for file in files(self.run / "tables") if re.fullmatch(r"[0-9]+\.json", file.name))
        fresh = sorted((int(file.stem), file) for file in named)[len(self.all) :]
        for (number, file), data in zip(fresh, read_many(file for _, file in fresh), strict=True):
            if data is None or number != len(self.all):
                raise Damaged(f"{file}: the table before it is missing; nothing may be removed from the folder tables/")
            try:
                self._add(Table(**unsealed(json.loads(data))))
            except (ValueError, TypeError) as error:
                raise Damaged(f"{file}: not the record of a table ({error}): put it back as it was") from error

    def _add(self, table: Table) -> None:
        self.all.append(table)
        self._first.append(table.first_shard)
        self._by_file[table.source, table.path, table.cut, table.size, table.mtime_ns] = table
        self._by_content.setdefault((table.source, table.digest), table)

    def known(self, source: str, path: Path, cut: str = "", beside: Sequence[str] = ()) -> Table | None:
        """The table registered from this very file and those that belong to it, cut the same way, if none was touched since."""
        state = _state(path, beside)
        return next(
            (self._by_file[key] for how in (cut, "") if (key := (source, str(path), how, *state)) in self._by_file), None
        )

    def register(
        self,
        source: str,
        path: Path,
        digest: str,
        rows: int,
        slices: Sequence[Mapping[str, Any]],
        cut: str = "",
        beside: Sequence[str] = (),
    ) -> Table:
        """Give the shards of a table their numbers. A table of the same source and content, cut the same way, keeps those it has."""
        state = _state(path, beside)
        while (source, content := self._content(source, digest, cut)) not in self._by_content:
            if not self._checked:
                check_store(self.run)
                self._checked = True
            index = len(self.all)
            first = self.all[-1].first_shard + self.all[-1].shards if self.all else 0
            file = self.run / "tables" / f"{index:04d}.{uuid4().hex[:12]}.parquet"
            write_new(file, lambda p: write_table(pa.Table.from_pylist(slices), p))
            table = Table(index, source, str(path), content, rows, first, len(slices), f"tables/{file.name}", *state, cut)
            if create_if_absent(self.run / "tables" / f"{index:04d}.json", sealed(asdict(table))):
                self._add(table)
            else:  # somebody else took the number
                file.unlink()
                self.refresh()
        return self._by_content[source, content]

    def _content(self, source: str, digest: str, cut: str) -> str:
        """The digest, or one of it and the cut where it is known of a table that is cut another way."""
        known = self._by_content.get((source, digest))
        return digest if known is None or known.cut in ("", cut) else hashlib.sha256(f"{digest}\0{cut}".encode()).hexdigest()

    def use(self, found: Mapping[str, Mapping[int, str]]) -> None:
        """Note which tables these sources have now, and where: those that were changed or taken away are no part of them any more."""
        now = {source: {str(index): path for index, path in paths.items()} for source, paths in found.items()}
        before = self._noted()
        if {**before, **now} != before:
            replace(self.run / "tables" / USED, sealed({"sources": {**before, **now}}))

    def used(self, sources: Sequence[str]) -> dict[int, str]:
        """index → file of the tables of these sources, and of all samples that were put back, as was noted last."""
        noted = self._noted()
        # In runs of older versions nothing is noted: of a table file that changed, the newest registration counts.
        newest = {(table.source, table.path): table for table in self.all}.values()
        found = {table.index: str(self.file(table)) for table in self.all if table.source == REQUEUED}
        for source in sources:
            registered = {table.index: table.path for table in newest if table.source == source}
            found.update({int(index): path for index, path in noted.get(source, registered).items()})
        return found

    def _noted(self) -> dict[str, dict[str, str]]:
        path = self.run / "tables" / USED
        try:
            noted = unsealed(json.loads(path.read_bytes()))["sources"]
            if all(int(index) < len(self.all) for tables in noted.values() for index in tables):
                return noted
            problem: object = "a table that is not registered"
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            problem = error
        raise Damaged(f"{path}: not what was written there ({problem}): remove it, and the next run writes it again")

    def table_of(self, shard: int) -> Table:
        return self.all[bisect_right(self._first, shard) - 1]

    def file(self, table: Table) -> Path:
        """Where the table lies: samples that were put back lie in the run's folder, which may have been moved."""
        return self.run / "tables" / Path(table.path).name if table.source == REQUEUED else Path(table.path)

    def unregistered(self) -> list[Path]:
        """Samples that a killed `retry` or `rejects --requeue` wrote and did not put back."""
        known = {self.file(table).name for table in self.all if table.source == REQUEUED}
        there = files(self.run / "tables")
        return [path for path in there if re.fullmatch(rf"{REQUEUED}\..*\.parquet", path.name) and path.name not in known]

    def slice_of(self, shard: int) -> dict[str, Any]:
        """Where a shard lies in its table file: first_row, rows and what else the source's reader recorded."""
        table = self.table_of(shard)
        if table.index not in self._slices:
            self._slices[table.index] = read_table(self.run / table.slices)
        (cut,) = self._slices[table.index].slice(shard - table.first_shard, 1).to_pylist()
        return cut

    def cuts(self, table: Table) -> tuple[list[int], list[int]]:
        """first_row and rows of all shards of a table."""
        self.slice_of(table.first_shard)
        slices = self._slices[table.index]
        return slices["first_row"].to_pylist(), slices["rows"].to_pylist()

    def shards(self, tables: list[Table]) -> Iterator[int]:
        for table in tables:
            yield from range(table.first_shard, table.first_shard + table.shards)


def _state(path: Path, beside: Sequence[str]) -> tuple[int, int]:
    """Bytes and newest modification time of files that make one table. In a store only samples that were put back lie, which are read
    whatever their date."""
    if isinstance(path, Place):
        return path.stat().st_size, 0
    stats = [os.stat(file) for file in (str(path), *beside)]
    return sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)
