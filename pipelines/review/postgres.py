"""The book of a review in a PostgreSQL database, for a team: its tables are those of the SQLite book, in a schema of their own.

One transaction writes at a time (a lock on the table `about`), as with SQLite, so that two servers on one book never give one item to
two people. `synchronous_commit` is on for each of them, and a server with `fsync` off is refused. The password comes from where
libpq looks for it ($PGPASSWORD, a passfile, a service file); one in the address is refused, since every user of the machine could
read it.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pipelines.review import database
from pipelines.review.database import VERSION, BookError, Connection, Unsure, quoted

try:
    import psycopg
    from psycopg import conninfo, errors
    from psycopg.pq import TransactionStatus
except ImportError:  # an optional extra
    raise BookError("a book on PostgreSQL needs psycopg: pip install 'fineloom[postgres]'") from None

HOME = "fineloom_review"
"""Schema of the tables."""
BEGINNERS = 0x464C5256
"""Advisory lock of those who make the tables."""
KEPT = 8
"""Connections kept open between operations."""
SETTLED = {"connect_timeout": 5, "tcp_user_timeout": 15_000, "application_name": "fineloom review"}
"""Seconds, milliseconds: a server that is gone without a word is found out. What the address says comes first."""
LAYOUT = "SELECT (SELECT value FROM about WHERE name = 'layout'), current_setting('fsync')"


class Postgres:
    def __init__(self, address: str) -> None:
        given: dict[str, Any] = {}
        with suppress(psycopg.ProgrammingError, ValueError):
            given = dict(conninfo.conninfo_to_dict(address))
        if not given:
            raise BookError("--book: expected an address like postgresql://user@host:5432/database")
        if given.get("password") or given.get("sslpassword"):
            raise BookError(
                "--book holds a password, which others on this machine can see: give it by $PGPASSWORD or a passfile (~/.pgpass)"
            )
        self._given = {**SETTLED, **{name: value for name, value in given.items() if value != ""}}
        at = (f"{given['user']}@" if given.get("user") else "") + str(given.get("host") or "")
        self.name = f"postgresql://{at}" + (f":{given['port']}" if given.get("port") else "") + f"/{given.get('dbname') or ''}"
        self._idle: list[psycopg.Connection[Any]] = []
        self._guard = threading.Lock()

    def exists(self) -> bool:
        db = self._connect()
        try:
            return self._there(db)
        except psycopg.Error as error:
            raise self._told(error) from error
        finally:
            db.close()

    def begin(self, run: str) -> None:
        db = self._connect()
        try:
            db.execute("BEGIN")
            db.execute(f"SELECT pg_advisory_xact_lock({BEGINNERS})".encode())
            if not self._there(db):
                db.execute(f"SET LOCAL search_path = {HOME}, pg_temp".encode())
                if not db.execute(f"SELECT 1 FROM pg_namespace WHERE nspname = '{HOME}'".encode()).fetchone():
                    db.execute(f"CREATE SCHEMA {HOME}".encode())
                db.execute(_schema().encode())
                about = f"('run', {quoted(run)}), ('double', '0'), ('layout', '{VERSION}')"
                db.execute(f"INSERT INTO about VALUES {about}".encode())
            db.execute("COMMIT")
        except psycopg.Error as error:
            raise BookError(f"{self.name}: cannot begin the book: {_first_line(error)}") from error
        finally:
            db.close()

    def open(self) -> None:
        pass

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self._transaction("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "") as db:
            yield db

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        held = f"SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = {round(database.BUSY * 1000)}; "
        with self._transaction(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", held + "LOCK TABLE about IN EXCLUSIVE MODE; "
        ) as db:
            yield db

    def close(self) -> None:
        with self._guard:
            idle, self._idle = self._idle, []
        for db in idle:
            db.close()

    @contextmanager
    def _transaction(self, begin: str, settings: str) -> Iterator[Connection]:
        committing = False
        db = self._begun(f"{begin}; SET LOCAL search_path = {HOME}, pg_temp; {settings}{LAYOUT}")
        try:
            yield _Session(db)
            committing = True
            db.execute("COMMIT")
        except psycopg.Error as error:
            raise self._told(error, committing and db.closed) from error
        finally:
            self._give_back(db)

    def _begun(self, statements: str) -> psycopg.Connection[Any]:
        """A connection in a transaction. One that was kept and has ended meanwhile is passed over: nothing was sent on it."""
        while True:
            with self._guard:
                kept = self._idle.pop() if self._idle else None
            db = kept or self._connect()
            try:
                cursor = db.execute(statements.encode())
                while cursor.nextset():
                    pass
                layout, synced = cursor.fetchone() or (None, None)
                break
            except psycopg.Error as error:
                ended = db.closed
                db.close()
                if kept is None or not ended:
                    raise self._told(error) from error
        if layout != str(VERSION) or synced != "on":
            db.close()
        if layout is None:
            raise BookError(f"the schema {HOME} of {self.name} is no book of a review: give another database with --book")
        if layout != str(VERSION):
            told = f"(layout {layout}, this one knows {VERSION})"
            raise BookError(f"the tables of {self.name} (schema {HOME}) were written by another version of fineloom {told}")
        if synced != "on":
            raise BookError(f"{self.name}: the server runs with fsync off, so that a verdict can be lost: turn it on")
        return db

    def _connect(self) -> psycopg.Connection[Any]:
        try:
            # No prepared statements: they do not go together with poolers that give each transaction another connection.
            return psycopg.connect(**self._given, autocommit=True, prepare_threshold=None)
        except (psycopg.Error, UnicodeError) as error:
            raise BookError(f"{self.name}: the database does not answer or does not let us in: {_first_line(error)}") from error

    def _give_back(self, db: psycopg.Connection[Any]) -> None:
        if not db.closed and db.info.transaction_status == TransactionStatus.IDLE:
            with self._guard:
                if len(self._idle) < KEPT:
                    self._idle.append(db)
                    return
        db.close()  # rolls back what was not committed

    def _there(self, db: psycopg.Connection[Any]) -> bool:
        row = db.execute(f"SELECT to_regclass('{HOME}.about') IS NOT NULL".encode()).fetchone()
        return bool(row and row[0])

    def _told(self, error: psycopg.Error, uncertain: bool = False) -> BookError:
        text = _first_line(error)
        if uncertain:
            return Unsure(f"{self.name}: the connection ended meanwhile ({text})")
        if isinstance(error, errors.LockNotAvailable):
            why = f"another process has held the book for more than {database.BUSY:g} s; try again"
        elif isinstance(error, errors.UndefinedTable | errors.InvalidSchemaName):
            why = f"the book is not there (any more), or damaged: put it back, then go on ({text})"
        elif isinstance(error, errors.DiskFull):
            why = f"the server's disk is full ({text})"
        elif isinstance(error, errors.InsufficientPrivilege):
            why = f"this user may not do that ({text}); the tables belong to who began the review"
        elif isinstance(error, errors.ReadOnlySqlTransaction):
            why = f"the book may not be written to ({text})"
        elif isinstance(error, psycopg.OperationalError):
            why = f"the database was stopped or cannot be reached; go on when it is back ({text})"
        else:
            why = text
        return BookError(f"{self.name}: {why}")


class _Session:
    def __init__(self, db: psycopg.Connection[Any]) -> None:
        self._db = db

    def execute(self, statement: str, values: Any = (), /) -> Any:
        return self._db.execute(_translated(statement), values or None)


@functools.lru_cache(256)
def _translated(statement: str) -> bytes:
    """Marks of values as psycopg has them."""
    return re.sub(r":([a-z]+)", r"%(\1)s", statement).replace("?", "%s").encode()


def _schema() -> str:
    """The tables in PostgreSQL's words. Texts are compared by their bytes, so that no library's update reorders an index."""
    text = database.SCHEMA.replace(" STRICT", "").replace(" REAL", " DOUBLE PRECISION")
    text = text.replace("INTEGER PRIMARY KEY", "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY").replace("INTEGER", "BIGINT")
    return text.replace(" TEXT", ' TEXT COLLATE "C"')


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
