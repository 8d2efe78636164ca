"""Compaction: the same entries before, during and after, whoever is killed or late."""

import threading

import pyarrow.parquet as pq
import pytest
from in_process import run_here

from pipelines import compact as compaction
from pipelines import durable, entry_segments
from pipelines.compact import compact
from pipelines.config import load_recipe
from pipelines.gc import collect
from pipelines.ledger import DataFile, Entry, Ledger
from pipelines.run import look, reach
from pipelines.view import View

MARK = "faulty_operators:Mark"


def entry(shard, attempt="a", stage="size", fingerprint=None, columns=("width",)):
    name = f"{stage}/{shard:05d}.{attempt}.parquet"
    return Entry(
        stage=stage,
        fingerprint=fingerprint or f"{shard:032x}",
        shard=shard,
        attempt=attempt,
        files={"data": DataFile(name, 10, "0" * 64), "rejects": DataFile(f"rejects/{name}", 5, "1" * 64)},
        rows_in=5,
        rows_out=4,
        rejects={"ribbon": 1},
        parts={},
        uids=f"{shard + 7:032x}",
        columns={column: f"{shard + i:032x}" for i, column in enumerate(columns)},
        inputs={"row": "2" * 32},
        made_by={"operators": {"size": {"version": 1, "settings": {"max": 3.0}}}, "é": None},
        seconds=0.125,
        usage={"requests": 3},
    )


def fill(run, entries):
    entries = list(entries)
    ledger = Ledger(run)
    for one in entries:
        for file in one.files.values():
            (run / file.path).parent.mkdir(parents=True, exist_ok=True)
            (run / file.path).write_bytes(b"x")
        assert ledger.publish(one) == one
    return sorted(entries, key=lambda one: (one.stage, one.shard))


def everything(ledger):
    return sorted(ledger.entries(), key=lambda one: (one.stage, one.shard))


def test_entries_come_back_as_they_were_and_the_small_files_are_gone(tmp_path):
    put = fill(
        tmp_path, [*map(entry, range(9)), entry(3, stage="late", columns=()), entry(4, stage="late", columns=("b", "a"))]
    )
    before = [one.to_json() for one in put]
    assert compact(Ledger(tmp_path)).taken == len(put)
    fresh = Ledger(tmp_path)
    assert [one.to_json() for one in everything(fresh)] == before
    assert [fresh.get(one.stage, one.fingerprint, one.shard) for one in put] == put
    assert fresh.get("size", "f" * 32, 3) is None and fresh.get("none", "f" * 32, 3) is None
    left = [path.parent.name for path in (tmp_path / "ledger").rglob("*.json")]
    assert set(left) == {"@compacted"}
    assert compact(fresh).taken == 0


def test_a_reader_that_loaded_before_a_compaction_misses_nothing(tmp_path):
    put = fill(tmp_path, map(entry, range(4)))
    reader = Ledger(tmp_path)
    assert reader.get("size", put[0].fingerprint, 0) == put[0]
    compact(Ledger(tmp_path))
    more = fill(tmp_path, map(entry, range(4, 8)))
    compact(Ledger(tmp_path))
    assert [reader.get("size", one.fingerprint, one.shard) for one in put + more] == put + more
    assert everything(reader) == put + more


def test_a_late_writer_adopts_what_was_compacted_and_leaves_no_file(tmp_path):
    first = entry(1, attempt="first")
    late = Ledger(tmp_path)
    late.get("size", first.fingerprint, 1)  # it began before the other committed
    fill(tmp_path, [first])
    compact(Ledger(tmp_path))
    second = entry(1, attempt="second")
    for file in second.files.values():
        (tmp_path / file.path).write_bytes(b"y")
    assert late.publish(second) == first
    assert not late.path("size", first.fingerprint, 1).exists()
    assert not any((tmp_path / file.path).exists() for file in second.files.values())
    assert everything(Ledger(tmp_path)) == [first]


