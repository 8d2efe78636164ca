"""The recipes after published sets: each loads and plans, and those without weights run from raw rows to the exported layout."""

import json
import re
from hashlib import sha256

import pytest
import yaml
from in_process import ModelServer, run_here
from PIL import Image, ImageDraw

from operators.decontaminate import caption_key
from operators.reviewed import Review
from pipelines.compare import compare
from pipelines.config import MANIFESTS, ConfigError, load_recipe, recipe_names
from pipelines.exports import About, ExportSettings, export
from pipelines.exports.of_run import shards_in
from pipelines.plan import make_plan
from pipelines.rejects import count
from pipelines.review_file import agreement, export_doubtful, kappa, merge_reviews
from pipelines.run import Options, look, prepare, recipe_warnings

PUBLISHED = ["boxclass_cn", "dci_cn", "docci_cn", "finehard", "fineregion_cn", "fineregion_cn_translated", "lit_cn", "stage1"]
ENGLISH = (
    "A red car stands on a grey road in front of a large white house with a brown door. A small black dog sits beside the car and "
    "looks at a green tree. The sky is blue and the light is soft, so the picture looks calm and clear."
)
CHINESE = (
    "一辆红色的汽车停在灰色的马路上，车身后面是一座白色的房子，房子有一扇棕色的门。一只黑色的小狗坐在汽车旁边，望着一棵绿色的大树。"
    "蓝色的天空下光线柔和，整个画面清晰而安静，风格自然写实。"
)
WORDS = {"car": "汽车", "road": "马路", "house": "房子", "dog": "小狗", "tree": "大树", "door": "门"}


def answer(asked: str) -> str:
    """A stand-in that answers every prompt of the project in its form, always the same."""
    if "原文" in asked:
        source = asked.partition("原文：")[2].strip()
        return json.dumps(
            {"translation": "一只黑色的小狗。" if "dog" in source else WORDS.get(source, "一座白色的房子。")},
            ensure_ascii=False,
        )
    if "描述" in asked:
        return json.dumps({"caption": CHINESE}, ensure_ascii=False)
    if "Describe" in asked:
        return json.dumps({"caption": ENGLISH})
    phrases = re.findall(r"^\s*(\d+)[.:]", asked, re.M)
    boxes = [{"phrase": int(n), "bbox_2d": [10 + 8 * int(n), 10, 60 + 20 * int(n), 150]} for n in phrases]
    return json.dumps({"boxes": boxes})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for n in range(4):
        picture = Image.effect_noise((300 + 8 * n, 300), 80).convert("RGB")
        ImageDraw.Draw(picture).rectangle((20 * n, 30, 120, 200 - 30 * n), fill=(60 * n, 40, 200))
        picture.save(pictures / f"{n}.png")
        (pictures / f"{n}.txt").write_text("a small black dog")
    manifest = {"format": "folder", "tables": str(pictures), "language": "en", "name": "laion2b_en"}
    (tmp_path / "folder.yaml").write_text(yaml.safe_dump(manifest))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def overrides(folder, server, *more):
    here = [
        f"sources=[{folder / 'folder.yaml'}]",
        f"model.base_url={server.url}",
        f"model.name={server.name}",
        "disk_floor_gb=0",
    ]
    return [*here, "shard_size=2", *more]


def test_every_published_set_has_its_recipe():
    assert set(PUBLISHED) <= set(recipe_names())


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_recipe_loads_and_plans(name, folder):
    with ModelServer(answer) as server:
        recipe = load_recipe(name, overrides(folder, server))
        chain = prepare(recipe, folder / "runs", Options())
        plan = make_plan(chain, chain.shards())
    assert plan.shards == 2 and [stage.name for stage in plan.stages] == [stage.name for stage in recipe.stages]


def test_fineregion_cn_runs_from_pictures_to_its_layout(folder):
    with ModelServer(answer) as server:
        chain = run_here(load_recipe("fineregion_cn", overrides(folder, server)), folder / "runs")
    out = folder / "out"
    tally = export(shards_in(chain.run), "finehard", out, ExportSettings(language="zh"), About("x", "y", {}, "1.0.0"))
    records = [r for file in sorted((out / "jsonfiles").iterdir()) for r in json.loads(file.read_text("utf-8"))]
    assert tally.samples == len(records) > 0 and all("is_cn" in r and r["caption"] == CHINESE for r in records)
    assert all(len(b["short_expr_negs"]) == 10 * b["flag_short_neg"] for r in records for b in r["bbox_info"])


@pytest.mark.parametrize("name", ["stage1", "finehard", "fineregion_cn", "fineregion_cn_translated"])
def test_recipes_for_training_say_when_no_evaluation_set_is_kept_out(name, folder, monkeypatch):
    monkeypatch.delenv("FINELOOM_EVALUATION", raising=False)
    (word,) = recipe_warnings(load_recipe(name))
    assert "no evaluation set is named" in word and "FINELOOM_EVALUATION" in word

    (folder / "captions.jsonl").write_text(json.dumps({"set": "LIT-CN", "caption": caption_key(CHINESE)}) + "\n")
    monkeypatch.setenv("FINELOOM_EVALUATION", str(folder / "*.jsonl"))
    recipe = load_recipe(name)
    assert recipe_warnings(recipe) == [] and {s.name for s in recipe.stages} >= {"decontaminate", "decontaminate_long"}


