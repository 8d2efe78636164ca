"""Takedown: samples that must leave tables, pictures, answers, and shards, by uid, address or content; with a receipt.

    tombstones/0000.json             what was taken down: samples by shard, and the addresses and sums that were asked for
    tombstones/0000.receipt.json     what was removed from which file, and what lies outside the run and is left to the user

The tombstone is published first. It acts at once in every reader, in what is packed from now on, and on samples still to come: rows
with such an address or sum are refused when they are read, pictures with such a sum when they have been fetched. So it is published
also while a run is at work; what is committed by then is removed when the command is given again after it. In the same way a takedown
that was killed is ended by the next one.

Removing is the one exception to "bytes are never written again": pictures are overwritten with zeros where they lie, so that the
offsets of the others hold; tables lose their rows; answers asked with the picture go, whichever prompt it was; packed tars that hold
it go whole, and are packed anew without it.

Entries keep the checksums of what was committed; the receipt names those of what lies there now.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.answers import segments, unchecked
from pipelines.chain import Chain
from pipelines.config import ConfigError
from pipelines.counted import counted
from pipelines.durable import (
    Damaged,
    create_if_absent,
    files,
    folders,
    read_table,
    replace,
    replace_by,
    sealed,
    sha256_file,
    write_table,
)
from pipelines.gc import leftovers, remove
from pipelines.ledger import Entry, shard_name
from pipelines.public_url import public, public_column
from pipelines.run import handed_over, handoff, reach
from pipelines.sources.cleaning import check_url
from pipelines.stores import Place
from pipelines.tables import REQUEUED
from pipelines.withheld import all_taken, tombstones
from pipelines.worker import Worker

INDEX = "index.parquet"


@dataclass
class Receipt:
    """What a takedown did. Paths are relative to the run's folder."""

    number: int
    samples: int
    unknown: list[str]  # uids asked for, and in no shard
    to_come: list[str]  # addresses and sums that no sample has had yet: refused when they come
    shards: list[int]
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # path → rows, pictures or answers removed, checksum now
    gone: list[str] = field(default_factory=list)  # removed whole
    packed_again: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)  # shards that the next run packs again
    others: bool = False  # shards/ is of other settings than these: it only lost what held one of the samples
    outside: list[dict[str, Any]] = field(default_factory=list)  # rows of the user's own tables
    unread: list[str] = field(default_factory=list)  # named by the ledger and gone: whether they held a sample is not known
    review: str = ""  # what lies in the book of a review, and when it goes
    ended: str = ""  # empty: nothing is removed yet, a run was at work


def take_down(
    chain: Chain, uids: Sequence[str], urls: Sequence[str], hashes: Sequence[str], why: str = "", remove: bool = True
) -> Receipt:
    """Take down samples by identity, by address, or by the SHA-256 of their picture.

    Call it under the run's lock, or, where another holds that, with `remove` false: then the tombstone is all that is written.
    """
    ours = _handed_over_by(chain)
    before, asked = all_taken(chain.run), {"url": set(urls), "sha256": {text.lower() for text in hashes}}
    # With what earlier tombstones name: a run that was at work may have committed such samples after they were looked for.
    found, met, unread = _find(
        chain, {"uid": set(uids), "url": asked["url"] | before.urls, "sha256": asked["sha256"] | before.hashes}
    )
    unknown, to_come = sorted({*uids} - met), sorted((asked["url"] | asked["sha256"]) - met)
    number = len(tombstones(chain.run))
    if not (found or to_come or number):
        gone = f"; what is gone could not be looked into: {', '.join(unread)}" if unread else ""
        raise ConfigError(f"{chain.run}: {counted(len(unknown), 'sample')} asked for, and none is here{gone}")
    stone = {
        "uids": {str(shard): sorted(gone) for shard, gone in sorted(found.items())},
        "urls": sorted(asked["url"]),
        "sha256": sorted(asked["sha256"]),
        "why": why,
    }
    while not create_if_absent(chain.run / "tombstones" / f"{number:04d}.json", sealed(stone)):
        number += 1
    # Whatever an earlier takedown did not end is ended here.
    taken = chain.withheld.taken = all_taken(chain.run).shards
    receipt = Receipt(number, sum(map(len, found.values())), unknown, to_come, sorted(taken), unread=unread)
    if remove:
        _purge(chain, taken, receipt)
        _drop_leftovers(chain.run, receipt)
        _pack_again(chain, set(taken), receipt, ours)
        receipt.ended = datetime.now(UTC).isoformat(timespec="seconds")
    replace(chain.run / "tombstones" / f"{number:04d}.receipt.json", json.dumps(asdict(receipt), indent=1).encode())
    return receipt


