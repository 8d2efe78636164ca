"""Croissant 1.0 (JSON-LD that says what a data set's files hold), and the layout that describes the shards as they are.

shards/NNNNN.tar        the shards themselves, unchanged (hard links where that is possible)
data/NNNNN.parquet      a row per sample, without the picture        regions/NNNNN.parquet   a row per box
croissant.json          every file with its SHA-256; record sets `samples`, `regions` (boxes as cr:BoundingBox) and `pictures`
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipelines.durable import replace, sha256_file
from pipelines.exports.base import About, Shard
from pipelines.exports.huggingface import HuggingFace
from pipelines.exports.samples import Sample
from pipelines.exports.tally import Tally

_TERMS = (
    "citeAs column equivalentProperty extract field fileProperty fileObject fileSet format includes isLiveDataset jsonPath key md5 "
    "parentField path recordSet references regex repeated replace samplingRate separator source subField transform"
)
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "sc": "https://schema.org/",
    **{term: f"cr:{term}" for term in _TERMS.split()},
}
"""The context of Croissant 1.0, term by term."""
FORMATS = {".parquet": "application/x-parquet", ".tar": "application/x-tar", ".json": "application/json", ".txt": "text/plain"}
TEXT_COLUMNS = ("uid", "source", "license", "url", "sha256", "image_format", "scores", "provenance")


class Croissant(HuggingFace):
    name = "croissant"
    about = "the shards as they are, tables of samples and boxes, croissant.json with every file's checksum"
    with_pictures = False

    def part(self, shard: Shard, samples: Iterable[Sample], folder: Path, pieces: Path, tally: Tally) -> dict[str, Any]:
        made = super().part(shard, samples, folder, pieces, tally)
        if self.settings.pictures:
            (folder / "shards").mkdir(exist_ok=True)
            target = folder / "shards" / shard.path.name
            target.unlink(missing_ok=True)
            try:
                os.link(shard.path.resolve(), target)
            except OSError:  # another file system
                shutil.copyfile(shard.path, target)
        return made


def write_croissant(folder: Path, about: About, tally: Tally, published: str, license_name: str) -> None:
    """Describe the data files below `folder`. Checksums are read from the files as they lie there."""
    files = sorted(path for path in folder.rglob("*") if _is_data(path, folder))
    objects = [
        {
            "@type": "cr:FileObject",
            "@id": path.relative_to(folder).as_posix(),
            "name": path.relative_to(folder).as_posix(),
            "contentUrl": path.relative_to(folder).as_posix(),
            "contentSize": f"{path.stat().st_size} B",
            "encodingFormat": FORMATS.get(path.suffix, "application/octet-stream"),
            "sha256": sha256_file(path),
        }
        for path in files
    ]
    tars = [entry["@id"] for entry in objects if entry["encodingFormat"] == "application/x-tar"]
    sets: list[dict[str, Any]] = [_file_set(name, f"{name}/*.parquet", "application/x-parquet") for name in ("data", "regions")]
    record_sets = [_samples(has_image=not tars and _has_image(folder)), _regions()]
    if tars:
        pictures = _file_set("pictures-in-shards", "*.jpg", "image/jpeg")
        pictures["containedIn"] = [{"@id": name} for name in tars]
        sets.append(pictures)
        record_sets.append(_pictures())
    document = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": about.title,
        "description": f"{about.description} Not whole: {about.missing}." if about.missing.shards else about.description,
        "license": license_name,
        "url": f"urn:fineloom:{about.title}",
        "version": about.version,
        "datePublished": published,
        "creator": {"@type": "sc:Organization", "name": "made with fineloom"},
        "citeAs": "; ".join(f"{name}: {text}" for name, text in sorted(about.sources.items())) or about.title,
        "keywords": tally.languages,
        "distribution": [*objects, *sets],
        "recordSet": record_sets,
    }
    replace(folder / "croissant.json", json.dumps(document, indent=1, ensure_ascii=False).encode())


def _is_data(path: Path, folder: Path) -> bool:
    inside = path.relative_to(folder)
    return path.is_file() and inside.parts[0] in ("data", "regions", "shards")


def _has_image(folder: Path) -> bool:
    import pyarrow.parquet as pq

    return any("image" in pq.read_schema(path).names for path in itertools.islice((folder / "data").glob("*.parquet"), 1))


def _file_set(name: str, includes: str, kind: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{name}-files",
        "name": f"{name}-files",
        "encodingFormat": kind,
        "includes": includes,
    }


def _field(records: str, files: str, name: str, kind: str, **extra: Any) -> dict[str, Any]:
    source = {"fileSet": {"@id": f"{files}-files"}, "extract": {"column": name}}
    return {
        "@type": "cr:Field",
        "@id": f"{records}/{name}",
        "name": name,
        "dataType": kind,
        "source": source | extra.pop("source", {}),
        **extra,
    }


def _samples(has_image: bool) -> dict[str, Any]:
    def fields() -> Iterator[dict[str, Any]]:
        if has_image:
            transform = {"transform": {"jsonPath": "bytes"}}
            yield _field("samples", "data", "image", "sc:ImageObject", source=transform)
        for name in TEXT_COLUMNS:
            yield _field("samples", "data", name, "sc:Text")
        for name in ("width", "height"):
            yield _field("samples", "data", name, "sc:Integer")

    key = {"key": {"@id": "samples/uid"}}
    return {"@type": "cr:RecordSet", "@id": "samples", "name": "samples", **key, "field": list(fields())}


def _regions() -> dict[str, Any]:
    box = _field(
        "regions", "regions", "bbox", "cr:BoundingBox", description="x1, y1, x2, y2 as fractions of the upright picture"
    )
    texts = [_field("regions", "regions", name, "sc:Text") for name in ("uid", "language", "short", "long", "origin")]
    number = _field("regions", "regions", "region", "sc:Integer")
    score = _field("regions", "regions", "score", "sc:Float")
    return {"@type": "cr:RecordSet", "@id": "regions", "name": "regions", "field": [texts[0], number, box, score, *texts[1:]]}


def _pictures() -> dict[str, Any]:
    files = {"fileSet": {"@id": "pictures-in-shards-files"}}
    fields = [
        {
            "@type": "cr:Field",
            "@id": "pictures/uid",
            "name": "uid",
            "dataType": "sc:Text",
            "source": {**files, "extract": {"fileProperty": "filename"}, "transform": {"regex": "^(.*)\\.jpg$"}},
        },
        {
            "@type": "cr:Field",
            "@id": "pictures/image",
            "name": "image",
            "dataType": "sc:ImageObject",
            "description": "as downloaded; a picture with an EXIF orientation is turned by it before its boxes fit",
            "source": {**files, "extract": {"fileProperty": "content"}},
        },
    ]
    return {"@type": "cr:RecordSet", "@id": "pictures", "name": "pictures", "field": fields}
