"""Fetch the pictures of a shard and store them untouched, in img2dataset's layout.

Reads    url, image_ref, captions, long_captions, license, source, source_sha256
Writes   image_offset, image_size, image_format, sha256, width, height (operators.columns.IMAGE); a tar with KEY.jpg, KEY.txt
         and KEY.json of every picture (KEY = uid, extension always jpg); img2dataset's statistics
Refuses  every row that yields no picture, with one of `pipelines.download.reasons.REASONS`; `is_retryable` tells those that
         a later run may get. A failure of this machine (disk full, no file handles, no network for long) is raised instead
Source   img2dataset drives the shard; deadline, retries, private addresses, opt-outs, robots.txt, outages and checks are added here
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field

from operators.base import Outcome, Reject, Settings
from operators.columns import IMAGE
from pipelines.download.engine import Spool, fetch_urls
from pipelines.download.fetcher import Fetcher
from pipelines.download.outage import DOUBTFUL
from pipelines.download.reasons import REASONS, FetchError, NetworkDown, is_retryable
from pipelines.download.tar import TarFile
from pipelines.download.verify import Picture, verify
from pipelines.public_url import public
from pipelines.sources.refs import RefError, read_ref

__all__ = ["REASONS", "Download", "FetchError", "NetworkDown", "is_retryable", "verify"]


NO_PICTURE = ("empty", "not_an_image", "svg", "truncated", "undecodable", "too_many_pixels", "out_of_memory")
"""Reasons for which img2dataset's statistics count a picture as fetched, but not as usable."""


