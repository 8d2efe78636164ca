"""Honour what people said of doubtful translations or captions: keep, throw away, or take their wording.

Reads    `source`        string or list<string>, the text that was translated
         `column`        the same shape, its translation; null where it was refused
Writes   `column`        as before, with what a person approved put back and what a person rejected taken away
         `column`_human  the same shape: the reviewers' own wording, where they gave one; the translation is then null
Refuses  items, see `reasons`
Source   DCI-CN, DOCCI-CN: translations checked by native speakers for fluency and fidelity

Captions are judged against the picture: give `source: sha256`, `column: long_caption_en`.

`file` holds one JSON object a line, as `fineloom review export` writes them and people fill them in (docs/recipes.md). A verdict holds
for the pair of texts that was shown: when the source text is another one now, it says nothing. The file's content, not its
place, is part of what this stage was made from; it is read once, when the recipe is loaded.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import pyarrow as pa
from PIL import Image
from pydantic import Field, PrivateAttr, model_validator

from operators.base import Operator, Outcome, Reject, keep
from operators.columns import BASE
from operators.validators import characters

VERDICTS = ("accept", "reject", "correct")
MAX_LINE = 1 << 20
MAX_TEXT = 20_000
MAX_REASON = 2_000


@dataclass(frozen=True)
class Review:
    """One person's verdict on one pair. `place` is the entry of a list column, None for a plain one; `why` a refusal's reason."""

    uid: str
    column: str
    place: int | None
    source: str
    shown: str | None
    verdict: Literal["accept", "reject", "correct"]
    corrected: str | None
    reviewer: str
    time: str
    why: str | None = None

    @property
    def pair(self) -> tuple[str, str, int | None, str]:
        return self.uid, self.column, self.place, key(self.source)


def key(text: str) -> str:
    return sha256(" ".join(text.split()).encode("utf-8", "replace")).hexdigest()[:16]


def read_reviews(path: Path) -> tuple[list[Review], list[tuple[int, str]], int]:
    """The verdicts in a file; bad lines as (line number, what is wrong); lines that nobody has filled in yet."""
    reviews: list[Review] = []
    bad: list[tuple[int, str]] = []
    waiting = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                review = parse_review(line)
            except ValueError as error:
                bad.append((number, str(error)))
                continue
            if review is None:
                waiting += 1
            else:
                reviews.append(review)
    return reviews, bad, waiting


def parse_review(line: bytes) -> Review | None:
    """A verdict, None where there is none yet. ValueError says what is wrong."""
    if len(line) > MAX_LINE:
        raise ValueError(f"{len(line)} bytes, more than {MAX_LINE}")
    try:
        raw = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_each_key_once)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise ValueError(f"a {type(raw).__name__}, expected an object")
    if raw.get("verdict") in (None, ""):
        return None
    for name in ("uid", "column", "source", "verdict", "reviewer", "time"):
        if not isinstance(raw.get(name), str) or not raw[name].strip():
            raise ValueError(f"{name} is {json.dumps(raw.get(name), ensure_ascii=False)[:60]}, expected a text")
    if not re.fullmatch("[0-9a-f]{32}", raw["uid"]):
        raise ValueError(f"uid is {raw['uid'][:40]!r}, expected 32 hex digits")
    if raw["verdict"] not in VERDICTS:
        raise ValueError(f"verdict is {raw['verdict'][:40]!r}, expected one of {', '.join(VERDICTS)}")
    place, shown, corrected = raw.get("place"), raw.get("translation"), raw.get("corrected")
    if place is not None and (isinstance(place, bool) or not isinstance(place, int) or place < 0):
        raise ValueError(f"place is {place!r}, expected a number from 0 on, or null")
    if not isinstance(shown, str | None) or not isinstance(corrected, str | None):
        raise ValueError("translation and corrected must be texts or null")
    try:
        datetime.fromisoformat(raw["time"])
    except ValueError:
        raise ValueError(f"time is {raw['time'][:40]!r}, expected ISO 8601 as in 2026-11-22T10:00:00+08:00") from None
    if raw["verdict"] == "correct":
        corrected = characters.clean(corrected or "").strip()
        if not corrected:
            raise ValueError("verdict is correct, but there is no corrected text")
        if len(corrected) > MAX_TEXT or characters.control_characters(corrected):
            raise ValueError("the corrected text is too long or holds control characters")
    if raw["verdict"] == "accept" and not (shown or "").strip():
        raise ValueError("verdict is accept, but no translation was shown")
    reason = raw.get("reason")
    if not isinstance(reason, str | None) or len(reason or "") > MAX_REASON:
        raise ValueError(f"reason must be a text of at most {MAX_REASON:,} characters, or null")
    verdict = cast(Literal["accept", "reject", "correct"], raw["verdict"])
    mended = corrected if verdict == "correct" else None
    reviewer, why = raw["reviewer"].strip(), (reason or "").strip() or None
    return Review(raw["uid"], raw["column"], place, raw["source"], shown, verdict, mended, reviewer, raw["time"], why)


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A verdict beside the empty one that stood there: whichever counted, a person's other word would be lost."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key stands twice")
    return made


def settle(reviews: Sequence[Review]) -> dict[tuple[str, str, int | None, str], Review | None]:
    """One verdict a pair: the majority of reviewers, each by the last thing they said; None where they are divided."""
    by_pair: dict[tuple[str, str, int | None, str], dict[str, Review]] = defaultdict(dict)
    for review in sorted(reviews, key=lambda review: moment_of(review.time)):
        by_pair[review.pair][review.reviewer] = review
    settled: dict[tuple[str, str, int | None, str], Review | None] = {}
    for pair, of_reviewers in by_pair.items():
        said = list(of_reviewers.values())
        votes = {verdict: [r for r in said if r.verdict == verdict] for verdict in VERDICTS}
        most = max(len(found) for found in votes.values())
        winners = [found for found in votes.values() if len(found) == most]
        settled[pair] = max(winners[0], key=lambda review: moment_of(review.time)) if len(winners) == 1 else None
    return settled


def moment_of(text: str) -> tuple[float, str]:
    """When it was, whatever the time zone it is told in; what orders one reviewer's words."""
    moment = datetime.fromisoformat(text)
    return (moment.timestamp() if moment.tzinfo else moment.replace(tzinfo=None).timestamp()), text


