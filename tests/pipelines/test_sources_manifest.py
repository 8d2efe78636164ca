"""What a manifest of a source may say, and how its mistakes are told."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources import SourceError, index_table, load_source, records


def complaint(call):
    with pytest.raises(SourceError) as caught:
        call()
    return str(caught.value)


def test_mistakes_in_a_manifest_name_the_nearest_right_thing(make_source, tmp_path):
    (tmp_path / "t.csv").write_text("url,caption,width\nhttp://h/1,c,3\n")

    def index(**content):
        source = make_source(
            **{"format": "csv", "tables": "t.csv", "columns": {"url": "url", "captions": "caption"}, **content}
        )
        return index_table(source, source.tables()[0], 10)

    assert "Did you mean csv?" in complaint(lambda: index(format="cvs"))
    assert "colums: no such key. Did you mean columns?" in complaint(lambda: index(colums={}))
    assert "columns.caption: no such key. Did you mean captions?" in complaint(lambda: index(columns={"caption": "caption"}))
    told = complaint(lambda: index(columns={"url": "URL", "captions": "caption"}))
    assert "t.csv: no column 'URL'; the table has url, caption, width. Did you mean url?" in told
    assert "nothing matches" in complaint(lambda: index(tables="x*.csv")) and "t.csv" in complaint(
        lambda: index(tables="x*.csv")
    )
    assert "tables: s3://b/t.csv: tables are read as files" in complaint(lambda: index(tables="s3://b/t.csv"))
    assert "thing.yaml: format: ['csv'] is none of parquet, csv" in complaint(lambda: index(format=["csv"]))
    assert "thing.yaml: delimiter: expected one ASCII character" in complaint(lambda: index(delimiter="||"))
    for encoding in ("utf8x", "utf-16-le", "base64", "idna"):
        assert "thing.yaml: encoding: expected an encoding like utf-8" in complaint(lambda e=encoding: index(encoding=e))
    assert "thing.yaml: language:" in complaint(lambda: index(language="English"))
    assert "one of them must say where the pictures are" in complaint(lambda: index(columns={"captions": "caption"}))
    assert "give one of them" in complaint(lambda: index(columns={"url": "url", "image": "caption"}))
    assert "2 columns are called 'url'" in complaint(lambda: index(header=["url", "caption", "url"], columns={"url": "url"}))
    assert "NOT_SET_HERE is not set" in complaint(lambda: index(tables="${NOT_SET_HERE}/t.csv"))
    assert "no column 'height'" in complaint(lambda: index(columns={"url": "url", "captions": "caption", "height": "height"}))
    index(columns={"url": "url", "captions": "caption", "height": "height?"})


def test_a_manifest_says_everything_once(make_source, tmp_path):
    manifest = tmp_path / "twice.yaml"
    manifest.write_text("format: csv\ntables: t.csv\ncolumns: {url: a}\ncolumns: {url: b}\n")
    assert "the key 'columns' stands twice" in complaint(lambda: load_source(str(manifest), []))


def test_files_of_another_kind_are_told_apart(make_source, tmp_path, monkeypatch):
    pq.write_table(pa.table({"url": ["x"]}), tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("url,caption\nhttp://h/1,c\n")
    (tmp_path / "t16.csv").write_text("url,caption\n", encoding="utf-16")
    (tmp_path / "empty.csv").write_text("")
    mapping = {"url": "url", "captions": "caption"}

    def index(kind, name):
        source = make_source(format=kind, tables=name, columns=mapping)
        return index_table(source, source.tables()[0], 10)

    assert "not CSV, it begins with b'PAR1'" in complaint(lambda: index("csv", "t.parquet"))
    assert "not a Parquet file (it begins with b'url,')" in complaint(lambda: index("parquet", "t.csv"))
    assert "UTF-16" in complaint(lambda: index("csv", "t16.csv"))
    assert "empty file" in complaint(lambda: index("csv", "empty.csv"))
    assert "none of the first rows is a JSON object" in complaint(lambda: index("jsonl", "t.csv"))
    assert "not a JSON list" in complaint(lambda: index("json_list", "t.csv"))
    for text, why in {
        '[{"url": 1}]\n[{"url": 2}]': "behind the list's end stands b'[{",
        '{"images": [{"url": 1}], "boxes": []}': "beside the list under 'images' stands b', \"boxes\": []}'; expected one list",
        '{"v": 1, "data": [{"url": 1}]}': "with nothing beside the list",
    }.items():
        (tmp_path / "two.json").write_text(text)
        assert why in complaint(lambda: index("json_list", "two.json"))
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-9])
    assert "a Parquet file without its end: was it copied whole?" in complaint(lambda: index("parquet", "cut.parquet"))
    assert "empty.csv: empty file" in complaint(lambda: index("parquet", "empty.csv"))
    for name, head, what in (
        ("a.zst", b"\x28\xb5\x2f\xfd", "zstd"),
        ("a.xlsx", b"PK\x03\x04", "zip"),
        ("a.bin", b"\x1f\x8b\x08", "gzip"),
    ):
        (tmp_path / name).write_bytes(head + b"\x1b[31m,\n")
        for kind in ("csv", "jsonl", "json_list"):
            assert f"{name}: packed with {what}" in complaint(lambda kind=kind, name=name: index(kind, name))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.csv").touch()
    assert f"it is a folder; name the files in it, as in {tmp_path}/folder/*.csv" in complaint(lambda: index("csv", "folder"))
    (tmp_path / "16.json").write_text("[{}]", encoding="utf-16")
    assert all("UTF-16; convert it" in complaint(lambda kind=kind: index(kind, "16.json")) for kind in ("json_list", "jsonl"))
    (tmp_path / "long").write_text("[" + "x" * (5 << 20))
    monkeypatch.setattr(records, "MAX_RECORD", 1 << 20)
    assert "no end of a jsonl record within 1 MiB from byte 0" in complaint(lambda: index("jsonl", "long"))
    assert "no end of a json_list record within 1 MiB from byte 1" in complaint(lambda: index("json_list", "long"))
    assert "not a whole tar file" in complaint(
        lambda: index_table(make_source(format="webdataset", tables="t.csv"), tmp_path / "t.csv", 10)
    )


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("csv", "http://h/{},一只黑色的猫坐在椅子上\n"),
        ("jsonl", '{{"url": "http://h/{}", "caption": "一只黑色的猫坐在椅子上"}}\n'),
    ],
)
@pytest.mark.parametrize(
    ("written", "said", "why"),
    [
        ("gb18030", "utf-8", "10 of the first 10 rows beyond ASCII are not utf-8: say `encoding: gb18030`"),
        ("utf-8", "gbk", "its first rows are UTF-8, not gbk: leave `encoding` out"),
        ("gb18030", "gbk", None),
        ("utf-8", "utf-8", None),
    ],
)
def test_a_file_in_another_encoding_than_is_said_stops(make_source, tmp_path, kind, row, written, said, why):
    def index(rows):
        head = "url,caption\n" if kind == "csv" else ""
        (tmp_path / "t").write_text(head + "".join(row.format(i) for i in range(rows)), encoding=written, newline="")
        source = make_source(format=kind, tables="t", encoding=said, columns={"url": "url", "captions": "caption"})
        return index_table(source, source.tables()[0], 100).rows

    if why is None:
        assert index(10) == 10
    else:
        assert why in complaint(lambda: index(10))
    assert index(9) == 9, "of so few any may be damaged: those are refused row by row"


def test_an_optional_name_without_quotes_where_yaml_wants_them_is_told(tmp_path):
    (tmp_path / "s.yaml").write_text("format: csv\ntables: t.csv\ncolumns: {url: url, width: w?, height: h}\n")
    assert "a name that ends in `?` wants quotes" in complaint(lambda: load_source(str(tmp_path / "s.yaml"), []))


def test_the_shipped_manifests_are_valid():
    folder = Path(__file__).parents[2] / "manifests" / "sources"
    names = [path.stem for path in folder.glob("*.yaml")]
    assert len(names) >= 12
    for name in names:
        assert load_source(name, [folder]).name == name
    assert "Did you mean wukong?" in complaint(lambda: load_source("wukung", [folder]))