class Download(Settings):
    """Patience and manners (`exclude=True`) decide what is fetched of a host on a bad day, never what a picture is: they are no part
    of the stage's fingerprint, and may be changed in the middle of a run. What a longer wait would get, `fineloom retry` fetches.
    """

    version: ClassVar[int] = 1
    reasons: ClassVar[dict[str, str]] = {reason: text for reason, (text, _) in REASONS.items()}

    timeout: float = Field(10.0, gt=0, exclude=True)
    """Seconds that a host may stay silent."""
    connect_timeout: float = Field(5.0, gt=0, exclude=True)
    """Seconds that a host may take to accept a connection."""
    deadline: float = Field(30.0, gt=0, exclude=True)
    """Seconds for one picture, everything included: redirects, robots.txt, retries and the waits between them."""
    min_bytes_per_second: float = Field(1024.0, ge=0, exclude=True)
    """A body that comes slower than this, on average after `timeout` seconds, is given up."""
    max_bytes: int = Field(20 << 20, gt=0)
    """Of one picture, unpacked."""
    max_pixels: int = Field(80_000_000, gt=0)
    """Width times height; checked before anything is decoded."""
    retries: int = Field(2, ge=0, exclude=True)
    """Further attempts after 429, 5xx, silence or a broken connection. Never after a 404 or an opt-out."""
    backoff: float = Field(0.5, ge=0, exclude=True)
    """Seconds before the first retry, doubled for each further one, give or take a quarter."""
    threads: int = Field(64, ge=1, exclude=True)
    """Fetches under way at once."""
    per_host: int = Field(16, ge=1, exclude=True)
    """Fetches from one host under way at once, redirects to it included. The wait for a place is not counted in `deadline`."""
    host_failures: int = Field(8, ge=1, exclude=True)
    """After so many silences and broken connections in a row a host is left alone …"""
    host_rest: float = Field(120.0, ge=0, exclude=True)
    """… for so many seconds; its addresses are refused as `host_down`, which may be retried later."""
    network_patience: float = Field(3600.0, ge=0, exclude=True)
    """Seconds to wait for this machine's own network when it is down as a whole, before the run is stopped. 0 takes every host
    that is silent for dead."""
    user_agent: str = Field(
        "Mozilla/5.0 (compatible; FineLoom/0.1; data set research)", pattern=r"^[\x20-\x7e]+$", exclude=True
    )
    """Product and version, for those who look at their host's log."""
    contact: str = Field("", pattern=r"^[\x20-\x7e]*$", exclude=True)
    """Page or mail address under which you can be reached; said with the user agent. Give one before you ask many hosts."""
    respect_opt_out: bool = True
    """Honour X-Robots-Tag noai, noimageai, noindex, noimageindex, TDM-Reservation, and reservations in the host's tdmrep.json."""
    respect_robots_txt: bool = True
    allow_private_addresses: bool = False
    """Let addresses lead into the private network, loopback included: for demos and tests. Link-local addresses and
    metadata services stay refused."""
    licenses: list[str] | None = None
    """Fetch only rows with one of these licences."""

    def fetch(self, base: pa.Table, tar: Path, stats: Path, taken: Collection[str] = ()) -> Outcome:
        """Fetch all rows of a shard; `tar` and `stats` are new files, and there only when this returns.

        taken   SHA-256 sums of pictures that were taken down: they are refused, and nothing of them is written
        """
        started = time.time()
        tar, stats = Path(tar), Path(stats)
        rows = base.to_pylist()
        spool = Spool.beside(tar)
        with spool.file:
            self._fill(rows, spool)
            for i in [i for i, (picture, _, _) in spool.pictures.items() if picture.sha256 in taken]:
                del spool.pictures[i]
                spool.errors[i] = FetchError("taken_down", "its picture was taken down before")
            kept = self._write(rows, spool, tar)
            try:
                self._write_stats(rows, spool, stats, started)
            except BaseException:
                for path in (tar, stats):
                    path.unlink(missing_ok=True)
                raise
        rejects = [Reject(rows[i]["uid"], error.reason, error.detail) for i, error in sorted(spool.errors.items())]
        return Outcome(kept, rejects)

    def _fill(self, rows: list[dict[str, Any]], spool: Spool) -> None:
        """Give every row a picture in the spool, or an error."""
        urls: dict[int, str] = {}
        for i, row in enumerate(rows):
            if self.licenses is not None and row["license"] not in self.licenses:
                spool.errors[i] = FetchError("license", f"{row['license'] or 'none'} is not among {', '.join(self.licenses)}")
            elif row["url"]:
                urls[i] = row["url"]
            else:
                try:
                    data = read_ref(row["image_ref"] or "", self.max_bytes)
                    spool.keep(i, data, verify(data, self.max_pixels))
                except (FetchError, RefError) as error:
                    spool.errors[i] = FetchError(error.reason, error.detail)
        fetcher = self._fetcher()
        while urls:
            outages = fetcher.network.outages
            fetch_urls(urls, fetcher, self.threads, self.max_pixels, spool)
            if fetcher.network.outages == outages:
                break
            # This machine's network was down meanwhile, and is up again: whom that may have cost the picture is asked once more.
            urls = {i: url for i, url in urls.items() if i in spool.errors and spool.errors[i].reason in DOUBTFUL}
            for i in urls:
                del spool.errors[i]
        for i, row in enumerate(rows):
            wanted = row["source_sha256"]
            if wanted and i in spool.pictures and spool.pictures[i][0].sha256 != wanted:
                spool.errors[i] = FetchError("sha256_mismatch", f"{spool.pictures.pop(i)[0].sha256} instead of {wanted}")

    def _fetcher(self) -> Fetcher:
        """One for all shards of this process with these settings: it remembers connections, names and dead hosts."""
        key = repr(self)
        found = _fetchers.get(key)
        return found if found is not None else _fetchers.setdefault(key, Fetcher(self))

    def waits_for(self) -> str:
        """What keeps all fetches of this process waiting, in words; empty when nothing does."""
        return self._fetcher().network.word

    def _write(self, rows: list[dict[str, Any]], spool: Spool, path: Path) -> pa.Table:
        columns: dict[str, list[Any]] = {"uid": [], **{name: [] for name in IMAGE.names}}
        with TarFile(path) as tar:
            for i, row in enumerate(rows):
                if i not in spool.pictures:
                    continue
                picture, _, size = spool.pictures[i]
                caption = next(iter([*(row["captions"] or []), *(row["long_captions"] or [])]), "")
                offset = tar.add(f"{row['uid']}.jpg", spool.bytes_of(i))
                tar.add(f"{row['uid']}.txt", caption.encode("utf-8", "replace"))
                tar.add(f"{row['uid']}.json", json.dumps(_meta(row, caption, picture)).encode())
                values = (row["uid"], offset, size, picture.format, picture.sha256, picture.width, picture.height)
                for name, value in zip(columns, values, strict=True):
                    columns[name].append(value)
        schema = pa.schema([pa.field("uid", pa.string()), *IMAGE])
        return pa.table(columns, schema=schema)

    def _write_stats(self, rows: list[dict[str, Any]], spool: Spool, path: Path, started: float) -> None:
        """img2dataset's statistics; its status words are our reasons."""
        ended = time.time()
        reasons = Counter(error.reason for error in spool.errors.values())
        resize = sum(reasons[r] for r in NO_PICTURE)
        content = {
            "count": len(rows),
            "successes": len(spool.pictures),
            "failed_to_download": len(spool.errors) - resize,
            "failed_to_resize": resize,
            "duration": ended - started,
            "start_time": started,
            "end_time": ended,
            "status_dict": {"success": len(spool.pictures), **dict(reasons.most_common())},
        }
        path.write_text(json.dumps(content, indent=4), encoding="utf-8")


def _meta(row: dict[str, Any], caption: str, picture: Picture) -> dict[str, Any]:
    """What img2dataset writes beside a picture, and where it came from."""
    return {
        "url": public(row["url"]),
        "caption": caption,
        "key": row["uid"],
        "status": "success",
        "error_message": None,
        "width": picture.width,
        "height": picture.height,
        "original_width": picture.width,
        "original_height": picture.height,
        "sha256": picture.sha256,
        "source": row["source"],
        "license": row["license"],
    }


_fetchers: dict[str, Fetcher] = {}
