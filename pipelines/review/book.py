"""The book of a review: what people are asked, who they are, and every verdict, in an SQLite file or a PostgreSQL database.

A verdict is on the disk before the page says so and is never changed: the last one of a reviewer counts. How it gets there is the
database's (database.py, postgres.py). Tokens and sessions are kept as checksums only.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from operators.reviewed import key
from pipelines.review.database import BookError, Connection, database_of

LEASE = 30 * 60
"""Seconds for which an item that was shown is kept from others."""
SESSION_DAYS = 30


class Taken(Exception):
    """Another reviewer has the item, or judged it: `by`, `verdict` and `time`, or empty texts while they are at it."""

    def __init__(self, by: str, verdict: str = "", time: str = "") -> None:
        super().__init__(by)
        self.by, self.verdict, self.time = by, verdict, time


@dataclass(frozen=True)
class Item:
    """content: column, place, source, shown, language, why, scores, box, width, height, and what its kind has beside."""

    id: int
    stage: str
    shard: int
    uid: str
    kind: str
    content: dict[str, Any]


@dataclass(frozen=True)
class Reviewer:
    id: int
    name: str
    csrf: str
    session: str


def mark_of(uid: str, content: dict[str, Any]) -> str:
    """The same sample, place, source and text are one item, whichever run of the stage they come from."""
    told = [uid, content["column"], content["place"], key(content["source"]), content["shown"]]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def now() -> datetime:
    return datetime.now(UTC)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


class Book:
    def __init__(self, where: Path | str, run: str | None, double: float | None = None, lease: float = LEASE) -> None:
        """Open the book of the run, or begin it; with run None open whatever book it is.

        where: a file, or the address of a database.
        double: share of items that two people judge; None: as it was."""
        self.at, self.lease = database_of(where), lease
        if run is not None and not self.at.exists():
            self.at.begin(run)
        with self.reading() as db:
            about = dict(db.execute("SELECT name, value FROM about"))
        if run not in (None, about.get("run")):
            raise BookError(
                f"{self.at.name} is the book of the run {about.get('run')}, not of {run}: give another one with --book"
            )
        self.double = float(about["double"]) if double is None else double
        if self.double != float(about["double"]):
            with self.writing() as db:
                db.execute("UPDATE about SET value = ? WHERE name = 'double'", (str(self.double),))
                for item, mark in db.execute("SELECT id, mark FROM items").fetchall():
                    db.execute("UPDATE items SET need = ? WHERE id = ?", (self._need(mark), item))
                db.execute(f"UPDATE items SET done = {_DONE}")
        self.at.open()

    def reading(self) -> AbstractContextManager[Connection]:
        return self.at.reading()

    def writing(self) -> AbstractContextManager[Connection]:
        """One transaction; BookError means that nothing of it is stored."""
        return self.at.writing()

    def close(self) -> None:
        self.at.close()

    # People.

    def invite(self, name: str) -> str:
        """A new token for a reviewer, the only one from now on; sessions of the old one end."""
        token = secrets.token_urlsafe(24)
        with self.writing() as db:
            db.execute("INSERT INTO reviewers (name, created) VALUES (?, ?) ON CONFLICT DO NOTHING", (name, now().isoformat()))
            db.execute("UPDATE reviewers SET token = ? WHERE name = ?", (_digest(token), name))
            db.execute("DELETE FROM sessions WHERE reviewer = (SELECT id FROM reviewers WHERE name = ?)", (name,))
        return token

    def revoke(self, name: str) -> bool:
        """End a reviewer's link and sessions; verdicts stay. False where there is no such reviewer."""
        with self.writing() as db:
            known = db.execute("UPDATE reviewers SET token = NULL WHERE name = ?", (name,)).rowcount
            db.execute("DELETE FROM sessions WHERE reviewer = (SELECT id FROM reviewers WHERE name = ?)", (name,))
            db.execute("DELETE FROM leases WHERE reviewer = (SELECT id FROM reviewers WHERE name = ?)", (name,))
        return bool(known)

    def names(self) -> list[str]:
        with self.reading() as db:
            return [name for (name,) in db.execute("SELECT name FROM reviewers WHERE token IS NOT NULL ORDER BY name")]

    def enter(self, token: str) -> str | None:
        """A session for whoever holds the token, None for a wrong one."""
        session = secrets.token_urlsafe(24)
        with self.writing() as db:
            found = db.execute("SELECT id FROM reviewers WHERE token = ?", (_digest(token),)).fetchone()
            if found is None:
                return None
            db.execute("DELETE FROM sessions WHERE until < ?", (now().timestamp(),))
            until = (now() + timedelta(days=SESSION_DAYS)).timestamp()
            row = _digest(session), found[0], secrets.token_urlsafe(24), until
            db.execute("INSERT INTO sessions VALUES (?, ?, ?, ?)", row)
        return session

    def leave(self, session: str) -> None:
        with self.writing() as db:
            db.execute("DELETE FROM sessions WHERE id = ?", (_digest(session),))

    def who(self, session: str) -> Reviewer | None:
        with self.reading() as db:
            found = db.execute(
                "SELECT r.id, name, csrf FROM sessions s JOIN reviewers r ON reviewer = r.id WHERE s.id = ? AND until > ?",
                (_digest(session), now().timestamp()),
            ).fetchone()
        return Reviewer(found[0], found[1], found[2], session) if found else None

    # What people are asked.

    def _need(self, mark: str) -> int:
        return 2 if int(mark[:8], 16) < self.double * 2**32 else 1

    def stamps(self) -> dict[tuple[str, int], str]:
        """Which state of which stage and shard was gone through."""
        with self.reading() as db:
            return {(stage, shard): stamp for stage, shard, stamp in db.execute("SELECT * FROM shards")}

    def fill(self, stage: str, shard: int, stamp: str, found: Iterable[tuple[str, str, float, dict[str, Any]]]) -> int:
        """Take in what is doubtful of a shard: uid, kind, rank (lowest first), content. What it no longer has is no longer asked."""
        added = 0
        with self.writing() as db:
            db.execute("UPDATE items SET gone = 1 WHERE stage = ? AND shard = ?", (stage, shard))
            for uid, kind, rank, content in found:
                mark = mark_of(uid, content)
                row = mark, stage, shard, uid, kind, rank, self._need(mark), json.dumps(content, ensure_ascii=True, default=str)
                added += db.execute(
                    "INSERT INTO items (mark, stage, shard, uid, kind, rank, need, content) VALUES (?,?,?,?,?,?,?,?) "
                    "ON CONFLICT DO NOTHING",
                    row,
                ).rowcount
                db.execute(
                    "UPDATE items SET gone = 0, stage = ?, shard = ?, content = ? WHERE mark = ?", (stage, shard, row[-1], mark)
                )
            db.execute(
                "INSERT INTO shards VALUES (?, ?, ?) ON CONFLICT (stage, shard) DO UPDATE SET stamp = excluded.stamp",
                (stage, shard, stamp),
            )
        return added

    def forget(self, uids: Sequence[str]) -> int:
        """Remove samples that were taken down, with everything that was said of them."""
        with self.reading() as db:
            some = [uid for uid in uids if db.execute("SELECT 1 FROM items WHERE uid = ? LIMIT 1", (uid,)).fetchone()]
        if not some:
            return 0
        with self.writing() as db:
            for uid in some:
                mine = "(SELECT id FROM items WHERE uid = ?)"
                db.execute(f"DELETE FROM verdicts WHERE item IN {mine}", (uid,))
                db.execute(f"DELETE FROM leases WHERE item IN {mine}", (uid,))
                db.execute("DELETE FROM items WHERE uid = ?", (uid,))
        return len(some)

    def item(self, number: int) -> Item | None:
        with self.reading() as db:
            return _item(db.execute(f"{_ITEM} WHERE id = ? AND gone = 0", (number,)).fetchone())

    def next(self, reviewer: int) -> Item | None:
        """The item in hand, else the most doubtful one that nobody else has or judged; skipped ones come last."""
        with self.writing() as db:
            moment = now().timestamp()
            held = db.execute(
                "SELECT item FROM leases JOIN items ON items.id = item WHERE reviewer = ? AND skipped = 0 AND leases.until > ? AND "
                "gone = 0 AND done = 0 AND NOT EXISTS (SELECT 1 FROM verdicts v WHERE v.item = items.id AND v.reviewer = ?) "
                "ORDER BY rank, item LIMIT 1",
                (reviewer, moment, reviewer),
            ).fetchone()
            found = held or self._free(db, reviewer, moment, 0) or self._free(db, reviewer, moment, 1)
            if found is None:
                return None
            self._hold(db, found[0], reviewer, moment)
            return _item(db.execute(f"{_ITEM} WHERE id = ?", found).fetchone())

    def _free(self, db: Connection, reviewer: int, moment: float, skipped: int) -> tuple[int] | None:
        skips = "EXISTS (SELECT 1 FROM leases l WHERE l.item = items.id AND l.reviewer = :me AND l.skipped = 1)"
        found: tuple[int] | None = db.execute(
            f"""SELECT id FROM items WHERE done = 0 AND gone = 0 AND {skips if skipped else f"NOT {skips}"}
            AND NOT EXISTS (SELECT 1 FROM verdicts v WHERE v.item = items.id AND v.reviewer = :me)
            AND need > (SELECT count(*) FROM (
              SELECT reviewer FROM verdicts v WHERE v.item = items.id AND v.reviewer != :me
              UNION SELECT reviewer FROM leases l WHERE l.item = items.id AND l.reviewer != :me AND skipped = 0 AND until > :now)
              AS others)
            ORDER BY rank, id LIMIT 1""",
            {"me": reviewer, "now": moment},
        ).fetchone()
        return found

    def _hold(self, db: Connection, item: int, reviewer: int, moment: float) -> None:
        db.execute(_LEASE, (item, reviewer, moment + self.lease, 0))

    def skip(self, item: int, reviewer: int) -> None:
        with self.writing() as db:
            db.execute(_LEASE, (item, reviewer, 0.0, 1))

    def hold(self, item: int, reviewer: int) -> Taken | None:
        """Keep it for this reviewer, or say who else has it or judged it, if that leaves no room."""
        with self.writing() as db:
            taken = _taken(db, item, reviewer)
            if taken is None:
                self._hold(db, item, reviewer, now().timestamp())
            return taken

    # Verdicts.

    def store(
        self, item: int, reviewer: int, verdict: str, corrected: str | None, reason: str | None, second: bool = False
    ) -> str:
        """Store one; returns its time. Taken where others had their say meanwhile, unless it is meant as a second opinion."""
        with self.writing() as db:
            if db.execute("SELECT 1 FROM items WHERE id = ? AND gone = 0", (item,)).fetchone() is None:
                raise BookError("this item is no longer asked: the run changed, or the sample was taken down")
            last = db.execute(
                "SELECT verdict, corrected, reason, time FROM verdicts WHERE item = ? AND reviewer = ? ORDER BY id DESC LIMIT 1",
                (item, reviewer),
            ).fetchone()
            if last and last[:3] == (verdict, corrected, reason):
                return str(last[3])  # sent twice
            taken = None if last or second else _taken(db, item, reviewer)
            if taken is not None:
                raise taken
            moment = now()
            if last:  # the last one counts by its time: never before the earlier one, whatever the clock does
                moment = max(moment, datetime.fromisoformat(last[3]) + timedelta(milliseconds=1))
            time = moment.isoformat(timespec="milliseconds")
            row = item, reviewer, verdict, corrected, reason, time
            db.execute("INSERT INTO verdicts (item, reviewer, verdict, corrected, reason, time) VALUES (?,?,?,?,?,?)", row)
            db.execute("DELETE FROM leases WHERE item = ? AND reviewer = ?", (item, reviewer))
            db.execute(f"UPDATE items SET done = {_DONE} WHERE id = ?", (item,))
        return time

    def said(self, item: int, reviewer: int) -> dict[str, Any] | None:
        """What this reviewer last said of it."""
        with self.reading() as db:
            found = db.execute(
                "SELECT verdict, corrected, reason, time FROM verdicts WHERE item = ? AND reviewer = ? ORDER BY id DESC LIMIT 1",
                (item, reviewer),
            ).fetchone()
        return dict(zip(("verdict", "corrected", "reason", "time"), found, strict=True)) if found else None

    def own(self, reviewer: int, limit: int) -> list[tuple[Item, dict[str, Any]]]:
        """The reviewer's last verdicts, the newest first."""
        with self.reading() as db:
            rows = db.execute(
                "SELECT items.id, stage, shard, uid, kind, content, verdict, corrected, reason, time FROM verdicts JOIN items ON "
                "items.id = item WHERE reviewer = ? AND gone = 0 AND verdicts.id IN (SELECT max(id) FROM verdicts WHERE reviewer = ? "
                "GROUP BY item) ORDER BY verdicts.id DESC LIMIT ?",
                (reviewer, reviewer, limit),
            ).fetchall()
        names = ("verdict", "corrected", "reason", "time")
        return [(_known(row[:6]), dict(zip(names, row[6:], strict=True))) for row in rows]

    def lines(self) -> Iterator[dict[str, Any]]:
        """Every verdict as a line of the review file, in the order in which they were given."""
        with self.reading() as db:
            rows = db.execute(
                "SELECT uid, content, verdict, corrected, reason, name, time FROM verdicts JOIN items ON items.id = item "
                "JOIN reviewers ON reviewers.id = reviewer ORDER BY verdicts.id"
            )
            for uid, content, verdict, corrected, reason, name, time in rows:
                told = json.loads(content)
                line = {"uid": uid, "column": told["column"], "place": told["place"], "source": told["source"]}
                line |= {"translation": told["shown"], "verdict": verdict, "corrected": corrected, "reason": reason}
                yield line | {"reviewer": name, "time": time}

    def progress(self) -> dict[str, Any]:
        """Items by stage: all, judged, in hand; verdicts by reviewer."""
        with self.reading() as db:
            stages = {
                stage: {"items": items, "done": done, "double": double}
                for stage, items, done, double in db.execute(
                    "SELECT stage, count(*), count(CASE WHEN done = 1 THEN 1 END), count(CASE WHEN need = 2 THEN 1 END) "
                    "FROM items WHERE gone = 0 GROUP BY stage ORDER BY stage"
                )
            }
            people: dict[str, dict[str, Any]] = {}
            for name, verdict, count, last in db.execute(
                "SELECT name, verdict, count(*), max(time) FROM reviewers r LEFT JOIN verdicts v ON r.id = reviewer "
                "AND v.id IN (SELECT max(id) FROM verdicts GROUP BY item, reviewer) GROUP BY name, verdict ORDER BY name"
            ):
                row = people.setdefault(name, {"accept": 0, "correct": 0, "reject": 0, "last": None})
                if verdict:
                    row[verdict] = count
                    row["last"] = max(last, row["last"] or "")
            in_hand = db.execute(
                "SELECT count(*) FROM leases WHERE skipped = 0 AND until > ?", (now().timestamp(),)
            ).fetchone()[0]
        return {"stages": stages, "reviewers": people, "in_hand": in_hand}


