"""Search by vectors with every kind of index, and the commands a person types."""

import json
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
from typer.testing import CliRunner
from use_kit import encoded, make_checkpoint, picture, write_pictures

from fgclip2_train.cli import app
from fgclip2_train.files import publish
from fgclip2_train.use.cache import Cache, Writer
from fgclip2_train.use.search import Searcher

ROOT = Path(__file__).parents[2]
WIDTH = 32
IDENTITY = {"checkpoint": "ab" * 32, "patches": 64, "precision": "fp32", "width": WIDTH}


@pytest.fixture(autouse=True)
def one_thread():
    faiss.omp_set_num_threads(1)


def some(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def grow(folder: Path, count: int, seed: int = 0) -> Cache:
    with Writer(folder, IDENTITY) as writer:
        for number, vector in enumerate(some(count, seed)):
            writer.add({"place": f"{seed}/{number}", "source": "s", "sha256": f"{seed}-{number}"}, vector)
        writer.commit()
    return Cache.open(folder)


def truth(cache: Cache, queries: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-(queries @ cache.vectors().astype(np.float32).T), axis=1)[:, :k]


def test_exact_search_is_exact(tmp_path):
    cache, queries = grow(tmp_path, 300), some(5, 9)
    scores, rows = Searcher(cache).search(queries, 7)
    assert np.array_equal(rows, truth(cache, queries, 7))
    expected = np.take_along_axis(queries @ cache.vectors().astype(np.float32).T, rows, 1)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["scan", "ivf"])
