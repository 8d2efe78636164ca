import json
from dataclasses import asdict

import pytest

from pipelines.durable import Damaged
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
    known = tables.register("muge", path, "d1", 10, slices(10, 4), [str(queries)])
    assert tables.known("muge", path, [str(queries)]) == known
    queries.write_text('{"query": "红鞋"}')
    assert tables.known("muge", path, [str(queries)]) is None


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
