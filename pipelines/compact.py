"""Compacted entries: many small ledger entries as a few columnar files, so that planning reads files by the dozen, not by the million.

    ledger/@compacted/<number>.json                      generations: which segments hold, stage by stage; never changed, never removed
    ledger/@compacted/newest                             the number of a late one, from which the newest is near
    ledger/@compacted/<stage>.<id>.parquet, .planning    segments (pipelines/entry_segments.py)

A generation is published by create-if-absent under the next number, and only then are the small files that it took up removed. So
whoever does not find a small file looks whether there is a next generation, by its name and without listing; if there is, he looks
again in that one. An entry is thereby seen at every instant, by exactly one of the two ways, whoever is killed wherever.

A late writer may publish a small file under a name that was taken up and removed: what is compacted holds, and he adopts it
(`Ledger.publish`). Two compactions at once are harmless: the second to publish begins again with the first's generation.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pyarrow as pa

from pipelines.counted import counted
from pipelines.durable import Damaged, create_if_absent, files, many, more_than, replace, sealed, unsealed
from pipelines.entry_segments import (
    KEYS,
    PIECE,
    SEGMENT,
    Segment,
    planning_file,
    readable,
    remove_segment,
    table_of,
    write_segment,
)
from pipelines.stores import Place

if TYPE_CHECKING:
    from pipelines.ledger import Entry, Ledger

log = logging.getLogger(__name__)

FOLDER = "@compacted"
"""Below `ledger/`; no stage can have this name."""
NEWEST = "newest"
BATCH = 50_000
"""Entries in memory at a time while compacting."""
WORTH, WORTH_STORE = 5_000, 200
"""Loose entries, of all stages together, from which a run compacts by itself: in a folder, and on a store, where each costs whoever
plans a request, and the client's work of one: some 2 ms."""
EVERY = 60.0
"""Seconds between two looks of a run."""
MERGE_AT = 4
"""Segments of a stage that are of one size, by the power of this number, are joined when there are so many of them. What is left is a
few segments of every size; beyond the smallest, each entry was written again log₄ n times at most over a run of n."""
SMALL = 4_096
"""Entries up to which segments are of one size: they cost whoever plans a request each, and joining them writes a MB or two."""


@dataclass(frozen=True)
class Generation:
    """What is compacted: stage → segment files, relative to `ledger/@compacted`. Number 0 is the empty beginning."""

    number: int = 0
    segments: dict[str, list[str]] = field(default_factory=dict)


def _name(number: int) -> str:
    return f"{number:08d}.json"


def newest(ledger: Ledger, known: Generation | None = None) -> Generation:
    """The generation in force. Starts from what a listing tells, which may be stale, and asks for the next one by name."""
    folder = ledger.folder / FOLDER
    known = known or _near(folder)
    while (following := _read(folder, known.number + 1)) is not None:
        known = following
    return known


def _near(folder: Path) -> Generation:
    """A late one: what the note names; where there is none, or it was copied without what it names, the last of a listing."""
    try:
        noted = _read(folder, int((folder / NEWEST).read_bytes()))
    except (FileNotFoundError, ValueError):
        noted = None
    if noted is not None:
        return noted
    numbers = [int(path.stem) for path in files(folder) if re.fullmatch(r"[0-9]{8}\.json", path.name)]
    return (_read(folder, max(numbers)) if numbers else None) or Generation()


class TornGeneration(Damaged):
    """A generation that cannot be read."""

    def __init__(self, path: Path, problem: Exception) -> None:
        super().__init__(
            f"{path}: says no more which entries are compacted ({problem}). Put it back, or let `fineloom verify --again` find out "
            "from what lies beside it"
        )
        self.path = path


def _read(folder: Path, number: int) -> Generation | None:
    try:
        return Generation(number, unsealed(json.loads((folder / _name(number)).read_bytes()))["segments"])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise TornGeneration(folder / _name(number), error) from error