def test_smaller_indexes_find_nearly_the_same_and_score_exactly(tmp_path, kind):
    cache, queries = grow(tmp_path, 3000), some(20, 9)
    searcher = Searcher(cache, kind, probes=32)
    scores, rows = searcher.search(queries, 10)
    best = truth(cache, queries, 10)
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows.tolist(), best.tolist(), strict=True)])
    assert searcher.kind == kind and shared > 0.8
    exact = np.take_along_axis(queries @ cache.vectors().astype(np.float32).T, rows, 1)
    np.testing.assert_allclose(scores, exact, atol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("kind", ["scan", "ivf"])
def test_an_index_is_kept_added_to_and_made_again(tmp_path, kind):
    said: list[str] = []
    cache = grow(tmp_path, 2000)
    Searcher(cache, kind, tell=said.append)
    assert len(said) == 1
    (kept,) = (tmp_path / "index").iterdir()
    Searcher(cache, kind, tell=said.append)
    assert len(said) == 1  # read, not made

    cache = grow(tmp_path, 500, seed=1)
    searcher = Searcher(cache, kind, probes=32, tell=said.append)
    assert len(said) == 1 and searcher.index.ntotal == 2500 and not kept.exists()  # added to
    new = cache.vectors()[2100].astype(np.float32)[None]
    assert searcher.search(new, 1)[1].item() == 2100

    (kept,) = (tmp_path / "index").iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    assert Searcher(cache, kind, tell=said.append).index.ntotal == 2500
    assert "damaged" in said[1] and len(said) == 3

    cache = grow(tmp_path, 5000, seed=2)  # more new than old
    assert Searcher(cache, kind, tell=said.append).index.ntotal == 7500 and len(said) == 4


@pytest.mark.parametrize("kind", ["exact", "scan"])
def test_pictures_that_are_gone_are_never_found(tmp_path, kind):
    cache = grow(tmp_path, 2000)
    queries = some(3, 9)
    best = truth(cache, queries, 1)[:, 0].tolist()
    with Writer(tmp_path, IDENTITY) as writer:
        for row in best:
            writer.add({"place": f"0/{row}", "source": "s", "reason": "gone"})
        writer.commit()
    found = Searcher(Cache.open(tmp_path), kind).search(queries, 50)[1]
    assert not set(best) & set(found.ravel().tolist())


@pytest.mark.parametrize(("kind", "count"), [("exact", 60), ("scan", 2000), ("ivf", 2000)])
def test_of_equal_pictures_the_one_that_came_first_is_found_first(tmp_path, kind, count):
    vectors = some(count, 0)
    vectors[[4, 17, 30, 31, 50]] = vectors[4]
    query = vectors[4:5] + 0.1 * vectors[7]
    with Writer(tmp_path, IDENTITY) as writer:
        for number, vector in enumerate(vectors):
            writer.add({"place": str(number), "source": "s", "sha256": str(number)}, vector)
        writer.commit()
    searcher = Searcher(Cache.open(tmp_path), kind, probes=32)
    for k in (1, 2, 3, 5, 6):
        scores, rows = searcher.search(np.repeat(query, 2, axis=0), k)
        assert rows[:, :5].tolist() == 2 * [[4, 17, 30, 31, 50][:k]]
        assert np.all(scores[:, :5] == scores[0, 0])


def test_more_wanted_than_there_is_gives_all(tmp_path):
    hits = Searcher(grow(tmp_path, 4)).hits(some(1, 9), 10)
    assert [len(own) for own in hits] == [4]


def test_queries_of_another_width_and_none_wanted_are_refused(tmp_path):
    searcher = Searcher(grow(tmp_path, 4))
    for queries, k in ((some(1, 9)[:, 1:], 3), (some(1, 9), 0)):
        with pytest.raises(ValueError, match=r"queries are \[Q, \d+\] and k is 1 or more"):
            searcher.search(queries, k)


def test_an_empty_cache_is_said(tmp_path):
    with Writer(tmp_path, IDENTITY):
        pass
    with pytest.raises(ValueError, match="no picture with a vector"):
        Searcher(Cache.open(tmp_path))


def test_a_folder_that_cannot_be_written_is_searched_all_the_same(tmp_path):
    cache = grow(tmp_path, 1500)
    (tmp_path / "index").write_text("in the way")
    said: list[str] = []
    assert Searcher(cache, "scan", tell=said.append).index.ntotal == 1500
    assert "not kept" in said[-1]


# -- commands -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    checkpoint = make_checkpoint(folder)
    write_pictures(folder / "pictures", 8)
    (folder / "pictures" / "<img src=x onerror=alert(1)>.png").write_bytes(encoded(picture(77)))
    return folder, str(checkpoint)


def call(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_index_and_search_from_the_command_line(world):
    folder, checkpoint = world
    report = folder / "report.json"
    said = call("index", folder / "pictures", "--checkpoint", checkpoint, "--cache", folder / "cache", "--json", report)
    assert "9 pictures found: 9 encoded" in said and json.loads(report.read_text())["encoded"] == 9

    first = folder / "pictures" / "0003.png"
    sheet = folder / "sheet.html"
    evil = "<script>alert(1)</script> 红色圆形"
    common = ["search", folder / "cache", "--checkpoint", checkpoint, "--text", evil, "--image", first, "-k", 9]
    table = call(*common, "--html", sheet)
    assert evil in table and "9 pictures, exact" in table
    found = json.loads(call(*common, "--json", "-"))
    assert [one["query"] for one in found] == [evil, str(first)]
    assert found[1]["results"][0]["places"] == [str(first)] and found[1]["results"][0]["score"] == pytest.approx(1, abs=1e-3)
    html = sheet.read_text()
    assert "<script>" not in html and "<img src=x" not in html and html.count("data:image/jpeg;base64,") == 18
    assert "default-src 'none'" in html and "&lt;script&gt;" in html


def test_score_dense_and_boxes_from_the_command_line(world):
    folder, checkpoint = world
    file = folder / "pictures" / "0001.png"
    texts = ["--text", "a red circle", "--text", "蓝色方块"]
    scores = folder / "scores.json"
    said = call("score", file, "--checkpoint", checkpoint, *texts, "--json", scores)
    rows = json.loads(scores.read_text())
    assert "蓝色方块" in said and len(rows) == 2 and all(0 < row["probability"] < 1 for row in rows)
    assert "only the beginning" not in said
    endless = ["--text", "red " * 300]
    said = call("dense", file, "--checkpoint", checkpoint, *texts, *endless, "--out", folder / "dense.png", "--patches", 100)
    assert said.count("only the beginning is read of a text this long (1200 characters): red") == 1
    assert "written" in said and (folder / "dense.png").read_bytes().startswith(b"\x89PNG")
    boxes = folder / "boxes.json"
    call("boxes", file, "--checkpoint", checkpoint, *texts, "--out", folder / "boxes.png", "--json", boxes)
    for row in json.loads(boxes.read_text()):
        x1, y1, x2, y2 = row["pixels"]
        assert 0 <= x1 < x2 <= 90 and 0 <= y1 < y2 <= 70


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score", "nowhere.png", "--text", "a"], "no picture file nowhere.png"),
        (["score", "PICTURE"], "at least one --text"),
        (["score", "PICTURE", "--text", " "], "none of them empty"),
        (["score", "CHECKPOINT/config.json", "--text", "a"], "not a picture"),
        (["score", "PICTURE", "--text", "a", "--walk", "lang"], "auto, short, long, box"),
        (["dense", "PICTURE", "--text", "a", "--out", "x.png", "--font", "no.ttf"], "no font file"),
        (["dense", "PICTURE", "--text", "a", "--out", "x.png", "--font", "PICTURE"], "png: no font ("),
        (["search", "nowhere", "--text", "a"], "no feature cache there"),
        (["search", "CACHE"], "nothing to search for"),
        (["search", "CACHE", "--text", " "], "none of them empty"),
        (["search", "CACHE", "--text", "a", "--kind", "hnsw"], "exact, scan, ivf"),
        (["index", "nowhere", "--cache", "new"], "nowhere: give a folder of pictures"),
        (["serve", "prot=1"], "Did you mean port?"),
        (["serve", "port=70000"], "port: "),
        (["serve", "cache=nowhere"], "no feature cache there"),
    ],
)
def test_mistakes_are_named(world, words, message):
    folder, checkpoint = world
    if "CACHE" in words:
        call("index", folder / "pictures", "--checkpoint", checkpoint, "--cache", folder / "cache")
    known = {
        "PICTURE": folder / "pictures" / "0001.png",
        "CACHE": folder / "cache",
        "CHECKPOINT/config.json": f"{checkpoint}/config.json",
    }
    words = [str(known.get(word, word)) for word in words]
    result = CliRunner().invoke(app, [*words, "--checkpoint", checkpoint])
    assert isinstance(result.exception, (ValueError, FileNotFoundError)) and message in str(result.exception)


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "--json"],
        ["score", "a.png", "--json"],
        ["dense", "a.png", "--out"],
        ["boxes", "a.png", "--out"],
        ["search", "a", "--html"],
    ],
)
def test_a_folder_in_place_of_the_file_to_write_is_told_before_the_work(words, tmp_path):
    result = CliRunner().invoke(app, [*words, str(tmp_path), "--checkpoint", "nowhere"])
    assert result.exit_code == 2 and "is a directory" in result.output


