"""`index`: folders of pictures, or shards, into a feature cache.

What is known is not encoded again; what is bad is noted and passed over.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fgclip2_train.data.images import SUFFIXES
from fgclip2_train.data.shards import find_shards, read_shard
from fgclip2_train.use.cache import GONE, Cache, Writer, each
from fgclip2_train.use.pictures import MAX_BYTES, MAX_PIXELS, BadPicture, open_picture
from fgclip2_train.use.towers import Prepared, Towers

COMMIT_ENTRIES, COMMIT_SECONDS = 4096, 60.0
"""A kill costs at most this much work."""
DECODING = 8
"""Whole pictures in memory at once, at most: 0.2 GB each at the largest."""


@dataclass(frozen=True)
class Item:
    """One picture found. `read` gives its bytes; sha256 is what a shard says of it, checked when read."""

    place: str
    source: str
    size: int
    modified: int
    sha256: str | None
    read: Callable[[], bytes]


@dataclass
class Report:
    found: int = 0
    known: int = 0
    encoded: int = 0
    copies: int = 0
    """Equal to another picture, byte by byte: not encoded again."""
    gone: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    bad_shards: Counter[str] = field(default_factory=Counter)
    """Shards' records that could not be read, and folders that could not be listed."""
    listed: list[dict[str, str]] = field(default_factory=list)
    """Every bad picture of the cache with its reason, earlier runs' too."""
    seconds: float = 0.0

    def text(self) -> str:
        rate = f", {self.encoded / self.seconds:.1f} encoded/s" if self.encoded else ""
        lines = [
            f"{self.found} pictures found: {self.encoded} encoded, {self.copies} copies, {self.known} known, "
            f"{sum(self.bad.values())} bad, {self.gone} gone ({self.seconds:.1f} s{rate})"
        ]
        lines += [
            f"  bad: {reason.removeprefix('bad: ')}: {count}" for reason, count in (self.bad + self.bad_shards).most_common()
        ]
        lines += [f"    {item['place']}: {item['reason']}" for item in self.listed[:20]]
        if len(self.listed) > 20:
            lines.append(f"    … and {len(self.listed) - 20} more; --json FILE lists them all")
        return "\n".join(lines)


def index(
    towers: Towers,
    sources: Sequence[str],
    folder: str | Path,
    *,
    made_by: str = "",
    threads: int | None = None,
    max_pixels: int = MAX_PIXELS,
    tell: Callable[[str], None] = lambda line: None,
) -> Report:
    """Bring the cache in `folder` up to date with `sources`: folders of pictures (searched to the bottom), or shards.

    Pictures that are no longer in a source are taken out of the search. Raises ValueError for a source without pictures, a cache of
    another checkpoint, a second writer.
    """
    report, started = Report(), time.monotonic()
    sources = [str(Path(source).resolve()) if "://" not in source else source for source in sources]
    with Writer(folder, towers.identity(), made_by) as writer:
        build = _Build(towers, writer, report, max_pixels, tell)
        for source in sources:
            build.take(source, threads or min(8, os.cpu_count() or 1))
        writer.commit()
    report.listed = Cache.open(folder).bad()
    report.seconds = time.monotonic() - started
    return report


