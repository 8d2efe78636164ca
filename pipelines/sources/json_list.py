"""One JSON list of objects in a file (AI-Challenger Caption), read element by element."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa

from operators.base import Reject
from pipelines.sources.base import Encoding, Slice, Source, SourceError, TableIndex
from pipelines.sources.json_lines import LOOK, MAX_ROW, check_objects, parse_objects
from pipelines.sources.records import SplitJsonList, head_of, index_records, read_piece
from pipelines.sources.rows import build


class JsonListSource(Source):
    format: Literal["json_list"]
    encoding: Encoding = "utf-8"
    points_at_pictures = True

    def index(self, path: str, shard_size: int) -> TableIndex:
        with open(path, "rb") as file:
            head = file.read(MAX_ROW)
            body = head.removeprefix(b"\xef\xbb\xbf").lstrip()
            if not body.startswith(b"["):
                raise SourceError(f"source {self.name}: {path}: not a JSON list, it begins with {head[:60]!r}")
            start = len(head) - len(body) + 1
            file.seek(start)
            first = head_of(self, path, file, SplitJsonList(), MAX_ROW)
        if body[1:].strip(b"] \r\n\t"):
            check_objects(self, path, _elements(first, True)[:LOOK], self.encoding)
        return index_records(self, path, shard_size, SplitJsonList(), start)

    def read(self, path: str, digest: str, piece: Slice) -> tuple[pa.Table, list[Reject]]:
        records = _elements(read_piece(self, path, piece), True)
        cells, bad = parse_objects(records, self.columns.names(), self.encoding)
        return build(self, digest, piece["first_row"], piece["rows"], cells, bad)


def _elements(data: bytes, whole: bool) -> list[bytes]:
    """The elements in a piece of a list, without the commas between them and the bracket after the last."""
    found, at = [], 0
    for end in SplitJsonList()(data, whole).tolist():
        element = data[at:end].strip()
        at = end
        if element.endswith(b",") or (element.endswith(b"]") and not element.startswith(b"[")):
            element = element[:-1].rstrip()
        found.append(element)
    return found
