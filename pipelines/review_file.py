"""Doubtful translations out to people as JSON lines, and their verdicts back in.

export_doubtful   pairs that the validators refused, or that an expression over the scores picks, one a line with empty verdict
merge_reviews     lines that people filled in: bad ones named, good ones in one file for `stages.reviewed.file`, and how far they agree

The line's form and what a verdict does are operators/reviewed.py's.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from operators import answers
from operators.base import Answer
from operators.expressions import Expression
from operators.reviewed import VERDICTS, Review, moment_of, parse_review, read_reviews, settle
from operators.translate import Translate, segment
from operators.validators import characters
from pipelines.answers import AnswerStore
from pipelines.chain import Chain
from pipelines.config import ConfigError, Stage
from pipelines.durable import create_if_absent, read_table
from pipelines.ledger import Entry, shard_name
from pipelines.model_client import ModelClient
from pipelines.review.book import Book, is_book
from pipelines.review.database import BookError, is_address
from pipelines.run import reach
from pipelines.view import View, read_columns

DOUBTFUL = "judge < 0.9 or back < 0.5"
"""Which accepted pairs people should see: the model's own rubric finds an error in them, or little of the English comes back."""
COLUMNS = pa.schema({"judge": pa.float32(), "back": pa.float32(), "chars": pa.int32(), "refused": pa.bool_()})


