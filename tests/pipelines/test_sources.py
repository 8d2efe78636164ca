"""Slices and the base columns, format by format; the ugly rows included."""

import base64
import csv
import errno
import gzip
import io
import json
import os
import random
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from picture_server import picture
from read_source import read_all

from pipelines.sources import SourceError, index_table, load_source, read_slice, records, uid_of
from pipelines.sources.records import SplitCsv, index_records, read_piece, record_bytes

URL = "http://example.org/{}.jpg"


# --- CSV ---


def wukong(make_source, tmp_path, data, **more):
    (tmp_path / "w.csv").write_bytes(data)
    return make_source(format="csv", tables="w.csv", columns={"url": "url", "captions": "caption"}, **more)


def test_csv_cells_may_hold_anything(make_source, tmp_path):
    text = (
        '\ufeffurl,caption\r\nhttp://h/0,"一只猫, ""黑""\n在沙发上"\r\n\r\nhttp://h/1,a\x00b &amp;amp; c\r\n'
        'http://h/2,5" pipe and 6" pipe\r\nhttp://h/3,schÃ¶n\r\n  http://h/4 ,  a \t b\u200b \r\nhttp://h/5,"a" literal "rest"\n'
    )
    rows, rejects = read_all(wukong(make_source, tmp_path, text.encode()))
    assert not rejects
    assert [r["captions"] for r in rows] == [
        ['一只猫, "黑" 在沙发上'],
        ["ab & c"],
        ['5" pipe and 6" pipe'],
        ["schön"],
        ["a b"],
        ['a literal "rest"'],
    ]
    assert rows[4]["url"] == "http://h/4"


def test_bad_csv_rows_are_refused_one_by_one(make_source, tmp_path):
    text = (
        "url,caption\nhttp://h/0\nhttp://h/1,a,b\nftp://h/2,x\n,x\nhttp://h/4,\nhttp://h/5,NULL\n"
        'http://h/6,"never closed\nhttp://h/7,fine\nnonsense,x\nhttp://h/9,\ufffd\n'
    )
    rows, rejects = read_all(wukong(make_source, tmp_path, text.encode()))
    assert [r["row"] for r in rows] == [7]
    assert rejects == [
        (0, "bad_row", None),
        (1, "bad_row", None),
        (2, "bad_url", None),
        (3, "no_url", None),
        (4, "no_caption", None),
        (5, "no_caption", None),
        (6, "unclosed_quote", None),
        (8, "bad_url", None),
        (9, "no_caption", None),
    ]


def test_csv_in_another_encoding_and_damaged_utf8(make_source, tmp_path):
    table = "url,caption\nhttp://h/0,雪山下的湖泊\n".encode("gb18030")
    rows, _ = read_all(wukong(make_source, tmp_path, table, encoding="gb18030"))
    assert rows[0]["captions"] == ["雪山下的湖泊"]
    rows, rejects = read_all(wukong(make_source, tmp_path, b"url,caption\nhttp://h/0,\xff\xfe\xfa\nhttp://h/1,ok\n"))
    assert [r["row"] for r in rows] == [1] and rejects == [(0, "no_caption", None)]


def test_a_huge_cell_is_bounded(make_source, tmp_path):
    table = b"url,caption\nhttp://h/0," + b"x" * 5_000_000 + b"\nhttp://h/1," + b"y " * 10_000 + b"\nhttp://h/2,ok\n"
    rows, rejects = read_all(wukong(make_source, tmp_path, table))
    assert [r["row"] for r in rows] == [2]
    assert [(i, reason) for i, reason, item in rejects if item is None] == [(0, "row_too_long"), (1, "no_caption")]


def test_gzip_is_read_like_the_plain_file(make_source, tmp_path):
    plain = "".join(f'{URL.format(i)},"a ""{i}"", \n b"\n' for i in range(50))
    (tmp_path / "w.csv.gz").write_bytes(gzip.compress(("url,caption\n" + plain).encode()))
    source = make_source(format="csv", tables="w.csv.gz", columns={"url": "url", "captions": "caption"})
    rows, rejects = read_all(source, 7)
    assert not rejects and [r["captions"][0] for r in rows] == [f'a "{i}", b' for i in range(50)]