def sort_out(asked: Iterable[str]) -> tuple[list[str], list[str], list[str]]:
    """uids, addresses and SHA-256 sums among lines of text. ConfigError for what is none of them."""
    uids, urls, hashes = [], [], []
    for text in map(str.strip, asked):
        if re.fullmatch(r"[0-9a-f]{32}", text.lower()):
            uids.append(text.lower())
        elif re.fullmatch(r"[0-9a-f]{64}", text.lower()):
            hashes.append(text.lower())
        elif "://" in text:
            urls.append(public(check_url(text)[0] or text))  # shards show no other form
        elif text:
            raise ConfigError(f"{text!r} is no uid (32 hex digits), no SHA-256 (64) and no address")
    return uids, urls, hashes


def _find(chain: Chain, asked: Mapping[str, set[str]]) -> tuple[dict[int, set[str]], set[str], list[str]]:
    """shard → uids, over every entry there ever was; what of that which was asked for somebody has; and files that are gone.

    asked   column ("uid", "url", "sha256") → values
    """
    found: dict[int, set[str]] = {}
    met: set[str] = set()
    unread: set[str] = set()

    def look(entry: Entry, column: str, wanted: set[str]) -> None:
        for role in ("data", "rejects"):
            table = _table(chain.run / entry.files[role].path)
            if table is None:
                unread.add(entry.files[role].path)
                continue
            if column not in table.column_names:
                continue
            values = public_column(table[column]) if column == "url" else table[column]
            hits = pc.is_in(values, value_set=pa.array(sorted(wanted), pa.string()))
            found.setdefault(entry.shard, set()).update(table["uid"].filter(hits).to_pylist())
            met.update(values.filter(hits).to_pylist())

    for stage in chain.recipe.stages:
        columns = [c for c in {"source": ("uid", "url"), "download": ("sha256",)}.get(stage.kind, ()) if asked[c]]
        for entry in chain.ledger.entries(stage.name) if columns else ():
            for column in columns:
                look(entry, column, asked[column])
    same = set().union(*found.values()) if found else set()
    if same:  # the same samples in the shards they were put back into, or out of
        source = chain.recipe.stages[0].name
        for entry in chain.ledger.entries(source):
            look(entry, "uid", same)
    return {shard: gone for shard, gone in found.items() if gone}, met, sorted(unread)


def _table(path: Path) -> pa.Table | None:
    try:
        return read_table(path)
    except FileNotFoundError:
        return None


def _purge(chain: Chain, taken: dict[int, frozenset[str]], receipt: Receipt) -> None:
    """Remove what files hold of the samples, those of older settings included. Pictures first: tables tell where they lie."""
    entries = [entry for entry in chain.ledger.entries() if entry.shard in taken]
    pictures: dict[int, set[str]] = {}
    for entry in entries:
        if "images" in entry.files:
            pictures.setdefault(entry.shard, set()).update(_blank_pictures(chain.run, entry, taken[entry.shard], receipt))
    _drop_answers(chain, pictures, receipt)
    packs = {stage.name for stage in chain.recipe.stages if stage.kind == "pack"}
    for entry in entries:
        if "shard" in entry.files or entry.stage in packs:
            _drop_tar(chain.run, entry, taken[entry.shard], receipt)
        for role in ("data", "rejects"):
            _drop_rows(chain.run, entry.files[role].path, taken[entry.shard], receipt)
    every = frozenset().union(*taken.values())
    for table in chain.tables.all:
        if table.source == REQUEUED:
            _blank_rows(chain.tables.file(table), chain.run, every, receipt)
        else:
            _tell_outside(chain, table.index, taken, receipt)
    page = chain.run / "report.html"
    if page.is_file():  # it shows samples; `fineloom report` makes it anew
        page.unlink()
        receipt.gone.append("report.html")
    from pipelines.review import BOOK  # its pages take a while to import

    if (chain.run / BOOK).is_file():
        receipt.review = f"{BOOK}: what was shown and said of the samples goes when `fineloom review serve` is started next"


