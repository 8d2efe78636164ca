import csv
import json
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from demo import pictures, prepare, tables


def test_laion_sizes_are_floats_in_one_part_and_integers_in_the_other(small):
    folder, expected, _ = small
    first, second = (pq.read_table(folder / "tables" / name) for name in expected["laion"]["files"])
    assert first.schema.field("WIDTH").type == pa.float64() and first["WIDTH"].null_count > 0
    assert second.schema.field("WIDTH").type == pa.int64()
    assert len(first) + len(second) == expected["laion"]["rows"]


def test_laion_has_the_promised_ugly_rows(small):
    folder, expected, _ = small
    parts = [pq.read_table(folder / "tables" / name) for name in expected["laion"]["files"]]
    texts = [text for part in parts for text in part["TEXT"].to_pylist()]
    urls = [url for part in parts for url in part["URL"].to_pylist()]
    assert None in texts and None in urls
    assert any("&amp;" in (text or "") for text in texts)
    assert any("Ã©" in (text or "") for text in texts)
    assert any((url or "").startswith("ftp:") for url in urls)
    assert len(urls) > len(set(urls))


def test_wukong_is_ugly_csv(small):
    folder, expected, _ = small
    content = (folder / "tables" / "wukong_100m_0.csv").read_bytes()
    assert content.count(b"\x00") == 1
    rows = list(csv.reader(content.decode().replace("\x00", "").splitlines(keepends=True)))
    assert rows[0] == ["url", "caption"]
    assert len(rows) - 1 == expected["wukong"]["rows"]
    assert any("\n" in row[1] and "," in row[1] for row in rows)
    assert any(len(row) == 3 for row in rows) and any(row[1] == "" for row in rows)


def test_zero_rows_have_several_texts(small):
    folder, expected, _ = small
    lines = (folder / "tables" / "zero.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == expected["zero"]["rows"]
    good = [json.loads(line) for line in lines if line.startswith('{"Url"') and line.endswith("}")]
    assert any(isinstance(row.get("ImageQuery"), list) and len(row["ImageQuery"]) == 2 for row in good)
    assert any(isinstance(row.get("ImageQuery"), str) for row in good)
    with pytest.raises(ValueError):
        [json.loads(line) for line in lines]


def test_grit_spans_and_boxes_are_the_scenes_own(small):
    folder, _, _ = small
    scenes = pictures.make(folder)
    checked = 0
    for row in pq.read_table(folder / "tables" / "grit.parquet").to_pylist():
        name = row["url"].rsplit("/", 1)[1]
        if name not in scenes:
            continue
        truth = {thing.short("en"): scenes[name].normalised(thing) for thing in scenes[name].things}
        for start, end, *box, score in row["noun_chunks"]:
            text = row["caption"][int(start) : int(end)]
            if text in truth and score > 0.5 and box[0] < box[2]:
                assert box == pytest.approx(truth[text], abs=1e-4)
                checked += 1
        for start, end, *_ in row["ref_exps"]:
            assert any(row["caption"][int(start) : int(end)].startswith(text + " ") for text in truth)
    assert checked >= 24


def test_every_kind_of_trouble_is_in_some_table_and_every_picture_is_there(small):
    folder, expected, base = small
    faults = [fault for source in expected.values() for fault in source["faulty_links"]]
    assert set(faults) == set(tables.FAULTY) and len(faults) == 2 * len(tables.FAULTY)
    assert {odd for source in expected.values() for odd in source["odd_pictures"]} == set(tables.ODD)
    assert sum(source["photographs"] for source in expected.values()) == len(pictures.photographs())
    urls = pq.read_table(folder / "tables" / "grit.parquet")["url"].to_pylist()
    for url in urls:
        assert url.startswith(base)
        assert (folder / "pictures" / urlsplit(url).path.rsplit("/", 1)[1]).is_file()


def test_what_must_be_refused_is_known_beforehand(small):
    _, expected, _ = small
    refused = {stage: sum(source["refused"][stage] for source in expected.values()) for stage in expected["laion"]["refused"]}
    assert refused == {"source": 9, "download": 16, "dedup": 7, "select": 1}


def test_the_sources_refuse_exactly_the_unreadable_rows(small, monkeypatch):
    from pathlib import Path

    from pipelines.sources import index_table, load_source, read_slice

    folder, expected, _ = small
    monkeypatch.setenv("FINELOOM_DEMO", str(folder))
    for name, truth in expected.items():
        source = load_source(f"demo_{name}", [Path(__file__).resolve().parents[2] / "manifests" / "sources"])
        rows = kept = 0
        for table in source.tables():
            index = index_table(source, table, 20)
            rows += index.rows
            kept += sum(len(read_slice(source, table, index.digest, piece)[0]) for piece in index.slices)
        assert (rows, rows - kept) == (truth["rows"], truth["refused"]["source"]), name


def test_odd_pictures_are_what_they_are_called(small):
    folder, _, _ = small
    opened = {name: Image.open(folder / "pictures" / name) for name in tables.ODD}
    assert (folder / "pictures" / "copy.jpg").read_bytes() == (folder / "pictures" / "scene-000000.jpg").read_bytes()
    assert opened["near_copy.jpg"].size != Image.open(folder / "pictures" / "scene-000001.jpg").size
    assert max(opened["tiny.jpg"].size) < 32
    assert opened["cmyk.jpg"].mode == "CMYK"
    assert opened["rotated.jpg"].getexif()[0x0112] == 6
    assert opened["moving.gif"].n_frames > 1 and opened["moving.webp"].n_frames > 1
    assert opened["transparent.png"].mode == "RGBA"


def test_photographs_are_free_small_and_described_in_both_languages():
    records = pictures.photographs()
    assert len(records) >= 40
    assert sum((pictures.PHOTOS / record["file"]).stat().st_size for record in records) < 8e6
    for record in records:
        assert (
            record["licence"] in ("public domain", "CC0-1.0") and record["author"] and record["origin"].startswith("https://")
        )
        assert record["text"]["en"].isascii() and "。" in record["text"]["zh"] and record["text"]["by"]
        with Image.open(pictures.PHOTOS / record["file"]) as image:
            assert image.size == (record["width"], record["height"])
    assert {path.name for path in pictures.PHOTOS.glob("*.jpg")} == {record["file"] for record in records}


def test_preparing_twice_does_nothing_and_a_killed_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "SCENES", {"laion": 12, "wukong": 12, "zero": 6, "grit": 6})
    monkeypatch.setattr(pictures, "SCENES", tables.SCENES)
    monkeypatch.setattr(prepare, "EVAL", 2)
    monkeypatch.setattr(prepare, "HELD_OUT", 2)

    class Killed(Exception):
        pass

    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as broken, pytest.raises(Killed):
        broken.setattr(tables, "write", killed)
        prepare.prepare(tmp_path, say=lambda _: None)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "pictures").iterdir()}
    assert not (tmp_path / "prepared.json").exists()
    first = prepare.prepare(tmp_path, say=lambda _: None)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "pictures").iterdir()} == before
    said = []
    assert prepare.prepare(tmp_path, say=said.append) == first
    assert len(said) == 1 and "everything is there" in said[0]
    assert prepare.prepare(tmp_path, port=1234, say=lambda _: None)["port"] == 1234