def told_by(review: Review) -> str:
    return f"by {review.reviewer}: {review.why}" if review.why else f"by {review.reviewer}"


class FromReviews(Operator):
    """What every operator that honours a review file has: the file, and its settled verdicts on one column."""

    column: str = ""
    file: str | None = Field(None, exclude=True, description="JSON lines of reviewers; none: nothing was reviewed")
    content: str = Field("", description="filled in: what the file says, as a checksum")
    doubtful: str | None = Field(
        None, exclude=True, description="which ones people are asked about, an expression (docs/recipes.md)"
    )

    _settled: dict[tuple[str, str, int | None, str], Review | None] = PrivateAttr(default_factory=dict)
    _known: set[tuple[str, int | None]] = PrivateAttr(default_factory=set)

    @model_validator(mode="after")
    def _read(self) -> Self:
        if self.file is None:
            return self
        path = Path(self.file)
        if not path.is_file():
            raise ValueError(f"file: no such file {self.file}; leave it out until there are reviews")
        reviews, bad, _ = read_reviews(path)
        if bad:
            lines = "; ".join(f"line {number}: {why}" for number, why in bad[:5])
            raise ValueError(f"file: {self.file}: {len(bad)} bad lines ({lines}). `fineloom review import` leaves them out")
        self._settled.update({pair: review for pair, review in settle(reviews).items() if pair[1] == self.column})
        self._known.update((uid, place) for uid, _, place, _ in self._settled)
        plain = sorted(
            json.dumps([*pair, review and [review.verdict, review.shown, review.corrected]])
            for pair, review in self._settled.items()
        )
        object.__setattr__(self, "content", sha256("\n".join(plain).encode()).hexdigest())
        return self


class Reviewed(FromReviews):
    column: str = "translation_zh"
    source: str = "long_caption_en"
    many: bool = Field(False, description="the columns are lists of texts")

    version: ClassVar[int] = 2
    reasons: ClassVar[dict[str, str]] = {
        "rejected": "a reviewer rejected the text",
        "disputed": "reviewers are divided, so the text is left out",
        "stale": "a verdict on another source text than the present one; it is not used",
    }

    def _kind(self) -> pa.DataType:
        return pa.list_(pa.string()) if self.many else pa.string()

    @property
    def reads(self) -> pa.Schema:
        known = {field.name: field.type for field in BASE}
        return pa.schema([(self.source, known.get(self.source, self._kind())), (self.column, self._kind())])

    @property
    def writes(self) -> pa.Schema:
        return pa.schema([(self.column, self._kind()), (f"{self.column}_human", self._kind())])

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        items: list[Reject] = []
        machine: list[Any] = []
        human: list[Any] = []
        columns = (batch[name].to_pylist() for name in ("uid", self.source, self.column))
        for uid, source, made in zip(*columns, strict=True):
            kept: Any
            own: Any
            if not self.many:
                kept, own = self._judge(uid, None, source, made, items)
            else:
                texts = list(source or [])
                old = list(made or []) + [None] * (len(texts) - len(made or []))
                pairs = [self._judge(uid, i, text, old[i], items) for i, text in enumerate(texts)]
                kept, own = [first for first, _ in pairs], [second for _, second in pairs]
            machine.append(kept)
            human.append(own)
        kind = self._kind()
        made_columns = {self.column: pa.array(machine, kind), f"{self.column}_human": pa.array(human, kind)}
        return keep(batch.select(["uid"]), made_columns, items=items)

    def _judge(
        self, uid: str, place: int | None, source: str | None, made: str | None, items: list[Reject]
    ) -> tuple[str | None, str | None]:
        """(the machine's text, the reviewer's text) of one pair."""
        if (uid, place) not in self._known:
            return made, None
        item = self.column if place is None else f"{self.column}[{place}]"
        pair = (uid, self.column, place, key(source or ""))
        if pair not in self._settled:
            items.append(Reject(uid, "stale", "the text that was reviewed is no longer the one that is translated", item))
            return made, None
        review = self._settled[pair]
        if review is None:
            items.append(Reject(uid, "disputed", "as many reviewers for as against", item))
            return None, None
        if review.verdict == "correct":
            return None, review.corrected
        if review.verdict == "accept":
            return review.shown, None
        if made is not None and review.shown is not None and " ".join(made.split()) != " ".join(review.shown.split()):
            return made, None  # what was rejected was another translation
        items.append(Reject(uid, "rejected", told_by(review), item))
        return None, None
