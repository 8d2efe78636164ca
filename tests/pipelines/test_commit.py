import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from operators.base import Reject
from pipelines import gc
from pipelines import ledger as ledgers
from pipelines.commit import Attempt, Made, NotConserved
from pipelines.durable import folders
from pipelines.ledger import Entry, Ledger
from pipelines.view import View, read_columns

COLUMNS = pa.schema({"width": pa.int32()})


def commit(run, kept, rejects, uids=("a", "b", "c"), fingerprint="f" * 32, stage="size"):
    table = pa.table({"uid": list(kept), "width": pa.array(list(kept.values()), pa.int32())})
    attempt = Attempt(run, stage, 7, fingerprint)
    return attempt.commit(Ledger(run), pa.array(list(uids)), Made(table, rejects), COLUMNS, {}, {})


def test_an_entry_names_every_file_with_its_checksum_and_counts(tmp_path):
    entry = commit(tmp_path, {"a": 1, "c": 3}, [Reject("b", "ribbon", "aspect 9"), Reject("a", "cut", "", item="caption")])
    assert (entry.rows_in, entry.rows_out, entry.rejects, entry.parts) == (3, 2, {"ribbon": 1}, {"cut": 1})
    assert Ledger(tmp_path).get("size", "f" * 32, 7) == entry
    assert Entry.from_json(entry.to_json()) == entry
    rejects = pq.read_table(tmp_path / entry.files["rejects"].path).to_pylist()
    assert rejects[0] == {"uid": "b", "reason": "ribbon", "detail": "aspect 9", "item": None}
    assert all((tmp_path / file.path).stat().st_size == file.bytes for file in entry.files.values())


@pytest.mark.parametrize(
    ("kept", "rejects", "why"),
    [
        ({"a": 1, "b": 2}, [], "neither kept nor refused"),
        ({"a": 1, "b": 2, "c": 3}, [Reject("c", "x")], "1 refused"),
        ({"a": 1, "b": 2, "c": 3, "d": 4}, [], "4 kept"),
        ({"b": 2, "a": 1, "c": 3}, [], "3 kept"),
        ({"a": 1}, [Reject("b", "x"), Reject("b", "y"), Reject("c", "x")], "twice"),
        ({"a": 1, "b": 2}, [Reject("c", "x"), Reject("c", "y", item="caption")], "refused whole, and also in part"),
        ({"a": 1, "b": 2, "c": 3}, [Reject("z", "x", item="caption")], "unknown sample"),
    ],
)
def test_a_stage_that_loses_or_invents_samples_commits_nothing(tmp_path, kept, rejects, why):
    with pytest.raises(NotConserved, match=why):
        commit(tmp_path, kept, rejects)
    assert not list(tmp_path.rglob("*.parquet")) and not list(tmp_path.rglob("*.json"))


def test_the_first_attempt_wins_and_the_loser_leaves_no_file(tmp_path):
    first = commit(tmp_path, {"a": 1, "b": 2, "c": 3}, [])
    second = commit(tmp_path, {"a": 9, "b": 9, "c": 9}, [])
    assert second == first
    assert {path.name for path in tmp_path.rglob("*.parquet")} == {file.path.split("/")[-1] for file in first.files.values()}


@pytest.mark.parametrize("fails", ["create_if_absent", "get"])
def test_a_commit_whose_answer_was_lost_keeps_its_files(tmp_path, monkeypatch, fails):
    """The entry was published, and then the store was away: it must not name files that the worker has removed."""
    publish, get = ledgers.create_if_absent, Ledger.get

    def lost(*arguments):
        done = (publish if fails == "create_if_absent" else get)(*arguments)
        assert done
        raise OSError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(ledgers if fails == "create_if_absent" else Ledger, fails, lost)
        with pytest.raises(OSError, match="away"):
            commit(tmp_path, {"a": 1, "b": 2, "c": 3}, [])
    entry = Ledger(tmp_path).get("size", "f" * 32, 7)
    assert entry is not None and all((tmp_path / file.path).is_file() for file in entry.files.values())


@pytest.mark.parametrize("torn", [b"", b'{"layout":1,"stage":"si', b"\0" * 40, b"[]", b'{"layout":1}'])
def test_an_entry_that_is_torn_is_named_with_what_to_do(tmp_path, torn):
    commit(tmp_path, {"a": 1, "b": 2, "c": 3}, [])
    path = Ledger(tmp_path).path("size", "f" * 32, 7)
    path.write_bytes(torn)
    with pytest.raises(ledgers.BrokenEntry, match=r"00007\.json: not a whole ledger entry.*Remove the file"):
        Ledger(tmp_path).get("size", "f" * 32, 7)
    with pytest.raises(ledgers.BrokenEntry, match="Remove the file"):
        list(Ledger(tmp_path).entries())
    path.unlink()
    assert commit(tmp_path, {"a": 4}, [], "a").rows_out == 1, "and then it is done again"


@pytest.mark.parametrize("when", ["before it publishes", "after it published"])
def test_what_gc_removed_under_a_worker_that_was_cut_off_is_not_committed(tmp_path, monkeypatch, when):
    publish, collecting, made = ledgers.create_if_absent, gc.collect, {}

    def meanwhile(*arguments):
        collecting(tmp_path, delete=True)
        return publish(*arguments)

    def late(folder, *, delete):  # entries were listed; now the worker publishes, and then its files are removed
        with monkeypatch.context() as patch:
            patch.setattr(
                gc, "folders", lambda run: (made.setdefault("entry", commit(run, {"a": 1}, [], "a")), folders(run))[1]
            )
            return collecting(folder, delete=delete)

    if when == "before it publishes":
        monkeypatch.setattr(ledgers, "create_if_absent", meanwhile)
        with pytest.raises(RuntimeError, match="was removed before it was published"):
            commit(tmp_path, {"a": 1, "b": 2, "c": 3}, [])
        monkeypatch.undo()
    else:
        assert late(tmp_path, delete=True)[0] == 2 and made["entry"] is not None
    assert Ledger(tmp_path).get("size", "f" * 32, 7) is None
    assert commit(tmp_path, {"a": 1}, [], "a") is not None, "the next try commits"


def test_a_view_reads_each_column_from_the_stage_that_wrote_it_for_the_survivors_of_the_last(tmp_path):
    view = View(7).after(commit(tmp_path, {"a": 1, "b": 2, "c": 3}, []))
    view = view.after(commit(tmp_path, {"a": 5, "c": 6}, [Reject("b", "x")], stage="later", fingerprint="e" * 32))
    assert read_columns(tmp_path, view, COLUMNS).to_pydict() == {"uid": ["a", "c"], "width": [5, 6]}
    assert View.from_json(view.to_json()) == view
    older = View(**{**view.__dict__, "columns": View(7).after(commit(tmp_path, {"a": 1, "b": 2, "c": 3}, [])).columns})
    assert read_columns(tmp_path, older, COLUMNS).to_pydict() == {"uid": ["a", "c"], "width": [1, 3]}


def test_a_column_that_nobody_wrote_is_an_error_unless_it_is_optional(tmp_path):
    view = View(7).after(commit(tmp_path, {"a": 1, "b": 2, "c": 3}, []))
    wanted = pa.schema({"caption": pa.string()})
    with pytest.raises(KeyError, match="no stage before this one wrote column 'caption'"):
        read_columns(tmp_path, view, wanted)
    assert read_columns(tmp_path, view, wanted, frozenset({"caption"}))["caption"].to_pylist() == [None] * 3
