"""Raw tables and how to read them: manifests, one file per format, slices with random access, cleaned base columns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from pydantic import ValidationError

from operators.base import Reject
from pipelines.sources.base import Columns, Slice, Source, SourceError, TableIndex, nearest, uid_of
from pipelines.sources.csv_table import CsvSource
from pipelines.sources.dci import DciSource
from pipelines.sources.folder import FolderSource
from pipelines.sources.json_lines import JsonLinesSource
from pipelines.sources.json_list import JsonListSource
from pipelines.sources.parquet import ParquetSource
from pipelines.sources.tsv_images import TsvImagesSource
from pipelines.sources.webdataset import WebDatasetSource
from pipelines.yaml_file import read_yaml

__all__ = ["Slice", "Source", "SourceError", "TableIndex", "index_table", "load_source", "read_slice", "uid_of"]

FORMATS: dict[str, type[Source]] = {
    "parquet": ParquetSource,
    "csv": CsvSource,
    "jsonl": JsonLinesSource,
    "json_list": JsonListSource,
    "tsv_images": TsvImagesSource,
    "dci": DciSource,
    "folder": FolderSource,
    "webdataset": WebDatasetSource,
}


def load_source(name: str, folders: Sequence[Path]) -> Source:
    """The source whose manifest is `<folder>/<name>.yaml`, or that a path to a YAML file names."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise SourceError(f"source {name}: no such file")
    else:
        there = {p.stem: p for folder in reversed(folders) for p in sorted(Path(folder).glob("*.yaml"))}
        if name not in there:
            where = ", ".join(str(folder) for folder in folders)
            raise SourceError(f"source {name}: no {name}.yaml in {where}" + nearest(name, there))
        path = there[name]
    content = read_yaml(path, str(path), SourceError)
    if not isinstance(content, dict):
        raise SourceError(f"{path}: a source is a mapping, this is {type(content).__name__}")
    if str(content.get("format")) not in FORMATS:
        found = content.get("format")
        raise SourceError(f"{path}: format: {found!r} is none of {', '.join(FORMATS)}" + nearest(str(found), FORMATS, ""))
    kind = FORMATS[content["format"]]
    try:
        source = kind.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        raise SourceError(f"{path}: " + "; ".join(_told(kind, problem) for problem in error.errors())) from None
    if kind.points_at_pictures and (source.columns.url is None) == (source.columns.image is None):
        how = "give one of them" if source.columns.url else "one of them must say where the pictures are"
        raise SourceError(f"{path}: columns.url, columns.image: {how}")
    return source


def index_table(source: Source, path: str | os.PathLike[str], shard_size: int) -> TableIndex:
    """Digest, row count and slices of `shard_size` rows of one table, in one streaming pass."""
    if shard_size < 1:
        raise ValueError(f"shard_size must be at least 1, not {shard_size}")
    path = os.fspath(path)
    if not source.matches(path):
        raise SourceError(f"source {source.name}: {path}: no such {'folder' if os.path.isfile(path) else 'table'}")
    return source.index(path, shard_size)


def read_slice(source: Source, path: str | os.PathLike[str], digest: str, piece: Slice) -> tuple[pa.Table, list[Reject]]:
    """Rows of one slice with the columns of `operators.columns.BASE`, and a refusal for every row that is not among them
    (item None) and every part of a surviving row that was left out (item named)."""
    path = os.fspath(path)
    if not source.matches(path):
        raise SourceError(f"source {source.name}: {path}: it was there when the table was indexed and is gone")
    return source.read(path, digest, piece)


def _told(kind: type[Source], problem: object) -> str:
    """One validation problem in the words of the manifest, with the nearest key for an unknown one."""
    place, kind_of = problem["loc"], problem["type"]  # type: ignore[index]
    key = ".".join(str(part) for part in place)
    if kind_of == "extra_forbidden":
        model = Columns if len(place) > 1 and place[0] == "columns" else kind
        names = [field.alias or name for name, field in model.model_fields.items()]
        return f"{key}: no such key" + nearest(str(place[-1]), names)
    message = problem["msg"].removeprefix("Value error, ")  # type: ignore[index]
    return f"{key}: {message}"
