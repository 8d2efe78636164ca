"""The packed shards and their index, as they are handed over at the end of a run."""

import json

import pyarrow.parquet as pq
import pytest
from in_process import run_here
from picture_server import PictureServer, picture

from pipelines.config import load_recipe
from pipelines.progress import Progress
from pipelines.run import Options, execute


@pytest.fixture
def recipe(tmp_path):
    """Six pictures in three shards, packed."""
    with PictureServer() as server:
        rows = []
        for i in range(6):
            server.serve(f"/{i}.jpg", picture(64, 48, seed=i))
            rows.append(json.dumps({"u": f"{server.url}/{i}.jpg", "t": f"a cat {i}"}) + "\n")
        (tmp_path / "table.jsonl").write_text("".join(rows))
        source = {"format": "jsonl", "tables": str(tmp_path / "table.jsonl"), "language": "en"}
        (tmp_path / "links.yaml").write_text(json.dumps({**source, "columns": {"url": "u", "captions": ["t"]}}))
        stages = {"download": {"allow_private_addresses": True, "respect_robots_txt": False}, "pack": {}}
        written = {"recipe": "tiny", "sources": [str(tmp_path / "links.yaml")], "shard_size": 2, "disk_floor_gb": 0}
        (tmp_path / "tiny.yaml").write_text(json.dumps({**written, "stages": stages}))
        made = load_recipe(tmp_path / "tiny.yaml")
        run_here(made, tmp_path / "runs")
        yield made


def again(recipe, tmp_path):
    return execute(recipe, tmp_path / "runs", Options(), Progress())


@pytest.mark.parametrize("lost", [["index.parquet"], ["shards/00001.tar"], ["index.parquet", "shards/00001.tar"]])
def test_a_run_that_ended_before_it_handed_over_does_so_when_it_is_called_again(recipe, tmp_path, lost):
    run = tmp_path / "runs" / "tiny"
    whole = pq.read_table(run / "index.parquet")
    for name in lost:
        (run / name).unlink()
    assert again(recipe, tmp_path).nothing_to_do
    assert pq.read_table(run / "index.parquet").equals(whole)
    assert sorted(path.name for path in (run / "shards").glob("*.tar")) == ["00000.tar", "00001.tar", "00002.tar"]


def test_an_index_of_an_earlier_state_or_a_damaged_one_is_written_anew_and_a_right_one_is_left_alone(recipe, tmp_path):
    index = tmp_path / "runs" / "tiny" / "index.parquet"
    whole, written = pq.read_table(index), index.stat().st_mtime_ns
    assert again(recipe, tmp_path).nothing_to_do
    assert index.stat().st_mtime_ns == written
    pq.write_table(whole.slice(0, 4).replace_schema_metadata({b"fineloom.packed": b"of another state"}), index)
    assert again(recipe, tmp_path).nothing_to_do
    assert pq.read_table(index).equals(whole)
    written = index.read_bytes()
    for damaged in (written[:100], b"", written[:-60] + bytes([written[-60] ^ 0x55]) + written[-59:]):
        index.write_bytes(damaged)
        assert again(recipe, tmp_path).nothing_to_do
        assert pq.read_table(index).equals(whole)
