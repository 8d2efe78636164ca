import json
from dataclasses import asdict

import pytest
import yaml

from pipelines.config import load_recipe
from pipelines.durable import Damaged
from pipelines.run import Options, look, prepare, warnings
from pipelines.tables import Tables


def slices(rows, size):
    return [
        {"first_row": at, "rows": min(size, rows - at), "offset": at * 10, "end": 0, "check": f"c{at}"}
        for at in range(0, rows, size)
    ]


@pytest.fixture
def table(tmp_path):
    def write(name, content="x"):
        path = tmp_path / name
        path.write_text(content)
        return path

    return write


def test_new_tables_get_new_shards_and_nothing_is_renumbered(tmp_path, table):
    tables = Tables(tmp_path)
    first = tables.register("laion", table("a"), "d1", 10, slices(10, 4))
    second = tables.register("laion", table("b"), "d2", 5, slices(5, 4))
    assert list(tables.shards([first])) == [0, 1, 2] and list(tables.shards([second])) == [3, 4]
    reopened = Tables(tmp_path)
    third = reopened.register("zero", table("c"), "d3", 1, slices(1, 4))
    assert list(reopened.shards([first, second, third])) == [0, 1, 2, 3, 4, 5]
    assert reopened.slice_of(4) == {"first_row": 4, "rows": 1, "offset": 40, "end": 0, "check": "c4"}
    assert reopened.table_of(2) == first and reopened.table_of(3) == second


def test_the_same_content_is_the_same_table_wherever_it_lies(tmp_path, table):
    tables = Tables(tmp_path)
    first = tables.register("laion", table("a"), "d1", 10, slices(10, 4))
    assert tables.register("laion", table("moved"), "d1", 10, slices(10, 2)) == first, "it keeps its first cut"
    assert tables.register("other", table("a"), "d1", 10, slices(10, 4)) != first, "another source gives other identities"


def test_two_processes_that_register_at_once_get_different_numbers(tmp_path, table):
    one, other = Tables(tmp_path), Tables(tmp_path)
    first = one.register("laion", table("a"), "d1", 10, slices(10, 4))
    second = other.register("laion", table("b"), "d2", 10, slices(10, 4))
    assert (second.index, second.first_shard) == (1, first.shards)


def test_a_file_that_was_touched_is_read_again(tmp_path, table):
    tables = Tables(tmp_path)
    path = table("a")
    known = tables.register("laion", path, "d1", 10, slices(10, 4))
    assert tables.known("laion", path) == known
    path.write_text("changed")
    assert tables.known("laion", path) is None


def test_a_table_is_read_again_when_a_file_that_belongs_to_it_was_touched(tmp_path, table):
    queries = tmp_path / "queries.jsonl"
    queries.write_text("{}")
    tables, path = Tables(tmp_path), table("a")
    known = tables.register("muge", path, "d1", 10, slices(10, 4), beside=[str(queries)])
    assert tables.known("muge", path, beside=[str(queries)]) == known
    queries.write_text('{"query": "红鞋"}')
    assert tables.known("muge", path, beside=[str(queries)]) is None


def test_the_same_bytes_cut_another_way_are_another_table_with_other_identities(tmp_path, table):
    tables, path = Tables(tmp_path), table("a")
    first = tables.register("zero", path, "d1", 10, slices(10, 4), "a header line")
    assert tables.known("zero", path, "no header line") is None
    second = tables.register("zero", path, "d1", 11, slices(11, 4), "no header line")
    assert second.rows == 11 and second.digest != first.digest and second.first_shard == first.shards
    reopened = Tables(tmp_path)
    assert (
        reopened.known("zero", path, "a header line") == first == reopened.register("zero", path, "d1", 10, [], "a header line")
    )
    assert reopened.known("zero", path, "no header line") == second


def test_a_table_of_an_older_version_which_noted_no_cut_is_taken_as_it_is(tmp_path, table):
    path = table("a")
    old = Tables(tmp_path).register("zero", path, "d1", 10, slices(10, 4))
    record = tmp_path / "tables" / "0000.json"
    record.write_text(
        json.dumps({key: value for key, value in json.loads(record.read_text()).items() if key not in ("cut", "check")})
    )
    tables = Tables(tmp_path)
    assert tables.known("zero", path, "csv") == old == tables.register("zero", path, "d1", 10, [], "csv")
    assert tables.used(["zero"]) == {0: str(path)}


def test_what_a_source_has_now_is_told_by_the_last_note(tmp_path, table):
    """A file that is changed and changed back, one that is taken away, one that was moved."""
    tables = Tables(tmp_path)
    first, second = (tables.register("coyo", table("a"), digest, 4, slices(4, 4)) for digest in ("d1", "d2"))
    assert tables.used(["coyo"]) == {second.index: str(tmp_path / "a")}, "nothing noted: the newest of a file"
    tables.use({"coyo": {first.index: "moved/a"}, "zero": {}})
    tables.use({"zero": {second.index: "b"}})
    assert Tables(tmp_path).used(["coyo"]) == {first.index: "moved/a"}
    assert Tables(tmp_path).used(["coyo", "zero"]) == {first.index: "moved/a", second.index: "b"}
    for broken in ('{"sources": {"coyo": {"7": "a"}}}', '{"sources": {"coyo": {"x": "a"}}}', '{"coyo": {}}', '["a"]', "{"):
        (tmp_path / "tables" / "used.json").write_text(broken)
        with pytest.raises(Damaged, match=r"used\.json: not what was written there.*remove it"):
            Tables(tmp_path).used(["coyo"])


