"""One shard of a download, with little patience."""

from pathlib import Path

import pyarrow as pa

from operators.columns import BASE
from pipelines.download import Download

QUICK = {"timeout": 1.0, "connect_timeout": 1.0, "deadline": 4.0, "backoff": 0.01, "allow_private_addresses": True}


def base(*rows, **common):
    """A base table; a row is an address, an image reference (`file:` …) or a dict of columns."""
    table = []
    for i, row in enumerate(rows):
        if isinstance(row, str):
            row = {"url": row} if row.lower().startswith("http") else {"image_ref": row}
        empty = {"captions": [f"caption {i}"], "long_captions": [], "source_regions": []}
        table.append({"uid": f"{i:032x}", "source": "test", "row": i, **empty, **common, **row})
    return pa.Table.from_pylist(table, schema=BASE)


def fetch(folder: Path, *rows, common=None, **settings):
    (folder / "images").mkdir(exist_ok=True)
    tar, stats = folder / "images" / "00000.tar", folder / "images" / "00000_stats.json"
    return Download(**{**QUICK, **settings}).fetch(base(*rows, **(common or {})), tar, stats)


def reason(folder, *rows, **settings):
    """The one reason for which all rows were refused."""
    outcome = fetch(folder, *rows, **settings)
    assert len(outcome.kept) == 0
    (only,) = {reject.reason for reject in outcome.rejects}
    return only
