"""img2dataset's Downloader on one shard, inside this process, with our fetching, checking and keeping in its hooks.

img2dataset drives the threads, the queue and the bookkeeping of a shard; what it calls is ours. The address is opened by
`Fetcher`: img2dataset asks urllib, which asks the opener installed here. The same thread checks the picture, since img2dataset
runs its "resizer" in one thread only; that one just looks up what was found. Its "sample writer" keeps the untouched bytes in a
temporary file without a name, so that nothing is left behind even by a kill.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import sys
import tempfile
import threading
import types
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import fsspec
import pyarrow as pa

from pipelines.download.fetcher import Fetcher
from pipelines.download.reasons import REASONS, FetchError
from pipelines.download.verify import Picture, verify
from pipelines.public_url import public


@dataclass
class Spool:
    """Pictures of one shard on their way: bytes in an unnamed temporary file, facts in memory.

    pictures   row → (picture, offset, size)
    errors     row → why there is none
    checked    identity of bytes → them and what they are: checked by the thread that fetched them, not yet kept
    fatal      a failure of this machine; the shard is given up
    """

    file: Any
    pictures: dict[int, tuple[Picture, int, int]] = field(default_factory=dict)
    errors: dict[int, FetchError] = field(default_factory=dict)
    checked: dict[int, tuple[bytes, Picture]] = field(default_factory=dict)
    fatal: BaseException | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    size: int = 0

    @classmethod
    def beside(cls, path: Path) -> Spool:
        return cls(tempfile.TemporaryFile(dir=path.parent, buffering=0))

    def keep(self, row: int, data: bytes, picture: Picture) -> None:
        written = 0
        while written < len(data):
            written += self.file.write(data[written:])
        self.pictures[row] = (picture, self.size, len(data))
        self.size += len(data)

    def bytes_of(self, row: int) -> bytes:
        _, offset, size = self.pictures[row]
        return os.pread(self.file.fileno(), size, offset)

    def fail(self, error: BaseException) -> None:
        """Give the shard up: what is under way ends soon, nothing new begins."""
        self.fatal = self.fatal or error
        self.stop.set()


def fetch_urls(urls: dict[int, str], fetcher: Fetcher, threads: int, max_pixels: int, spool: Spool) -> None:
    """Fetch the addresses of some rows into the spool; each row ends as a picture or an error."""
    rows = list(urls)
    thread = threading.Thread(target=_run, args=(urls, rows, fetcher, threads, max_pixels, spool), daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(1.0)
    except BaseException as error:  # Ctrl-C: let img2dataset's pool run dry, it cannot be torn down from outside
        spool.fail(error)
        thread.join(fetcher.manners.timeout + 1)
        raise
    if spool.fatal is not None:
        raise spool.fatal
    for row in rows:
        if row not in spool.pictures and row not in spool.errors:
            raise RuntimeError(f"img2dataset lost {public(urls[row])}")


def _run(urls: dict[int, str], rows: list[int], fetcher: Fetcher, threads: int, max_pixels: int, spool: Spool) -> None:
    try:
        token = f"fineloom-{uuid.uuid4().hex}"
        folder = f"memory://{token}"
        memory = fsspec.filesystem("memory")
        _Switch.install().running[token] = (fetcher, max_pixels, spool)
        try:
            shard = f"{folder}/shard.arrow"
            table = pa.table({"url": [urls[row] for row in rows]})
            with memory.open(shard, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            hooks = _Hooks(rows, spool)
            _downloader()(
                sample_writer_class=lambda *_: hooks,
                resizer=hooks.check,
                thread_count=max(1, min(threads, len(rows))),
                save_caption=False,
                extract_exif=False,
                output_folder=folder,
                column_list=["url"],
                timeout=fetcher.manners.timeout,
                number_sample_per_shard=max(len(rows), 10),
                oom_shard_count=5,
                compute_hash=None,
                verify_hash_type=None,
                encode_format="jpg",
                retries=0,  # img2dataset's retries repeat what cannot recover; ours are in the fetcher
                user_agent_token=token,
                disallowed_header_directives=None,
            ).download_shard((0, shard))
        finally:
            _Switch.install().running.pop(token, None)
            if memory.exists(folder):
                memory.rm(folder, recursive=True)
    except BaseException as error:
        spool.fail(error)


def _downloader() -> Any:
    """img2dataset's Downloader, without the package around it: that imports torch, albumentations, wandb's and Ray's whole
    trees (600 MB a process, and a question to the network for a newer version), of which a download needs nothing."""
    if "img2dataset" in sys.modules or "img2dataset.downloader" in sys.modules:
        return importlib.import_module("img2dataset.downloader").Downloader
    found = importlib.util.find_spec("img2dataset")
    if found is None or found.submodule_search_locations is None:
        raise ModuleNotFoundError("img2dataset is not installed: make setup")
    bare = types.ModuleType("img2dataset")
    bare.__path__ = list(found.submodule_search_locations)
    sys.modules["img2dataset"] = bare
    try:
        return importlib.import_module("img2dataset.downloader").Downloader
    finally:
        del sys.modules["img2dataset"]


class _Hooks:
    """img2dataset's resizer and sample writer; it calls them one after the other from one thread."""

    def __init__(self, rows: list[int], spool: Spool) -> None:
        self.rows, self.spool = rows, spool
        self.picture = Picture("", 0, 0, "")

    def check(self, stream: io.BytesIO, boxes: object = None) -> tuple[bytes | None, Any, Any, Any, Any, str | None]:
        """(bytes, width, height, original width, original height, error)"""
        data = stream.getvalue()  # the very object that was put in
        _, self.picture = self.spool.checked.pop(id(data))
        width, height = self.picture.width, self.picture.height
        return data, width, height, width, height, None

    def write(self, data: bytes | None, key: str, caption: str | None, meta: dict[str, Any]) -> None:
        if self.spool.fatal is not None:
            return
        row = self.rows[int(key)]
        try:
            if data is None:
                self.spool.errors[row] = _told(str(meta["error_message"]))
            else:
                self.spool.keep(row, data, self.picture)
        except BaseException as error:
            self.spool.fail(error)  # img2dataset would print it and go on

    def close(self) -> None:
        pass