def export_doubtful(
    chain: Chain, stage_name: str | None, out: Path, doubtful: str = DOUBTFUL, limit: int | None = None
) -> tuple[int, int]:
    """Write the pairs; returns how many, and how many of them were refused. Refuses to write over a file.

    stage_name None: the recipe's only stage that translates
    doubtful   over judge, back (null where they were not asked for), chars (of the translation) and refused; refused pairs are
               always in
    """
    theirs = _translations(chain)
    if stage_name is None and len(theirs) == 1:
        stage_name = theirs[0]
    elif stage_name is None:
        raise ConfigError(f"--stage is needed: this recipe's translations are: {', '.join(theirs) or 'none'}")
    stage = chain.recipe.stage(stage_name)
    if stage_name not in theirs:
        raise ConfigError(f"stage {stage_name} is no translation; this recipe's are: {', '.join(theirs) or 'none'}")
    try:
        expression = Expression(doubtful)
        expression.check(COLUMNS)
    except ValueError as error:
        raise ConfigError(f"--doubtful: {error}") from error
    lines: list[bytes] = []
    refused = 0
    for before, entry in _committed(chain, stage):
        found = pairs_of(chain, stage, before, entry)
        if not found:
            continue
        table = pa.table({name: pa.array([pair[name] for pair in found], COLUMNS.field(name).type) for name in COLUMNS.names})
        picked = expression.evaluate(table).to_pylist()
        for pair, pick in zip(found, picked, strict=True):
            if pair["refused"] or pick is True or unheard(stage.operator, pair):
                refused += pair.pop("refused")
                pair.pop("chars")
                empty = dict.fromkeys(("verdict", "corrected", "reviewer", "time"))
                lines.append(json.dumps({**pair, **empty}, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n")
            if limit is not None and len(lines) >= limit:
                break
        if limit is not None and len(lines) >= limit:
            break
    if not lines:
        raise ConfigError(f"no pair of stage {stage_name} is doubtful by {doubtful!r}, and none was refused: nothing to write")
    if not create_if_absent(out.absolute(), b"".join(lines)):
        raise ConfigError(f"{out} is there already and is not overwritten; people may have written in it")
    return len(lines), refused


def unheard(operator: Translate, pair: dict[str, Any]) -> bool:
    """Whether an opinion was asked for and none came that could be used: no score speaks for the pair."""
    return (operator.judge and pair["judge"] is None) or (operator.back_translate and pair["back"] is None)


def _translations(chain: Chain) -> list[str]:
    return [s.name for s in chain.recipe.stages if s.kind == "model" and isinstance(s.operator, Translate)]


def _committed(chain: Chain, stage: Stage) -> Iterator[tuple[View, Entry]]:
    """The view before the stage and its entry, for every shard that has come so far."""
    found = False
    for shard, (view, _) in reach(chain, chain.shards()).items():
        before = View(shard)
        for name, fingerprint in view.entries.items():
            entry = chain.ledger.get(name, fingerprint, shard)
            assert entry is not None
            if name == stage.name:
                found = True
                yield before, entry
                break
            before = before.after(entry)
    if not found:
        raise ConfigError(f"{chain.run}: stage {stage.name} has not been run with these settings yet")


def pairs_of(chain: Chain, stage: Stage, before: View, entry: Entry) -> list[dict[str, Any]]:
    """Every pair of a shard, refused ones with the translation that was refused, as far as the store still has it."""
    operator: Translate = stage.operator
    rows = read_columns(chain.run, before, stage.reads(), stage.optional())
    made = {row["uid"]: row for row in read_table(chain.run / entry.files["data"].path).to_pylist()}
    reasons: dict[tuple[str, str], str] = {}
    for reject in read_table(chain.run / entry.files["rejects"].path).to_pylist():
        if reject["item"] is not None:
            reasons[reject["uid"], reject["item"]] = f"{reject['reason']}: {reject['detail']}"
    pairs: list[dict[str, Any]] = []
    for sample in rows.to_pylist():
        given, out = sample[operator.column], made.get(sample["uid"], {})
        texts = list(given or []) if operator.many else [given]
        for place, source in enumerate(texts):
            if not source or not source.strip():
                continue

            def entry_of(name: str, out: dict[str, Any] = out, place: int = place) -> Any:
                value = out.get(name)
                return (value[place] if value and place < len(value) else None) if operator.many else value

            item = f"{operator.into}[{place}]" if operator.many else operator.into
            translation = entry_of(operator.into)
            pairs.append(
                {
                    "uid": sample["uid"],
                    "column": operator.into,
                    "place": place if operator.many else None,
                    "source": source,
                    "translation": translation,
                    "why": reasons.get((sample["uid"], item), ""),
                    "judge": entry_of(f"{operator.into}_judge"),
                    "back": entry_of(f"{operator.into}_back"),
                    "chars": len(translation or ""),
                    "refused": translation is None,
                }
            )
    if any(pair["refused"] for pair in pairs):
        asyncio.run(_recover(chain, stage, before, rows.to_pylist(), pairs))
    return pairs


class _NotStored(LookupError):
    pass


class _Offline(ModelClient):
    """A client that knows who answered and asks nobody."""

    async def identity(self) -> dict[str, Any]:
        return self._identity or {}

    async def _request(self, *_: Any) -> dict[str, Any]:
        raise _NotStored


async def _recover(chain: Chain, stage: Stage, before: View, rows: list[dict[str, Any]], pairs: list[dict[str, Any]]) -> None:
    """Let the operator ask again from the store alone, to learn what it was told and refused."""
    operator: Translate = stage.operator
    wanted = {pair["uid"] for pair in pairs if pair["refused"]}
    client = _Offline(chain.recipe.model, chain.identity)
    store = AnswerStore(chain.run / "answers" / stage.name / shard_name(before.shard), "review")
    told: dict[str, Answer] = {}
    try:
        for sample in rows:
            if sample["uid"] not in wanted:
                continue
            inner = client.ask_for(store, sample.get("sha256"), chain.prompts)

            async def ask(prompt: str, variables: dict[str, Any], *rest: Any, inner: Any = inner) -> Answer:
                answer: Answer = await inner(prompt, variables, *rest)
                if prompt == operator.prompt:
                    told[variables["text"]] = answer
                return answer

            try:
                await operator(sample, None, ask)  # type: ignore[arg-type]
            except _NotStored:
                continue
    finally:
        await client.close()
    for pair in pairs:
        if pair["refused"]:
            pieces = segment(characters.clean(pair["source"]).replace("\n", " "), operator.segment_words)
            pair["translation"] = "".join(_words(told[piece]) for piece in pieces if piece in told) or None


def _words(answer: Answer) -> str:
    try:
        return characters.clean(answers.read_text(answer, "translation")[0])
    except answers.Unusable:
        return ""


# Back from the people.


@dataclass
class Merged:
    """kappas   reviewer, reviewer, Cohen's κ (None: chance alone explains all), pairs that both judged"""

    reviews: int = 0
    waiting: int = 0
    pairs: int = 0
    disputed: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    bad: list[tuple[str, int, str]] = field(default_factory=list)
    kappas: list[tuple[str, str, float | None, int]] = field(default_factory=list)


def merge_reviews(files: Sequence[Path | str], out: Path) -> Merged:
    """Read what people filled in (files, books, addresses of books), write the good lines to the new file `out`; say what is wrong
    with the others."""
    merged = Merged()
    reviews: list[Review] = []
    for file in files:
        at_server = is_address(file)
        if not at_server and not Path(file).is_file():
            raise ConfigError(f"{file}: no such file")
        found, bad, waiting = _of_book(file) if at_server or is_book(Path(file)) else read_reviews(Path(file))
        reviews += found
        merged.waiting += waiting
        merged.bad += [(str(file), number, why) for number, why in bad]
    settled = settle(reviews)
    merged.reviews, merged.pairs = len(reviews), len(settled)
    merged.disputed = sum(review is None for review in settled.values())
    merged.verdicts = {v: sum(r is not None and r.verdict == v for r in settled.values()) for v in VERDICTS}
    merged.kappas = agreement(reviews)
    if not reviews:
        why = f"; line {merged.bad[0][1]} of {merged.bad[0][0]}: {merged.bad[0][2]}" if merged.bad else ""
        raise ConfigError(f"no line has a usable verdict ({merged.waiting} are not filled in, {len(merged.bad)} are bad{why})")
    lines = dict.fromkeys(
        json.dumps(line_of(review), ensure_ascii=False).encode("utf-8", "replace") + b"\n" for review in reviews
    )
    if not create_if_absent(out.absolute(), b"".join(lines)):
        raise ConfigError(f"{out} is there already and is not overwritten; choose another name")
    return merged


def _of_book(where: Path | str) -> tuple[list[Review], list[tuple[int, str]], int]:
    """As `read_reviews` of a book: verdicts, bad ones (there should be none), items that nobody has judged yet."""
    try:
        book = Book(where, None)
        try:
            lines, stages = list(book.lines()), book.progress()["stages"]
        finally:
            book.close()
    except BookError as error:
        raise ConfigError(str(error)) from error
    found: list[Review] = []
    bad: list[tuple[int, str]] = []
    for number, line in enumerate(lines, 1):
        try:
            review = parse_review(json.dumps(line).encode())
        except ValueError as error:
            bad.append((number, str(error)))
            continue
        assert review is not None
        found.append(review)
    return found, bad, sum(row["items"] - row["done"] for row in stages.values())


def line_of(review: Review) -> dict[str, Any]:
    line = asdict(review)
    line["translation"], line["reason"] = line.pop("shown"), line.pop("why")
    return line


def agreement(reviews: Sequence[Review]) -> list[tuple[str, str, float | None, int]]:
    """Cohen's κ of every two reviewers over the pairs that both judged, each by the last thing they said."""
    said: dict[str, dict[Any, str]] = {}
    for review in sorted(reviews, key=lambda review: moment_of(review.time)):
        said.setdefault(review.reviewer, {})[review.pair] = review.verdict
    found = []
    for first, second in itertools.combinations(sorted(said), 2):
        both = [(said[first][pair], said[second][pair]) for pair in said[first] if pair in said[second]]
        if both:
            found.append((first, second, kappa(both), len(both)))
    return found


def kappa(both: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's κ = (p_o - p_e) / (1 - p_e); None where both only ever gave one and the same verdict, since 0/0 says nothing."""
    n = len(both)
    observed = sum(a == b for a, b in both) / n
    chance = sum(sum(a == v for a, _ in both) * sum(b == v for _, b in both) for v in VERDICTS) / n**2
    return None if chance == 1 else (observed - chance) / (1 - chance)
