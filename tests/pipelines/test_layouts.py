"""What strangers wrote, taken in from a published layout, and handed on: nothing of it breaks a layout or stops an import."""

import csv
import json
import tarfile

import pyarrow.parquet as pq
import pytest
from picture_server import picture

from pipelines.exports import About, ExportSettings, export
from pipelines.imports import ImportSettings, import_layout
from pipelines.shard_format import validate_shard

COLOURS = ("blue", "green", "black", "white", "pink", "grey", "brown", "yellow", "purple", "orange")
NEGATIVES = {str(i): f"a {word} car" for i, word in enumerate(COLOURS)}
ABOUT = About("tiny", "A tiny set.", {}, "1.0.0")


def row(f_path="a.jpg", caption="A red car stands on a road.", short="a red car", **more):
    return {"f_path": f_path, "caption": caption, "short_caption": short, "bbox_info": [], **more}


def box(bbox=(0.1, 0.1, 0.5, 0.5), short="a red car", long="a red car on a road", **more):
    flagged = {"flag_short_neg": 1, "short_expr_negs": NEGATIVES}
    return {"bbox": [*bbox], "short_expr": short, "long_expr": long, **flagged, **more}


@pytest.fixture
def take_in(tmp_path):
    """A function that imports rows, or a folder that was exported; gives (counts, records, refusals, shards)."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(picture(40, 20))

    def take(what, name="in"):
        files, pictures = tmp_path / f"{name}.json", tmp_path / "pictures"
        if isinstance(what, list):
            files.write_text(json.dumps(what))
        else:
            files, pictures = what / "jsonfiles", what / "images"
        counts = import_layout("finehard", [files], pictures, tmp_path / name, ImportSettings(name="strangers", shard_size=4))
        shards = sorted((tmp_path / name).glob("*.tar"))
        assert all(validate_shard(shard).ok for shard in shards)
        records = []
        for shard in shards:
            with tarfile.open(shard) as archive:
                records += [json.load(archive.extractfile(member)) for member in archive if member.name.endswith(".json")]
        lines = "".join(file.read_text() for file in sorted((tmp_path / name / "rejects").iterdir()))
        return counts, records, [json.loads(line) for line in lines.splitlines()], shards

    return take


def test_a_name_that_no_file_can_have_costs_its_row_alone(take_in):
    names = ("\ud800.jpg", "a\udc80.jpg", "a\0.jpg", "x" * 300 + ".jpg", "a/" * 3000 + "a.jpg", "a.jpg/b.jpg", ".")
    counts, records, refused, _ = take_in([row(), *(row(name) for name in names), row(short="the last")])
    assert counts.samples == 2 and records[1]["texts"][0]["text"] == "the last"
    paths, pictures = ["bad_path"] * 3, ["no_picture"] * 4
    assert [(r["row"], r["reason"]) for r in refused] == list(enumerate(paths + pictures, 1))


def test_counts_and_refusals_are_of_what_the_shards_hold(take_in):
    """A box that is nothing once it is rounded, and a negative that is the region's own long expression."""
    thin = box((0.5, 0.5, 0.50000001, 0.6))
    counts, records, refused, _ = take_in([row(bbox_info=[thin, box(short="a car", long="A blue car"), box()])])
    assert [len(region["negatives"]) for region in records[0]["regions"]] == [0, 10]
    assert (counts.regions, counts.groups) == (2, 1)
    assert [(r["item"], r["reason"]) for r in refused] == [("regions[0]", "bad_box"), ("negatives[1]", "bad_negatives")]


HOSTILE = [
    row(caption='He said "a red car,\tno" \\ and\r\nleft.\u2028Then\u0085\x0b\x0c\x1c came \x1b[31m\u202edetrevni\u202c back.'),
    row(
        caption="这张图片展示了“一辆\t红色”的汽车，\n旁边写着 'a,b';\u2029\u202e反\u202c 👨‍👩‍👧‍👦 \u0065\u0301。",
        short="一辆\n红色的汽车",
        is_cn=True,
    ),
    row(caption="长" * 19_999, short=None, is_cn=True, bbox_info=[box(short="红色的汽车", long="", short_expr_negs=None)]),
    row(caption=None, short="a sign that says مرحبا, عالم"),
    row(bbox_info=[box((0, 0, 1, 1), flag_short_neg=0), box()]),
]


