"""One stage at work on one shard: read what it needs, run its operators, commit. No Ray in here.

Refusals are data and are committed. Everything else that goes wrong raises: a defect of a stage or shard fails the shard, and
`StopRun` (dead server, full disk, spent budget) stops the whole run, because every other shard would meet it too.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from operators.base import ModelOperator, Operator, OtherVersion, Outcome, Reject
from operators.pictures import BadPicture, LazyPicture, decode
from pipelines.answers import AnswerStore
from pipelines.chain import Chain
from pipelines.commit import Attempt, Made
from pipelines.config import Stage
from pipelines.download.reasons import NetworkDown
from pipelines.durable import FULL, Damaged, Ranges, free_bytes, full, read_table, scratch_folder
from pipelines.ledger import Entry, shard_name
from pipelines.model_identity import ModelChanged, ServerUnavailable
from pipelines.pixel_room import PixelRoom
from pipelines.public_url import public_column
from pipelines.sources import Slice, read_slice
from pipelines.stores import Place, StoreError, place
from pipelines.tables import REQUEUED
from pipelines.view import View, read_columns
from pipelines.withheld import PUT_BACK, TAKEN_DOWN, all_taken

if TYPE_CHECKING:
    from pipelines.model_client import ModelClient

DECODE_ROWS, DECODE_PIXELS = 128, 1 << 28
"""Pictures held decoded at a time by a batch stage, and pixels of them together (3 bytes each); one picture always."""
HELD_PIXELS = 1 << 30
"""Of pictures that a model worker holds decoded at once, over all its shards (3.2 GB)."""

Progress = Callable[[dict[str, int]], Any]
"""Called now and then with the counts so far of the shard at work; raises StopRun when the run is to stop."""


CRASHED = "crashed_worker"
"""Reason under which a sample is refused of which workers died, alone."""


class StopRun(RuntimeError):
    """Something that no shard can get past; the message says what and what to do."""


@contextlib.contextmanager
def no_exit() -> Iterator[None]:
    """What a library raises beyond `Exception` (Rust's panics, a call of sys.exit) is a defect as any other and fails one shard: let
    through it would end the task without an answer, or the loop that all shards of the process share."""
    try:
        yield
    except (Exception, asyncio.CancelledError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


@contextlib.contextmanager
def stopping(run: Path) -> Iterator[None]:
    """What every other shard of the run would meet, too, stops it."""
    try:
        yield
    except OSError as error:
        if problem := _met_by_all(run, error):
            raise StopRun(f"{problem}; nothing committed is lost") from error
        raise
    except StoreError as error:
        raise StopRun(f"the store refuses: {error}. Run again when it does not; nothing committed is lost") from error
    except (ServerUnavailable, ModelChanged, NetworkDown, OtherVersion) as error:
        raise StopRun(str(error)) from error


def _met_by_all(run: Path, error: OSError) -> str:
    """Why no shard would fare better, and what to do; empty where another one may."""
    if error.errno in FULL:
        return f"{full(error)} and run again"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{error}: raise the limit of open files (ulimit -n) and run again"
    if isinstance(run, Place):
        return ""
    if not (run / "tables").is_dir():  # what is written makes the folders anew that it needs
        return f"{run}: the folder of this run is gone. Was it moved, or its disk unmounted? Put it back and run again"
    touched = Path(error.filename) if isinstance(error.filename, str) else None
    if error.errno in (errno.EROFS, errno.ESTALE) or (
        isinstance(error, PermissionError) and touched and run in touched.parents
    ):
        return f"{error}. See that the run's folder can be read and written, and run again"
    return ""


def check_disk(chain: Chain) -> None:
    floor = chain.recipe.disk_floor_gb
    free = free_bytes(chain.run) / 1e9
    if free < floor:
        raise StopRun(
            f"{chain.run}: {free:.1f} GB free, below the floor of {floor:g} GB (disk_floor_gb). Free some space and run again"
        )


class Shares:
    """The time of one worker, divided among the shards that it holds at once: their seconds add up to its own, as those of workers
    do that hold one after the other. Otherwise four shards that share a server would each be told the whole time."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._since = time.monotonic()

    def begin(self, one: str) -> None:
        self._settle()
        self._seconds[one] = 0.0

    def end(self, one: str) -> float:
        self._settle()
        return self._seconds.pop(one)

    def _settle(self) -> None:
        now = time.monotonic()
        for one in self._seconds:
            self._seconds[one] += (now - self._since) / len(self._seconds)
        self._since = now


class Worker:
    """Runs one stage. Operators are set up once; a model stage keeps one client for all its shards."""

    def __init__(self, chain: Chain, stage: Stage) -> None:
        self.chain = chain
        self.stage = stage
        self.run = chain.run
        chain.check_version(stage)
        for operator in stage.operators.values():
            if hasattr(operator, "setup"):
                operator.setup()
        self.client = _client(chain) if stage.kind == "model" else None
        self.shares = Shares()
        self.room = PixelRoom(HELD_PIXELS)

    async def process(self, view: View, progress: Progress, killers: Sequence[int] = ()) -> tuple[Entry, bool]:
        """Commit this stage for the shard of `view`, or find that it is committed already; whether work was done now.

        killers   rows of which workers died: they are refused without being looked at
        """
        with stopping(self.run):
            fingerprint = self.chain.fingerprint(self.stage, view)
            done = self.chain.ledger.get(self.stage.name, fingerprint, view.shard)
            if done is not None:
                return done, False
            check_disk(self.chain)
            attempt = Attempt(self.run, self.stage.name, view.shard, fingerprint)
            try:
                if self.stage.kind == "model":
                    came, made = await self._ask(view, attempt, progress, killers)
                    return await asyncio.to_thread(self._commit, view, attempt, came, made), True
                return await asyncio.to_thread(self._make, view, attempt, killers), True
            finally:
                attempt.clear()

    def waits_for(self) -> str:
        """What its work waits for, in words, where it stands still for a reason that is no shard's own; else empty."""
        asked = getattr(self.stage.operator, "waits_for", None) if self.stage.kind == "download" else None
        return asked() if asked is not None else ""

    async def probe(self, view: View, first: int, last: int, killers: Sequence[int] = ()) -> None:
        """Do the stage's work on some rows, but `killers`, and throw it away: does the worker live through it?"""
        others = [*range(first), *killers, *range(last, view.rows)]
        attempt = Attempt(self.run, self.stage.name, view.shard, "probe")
        if self.stage.kind == "model":
            await self._ask(view, attempt, _no_progress, others)
        else:
            _, made = await asyncio.to_thread(self._work, view, attempt, others)
            attempt.discard(made)

    # The kinds of stage that need no model.

    def _make(self, view: View, attempt: Attempt, killers: Sequence[int]) -> Entry:
        if self.stage.kind == "source":
            return self._source(view, attempt)
        came, made = self._work(view, attempt, killers)
        return self._commit(view, attempt, came, made)

    @no_exit()
    def _work(self, view: View, attempt: Attempt, killers: Sequence[int]) -> tuple[pa.ChunkedArray, Made]:
        """The uids that came, and what was made of them."""
        wanted = self.chain.columns_before(self.stage) if self.stage.kind == "pack" else self.stage.reads()
        if self.stage.kind == "pack":
            wanted = pa.schema([column for column in wanted if column.name in view.columns])
        table = read_columns(self.run, view, wanted, self.stage.optional())
        came = table["uid"]
        table, gone = set_aside(self.chain, view, *_without(table, killers))
        make = {"batch": self._batch, "download": self._download, "pack": self._pack}[self.stage.kind]
        made = make(view, table, attempt)
        made.rejects += gone
        return came, made

    def _commit(self, view: View, attempt: Attempt, uids: pa.ChunkedArray, made: Made) -> Entry:
        inputs, made_by = self.chain.inputs(self.stage, view), self.chain.made_by(self.stage)
        return attempt.commit(self.chain.ledger, uids, made, self.stage.writes(), inputs, made_by)

    def _source(self, view: View, attempt: Attempt) -> Entry:
        tables = self.chain.tables
        table, cut = tables.table_of(view.shard), tables.slice_of(view.shard)
        path = place(self.chain.paths[table.index])
        rejects: list[Reject] = []
        if table.source == REQUEUED:
            rows = read_table(path).slice(cut["first_row"], cut["rows"])
        else:
            rows, rejects = read_slice(self.chain.sources[table.source], path, table.digest, cast(Slice, cut))
        taken = all_taken(self.run)
        gone = pc.is_in(rows["uid"], value_set=pa.array(sorted(taken.uids), pa.string()))
        for values, named in ((public_column(rows["url"]), taken.urls), (rows["source_sha256"], taken.hashes)):
            gone = pc.or_(gone, pc.is_in(values, value_set=pa.array(sorted(named), pa.string())))
        if pc.any(gone).as_py():
            again = rows["uid"].filter(gone).to_pylist()
            rejects = [*rejects, *(Reject(uid, TAKEN_DOWN, "taken down before") for uid in again)]
            rows = rows.filter(pc.invert(gone))
        whole = {reject.uid for reject in rejects if reject.item is None}
        # A row that was refused has an identity too: rows of the slice = samples + rejects.
        if rows.num_rows + len(whole) != cut["rows"]:
            raise RuntimeError(
                f"{path}: rows {cut['first_row']}…: {cut['rows']} expected, {rows.num_rows} read, {len(whole)} refused"
            )
        came = pa.array([*rows["uid"].to_pylist(), *sorted(whole)], pa.string())
        made = Made(rows, rejects)
        record = self.chain.source_record(view.shard)
        return attempt.commit(
            self.chain.ledger, came, made, self.stage.writes(), {"table": record["digest"]}, {"source": record}
        )

    def _download(self, view: View, table: pa.Table, attempt: Attempt) -> Made:
        tar, stats = attempt.file("images", ".tar"), attempt.file("images", "_stats.json")
        outcome: Outcome = self.stage.operator.fetch(table, tar, stats, all_taken(self.run).hashes)
        return Made(outcome.kept, outcome.rejects, {"images": tar, "stats": stats})

    def _pack(self, view: View, table: pa.Table, attempt: Attempt) -> Made:
        tar = attempt.file("pack", ".tar")
        with self._pictures(view, table) as read:
            outcome: Outcome = self.stage.operator.write(table, read, tar, self.chain.provenance(view))
        return Made(outcome.kept, outcome.rejects, {"shard": tar})

    def _batch(self, view: View, table: pa.Table, attempt: Attempt) -> Made:
        if not self.stage.needs_image:
            return self._operate(table, None)
        pieces: list[Made] = []
        with self._pictures(view, table) as read:
            for first, rows in _decoded_at_once(table):
                piece = table.slice(first, rows)
                pictures, bad = _decode_all(piece, read)
                good = piece.take(pa.array([i for i, p in enumerate(pictures) if p is not None], pa.int64()))
                made = self._operate(good, [p for p in pictures if p is not None])
                pieces.append(Made(made.kept, [*bad, *made.rejects]))
        return Made(pa.concat_tables([p.kept for p in pieces]), [reject for p in pieces for reject in p.rejects])

    def _operate(self, table: pa.Table, pictures: list[Image.Image] | None) -> Made:
        """Run the stage's operators one after another; each sees the survivors and the columns of those before it."""
        rejects: list[Reject] = []
        for operator in self.stage.operators.values():
            assert isinstance(operator, Operator)
            outcome = operator(table, pictures if operator.needs_image else None)
            rejects += outcome.rejects
            if outcome.kept.num_rows < table.num_rows:
                left = set(outcome.kept["uid"].to_pylist())
                rows = [i for i, uid in enumerate(table["uid"].to_pylist()) if uid in left]
                table = table.take(pa.array(rows, pa.int64()))
                pictures = [pictures[i] for i in rows] if pictures is not None else None
            for name in outcome.kept.column_names:
                if name != "uid":
                    table = table.drop_columns([name]) if name in table.column_names else table
                    table = table.append_column(operator.writes.field(name), outcome.kept[name])
        gone = {reject.uid for reject in rejects if reject.item is None}
        return Made(table, [r for r in rejects if r.item is None or r.uid not in gone])

    def _pictures(self, view: View, table: pa.Table) -> PictureReader:
        if view.images is None:
            raise RuntimeError(
                f"stage {self.stage.name} needs pictures, but no download stage was committed for shard {view.shard}"
            )
        wanted = pc.sum(table["image_size"]).as_py() if "image_size" in table.column_names else 0
        return PictureReader(self.run / view.images, wanted or 0)

    # The stage that asks a model.

    async def _ask(
        self, view: View, attempt: Attempt, progress: Progress, killers: Sequence[int]
    ) -> tuple[pa.ChunkedArray, Made]:
        self.shares.begin(attempt.id)
        try:
            came, made = await self._asked(view, attempt, progress, killers)
        finally:
            seconds = self.shares.end(attempt.id)
        return came, replace(made, seconds=seconds)

    async def _asked(
        self, view: View, attempt: Attempt, progress: Progress, killers: Sequence[int]
    ) -> tuple[pa.ChunkedArray, Made]:
        operator: ModelOperator = self.stage.operator
        assert self.client is not None
        table = await asyncio.to_thread(read_columns, self.run, view, self.stage.reads(), self.stage.optional())
        answers = self.run / "answers" / self.stage.name / shard_name(view.shard)
        store = await asyncio.to_thread(AnswerStore, answers, attempt.id)
        came = table["uid"]
        table, gone = await asyncio.to_thread(set_aside, self.chain, view, *_without(table, killers))
        samples = table.to_pylist()
        results: list[tuple[dict[str, Any] | None, list[Reject]] | None] = [None] * len(samples)
        usage = {"requests": 0, "answers_found": 0, "prompt_tokens": 0, "output_tokens": 0}
        done = 0
        queue = iter(enumerate(samples))

        async def work(read: PictureReader) -> None:
            nonlocal done
            for i, sample in queue:
                picture = LazyPicture((sample["width"], sample["height"]), partial(_picture_of, sample, read))
                ask = self.client.ask_for(store, sample["sha256"], self.chain.prompts, usage)  # type: ignore[union-attr]
                pixels = sample["width"] * sample["height"] if operator.needs_image else 0
                try:
                    async with self.room.taken(pixels):
                        with no_exit():
                            results[i] = await operator(sample, picture if operator.needs_image else None, ask)
                except BadPicture as error:
                    results[i] = None, [Reject(sample["uid"], error.reason, error.detail)]
                done += 1
                await progress({"samples": done, **usage})

        with self._pictures(view, table) as read:
            try:
                async with asyncio.TaskGroup() as group:
                    # Twice the slots of the server, so that one shard alone can fill them while others parse.
                    for _ in range(min(len(samples), 2 * self.client.settings.concurrency)):
                        group.create_task(work(read))
            except BaseExceptionGroup as failures:
                raise _first(failures) from failures
            finally:
                await asyncio.to_thread(store.close)
        if operator.prompts:
            await self.client.check_identity()
        rejects = [*gone, *(reject for result in results if result for reject in result[1])]
        rows = [{"uid": s["uid"], **r[0]} for s, r in zip(samples, results, strict=True) if r is not None and r[0] is not None]
        kept = pa.Table.from_pylist(rows, schema=pa.schema([("uid", pa.string()), *self.stage.writes()]))
        return came, Made(kept, rejects, usage={**usage, "answer_bytes": store.written})


async def _no_progress(_: dict[str, int]) -> None:
    pass


def _without(table: pa.Table, killers: Sequence[int]) -> tuple[pa.Table, list[Reject]]:
    """Without rows of which workers died, which are refused."""
    if not killers:
        return table, []
    gone = set(killers)
    left = table.take(pa.array([row for row in range(table.num_rows) if row not in gone], pa.int64()))
    uids = table["uid"].to_pylist()
    return left, [
        Reject(uids[row], CRASHED, "worker processes died while this sample alone was at work") for row in sorted(gone)
    ]


def set_aside(chain: Chain, view: View, table: pa.Table, refused: Sequence[Reject] = ()) -> tuple[pa.Table, list[Reject]]:
    """Without the samples that were put back and live in a later shard now, which are refused here, beside those `refused` before."""
    gone = chain.withheld.of(view, table["uid"])
    if not gone:
        return table, list(refused)
    left = table.filter(pc.invert(pc.is_in(table["uid"], value_set=pa.array(gone, pa.string()))))
    return left, [*refused, *(Reject(uid, PUT_BACK, "put back before: it lives in a later shard") for uid in gone)]


class PictureReader:
    """Reads members of a picture tar by the offset and size that the image table recorded, without walking the tar.

    From a store, pictures are fetched one by one, or the whole tar at once where `wanted` bytes are a good part of it: a request costs
    about as much time as a megabyte.
    """

    def __init__(self, tar: Path, wanted: int = 0) -> None:
        self.tar = tar
        self.wanted = wanted

    def __enter__(self) -> PictureReader:
        self._open = contextlib.ExitStack()
        tar = self.tar
        if isinstance(tar, Place) and self.wanted > tar.stat().st_size / 4:
            local = self._open.enter_context(scratch_folder()) / tar.name
            tar.store.download(tar.key, local)
            tar = local
        self._read = self._open.enter_context(Ranges(tar))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def __call__(self, sample: dict[str, Any]) -> bytes:
        return self._read(sample["image_offset"], sample["image_size"])


def _picture_of(sample: dict[str, Any], read: PictureReader) -> Image.Image:
    data = read(sample)
    try:
        return decode(data)
    except BadPicture:  # which was a picture when it was downloaded
        if hashlib.sha256(data).hexdigest() != sample["sha256"]:
            at = f"{read.tar}: from byte {sample['image_offset']} on"
            raise Damaged(f"{at}: not the picture that was downloaded. Something else than a run changed the file") from None
        raise


def _decoded_at_once(table: pa.Table) -> Iterator[tuple[int, int]]:
    """(first row, rows) of pieces of which all pictures fit into memory; one without rows for an empty table."""
    first = pixels = 0
    for row, (width, height) in enumerate(zip(table["width"].to_pylist(), table["height"].to_pylist(), strict=True)):
        if row > first and (row - first == DECODE_ROWS or pixels + width * height > DECODE_PIXELS):
            yield first, row - first
            first, pixels = row, 0
        pixels += width * height
    yield first, table.num_rows - first


def _decode_all(table: pa.Table, read: PictureReader) -> tuple[list[Image.Image | None], list[Reject]]:
    pictures: list[Image.Image | None] = []
    rejects = []
    for sample in table.select(["uid", "image_offset", "image_size", "sha256"]).to_pylist():
        try:
            pictures.append(_picture_of(sample, read))
        except BadPicture as error:
            pictures.append(None)
            rejects.append(Reject(sample["uid"], error.reason, error.detail))
    return pictures, rejects


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The exception that began it: infrastructure before anything else, else the first."""
    flat: list[BaseException] = []
    stack: list[BaseException] = [group]
    while stack:
        item = stack.pop(0)
        if isinstance(item, BaseExceptionGroup):
            stack = [*item.exceptions, *stack]
        else:
            flat.append(item)
    return next((e for e in flat if isinstance(e, StopRun | ServerUnavailable | ModelChanged)), flat[0])


def _client(chain: Chain) -> ModelClient:
    from pipelines.model_client import ModelClient  # a second of imports that other stages' processes do without

    return ModelClient(chain.recipe.model, chain.identity)


__all__ = ["PictureReader", "StopRun", "Worker"]
