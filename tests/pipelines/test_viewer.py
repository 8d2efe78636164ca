"""The pages over a run: what they show, what they never let through, and what they say when the run cannot be read."""

import io
import re
import shutil
import socket
from html import unescape
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import yaml
from in_process import run_here
from picture_server import picture
from PIL import Image
from starlette.testclient import TestClient

from operators.pictures import BadPicture
from pipelines import rejects, run_records
from pipelines.config import ConfigError, load_recipe
from pipelines.run import look
from pipelines.takedown import take_down
from pipelines.viewer import find, listen, pages, runs_in, snapshot, with_others
from pipelines.viewer.app import make_app
from pipelines.viewer.pictures import Kept, thumbnail

EVIL = '<script>alert(1)</script> "onload=x \u061cgnp.exe'
NAMES = [EVIL, "a red cube", "a green ball", "ein Würfel ＡＢＣ", "一只红色的猫", "a red ball"]
RECIPE = {"download": {}, "size": {}, "select": {"keep": "width >= 70"}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run over six pictures 60, 70 … 110 wide, of which the first is refused, in two shards."""
    folder = tmp_path_factory.mktemp("viewer")
    (folder / "pictures").mkdir()
    for i, text in enumerate([NAMES[1], EVIL, *NAMES[2:]]):
        (folder / "pictures" / f"{i}.jpg").write_bytes(picture(60 + 10 * i, 50, seed=50 * i))
        (folder / "pictures" / f"{i}.txt").write_text(text)
    (folder / "own.yaml").write_text(yaml.safe_dump({"format": "folder", "tables": str(folder / "pictures"), "language": "en"}))
    recipe = {"recipe": "small", "sources": [str(folder / "own.yaml")], "shard_size": 3, "disk_floor_gb": 0, "stages": RECIPE}
    (folder / "small.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    run_here(load_recipe(folder / "small.yaml"), folder / "runs")
    return folder


@pytest.fixture
def root(made, tmp_path):
    """A copy of it that a test may damage."""
    shutil.copytree(made / "runs", tmp_path / "runs")
    return tmp_path / "runs"


def visit(made, root=None):
    runs = runs_in(root or made / "runs", str(made / "small.yaml"), None, None)
    return TestClient(make_app(runs, {"127.0.0.1"}), base_url="http://127.0.0.1", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def web(made):
    return visit(made)


def shown(page):
    """Identities on a page, in order."""
    return list(dict.fromkeys(re.findall(r'<a class="figure" href="/small/sample/\d+/([0-9a-f]{32})"', page.text)))


def samples(made):
    return {
        row["captions"][0]: (entry.shard, row["uid"])
        for entry, _ in rejects.entries_in_force(look(load_recipe(made / "small.yaml"), made / "runs"))
        if entry.stage == "source"
        for row in pq.read_table(made / "runs" / "small" / entry.files["data"].path).to_pylist()
    }


def test_a_single_run_is_where_the_front_page_leads(web):
    page = web.get("/")
    assert page.url.path == "/small/" and page.status_code == 200
    assert len(shown(page)) == 5 and "5 samples" in page.text


def test_what_strangers_wrote_is_text_and_nothing_else(web):
    page = web.get("/small/")
    assert "<script>alert" not in page.text and "&lt;script&gt;alert(1)&lt;/script&gt; &#34;onload=x" in page.text
    assert "\u061c" not in page.text and "⟨U+061C⟩" in page.text
    echoed = web.get("/small/", params={"q": '"><script>alert(2)</script>', "where": "<b>"})
    assert "<script>alert" not in echoed.text and "<b>" not in echoed.text.partition("<main")[2]


def test_every_answer_forbids_foreign_and_inline_content(web):
    for path in ("/small/", "/look.js", "/nothing/", "/small/rejects", "/small/sample/0/x"):
        answer = web.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "style=" not in answer.text if path != "/look.js" else True


def test_a_name_that_is_not_the_servers_own_is_refused(web):
    assert web.get("/small/", headers={"host": "evil.example"}).status_code == 421
    assert web.get("/small/", headers={"host": "127.0.0.1:8765"}).status_code == 200


def test_filters_are_the_expressions_of_select(web, made):
    at = samples(made)
    assert shown(web.get("/small/", params={"where": "width >= 100"})) == [at["一只红色的猫"][1], at["a red ball"][1]]
    assert shown(web.get("/small/", params={"where": "width > 1000"})) == []
    page = web.get("/small/", params={"where": "widht > 3"})
    assert page.status_code == 400 and "Did you mean width?" in unescape(page.text)
    assert web.get("/small/", params={"where": "__import__('os')"}).status_code == 400
    assert web.get("/small/", params={"page": "-1"}).status_code == 400


@pytest.mark.parametrize(("words", "found"), [("red", 1), ("RED ball", 1), ("红色", 1), ("abc", 1), ("nowhere", 0), ("%", 0)])
def test_words_are_found_in_both_languages_whatever_their_width_and_case(web, words, found):
    assert len(shown(web.get("/small/", params={"q": words}))) == found


def test_samples_are_sorted_by_a_number_and_drawn_by_a_seed(web, made):
    at = samples(made)
    widest = shown(web.get("/small/", params={"sort": "width"}))
    assert widest[0] == at["a red ball"][1]
    assert shown(web.get("/small/", params={"sort": "width", "order": "up"})) == widest[::-1]
    assert web.get("/small/", params={"sort": "captions"}).status_code == 400
    drawn = {tuple(shown(web.get("/small/", params={"seed": seed}))) for seed in range(6)}
    assert len(drawn) > 1 and all(sorted(order) == sorted(widest) for order in drawn)
    again = {"seed": 3, "where": "width >= 80"}
    assert shown(web.get("/small/", params=again)) == shown(web.get("/small/", params=again))


def test_pages_follow_each_other_without_gap_or_repetition(made, monkeypatch):
    monkeypatch.setattr(find, "PAGE", 2)
    monkeypatch.setattr("pipelines.viewer.app.PAGE", 2)
    for query in ({}, {"where": "width > 0"}, {"seed": 1}, {"sort": "height"}):
        web = visit(made)
        pages = [shown(web.get("/small/", params={**query, "page": number})) for number in (1, 2, 3, 4)]
        assert [len(page) for page in pages] == [2, 2, 1, 0] and len({uid for page in pages for uid in page}) == 5


def test_a_search_goes_on_where_the_last_request_left_it(made, monkeypatch):
    monkeypatch.setattr(find, "BUDGET", -1.0)
    web = visit(made)
    first, second = (web.get("/small/", params={"sort": "width"}) for _ in range(2))
    assert "1 of 2 shards looked at" in first.text and len(shown(first)) == 2
    assert "shards looked at" not in second.text and len(shown(second)) == 5


def test_what_is_remembered_of_a_search_is_bounded(made, monkeypatch):
    monkeypatch.setattr(find, "KEPT", 3)
    page = visit(made).get("/small/", params={"where": "width > 0"})
    assert len(shown(page)) == 3 and "narrow the filter" in page.text


def test_refusals_are_counted_by_stage_and_reason_and_shown_with_their_pictures(web, made):
    _, uid = samples(made)["a red cube"]
    page = web.get("/small/rejects")
    assert "not_selected" in page.text and shown(page) == [uid]
    assert f"/small/picture/0/{uid}" in page.text and "width = 60" in page.text and "a red cube" in page.text
    assert shown(web.get("/small/rejects", params={"stage": "select", "reason": "not_selected"})) == [uid]
    assert shown(web.get("/small/rejects", params={"stage": "download"})) == []
    assert "refused by stage select" in web.get(f"/small/sample/0/{uid}").text


def test_a_sample_has_a_permanent_page_with_its_provenance(web, made):
    shard, uid = samples(made)["一只红色的猫"]
    page = web.get(f"/small/sample/{uid[:9]}")
    assert page.url.path == f"/small/sample/{shard}/{uid}" and page.status_code == 200
    assert "一只红色的猫" in page.text and "size@1" in page.text and "went through all stages" in page.text
    assert web.get(f"/small/sample/{shard}/{'0' * 32}").status_code == 404
    assert web.get(f"/small/sample/99/{uid}").status_code == 404
    assert web.get("/small/sample/zz").status_code == 404
    assert web.get("/other/").status_code == 404


def test_pictures_are_small_jpegs_of_the_sizes_that_are_offered(web, made):
    shard, uid = samples(made)["a red ball"]
    answer = web.get(f"/small/picture/{shard}/{uid}")
    assert answer.headers["content-type"] == "image/jpeg" and Image.open(io.BytesIO(answer.content)).size == (110, 50)
    assert web.get(f"/small/picture/{shard}/{uid}", params={"side": "99999"}).status_code == 404
    assert web.get(f"/small/picture/{shard}/..%2f..%2fmodel.json").status_code == 404


def test_thumbnails_are_bounded_whatever_the_picture():
    def stored(size, kind, **how):
        buffer = io.BytesIO()
        Image.new("L", size, 200).save(buffer, kind, **how)
        return buffer.getvalue()

    assert Image.open(io.BytesIO(thumbnail(stored((10_000, 10_000), "JPEG"), 480))).size == (480, 480)
    with pytest.raises(BadPicture, match="too large to draw"):
        thumbnail(stored((10_000, 4_100), "PNG"), 480)
    with pytest.raises(BadPicture):
        thumbnail(b"<svg onload=alert(1)>", 480)
    kept = Kept(limit=10)
    for i in range(5):
        kept.put((i,), b"xxxx")
    assert kept.size == 8 and kept.get((0,)) is None and kept.get((4,)) == b"xxxx"


def test_a_sample_that_was_taken_down_is_gone_from_every_page(made, root):
    recipe = load_recipe(made / "small.yaml")
    shard, uid = samples(made)["a green ball"]
    take_down(look(recipe, root), [uid], [], [], "")
    web = visit(made, root)
    assert uid not in web.get("/small/").text and uid not in web.get("/small/rejects").text
    assert web.get(f"/small/sample/{shard}/{uid}").status_code == 410
    assert web.get(f"/small/picture/{shard}/{uid}").status_code == 410


def test_one_of_a_thing_is_told_as_one(web):
    def home(language, total, shards):
        now = SimpleNamespace(total=total, shards=range(shards), recipe=SimpleNamespace(description=""))
        return pages.render("home", language, switch={}, run=None, runs=[SimpleNamespace(name="a", fault=None, snapshot=now)])

    assert "1 sample · 1 shard<" in home("en", 1, 1) and "1,200 samples · 2 shards<" in home("en", 1200, 2)
    assert "1 个样本 · 2 个分片" in home("zh", 1, 2)
    assert "1–1 of 1 sample<" in web.get("/small/?where=width==70").text
    assert "1–5 of 5 samples<" in web.get("/small/").text


def test_a_run_that_grows_is_seen_to_grow(made, tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot, "FRESH", 0.0)
    recipe = load_recipe(made / "small.yaml")
    chain = run_here(recipe, tmp_path / "runs", shards=1)
    assert chain.run.name == "small"
    web = visit(made, tmp_path / "runs")
    assert len(shown(web.get("/small/"))) == 2
    run_here(recipe, tmp_path / "runs")
    runs = runs_in(tmp_path / "runs", str(made / "small.yaml"), None, None)
    assert runs["small"].snapshot().total == 5


@pytest.mark.parametrize("gone", ["source", "download", "size", "images"])
def test_of_a_half_deleted_run_what_is_left_is_shown_and_the_rest_named(made, root, gone):
    shutil.rmtree(root / "small" / gone)
    web = visit(made, root)
    for path in ("/small/", "/small/?where=width>0", "/small/?q=red", "/small/rejects"):
        page = web.get(path)
        assert page.status_code == 200, path
    shard, uid = samples(made)["a red ball"]
    assert web.get(f"/small/picture/{shard}/{uid}").status_code in (200, 503)
    page = web.get("/small/?where=width>0")
    assert ("cannot be read" in page.text) == (gone != "images")


def test_a_run_without_its_ledger_or_its_tables_is_told_plainly(made, root):
    web = visit(made, root)
    shutil.rmtree(root / "small" / "ledger")
    page = web.get("/small/")
    assert page.status_code == 200 and "Nothing is committed in this run yet" in page.text
    shutil.copytree(made / "runs" / "small" / "ledger", root / "small" / "ledger")
    shutil.rmtree(root / "small" / "tables")
    page = visit(made, root).get("/small/")
    assert page.status_code == 503 and "no run of recipe small is here" in page.text


def test_a_root_of_a_newer_layout_is_refused_with_its_reason(made, root):
    for entry in (root / "small" / "ledger").rglob("*.json"):
        entry.write_text(entry.read_text().replace('"layout":1', '"layout":9'))
    page = visit(made, root).get("/small/")
    assert page.status_code == 503 and "another version of fineloom" in page.text


def test_a_port_in_use_and_a_root_without_runs_end_in_one_line(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match="is in use: choose another with --port"):
            listen("127.0.0.1", other.getsockname()[1])
    with pytest.raises(ConfigError, match="no run is here"):
        runs_in(tmp_path, None, None, None)
    with pytest.raises(ConfigError, match="no such folder"):
        runs_in(tmp_path / "nothing", None, None, None)


def test_results_of_other_settings_are_not_passed_over_in_silence(made):
    runs = runs_in(made / "runs", str(made / "small.yaml"), ["stages.select.keep=width >= 90"], None)
    page = TestClient(make_app(runs, None)).get("/small/")
    assert "results of select that were made with another recipe" in page.text and len(shown(page)) == 6


def test_two_runs_stand_side_by_side_by_the_identity_of_their_samples(made, root):
    """The second run was given other settings, so its samples wait before `select`: one more is there."""
    first = runs_in(made / "runs", str(made / "small.yaml"), None, None)
    second = runs_in(root, str(made / "small.yaml"), ["stages.select.keep=width >= 90"], None)
    runs = with_others(first, second)
    assert list(runs) == ["small", "small-runs"]
    web = TestClient(make_app(runs, None))
    page = web.get("/compare", params={"a": "small", "b": "small-runs"})
    assert page.url.path == "/compare/small/small-runs"
    assert "5 samples in both, 0 of them differ; 0 only in A (small), 1 only in B (small-runs)." in page.text
    assert "select: not_selected" in page.text and page.text.count("<article") == 0
    whole = web.get("/compare/small/small-runs", params={"which": "all"})
    assert whole.text.count("<article") == 5 and "<script>alert" not in whole.text and "\u061c" not in whole.text
    assert web.get("/compare/small/small-runs", params={"which": "nothing"}).status_code == 400
    assert web.get("/compare/small/nothing").status_code == 404


def test_pages_speak_the_visitors_language_and_remember_the_choice(web, made):
    page = web.get("/small/", headers={"accept-language": "zh-CN,zh;q=0.9"})
    assert '<html lang="zh-Hans">' in page.text and "筛选" in page.text and "共 5 个样本" in page.text
    other = visit(made)
    back = other.get("/language", params={"to": "zh", "back": "/small/rejects"})
    assert back.url.path == "/small/rejects" and "被拒绝的内容" in back.text
    assert "这里没有名为 nothing 的运行" in other.get("/nothing/").text


def test_the_settings_of_the_last_call_count_also_where_the_clock_was_set_back(root):
    (root / "small" / "runs").mkdir()
    (root / "small" / "runs" / "20990101T000000-abcdef.json").write_text('{"overrides": ["of an older version"]}')
    run_records.keep(root / "small", {"overrides": ["select.keep=width >= 90"]})
    (written,) = (root / "small" / "runs").glob("00001.*.json")
    written.rename(written.with_name("00001.20991231T235959.json"))
    run_records.keep(root / "small", {"overrides": ["select.keep=width >= 80"]})
    assert snapshot.Run(root / "small", None, None, None)._last_overrides() == ["select.keep=width >= 80"]
    assert [call["overrides"][0][-2:] for call in run_records.newest(root / "small")] == ["80", "90", "on"]


def test_a_recipe_of_the_users_own_is_found_where_the_last_call_had_it(made, root):
    def front():
        return TestClient(make_app(runs_in(root, None, None, None), {"127.0.0.1"}), base_url="http://127.0.0.1").get("/small/")

    run_records.keep(root / "small", {"overrides": [], "file": str(made / "gone.yaml")})
    assert "no recipe &#39;small&#39;" in front().text
    run_records.keep(root / "small", {"overrides": [], "file": str(made / "small.yaml")})
    assert shown(front())
