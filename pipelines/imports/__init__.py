"""Published sets in their own layouts, with pictures at hand, as shards of docs/shard-format.md: what `export` writes is read back.

NNNNN.tar             the shards           README.md   by which `datasets` loads them
rejects/NNNNN.jsonl   what was refused: file, row, uid, reason, detail, item
import.json           files with their checksums, and counts
"""

from __future__ import annotations

import errno
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from operators.base import Reject, Settings
from operators.columns import NEGATIVES, REGIONS
from pipelines.config import ConfigError, nearest
from pipelines.counted import counted
from pipelines.download.reasons import FetchError
from pipelines.download.verify import verify
from pipelines.durable import canonical_json, replace, write_new
from pipelines.fingerprint import digest as fingerprint
from pipelines.folder_job import FolderJob
from pipelines.imports.base import REASONS, BadRow, Piece, Reader, Row, picture_path
from pipelines.imports.boxclass_cn import BoxClassCnReader
from pipelines.imports.finehard import FineHardReader
from pipelines.imports.lit_cn import LitCnReader
from pipelines.pack import Pack
from pipelines.sources import uid_of

__all__ = ["READERS", "REASONS", "ImportSettings", "Imported", "import_layout"]

READERS: dict[str, Reader] = {reader.name: reader for reader in (FineHardReader(), LitCnReader(), BoxClassCnReader())}
TABLES_OF_ADDRESSES = {"grit": "grit", "url2key": "coyo"}
"""Layouts without pictures → the source by which a recipe downloads them."""
NO_SUCH_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
"""What a row's name may be met with; any other error is the machine's."""
PACK = Pack.model_validate({})
SCHEMA = pa.schema(
    {
        "uid": pa.string(),
        "source": pa.string(),
        "license": pa.string(),
        "language": pa.string(),
        "captions": pa.list_(pa.string()),
        "long_captions": pa.list_(pa.string()),
        "image": pa.string(),
        "sha256": pa.string(),
        "image_format": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "regions": REGIONS,
        "negatives": NEGATIVES,
    }
)