def test_an_error_is_one_line_and_status_2(tmp_path):
    command = [
        sys.executable,
        "-m",
        "fgclip2_train",
        "index",
        str(tmp_path),
        "--checkpoint",
        "nowhere/at/all",
        "--cache",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: nowhere/at/all: no such checkpoint"), done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "--json"],
        ["score", "a.png", "--text", "b", "--json"],
        ["dense", "a.png", "--text", "b", "--out"],
        ["boxes", "a.png", "--text", "b", "--json"],
        ["index", "a", "--cache", "c", "--json"],
        ["search", "a", "--text", "b", "--html"],
    ],
)
def test_a_result_that_could_not_be_written_is_told_before_the_work(words, tmp_path):
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(app, [*words, str(tmp_path / "file/x.png"), "--checkpoint", "nowhere"])
    assert isinstance(result.exception, NotADirectoryError) and "no folder can be made for it" in str(result.exception)


def test_a_drawing_by_the_name_of_another_kind_of_picture_is_refused(world):
    folder, checkpoint = world
    words = ["dense", folder / "pictures/0001.png", "--text", "a", "--out", folder / "map.jpg", "--checkpoint", checkpoint]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert isinstance(result.exception, ValueError) and "give it a name that ends with .png" in str(result.exception)


@pytest.mark.parametrize("command", ["score", "boxes", "index"])
def test_with_the_result_on_standard_output_nothing_else_stands_there(world, tmp_path, command):
    folder, checkpoint = world
    of_one = [command, folder / "pictures/0001.png", "--text", "红色圆形"]
    words = ["index", folder / "pictures", "--cache", tmp_path / "cache"] if command == "index" else of_one
    result = CliRunner().invoke(app, [*map(str, words), "--json", "-", "--checkpoint", checkpoint])
    assert result.exit_code == 0 and json.loads(result.stdout) and result.stderr


def test_a_file_that_the_disk_has_no_room_for_is_named_and_leaves_nothing(tmp_path):
    (tmp_path / ".map.png").symlink_to("/dev/full")
    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/map\.png'"):
        publish(tmp_path / "map.png", b"x" * 100)
    assert list(tmp_path.iterdir()) == []
