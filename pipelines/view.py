"""What is known of one shard after some stages: which columns exist, in which committed file, with which content.

A view is small and plain (it travels through Ray as JSON); data are read through it column by column. Every stage file holds
`uid` and the columns that stage added, one row per survivor, in the order of the source: later stages only drop rows, so a
column is aligned with the present survivors by looking up their uids.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.durable import read_table
from pipelines.ledger import Entry
from pipelines.withheld import taken_down


@dataclass(frozen=True)
class Column:
    file: str
    hash: str


@dataclass(frozen=True)
class View:
    shard: int
    rows: int = 0
    uids: str = ""  # content hash of the surviving uids
    uid_file: str = ""  # the file whose `uid` column lists the survivors
    columns: dict[str, Column] = field(default_factory=dict)
    images: str | None = None
    entries: dict[str, str] = field(default_factory=dict)  # stage → fingerprint, the way the data took

    def after(self, entry: Entry) -> View:
        """The view once `entry` is committed."""
        data = entry.files["data"].path
        written = {name: Column(data, content) for name, content in entry.columns.items()}
        return replace(
            self,
            rows=entry.rows_out,
            uids=entry.uids,
            uid_file=data,
            columns={**self.columns, **written},
            images=entry.files["images"].path if "images" in entry.files else self.images,
            entries={**self.entries, entry.stage: entry.fingerprint},
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> View:
        raw = json.loads(text)
        raw["columns"] = {name: Column(**column) for name, column in raw["columns"].items()}
        return cls(**raw)


def read_columns(run: Path, view: View, wanted: pa.Schema, optional: frozenset[str] = frozenset()) -> pa.Table:
    """`uid` and the wanted columns for the survivors of `view` that were not taken down; a missing optional column is all null."""
    uids = read_table(run / view.uid_file, columns=["uid"])["uid"].combine_chunks()
    taken = taken_down(run).get(view.shard)
    if taken:  # also where the files were not purged yet
        uids = uids.filter(pc.invert(pc.is_in(uids, value_set=pa.array(sorted(taken), pa.string()))))
    by_file: dict[str, list[str]] = {}
    for name in wanted.names:
        if name in view.columns:
            by_file.setdefault(view.columns[name].file, []).append(name)
        elif name not in optional:
            raise KeyError(f"shard {view.shard}: no stage before this one wrote column {name!r}")
    read: dict[str, pa.ChunkedArray] = {}
    for file, names in by_file.items():
        table = read_table(run / file, columns=["uid", *names])
        if file != view.uid_file or taken:
            rows = pc.index_in(uids, value_set=table["uid"].combine_chunks())
            if rows.null_count:
                raise ValueError(f"{file}: lacks survivors of a later stage: the file is not the one that was committed")
            table = table.take(rows)
        read.update({name: table[name] for name in names})
    nulls = {name: pa.nulls(len(uids), wanted.field(name).type) for name in wanted.names if name not in read}
    return pa.table({"uid": uids, **{name: read.get(name, nulls.get(name)) for name in wanted.names}})
