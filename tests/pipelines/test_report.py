"""The report over real, small runs: its sums, its bounds, and that nothing of a stranger's text becomes markup."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from in_process import ModelServer, run_here
from picture_server import PictureServer, picture

from pipelines import rejects
from pipelines.config import load_recipe
from pipelines.report import charts, page, samples, write_report
from pipelines.report.training import evaluations, training
from pipelines.report.way import walk
from pipelines.run import look

EVIL = '<script>alert(1)</script> " onload="x \u202egnp.exe\u0007 &amp; {{ 7*7 }}'
CAPTION = (
    "A red cube rests beside a striped green ball on a plain wooden floor, and a small blue cone stands behind them in soft "
    "light from the left. The background is pale grey, evenly lit, and the shadows fall gently toward the right side."
)
BOX = [0.25, 0.25, 0.75, 0.75]


@pytest.fixture
def folder(tmp_path):
    """Seven pictures with captions, one of them hostile, and one file that is no picture."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(7):
        (pictures / f"{i}.jpg").write_bytes(picture(80 + 10 * i, 60, seed=40 * i))
        (pictures / f"{i}.txt").write_text(EVIL if i == 0 else f"a red cube number {i}", encoding="utf-8")
    (pictures / "7.jpg").write_bytes(b"<html>not found</html>")
    source = {"format": "folder", "tables": str(pictures), "language": "en"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(source))
    return tmp_path


def recipe_of(tmp_path, stages, **top):
    path = tmp_path / "small.yaml"
    recipe = {"recipe": "small", "sources": [str(tmp_path / "own.yaml")], "shard_size": 4, "disk_floor_gb": 0, **top}
    path.write_text(yaml.safe_dump({**recipe, "stages": stages}, sort_keys=False))
    return load_recipe(path)


PLAIN = {"download": {}, "measure": {"operators": {"size": {}, "text": {}}}, "select": {"keep": "width >= 100"}, "pack": {}}


def html_of(recipe, tmp_path, **more):
    target = write_report(look(recipe, tmp_path / "runs"), **more)
    assert target == tmp_path / "runs" / "small" / "report.html"
    return target.read_text(encoding="utf-8")


class Tags(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.open = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img", "br", "link", "input", "hr"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()


def test_rows_in_the_tables_are_samples_in_shards_and_refusals(folder):
    recipe = recipe_of(folder, PLAIN)
    run_here(recipe, folder / "runs")
    way = walk(look(recipe, folder / "runs"))
    assert (way.rows, way.kept, way.refused, way.on_the_way) == (8, 5, 3, 0)
    assert way.balanced and way.finished == way.shards == 2
    assert sum(way.stages["download"].rejects.values()) == 1
    assert way.stages["select"].rejects == {"not_selected": 2}
    html = html_of(recipe, folder)
    assert "nothing lost" in html and "does not come out" not in html
    assert re.search(r"<b>8</b>\s*<span>rows in the tables", html)


def test_the_page_asks_for_nothing_runs_nothing_and_is_well_formed(folder):
    recipe = recipe_of(folder, PLAIN)
    run_here(recipe, folder / "runs")
    tags = Tags(html_of(recipe, folder))
    assert not tags.open
    assert not {"script", "iframe", "link", "object", "embed", "form", "base"} & set(tags.tags)
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    links = [value for name, value in tags.attributes if name in ("src", "href", "xlink:href", "action", "srcset")]
    assert links and all(link.startswith(("#", "data:image/jpeg;base64,")) for link in links)
    assert any("default-src 'none'" in (value or "") for _, value in tags.attributes)


def test_texts_of_strangers_stay_texts(folder):
    recipe = recipe_of(folder, {**PLAIN, "select": {"keep": "width >= 1"}})
    run_here(recipe, folder / "runs")
    chain = look(recipe, folder / "runs")
    (chain.run / "runs").mkdir()
    (chain.run / "runs" / "20300101T000000-aaaaaa.json").write_text(json.dumps({"seconds": 1, "stopped": EVIL}))
    html = html_of(recipe, folder)
    assert html.count("&lt;script&gt;alert(1)") >= 2 and "<script" not in html  # in the caption and in the run's end
    assert "\u202e" not in html and "⟨U+202E⟩gnp.exe" in html
    assert "{{ 7*7 }}" in html


def test_boxes_of_the_source_and_their_negatives_are_told(tmp_path):
    with PictureServer() as pictures, ModelServer(lambda _: "never asked") as model:
        pictures.serve("/ball.jpg", picture(200, 150))
        rows = [{"url": f"{pictures.url}/ball.jpg", "caption": "a red ball on a table", "boxes": [[0.0, 10.0, *BOX, 0.9]]}]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "boxes.parquet")
        columns = {"url": "url", "captions": "caption", "regions": "boxes"}
        source = {"format": "parquet", "tables": str(tmp_path / "boxes.parquet"), "columns": columns, "language": "en"}
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(source))
        download = {"allow_private_addresses": True, "respect_robots_txt": False}
        negatives = {"operator": "hard_negatives"}
        stages = {"download": download, "ground": {"ask_model": False}, "negatives": negatives, "pack": {}}
        recipe = recipe_of(tmp_path, stages, model={"base_url": model.url, "name": model.name})
        run_here(recipe, tmp_path / "runs")
    html = html_of(recipe, tmp_path)
    assert html.count("<mark>") >= 10 and "10 negatives" in html
    assert 'class="box b0"' in html and "Negatives by family" in html and "lexical" in html


