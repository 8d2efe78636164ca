"""Everything known of one sample: its way, its refusals, its picture, and the answers that made its texts."""

import io
import json

import pyarrow.parquet as pq
import pytest
import yaml
from in_process import ModelServer, run_here
from picture_server import picture
from rich.console import Console

from pipelines import rejects
from pipelines.config import ConfigError, load_recipe
from pipelines.run import look
from pipelines.show import render, show

CAPTION = (
    "A red cube rests beside a striped green ball on a plain wooden floor, and a small blue cone stands behind them in soft "
    "light from the left. The background is pale grey, evenly lit, and the shadows fall gently toward the right side."
)


@pytest.fixture
def recipe_of(tmp_path):
    """A function that writes a recipe over six pictures 60, 70 … 110 wide."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(6):
        (pictures / f"{i}.jpg").write_bytes(picture(60 + 10 * i, 50, seed=50 * i))
        (pictures / f"{i}.txt").write_text(f"picture {i} [bold]")
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"format": "folder", "tables": str(pictures), "language": "en"}))

    def make(stages, **top):
        recipe = {"recipe": "small", "sources": [str(tmp_path / "own.yaml")], "shard_size": 3, "disk_floor_gb": 0, **top}
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump({**recipe, "stages": stages}, sort_keys=False))
        return load_recipe(path)

    return make


def uid_of(chain, caption):
    for entry, _ in rejects.entries_in_force(chain):
        if entry.stage == "source":
            for row in pq.read_table(chain.run / entry.files["data"].path).to_pylist():
                if row["captions"] == [caption]:
                    return row["uid"]
    raise AssertionError(caption)


def printed(told):
    console = Console(file=io.StringIO(), width=100)
    render(told, console)
    return console.file.getvalue()


STAGES = {"download": {}, "size": {}, "select": {"keep": "width >= 70"}, "pack": {}}


def test_a_sample_is_followed_from_its_row_to_its_place_in_the_shard(recipe_of, tmp_path):
    recipe = recipe_of(STAGES)
    chain = run_here(recipe, tmp_path / "runs")
    uid = uid_of(chain, "picture 4 [bold]")
    told = show(look(recipe, tmp_path / "runs"), uid)
    assert (told["uid"], told["fate"], told["shard"]) == (uid, "kept", 1)
    assert [step["stage"] for step in told["stages"]] == ["source", "download", "size", "select", "pack"]
    assert told["stages"][0]["columns"]["captions"] == ["picture 4 [bold]"]
    assert told["picture"]["width"] == 100 and told["stages"][2]["operators"] == ["size@1"]
    with (tmp_path / "runs" / "small" / told["packed"]["shard"]).open("rb") as tar:
        tar.seek(told["packed"]["offset"])
        assert tar.read(36) == f"{uid}.jpg".encode()
    json.dumps(told, allow_nan=False)
    assert "went through all stages" in printed(told) and "picture 4 [bold]" in printed(told)


def test_the_picture_is_written_out_unchanged_and_never_over_another_file(recipe_of, tmp_path):
    recipe = recipe_of(STAGES)
    chain = run_here(recipe, tmp_path / "runs")
    uid = uid_of(chain, "picture 3 [bold]")
    show(chain, uid, picture=tmp_path / "out.jpg")
    assert (tmp_path / "out.jpg").read_bytes() == (tmp_path / "pictures" / "3.jpg").read_bytes()
    with pytest.raises(ConfigError, match="already"):
        show(chain, uid, picture=tmp_path / "out.jpg")


def test_a_refused_sample_ends_with_its_reason(recipe_of, tmp_path):
    recipe = recipe_of(STAGES)
    chain = run_here(recipe, tmp_path / "runs")
    told = show(chain, uid_of(chain, "picture 0 [bold]"))
    assert told["fate"] == "refused" and told["packed"] is None
    assert told["stages"][-1]["stage"] == "select"
    assert told["stages"][-1]["refused"] == {"reason": "not_selected", "detail": "width >= 70: width = 60"}
    assert "refused by stage select" in printed(told)


def test_a_sample_that_was_put_back_is_shown_where_it_lives_now(recipe_of, tmp_path):
    recipe = recipe_of(STAGES)
    uid = uid_of(run_here(recipe, tmp_path / "runs"), "picture 0 [bold]")
    rejects.requeue(look(recipe, tmp_path / "runs"), "not_selected")
    told = show(look(recipe, tmp_path / "runs"), uid[:20])  # its new shard has not begun
    assert told["shard"] == 0 and told["fate"] == "refused"
    run_here(recipe, tmp_path / "runs")
    told = show(look(recipe, tmp_path / "runs"), uid)
    assert told["shard"] == 2 and told["earlier_shards"] == [0]
    assert "put back after shard 0" in printed(told)


def test_prefixes_name_one_sample_or_say_which_they_fit(recipe_of, tmp_path):
    recipe = recipe_of(STAGES)
    chain = run_here(recipe, tmp_path / "runs")
    uid = uid_of(chain, "picture 1 [bold]")
    assert show(chain, uid[:12].upper())["uid"] == uid
    first = [uid_of(chain, f"picture {i} [bold]")[0] for i in range(6)]
    shared = next((digit for digit in first if first.count(digit) > 1), None)
    if shared is not None:
        with pytest.raises(ConfigError, match=f"fits {first.count(shared)} samples"):
            show(chain, shared)
    for wrong in ("", "xyz", "../../etc", "f" * 33):
        with pytest.raises(ConfigError, match="no sample"):
            show(chain, wrong)
    with pytest.raises(ConfigError, match="no sample"):
        show(chain, "0" * 32 if uid[0] != "0" else "f" * 32)


def test_answers_are_those_of_this_sample_and_nobody_is_asked(recipe_of, tmp_path):
    count = iter(range(100))
    stages = {"download": {}, "long_caption_en": {"operator": "recaption", "language": "en"}}
    with ModelServer(lambda _: json.dumps({"caption": CAPTION.replace("red", f"red {next(count)}")})) as server:
        model = {"base_url": server.url, "name": server.name, "concurrency": 1}
        recipe = recipe_of(stages, model=model)
        run_here(recipe, tmp_path / "runs")
        asked = len(server.asked)
        chain = look(recipe, tmp_path / "runs")
        told = {i: show(chain, uid_of(chain, f"picture {i} [bold]")) for i in (1, 5)}
        assert len(server.asked) == asked
    for one in told.values():
        step = one["stages"][-1]
        (answer,) = step["answers"]
        assert json.loads(answer["text"])["caption"] == step["columns"]["long_caption_en"]
        assert answer["prompt"].startswith("long_caption_en@") and answer["image"] == one["picture"]["sha256"]
        assert step["answers_note"] is None and step["model"]["weights"] == "canned-weights"
        assert "11 + 7 tokens" in printed(one)
    assert told[1]["stages"][-1]["answers"] != told[5]["stages"][-1]["answers"]


def test_answers_that_are_gone_are_said_to_be_gone(recipe_of, tmp_path):
    stages = {"download": {}, "long_caption_en": {"operator": "recaption", "language": "en"}}
    with ModelServer(lambda _: json.dumps({"caption": CAPTION})) as server:
        recipe = recipe_of(stages, model={"base_url": server.url, "name": server.name})
        chain = run_here(recipe, tmp_path / "runs")
    for segment in (chain.run / "answers").rglob("*.jsonl"):
        segment.unlink()
    told = show(chain, uid_of(chain, "picture 2 [bold]"))
    assert told["stages"][-1]["answers"] == [] and "no answer in the store" in told["stages"][-1]["answers_note"]
    assert told["fate"] == "kept"


def test_control_characters_do_not_reach_the_terminal(recipe_of, tmp_path):
    recipe = recipe_of(STAGES)
    chain = run_here(recipe, tmp_path / "runs")
    told = show(chain, uid_of(chain, "picture 2 [bold]"))
    told["stages"][0]["columns"]["captions"] = ["\x1b[31mred\x07 \u202eback [link=http://x]"]
    told["stages"][0]["parts"] = [{"item": "captions[0]", "reason": "bad\x1b", "detail": "\x9b31m"}]
    out = printed(told)
    assert "\x1b" not in out and "\x07" not in out and "\u202e" not in out and "\x9b" not in out
    assert "[link=http://x]" in out