def test_pictures_and_captions_of_evaluation_sets_do_not_get_through_a_recipe_for_training(folder, monkeypatch):
    picture = {"set": "COCO-CN", "sha256": sha256((folder / "pictures" / "1.png").read_bytes()).hexdigest(), "phash": "0"}
    (folder / "coco.jsonl").write_text(json.dumps(picture) + "\n")
    (folder / "lit.jsonl").write_text(json.dumps({"set": "LIT-CN", "caption": caption_key(CHINESE)}) + "\n")
    with ModelServer(answer) as server:
        for manifests, gets_through in (("coco.jsonl", True), ("coco.jsonl:lit.jsonl", False)):
            monkeypatch.setenv("FINELOOM_EVALUATION", manifests)
            chain = run_here(load_recipe("fineregion_cn", overrides(folder, server)), folder / "runs")
            told = count(chain)
            assert told["decontaminate"]["samples"] == {"evaluation_picture": 1}
            assert (told["decontaminate_long"]["samples"]["evaluation_caption"] == 0) is gets_through
            assert bool(list((chain.run / "shards").glob("*.tar"))) is gets_through


def test_boxclass_cn_runs_with_the_served_models_boxes(folder):
    """The detector and the similarity need weights: the served model stands in for one, the other is left out."""
    with ModelServer(answer) as server:
        raw = yaml.safe_load((MANIFESTS / "recipes" / "boxclass_cn.yaml").read_text("utf-8"))
        del raw["stages"]["region_similarity"]
        raw["stages"]["boxes"] = {"operator": "ground", "use_source_boxes": False, "languages": ["en"]}
        raw["stages"]["categories"]["min_count"] = 1
        (folder / "boxclass.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
        chain = run_here(load_recipe(folder / "boxclass.yaml", overrides(folder, server)), folder / "runs")
    export(shards_in(chain.run), "boxclass-cn", folder / "out", ExportSettings(), About("x", "y", {}, "1.0.0"))
    coco = json.loads((folder / "out" / "jsonfile" / "valid_category_data_total_zh.json").read_text("utf-8"))
    names = {category["name"] for category in coco["categories"]}
    assert names and names <= set(WORDS.values()) | {"一座白色的房子", "一只黑色的小狗"} and coco["annotations"]


TINY = {
    "recipe": "tiny",
    "model": {"name": "x", "base_url": "http://127.0.0.1:9/v1", "max_pixels": 50176},
    "stages": {
        "download": {},
        "translate": {"column": "captions", "many": True, "min_ratio": 0.2, "max_ratio": 8},
        "reviewed": {"source": "captions", "many": True},
        "long_caption_en": {"operator": "recaption", "language": "en"},
        "pack": {},
    },
}


def test_what_reviewers_say_of_doubtful_pairs_is_honoured_by_the_next_run(folder):
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**TINY, "sources": ["x"]}, sort_keys=False))

    def wrong(asked):
        return json.dumps({"translation": "两只白色的小猫。"}) if "原文" in asked else answer(asked)

    with ModelServer(wrong) as server:
        settings = overrides(folder, server)
        run_here(load_recipe("tiny.yaml", settings), folder / "runs")
        chain = look(load_recipe("tiny.yaml", settings), folder / "runs")
        pairs, refused = export_doubtful(chain, "translate", folder / "doubtful.jsonl")
        assert pairs == refused == 4
        with pytest.raises(ConfigError, match="not overwritten"):
            export_doubtful(chain, None, folder / "doubtful.jsonl")  # the recipe's only translation
        lines = [json.loads(line) for line in (folder / "doubtful.jsonl").read_text("utf-8").splitlines()]
        assert lines[0]["translation"] == "两只白色的小猫。" and lines[0]["why"] and lines[0]["verdict"] is None
        said = [("correct", "一只黑色的小狗。"), ("reject", None), ("accept", None)]
        filled = [
            {**line, "verdict": verdict, "corrected": text, "reviewer": who, "time": "2026-11-22T10:00:00+00:00"}
            for line, (verdict, text) in zip(lines, said, strict=False)
            for who in ("Li", "Wang")
        ]
        body = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [*filled, lines[3]])
        (folder / "back.jsonl").write_text(body + "broken\n", encoding="utf-8")
        merged = merge_reviews([folder / "back.jsonl"], folder / "reviews.jsonl")
        assert merged.bad[0][1] == 8 and merged.waiting == 1 and merged.kappas == [("Li", "Wang", 1.0, 3)]
        asked = len(server.asked)
        after = run_here(
            load_recipe("tiny.yaml", [*settings, f"stages.reviewed.file={folder / 'reviews.jsonl'}"]), folder / "runs"
        )
        assert len(server.asked) == asked, "the translations were not asked for again"
    from pipelines.show import show

    def columns(line):
        steps = show(after, line["uid"])["stages"]
        return next(step for step in steps if step["stage"] == "reviewed")

    assert columns(lines[0])["columns"]["translation_zh_human"] == ["一只黑色的小狗。"]
    assert columns(lines[1])["parts"][0]["reason"] == "rejected"
    assert columns(lines[2])["columns"]["translation_zh"] == ["两只白色的小猫。"]


