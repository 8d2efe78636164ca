"""The answer store: what the model server said, kept raw for ever under the hash of what it was asked.

One folder per (stage, shard) holds segments `<attempt>-<seq>.jsonl`, one answer a line. A segment is never changed once it
has its name, so readers need no lock, and two attempts at one shard cannot spoil each other. When two segments answer the
same request, the one with the lowest name holds: every reader gives the same answer, whoever wrote what.

A kill at any instant loses at most what is not yet flushed: fewer than `BATCH` answers, none older than `PATIENCE` seconds.
Lines that cannot be read, or do not fit their checksum, are left out, which means that their requests are asked again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.durable import create_if_absent, files

log = logging.getLogger(__name__)

BATCH = 64
"""Answers that make a segment at once."""
PATIENCE = 5.0
"""Seconds that the first answer of a segment waits for others."""


def request_hash(
    image_sha256: str | None,
    sent_size: str | None,
    messages: list[dict[str, Any]],
    schema: dict[str, Any] | None,
    sampling: dict[str, Any],
    identity: dict[str, Any],
) -> str:
    """SHA-256 (64 hex) over everything that decides an answer.

    image_sha256   of the picture's file as downloaded; None for a text-only request
    sent_size      how the picture was sent: sides, cut-out, encoding
    messages       rendered texts, with a placeholder where the picture stands
    identity       of the model: served name, weights, quantisation, server version
    """
    content = {
        "image": image_sha256,
        "sent": sent_size,
        "messages": messages,
        "schema": schema,
        "sampling": sampling,
        "identity": identity,
    }
    # ASCII escapes, since a stranger's text may hold what is not valid Unicode.
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_answers(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(request hash, record) of every request answered in a folder, the answer that holds."""
    for key, line in _read_folder(folder).items():
        yield key, json.loads(line)


class AnswerStore:
    """The answers of one shard at one stage: read whole at the start, then added to.

    folder    of the shard's segments; made when the first segment is published
    attempt   names this writer's segments; no other writer uses it

    `put` returns at once and a thread publishes; `flush` returns when all that was put is durable, and is called before the
    shard's commit. What the disk refuses (full, gone) is raised by the next `put`, `flush` or `close`. Every method may be
    called from any thread or event loop; `flush` and `close` block.
    """

    def __init__(self, folder: Path, attempt: str) -> None:
        self.folder = folder
        self.attempt = attempt
        self._lines = _read_folder(folder)
        self._sequence = _next_sequence(folder, attempt)
        self.written = 0  # bytes of this writer's segments
        self._waiting: list[bytes] = []
        self._due = 0.0
        self._flush_wanted = False
        self._closed = False
        self._writing = False
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        self._writer: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._lines)

    def get(self, key: str) -> dict[str, Any] | None:
        """The record under a request hash, or None if that request was never answered."""
        line = self._lines.get(key)
        return None if line is None else json.loads(line)

    def put(self, key: str, record: dict[str, Any]) -> None:
        """Keep an answer. A second answer to the same request is dropped: the first one may already be in use."""
        line = _encode({**record, "hash": key, "attempt": self.attempt})
        with self._changed:
            self._raise_failure()
            if self._closed:
                raise ValueError(f"{self.folder}: the answer store is closed")
            if key in self._lines:
                return
            self._lines[key] = line.rstrip(b"\n")
            if not self._waiting:
                self._due, self._flush_wanted = time.monotonic() + PATIENCE, False
            self._waiting.append(_checked(line))
            if self._writer is None:
                self._writer = threading.Thread(target=self._write_segments, name="answers", daemon=True)
                self._writer.start()
            self._changed.notify_all()

    def flush(self) -> None:
        """Return once every answer put so far is on the disk."""
        with self._changed:
            while (self._waiting or self._writing) and self._failure is None:
                self._flush_wanted = True
                self._changed.notify_all()
                self._changed.wait()
            self._raise_failure()

    def close(self) -> None:
        """Flush, and take no more answers. May be called twice."""
        try:
            self.flush()
        finally:
            with self._changed:
                self._closed = True

    def __enter__(self) -> AnswerStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise RuntimeError(f"{self.folder}: answers cannot be kept: {self._failure}") from self._failure

    def _write_segments(self) -> None:
        """Runs in a thread that ends when nothing waits, and is begun anew by the next `put`."""
        while True:
            with self._changed:
                while not self._ready():
                    if not self._waiting:
                        self._writer = None
                        return
                    self._changed.wait(max(0.0, self._due - time.monotonic()))
                lines, self._waiting = self._waiting, []
                self._flush_wanted, self._writing = False, True
            failure = None
            try:
                self._publish(b"".join(lines))
            except BaseException as error:
                failure = error
            with self._changed:
                self._writing = False
                self._failure = failure
                self._changed.notify_all()
                if failure is not None:
                    self._writer = None
                    return

    def _ready(self) -> bool:
        return bool(self._waiting) and (self._flush_wanted or len(self._waiting) >= BATCH or time.monotonic() >= self._due)

    def _publish(self, data: bytes) -> None:
        while not create_if_absent(self.folder / f"{self.attempt}-{self._sequence:06d}.jsonl", data):
            self._sequence += 1
        self._sequence += 1
        self.written += len(data)


def _encode(record: dict[str, Any]) -> bytes:
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate, which JSON can say and UTF-8 cannot
        return json.dumps(record, ensure_ascii=True, allow_nan=False).encode() + b"\n"


CHECK = re.compile(rb', "check": "([0-9a-f]{8})"\}$')
"""How a line ends: with the CRC of what it would be without this."""


def _checked(line: bytes) -> bytes:
    return line[:-2] + b', "check": "%08x"}\n' % zlib.crc32(line[:-1])


def unchecked(line: bytes) -> bytes:
    """A line as it was put. ValueError where it is another; those of older versions have no checksum."""
    found = CHECK.search(line)
    if found is None:
        return line
    put = line[: found.start()] + b"}"
    if int(found[1], 16) != zlib.crc32(put):
        raise ValueError("it does not fit its checksum")
    return put


def segments(folder: Path) -> list[Path]:
    """Segments of a folder, the lowest name first."""
    return sorted(
        (path for path in files(folder) if path.suffix == ".jsonl" and path.name[0] != "."), key=lambda path: path.name
    )


def _read_folder(folder: Path) -> dict[str, bytes]:
    """Request hash → line, the lowest segment name first. Lines stay encoded: a third of the memory of parsed records."""
    lines: dict[str, bytes] = {}
    for path in segments(folder):
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
            if not line:
                continue
            try:
                put = unchecked(line)
                lines.setdefault(json.loads(put)["hash"], put)
            except (ValueError, KeyError, TypeError):
                log.warning("%s line %d is not a whole answer; its request will be asked again", path, number)
    return lines


def _next_sequence(folder: Path, attempt: str) -> int:
    taken = [path.stem.removeprefix(f"{attempt}-") for path in segments(folder) if path.name.startswith(f"{attempt}-")]
    return max((int(text) for text in taken if text.isdecimal()), default=-1) + 1
