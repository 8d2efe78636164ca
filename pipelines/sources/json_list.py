"""One JSON list of objects in a file (AI-Challenger Caption), read element by element.

The list may be the only value of an object, as in `{"data": [{…}, …]}`.
"""

from __future__ import annotations

import json
import re
from typing import Literal

import pyarrow as pa

from operators.base import Reject
from pipelines.sources.base import Encoding, Slice, Source, SourceError, TableIndex, check_encoding, refuse_unreadable
from pipelines.sources.json_lines import LOOK, MAX_ROW, check_objects, parse_objects
from pipelines.sources.records import NotOneList, SplitJsonList, head_of, index_records, read_piece
from pipelines.sources.rows import build

_OPENING = re.compile(rb'(?:\xef\xbb\xbf)?\s*(?:\{\s*("(?:[^"\\]|\\.)*")\s*:\s*)?\[')


class JsonListSource(Source):
    format: Literal["json_list"]
    encoding: Encoding = "utf-8"
    points_at_pictures = True

    def index(self, path: str, shard_size: int) -> TableIndex:
        with open(path, "rb") as file:
            head = file.read(MAX_ROW)
            refuse_unreadable(f"source {self.name}: {path}", head)
            opening = opening_of(head)
            if opening is None:
                raise SourceError(
                    f"source {self.name}: {path}: not a JSON list, it begins with {head[:60]!r}; expected [{{…}}, …], "
                    'or {"data": [{…}, …]} with nothing beside the list'
                )
            start, inside = opening
            file.seek(start)
            split = SplitJsonList(inside)
            try:
                first = split.elements(head_of(self, path, file, split, MAX_ROW))
                if first:
                    check_encoding(f"source {self.name}: {path}", first[:LOOK], self.encoding)
                    check_objects(self, path, first[:LOOK], self.encoding)
                return index_records(self, path, shard_size, split, start)
            except NotOneList as error:
                raise SourceError(f"source {self.name}: {path}: {error}") from None

    def read(self, path: str, digest: str, piece: Slice) -> tuple[pa.Table, list[Reject]]:
        records = SplitJsonList().elements(read_piece(self, path, piece))
        cells, bad = parse_objects(records, self.columns.names(), self.encoding)
        return build(self, digest, piece["first_row"], piece["rows"], cells, bad)


def opening_of(head: bytes) -> tuple[int, str | None] | None:
    """Where the first element of the file's list begins, and the key under which the list stands; None where there is no list."""
    found = _OPENING.match(head)
    if found is None:
        return None
    return found.end(), json.loads(found[1].decode("utf-8", "replace"), strict=False) if found[1] else None