def test_a_served_model_s_tokens_refusals_and_identity_are_told(folder):
    replies = iter([json.dumps({"caption": CAPTION}), "", *[json.dumps({"caption": CAPTION})] * 20])
    stages = {"download": {}, "long_caption_en": {"operator": "recaption", "language": "en"}, "pack": {}}
    with ModelServer(lambda _: next(replies)) as server:
        recipe = recipe_of(folder, stages, model={"base_url": server.url, "name": server.name, "concurrency": 1})
        run_here(recipe, folder / "runs")
        asked = len(server.asked)
    way = walk(look(recipe, folder / "runs"))
    stage = way.stages["long_caption_en"]
    assert stage.usage["requests"] == stage.rows_in == 7 <= asked
    assert stage.usage["output_tokens"] == 49 == stage.spent["output_tokens"]
    assert stage.parts["empty"] == 1 and not stage.rejects
    html = html_of(recipe, folder)
    for told in ("canned-weights", "long_caption_en@", "parts of samples", "the model said nothing"):
        assert told in html
    assert "http://127.0.0.1" not in html


def test_put_back_samples_are_counted_apart_and_the_sum_still_comes_out(folder):
    recipe = recipe_of(folder, PLAIN)
    run_here(recipe, folder / "runs")
    assert rejects.requeue(look(recipe, folder / "runs"), "not_selected") is not None
    waiting = walk(look(recipe, folder / "runs"))
    assert (waiting.rows, waiting.put_back, waiting.kept, waiting.refused, waiting.on_the_way) == (8, 2, 5, 1, 2)
    assert waiting.balanced
    run_here(recipe, folder / "runs")
    again = walk(look(recipe, folder / "runs"))
    assert (again.rows, again.put_back, again.kept, again.refused, again.on_the_way) == (8, 2, 5, 3, 0)
    assert again.balanced and "were put back" in html_of(recipe, folder)


def test_a_shard_that_vanished_or_was_changed_is_loudly_flagged(folder):
    recipe = recipe_of(folder, PLAIN)
    chain = run_here(recipe, folder / "runs")
    first, second = sorted((chain.run / "shards").glob("*.tar"))
    first.unlink()
    second.rename(first.with_name("kept.part"))
    second.write_bytes(b"half")
    html = html_of(recipe, folder)
    assert "the sum does not come out" in html and "nothing lost" not in html
    assert f"shards/{first.name} is not there" in html and "has 4 bytes instead of" in html


def test_a_half_deleted_run_is_reported_as_far_as_it_can_be_read(folder):
    recipe = recipe_of(folder, PLAIN)
    chain = run_here(recipe, folder / "runs")
    for path in [*(chain.run / "pack").iterdir(), *(chain.run / "rejects" / "select").iterdir()]:
        path.unlink()
    html = html_of(recipe, folder)
    assert "samples cannot be read" in html and "cannot be read" in html


def test_a_run_that_has_only_begun_says_so(folder):
    recipe = recipe_of(folder, PLAIN)
    run_here(recipe_of(folder, {"download": {}}), folder / "runs", shards=1)
    recipe = recipe_of(folder, PLAIN)
    way = walk(look(recipe, folder / "runs"))
    assert (way.kept, way.refused + way.on_the_way) == (0, 8) and way.balanced
    assert "not through yet" in html_of(recipe, folder)


def test_failures_of_runs_are_listed_with_their_traces(folder):
    recipe = recipe_of(folder, PLAIN)
    chain = run_here(recipe, folder / "runs")
    (chain.run / "runs").mkdir(exist_ok=True)
    failure = {"shard": 3, "stage": "measure", "error": "ValueError: <b>", "trace": "Traceback …"}
    record = {"ended": "2030-01-01T00:00:00+00:00", "seconds": 61.0, "stopped": None, "failures": [failure]}
    (chain.run / "runs" / "20300101T000000-aaaaaa.json").write_text(json.dumps(record))
    (chain.run / "runs" / "20291231T000000-aaaaaa.json").write_text('{"torn": ')
    html = html_of(recipe, folder)
    assert "shard 3, stage measure: ValueError: &lt;b&gt;" in html and "1 min 1 s" in html
    assert "The last run did not end well" in html


