"""MUGE's pair of files: a TSV of `id <tab> base64 picture`, and JSON lines of queries that name the ids they describe.

A row is a picture; its captions are the texts of all queries whose list holds its id, in the order of the queries. Pictures
without a query are rejects (`no_caption`). The table's digest covers both files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from operators.base import Reject
from pipelines.sources.base import Columns, Slice, Source, SourceError, TableIndex, changed, nearest
from pipelines.sources.cleaning import texts_of
from pipelines.sources.records import BLOCK, index_records, read_piece, split_lines
from pipelines.sources.rows import build


class TsvImagesSource(Source):
    format: Literal["tsv_images"]
    queries: str
    """Path of the JSON lines; `{stem}` is the TSV's name up to its first underscore (`train_imgs.tsv` → `train`)."""
    ids: str = "item_ids"
    """Key of a query's ids: a list of them, or one."""
    text: str = "query_text"
    """Key of its text, or texts."""
    columns: Columns = Columns(captions=["query"])

    def beside(self, path: str) -> list[str]:
        return [self._query_file(path)]

    def index(self, path: str, shard_size: int) -> TableIndex:
        with open(path, "rb") as file:
            line = file.readline(1 << 16)
        if line and b"\t" not in line:
            raise SourceError(f"source {self.name}: {path}: no tab in the first line, it begins with {line[:60]!r}")
        queries = _queries(self, self._query_file(path), fresh=True)
        if not len(queries.ids):
            raise SourceError(f"source {self.name}: {queries.path}: no row has {self.ids!r} and {self.text!r}")
        index = index_records(self, path, shard_size, split_lines)
        digest = hashlib.sha256(f"{index.digest}\0{queries.digest}".encode()).hexdigest()
        return TableIndex(digest, index.rows, [{**p, "check": f"{p['check']}-{queries.digest[:16]}"} for p in index.slices])

    def read(self, path: str, digest: str, piece: Slice) -> tuple[pa.Table, list[Reject]]:
        check, _, query_check = piece["check"].partition("-")
        queries = _queries(self, self._query_file(path))
        if not queries.digest.startswith(query_check):
            raise changed(self, queries.path, piece, "other bytes")
        data = read_piece(self, path, {**piece, "check": check})
        texts: list[list[str]] = []
        refs: list[str | None] = []
        bad: dict[int, tuple[str, str]] = {}
        at = 0
        for end in split_lines(data, True).tolist():
            line = data[at:end]
            start, at = at, end
            if not line.strip(b"\r\n"):
                continue
            key, tab, picture = line.partition(b"\t")
            size = len(picture.rstrip(b"\r\n"))
            if not tab or not size:
                bad[len(texts)] = ("bad_row", f"no picture beside the id: {line[:80]!r}")
            texts.append(queries.texts(key.strip().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")))
            refs.append(f"tsv:{path}#{piece['offset'] + start + len(key) + 1}+{size}")
        return build(self, digest, piece["first_row"], piece["rows"], {"query": texts}, bad, refs)

    def _query_file(self, path: str) -> str:
        found = self.path(self.queries.replace("{stem}", os.path.basename(path).partition("_")[0]))
        if not os.path.isfile(found):
            folder = os.path.dirname(found) or "."
            names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
            raise SourceError(
                f"source {self.name}: queries: no such file {found}" + nearest(os.path.basename(found), names, "")
            )
        return found


class _Queries:
    """Which lines of the JSON file speak of which id: 16 bytes a pair, so that millions of pairs fit."""

    def __init__(self, source: TsvImagesSource, path: str) -> None:
        self.path, self.text = path, source.text
        ids: list[np.ndarray] = []
        places: list[np.ndarray] = []
        batch_ids: list[int] = []
        batch_places: list[int] = []
        hash = hashlib.sha256()
        at = 0
        with open(path, "rb") as file:
            for line in file:
                hash.update(line)
                row = _row(line)
                found = row.get(source.ids) if texts_of(row.get(source.text)) else None
                for one in texts_of(found):
                    batch_ids.append(_id(one))
                    batch_places.append(at)
                at += len(line)
                if len(batch_ids) > BLOCK >> 3:
                    ids.append(np.array(batch_ids, np.uint64))
                    places.append(np.array(batch_places, np.int64))
                    batch_ids, batch_places = [], []
        ids.append(np.array(batch_ids, np.uint64))
        places.append(np.array(batch_places, np.int64))
        self.digest = hash.hexdigest()
        self.ids = np.concatenate(ids)
        order = np.argsort(self.ids, kind="stable")
        self.ids, self.places = self.ids[order], np.concatenate(places)[order]
        self.file = open(path, "rb")  # noqa: SIM115  kept as long as the index

    def texts(self, key: str) -> list[str]:
        number = np.uint64(_id(key))
        first, last = np.searchsorted(self.ids, number, "left"), np.searchsorted(self.ids, number, "right")
        found = []
        for place in self.places[first:last].tolist():
            self.file.seek(place)
            found += texts_of(_row(self.file.readline())[self.text])
        return found


_open_queries: OrderedDict[tuple[str, int, int], _Queries] = OrderedDict()


def _queries(source: TsvImagesSource, path: str, fresh: bool = False) -> _Queries:
    stat = os.stat(path)
    key = (path, stat.st_size, stat.st_mtime_ns)
    if fresh or key not in _open_queries:
        _open_queries[key] = _Queries(source, path)
    while len(_open_queries) > 2:
        _open_queries.popitem(last=False)[1].file.close()
    return _open_queries[key]


def _id(key: str) -> int:
    """Ids are mostly numbers; anything else by 64 bits of its hash."""
    if key.isascii() and key.isdigit() and len(key) < 19:
        return int(key)
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "little") | 1 << 63


def _row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace"), strict=False)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}