def test_a_cut_gzip_file_stops(make_source, tmp_path):
    whole = gzip.compress("".join(f"{URL.format(i)},{random.random()}\n" for i in range(5000)).encode())
    (tmp_path / "w.csv.gz").write_bytes(whole[: len(whole) // 2])
    source = make_source(
        format="csv", tables="w.csv.gz", header=["url", "caption"], columns={"url": "url", "captions": "caption"}
    )
    with pytest.raises(SourceError, match=r"w\.csv\.gz: (broken gzip file|cannot be read)"):
        index_table(source, source.tables()[0], 100)


def test_rows_end_where_pythons_csv_module_ends_them(make_source, tmp_path, monkeypatch):
    """Random tables made of the characters that matter, read in blocks of any size."""
    rng = random.Random(7)
    source = wukong(make_source, tmp_path, b"")
    split = SplitCsv()
    compared = 0
    for _ in range(1500):
        text = "".join(
            rng.choice(["a", "b", '"', '"', ",", "\n", "\r\n", "\r", '""', "中", 'x,"y"\n']) for _ in range(rng.randint(0, 50))
        )
        data = text.encode()
        found = record_bytes(data, split)
        if any(split.has_unclosed_quote(record) for record in found):
            continue  # the csv module would take the rest of the file for one cell
        compared += 1
        wanted = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
        assert [next(csv.reader(io.StringIO(r.decode(), newline=""))) for r in found] == wanted, text
        (tmp_path / "w.csv").write_bytes(data)
        for block in (1, 3, 7, 1000):
            index = index_records(source, str(tmp_path / "w.csv"), 2, split, 0, block)
            again = [
                r for piece in index.slices for r in record_bytes(read_piece(source, str(tmp_path / "w.csv"), piece), split)
            ]
            assert [r.strip(b"\r\n") for r in again] == [r.strip(b"\r\n") for r in found], (text, block)
    assert compared > 500


def test_a_stray_quote_does_not_swallow_the_file(make_source, tmp_path, monkeypatch):
    """Whatever the size of the blocks, and wherever the next quote is."""
    monkeypatch.setattr(records, "MAX_QUOTED", 40)
    rng = random.Random(8)
    source = wukong(make_source, tmp_path, b"")
    for _ in range(300):
        lines = [rng.choice(["aaaa,bbbb", '"c,c",d', 'e,"f', "g" * 30, 'h"h,i', '"j""j",k']) for _ in range(rng.randint(1, 30))]
        data = "\n".join(lines).encode()
        (tmp_path / "w.csv").write_bytes(data)
        found = record_bytes(data, SplitCsv())
        assert b"".join(found).replace(b"\n", b"") == data.replace(b"\n", b"")
        assert max(len(record) for record in found) < 200
        for block in (50, 64, 1000):
            index = index_records(source, str(tmp_path / "w.csv"), 3, SplitCsv(), 0, block)
            assert index.rows == len(found)
            pieces = [record_bytes(read_piece(source, str(tmp_path / "w.csv"), piece), SplitCsv()) for piece in index.slices]
            assert [record for piece in pieces for record in piece] == found


# --- JSON ---


def test_every_text_of_a_zero_row_is_kept(make_source, tmp_path):
    lines = [
        {"ImageUrl": URL.format(0), "Title": "标题", "Content": None, "ImageQuery": ["一", "二", "标题"], "Url": "http://page"},
        {"ImageUrl": URL.format(1), "Title": "", "ImageQuery": "三"},
        {"ImageUrl": URL.format(2), "Title": ""},
        {"Title": "no address"},
        {"ImageUrl": 7, "Title": "x"},
    ]
    text = "\n".join(json.dumps(line) for line in lines) + '\n{"ImageUrl": broken\n[1, 2]\n\n"text"\n' + "[" * 5000 + "\n"
    (tmp_path / "z.jsonl").write_text("\ufeff" + text)
    source = make_source(
        format="jsonl", tables="z.jsonl", columns={"url": "ImageUrl", "captions": ["Title", "Content?", "ImageQuery?"]}
    )
    rows, rejects = read_all(source)
    assert [r["captions"] for r in rows] == [["标题", "一", "二"], ["三"]]
    reasons = ["no_caption", "no_url", "bad_url", "bad_json", "bad_row", "bad_row", "bad_json"]
    assert rejects == [(i, reason, None) for i, reason in enumerate(reasons, 2)]


def test_nested_fields_and_hints_of_any_type(make_source, tmp_path):
    sizes = [640, 640.0, "640", None, "n/a", float("nan"), 1e300, -5, True, [640]]
    lines = [{"meta": {"u": URL.format(i)}, "t": f"t{i}", "w": w, "sim": str(w), "lang": "zh-CN"} for i, w in enumerate(sizes)]
    (tmp_path / "n.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    columns = {"url": "meta.u", "captions": "t", "width": "w", "similarity": "sim", "language": "lang"}
    rows, rejects = read_all(make_source(format="jsonl", tables="n.jsonl", columns=columns))
    assert not rejects and {r["language"] for r in rows} == {"zh"}
    assert [r["source_width"] for r in rows] == [640, 640, 640] + [None] * 7
    assert rows[2]["source_similarity"] == 640 and rows[5]["source_similarity"] is None


def test_cells_of_odd_types_are_texts_or_say_what_they_are(make_source, tmp_path):
    deep = "[" * 900 + '"deep"' + "]" * 900
    cells = ['["a", ["b", true, 3, NaN]]', deep, "7" * 400, "true", '{"en": "a"}', '"half \\ud83d"']
    (tmp_path / "o.jsonl").write_text("".join(f'{{"u": "http://h/{i}", "t": {cell}}}\n' for i, cell in enumerate(cells)))
    source = make_source(format="jsonl", tables="o.jsonl", columns={"url": "u", "captions": "t"})
    rows, rejects = read_all(source)
    assert [r["captions"] for r in rows] == [["a", "b", "3"], ["deep"], ["7" * 400], ["half"]]
    assert rejects == [(3, "no_caption", None), (4, "no_caption", None)]
    piece = index_table(source, str(tmp_path / "o.jsonl"), 9).slices[0]
    refused = read_slice(source, str(tmp_path / "o.jsonl"), "", piece)[1]
    assert [r.detail for r in refused] == ["bool instead of a text", "dict instead of a text"]


def test_a_json_list_is_read_element_by_element(make_source, tmp_path):
    items = [{"image_id": f"{i}.jpg", "url": URL.format(i), "caption": ['a "q" \\', "],[{ é 图", f"{i}"]} for i in range(40)]
    indented = "\ufeff \n" + json.dumps(items, indent=2, ensure_ascii=False)
    for text in (json.dumps(items), indented, json.dumps({'the "data" [': items}, indent=2), json.dumps({"a": items}) + " "):
        (tmp_path / "list.json").write_text(text + "\n")
        source = make_source(format="json_list", tables="list.json", columns={"url": "url", "captions": "caption"})
        rows, rejects = read_all(source, 7)
        assert not rejects and [r["captions"] for r in rows] == [item["caption"] for item in items]


def test_a_json_list_in_blocks_of_any_size(make_source, tmp_path):
    items = [{"u": '\\"' * (i % 5) + "\\\\" * (i % 3), "n": [{"x": ["]", "}", ","]}, i]} for i in range(60)]
    data = json.dumps(items, indent=1).encode()
    (tmp_path / "l.json").write_bytes(data)
    source = make_source(format="json_list", tables="l.json", columns={"url": "u"})
    for block in (1, 5, 64, 10_000):
        index = index_records(source, str(tmp_path / "l.json"), 7, records.SplitJsonList(), 1, block)
        assert index.rows == 60
        text = b"".join(read_piece(source, str(tmp_path / "l.json"), piece) for piece in index.slices)
        assert json.loads(b"[" + text) == items
    for empty in (b"[]", b"\xef\xbb\xbf[ \n ]\n"):
        (tmp_path / "l.json").write_bytes(empty)
        assert source.index(str(tmp_path / "l.json"), 7).rows == 0


@pytest.mark.parametrize("kind", ["json_list", "jsonl", "jsonl.gz"])
def test_a_first_record_that_is_too_long_costs_itself_alone(make_source, tmp_path, kind):
    rows = [json.dumps({"u": "http://h/0", "t": text}) for text in ("x" * (5 << 20), "fine")]
    data = (f"[{', '.join(rows)}]" if kind == "json_list" else "\n\n" + "\n".join(rows)).encode()
    (tmp_path / f"l.{kind}").write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    source = make_source(format=kind.removesuffix(".gz"), tables=f"l.{kind}", columns={"url": "u", "captions": "t"})
    assert [row["captions"] for row in read_all(source)[0]] == [["fine"]]
    assert read_all(source)[1] == [(0, "row_too_long", None)]


# --- Parquet ---


def test_parquet_texts_may_be_stored_as_bytes_and_damage_names_the_rows(make_source, tmp_path):
    columns = {
        name: [value] * 3 for name, value in {"u": b"http://h/1", "t": "猫".encode(), "l": b"CC0", "s": bytes(32)}.items()
    }
    pq.write_table(pa.table(columns), tmp_path / "b.parquet", compression="zstd", use_dictionary=False)
    mapping = {"url": "u", "captions": "t", "license": "l", "sha256": "s"}
    source = make_source(format="parquet", tables="b.parquet", columns=mapping)
    rows, rejects = read_all(source)
    assert not rejects and {(r["url"], r["captions"][0], r["license"], r["source_sha256"]) for r in rows} == {
        ("http://h/1", "猫", "CC0", "00" * 32)
    }
    data = bytearray((tmp_path / "b.parquet").read_bytes())
    data[4:60] = bytes(56)
    (tmp_path / "b.parquet").write_bytes(data)
    index = index_table(source, str(tmp_path / "b.parquet"), 9)
    with pytest.raises(OSError, match=r"b\.parquet: rows 0 to 2 cannot be read"):
        read_slice(source, str(tmp_path / "b.parquet"), index.digest, index.slices[0])


def test_laion_columns_of_any_type(make_source, tmp_path):
    table = {
        "URL": [URL.format(0), URL.format(1), None, "not a link", URL.format(4)],
        "TEXT": ["a cat &amp; dog", None, "x", "y", "Ã©tÃ© <b>bold</b>"],
        "WIDTH": [640.0, 1.0, None, None, float("inf")],
        "similarity": pa.array([0.3, None, 0.2, 0.1, float("nan")], pa.float64()),
        "NSFW": ["UNLIKELY", None, None, None, "NSFW"],
    }
    pq.write_table(pa.table(table), tmp_path / "l.parquet", row_group_size=2)
    columns = {
        "url": "URL",
        "captions": "TEXT",
        "width": "WIDTH?",
        "height": "HEIGHT?",
        "similarity": "similarity?",
        "nsfw": "NSFW?",
    }
    rows, rejects = read_all(make_source(format="parquet", tables="l.parquet", columns=columns), 2)
    assert [(r["captions"], r["source_width"], r["source_nsfw"]) for r in rows] == [
        (["a cat & dog"], 640, "UNLIKELY"),
        (["été bold"], None, "NSFW"),
    ]
    assert rejects == [(1, "no_caption", None), (2, "no_url", None), (3, "bad_url", None)]


def test_a_parquet_column_may_lie_in_a_struct_and_a_map_holds_texts_by_name(make_source, tmp_path):
    meta = [{"url": URL.format(0), "alt": {"en": "a cat"}}, {"url": URL.format(1), "alt": None}, None]
    others = pa.array([None, [("en", "a dog"), ("de", "ein Hund")], None], pa.map_(pa.string(), pa.string()))
    pq.write_table(pa.table({"meta": meta, "others": others}), tmp_path / "s.parquet")
    columns = {"url": "meta.url", "captions": ["meta.alt.en", "others"], "width": "meta.width?"}
    source = make_source(format="parquet", tables="s.parquet", columns=columns)
    rows, rejects = read_all(source)
    assert [row["captions"] for row in rows] == [["a cat"], ["a dog", "ein Hund"]] and rejects == [(2, "no_url", None)]
    columns["url"] = "meta.ulr"
    with pytest.raises(SourceError, match=r"no column 'meta.ulr'.* Did you mean meta.url\?"):
        read_all(make_source(format="parquet", tables="s.parquet", columns=columns))


def test_boxes_come_with_the_words_they_belong_to(make_source, tmp_path):
    caption = "&lt; a red cat on a mat"  # spans count the characters of the raw text
    good = [7.0, 14.0, 0.1, 0.2, 0.5, 0.6, 0.9]
    bad = [
        [7, 14, 0.5, 0.2, 0.1, 0.6, 0.9],  # inverted
        [7, 14, 0.1, 0.2, 1.7, 0.6, 0.9],  # overflows
        [7, 14, float("nan"), 0.2, 0.3, 0.6, 0.9],
        [7, 140, 0.1, 0.2, 0.3, 0.6, 0.9],  # words beyond the caption
        [4, 5, 0.1, 0.2, 0.3, 0.7, 0.9],  # blank words
        [7, 14, 0.1],
    ]
    slightly_over = [20, 23, 0.0, -0.0004, 1.0003, 0.5, float("nan")]
    columns = {"url": [URL.format(0)], "caption": [caption], "ref_exps": [[good, *bad]], "noun_chunks": [[good, slightly_over]]}
    pq.write_table(pa.table(columns), tmp_path / "g.parquet")
    mapping = {"url": "url", "captions": "caption", "regions": ["ref_exps", "noun_chunks"]}
    (row,), rejects = read_all(make_source(format="parquet", tables="g.parquet", columns=mapping))
    first, second = row["source_regions"]
    assert (first["text"], first["box"], first["score"]) == ("red cat", pytest.approx([0.1, 0.2, 0.5, 0.6]), pytest.approx(0.9))
    assert (second["text"], second["box"], second["score"]) == ("mat", [0.0, 0.0, 1.0, 0.5], None)
    wanted = ["bad_box", "bad_box", "bad_box", "bad_span", "bad_span", "bad_box"]
    assert rejects == [(0, reason, f"source_regions[{i}]") for i, reason in enumerate(wanted, 1)]


# --- local pictures ---


def test_muge_joins_pictures_and_queries(make_source, tmp_path):
    lines = [f"{key}\t{base64.urlsafe_b64encode(picture(seed=i)).decode()}" for i, key in enumerate((11, 12, 13, "x-1"))]
    (tmp_path / "train_imgs.tsv").write_text("\n".join([*lines, "99"]) + "\n")
    queries = [
        {"query_id": 1, "query_text": "红色鞋", "item_ids": [11, 12]},
        {"query_text": "鞋", "item_ids": [12, "x-1", 404]},
        "bad",
    ]
    (tmp_path / "train_queries.jsonl").write_text("\n".join(map(json.dumps, queries)) + "\n{torn")
    source = make_source(format="tsv_images", tables="*_imgs.tsv", queries="{stem}_queries.jsonl")
    rows, rejects = read_all(source, 2)
    assert [r["captions"] for r in rows] == [["红色鞋"], ["红色鞋", "鞋"], ["鞋"]]
    assert rejects == [(2, "no_caption", None), (4, "bad_row", None)]
    from pipelines.sources.refs import read_ref

    assert read_ref(rows[1]["image_ref"], 1 << 20) == picture(seed=1)


def test_a_folder_with_and_without_texts(make_source, tmp_path):
    """One whose name looks like a pattern, with a picture whose name is in an old code page."""
    folder = tmp_path / "f [2]"
    (folder / "sub").mkdir(parents=True)
    for name in ("b.PNG", "a.jpg", "sub/c.webp", ".hidden.jpg", os.fsdecode(b"z\xe9.jpg")):
        (folder / name).write_bytes(picture())
    (folder / "a.txt").write_text("one\n\ntwo\n")
    (folder / "notes.md").write_text("x")
    rows, rejects = read_all(make_source(format="folder", tables="f [2]"), 2)
    assert [r["image_ref"] for r in rows] == [f"file:{folder}/{name}" for name in ("a.jpg", "b.PNG", "sub/c.webp")]
    assert [r["captions"] for r in rows] == [["one", "two"], [], []] and rejects == [(3, "no_picture", None)]


def test_a_webdataset_is_read_member_by_member(make_source, tmp_path):
    members = {
        "d/000.jpg": picture(),
        "d/000.txt": b"first",
        "d/000.json": b'{"caption": "from json", "sha256": "x"}',
        "d/001.txt": b"no picture",
        "d/002.en.txt": b"dotted",
        "d/002.png": picture(kind="PNG"),
        "d/003.json": b"{torn",
        "d/003.jpg": picture(),
    }
    with tarfile.open(tmp_path / "w.tar", "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    source = make_source(format="webdataset", tables="*.tar", columns={"captions": ["txt?", "json.caption?", "en.txt?"]})
    rows, rejects = read_all(source, 1)
    assert [r["captions"] for r in rows] == [["first", "from json"], ["dotted"]]
    assert rejects == [(1, "no_picture", None), (3, "bad_json", None)]
    from pipelines.sources.refs import read_ref

    assert read_ref(rows[1]["image_ref"], 1 << 20) == members["d/002.png"]


def test_dci_masks_become_regions(make_source, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "photos" / "p.jpg").write_bytes(picture(200, 100))

    def mask(x1, y1, x2, y2, quality=0, **more):
        bounds = {"topLeft": {"x": x1, "y": y1}, "bottomRight": {"x": x2, "y": y2}}
        return {"bounds": bounds, "label": "label", "caption": "caption", "mask_quality": quality, **more}

    masks = {"0": mask(0, 0, 100, 50), "1": mask(50, 50, 300, 90, 1), "2": mask(0, 0, 9, 9, 2), "3": mask(9, 9, 9, 20), "4": {}}
    entry = {"image": "p.jpg", "short_caption": "short", "extra_caption": "extra", "mask_data": masks}
    for name, row in {"a.json": entry, "b.json": {**entry, "image": "../../etc/passwd"}, "c.json": [1]}.items():
        (tmp_path / "notes" / name).write_text(json.dumps(row))
    (row,), rejects = read_all(make_source(format="dci", tables="notes", image_folder="photos"), 2)
    assert (row["captions"], row["long_captions"]) == (["short"], ["short. extra"])
    assert [(r["text"], r["box"]) for r in row["source_regions"]] == [
        ("caption", [0.0, 0.0, 0.5, 0.5]),
        ("label", pytest.approx([0.25, 0.5, 1.0, 0.9])),
    ]
    masks_refused = [(0, "bad_box", "source_regions[2]"), (0, "bad_box", "source_regions[3]")]
    assert rejects == [*masks_refused, (1, "no_picture", None), (2, "bad_row", None)]


def test_a_picture_that_the_disk_does_not_give_costs_a_try_and_not_its_boxes(make_source, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes").mkdir()
    bounds = {"topLeft": {"x": 0, "y": 0}, "bottomRight": {"x": 9, "y": 9}}
    masks = {"0": {"bounds": bounds, "label": "label", "mask_quality": 0}}
    (tmp_path / "notes" / "a.json").write_text(json.dumps({"image": "p.jpg", "short_caption": "a cat", "mask_data": masks}))
    source = make_source(format="dci", tables="notes", image_folder="photos")
    for broken in (lambda: None, lambda: (tmp_path / "photos" / "p.jpg").write_bytes(b"no picture")):
        broken()
        assert read_all(source)[0][0]["source_regions"] == []

    def fails(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("PIL.Image.open", fails)
    with pytest.raises(OSError, match="Input/output error"):
        read_all(source)


def test_pictures_named_by_a_table_stay_in_their_folder(make_source, tmp_path):
    lines = [
        {"image_file": name, "description": "long"}
        for name in ("a.jpg", "sub/b.jpg", "../x.jpg", "/etc/passwd", "", None, "\ud800.jpg", "../\ud800")
    ]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = make_source(
        format="jsonl", tables="d.jsonl", image_folder="i", columns={"image": "image_file", "long_captions": "description"}
    )
    rows, rejects = read_all(source)
    assert [r["image_ref"] for r in rows] == [f"file:{tmp_path}/i/a.jpg", f"file:{tmp_path}/i/sub/b.jpg"]
    assert [reason for _, reason, _ in rejects] == ["no_picture"] * 6


# --- identity and change ---


def test_the_cut_and_the_identities_do_not_depend_on_where_the_table_lies(tmp_path):
    data = ("url,caption\n" + "".join(f"{URL.format(i)},c{i}\n" for i in range(25))).encode()
    found = []
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "w.csv").write_bytes(data)
        content = {"name": "w", "format": "csv", "base": str(tmp_path / folder), "tables": "w.csv"}
        (tmp_path / folder / "m.yaml").write_text(yaml.safe_dump({**content, "columns": {"url": "url", "captions": "caption"}}))
        source = load_source(str(tmp_path / folder / "m.yaml"), [])
        found.append(index_table(source, source.tables()[0], 10))
    assert found[0] == found[1]
    other = index_table(source, source.tables()[0], 7)
    assert other.digest == found[0].digest  # identities do not depend on the shard size either


def test_equal_rows_of_two_tables_have_their_own_identities():
    assert len({uid_of("a", "d", 1), uid_of("b", "d", 1), uid_of("a", "e", 1), uid_of("a", "d", 2)}) == 4
    assert len(uid_of("a", "d", 1)) == 32


def change(path):
    data = path.read_bytes()
    path.write_bytes(data.replace(b"7.jpg", b"X.jpg") if b"7.jpg" in data else data + b"\n")


def test_a_table_that_changes_during_a_run_stops_it(make_source, tmp_path):
    (tmp_path / "c.csv").write_text("url,caption\n" + "".join(f"{URL.format(i)},c{i}\n" for i in range(25)))
    (tmp_path / "j.jsonl").write_text("".join(json.dumps({"u": URL.format(i), "t": "t"}) + "\n" for i in range(25)))
    urls = [URL.format(i) for i in range(25)]
    pq.write_table(pa.table({"u": urls, "t": urls}), tmp_path / "p.parquet")
    (tmp_path / "f").mkdir()
    for i in range(25):
        (tmp_path / "f" / f"{i:02d}.jpg").write_bytes(picture())
    sources = [
        make_source(format="csv", tables="c.csv", columns={"url": "url", "captions": "caption"}),
        make_source(format="jsonl", tables="j.jsonl", columns={"url": "u", "captions": "t"}),
        make_source(format="parquet", tables="p.parquet", columns={"url": "u", "captions": "t"}),
        make_source(format="folder", tables="f"),
    ]
    indexed = [(source, source.tables()[0], index_table(source, source.tables()[0], 10)) for source in sources]
    change(tmp_path / "c.csv")
    change(tmp_path / "j.jsonl")
    pq.write_table(pa.table({"u": [u.replace("7", "X") for u in urls], "t": urls}), tmp_path / "p.parquet")
    (tmp_path / "f" / "07.jpg").write_bytes(picture(99, 99))
    for source, path, index in indexed:
        with pytest.raises(SourceError, match="changed since it was indexed: rows 0 to 9"):
            read_slice(source, path, index.digest, index.slices[0])
