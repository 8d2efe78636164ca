"""Where the book of a review lies: an SQLite file, or a PostgreSQL database (postgres.py). The book's statements are the same for both.

Statements hold no `%`, mark values by `?` or `:name`, and keep to what SQLite and PostgreSQL have in common.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from pipelines.durable import sync_folder

APPLICATION, VERSION = 0x464C5256, 1
BUSY = 5.0
"""Seconds that a writer waits for another one."""
SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE reviewers (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, token TEXT UNIQUE, created TEXT NOT NULL) STRICT;
CREATE TABLE sessions (
  id TEXT PRIMARY KEY, reviewer INTEGER NOT NULL REFERENCES reviewers(id), csrf TEXT NOT NULL, until REAL NOT NULL) STRICT;
CREATE TABLE items (
  id INTEGER PRIMARY KEY, mark TEXT NOT NULL UNIQUE, stage TEXT NOT NULL, shard INTEGER NOT NULL, uid TEXT NOT NULL,
  kind TEXT NOT NULL, rank REAL NOT NULL, need INTEGER NOT NULL, done INTEGER NOT NULL DEFAULT 0,
  gone INTEGER NOT NULL DEFAULT 0, content TEXT NOT NULL) STRICT;
CREATE INDEX items_waiting ON items (rank, id) WHERE done = 0 AND gone = 0;
CREATE INDEX items_of_shard ON items (stage, shard);
CREATE INDEX items_of_sample ON items (uid);
CREATE TABLE shards (stage TEXT NOT NULL, shard INTEGER NOT NULL, stamp TEXT NOT NULL, PRIMARY KEY (stage, shard)) STRICT;
CREATE TABLE verdicts (
  id INTEGER PRIMARY KEY, item INTEGER NOT NULL REFERENCES items(id), reviewer INTEGER NOT NULL REFERENCES reviewers(id),
  verdict TEXT NOT NULL, corrected TEXT, reason TEXT, time TEXT NOT NULL) STRICT;
CREATE INDEX verdicts_of_item ON verdicts (item, reviewer);
CREATE INDEX verdicts_of_reviewer ON verdicts (reviewer, id);
CREATE TABLE leases (
  item INTEGER NOT NULL REFERENCES items(id), reviewer INTEGER NOT NULL REFERENCES reviewers(id), until REAL NOT NULL,
  skipped INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (item, reviewer)) STRICT;
CREATE INDEX leases_of_reviewer ON leases (reviewer);
"""


class BookError(Exception):
    """The book cannot be used, and why; what was to be stored is not."""


class Unsure(BookError):
    """The connection ended at the very end of a transaction: it may be stored or not, and sending it again is safe."""


class Connection(Protocol):
    def execute(self, statement: str, values: Any = (), /) -> Any: ...


class Database(Protocol):
    """name: as people are told it, without a password."""

    name: str

    def exists(self) -> bool:
        """Whether a book was begun here."""

    def begin(self, run: str) -> None:
        """Make the tables, whole or not at all; another process that was first has made them."""

    def open(self) -> None:
        """Called once, when the book is known to be usable."""

    def reading(self) -> AbstractContextManager[Connection]: ...

    def writing(self) -> AbstractContextManager[Connection]:
        """One transaction, the only one that writes. BookError means that nothing of it is stored, Unsure that nobody knows."""

    def close(self) -> None: ...


def is_address(where: Path | str) -> bool:
    """Whether it names a database on a server rather than a file."""
    return isinstance(where, str) and where.startswith(("postgresql://", "postgres://"))


def database_of(where: Path | str) -> Database:
    if is_address(where):
        from pipelines.review.postgres import Postgres

        return Postgres(str(where))
    return Lite(Path(where))


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


class Lite:
    """A file: write-ahead log, synchronous=FULL. Each operation opens it anew and refuses one that is gone, so that nothing is
    written into a file that no name leads to any more."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        self._anchor: sqlite3.Connection | None = None

    def exists(self) -> bool:
        return self.path.exists()

    def begin(self, run: str) -> None:
        path = self.path
        scratch = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            db = sqlite3.connect(scratch, isolation_level=None)
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(
                f"BEGIN; {SCHEMA} INSERT INTO about VALUES ('run', {quoted(run)}), ('double', '0');"
                f"PRAGMA application_id={APPLICATION}; PRAGMA user_version={VERSION}; COMMIT;"
            )
            db.close()
            with suppress(FileExistsError):  # another process was first: its book is taken
                os.link(scratch, path)
            sync_folder(path.parent)
        except (sqlite3.Error, OSError) as error:
            raise BookError(f"{path}: cannot begin the book: {error}") from error
        finally:
            scratch.unlink(missing_ok=True)

    def open(self) -> None:
        # As long as one connection is open, closing the others does not fold the log back into the file each time.
        self._anchor = self._connect()

    def _connect(self) -> sqlite3.Connection:
        try:
            db = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=rw",
                uri=True,
                timeout=BUSY,
                isolation_level=None,
                check_same_thread=False,
            )
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA secure_delete=ON")
            application, version = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        except sqlite3.Error as error:
            raise self._told(error) from error
        if application != APPLICATION:
            db.close()
            raise BookError(f"{self.path} is no book of a review: give another file with --book")
        if version != VERSION:
            db.close()
            raise BookError(
                f"{self.path} was written by another version of fineloom (layout {version}, this one knows {VERSION})"
            )
        return db

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        db = self._connect()
        try:
            yield db
        except sqlite3.Error as error:
            raise self._told(error) from error
        finally:
            db.close()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        db = self._connect()
        try:
            opened = os.stat(self.path)
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
            present = os.stat(self.path)
            if (opened.st_dev, opened.st_ino) != (present.st_dev, present.st_ino):
                raise FileNotFoundError
        except sqlite3.Error as error:
            raise self._told(error) from error
        except OSError as error:
            raise BookError(f"{self.path}: the book was removed or replaced; put it back, then go on") from error
        finally:
            db.close()  # rolls back what was not committed

    def close(self) -> None:
        if self._anchor is not None:
            self._anchor.close()

    def _told(self, error: sqlite3.Error) -> BookError:
        text = str(error)
        if "locked" in text or "busy" in text:
            why = f"another process has held the book for more than {BUSY:g} s; try again"
        elif "unable to open" in text and not self.path.exists():
            why = "the book is not there any more; put it back, then go on"
        elif "full" in text:
            why = "the disk is full"
        elif "readonly" in text:
            why = "the book may not be written to"
        elif "not a database" in text or "malformed" in text or "no such table" in text:
            why = f"this is no book of a review, or a damaged one ({text})"
        else:
            why = text
        return BookError(f"{self.path}: {why}")
