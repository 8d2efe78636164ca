"""From a table's own columns to the base columns, row by row, with a refusal for each row that cannot be used."""

from __future__ import annotations

import os
from typing import Any

import pyarrow as pa

from operators.base import Reject
from operators.columns import BASE
from pipelines.public_url import without_logins
from pipelines.sources.base import Source, bare, uid_of
from pipelines.sources.boxes import Regions, regions_of
from pipelines.sources.cleaning import (
    check_url,
    clean_text,
    is_lost,
    language_of,
    number_of,
    sha256_of,
    side_of,
    text_of,
    texts_of,
    word_of,
)


def build(
    source: Source,
    digest: str,
    first_row: int,
    rows: int,
    cells: dict[str, list[Any]],
    bad: dict[int, tuple[str, str]] | None = None,
    image_refs: list[str | None] | None = None,
    regions: list[Regions] | None = None,
) -> tuple[pa.Table, list[Reject]]:
    """Base columns of `rows` rows.

    cells        the table's columns by name, each `rows` long; an optional column may be absent
    bad          row within the slice → (reason, detail) for rows that could not even be read
    image_refs   where local pictures lie, for sources whose pictures are not behind addresses
    regions      regions that the format already made, and refusals among them, beside those of the region columns
    """
    columns = source.columns
    nothing: list[Any] = [None] * rows

    def column(name: str | None) -> list[Any]:
        return cells.get(bare(name), nothing) if name else nothing

    urls, images = column(columns.url), column(columns.image)
    captions = [column(name) for name in columns.captions]
    longs = [column(name) for name in columns.long_captions]
    boxes = [column(name) for name in columns.regions]
    widths, heights = column(columns.width), column(columns.height)
    similarities, nsfws, hashes = column(columns.similarity), column(columns.nsfw), column(columns.sha256)
    licenses, languages = column(columns.license), column(columns.language)
    needs_caption = any(not name.endswith("?") for name in [*columns.captions, *columns.long_captions])

    out: dict[str, list[Any]] = {name: [] for name in BASE.names}
    rejects: list[Reject] = []
    for i in range(rows):
        uid = uid_of(source.name, digest, first_row + i)
        if bad and i in bad:
            reason, detail = bad[i]
            rejects.append(Reject(uid, reason, without_logins(detail)))
            continue
        url, ref = None, image_refs[i] if image_refs else None
        if columns.url:
            url, reason, detail = check_url(urls[i])
            if url is None:
                rejects.append(Reject(uid, reason, detail))
                continue
        elif columns.image:
            ref, detail = inside(source, images[i])
            if ref is None:
                rejects.append(Reject(uid, "no_picture", detail))
                continue
        elif ref is None:
            rejects.append(Reject(uid, "no_picture", "the sample has no picture"))
            continue
        if ref and not _is_utf8(ref):
            rejects.append(Reject(uid, "no_picture", f"{ref!r}: a file name that is not UTF-8; rename the file"))
            continue
        items: list[Reject] = []
        short = _texts(uid, "captions", [c[i] for c in captions], source.max_caption_chars, items)
        long = _texts(uid, "long_captions", [c[i] for c in longs], 20 * source.max_caption_chars, items)
        found, refused = regions[i] if regions else ([], [])
        if boxes:
            raw = texts_of(captions[0][i]) if captions else []
            more, wrong = regions_of([c[i] for c in boxes], raw[0] if raw else None)
            found, refused = found + more, refused + wrong
        items += [Reject(uid, reason, detail, item) for reason, detail, item in refused]
        if needs_caption and not short and not long:
            why = "; ".join(f"{item.item}: {item.reason}" for item in items if item.item and "caption" in item.item)
            rejects.append(Reject(uid, "no_caption", why or _no_text([c[i] for c in captions + longs])))
            continue
        rejects += items
        values = (
            uid,
            source.name,
            first_row + i,
            url,
            ref,
            word_of(licenses[i]) or source.license,
            language_of(languages[i]) or source.language,
            short,
            long,
            found,
            side_of(widths[i]),
            side_of(heights[i]),
            number_of(similarities[i]),
            word_of(nsfws[i]),
            sha256_of(hashes[i]),
        )
        for name, value in zip(BASE.names, values, strict=True):
            out[name].append(value)
    arrays = [pa.array(out[f.name], f.type) for f in BASE]
    return pa.Table.from_arrays(arrays, schema=BASE), rejects


def _texts(uid: str, item: str, cells: list[Any], limit: int, items: list[Reject]) -> list[str]:
    """All usable texts of some cells, cleaned, each once, in order."""
    kept: dict[str, None] = {}
    for number, raw in enumerate(text for cell in cells for text in texts_of(cell)):
        if len(raw) > 4 * limit:
            items.append(Reject(uid, "caption_too_long", f"{len(raw)} characters > {limit}", f"{item}[{number}]"))
            continue
        text = clean_text(raw)
        if not text:
            continue
        if len(text) > limit:
            items.append(Reject(uid, "caption_too_long", f"{len(text)} characters > {limit}", f"{item}[{number}]"))
        elif is_lost(text):
            items.append(Reject(uid, "bad_encoding", f"lost characters in {text[:60]!r}", f"{item}[{number}]"))
        else:
            kept[text] = None
    return list(kept)


def _no_text(cells: list[Any]) -> str:
    """Why no text was found in some cells."""
    waiting = list(cells)
    for cell in waiting:  # grows
        if isinstance(cell, list | tuple):
            waiting += cell
        elif not isinstance(cell, str | bytes | float | None):
            return f"{type(cell).__name__} instead of a text"
    return "all captions are empty"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def inside(source: Source, cell: Any) -> tuple[str | None, str]:
    """Reference to a picture named by a row; a name that leads out of `image_folder` is refused."""
    cell = text_of(cell)
    if cell is not None and not isinstance(cell, str | int | float):
        return None, f"{type(cell).__name__} instead of a file name"
    name = str(cell).strip() if cell is not None else ""
    if not name or "\0" in name:
        return None, "no file name"
    folder = source.path(source.image_folder or ".")
    path = os.path.normpath(os.path.join(folder, name))
    if os.path.isabs(name) or not path.startswith(os.path.normpath(folder) + os.sep):
        return None, f"{name[:100]}: outside {source.image_folder}"
    return f"file:{path}", ""