def content(records):
    kept = ("texts", "regions", "width", "height", "sha256")
    return sorted(json.dumps({name: record[name] for name in kept}, sort_keys=True) for record in records)


def test_in_and_out_and_in_again_changes_nothing(take_in, tmp_path):
    counts, records, refused, shards = take_in(HOSTILE, "first")
    assert counts.samples == 5 and [r["item"] for r in refused] == ["negatives[0]"]
    export(shards, "finehard", tmp_path / "out", ExportSettings(), ABOUT)
    listed = [one for file in sorted((tmp_path / "out" / "jsonfiles").iterdir()) for one in json.loads(file.read_text("utf-8"))]
    flagged = [b for one in listed for b in one["bbox_info"] if b["flag_short_neg"]]
    assert len(flagged) == 1 and flagged == [listed[-1]["bbox_info"][0]], "regions with negatives come first"
    assert list(flagged[0]["short_expr_negs"]) == list(NEGATIVES)

    second = take_in(tmp_path / "out", "second")
    export(second[3], "finehard", tmp_path / "again", ExportSettings(), ABOUT)
    third = take_in(tmp_path / "again", "third")
    assert content(second[1]) == content(third[1])
    stands_in = [(r["row"], r["reason"]) for r in second[2]]  # where a short text stood for the long one that was not there
    assert stands_in == [(2, "repeated_text"), (3, "repeated_text")] == [(r["row"], r["reason"]) for r in third[2]]
    ordered = [sorted(r["regions"], key=lambda region: not region["negatives"]) for r in records]
    assert ordered == [r["regions"] for r in second[1]]
    for before, after in zip(records, second[1], strict=True):
        assert {text["text"] for text in before["texts"]} <= {text["text"] for text in after["texts"]}


def test_a_shard_without_a_text_of_the_language_is_an_empty_file_that_comes_in_beside_the_others(take_in, tmp_path):
    *_, shards = take_in([*(row() for _ in range(4)), row(caption="一辆红色的汽车。", short=None, is_cn=True)])
    export(shards, "finehard", tmp_path / "zh", ExportSettings(language="zh"), ABOUT)
    assert json.loads((tmp_path / "zh" / "jsonfiles" / "00000.json").read_text()) == []
    assert take_in(tmp_path / "zh", "again")[0].samples == 1


@pytest.mark.parametrize("newline", [None, ""])
def test_every_line_of_lit_cn_is_a_picture_and_its_caption_for_any_reader(take_in, tmp_path, newline):
    *_, shards = take_in(HOSTILE)
    out = tmp_path / "lit"
    export(shards, "lit-cn", out, ExportSettings(), ABOUT)
    with open(out / "image_caption_long_cn.txt", encoding="utf-8", newline=newline) as file:
        text = file.read()
    split = [line.split("\t") for line in text.splitlines()]
    assert split == [line.split("\t") for line in text.removesuffix("\n").split("\n")]
    assert split == list(csv.reader(text.split("\n")[:-1], delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [len(line) for line in split] == [2, 2] and all((out / path).is_file() for path, _ in split)
    assert split[0][1].startswith("这张图片展示了“一辆 红色”的汽车， 旁边写着 'a,b';") and len(split[1][1]) == 19_999


def test_an_expression_is_found_in_grits_caption_as_whole_words_in_any_letters(take_in, tmp_path):
    boxes = [
        box(short="a car", long=""),
        box((0, 0, 0.5, 0.5), short="İstanbul", long=""),
        box((0, 0, 1, 1), short="scar", long=""),
    ]
    rows = [
        row(caption="In İstanbul a carpet with scars lies beside A car.", bbox_info=boxes),
        row(caption="路上有红色汽车。", bbox_info=[box(short="汽车", long="")], is_cn=True),
    ]
    *_, shards = take_in(rows)
    export(shards, "grit", tmp_path / "grit", ExportSettings(), ABOUT)
    table = pq.read_table(tmp_path / "grit" / "grit").to_pylist()
    found = [[r["caption"][int(start) : int(end)] for start, end, *_ in r["noun_chunks"]] for r in table]
    assert found == [["A car", "İstanbul"], ["汽车"]]