def rebuild(ledger: Ledger, number: int) -> None:
    """Write a torn generation again, under the run's lock: what the one before it names, and the segments that none before it names and
    that hold other entries."""
    folder = ledger.folder / FOLDER
    before, named = Generation(), set[str]()
    for earlier in range(1, number):
        before = _read(folder, earlier) or before
        named.update(*before.segments.values())
    segments = {stage: list(names) for stage, names in before.segments.items()}
    for path in files(folder):
        if path.suffix == ".parquet" and path.name not in named:
            names = segments.setdefault(path.name.rsplit(".", 2)[0], [])
            if not _keys(path) <= set().union(*(_keys(folder / name) for name in names)):
                names.append(path.name)
    replace(folder / _name(number), sealed({"segments": segments}))


def _keys(segment: Path) -> set[tuple[int, str]]:
    tables = Segment(segment, planning=False).batches(KEYS)
    return {(row["shard"], row["fingerprint"]) for table in tables for row in table.to_pylist()}


def is_newest(ledger: Ledger, generation: Generation) -> bool:
    return not (ledger.folder / FOLDER / _name(generation.number + 1)).is_file()


@dataclass
class Compacted:
    """What one call of `compact` did."""

    taken: int = 0
    removed: int = 0
    merged: int = 0
    segments: int = 0


def compact(ledger: Ledger, say: Callable[[str], None] = lambda line: None) -> Compacted:
    """Take up the loose entries of every stage, batch by batch, and remove their small files; join segments that became many."""
    done = Compacted()
    for stage in ledger.stages():
        batch: list[Path] = []
        for path in ledger.loose(stage):
            batch.append(path)
            if len(batch) == BATCH:
                _take(ledger, stage, batch, done)
                say(f"{stage}: {counted(done.taken, 'entry', 'entries')} compacted")
                batch = []
        if batch:
            _take(ledger, stage, batch, done)
        _merge(ledger, stage, done)
    generation = newest(ledger)
    if done.taken or done.merged:
        replace(ledger.folder / FOLDER / NEWEST, b"%d" % generation.number)
    done.segments = sum(map(len, generation.segments.values()))
    return done


def is_worth_it(ledger: Ledger) -> bool:
    """Whether there are so many loose entries that reading them one by one begins to tell."""
    worth = WORTH_STORE if isinstance(ledger.folder, Place) else WORTH
    return more_than([ledger.folder / stage for stage in ledger.stages()], worth)