def test_a_small_file_that_a_killed_late_writer_left_hides_nothing(tmp_path):
    (first,) = fill(tmp_path, [entry(1, attempt="first")])
    compact(Ledger(tmp_path))
    stray = Ledger(tmp_path).path("size", first.fingerprint, 1)
    stray.parent.mkdir(parents=True)
    stray.write_bytes(entry(1, attempt="late").to_json())
    assert Ledger(tmp_path).get("size", first.fingerprint, 1) == first
    assert everything(Ledger(tmp_path)) == [first]
    assert compact(Ledger(tmp_path)).taken == 0 and not stray.exists()


class Killed(BaseException):
    pass


KILLS = ("_write", "_publish", "create_if_absent", "write_segment", "remove_loose", "write_new", "_read_back")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", KILLS)
def test_killed_at_any_step_the_entries_are_all_there_and_the_next_one_ends_it(tmp_path, monkeypatch, step, when):
    put = fill(tmp_path, map(entry, range(5)))
    owner = {"remove_loose": Ledger, "write_new": entry_segments, "_read_back": entry_segments}.get(step, compaction)
    real = getattr(owner, step)

    def killed(*arguments, **options):
        if when == "after":
            real(*arguments, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, killed)
        with pytest.raises(Killed):
            compact(Ledger(tmp_path))
    assert everything(Ledger(tmp_path)) == put
    compact(Ledger(tmp_path))
    assert everything(Ledger(tmp_path)) == put
    collect(tmp_path, delete=True)
    assert everything(Ledger(tmp_path)) == put
    named = {name for names in compaction.newest(Ledger(tmp_path)).segments.values() for name in names}
    there = {path.name for path in (tmp_path / "ledger" / "@compacted").iterdir() if path.suffix in (".parquet", ".planning")}
    assert there == named | {name.replace(".parquet", ".planning") for name in named}


def test_writers_readers_and_two_compactions_at_once_agree_on_every_entry(tmp_path, monkeypatch):
    monkeypatch.setattr(compaction, "BATCH", 7)
    monkeypatch.setattr(compaction, "MERGE_AT", 3)
    shards, won, wrong, over = 120, {}, [], threading.Event()

    def write(name):
        ledger = Ledger(tmp_path)
        for shard in range(shards):
            held = ledger.publish(entry(shard, attempt=f"{name}{shard}"))
            if won.setdefault(shard, held.attempt) != held.attempt:
                wrong.append(f"shard {shard}: {won[shard]} and {held.attempt} both won")

    def squeeze():
        while not over.is_set():
            compact(Ledger(tmp_path))

    def read():
        ledger = Ledger(tmp_path)
        while not over.is_set():
            for shard, attempt in list(won.items()):
                found = ledger.get("size", f"{shard:032x}", shard)
                if found is None or found.attempt != attempt:
                    wrong.append(f"shard {shard}: {attempt} won, read {found and found.attempt}")

    writers = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    others = [threading.Thread(target=work) for work in (squeeze, squeeze, read)]
    [thread.start() for thread in writers + others]
    [thread.join() for thread in writers]
    over.set()
    [thread.join() for thread in others]
    assert not wrong
    compact(Ledger(tmp_path))
    assert {one.shard: one.attempt for one in everything(Ledger(tmp_path))} == won


def test_many_segments_are_joined_and_the_old_ones_collected(tmp_path, monkeypatch):
    monkeypatch.setattr(compaction, "MERGE_AT", 3)
    monkeypatch.setattr(compaction, "SMALL", 1)
    put = []
    for start in range(0, 12, 2):
        put += fill(tmp_path, [entry(start), entry(start + 1)])
        compact(Ledger(tmp_path))
    reader = Ledger(tmp_path)
    assert len(reader.generation.segments["size"]) < 3
    assert collect(tmp_path, delete=True)[0] > 0
    assert everything(reader) == everything(Ledger(tmp_path)) == put


def test_an_entry_is_written_again_few_times_however_long_the_run(tmp_path, monkeypatch):
    """Compacted as they come, one by one: log₄ n times, and not as often as there are compactions."""
    monkeypatch.setattr(compaction, "SMALL", 1)
    put, ledger = [], Ledger(tmp_path)
    for shard in range(64):
        put += fill(tmp_path, [entry(shard)])
        compact(ledger)
        assert len(ledger.generation.segments["size"]) <= 9
    written = sum(pq.read_metadata(path).num_rows for path in (tmp_path / "ledger" / "@compacted").glob("*.parquet"))
    assert written <= 64 * (1 + 3), "taken up once, and joined three times"
    assert everything(Ledger(tmp_path)) == everything(ledger) == put