def _blank_pictures(run: Path, entry: Entry, gone: Iterable[str], receipt: Receipt) -> set[str]:
    """Overwrite the pictures with zeros; returns their checksums."""
    table = _table(run / entry.files["data"].path)
    if table is None:
        return set()
    hits = table.filter(pc.is_in(table["uid"], value_set=pa.array(sorted(gone), pa.string())))
    path = entry.files["images"].path
    if hits.num_rows and (run / path).is_file():
        places = set(hits["image_offset"].to_pylist())

        def fill(target: Path) -> None:
            _copy(run / path, target)
            try:
                _blank_members(target, places)
            except tarfile.TarError as error:
                raise Damaged(
                    f"{run / path}: not the tar that was written here ({error}), so that nobody knows where in it the picture lies. "
                    "Put it back, or remove it, and give this command again"
                ) from error

        replace_by(run / path, fill)
        receipt.files[path] = {"pictures": len(places), "sha256": sha256_file(run / path)}
    return set(hits["sha256"].to_pylist())


def _blank_members(tar: Path, places: set[int]) -> None:
    """Zeros for what belongs to the pictures at these offsets: the picture, its caption, its record, and their names."""
    with tarfile.open(tar) as archive:
        members = archive.getmembers()
    stems = {member.name.rpartition(".")[0] for member in members if member.offset_data in places}
    with tar.open("r+b") as file:
        for number, member in enumerate(members):
            if member.offset_data in places or member.name.rpartition(".")[0] in stems:
                blank = tarfile.TarInfo(f"removed.{number}")
                blank.size = member.size
                head = member.offset_data - tarfile.BLOCKSIZE
                file.seek(member.offset)
                file.write(bytes(head - member.offset) + blank.tobuf(tarfile.USTAR_FORMAT) + bytes(member.size))


def _copy(source: Path, target: Path) -> None:
    if isinstance(source, Place):
        source.store.download(source.key, target)
        return
    with source.open("rb") as reader, target.open("wb") as writer:
        while piece := reader.read(1 << 20):
            writer.write(piece)
        os.fsync(writer.fileno())


def _drop_rows(run: Path, path: str, gone: Iterable[str], receipt: Receipt) -> None:
    table = _table(run / path)
    if table is None:
        return
    left = table.filter(pc.invert(pc.is_in(table["uid"], value_set=pa.array(sorted(gone), pa.string()))))
    if left.num_rows < table.num_rows:
        replace_by(run / path, lambda target: write_table(left, target))
        receipt.files[path] = {"rows": table.num_rows - left.num_rows, "sha256": sha256_file(run / path)}


def _drop_tar(run: Path, entry: Entry, gone: Iterable[str], receipt: Receipt) -> None:
    """A packed tar that holds one of the samples goes; its place under `shards/` too, until it is packed again."""
    table = _table(run / entry.files["data"].path)
    held = table is not None and pc.any(pc.is_in(table["uid"], value_set=pa.array(sorted(gone), pa.string()))).as_py()
    path = run / entry.files["shard"].path
    if held and path.is_file():
        path.unlink()
        (run / "shards" / f"{shard_name(entry.shard)}.tar").unlink(missing_ok=True)
        receipt.gone.append(entry.files["shard"].path)


def _drop_answers(chain: Chain, pictures: dict[int, set[str]], receipt: Receipt) -> None:
    """Answers that were asked with the picture go by its checksum; of a shard's text-only answers all go: they name no sample.

    Those of stages that the recipe has no more, or calls otherwise, too.
    """
    for stage in folders(chain.run / "answers"):
        for shard, hashes in pictures.items():
            if not hashes:
                continue
            for path in segments(stage / shard_name(shard)):
                lines = path.read_bytes().splitlines(keepends=True)
                left = [line for line in lines if not _is_of(line, hashes)]
                if len(left) < len(lines):
                    replace(path, b"".join(left))
                    name = str(path.relative_to(chain.run))
                    receipt.files[name] = {
                        "answers": len(lines) - len(left),
                        "sha256": hashlib.sha256(b"".join(left)).hexdigest(),
                    }


