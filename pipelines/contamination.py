"""The manifest of an evaluation set: what `decontaminate` keeps out of training, as hashes.

One JSON line a picture, {"set", "sha256", "phash"}, and one a caption, {"set", "caption"}. The set's texts are not in it.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from operators.decontaminate import caption_key, normal
from operators.phash import hash_pictures
from operators.pictures import BadPicture, decode
from pipelines.config import ConfigError
from pipelines.counted import counted
from pipelines.durable import replace, sha256_file

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
TEXTS = {".txt", ".tsv", ".csv", ".json", ".jsonl"}
KEYS = (
    "caption",
    "captions",
    "text",
    "texts",
    "sentence",
    "sentences",
    "raw",
    "extra_caption",
    "short_caption",
    "long_caption",
    "query_text",
)
"""Under which JSON files of evaluation sets hold their captions."""
MAX_PIXELS = 1 << 28
MAX_TEXT_BYTES = 1 << 30


@dataclass
class Manifest:
    set: str
    pictures: int = 0
    captions: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    """Pictures that cannot be decoded and files that cannot be read, by reason."""


def make_manifest(folder: Path, out: Path, name: str | None = None, say: Callable[[str], None] = lambda _: None) -> Manifest:
    """Go through `folder`, pictures and texts, and write the manifest `out`. ConfigError where nothing is found."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder")
    made = Manifest(name or folder.resolve().name)
    pictures: dict[str, str] = {}
    captions: dict[str, None] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        suffix = file.suffix.lower()
        if suffix in PICTURES:
            try:
                picture = decode(file.read_bytes(), MAX_PIXELS)
            except BadPicture as error:
                made.bad[error.reason] += 1
                continue
            pictures[sha256_file(file)] = f"{int(hash_pictures([picture])[0]):016x}"
            if len(pictures) % 1000 == 0:
                say(counted(len(pictures), "picture"))
        elif suffix in TEXTS:
            try:
                captions.update((caption_key(text), None) for text in captions_of(file) if normal(text))
            except (OSError, ValueError, RecursionError, csv.Error) as error:
                made.bad["unreadable_text"] += 1
                say(f"left out: {file}: {type(error).__name__}: {error}")
    made.pictures, made.captions = len(pictures), len(captions)
    if not pictures and not captions:
        raise ConfigError(f"{folder}: no picture and no caption in it ({', '.join(sorted(PICTURES | TEXTS))})")
    rows: list[dict[str, Any]] = [{"set": made.set, "sha256": digest, "phash": phash} for digest, phash in pictures.items()]
    rows += [{"set": made.set, "caption": key} for key in captions]
    out.parent.mkdir(parents=True, exist_ok=True)
    replace(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    return made


def captions_of(file: Path) -> Iterator[str]:
    """Texts of a caption file: every cell of a table that is not a number or a file's name, every string under a known JSON key.

    Taking a column too many costs nothing: a key of something that is no caption meets no caption.
    """
    if file.stat().st_size > MAX_TEXT_BYTES:
        raise ValueError(f"larger than {MAX_TEXT_BYTES:,} bytes")
    text = file.read_text(encoding="utf-8-sig")  # its lines end with \n alone now; other marks, U+2028 say, stand within them
    if file.suffix.lower() == ".json":
        yield from _strings(json.loads(text), False)
    elif file.suffix.lower() == ".jsonl":
        for line in filter(str.strip, text.split("\n")):
            yield from _strings(json.loads(line), False)
    elif file.suffix.lower() == ".csv":
        for row in csv.reader(io.StringIO(text)):
            yield from row
    else:
        for line in text.split("\n"):
            yield from line.split("\t")


def _strings(value: Any, wanted: bool) -> Iterator[str]:
    if isinstance(value, str):
        if wanted:
            yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, wanted)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(item, wanted or key.lower() in KEYS)
