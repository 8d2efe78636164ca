"""Arrow types that several operators share: the vocabulary of a sample's columns.

The base columns are written by the source stage for every row of a table; everything else is added by operators.
"""

from __future__ import annotations

import pyarrow as pa

BOX = pa.list_(pa.float32(), 4)
"""Normalised x1, y1, x2, y2 of the upright picture, 0 <= x1 < x2 <= 1, 0 <= y1 < y2 <= 1."""

SOURCE_REGION = pa.struct({"box": BOX, "text": pa.string(), "score": pa.float32()})
"""A box that came with the source (GRIT), its expression and the source's confidence."""

BASE = pa.schema(
    {
        "uid": pa.string(),  # 32 hex digits: H(source, digest of the table file, row number)
        "source": pa.string(),  # name of the source manifest
        "row": pa.int64(),  # row number in the table file
        "url": pa.string(),  # http(s) address of the picture; null for local pictures
        "image_ref": pa.string(),  # where a local picture lies (source-specific); null for URLs
        "license": pa.string(),
        "language": pa.string(),  # of the source's captions, "en" or "zh"; null where unknown
        "captions": pa.list_(pa.string()),  # candidate short captions, cleaned, at least one unless the source has none
        "long_captions": pa.list_(pa.string()),  # long captions that came with the source (DCI, DOCCI)
        "source_regions": pa.list_(SOURCE_REGION),
        "source_width": pa.int32(),
        "source_height": pa.int32(),
        "source_similarity": pa.float32(),
        "source_nsfw": pa.string(),
        "source_sha256": pa.string(),
    }
)

IMAGE = pa.schema(
    {
        "image_offset": pa.int64(),  # of the picture's bytes inside images/<shard>.tar
        "image_size": pa.int64(),  # bytes
        "image_format": pa.string(),  # Pillow's name: JPEG, PNG, WEBP, GIF …
        "sha256": pa.string(),  # of the untouched bytes
        "width": pa.int32(),  # pixels after EXIF rotation
        "height": pa.int32(),
    }
)
"""Written by the download stage."""

PHRASE = pa.struct(
    {
        "text": pa.string(),
        "start": pa.int32(),  # character span in the caption it was cut from
        "end": pa.int32(),
        "head": pa.string(),  # head noun
    }
)

NEGATIVE = pa.struct(
    {
        "text": pa.string(),
        "family": pa.string(),  # colour, material, size, pattern, count, state, relation, action
        "start": pa.int32(),  # changed span in `text`
        "end": pa.int32(),
        "original": pa.string(),  # the words of the positive that were replaced
        "origin": pa.string(),  # "lexical" or "model"
        "flags": pa.list_(pa.string()),  # e.g. "present_elsewhere", "verified"
    }
)

POSITIVE = pa.struct({"text": pa.string(), "origin": pa.string()})

LONG_NEGATIVE = pa.struct(
    {
        "text": pa.string(),
        "language": pa.string(),  # "en" or "zh"
        "original": pa.string(),  # the caption it was made from
        "start": pa.int32(),  # changed span in `text`; before and after it the two are equal
        "end": pa.int32(),
        "family": pa.string(),
    }
)

REGION = pa.struct(
    {
        "box": BOX,
        "score": pa.float32(),  # detector's or source's confidence; null when there is none
        "short": pa.string(),  # short referring expression
        "long": pa.string(),  # longer expression (may equal `short`)
        "language": pa.string(),
        "origin": pa.string(),  # "source", "model" or "human"
    }
)

REGIONS = pa.list_(REGION)
NEGATIVES = pa.list_(pa.list_(NEGATIVE))
"""Aligned with `regions`: entry r holds exactly ten negatives of region r, or none."""
POSITIVES = pa.list_(pa.list_(POSITIVE))
"""Aligned with `regions`: true paraphrases of region r's expression."""
LONG_NEGATIVES = pa.list_(LONG_NEGATIVE)
"""Long captions of the sample with one unit made wrong."""
