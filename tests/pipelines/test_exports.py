"""Shards in the layouts of others, read back by those others' own rules: `datasets`, mlcroissant, COCO, the official reader."""

import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from contextlib import suppress

import pyarrow.parquet as pq
import pytest
import yaml
from imported import imported
from PIL import Image

from pipelines.config import ConfigError
from pipelines.exports import LAYOUTS, About, ExportSettings, export
from pipelines.folder_job import FolderJob
from pipelines.shard_format import FORMAT, validate_shard
from pipelines.sources import index_table, load_source, read_slice

WORDS = ["blue", "green", "black", "white", "pink", "grey", "brown", "yellow", "purple", "orange"]
ABOUT = About("tiny", "A tiny set.", {"laion": "LAION, of the web | <b>bold</b>"}, "1.0.0")
NOTHING_DONE = {"operators": [], "prompt": None, "model": None, "fingerprint": "f"}
PROVENANCE = {
    "source": NOTHING_DONE,
    "captions": {
        "operators": ["recaption@1", "pii@1"],
        "prompt": "long_caption_zh@1",
        "model": "qwen2.5-vl",
        "fingerprint": "f",
    },
}


def jpeg(width=40, height=20, orientation=None, shade=0):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (shade, 99, 200)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def negative(i, positive="a red car"):
    words = ["blue", "green", "black", "white", "pink", "grey", "brown", "yellow", "purple", "orange"]
    text = positive.replace("red", words[i])
    return {
        "text": text,
        "family": "colour",
        "span": [2, 2 + len(words[i])],
        "original": "red",
        "origin": "lexical",
        "flags": [],
    }


def region(language="en", short="a red car", box=(0.1, 0.2, 0.5, 0.9), hard=True, long=None):
    return {
        "box": list(box),
        "score": 0.5,
        "language": language,
        "short": short,
        "long": long or short,
        "origin": "model",
        "negatives": [negative(i) for i in range(10)] if hard else [],
        "positives": [],
    }


def text(words, language="en", length="short", origin="source"):
    return {"text": words, "language": language, "length": length, "origin": origin, "by": "x"}


def record(n, picture, size=(40, 20), **changes):
    return {
        "format": FORMAT,
        "uid": f"{n:032x}",
        "source": "laion",
        "license": "CC-BY-4.0",
        "url": f"http://example.org/{n}.jpg",
        "sha256": hashlib.sha256(picture).hexdigest(),
        "image_format": "JPEG",
        "width": size[0],
        "height": size[1],
        "texts": [
            text("my car"),
            text("There is a red car on a road.\tIt shines.", "en", "long", "model"),
            text("路上有一辆红色的汽车。\n它闪闪发光。", "zh", "long", "model"),
        ],
        "regions": [region(hard=False, short="a road", box=(0, 0.5, 1, 1)), region(), region("zh", "汽车", hard=False)],
        "long_negatives": [],
        "scores": {"clip": 0.25},
        "provenance": PROVENANCE,
        **changes,
    }


def members(made, picture):
    return [(f"{made['uid']}.jpg", picture), (f"{made['uid']}.json", json.dumps(made).encode())]


def tar(path, *files):
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def shard(path, *samples):
    return tar(path, *(file for made, picture in samples for file in members(made, picture)))


@pytest.fixture
def shards(tmp_path):
    """Two shards of two samples; the last picture is turned by EXIF, and its sample has no Chinese."""
    folder = tmp_path / "shards"
    folder.mkdir()
    plain = [jpeg(shade=n) for n in range(3)]
    turned = jpeg(40, 20, orientation=6)
    english = [text("a tall car"), text("A tall red car stands here.", "en", "long", "model")]
    last = record(3, turned, (20, 40), texts=english, regions=[region()], license=None, url="http://example.org/0.jpg")
    shard(folder / "00000.tar", (record(0, plain[0]), plain[0]), (record(1, plain[1], url=None), plain[1]))
    shard(folder / "00001.tar", (record(2, plain[2]), plain[2]), (last, turned))
    paths = sorted(folder.glob("*.tar"))
    assert all(validate_shard(path).ok for path in paths)
    return paths


