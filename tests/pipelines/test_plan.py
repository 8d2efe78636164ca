"""The bill: what is foretold of the work that is left, from what the committed work measured."""

import asyncio

import pytest
import yaml
from in_process import ModelServer, run_here
from picture_server import picture

from pipelines import worker as workers
from pipelines.config import load_recipe
from pipelines.plan import make_plan
from pipelines.run import Options, look, prepare, warnings
from pipelines.view import View
from pipelines.worker import Shares, Worker

ANSWER = "A woman sits on a terrace in the evening light, with a glass in her hand and a small dog at her feet. Behind her are hills."


@pytest.fixture
def recipe_of(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(8):
        (pictures / f"{i}.jpg").write_bytes(picture(60 + 10 * i, 50, seed=20 * i))
        (pictures / f"{i}.txt").write_text(f"a red cat, number {i}")
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"format": "folder", "tables": str(pictures), "language": "en"}))

    def make(server, overrides=()):
        stages = {"download": {}, "long_caption_en": {"operator": "recaption", "language": "en"}}
        body = {"recipe": "bill", "sources": [str(tmp_path / "own.yaml")], "shard_size": 2, "disk_floor_gb": 0}
        body |= {"model": {"base_url": server.url, "name": server.name}, "stages": stages}
        (tmp_path / "bill.yaml").write_text(yaml.safe_dump(body, sort_keys=False))
        return load_recipe(tmp_path / "bill.yaml", overrides)

    return make


def caption(plan):
    return plan.stages[-1]


def test_answers_that_were_found_are_not_taken_for_samples_that_ask_nothing(recipe_of, tmp_path):
    """A mended validator commits every shard once more without a request. The next shards will ask all the same."""
    with ModelServer(lambda text: ANSWER) as server:
        root = tmp_path / "runs"
        run_here(recipe_of(server), root, shards=2)
        before = make_plan(look(recipe_of(server), root), range(4))
        for length in (300, 301, 302):
            mended = recipe_of(server, [f"stages.long_caption_en.max_length={length}"])
            run_here(mended, root, shards=2)
        after = make_plan(look(mended, root), range(4))
    assert caption(before).calls == caption(after).calls == 4
    assert caption(after).seconds == pytest.approx(caption(before).seconds, rel=1e-6) and caption(after).seconds > 0


def test_a_rate_that_was_never_measured_is_said_to_be_missing(recipe_of, tmp_path, monkeypatch):
    with ModelServer(lambda text: ANSWER) as server:
        recipe, root = recipe_of(server), tmp_path / "runs"
        monkeypatch.setattr(Shares, "end", lambda *_: 0.0)
        run_here(recipe, root, shards=2)
        plan = make_plan(look(recipe, root), range(4))
        assert (plan.gpu_hours, plan.unmeasured) == (0.0, ["long_caption_en"])
        assert make_plan(look(recipe, root), range(4), tokens_per_second=10).unmeasured == []


def test_gpus_are_those_of_the_server_or_those_of_the_workers_that_bring_their_own(recipe_of, tmp_path):
    with ModelServer(lambda text: ANSWER) as server:
        recipe, root = recipe_of(server, ["model.gpus=4"]), tmp_path / "runs"
        run_here(recipe, root, shards=2)
        plan = make_plan(look(recipe, root), range(4))
        assert plan.gpu_hours == pytest.approx(4 * caption(plan).seconds / 3600) and plan.gpu_hours > 0
        assert make_plan(look(recipe, root), range(4), gpus=2).gpu_hours == pytest.approx(plan.gpu_hours / 2)
        pool = "stages.long_caption_en.resources={gpus: 2, workers: [1, 8]}"
        own = recipe_of(server, ["model.engine=offline", "model.offline={model: /models/x}", pool])
        assert own.gpus(own.stages[-1]) == 16
        before, after = (look(made, root).made_by(made.stages[-1]) for made in (recipe, recipe_of(server)))
        assert before == after, "the number of GPUs decides no answer"


def test_answers_are_part_of_what_will_be_stored(recipe_of, tmp_path):
    with ModelServer(lambda text: ANSWER) as server:
        recipe, root = recipe_of(server), tmp_path / "runs"
        chain = run_here(recipe, root, shards=2)
        plan = make_plan(look(recipe, root), range(4))
    answers = sum(path.stat().st_size for path in (chain.run / "answers").rglob("*.jsonl"))
    entries = list(chain.ledger.entries("long_caption_en"))
    tables = sum(file.bytes for entry in entries for file in entry.files.values())
    assert answers > 1000 and caption(plan).stored == pytest.approx(answers + tables), "as much as the first half"


def test_shards_that_share_a_server_share_its_time(recipe_of, tmp_path, monkeypatch):
    """Four at once take no longer than the server does, and the bill of the rest must not be four times too high."""
    clock = iter(range(1000))
    monkeypatch.setattr(workers.time, "monotonic", lambda: next(clock))
    shares = Shares()
    [shares.begin(name) for name in "abc"]  # at 1, 2, 3
    assert shares.end("b") == 1 / 2 + 1 / 3
    assert shares.end("a") == 1 + 1 / 2 + 1 / 3 + 1 / 2 and shares.end("c") == 1 / 3 + 1 / 2 + 1
    monkeypatch.undo()

    async def at_once(worker, views):
        async def quiet(_):
            pass

        began = workers.time.monotonic()
        made = await asyncio.gather(*(worker.process(view, quiet) for view in views))
        await worker.client.close()
        return sum(entry.seconds for entry, _ in made), workers.time.monotonic() - began

    with ModelServer(lambda text: ANSWER) as server:
        recipe = recipe_of(server)
        chain = _downloaded(recipe, tmp_path / "runs")
        views = [chain.advance(View(shard), recipe.stages[:2])[0] for shard in range(4)]
        told, took = asyncio.run(at_once(Worker(chain, recipe.stages[2]), views))
    assert 0 < told <= took + 0.01


def _downloaded(recipe, root):
    from pipelines.run import Options, prepare

    chain = prepare(recipe, root, Options())

    async def fetch():
        async def quiet(_):
            pass

        for shard in range(4):
            view = View(shard)
            for stage in recipe.stages[:2]:
                view = view.after((await Worker(chain, stage).process(view, quiet))[0])

    asyncio.run(fetch())
    return chain


def test_another_shard_size_is_said_to_be_for_new_tables(recipe_of, tmp_path):
    with ModelServer(lambda text: ANSWER) as server:
        recipe, other = recipe_of(server), recipe_of(server, ["shard_size=3"])
        assert warnings(prepare(recipe, tmp_path / "runs", Options())) == []
        (said,) = warnings(prepare(other, tmp_path / "runs", Options()))
        assert said.startswith("shard_size=3 is for new tables: 1 table cut before keeps its shards (of 2 rows)")
        assert warnings(prepare(other, tmp_path / "another", Options())) == []