_ITEM = "SELECT id, stage, shard, uid, kind, content FROM items"
_DONE = "CASE WHEN need <= (SELECT count(DISTINCT reviewer) FROM verdicts WHERE item = items.id) THEN 1 ELSE 0 END"
_LEASE = (
    "INSERT INTO leases VALUES (?, ?, ?, ?) "
    "ON CONFLICT (item, reviewer) DO UPDATE SET until = excluded.until, skipped = excluded.skipped"
)


def _known(row: tuple) -> Item:
    number, stage, shard, uid, kind, content = row[:6]
    return Item(number, stage, shard, uid, kind, json.loads(content))


def _item(row: tuple | None) -> Item | None:
    return _known(row) if row else None


def _taken(db: Connection, item: int, reviewer: int) -> Taken | None:
    """None while there is room for this reviewer, who may have judged it before."""
    rows = db.execute(
        "SELECT name, verdict, time FROM verdicts v JOIN reviewers r ON r.id = reviewer WHERE item = ? AND r.id != ? ORDER BY v.id",
        (item, reviewer),
    ).fetchall()
    holders = db.execute(
        "SELECT name, '', '' FROM leases JOIN reviewers r ON r.id = reviewer "
        "WHERE item = ? AND r.id != ? AND skipped = 0 AND until > ?",
        (item, reviewer, now().timestamp()),
    ).fetchall()
    need = db.execute("SELECT need FROM items WHERE id = ?", (item,)).fetchone()
    others = {name: (name, verdict, time) for name, verdict, time in [*holders, *rows]}
    return Taken(*list(others.values())[-1]) if need and len(others) >= need[0] else None


def is_book(path: Path) -> bool:
    """Whether the file is a book rather than JSON lines."""
    with open(path, "rb") as file:
        return file.read(16) == b"SQLite format 3\0"