def made(shards, layout, tmp_path, **settings):
    out = tmp_path / layout
    tally = export(shards, layout, out, ExportSettings(**settings), ABOUT)
    assert not list(tmp_path.glob(".*.partial")) and not (out / ".parts").exists()
    return out, tally


def test_lit_cn_has_one_line_a_picture_and_no_tab_or_line_end_inside_a_caption(shards, tmp_path):
    out, tally = made(shards, "lit-cn", tmp_path)
    lines = (out / "image_caption_long_cn.txt").read_text("utf-8").split("\n")
    assert lines.pop() == "" and len(lines) == 3 and tally.counts["notes"] == {"no long Chinese text: left out": 1}
    for line in lines:
        path, caption = line.split("\t")
        assert Image.open(out / path).size == (40, 20)
        assert caption == "路上有一辆红色的汽车。 它闪闪发光。"


@pytest.mark.parametrize("layout", ["lit-cn", "finehard", "boxclass-cn", "grit", "huggingface"])
def test_every_layout_writes_the_picture_that_its_boxes_are_of(layout, tmp_path):
    """To a reader that does not look at EXIF: upright, the red side at the top where the box is."""
    lying = Image.new("RGB", (40, 20), "blue")
    lying.paste("red", (0, 0, 10, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # its left side is the top
    buffer = io.BytesIO()
    lying.save(buffer, "JPEG", exif=exif, quality=95)
    top = region("zh", "红色", box=(0, 0, 1, 0.25), hard=False)
    (tmp_path / "shards").mkdir()
    path = tmp_path / "shards" / "00000.tar"
    shard(path, (record(0, buffer.getvalue(), (20, 40), regions=[top]), buffer.getvalue()))
    out, tally = made([path], layout, tmp_path)
    if layout == "huggingface":
        data = pq.read_table(out / "data" / "00000.parquet")["image"][0].as_py()["bytes"]
    else:
        (file,) = out.rglob("*.jpg")
        data = file.read_bytes()
    seen = Image.open(io.BytesIO(data))
    assert seen.size == (20, 40) and seen.getexif().get(0x0112, 1) == 1
    assert seen.getpixel((10, 3))[0] > 200 and seen.getpixel((10, 36))[2] > 200
    assert tally.counts["notes"]["turned by EXIF: written upright, as a new JPEG"] == 1


def test_finehard_is_what_its_reader_demands(shards, tmp_path):
    out, tally = made(shards, "finehard", tmp_path)
    records = [r for file in sorted((out / "jsonfiles").iterdir()) for r in json.loads(file.read_text("utf-8"))]
    assert len(records) == 7 and sum("is_cn" in r for r in records) == 3
    for one in records:
        assert one["caption"] and one["short_caption"] and (out / "images" / one["f_path"]).is_file()
        for box in one["bbox_info"]:
            x1, y1, x2, y2 = box["bbox"][:4]
            assert 0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1
            assert box["flag_short_neg"] in (0, 1)
            assert len(box["short_expr_negs"]) == (10 if box["flag_short_neg"] else 0)
    english = [r for r in records if "is_cn" not in r]
    assert english[0]["bbox_info"][0]["flag_short_neg"] == 1, "regions with negatives first: only four boxes are used"
    assert next(r["short_caption"] for r in records if "is_cn" in r) == "路上有一辆红色的汽车。"
    keys = json.loads((out / "url2key_jsons" / "url2key_coyo_image_0.json").read_text())
    assert keys == {"http://example.org/0.jpg": f"{0:032x}", "http://example.org/2.jpg": f"{2:032x}"}
    assert tally.counts["notes"]["an address that came before: not in url2key a second time"] == 1
    assert pq.read_table(out / "coyo_image_0" / "00000.parquet")["url"].to_pylist() == ["http://example.org/0.jpg"]
    upright = Image.open(out / "images" / english[-1]["f_path"])
    assert upright.size == (20, 40) and upright.getexif().get(0x0112, 1) == 1, "readers without a look at EXIF see it upright"


def test_boxclass_cn_is_coco_with_categories_from_one(shards, tmp_path):
    out, _ = made(shards, "boxclass-cn", tmp_path)
    coco = json.loads((out / "jsonfile" / "valid_category_data_total_zh.json").read_text("utf-8"))
    assert coco["categories"] == [{"id": 1, "name": "汽车"}]
    assert [image["file_name"] for image in coco["images"]] == ["000001.jpg", "000002.jpg", "000003.jpg"]
    assert all((out / "images" / image["file_name"]).is_file() for image in coco["images"])
    first = coco["annotations"][0]
    assert first["bbox"] == pytest.approx([4, 4, 16, 14]) and first["category_id"] == 1 and len(coco["annotations"]) == 3


def test_grit_is_read_back_by_the_projects_own_grit_source(shards, tmp_path):
    out, tally = made(shards, "grit", tmp_path, language="en")
    (tmp_path / "grit.yaml").write_text(
        "format: parquet\ntables: '" + str(out / "grit" / "*.parquet") + "'\nlanguage: en\n"
        "columns: {url: url, captions: caption, regions: [ref_exps, noun_chunks], width: width, height: height}\n"
    )
    source = load_source(str(tmp_path / "grit.yaml"), [])
    path = source.tables()[1]
    index = index_table(source, path, 10)
    table, rejects = read_slice(source, path, index.digest, index.slices[0])
    assert not rejects
    texts = [[r["text"] for r in row] for row in table["source_regions"].to_pylist()]
    assert texts == [["a road", "a red car"], []], "of the last caption, 'a tall red car', no part is 'a red car'"
    assert tally.counts["notes"]["an expression that does not occur in the caption: its box is left out"] == 1


@pytest.mark.parametrize(
    ("layout", "texts", "regions", "groups"),
    [
        ("lit-cn", {"zh long": 3}, {}, {}),
        ("boxclass-cn", {}, {"zh": 3}, {}),
        ("grit", {"en long": 3, "en short": 1}, {"en": 6}, {}),
        ("url2key", {"en short": 3}, {}, {}),
        ("finehard", {"en long": 4, "en short": 4, "zh long": 3}, {"en": 7, "zh": 3}, {"en": 4}),
    ],
)
def test_what_is_counted_and_told_in_the_card_is_what_the_layout_holds(shards, tmp_path, layout, texts, regions, groups):
    out, tally = made(shards, layout, tmp_path)
    assert [tally.counts[kind] for kind in ("texts", "regions", "groups")] == [texts, regions, groups]
    front = yaml.safe_load((out / "README.md").read_text("utf-8").split("---")[1])
    assert front["language"] == sorted({kind.split()[0] for kind in [*texts, *regions]})


def test_boxes_of_a_language_in_which_a_finehard_record_has_no_text_are_counted(tmp_path):
    picture = jpeg()
    (tmp_path / "shards").mkdir()
    made_of = record(0, picture, texts=[text("a red car")], regions=[region(), region("zh", "汽车", hard=False)])
    _, tally = made([shard(tmp_path / "shards" / "00000.tar", (made_of, picture))], "finehard", tmp_path)
    assert tally.counts["notes"]["no text in its language (zh): the box is left out"] == 1
    assert tally.counts["regions"] == {"en": 1}


def test_a_hugging_face_folder_is_loaded_by_datasets(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    out, _ = made(shards, "huggingface", tmp_path)
    cache = str(tmp_path / "cache")
    rows = datasets.load_dataset(str(out), split="train", cache_dir=cache)
    assert len(rows) == 4 and rows[0]["image"].size == (40, 20)
    assert rows[0]["regions"][1]["negatives"][9]["text"] == "a orange car"
    assert json.loads(rows[0]["scores"]) == {"clip": 0.25}
    boxes = datasets.load_dataset(str(out), "regions", split="train", cache_dir=cache)
    assert len(boxes) == 10 and boxes[1]["bbox"] == "0.1 0.2 0.5 0.9" and len(boxes[1]["negatives"]) == 10
    card = (out / "README.md").read_text("utf-8")
    for expected in ("license: other", "not stated", "`CC-BY-4.0`", "qwen2.5-vl", "long_caption_zh@1", "Known limits", "n<1K"):
        assert expected in card, expected


@pytest.mark.parametrize(("boxes", "tables"), [([], {"default": 2}), ([region()], {"default": 2, "regions": 1})])
def test_datasets_loads_a_hugging_face_folder_with_shards_without_boxes(tmp_path, monkeypatch, boxes, tables):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    picture = jpeg()
    (tmp_path / "shards").mkdir()
    both = [
        shard(tmp_path / "shards" / f"{n}.tar", (record(n, picture, regions=regions), picture))
        for n, regions in enumerate(([], boxes))
    ]
    out, _ = made(both, "huggingface", tmp_path)
    assert datasets.get_dataset_config_names(str(out)) == list(tables)
    for name, rows in tables.items():
        assert len(datasets.load_dataset(str(out), name, split="train", cache_dir=str(tmp_path / "cache"))) == rows


@pytest.mark.parametrize(("layout", "language"), [("huggingface", "zh"), ("croissant", "en"), ("lit-cn", "en"), ("grit", "zh")])
def test_a_language_that_a_layout_cannot_be_limited_to_is_refused(shards, tmp_path, layout, language):
    with pytest.raises(ConfigError, match=f"layout {layout} knows no language {language}"):
        made(shards, layout, tmp_path, language=language)


@pytest.mark.parametrize("layout", ["huggingface", "croissant"])
def test_croissant_is_valid_and_its_records_can_be_read(shards, tmp_path, layout):
    import mlcroissant

    out, _ = made(shards, layout, tmp_path)
    described = json.loads((out / "croissant.json").read_text("utf-8"))
    for file in described["distribution"]:
        if file["@type"] == "cr:FileObject":
            assert hashlib.sha256((out / file["contentUrl"]).read_bytes()).hexdigest() == file["sha256"]
    dataset = mlcroissant.Dataset(jsonld=str(out / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors
    regions = list(dataset.records("regions"))
    assert len(regions) == 10 and regions[1]["regions/bbox"] == pytest.approx([0.1, 0.2, 0.5, 0.9])
    samples = list(dataset.records("samples"))
    assert len(samples) == 4 and samples[0]["samples/source"] == b"laion"
    if layout == "croissant":
        pictures = list(dataset.records("pictures"))
        assert len(pictures) == 4 and pictures[0]["pictures/image"].size == (40, 20)


def test_the_croissant_layout_holds_the_shards_as_they_are(shards, tmp_path):
    out, _ = made(shards, "croissant", tmp_path)
    assert [p.read_bytes() for p in sorted((out / "shards").iterdir())] == [p.read_bytes() for p in shards]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_killed_export_goes_on_and_gives_the_same_files(shards, tmp_path, layout, monkeypatch):
    whole, _ = made(shards, layout, tmp_path)
    calls = []
    part = LAYOUTS[layout].part

    def dying(self, shard, *rest):
        calls.append(shard.name)
        made_of = part(self, shard, *rest)
        if calls == ["00000", "00001"]:
            raise KeyboardInterrupt
        return made_of

    monkeypatch.setattr(LAYOUTS[layout], "part", dying)
    out = tmp_path / "second" / layout
    out.parent.mkdir()
    with pytest.raises(KeyboardInterrupt):
        export(shards, layout, out, ExportSettings(), ABOUT)
    assert not out.exists()
    export(shards, layout, out, ExportSettings(), ABOUT)
    assert calls == ["00000", "00001", "00001"], "the first shard was not written again"
    files = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())
    assert all((whole / f).read_bytes() == (out / f).read_bytes() for f in files if f.suffix != ".parquet")


@pytest.mark.parametrize("layout", ["lit-cn", "boxclass-cn"])
def test_an_export_killed_at_any_step_of_its_end_is_made_whole_by_the_next(shards, tmp_path, layout, monkeypatch):
    """Its pieces go at the end: a marker must not promise one that is gone."""
    whole, _ = made(shards, layout, tmp_path)
    steps = ("unlink", "rmdir", "rename")
    for last in range(40):
        out = tmp_path / f"killed-{last}"
        with monkeypatch.context() as patch:
            publish, left = FolderJob.publish, [last]

            def dying(job, publish=publish, left=left, patch=patch):
                for name in steps:
                    patch.setattr(os, name, counted(getattr(os, name), left))
                publish(job)

            patch.setattr(FolderJob, "publish", dying)
            with suppress(KeyboardInterrupt):
                export(shards, layout, out, ExportSettings(), ABOUT)
        if not out.exists():
            (out.with_name(f".{out.name}.partial") / ".README.md.0123456789ab.tmp").touch()  # of a card that was killed earlier
            export(shards, layout, out, ExportSettings(), ABOUT)
        files = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file())
        assert files == sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())
        assert all((whole / f).read_bytes() == (out / f).read_bytes() for f in files)
        if left[0] >= 0:
            return
    raise AssertionError("more steps than were tried")


def counted(real, left):
    """`real`, which is killed before it is called for the `left[0]`-th time."""

    def step(*given, **named):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(*given, **named)

    return step


@pytest.mark.parametrize("layout", ["lit-cn", "finehard", "grit"])
def test_no_picture_of_a_killed_try_is_left_of_a_sample_that_was_taken_down_since(shards, tmp_path, layout, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.exports.write_card", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(shards, layout, tmp_path / "out", ExportSettings(), ABOUT)
    picture = jpeg(shade=1)
    shard(shards[0], (record(1, picture), picture))
    export(shards, layout, tmp_path / "out", ExportSettings(), ABOUT)
    there = {p.stem for p in (tmp_path / "out" / "images").rglob("*.jpg")}
    assert f"{1:032x}" in there and f"{0:032x}" not in there


def test_an_export_never_touches_what_is_there_nor_goes_on_with_other_settings(shards, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="not overwritten"):
        export(shards, "lit-cn", tmp_path / "there", ExportSettings(), ABOUT)
    with pytest.raises(ConfigError, match=r"no layout 'litcn'.*Did you mean lit-cn"):
        export(shards, "litcn", tmp_path / "new", ExportSettings(), ABOUT)
    monkeypatch.setattr(LAYOUTS["grit"], "finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(shards, "grit", tmp_path / "new", ExportSettings(), ABOUT)
    with pytest.raises(ConfigError, match="other settings"):
        export(shards, "grit", tmp_path / "new", ExportSettings(pictures=False), ABOUT)


def test_a_broken_shard_is_named_and_nothing_is_published(shards, tmp_path):
    shards[1].write_bytes(shards[1].read_bytes()[:3000])
    with pytest.raises(ConfigError, match=r"00001.tar.*fineloom validate"):
        export(shards, "lit-cn", tmp_path / "out", ExportSettings(), ABOUT)
    assert not (tmp_path / "out").exists()


PICTURE = jpeg()
ZERO, ONE = members(record(0, PICTURE), PICTURE), members(record(1, PICTURE), PICTURE)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ([ZERO[0], *ONE], "0.jpg without its record"),
        ([*ONE, ZERO[0]], "0.jpg without its record"),
        ([ZERO[1], *ONE], "0.json without its picture"),
        ([*ZERO, *ZERO], "0 occurs twice"),
        ([ZERO[0], *ZERO], "0.jpg without its record"),
        ([(ZERO[0][0], PICTURE), (ZERO[1][0], ONE[1][1])], "0: json.uid: expected the member's key, found '0+1'"),
        ([*ONE, ("notes.txt", b"")], "notes.txt: not a member"),
        ([(ZERO[0][0], PICTURE[:-9] + bytes(9)), ZERO[1]], "0: jpg: not the bytes that json.sha256 is of"),
    ],
)
def test_no_member_of_a_shard_is_passed_over(files, why, tmp_path):
    with pytest.raises(ConfigError, match=f"{why}.*fineloom validate"):
        export([tar(tmp_path / "00000.tar", *files)], "lit-cn", tmp_path / "out", ExportSettings(), ABOUT)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"width": 2**31}, r"json\.width: .*less than or equal to 2147483647, found 2147483648"),
        ({"height": 10**20}, r"json\.height: .*less than or equal to 2147483647"),
        ({"scores": {"clip": float("nan")}}, "json: not a JSON object: NaN is not JSON"),
        ({"regions": [region() | {"box": [0, 0, 1, "1"]}]}, r"json\.regions\[0\]\.box\[3\]: .*valid number, found '1'"),
    ],
)
def test_a_record_against_the_format_is_told_with_its_shard_uid_key_and_what_was_expected(changes, why, layout, tmp_path):
    with pytest.raises(ConfigError, match=rf"00000\.tar: 0{{32}}: {why}.*; see `fineloom validate"):
        export(
            [shard(tmp_path / "00000.tar", (record(0, PICTURE, **changes), PICTURE))],
            layout,
            tmp_path / "out",
            ExportSettings(),
            ABOUT,
        )
    assert not (tmp_path / "out").exists()


