"""FineHARD's annotation files: a JSON list, alone or as the only value of an object, or JSON lines, of {f_path, caption, short_caption,
bbox_info, is_cn?}.

f_path is looked for below the picture folder; the presence of is_cn marks a Chinese record, whatever its value.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, cast

from pipelines.imports.base import BadRow, Piece, Reader, Row, negatives_of, no_text, region_of, text_in
from pipelines.sources.base import Columns, Slice, Source
from pipelines.sources.cleaning import json_of
from pipelines.sources.json_lines import JsonLinesSource
from pipelines.sources.json_list import JsonListSource, opening_of
from pipelines.sources.records import SplitJsonList, read_piece, record_bytes, split_lines

NAMES = ("f_path", "caption", "short_caption", "bbox_info")
MAX_RECORD = 4 << 20


class FineHardReader(Reader):
    name: ClassVar[str] = "finehard"
    pattern: ClassVar[str] = "*.json*"

    @staticmethod
    def _source(path: Path) -> Source:
        """The tables' own reader: it finds records in any size of file without holding it."""
        with open(path, "rb") as file:
            opening = opening_of(file.read(1 << 16))
        listed = opening is not None and opening[1] not in NAMES  # a line's own first key may hold a list
        kind: type[Source] = JsonListSource if listed else JsonLinesSource
        columns = Columns(captions=["caption?"])
        return kind(name=path.name, format="json_list" if listed else "jsonl", tables=[str(path)], columns=columns)  # type: ignore[call-arg]

    def pieces(self, path: Path, shard_size: int) -> tuple[str, list[Piece]]:
        index = self._source(path).index(str(path), shard_size)
        return index.digest, [Piece(cut["first_row"], cut["rows"], dict(cut)) for cut in index.slices]

    def rows(self, path: Path, digest: str, piece: Piece) -> Iterator[Row | tuple[int, BadRow]]:
        source = self._source(path)
        data = read_piece(source, str(path), cast(Slice, piece.where))
        records = SplitJsonList().elements(data) if isinstance(source, JsonListSource) else record_bytes(data, split_lines)
        for number, record in enumerate(records, piece.first_row):
            try:
                yield self._row(number, record)
            except BadRow as bad:
                yield number, bad

    def _row(self, number: int, record: bytes) -> Row:
        if len(record) > MAX_RECORD:
            raise BadRow("bad_row", f"{len(record)} bytes > {MAX_RECORD}")
        try:
            raw = json_of(record.decode("utf-8", "replace"))
        except (ValueError, RecursionError) as error:
            raise BadRow("bad_json", f"{error}: {record[:80]!r}") from None
        if not isinstance(raw, dict):
            raise BadRow("bad_row", f"{type(raw).__name__} instead of an object")
        missing = [name for name in NAMES[:3] if name not in raw]
        if missing:
            raise BadRow("bad_row", f"lacks {', '.join(missing)}")
        language = "zh" if "is_cn" in raw else "en"
        row = Row(number, str(raw["f_path"] or ""), language)
        for key, into in (("short_caption", row.captions), ("caption", row.long_captions)):
            try:
                text = text_in(raw[key])
            except BadRow as bad:
                row.items.append((key, bad.reason, bad.detail))
                continue
            if text:
                into.append(text)
        if not (row.captions or row.long_captions):
            raise no_text("neither caption nor short_caption can be used", row)
        boxes = raw.get("bbox_info")
        if not isinstance(boxes, list):
            if boxes is not None:
                row.items.append(("bbox_info", "bad_row", f"{type(boxes).__name__} instead of a list"))
            boxes = []
        for i, entry in enumerate(boxes):
            self._box(row, i, entry)
        return row

    @staticmethod
    def _box(row: Row, i: int, entry: Any) -> None:
        item = f"regions[{i}]"
        if not isinstance(entry, dict):
            row.items.append((item, "bad_row", f"{type(entry).__name__} instead of an object"))
            return
        try:
            short, long = text_in(entry.get("short_expr")), text_in(entry.get("long_expr"))
            region = region_of(entry.get("bbox"), short, long, row.language)
        except BadRow as bad:
            row.items.append((item, bad.reason, bad.detail))
            return
        group: list[dict[str, Any]] = []
        if entry.get("flag_short_neg") in (1, True, "1"):
            try:
                group = negatives_of(entry.get("short_expr_negs"), region)
            except BadRow as bad:
                row.items.append((f"negatives[{i}]", bad.reason, bad.detail))
        row.regions.append(region)
        row.negatives.append(group)
