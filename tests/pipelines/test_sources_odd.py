"""Tables that are legal and odd: no cell of them costs more than its row, and what is left out of a row is told."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from picture_server import picture
from read_source import read_all

from pipelines.sources import SourceError, index_table

URLS = ["http://h/1.jpg", "http://h/2.jpg"]
DAMAGED = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.py_buffer(np.array([0, 3, 7], np.int32)), pa.py_buffer(b"a\xff\xfegood")]
)


@pytest.mark.parametrize(
    "cells",
    [
        DAMAGED,
        DAMAGED.view(pa.binary()).cast(pa.large_binary()).view(pa.large_string()),
        pa.ListArray.from_arrays([0, 1, 2], DAMAGED),
        pa.MapArray.from_arrays([0, 1, 2], pa.array(["en", "en"]), DAMAGED),
        pa.StructArray.from_arrays([DAMAGED], ["en"]),
    ],
)
def test_a_text_of_parquet_that_is_not_utf8_is_its_rows_matter(cells, make_source, tmp_path):
    pq.write_table(pa.table({"u": URLS, "t": cells}), tmp_path / "t.parquet")
    columns = {"url": "u", "captions": "t.en" if pa.types.is_struct(cells.type) else "t"}
    rows, rejects = read_all(make_source(format="parquet", tables="t.parquet", columns=columns))
    assert [row["captions"] for row in rows] == [["good"]] and rejects == [(0, "no_caption", None)]


@pytest.mark.parametrize("kind", [pa.timestamp("ms"), pa.timestamp("us", "UTC"), pa.date32()])
def test_a_date_that_python_has_not_costs_no_row(kind, make_source, tmp_path):
    dates = pa.array([1_000_000_000, 2**30 if kind == pa.date32() else 2**60], pa.int64())
    dates = dates.cast(pa.int32()).view(kind) if kind == pa.date32() else dates.view(kind)
    pq.write_table(pa.table({"u": URLS, "t": ["a", "b"], "l": dates}), tmp_path / "t.parquet")
    columns = {"url": "u", "captions": "t", "license": "l"}
    assert len(read_all(make_source(format="parquet", tables="t.parquet", columns=columns))[0]) == 2


def test_a_text_within_an_object_within_a_list_says_what_stands_there(make_source, tmp_path):
    (tmp_path / "t.jsonl").write_text('{"u": "http://h/1.jpg", "t": [{"text": "a cat"}]}\n')
    source = make_source(format="jsonl", tables="t.jsonl", columns={"url": "u", "captions": "t"})
    index = index_table(source, str(tmp_path / "t.jsonl"), 9)
    (reject,) = source.read(str(tmp_path / "t.jsonl"), index.digest, index.slices[0])[1]
    assert (reject.reason, reject.detail) == ("no_caption", "dict instead of a text")


def test_boxes_in_another_form_are_refused_and_an_empty_cell_is_none(make_source, tmp_path):
    cells = [None, "", "[]", float("nan"), {"x1": 0}, 7, '{"x1": 0}', '"no"']
    lines = [{"u": "http://h/1.jpg", "t": "a cat", "r": cell} for cell in cells]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    columns = {"url": "u", "captions": "t", "regions": "r"}
    rows, rejects = read_all(make_source(format="jsonl", tables="t.jsonl", columns=columns))
    assert len(rows) == 8 and rejects == [(i, "bad_box", "source_regions[0]") for i in range(4, 8)]


def test_one_thing_said_twice_is_refused_only_where_the_two_differ(make_source, tmp_path):
    (tmp_path / "t.jsonl").write_text(
        '{"u": "http://h/1.jpg", "t": "a cat", "t": "a dog"}\n'
        '{"u": "http://h/1.jpg", "t": "a cat", "t": "a cat"}\n'
        '{"u": "http://h/1.jpg", "t": "a cat", "meta": {"a": 1, "a": 2}}\n'
    )
    rows, rejects = read_all(make_source(format="jsonl", tables="t.jsonl", columns={"url": "u", "captions": "t"}))
    assert [row["row"] for row in rows] == [1] and rejects == [(0, "bad_json", None), (2, "bad_json", None)]


def test_csv_says_which_delimiter_it_may_have_and_blank_lines_are_no_header(make_source, tmp_path):
    (tmp_path / "t.csv").write_text("\ufeff\r\n\nu;t\nhttp://h/1.jpg;a cat\n")
    columns = {"url": "u", "captions": "t"}
    with pytest.raises(SourceError, match=r"one column, 'u;t': is the delimiter ';', not ','"):
        index_table(make_source(format="csv", tables="t.csv", columns=columns), str(tmp_path / "t.csv"), 9)
    rows, _ = read_all(make_source(format="csv", tables="t.csv", columns=columns, delimiter=";"))
    assert [row["captions"] for row in rows] == [["a cat"]]


def mask(**more):
    return {
        "bounds": {"topLeft": {"x": 4, "y": 2}, "bottomRight": {"x": 20, "y": 18}},
        "caption": "a car",
        "label": "car",
        **more,
    }


def test_a_mask_of_dci_that_cannot_be_used_is_told(make_source, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(picture(40, 20))
    corners = {"topLeft": [1, 2], "bottomRight": [3, 4]}
    thin = {"topLeft": {"x": 4, "y": 2}, "bottomRight": {"x": 4, "y": 9}}
    masks = [mask(), mask(bounds=corners), mask(bounds=thin), None, mask(caption=["x"]), mask(caption=None, label=5)]
    notes = [
        {
            "image": "a.jpg",
            "short_caption": "s",
            "mask_data": {str(i): one for i, one in enumerate([*masks, mask(mask_quality=2)])},
        },
        {"image": "a.jpg", "short_caption": ["s", "t"], "extra_caption": 5, "mask_data": masks},
        {"image": ["a.jpg"], "short_caption": "s"},
        {"image": "a.jpg", "short_caption": {"a": "b"}, "extra_caption": None},
    ]
    (tmp_path / "notes").mkdir()
    for i, note in enumerate(notes):
        (tmp_path / "notes" / f"{i}.json").write_text(json.dumps(note))
    rows, rejects = read_all(make_source(format="dci", tables="notes", image_folder="photos"))
    assert [region["text"] for region in rows[0]["source_regions"]] == ["a car", "car"]
    assert [(row["captions"], row["long_captions"]) for row in rows] == [(["s"], []), (["s", "t"], ["5"])]
    assert rejects == [
        *((0, "bad_box", f"source_regions[{i}]") for i in (1, 2, 3)),
        (0, "bad_span", "source_regions[5]"),
        (1, "bad_box", "source_regions"),
        (2, "no_picture", None),
        (3, "no_caption", None),
    ]


def test_a_line_of_captions_may_name_one_picture_and_hold_several_texts(make_source, tmp_path):
    (tmp_path / "my_imgs.tsv").write_text("".join(f"{key}\tAAAA\n" for key in (1, "b")))
    lines = [{"image": 1, "caption": ["a cat", "a pet"]}, {"image": "b", "caption": "a dog"}, {"image": "b", "caption": None}]
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = make_source(format="tsv_images", tables="*.tsv", queries="{stem}.jsonl", ids="image", text="caption")
    assert [row["captions"] for row in read_all(source)[0]] == [["a cat", "a pet"], ["a dog"]]


def test_a_text_beside_a_picture_may_be_as_windows_writes_it(make_source, tmp_path):
    for name in ("a.jpg", "B.JPG", "c.png"):
        (tmp_path / name).write_bytes(picture(40, 20))
    (tmp_path / "a.txt").write_text("a\u2028cat\r\n一只猫\r\n", encoding="utf-16", newline="")
    (tmp_path / "B.TXT").write_text("a dog")
    (tmp_path / "c.TXT").write_text("not this one")
    (tmp_path / "c.txt").write_text("a bird")
    rows, rejects = read_all(make_source(format="folder", tables="."))
    assert [row["captions"] for row in rows] == [["a dog"], ["a cat", "一只猫"], ["a bird"]] and not rejects


def test_a_member_of_a_webdataset_that_cannot_be_read_refuses_its_sample(make_source, tmp_path):
    members = {
        "0.jpg": b"x",
        "0.json": b"{",
        "1.jpg": b"x",
        "1.txt": b"a" * (5 << 20),
        "2.jpg": b"x",
        "2.json": b'{"t": "a cat"}',
    }
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    source = make_source(format="webdataset", tables="t.tar", columns={"captions": ["txt?", "json.t?"]})
    rows, rejects = read_all(source)
    assert [row["captions"] for row in rows] == [["a cat"]]
    assert rejects == [(0, "bad_json", None), (1, "row_too_long", None)]