class ImportSettings(Settings):
    """name       of the source, as the records will state it; part of every sample's identity
    license    of the pictures, where the set states one for all
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    license: str | None = None
    shard_size: int = Field(1000, ge=1, le=100_000)
    max_picture_bytes: int = Field(50_000_000, ge=1)
    max_pixels: int = Field(100_000_000, ge=1)


@dataclass
class Imported:
    """samples and rows in = samples + refused; `reasons` counts refused rows, `parts` refused parts of the others."""

    rows: int = 0
    samples: int = 0
    regions: int = 0
    groups: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    parts: Counter[str] = field(default_factory=Counter)

    def add(self, record: dict[str, Any]) -> None:
        for name in ("rows", "samples", "regions", "groups"):
            setattr(self, name, getattr(self, name) + record[name])
        self.reasons.update(record["reasons"])
        self.parts.update(record["parts"])


def import_layout(
    layout: str,
    files: list[Path],
    pictures: Path,
    out: Path,
    settings: ImportSettings,
    say: Callable[[str], None] = lambda _: None,
) -> Imported:
    """Read `files` (or, of a folder, those that the layout names) and write shards to the new folder `out`.

    A killed import goes on with the next shard when it is called again. Memory: one shard's texts and one picture.
    """
    reader = _reader(layout)
    found = [path for given in files for path in _files(given, reader)]
    if not pictures.is_dir():
        raise ConfigError(f"{pictures}: no such folder of pictures")
    cuts = [(path, *reader.pieces(path, settings.shard_size)) for path in found]
    if not any(pieces for *_, pieces in cuts):  # one of many may be empty: what `export` writes of a shard without a text
        raise ConfigError(f"{', '.join(map(str, files))}: no records")
    described = {
        "import": reader.version,
        "layout": layout,
        "settings": settings.model_dump(),
        "files": [digest for _, digest, _ in cuts],
    }
    whole = Imported()
    with FolderJob(out, described) as job:
        (job.folder / "rejects").mkdir(exist_ok=True)
        shard = 0
        for path, digest, pieces in cuts:
            for piece in pieces:
                name = f"{shard:05d}"
                record = job.done(name, [digest, piece.first_row])
                if record is None:
                    record = _Shard(reader, path, digest, pictures, settings).write(piece, job.folder, name)
                    job.commit(name, [digest, piece.first_row], record)
                    say(f"{name} · {record['samples']:,} of {counted(record['rows'], 'row')}")
                whole.add(record)
                shard += 1
        if not whole.samples:
            some = ", ".join(f"{reason} {n:,}" for reason, n in whole.reasons.most_common(3))
            raise ConfigError(
                f"none of {counted(whole.rows, 'row')} could be used ({some}); the refusals are in {job.folder}/rejects"
            )
        PACK.write_card(job.folder)
        replace(job.folder / "import.json", canonical_json({**described, "files": _named(cuts), **_counts(whole)}))
        job.publish()
    return whole


def _reader(layout: str) -> Reader:
    if layout in TABLES_OF_ADDRESSES:
        source = TABLES_OF_ADDRESSES[layout]
        raise ConfigError(
            f"layout {layout} holds addresses, not pictures: use it as a source of a recipe (manifests/sources/{source}.yaml), "
            "whose download stage fetches them"
        )
    if layout not in READERS:
        raise ConfigError(f"no layout {layout!r} to import.{nearest(layout, [*READERS, *TABLES_OF_ADDRESSES])}")
    return READERS[layout]


def _files(given: Path, reader: Reader) -> list[Path]:
    if given.is_file():
        return [given]
    found = sorted(given.glob(reader.pattern))
    if not found:
        raise ConfigError(f"{given}: no {reader.pattern} in it" if given.is_dir() else f"{given}: no such file or folder")
    return found


def _named(cuts: list[tuple[Path, str, list[Piece]]]) -> list[dict[str, Any]]:
    return [{"name": path.name, "sha256": digest, "rows": sum(piece.rows for piece in pieces)} for path, digest, pieces in cuts]


def _counts(whole: Imported) -> dict[str, Any]:
    counts = {name: getattr(whole, name) for name in ("rows", "samples", "regions", "groups")}
    return counts | {"reasons": dict(whole.reasons), "parts": dict(whole.parts)}


class _Shard:
    """One piece of a file on its way to a shard."""

    def __init__(self, reader: Reader, path: Path, digest: str, pictures: Path, settings: ImportSettings) -> None:
        self.reader = reader
        self.path = path
        self.digest = digest
        self.pictures = pictures
        self.settings = settings
        self.rejects: list[tuple[int, Reject]] = []

    def write(self, piece: Piece, folder: Path, name: str) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        numbers: dict[str, int] = {}
        for row in self.reader.rows(self.path, self.digest, piece):
            number = row.number if isinstance(row, Row) else row[0]
            uid = uid_of(self.settings.name, self.digest, number)
            numbers[uid] = number
            try:
                if not isinstance(row, Row):
                    raise row[1]
                rows.append(self._row(uid, row))
            except BadRow as bad:
                self.rejects.append((number, Reject(uid, bad.reason, bad.detail)))
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        made = {
            "operators": [f"import_{self.reader.name}@{self.reader.version}"],
            "prompt": None,
            "model": None,
            "fingerprint": fingerprint({"layout": self.reader.name, "version": self.reader.version, "file": self.digest}),
            "columns": ["captions", "long_captions"],
        }
        packed: list[Any] = []

        def fill(tar: Path) -> None:
            packed.append(PACK.write(table, self._bytes, tar, {"import": made}))

        tar = folder / f"{name}.tar"
        write_new(tar, fill)
        (outcome,) = packed
        self.rejects += [(numbers[reject.uid], reject) for reject in outcome.rejects]
        kept = set(outcome.kept["uid"].to_pylist())
        if not kept:
            tar.unlink()  # a shard holds at least one sample
        self._write_rejects(folder / "rejects" / f"{name}.jsonl")
        mine = [row for row in rows if row["uid"] in kept]
        return {
            "rows": piece.rows,
            "samples": len(kept),
            "regions": sum(len(row["regions"]) for row in mine),
            "groups": sum(bool(group) for row in mine for group in row["negatives"]),
            "reasons": dict(Counter(reject.reason for _, reject in self.rejects if reject.item is None)),
            "parts": dict(Counter(reject.reason for _, reject in self.rejects if reject.item is not None)),
        }

    def _row(self, uid: str, row: Row) -> dict[str, Any]:
        place = picture_path(self.pictures, row.image)
        try:
            if place.stat().st_size > self.settings.max_picture_bytes:
                raise BadRow("bad_picture", f"{place.stat().st_size} bytes > {self.settings.max_picture_bytes}")
            picture = verify(place.read_bytes(), self.settings.max_pixels)
        except OSError as error:
            if error.errno not in NO_SUCH_FILE:
                raise
            raise BadRow("no_picture", row.image[:200]) from None
        except FetchError as error:
            raise BadRow("bad_picture", str(error)) from None
        self.rejects += [(row.number, Reject(uid, reason, detail, item)) for item, reason, detail in row.items]
        return {
            "uid": uid,
            "source": self.settings.name,
            "license": self.settings.license,
            "language": row.language,
            "captions": row.captions,
            "long_captions": row.long_captions,
            "image": str(place),
            "sha256": picture.sha256,
            "image_format": picture.format,
            "width": picture.width,
            "height": picture.height,
            "regions": row.regions,
            "negatives": row.negatives,
        }

    @staticmethod
    def _bytes(row: dict[str, Any]) -> bytes:
        return Path(row["image"]).read_bytes()

    def _write_rejects(self, path: Path) -> None:
        lines = [
            {"file": self.path.name, "row": number, "uid": r.uid, "reason": r.reason, "detail": r.detail, "item": r.item}
            for number, r in self.rejects
        ]
        replace(path, "".join(json.dumps(line, ensure_ascii=True) + "\n" for line in lines).encode())