@contextmanager
def meanwhile(run: Path) -> Iterator[None]:
    """Compact when it is worth it: before the body, every now and then while it runs, in a thread of its own, and after it."""
    from pipelines.ledger import Ledger

    ledger, over = Ledger(run), threading.Event()

    def look() -> None:
        if is_worth_it(ledger):
            compact(ledger)

    def keep_on() -> None:
        while not over.wait(EVERY):
            try:
                look()
            except Exception as error:  # a full disk or a store that is away: the workers meet it too, and say so
                log.warning("the ledger could not be compacted: %s", error)

    look()
    thread = threading.Thread(target=keep_on, name="compaction", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    look()


def _take(ledger: Ledger, stage: str, paths: list[Path], done: Compacted) -> None:
    entries = [entry for entry in ledger.read_loose(paths) if entry is not None]
    while True:
        ledger.refresh()
        generation = ledger.generation
        # What is compacted already was left by a compaction that was killed, or by a late writer: it goes, and no more.
        fresh = [entry for entry in entries if ledger.compacted(stage, entry.fingerprint, entry.shard) is None]
        if not fresh:
            break
        try:
            segment = _write(ledger, stage, sorted(fresh, key=lambda entry: entry.shard))
        except FileNotFoundError:  # `gc` beside this took it before it was whole
            continue
        segments = {**generation.segments, stage: [*generation.segments.get(stage, []), segment]}
        if _publish(ledger, generation, segments):
            done.taken += len(fresh)
            break
        remove_segment(ledger.folder / FOLDER / segment)
    gone = many(ledger.folder, lambda entry: ledger.remove_loose(stage, entry.fingerprint, entry.shard), entries)
    done.removed += sum(1 for _ in gone)


def _publish(ledger: Ledger, generation: Generation, segments: dict[str, list[str]]) -> bool:
    path = ledger.folder / FOLDER / _name(generation.number + 1)
    return create_if_absent(path, sealed({"segments": segments}))


def _write(ledger: Ledger, stage: str, entries: Sequence[Entry]) -> str:
    return _write_tables(ledger, stage, iter([table_of(entries)]))


def _write_tables(ledger: Ledger, stage: str, tables: Iterator[pa.Table]) -> str:
    name = f"{stage}.{uuid4().hex[:12]}.parquet"
    write_segment(ledger.folder / FOLDER / name, tables)
    return name


def _merge(ledger: Ledger, stage: str, done: Compacted) -> None:
    """Join segments of the same size, the smallest first, until there are few of each. The old ones are left to `gc`."""
    while True:
        ledger.refresh()
        segments = _alike(ledger.index(stage).segments)
        generation = ledger.generation
        if not segments:
            return
        try:
            merged = _write_tables(ledger, stage, _rows(segments))
        except FileNotFoundError:  # as above; or one of the old ones, which somebody has joined meanwhile
            return
        gone = [segment.path.name for segment in segments]
        left = [name for name in generation.segments[stage] if name not in gone]
        if not _publish(ledger, generation, {**generation.segments, stage: [*left, merged]}):
            remove_segment(ledger.folder / FOLDER / merged)  # somebody compacted meanwhile: the next call joins
            return
        done.merged += len(segments)


def _alike(segments: Sequence[Segment]) -> list[Segment]:
    """Those to be joined next, if any."""
    sizes: dict[int, list[Segment]] = {}
    for segment in segments:
        size, rows = 0, segment.rows // SMALL
        while rows:
            size, rows = size + 1, rows // MERGE_AT
        sizes.setdefault(size, []).append(segment)
    return next((sizes[size] for size in sorted(sizes) if len(sizes[size]) >= MERGE_AT), [])


def _rows(segments: Sequence[Segment]) -> Iterator[pa.Table]:
    """All their rows as they are, in pieces of full row groups."""
    waiting: list[pa.Table] = []
    for segment in segments:
        for piece in segment.batches():
            waiting.append(piece)
            if sum(map(len, waiting)) >= PIECE:
                yield pa.concat_tables(waiting)
                waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def forget(ledger: Ledger, stage: str, entries: set[tuple[str, int]], damaged: set[str]) -> None:
    """Take entries (fingerprint, shard) out of what is compacted of a stage, and what cannot be read any more of damaged segments."""
    while True:
        ledger.refresh()
        generation = ledger.generation
        names = generation.segments.get(stage, [])
        left = [_without(ledger, stage, name, entries, name in damaged) for name in names]
        if left == names or _publish(ledger, generation, {**generation.segments, stage: [name for name in left if name]}):
            return


def _without(ledger: Ledger, stage: str, name: str, entries: set[tuple[str, int]], damaged: bool) -> str:
    """The segment, or another one of what is left without these entries; empty where nothing is."""
    path = ledger.folder / FOLDER / name
    table = pa.concat_tables([SEGMENT.empty_table(), *(readable(path) if damaged else Segment(path, planning=False).batches())])
    keep = [(key["fingerprint"], key["shard"]) not in entries for key in table.select(KEYS).to_pylist()]
    if all(keep) and not damaged:
        return name
    return _write_tables(ledger, stage, iter([table.filter(pa.array(keep))])) if any(keep) else ""


def unnamed(ledger: Ledger) -> list[Path]:
    """Segments that the newest generation does not name: joined into others, or not published (yet)."""
    there = [path for path in files(ledger.folder / FOLDER) if path.suffix in (".parquet", ".planning")]
    ledger.refresh()
    named = {name for names in ledger.generation.segments.values() for name in names}
    named |= {planning_file(Path(name)).name for name in named}
    return [path for path in there if path.name not in named]


def remove_unnamed(ledger: Ledger) -> None:
    """Remove such segments, also beside a compaction: the same generation is published once more, so that whoever has written a
    segment and not published it yet finds the number taken, and writes another."""
    while left := unnamed(ledger):
        if _publish(ledger, ledger.generation, ledger.generation.segments):
            for path in left:
                path.unlink(missing_ok=True)  # its writer removes it, too
            return
