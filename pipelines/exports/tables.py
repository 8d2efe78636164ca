"""Arrow forms of a sample and of its regions, shared by the layouts that write Parquet."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from pipelines.exports.samples import Sample

_TEXT = pa.struct([(name, pa.string()) for name in ("text", "language", "length", "origin", "by")])
_SPAN = pa.list_(pa.int32(), 2)
_NEGATIVE = pa.struct(
    [
        ("text", pa.string()),
        ("family", pa.string()),
        ("span", _SPAN),
        ("original", pa.string()),
        ("origin", pa.string()),
        ("flags", pa.list_(pa.string())),
    ]
)
_REGION = pa.struct(
    [
        ("box", pa.list_(pa.float32(), 4)),
        ("score", pa.float32()),
        ("language", pa.string()),
        ("short", pa.string()),
        ("long", pa.string()),
        ("origin", pa.string()),
        ("negatives", pa.list_(_NEGATIVE)),
        ("positives", pa.list_(pa.struct([("text", pa.string()), ("origin", pa.string())]))),
    ]
)
_LONG_NEGATIVE = pa.struct(
    [("text", pa.string()), ("language", pa.string()), ("original", pa.string()), ("span", _SPAN), ("family", pa.string())]
)
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SAMPLE = pa.schema(
    {
        "uid": pa.string(),
        "source": pa.string(),
        "license": pa.string(),
        "url": pa.string(),
        "sha256": pa.string(),
        "image_format": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "texts": pa.list_(_TEXT),
        "regions": pa.list_(_REGION),
        "long_negatives": pa.list_(_LONG_NEGATIVE),
        "scores": pa.string(),  # JSON: which there are is the recipe's business
        "provenance": pa.string(),  # JSON
    }
)
REGION = pa.schema(
    {
        "uid": pa.string(),
        "region": pa.int32(),
        "bbox": pa.string(),  # "x1 y1 x2 y2" in fractions: the form that Croissant's BoundingBox has
        "score": pa.float32(),
        "language": pa.string(),
        "short": pa.string(),
        "long": pa.string(),
        "origin": pa.string(),
        "negatives": pa.list_(pa.string()),
    }
)


def sample_row(sample: Sample) -> dict[str, Any]:
    record = sample.record.model_dump(mode="json")
    row = {name: record[name] for name in SAMPLE.names}
    return row | {name: _json(record[name]) for name in ("scores", "provenance")}


def region_rows(sample: Sample) -> list[dict[str, Any]]:
    return [
        {
            "uid": sample.uid,
            "region": i,
            "bbox": " ".join(f"{x:.6g}" for x in region.box),
            "score": region.score,
            "language": region.language,
            "short": region.short,
            "long": region.long,
            "origin": region.origin,
            "negatives": [negative.text for negative in region.negatives],
        }
        for i, region in enumerate(sample.record.regions)
    ]


def _json(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def features(schema: pa.Schema) -> list[dict[str, Any]]:
    """`dataset_info.features` of a data set card, as `datasets` reads it."""
    return [{"name": column.name, **_feature(column.name, column.type)} for column in schema]


def _feature(name: str, kind: pa.DataType) -> dict[str, Any]:
    if kind == IMAGE:
        return {"dtype": "image"}
    if pa.types.is_fixed_size_list(kind):
        return {"list": _inner(kind.value_type), "length": kind.list_size}
    if pa.types.is_list(kind):
        return {"list": _inner(kind.value_type)}
    if pa.types.is_struct(kind):
        return {"struct": [{"name": field.name, **_feature(field.name, field.type)} for field in kind]}
    return {"dtype": {"float": "float32", "double": "float64"}.get(str(kind), str(kind))}


def _inner(kind: pa.DataType) -> Any:
    """A list of structs lists their fields; any other list names its type."""
    made = _feature("", kind)
    return made.get("struct") or made.get("dtype") or made