def test_a_samples_two_members_lie_in_either_order(tmp_path):
    turned = tar(tmp_path / "00000.tar", *ZERO[::-1], *ONE)
    assert validate_shard(turned).ok
    assert export([turned], "lit-cn", tmp_path / "out", ExportSettings(), ABOUT).samples == 2


def test_a_set_without_anything_for_the_layout_is_an_error(shards, tmp_path):
    with pytest.raises(ConfigError, match="no Chinese region"):
        picture = jpeg()
        only = shard(tmp_path / "00000.tar", (record(0, picture, regions=[]), picture))
        export([only], "boxclass-cn", tmp_path / "out", ExportSettings(), ABOUT)


# And back again.


def test_finehard_comes_back_as_shards_with_its_boxes_and_negatives(shards, tmp_path):
    out, _ = made(shards, "finehard", tmp_path)
    found, records, rejects = imported("finehard", out / "jsonfiles", out / "images", tmp_path)
    assert (found.rows, found.samples, found.groups) == (7, 7, 4) and not rejects
    english = next(r for r in records if r["texts"][0]["language"] == "en")
    assert english["regions"][0]["short"] == "a red car" and english["regions"][0]["score"] == 0.5
    negatives = english["regions"][0]["negatives"]
    assert {n["family"] for n in negatives} == {"colour"} and negatives[0]["original"] in ("red", "a red")
    assert english["provenance"]["import"]["operators"] == ["import_finehard@1"]