def test_samples_are_drawn_within_bounds_and_alike_every_time(folder):
    recipe = recipe_of(folder, {**PLAIN, "select": {"keep": "width >= 1"}})
    chain = run_here(recipe, folder / "runs")
    way = walk(chain)
    few = samples.choose(way, shards=1, records=2)
    assert len(few) == 1 and len(few[0][1]) == 2
    assert few == samples.choose(way, shards=1, records=2)
    everything = list(samples.read(chain, way, samples.choose(way)))
    assert len(everything) == 7 and all(data is None for _, data in everything)
    (record, data), *_ = samples.read(chain, way, samples.sheet(few, count=1), pictures=True)
    assert data[:2] == b"\xff\xd8" and len(record["uid"]) == 32
    assert max(samples.thumbnail(data, 32)[1:]) == 32


def test_curves_take_whatever_numbers_there_are(tmp_path):
    a, b = tmp_path / "a" / "stage1", tmp_path / "b" / "stage1"
    for at, scale in ((a, 1.0), (b, 2.0)):
        at.mkdir(parents=True)
        lines = [
            {"step": i, "loss": scale / (i + 1), "losses": {"global": 0.5 * scale * i}, "lr": 0.1, "note": "x"}
            for i in range(700)
        ]
        (at / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + '\n{"step": 70')
    seen = training([a, b])
    assert seen.names == ["a/stage1", "b/stage1"]
    assert [name for name, _ in seen.panels] == ["loss", "losses.global"]  # a constant is no curve
    assert not seen.faults  # one torn last line is what a kill leaves
    assert all(len(points.split()) <= charts.POINTS for points in re.findall(r'points="([^"]*)"', seen.panels[0][1]))
    missing = training([tmp_path / "nowhere"])
    assert missing.faults and not missing.panels


def test_evaluations_stand_side_by_side(tmp_path):
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    one.write_text(json.dumps({"retrieval": {"t2i": {"r1": 0.5}}, "hard": {"value": 0.25, "low": 0.2, "high": 0.3}, "n": 1200}))
    two.write_text(json.dumps({"retrieval": {"t2i": {"r1": 0.75}}, "note": "<i>"}))
    table = evaluations([one, two, tmp_path / "none.json"])
    assert table.columns == ["one", "two"] and len(table.faults) == 1
    assert dict(table.rows) == {
        "retrieval.t2i.r1": ["0.5", "0.75"],
        "hard": ["0.25 (0.2 – 0.3)", ""],
        "n": ["1,200", ""],
        "note": ["", "<i>"],
    }


@pytest.mark.parametrize(
    ("values", "edges"),
    [([], [0.0, 1.0, 2.0]), ([5.0], charts.even_edges([5.0])), ([0.0] * 3 + [1e9], charts.even_edges([0.0] * 3 + [1e9]))],
)
def test_histograms_of_odd_data_are_drawn(values, edges):
    svg = charts.histogram(values, "x", "share", edges)
    assert svg.startswith("<svg") and "nan" not in svg and "inf" not in svg


def test_curves_of_nothing_and_of_nan_are_left_out():
    assert charts.lines({"a": [(0, float("nan"))]}, "step", "loss") == ""
    assert "circle" in charts.lines({"a": [(0, 1.0), (1, float("inf"))]}, "step", "<loss>")
    assert "<loss>" not in charts.lines({"a": [(0, 1.0)]}, "step", "<loss>")


def test_ticks_cover_the_range_with_round_numbers():
    assert charts.nice_ticks(0, 97, 5) == [0, 25, 50, 75, 100]
    assert charts.nice_ticks(3, 3)[0] <= 3 <= charts.nice_ticks(3, 3)[-1]


def test_control_characters_are_shown_and_endless_texts_cut():
    assert page.clean("a\u202eb\x00\ud800") == "a⟨U+202E⟩b⟨U+0000⟩⟨U+D800⟩"
    assert page.clean("红色\n好") == "红色\n好"
    assert len(page.clean("x" * 1_000_000)) < page.LONGEST + 50
    assert page.mark("a <red> cup", 2, 7) == "a <mark>&lt;red&gt;</mark> cup"
    assert page.mark("ab", 5, 9) == "ab<mark></mark>"


def test_shares_do_not_round_to_all_or_nothing():
    assert page.percent(1, 100_000) == "< 0.1 %" and page.percent(99_999, 100_000) == "> 99.9 %"
    assert page.percent(0, 0) == "–" and page.percent(5, 5) == "100 %"


def test_the_page_s_files_travel_with_the_package():
    assert {path.suffix for path in Path(page.HERE).iterdir()} >= {".j2", ".css", ".py"}
