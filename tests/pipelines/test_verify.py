"""Committed files that a disk lost or somebody touched: named, and made again."""

import json

import pytest
import yaml
from in_process import run_here
from picture_server import picture
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.compact import compact
from pipelines.config import load_recipe
from pipelines.durable import read_table
from pipelines.ledger import Ledger
from pipelines.progress import Progress
from pipelines.rejects import entries_in_force
from pipelines.run import Options, execute, look, reach
from pipelines.takedown import take_down


@pytest.fixture
def made(tmp_path):
    """A recipe whose run is finished: six pictures in two shards."""
    (tmp_path / "pictures").mkdir()
    for i in range(6):
        (tmp_path / "pictures" / f"{i}.jpg").write_bytes(picture(60 + 10 * i, 50, seed=50 * i))
        (tmp_path / "pictures" / f"{i}.txt").write_text(f"a red cat, number {i}")
    (tmp_path / "own.yaml").write_text(
        yaml.safe_dump({"format": "folder", "tables": str(tmp_path / "pictures"), "language": "en"})
    )
    stages = {"download": {}, "size": {}, "pack": {}}
    body = {"recipe": "six", "sources": [str(tmp_path / "own.yaml")], "shard_size": 3, "disk_floor_gb": 0, "stages": stages}
    (tmp_path / "six.yaml").write_text(yaml.safe_dump(body, sort_keys=False))
    recipe = load_recipe(tmp_path / "six.yaml")
    run_here(recipe, tmp_path / "runs")
    return recipe


def verify(made, tmp_path, *more):
    """Exit status, and the damaged files with what was found."""
    done = CliRunner().invoke(app, ["verify", str(tmp_path / "six.yaml"), "--root", str(tmp_path / "runs"), "--json", *more])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, {one["file"]: one["found"] for one in json.loads(done.stdout)["damaged"]}


def contents(made, tmp_path):
    """Every row, refusal and packed byte under the recipe."""
    chain = look(made, tmp_path / "runs")
    assert reach(chain, chain.shards()).pending() == []
    rows = {
        (entry.stage, entry.shard): [read_table(chain.run / entry.files[role].path).to_pylist() for role in ("data", "rejects")]
        for entry, _ in entries_in_force(chain)
    }
    return rows, {path.name: path.read_bytes() for path in (chain.run / "shards").glob("*.tar")}


@pytest.mark.parametrize("compacted", [False, True])
def test_each_kind_of_damage_is_named_and_made_again(made, tmp_path, compacted):
    run = tmp_path / "runs" / "six"
    whole = contents(made, tmp_path)
    paths = {(entry.stage, entry.shard): entry for entry, _ in entries_in_force(look(made, tmp_path / "runs"))}
    if compacted:
        compact(Ledger(run))
    assert verify(made, tmp_path) == (0, {})

    gone, cut, flipped = paths["size", 0].files["data"], paths["source", 1].files["data"], paths["download", 0].files["images"]
    (run / gone.path).unlink()
    (run / cut.path).write_bytes((run / cut.path).read_bytes()[:-9])
    content = bytearray((run / flipped.path).read_bytes())
    content[700] ^= 1
    (run / flipped.path).write_bytes(content)
    tar = run / "shards" / "00001.tar"
    packed = tar.read_bytes()
    tar.unlink()  # a link: the packed tar itself is left as it is
    tar.write_bytes(packed[:-2000] + bytes(2000) + b"x")
    other = {cut.path, flipped.path, "shards/00001.tar"}
    status, found = verify(made, tmp_path)
    assert (status, {*found}) == (1, {gone.path, *other})
    assert found[gone.path] == "is gone" and "other content" in found[flipped.path]

    assert verify(made, tmp_path, "--again") == (0, found)
    chain = look(made, tmp_path / "runs")
    assert reach(chain, chain.shards()).pending() == [0, 1]
    run_here(made, tmp_path / "runs")
    assert contents(made, tmp_path) == whole and verify(made, tmp_path) == (0, {})


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        ("entry", lambda data: data[:-20]),
        ("entry", lambda data: data.replace(b'"rows_out":3', b'"rows_out":2')),
        ("segment", lambda data: data[:-20]),
        ("segment", lambda data: data.replace(b"uids", b"uidt")),
    ],
)
def test_a_damaged_part_of_the_ledger_itself_is_made_again_too(made, tmp_path, part, damage):
    run = tmp_path / "runs" / "six"
    whole = contents(made, tmp_path)
    if part == "segment":
        compact(Ledger(run))
    pattern = {"entry": "ledger/size/*/00000.json", "segment": "ledger/@compacted/size.*.parquet"}[part]
    (path,) = run.glob(pattern)
    path.write_bytes(damage(path.read_bytes()))
    name = str(path.relative_to(run))
    assert verify(made, tmp_path)[1].keys() == {name}
    assert verify(made, tmp_path, "--again")[1].keys() == {name}
    run_here(made, tmp_path / "runs")
    assert contents(made, tmp_path) == whole and verify(made, tmp_path) == (0, {})


def test_a_damaged_file_for_planning_is_named_and_done_without(made, tmp_path):
    run = tmp_path / "runs" / "six"
    compact(Ledger(run))
    (path,) = run.glob("ledger/@compacted/size.*.planning")
    path.write_bytes(path.read_bytes()[:-20])
    assert verify(made, tmp_path, "--again")[1].keys() == {str(path.relative_to(run))}
    assert verify(made, tmp_path) == (0, {}) and execute(made, tmp_path / "runs", Options(), Progress()).nothing_to_do


def test_a_torn_generation_is_named_and_found_out_again(made, tmp_path):
    run = tmp_path / "runs" / "six"
    compact(Ledger(run))
    torn = max(run.glob("ledger/@compacted/*.json"))
    torn.write_bytes(torn.read_bytes()[:30])
    assert verify(made, tmp_path)[1].keys() == {str(torn.relative_to(run))}
    verify(made, tmp_path, "--again")
    assert verify(made, tmp_path) == (0, {}) and execute(made, tmp_path / "runs", Options(), Progress()).nothing_to_do


def test_what_a_takedown_changed_is_no_damage(made, tmp_path):
    chain = look(made, tmp_path / "runs")
    uid = read_table(chain.run / reach(chain, chain.shards()).entry(0, "source").files["data"].path)["uid"][0].as_py()
    take_down(chain, [uid], [], [])
    assert verify(made, tmp_path) == (0, {})


def test_a_run_with_nothing_to_do_hands_over_anew_what_was_handed_over_damaged(made, tmp_path):
    tar = tmp_path / "runs" / "six" / "shards" / "00000.tar"
    content = tar.read_bytes()
    tar.unlink()
    tar.write_bytes(content[:-1024] + bytes(range(256)) * 4)
    assert verify(made, tmp_path, "--again")[1].keys() == {"shards/00000.tar"}
    assert execute(made, tmp_path / "runs", Options(), Progress()).nothing_to_do
    assert tar.read_bytes() == content and verify(made, tmp_path) == (0, {})