def _told(message: str) -> FetchError:
    """A FetchError back from the text that img2dataset made of it."""
    reason, colon, detail = message.partition(": ")
    if colon and (reason in REASONS or reason.startswith("http_")):
        return FetchError(reason, detail)
    return FetchError("bad_url", message)  # urllib could not even make a request of the address


class _Body:
    """An answer as urllib gives it."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self) -> bytes:
        return self.data

    def __enter__(self) -> _Body:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass


class _Switch:
    """urllib's opener of this process: requests of our shards go to their Fetcher, all others where they went before.

    A shard's requests are known by the token that img2dataset puts into their User-Agent.
    """

    installed: _Switch | None = None
    lock = threading.Lock()

    def __init__(self, before: Any) -> None:
        self.before = before
        self.running: dict[str, tuple[Fetcher, int, Spool]] = {}

    @classmethod
    def install(cls) -> _Switch:
        with cls.lock:
            now = getattr(urllib.request, "_opener", None)
            switch = cls.installed = cls.installed or cls(now)
            if now is not switch:
                switch.before = now
                urllib.request.install_opener(switch)  # type: ignore[arg-type]
            return switch

    def open(self, request: Any, data: Any = None, timeout: Any = None) -> Any:
        agent = request.get_header("User-agent") if isinstance(request, urllib.request.Request) else None
        at = agent.find("fineloom-") if agent else -1
        found = self.running.get(agent[at : at + 41]) if agent and at >= 0 else None
        if found is None:
            if self.before is None:
                self.before = urllib.request.build_opener()
            return self.before.open(request, data, timeout)
        fetcher, max_pixels, spool = found
        try:
            fetched = fetcher.fetch(request.full_url, spool.stop)
            spool.checked[id(fetched)] = (fetched, verify(fetched, max_pixels))
            return _Body(fetched)
        except FetchError:
            raise
        except BaseException as error:
            spool.fail(error)
            raise