def test_a_reader_reads_only_segments_that_are_new(tmp_path, monkeypatch):
    """A worker looks again after every generation: what all of them hold together would be read as often."""
    put, read = fill(tmp_path, map(entry, range(3))), []
    compact(Ledger(tmp_path))
    reader = Ledger(tmp_path)
    assert everything(reader) == put
    opened = entry_segments.open_table
    monkeypatch.setattr(entry_segments, "open_table", lambda path, file: read.append(path.stem) or opened(path, file))
    put += fill(tmp_path, [entry(3)])
    compact(Ledger(tmp_path))
    read.clear()
    reader.refresh()
    assert everything(reader) == put and len(set(read)) == 1


def test_collecting_beside_a_compaction_takes_no_segment_that_is_about_to_be_published(tmp_path, monkeypatch):
    put = fill(tmp_path, map(entry, range(5)))
    write, collected = compaction._write, []

    def then_collect(*arguments):
        segment = write(*arguments)
        if not collected:
            collected.append(collect(tmp_path, delete=True)[0])
        return segment

    monkeypatch.setattr(compaction, "_write", then_collect)
    assert compact(Ledger(tmp_path)).taken == 5
    assert collected == [2] and everything(Ledger(tmp_path)) == put
    assert collect(tmp_path, delete=True) == (0, 0)


def test_collecting_beside_a_compaction_may_take_a_half_written_segment(tmp_path, monkeypatch):
    put = fill(tmp_path, map(entry, range(5)))
    sync, taken = durable.sync_file, []

    def after_collect(path):
        if path.suffix == ".parquet" and not taken:
            taken.append(path)
            collect(tmp_path, delete=True)
        sync(path)

    monkeypatch.setattr(durable, "sync_file", after_collect)
    assert compact(Ledger(tmp_path)).taken == 5
    assert taken and everything(Ledger(tmp_path)) == put


def test_a_segment_published_while_leftovers_are_counted_is_none(tmp_path, monkeypatch):
    put = fill(tmp_path, map(entry, range(5)))
    listed = compaction.files

    def then_compact(folder, **options):
        found = [*listed(folder, **options)]
        if folder.name == compaction.FOLDER:
            monkeypatch.setattr(compaction, "files", listed)
            compact(Ledger(tmp_path))
        return found

    compact(Ledger(tmp_path))
    put += fill(tmp_path, map(entry, range(5, 8)))
    monkeypatch.setattr(compaction, "files", then_compact)
    collect(tmp_path, delete=True)
    assert everything(Ledger(tmp_path)) == put


def test_planning_reads_a_file_of_its_own_and_does_without_where_there_is_none(tmp_path):
    """Runs of older versions have only whole entries."""
    put = fill(tmp_path, map(entry, range(9)))
    compact(Ledger(tmp_path))
    (lean,) = (tmp_path / "ledger" / "@compacted").glob("*.planning")

    def planned():
        index = Ledger(tmp_path).index("size")
        return [row for table in index.planning(entry_segments.PLANNING.names) for row in table.to_pylist()]

    rows = planned()
    assert [row["hashes"].hex() for row in rows] == [one.columns["width"] for one in put]
    lean.unlink()
    assert planned() == rows and everything(Ledger(tmp_path)) == put
    assert [Ledger(tmp_path).get("size", one.fingerprint, one.shard) for one in put] == put


def test_what_cannot_be_read_again_is_not_published_and_its_small_files_stay(tmp_path, monkeypatch):
    put = fill(tmp_path, map(entry, range(5)))

    def lose(path):
        path.write_bytes(path.read_bytes()[:-100])

    monkeypatch.setattr(entry_segments, "drop_cached", lose)
    with pytest.raises(durable.Damaged):
        compact(Ledger(tmp_path))
    assert everything(Ledger(tmp_path)) == put
    assert len([*(tmp_path / "ledger" / "size").rglob("*.json")]) == 5


