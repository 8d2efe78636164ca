"""An export of a run says how much of the run is in it, and never describes other shards than those it holds."""

import json

import pytest
import yaml
from in_process import run_here
from picture_server import picture
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.config import ConfigError, load_recipe
from pipelines.run import handoff


@pytest.fixture
def seven(tmp_path):
    """A recipe over seven local pictures in three shards, and its root."""
    (tmp_path / "pictures").mkdir()
    for i in range(7):
        (tmp_path / "pictures" / f"{i}.jpg").write_bytes(picture(60 + 10 * i, 50, seed=50 * i))
        (tmp_path / "pictures" / f"{i}.txt").write_text(f"a red cat, number {i}")
    (tmp_path / "own.yaml").write_text(
        yaml.safe_dump({"format": "folder", "tables": str(tmp_path / "pictures"), "language": "en"})
    )
    stages = {"download": {}, "size": {}, "select": {"keep": "width >= 75"}, "pack": {}}
    body = {"recipe": "seven", "sources": [str(tmp_path / "own.yaml")], "shard_size": 3, "disk_floor_gb": 0, "stages": stages}
    (tmp_path / "seven.yaml").write_text(yaml.safe_dump(body, sort_keys=False))
    return load_recipe(tmp_path / "seven.yaml"), tmp_path / "runs"


def call(recipe, root, *more, layout="huggingface", out="out"):
    given = ["--layout", layout, "--out", str(root.parent / out), "--root", str(root)]
    return CliRunner().invoke(app, ["export", recipe.file, *given, *more])


def test_what_is_missing_of_a_half_done_run_is_told_at_the_terminal_in_the_card_and_in_croissant(seven):
    recipe, root = seven
    run_here(recipe, root, shards=1)
    done = call(recipe, root, "--json")
    assert done.exit_code == 0 and "2 of 3 shards, at most 4 samples, are not there" in done.stderr
    told = json.loads(done.stdout)
    assert told["samples"] == 1 and told["missing"] == {"shards": 2, "of": 3, "samples": 4}
    for name in ("README.md", "croissant.json"):
        assert "2 of 3 shards, at most 4 samples, are not there" in (root.parent / "out" / name).read_text()


def test_a_whole_run_and_a_shard_of_which_nothing_is_left_miss_nothing(seven):
    recipe, root = seven
    recipe = load_recipe(recipe.file, ["select.keep=width >= 95"])
    run_here(recipe, root)
    assert not (root / "seven" / "shards" / "00000.tar").exists()
    done = call(recipe, root, "select.keep=width >= 95", "--json")
    assert done.exit_code == 0 and "not there" not in done.stderr
    assert json.loads(done.stdout)["missing"] == {"shards": 0, "of": 3, "samples": 0}
    assert "Not whole" not in (root.parent / "out" / "README.md").read_text()


def test_shards_of_other_settings_are_not_exported_under_these(seven):
    recipe, root = seven
    run_here(load_recipe(recipe.file, ["select.keep=width >= 95"]), root)
    done = call(recipe, root)
    assert "not what these settings have made" in str(done.exception) and not (root.parent / "out").exists()
    there = CliRunner().invoke(
        app, ["export", "--shards", str(root / "seven" / "shards"), "--layout", "grit", "--out", str(root.parent / "as_it_is")]
    )
    assert there.exit_code == 0 and "3 samples" in there.stdout


def test_a_run_killed_before_it_handed_over_exports_what_it_handed_over_before(seven, monkeypatch):
    recipe, root = seven
    chain = run_here(recipe, root, shards=1)
    with monkeypatch.context() as changed:
        changed.setattr("in_process.handoff", lambda chain: None)
        run_here(recipe, root, shards=2)
    told = json.loads(call(recipe, root, "--json").stdout)
    assert told["samples"] == 1 and told["missing"] == {"shards": 2, "of": 3, "samples": 4}
    handoff(chain)
    told = json.loads(call(recipe, root, "--json", out="later").stdout)
    assert told["samples"] == 4 and told["missing"] == {"shards": 1, "of": 3, "samples": 1}


def test_a_misspelt_layout_is_named_before_shards_are_looked_for(seven):
    recipe, root = seven
    said = call(recipe, root, layout="lit_cn").exception
    assert isinstance(said, ConfigError) and str(said) == "no layout 'lit_cn'. Did you mean lit-cn?"


def test_a_run_without_shards_and_one_on_a_store_say_what_to_do(seven):
    recipe, root = seven
    done = call(recipe, root)
    assert "no shards there" in str(done.exception) and "fineloom run" in str(done.exception)
    done = CliRunner().invoke(
        app, ["export", recipe.file, "--layout", "grit", "--out", str(root.parent / "o"), "--root", "s3://b/runs"]
    )
    assert "copy s3://b/runs/seven/shards here" in str(done.exception)
