"""Samples that were put back live in one shard only, whatever their first one would say of them now."""

import json
from collections import Counter

import pytest
import yaml
from in_process import run_here
from picture_server import PictureServer, picture

from pipelines.config import load_recipe
from pipelines.durable import read_table
from pipelines.rejects import count, requeue, retry
from pipelines.run import look, reach
from pipelines.stores import place
from pipelines.view import View

MARK = "faulty_operators:Mark"
STAGES = {"first": {"operator": MARK}, "mark": {"operator": MARK, "refuse_from": 8}, "last": {"operator": MARK}}
MILD = ["stages.mark.refuse_from=100"]


def rows(recipe, root):
    """row of the table → shards where it went all the way."""
    chain, found = look(recipe, root), []
    at = reach(chain, chain.shards())
    assert not at.pending()
    for view, _ in at.values():
        found += [(row, view.shard) for row in read_table(chain.run / view.uid_file)["mark"].to_pylist()]
    return sorted(found)


def test_a_sample_that_its_first_shard_would_take_now_stays_in_the_later_one(make_recipe, tmp_path):
    path, root = make_recipe(STAGES, rows=10), tmp_path / "runs"
    run_here(load_recipe(path), root)
    assert requeue(look(load_recipe(path), root), "too_far").rows == 2
    mild = load_recipe(path, MILD)
    run_here(mild, root)
    assert rows(mild, root) == [*((row, row // 5) for row in range(8)), (8, 2), (9, 2)]
    chain = look(mild, root)
    assert count(chain)["mark"]["samples"] == Counter(put_back=2)
    walked = {shard: chain.advance(View(shard), mild.stages) for shard in chain.shards()}
    assert dict(reach(chain, chain.shards())) == walked


def test_a_stage_before_the_one_that_refused_lets_it_go_too(make_recipe, tmp_path):
    path, root = make_recipe(STAGES, rows=10), tmp_path / "runs"
    run_here(load_recipe(path), root)
    requeue(look(load_recipe(path), root), "too_far")
    other = load_recipe(path, [*MILD, "stages.first.seconds=0.001"])
    run_here(other, root)
    assert count(look(other, root))["first"]["samples"] == Counter(put_back=2)
    assert [row for row, _ in rows(other, root)] == list(range(10))


def test_what_is_refused_again_can_be_put_back_again_and_lives_in_the_newest_shard(make_recipe, tmp_path):
    path, root = make_recipe(STAGES, rows=10), tmp_path / "runs"
    strict, mild = load_recipe(path), load_recipe(path, MILD)
    run_here(strict, root)
    assert requeue(look(strict, root), "too_far").first_shard == 2
    run_here(strict, root)
    assert requeue(look(strict, root), "too_far").first_shard == 3
    assert requeue(look(strict, root), "too_far") is None
    run_here(mild, root)
    assert [place for place in rows(mild, root) if place[0] >= 8] == [(8, 3), (9, 3)]


def test_retry_is_for_what_was_fetched(make_recipe, tmp_path):
    path, root = make_recipe(STAGES, rows=10), tmp_path / "runs"
    run_here(load_recipe(path), root)
    with pytest.raises(ValueError, match="no download stage"):
        retry(look(load_recipe(path), root))


@pytest.mark.parametrize("kind", ["folder", "store"])
def test_retry_puts_back_what_may_pass_and_nothing_else(tmp_path, kind):
    """A busy host and a missing page: only the first is asked again, in a shard of its own, and what was fetched stays."""
    root = tmp_path / "runs" if kind == "folder" else place(f"memory://{tmp_path.name}/runs")
    with PictureServer() as server:
        for i in range(4):
            server.serve(f"/{i}.jpg", picture(70 + 10 * i, 50, seed=9 * i))
        server.behave("/1.jpg", lambda handler: handler.answer(503))
        server.behave("/2.jpg", lambda handler: handler.answer(404))
        links = [json.dumps({"u": f"{server.url}/{i}.jpg", "t": f"a red cat {i}"}) + "\n" for i in range(4)]
        (tmp_path / "table.jsonl").write_text("".join(links))
        columns = {"url": "u", "captions": ["t"]}
        source = {"format": "jsonl", "tables": str(tmp_path / "table.jsonl"), "language": "en", "columns": columns}
        (tmp_path / "links.yaml").write_text(yaml.safe_dump(source))
        stages = {"download": {"allow_private_addresses": True, "retries": 0}, "pack": {}}
        body = {
            "recipe": "links",
            "sources": [str(tmp_path / "links.yaml")],
            "shard_size": 4,
            "disk_floor_gb": 0,
            "stages": stages,
        }
        (tmp_path / "links_recipe.yaml").write_text(yaml.safe_dump(body, sort_keys=False))
        recipe = load_recipe(tmp_path / "links_recipe.yaml")
        run_here(recipe, root)
        assert count(look(recipe, root))["download"]["samples"] == Counter(http_503=1, http_404=1)

        back = retry(look(recipe, root))
        assert (back.rows, back.first_shard, back.shards) == (1, 1, 1)
        assert retry(look(recipe, root)) is None
        server.serve("/1.jpg", picture(80, 50, seed=9))
        before = server.asked["/0.jpg"]
        run_here(recipe, root)
        packed = read_table(root / "links" / "index.parquet")
        assert sorted(packed["tar"].to_pylist()) == ["00000.tar", "00000.tar", "00001.tar"]
        assert server.asked["/0.jpg"] == before and server.asked["/2.jpg"] == 1