@pytest.mark.parametrize("note", [None, b"1", b"99", b""])
def test_the_newest_generation_is_found_whatever_is_noted(tmp_path, note):
    put = []
    for shard in range(3):
        put += fill(tmp_path, [entry(shard)])
        compact(Ledger(tmp_path))
    path = tmp_path / "ledger" / "@compacted" / compaction.NEWEST
    assert path.read_bytes() == b"3"
    path.unlink() if note is None else path.write_bytes(note)
    assert everything(Ledger(tmp_path)) == put


@pytest.mark.parametrize("newest", ["taken up", "joined"])
def test_a_torn_generation_is_written_again_from_what_lies_beside_it(tmp_path, monkeypatch, newest):
    monkeypatch.setattr(compaction, "MERGE_AT", 3 if newest == "joined" else 9)
    put = []
    for shard in range(3):
        put += fill(tmp_path, [entry(shard)])
        compact(Ledger(tmp_path))
    torn = max((tmp_path / "ledger" / "@compacted").glob("*.json"))
    torn.write_bytes(torn.read_bytes()[:20])
    with pytest.raises(compaction.TornGeneration):
        everything(Ledger(tmp_path))
    compaction.rebuild(Ledger(tmp_path), int(torn.stem))
    assert everything(Ledger(tmp_path)) == put


def test_of_a_damaged_segment_what_can_be_read_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(entry_segments, "ROW_GROUP", 2)
    put = fill(tmp_path, map(entry, range(6)))
    compact(Ledger(tmp_path))
    (segment,) = (tmp_path / "ledger" / "@compacted").glob("*.parquet")
    data = bytearray(segment.read_bytes())
    data[pq.read_metadata(segment).row_group(2).column(0).dictionary_page_offset - 3] ^= 1  # the last page of the second one
    segment.write_bytes(data)
    compaction.forget(Ledger(tmp_path), "size", set(), {segment.name})
    assert everything(Ledger(tmp_path)) == put[:2] + put[4:]


def test_a_run_compacts_when_its_stages_together_have_many_small_files(tmp_path, monkeypatch):
    monkeypatch.setattr(compaction, "WORTH", 5)
    put = fill(tmp_path, [entry(shard, stage=stage) for stage in ("first", "second") for shard in range(3)])
    assert compaction.is_worth_it(Ledger(tmp_path))
    compact(Ledger(tmp_path))
    assert not compaction.is_worth_it(Ledger(tmp_path)) and everything(Ledger(tmp_path)) == put


STAGES = {
    "first": {"operator": MARK, "refuse_from": 18},
    "dedup": {},
    "select": {"keep": "mark != 7"},
    "again": {"operator": MARK},
}


def test_what_is_done_is_found_the_same_small_compacted_and_mixed(make_recipe, tmp_path):
    """The walk over columns against the walk along single entries."""
    recipe = load_recipe(make_recipe({**STAGES, "dedup": {"operator": MARK}}))
    run_here(recipe, tmp_path / "runs", shards=3)

    def found():
        chain = look(recipe, tmp_path / "runs")
        at = reach(chain, chain.shards())
        walked = {shard: chain.advance(View(shard), recipe.stages) for shard in chain.shards()}
        assert dict(at) == walked
        assert at.pending() == [3] and at.finished() == [0, 1, 2]
        assert at.counts()["select"] == {"shards": 3, "samples": 14}
        assert at.waiting()[3].name == "source" and at.rows_out() == {0: 5, 1: 4, 2: 5}
        return dict(at)

    small = found()
    ledger = Ledger(tmp_path / "runs" / "tiny")
    compact(ledger)
    assert found() == small
    run_here(
        load_recipe(make_recipe({**STAGES, "dedup": {"operator": MARK}}), ["select.keep=mark != 8"]),
        tmp_path / "runs",
        shards=3,
    )
    assert found() == small, "entries of another setting were taken for this one's"
    compact(ledger)
    assert found() == small