def _is_of(line: bytes, hashes: set[str]) -> bool:
    try:
        image = json.loads(unchecked(line.rstrip(b"\n"))).get("image")
    except (ValueError, AttributeError):
        return True  # torn or changed, and never read
    return image is None or image in hashes


def _blank_rows(path: Path, run: Path, gone: frozenset[str], receipt: Receipt) -> None:
    """Rows of a table of samples put back have numbers: they stay, with nothing in them but the identity."""
    table = read_table(path)
    mine = pc.is_in(table["uid"], value_set=pa.array(sorted(gone), pa.string()))
    keep = {"uid", "source", "row", "from_shard", "from_stage", "from_fingerprint"}
    blank = [column.name for column in table.schema if column.name not in keep]
    held = pc.and_(mine, pc.or_(pc.is_valid(table["url"]), pc.is_valid(table["captions"])))
    if not pc.any(held).as_py():
        return
    for name in blank:
        column = table[name].to_pylist()
        values = [None if taken else value for taken, value in zip(mine.to_pylist(), column, strict=True)]
        table = table.set_column(table.column_names.index(name), table.schema.field(name), pa.array(values, table[name].type))
    replace_by(path, lambda target: write_table(table, target))
    receipt.files[str(path.relative_to(run))] = {"rows": pc.sum(mine).as_py(), "sha256": sha256_file(path)}


def _tell_outside(chain: Chain, index: int, taken: dict[int, frozenset[str]], receipt: Receipt) -> None:
    """The user's own tables are not touched: the receipt says which shards' rows of which file the samples came from."""
    table = chain.tables.all[index]
    for shard in sorted(taken):
        if table.first_shard <= shard < table.first_shard + table.shards:
            cut = chain.tables.slice_of(shard)
            receipt.outside.append(
                {"file": table.path, "first_row": cut["first_row"], "rows": cut["rows"], "uids": sorted(taken[shard])}
            )


def _handed_over_by(chain: Chain) -> bool:
    """Whether `shards/` is what these settings made. A run with others made it where somebody gives this command without the run's
    own settings, or after an update that makes a stage anew: handing over then would take away what is not made yet."""
    if not (chain.run / INDEX).is_file() or handed_over(chain) is not None:
        return True
    receipts = (chain.run / "tombstones" / f"{n:04d}.receipt.json" for n in range(len(tombstones(chain.run))))
    if all(path.is_file() and json.loads(path.read_bytes())["ended"] for path in receipts):
        return False
    taken = {f"{shard_name(shard)}.tar" for shard in all_taken(chain.run).shards}  # gone, as far as the killed takedown came
    made = {f"{shard_name(shard)}.tar" for shard in reach(chain, chain.shards()).finished()}
    return {path.name for path in files(chain.run / "shards") if path.suffix == ".tar"} <= made | taken


def _pack_again(chain: Chain, shards: set[int], receipt: Receipt, ours: bool) -> None:
    """Pack the shards anew that had come so far and can be; all others wait for the next run. Where `shards/` is not of these
    settings, all wait, and the index only loses the samples."""
    pack = next((stage for stage in chain.recipe.stages if stage.kind == "pack"), None)
    if pack is None:
        return
    if not ours:
        receipt.others = True
        receipt.waiting = sorted(shards)
        every = frozenset().union(*(chain.withheld.taken[shard] for shard in shards))
        _drop_rows(chain.run, INDEX, every, receipt)
        return
    at = reach(chain, chain.shards())
    waiting = at.waiting()
    ready = [shard for shard in sorted(shards) if shard in waiting and waiting[shard].name == pack.name]
    if ready:
        worker = Worker(chain, pack)
        for shard in ready:
            try:
                asyncio.run(worker.process(at[shard][0], _quiet))
            except (FileNotFoundError, Damaged):  # what it is made of is gone: the next run fails the shard by that name
                continue
            receipt.packed_again.append(shard)
    receipt.waiting = [shard for shard in sorted(shards) if shard in waiting and shard not in receipt.packed_again]
    handoff(chain)


def _drop_leftovers(run: Path, receipt: Receipt) -> None:
    """What tries that were killed left, and no entry names: it may hold any sample."""
    left = leftovers(run)
    remove(run, left)
    receipt.gone += [str(path.relative_to(run)) for path in left]


async def _quiet(_: dict[str, int]) -> None:
    pass