class _Build:
    def __init__(self, towers: Towers, writer: Writer, report: Report, max_pixels: int, tell: Callable[[str], None]):
        self.towers, self.writer, self.report, self.max_pixels, self.tell = towers, writer, report, max_pixels, tell
        # Of pictures that are gone too: they may come back.
        ever = each(writer.cache.history, "sha256", "vector")
        self.by_content = {sha: vector for sha, vector in ever if vector is not None}
        self.known, self.sources = {}, {}
        self.met: set[str] = set()  # in this run: sources may overlap
        columns = each(writer.cache.entries, "place", "source", "bytes", "modified", "sha256", "reason")
        for place, source, size, modified, sha, reason in columns:
            if reason != GONE:
                self.known[place], self.sources[place] = (size, modified, sha), source
        self.committed = self.told = time.monotonic()
        self.decoding = threading.Semaphore(DECODING)

    def take(self, source: str, threads: int) -> None:
        seen: set[str] = set()
        batch: list[tuple[Item, str, Prepared]] = []
        ahead: deque[Future[tuple[Item, str, Prepared | BadPicture | None]]] = deque()
        cut_before = sum(self.report.bad_shards.values())
        with ThreadPoolExecutor(threads, "decode") as pool:
            for item in find(source, self.report.bad_shards, lambda *known: self._is_new(seen, *known)):
                ahead.append(pool.submit(self._open, item))
                if len(ahead) > 4 * threads:
                    self._settle(ahead.popleft().result(), batch)
            while ahead:
                self._settle(ahead.popleft().result(), batch)
            self._encode(batch)
        if not seen:
            damaged = f"; {dict(self.report.bad_shards)}" if self.report.bad_shards else ""
            raise ValueError(f"{source}: no pictures there ({', '.join(SUFFIXES)}, or shards of them){damaged}")
        if sum(self.report.bad_shards.values()) == cut_before:  # what a damaged shard or folder does not show need not be gone
            for place in [place for place, own in self.sources.items() if own == source and place not in seen]:
                self.writer.add({"place": place, "source": source, "reason": GONE})
                self.report.gone += 1
        self.writer.commit()

    def _is_new(self, seen: set[str], place: str, size: int, modified: int, sha256: str | None) -> bool:
        """Whether a picture that was met must be read. `sha256` is what a shard's record says, else None."""
        seen.add(place)
        if place in self.met:
            return False
        self.met.add(place)
        self.report.found += 1
        known = self.known.get(place)
        if known and (known[2] == sha256 if sha256 else known[:2] == (size, modified)):
            self.report.known += 1
            return False
        return True

    def _open(self, item: Item) -> tuple[Item, str, Prepared | BadPicture | None]:
        """In a thread: the bytes' hash, and the picture unless its content is known."""
        sha = ""
        try:
            if item.size > MAX_BYTES:
                raise BadPicture("too many bytes", f"{item.size}, {MAX_BYTES} are allowed")
            data = item.read()
            sha = hashlib.sha256(data).hexdigest()
            if sha in self.by_content:
                return item, sha, None
            with self.decoding:
                return item, sha, self.towers.prepare(open_picture(data, self.max_pixels))
        except BadPicture as error:
            return item, sha, error
        except (OSError, MemoryError) as error:
            return item, sha, BadPicture("cannot be read", type(error).__name__)

    def _settle(self, opened: tuple[Item, str, Prepared | BadPicture | None], batch: list) -> None:
        item, sha, picture = opened
        if isinstance(picture, BadPicture):
            self.report.bad[picture.reason] += 1
            self.writer.add(_entry(item, sha) | {"reason": str(picture)})
        elif picture is None:
            self._copy(item, sha)
        else:
            batch.append((item, sha, picture))
        if len(batch) >= self.towers.encoder.batch:
            self._encode(batch)

    def _copy(self, item: Item, sha: str) -> None:
        self.report.copies += 1
        self.writer.add(_entry(item, sha) | {"vector": self.by_content[sha]})

    def _encode(self, batch: list[tuple[Item, str, Prepared]]) -> None:
        distinct = {sha: prepared for _, sha, prepared in batch if sha not in self.by_content}
        vectors = dict(zip(distinct, self.towers.encode(list(distinct.values())).numpy(), strict=True)) if distinct else {}
        for item, sha, _ in batch:
            if sha in self.by_content:
                self._copy(item, sha)
            else:
                row = self.writer.add(_entry(item, sha), vectors[sha])
                assert row is not None
                self.by_content[sha] = row
                self.report.encoded += 1
        batch.clear()
        now = time.monotonic()
        if self.writer.pending >= COMMIT_ENTRIES or now - self.committed > COMMIT_SECONDS:
            self.writer.commit()
            self.committed = now
        if now - self.told > 5:
            self.told = now
            self.tell(f"{self.report.found} found, {self.report.encoded} encoded, {sum(self.report.bad.values())} bad")


def _entry(item: Item, sha: str) -> dict[str, Any]:
    return {
        "place": item.place,
        "source": item.source,
        "sha256": sha or item.sha256,
        "bytes": item.size,
        "modified": item.modified,
    }


IsNew = Callable[[str, int, int, str | None], bool]
"""place, bytes, time of change, SHA-256 if it is known without reading -> whether to read the picture"""


def find(source: str, bad_shards: Counter[str], is_new: IsNew) -> Iterator[Item]:
    """All new pictures of a source, in order of their names."""
    shards = shards_of(source)
    if shards is None:
        yield from _of_folder(Path(source), bad_shards, is_new)
    for shard in shards or ():
        yield from _of_shard(shard, source, bad_shards, is_new)


def shards_of(source: str) -> list[str] | None:
    """The shards that a source is, or None for a folder of pictures. Raises FileNotFoundError for what is neither."""
    folder = Path(source)
    if folder.is_dir() and not any(folder.glob("*.tar")):
        return None
    if "://" in source or folder.is_dir() or source.endswith(".tar"):
        return find_shards(source)
    raise FileNotFoundError(f"{source}: give a folder of pictures, or shards as DIR or 'DIR/*.tar'")


def _of_folder(folder: Path, bad: Counter[str], is_new: IsNew) -> Iterator[Item]:
    def unlisted(error: OSError) -> None:
        bad[f"bad: folder cannot be listed ({error.strerror}): {error.filename}"] += 1

    for path, folders, files in os.walk(folder, onerror=unlisted):
        folders.sort()
        for name in sorted(files):
            file = Path(path, name)
            if file.suffix.lower() not in SUFFIXES or not file.is_file():
                continue
            try:
                state = file.stat()
            except FileNotFoundError:  # taken away since it was listed
                continue
            # A name that is not UTF-8 is shown with its bytes escaped; the file itself is read by its real name.
            place = os.fsencode(file).decode("utf-8", "backslashreplace")
            if is_new(place, state.st_size, state.st_mtime_ns, None):
                yield Item(place, str(folder), state.st_size, state.st_mtime_ns, None, file.read_bytes)


def _of_shard(shard: str, source: str, bad: Counter[str], is_new: IsNew) -> Iterator[Item]:
    def wanted(place: int, record: dict[str, Any]) -> bool:
        uid, sha256 = record.get("uid"), record.get("sha256")
        if not isinstance(uid, str) or not isinstance(sha256, str):
            bad["bad: record without uid or sha256"] += 1
            return False
        return is_new(f"{shard}#{uid}", 0, 0, sha256)

    for raw in read_shard(shard, bad, wanted):
        yield Item(f"{shard}#{raw.uid}", source, len(raw.picture), 0, raw.record["sha256"], partial(bytes, raw.picture))
