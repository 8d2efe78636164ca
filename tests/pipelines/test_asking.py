"""What is asked of the model server, counted at the server itself (a real vLLM), and foretold by the plan."""

import shutil
import urllib.request
from pathlib import Path

import pytest
import yaml
from in_process import run_here
from PIL import Image

import prompts
from pipelines.config import load_recipe
from pipelines.plan import make_plan
from pipelines.run import Options, look, prepare

pytestmark = pytest.mark.vllm
SIZES = [64, 72, 80, 88, 96, 104]


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, side in enumerate(SIZES):
        Image.new("RGB", (side, side), (40 * i, 120, 200 - 30 * i)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a square of {side} pixels")
    return folder


@pytest.fixture
def recipe(tmp_path, pictures, vllm_server):
    (tmp_path / "folder.yaml").write_text(yaml.safe_dump({"format": "folder", "tables": str(pictures), "language": "en"}))
    stages = {
        "download": {},
        "select": {"keep": "width >= 90"},
        "long_caption_en": {"operator": "recaption", "language": "en"},
        "again": {"operator": "recaption", "language": "zh"},
    }
    body = {
        "recipe": "asking",
        "sources": [str(tmp_path / "folder.yaml")],
        "shard_size": 3,
        "disk_floor_gb": 0,
        "model": {"base_url": vllm_server.base_url, "name": vllm_server.name, "max_pixels": 3136},
        "stages": stages,
    }
    path = tmp_path / "asking.yaml"
    path.write_text(yaml.safe_dump(body, sort_keys=False))
    return str(path)


def served(server) -> int:
    """Requests that vLLM has answered since its start, by its own count."""
    with urllib.request.urlopen(server.base_url.removesuffix("/v1") + "/metrics") as page:
        lines = page.read().decode().splitlines()
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if line.startswith("vllm:request_success_total"))


def test_only_what_was_never_asked_is_asked_and_the_plan_knows_it(recipe, tmp_path, vllm_server):
    root = tmp_path / "runs"

    def asks(overrides=(), folder: Path | None = None) -> tuple[dict[str, float], int]:
        """Model calls foretold per stage, and requests that the server then counted."""
        loaded = load_recipe(recipe, overrides)
        options = Options(prompts=folder)
        chain = prepare(loaded, root, options)
        plan = make_plan(chain, chain.shards())
        before = served(vllm_server)
        run_here(loaded, root, options=options)
        return {stage.name: stage.calls for stage in plan.stages if stage.kind == "model"}, served(vllm_server) - before

    assert asks() == ({"long_caption_en": 6, "again": 6}, 4), "two pictures are wide enough, two stages ask for each"
    assert asks() == ({"long_caption_en": 0, "again": 0}, 0)

    looser = ["select.keep=width >= 80"]
    assert asks(looser) == ({"long_caption_en": 2, "again": 2}, 4), "only the two newly admitted pictures are asked about"

    mended = [*looser, "stages.long_caption_en.max_length=300"]
    assert asks(mended) == ({"long_caption_en": 0, "again": 0}, 0), "a validator was mended: nothing is asked"

    folder = tmp_path / "prompts"
    shutil.copytree(Path(prompts.__file__).parent, folder)
    changed = folder / "long_caption_en.yaml"
    changed.write_text(changed.read_text().replace("Describe this picture.", "Describe what you see."))
    assert asks(mended, folder) == ({"long_caption_en": 4, "again": 0}, 4), "one prompt was changed: its stage alone asks again"

    shorter = [*mended, "model.max_answer_tokens=48"]
    assert asks(shorter, folder) == ({"long_caption_en": 4, "again": 4}, 8), "answers with less room are other answers"


def test_every_answer_is_kept_with_what_it_was_asked_for(recipe, tmp_path):
    from pipelines.answers import read_answers

    run_here(load_recipe(recipe), tmp_path / "runs")
    chain = look(load_recipe(recipe), tmp_path / "runs")
    records = [record for folder in (chain.run / "answers" / "again").iterdir() for _, record in read_answers(folder)]
    assert len(records) == 2
    assert all(record["prompt"] == "long_caption_zh@1" and record["image"] and record["identity"] for record in records)