def test_lit_cn_and_boxclass_cn_come_back(shards, tmp_path):
    out, _ = made(shards, "lit-cn", tmp_path)
    found, records, _ = imported("lit-cn", out, out, tmp_path)
    assert found.samples == 3 and records[0]["texts"][0]["text"] == "路上有一辆红色的汽车。 它闪闪发光。"
    out, _ = made(shards, "boxclass-cn", tmp_path)
    found, records, _ = imported("boxclass-cn", out, out / "images", tmp_path / "again")
    assert found.regions == 3 and records[0]["regions"][0]["short"] == "汽车"
    assert records[0]["regions"][0]["box"] == pytest.approx([0.1, 0.2, 0.5, 0.9], abs=0.001)


def test_a_boxclass_export_killed_at_its_end_gives_every_picture_its_own_number(shards, tmp_path, monkeypatch):
    """A shard that became smaller in between shifts the numbers of those behind it."""
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.exports.write_card", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(shards, "boxclass-cn", tmp_path / "out", ExportSettings(), ABOUT)
    picture = jpeg(shade=1)
    shard(shards[0], (record(1, picture, url=None), picture))
    export(shards, "boxclass-cn", tmp_path / "out", ExportSettings(), ABOUT)
    assert [p.name for p in sorted((tmp_path / "out" / "images").iterdir())] == ["000001.jpg", "000002.jpg"]
    assert (tmp_path / "out" / "images" / "000002.jpg").read_bytes() == jpeg(shade=2)


def test_the_trainer_reads_imported_shards(shards, tmp_path):
    from fgclip2_train.data.shards import find_shards, read_shard

    out, _ = made(shards, "finehard", tmp_path)
    imported("finehard", out / "jsonfiles", out / "images", tmp_path)
    counts = Counter()
    read = [
        raw for path in find_shards(str(tmp_path / "imported" / "*.tar")) for raw in read_shard(path, counts, lambda *_: True)
    ]
    assert len(read) == 7 and not any("hole" in name or "bad" in name for name in counts)