def test_kappa_is_cohens():
    both = [("accept", "accept")] * 20 + [("accept", "reject")] * 5 + [("reject", "accept")] * 10 + [("reject", "reject")] * 15
    assert kappa(both) == pytest.approx(0.4)
    assert kappa([("accept", "accept")] * 3) is None and agreement([]) == []


def test_of_two_words_of_a_reviewer_the_later_one_counts_whatever_time_zone_it_is_told_in():
    def said(verdict, time, reviewer="Li"):
        return Review("0" * 32, "translation_zh", None, "A dog.", "一只狗。", verdict, None, reviewer, time)

    words = [said("reject", "2026-11-22T10:00:00+08:00"), said("accept", "2026-11-22T03:00:00+00:00")]
    other = [said("accept", "2026-11-22T03:00:00+00:00", "Wang"), said("reject", "2026-11-22T02:00:00+00:00", "Wang")]
    assert agreement(words + other) == [("Li", "Wang", None, 1)], "both accept in the end: nothing to agree about by chance"


def test_two_prompts_are_compared_over_the_same_samples_and_nothing_is_asked_twice(folder):
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**TINY, "sources": ["x"]}, sort_keys=False))
    injected = json.dumps({"caption": CHINESE + "<script>alert(1)</script>"}, ensure_ascii=False)
    with ModelServer(lambda asked: injected if "描述" in asked else answer(asked)) as server:
        settings = overrides(folder, server)
        run_here(load_recipe("tiny.yaml", settings), folder / "runs")
        chain = look(load_recipe("tiny.yaml", settings), folder / "runs")
        other = load_recipe(
            "tiny.yaml", [*settings, "stages.long_caption_en.prompt=long_caption_zh", "stages.long_caption_en.language=zh"]
        )
        figures = compare(chain, other, "long_caption_en", 3, folder / "page.html")
        assert figures["samples"] == 3 and figures["asked"] == 3 and figures["found"] == 3, "A was answered when it was run"
        of_a, of_b = (figures[side]["prompts"] for side in "ab")
        assert of_a.startswith("long_caption_en@") and of_b.startswith("long_caption_zh@") and of_a[-9:] != of_b[-9:]
        again = compare(chain, other, "long_caption_en", 3, folder / "again.html")
        assert again["asked"] == 0
        with pytest.raises(ConfigError, match="not overwritten"):
            compare(chain, other, "long_caption_en", 3, folder / "page.html")
        with ModelServer(answer) as second:
            second.name = "another"
            model = [f"model.base_url={second.url}", "model.name=another"]
            models = compare(chain, load_recipe("tiny.yaml", [*settings, *model]), "long_caption_en", 3, folder / "models.html")
            assert len(second.asked) == 3 and models["found"] == 3 and models["same"] == 3
            assert models["a"]["model"] != models["b"]["model"] == "another"
        with pytest.raises(ConfigError, match="the same"):
            compare(chain, chain.recipe, "long_caption_en", 3, folder / "same.html")
    page = (folder / "page.html").read_text("utf-8")
    assert "<script" not in page and "data:image/jpeg;base64," in page and "Content-Security-Policy" in page
    assert "http://" not in page and "https://" not in page, "the page asks for nothing"


def test_samples_that_neither_prompt_asks_about_are_not_compared(folder):
    """Stage 1 has long captions made of English pairs only: two of these four pictures."""
    chinese = folder / "chinese"
    chinese.mkdir()
    for name in ("0.png", "0.txt", "1.png", "1.txt"):
        (folder / "pictures" / name).rename(chinese / name)
    (folder / "zh.yaml").write_text(
        yaml.safe_dump({"format": "folder", "tables": str(chinese), "language": "zh", "name": "zh"})
    )
    stages = {"download": {}, "long_caption_en": {"operator": "recaption_matching", "language": "en"}, "pack": {}}
    (folder / "mixed.yaml").write_text(yaml.safe_dump({**TINY, "recipe": "mixed", "stages": stages}, sort_keys=False))
    with ModelServer(answer) as server:
        settings = overrides(folder, server, f"sources=[{folder / 'folder.yaml'}, {folder / 'zh.yaml'}]")
        run_here(load_recipe("mixed.yaml", settings), folder / "runs")
        chain = look(load_recipe("mixed.yaml", settings), folder / "runs")
        other = load_recipe("mixed.yaml", [*settings, "stages.long_caption_en.prompt=long_caption_zh"])
        figures = compare(chain, other, "long_caption_en", 4, folder / "page.html")
        assert figures["samples"] == 2 and figures["a"]["samples with a result"] == "2 of 2"
        one = compare(chain, other, "long_caption_en", 1, folder / "one.html")
        assert one["samples"] == 1
