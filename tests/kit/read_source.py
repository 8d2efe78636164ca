"""A source's only table, read as a run reads it."""

import json

from operators.columns import BASE
from pipelines.sources import index_table, read_slice, uid_of
from pipelines.sources.base import Slice


def read_all(source, shard_size=3):
    """All rows and refusals of a source's only table, read slice by slice, backwards and forwards alike."""
    (path,) = source.tables()
    index = index_table(source, path, shard_size)
    assert sum(piece["rows"] for piece in index.slices) == index.rows
    assert [piece["first_row"] for piece in index.slices] == list(range(0, index.rows, shard_size))
    parts = [read_slice(source, path, index.digest, Slice(**piece)) for piece in json.loads(json.dumps(index.slices))]
    backwards = [read_slice(source, path, index.digest, piece) for piece in reversed(index.slices)]
    assert [(t.to_pylist(), r) for t, r in reversed(backwards)] == [(t.to_pylist(), r) for t, r in parts]
    rows = [row for table, _ in parts for row in table.to_pylist()]
    rejects = [reject for _, refused in parts for reject in refused]
    assert all(table.schema == BASE for table, _ in parts)
    assert len(rows) + sum(r.item is None for r in rejects) == index.rows
    uids = {uid_of(source.name, index.digest, i): i for i in range(index.rows)}
    assert all(uids[row["uid"]] == row["row"] for row in rows)
    return rows, [(uids[r.uid], r.reason, r.item) for r in rejects]