def test_the_ten_thousandth_table_is_not_the_last(tmp_path, table):
    """Sets are published in more files than that, and 10000.json comes before 9999.json in a listing."""
    tables = Tables(tmp_path)
    first = tables.register("coyo", table("a"), "d0", 4, slices(4, 4))
    for i in range(1, 10_001):
        put = asdict(first) | {"index": i, "path": f"t{i}", "digest": f"d{i}", "first_shard": i}
        (tmp_path / "tables" / f"{i:04d}.json").write_text(json.dumps(put))
    tables.refresh()
    assert [found.index for found in tables.all] == list(range(10_001))
    assert tables.table_of(9_999).path == "t9999" and tables.table_of(10_000).path == "t10000"
    again = Tables(tmp_path).register("coyo", table("b"), "new", 4, slices(4, 4))
    assert (again.index, again.first_shard) == (10_001, 10_001)


def test_a_registration_that_was_removed_is_told(tmp_path, table):
    tables = Tables(tmp_path)
    for name in "abc":
        tables.register("coyo", table(name), name, 4, slices(4, 4))
    (tmp_path / "tables" / "0002.json").write_text('{"index": 2')
    with pytest.raises(Damaged, match=r"0002\.json: not the record of a table"):
        Tables(tmp_path)
    (tmp_path / "tables" / "0001.json").unlink()
    with pytest.raises(Damaged, match="nothing may be removed"):
        Tables(tmp_path)


@pytest.fixture
def recipe(tmp_path):
    """A function that writes a manifest with these settings over t.csv, and a recipe of it."""

    def write(**settings):
        source = {
            "format": "csv",
            "tables": str(tmp_path / "t.csv"),
            "language": "en",
            "columns": {"url": "u", "captions": ["t"]},
        }
        (tmp_path / "links.yaml").write_text(yaml.safe_dump({**source, **settings}))
        body = {
            "recipe": "tiny",
            "sources": [str(tmp_path / "links.yaml")],
            "disk_floor_gb": 0,
            "stages": {"words": {"operator": "text"}},
        }
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(body))
        return load_recipe(tmp_path / "tiny.yaml")

    return write


def rows_of(chain):
    return [chain.tables.slice_of(shard) for shard in chain.shards()]


def test_a_manifest_that_reads_the_same_table_another_way_does_not_meet_the_old_rows(tmp_path, recipe):
    """`header` was forgotten for a table without one, and the first row taken for it."""
    (tmp_path / "t.csv").write_text("u,t\nhttp://example.org/1.jpg,a cat\nhttp://example.org/2.jpg,a dog\n")
    wrong = prepare(recipe(), tmp_path / "runs", Options())
    mended = prepare(recipe(header=["u", "t"]), tmp_path / "runs", Options())
    assert [(cut["rows"], cut["offset"]) for cut in rows_of(wrong) + rows_of(mended)] == [(2, 4), (3, 0)]
    assert look(recipe(header=["u", "t"]), tmp_path / "runs").shards() == mended.shards() == [1]
    again = prepare(recipe(), tmp_path / "runs", Options())
    assert again.shards() == wrong.shards() == [0] == look(recipe(), tmp_path / "runs").shards()


def test_a_table_that_was_changed_and_changed_back_is_the_first_one_for_whoever_looks(tmp_path, recipe):
    def prepared(content):
        (tmp_path / "t.csv").write_text(content)
        return prepare(recipe(), tmp_path / "runs", Options()).shards()

    first, other = "u,t\nhttp://example.org/1.jpg,a cat\n", "u,t\nhttp://example.org/1.jpg,a dog\n"
    assert [prepared(content) for content in (first, other, first)] == [[0], [1], [0]]
    assert look(recipe(), tmp_path / "runs").shards() == [0]


def test_a_table_that_became_another_is_told_with_the_shards_that_are_left_out(tmp_path, recipe):
    def told(content):
        (tmp_path / "t.csv").write_text(content)
        return warnings(prepare(recipe(), tmp_path / "runs", Options()))

    first, other = "u,t\nhttp://example.org/1.jpg,a cat\n", "u,t\nhttp://example.org/1.jpg,a dog\n"
    assert told(first) == []
    (word,) = told(other)
    assert word.startswith(f"{tmp_path / 't.csv'}: changed, gone or read another way") and word.endswith(
        "left out with 1 shard of its own"
    )
    assert told(first) == []


def test_what_is_known_already_is_prepared_without_writing_anything(tmp_path, recipe):
    """`fineloom plan` of a root that may only be read; the probe of what the store can do would be a write, too."""
    (tmp_path / "t.csv").write_text("u,t\nhttp://example.org/1.jpg,a cat\n")
    prepare(recipe(), tmp_path / "runs", Options())

    def state():
        return {path: path.stat().st_mtime_ns for path in [tmp_path / "runs", *(tmp_path / "runs").rglob("*")]}

    before = state()
    assert prepare(recipe(), tmp_path / "runs", Options()).shards() == [0]
    assert state() == before
