"""Foreign layouts as they are met: each bad row, and each bad part of a good one, is one refusal, and the rest comes in."""

import json

import pytest
from imported import imported
from picture_server import picture

from pipelines.config import ConfigError
from pipelines.imports import ImportSettings, import_layout
from pipelines.sources import SourceError

WORDS = ["blue", "green", "black", "white", "pink", "grey", "brown", "yellow", "purple", "orange"]


def test_bad_rows_of_a_published_file_are_refused_one_by_one(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.jpg").write_bytes(picture(40, 20))
    (pictures / "cut.jpg").write_bytes(picture(40, 20)[:300])
    (tmp_path / "secret.jpg").write_bytes(picture(40, 20))
    negatives = {str(i): f"a {w} car" for i, w in enumerate(WORDS)}

    def row(f_path="a.jpg", **more):
        return {"f_path": f_path, "caption": "A red car on a road.", "short_caption": "a car", **more}

    def box(bbox=(0.1, 0.1, 0.5, 0.5), negs=negatives, **more):
        return {
            "bbox": list(bbox),
            "short_expr": "a red car",
            "long_expr": "a red car",
            "flag_short_neg": 1,
            "short_expr_negs": negs,
        } | more

    rows = [
        row(bbox_info=[box(), box((0.5, 0.1, 0.2, 0.9)), box((0, 0, 1, float("nan"))), box(negs={"0": "a blue car"}), "x"]),
        row("../secret.jpg"),
        row("gone.jpg"),
        row("cut.jpg"),
        {"f_path": "a.jpg"},
        row(caption=None, short_caption=["a list"]),
        row(is_cn=0, caption="一辆红色的汽车。", short_caption=None, bbox_info=None),
        "nonsense",
        row(bbox_info=[box(negs={**negatives, "3": "a red car"})]),
    ]
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(rows))
    found, records, rejects = imported("finehard", file, pictures, tmp_path, license="CC-BY-4.0")
    assert found.rows == 9 and found.samples == 3 and sum(found.reasons.values()) == 6
    whole = {r["row"]: r["reason"] for r in rejects if r["item"] is None}
    assert whole == {1: "bad_path", 2: "no_picture", 3: "bad_picture", 4: "bad_row", 5: "no_text", 7: "bad_row"}
    parts = sorted((r["row"], r["item"], r["reason"]) for r in rejects if r["item"] is not None)
    assert parts == [
        (0, "negatives[3]", "bad_negatives"),
        (0, "regions[1]", "bad_box"),
        (0, "regions[2]", "bad_box"),
        (0, "regions[4]", "bad_row"),
        (8, "negatives[0]", "bad_negatives"),
    ]
    assert [len(r["regions"]) for r in records] == [2, 0, 1] and records[1]["texts"][0]["language"] == "zh"
    assert [len(region["negatives"]) for region in records[0]["regions"]] == [10, 0]


def test_a_score_that_is_no_number_is_none(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture(40, 20))
    boxes = [
        {"bbox": [0.1, 0.1, 0.5, 0.5, score], "short_expr": "a car", "long_expr": "a car"} for score in (float("nan"), 0.5)
    ]
    (tmp_path / "a.json").write_text(
        json.dumps([{"f_path": "a.jpg", "caption": "A car.", "short_caption": "a car", "bbox_info": boxes}])
    )
    _, records, _ = imported("finehard", tmp_path / "a.json", tmp_path, tmp_path)
    assert [region["score"] for region in records[0]["regions"]] == [None, 0.5]


def test_a_file_without_records_says_so(tmp_path):
    (tmp_path / "a.json").write_text("[\n]\n")
    with pytest.raises(ConfigError, match=r"a\.json: no records"):
        imported("finehard", tmp_path / "a.json", tmp_path, tmp_path)


def test_an_endless_line_is_one_refused_row_and_the_next_is_read(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture(40, 20))
    text = tmp_path / "image_caption_x.txt"
    text.write_text("a.jpg\t一只狗。\n" + "a.jpg\t" + "狗" * 900_000 + "\n\na.jpg\t一只猫。", "utf-8")
    found, records, rejects = imported("lit-cn", text, tmp_path, tmp_path)
    assert [record["texts"][0]["text"] for record in records] == ["一只狗。", "一只猫。"]
    assert found.rows == 3 and [(r["row"], r["reason"]) for r in rejects] == [(1, "bad_row")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_lit_cn_end_as_on_any_system(end, tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture(40, 20))
    text = tmp_path / "image_caption_x.txt"
    text.write_bytes(end.join(["\ufeffa.jpg\t一只狗。", "", *(f"a.jpg\t第{n}只猫。" for n in range(4)), ""]).encode())
    found, records, _ = imported("lit-cn", text, tmp_path, tmp_path)
    assert found.rows == 5 and [r["texts"][0]["text"] for r in records] == ["一只狗。", *(f"第{n}只猫。" for n in range(4))]


def test_a_line_of_lit_cn_that_may_be_two_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture(40, 20))
    text = tmp_path / "image_caption_x.txt"
    text.write_bytes("a.jpg\t一只狗。\ra.jpg\t一只猫。\na.jpg\t一只\r鸟\t。\na.jpg\t一只\r鱼。\n".encode())
    _, records, rejects = imported("lit-cn", text, tmp_path, tmp_path)
    assert [r["texts"][0]["text"] for r in records] == ["一只 鱼。"] and [r["reason"] for r in rejects] == ["bad_row"] * 2
    text.write_text("a.jpg\t一只狗。\n", encoding="utf-16")
    with pytest.raises(SourceError, match="UTF-16; convert it to UTF-8"):
        import_layout("lit-cn", [text], tmp_path, tmp_path / "out", ImportSettings(name="x"))


@pytest.mark.parametrize("form", ["list", "inside", "lines"])
def test_finehards_records_are_a_list_an_objects_only_value_or_lines(form, tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture(40, 20))
    rows = [{"bbox_info": [], "f_path": "a.jpg", "caption": f"Car {n}.", "short_caption": None} for n in range(4)]
    lines = "\n".join(map(json.dumps, rows))
    (tmp_path / "a.json").write_text({"list": json.dumps(rows), "inside": json.dumps({"data": rows}), "lines": lines}[form])
    found, records, _ = imported("finehard", tmp_path / "a.json", tmp_path, tmp_path)
    assert found.rows == 4 and [r["texts"][0]["text"] for r in records] == [f"Car {n}." for n in range(4)]


def test_a_record_that_says_two_things_of_one_key_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture(40, 20))
    row = '{"f_path": "a.jpg", "caption": "A dog.", "short_caption": null, "caption": "%s"}'
    (tmp_path / "a.json").write_text(row % "A cat." + "\n" + row % "A dog.")
    found, _, rejects = imported("finehard", tmp_path / "a.json", tmp_path, tmp_path)
    assert found.samples == 1 and [(r["row"], r["reason"]) for r in rejects] == [(0, "bad_json")]
    assert "the key 'caption' stands twice, with two values" in rejects[0]["detail"]


def test_an_import_says_what_to_do_with_tables_of_addresses(tmp_path):
    with pytest.raises(ConfigError, match=r"manifests/sources/grit.yaml"):
        import_layout("grit", [tmp_path], tmp_path, tmp_path / "x", ImportSettings(name="x"))


def test_a_coco_file_with_odd_entries_loses_only_these(tmp_path):
    (tmp_path / "000001.jpg").write_bytes(picture(40, 20))
    box = {"image_id": 1, "bbox": [4, 4, 8, 8]}
    coco = {
        "images": [{"id": 1, "file_name": "000001.jpg", "width": 40, "height": 20}, {"id": [1], "file_name": "000001.jpg"}],
        "categories": [{"id": 1, "name": "狗"}, {"id": 2, "name": 7}],
        "annotations": [box | {"category_id": 1}, box | {"category_id": 2}, box | {"category_id": [1]}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    found, records, _ = imported("boxclass-cn", tmp_path / "coco.json", tmp_path, tmp_path)
    assert [region["short"] for region in records[0]["regions"]] == ["狗"]
    assert found.parts == {"bad_text": 2} and found.reasons == {"no_text": 1}


IMAGE = {"id": 1, "file_name": "a.jpg", "width": 40, "height": 20}
CATEGORY = {"id": 1, "name": "狗"}
BOX = {"image_id": 1, "category_id": 1, "bbox": [4, 4, 8, 8]}


def take(tmp_path, images=(IMAGE,), categories=(CATEGORY,), annotations=(BOX,)):
    """A COCO file over one picture, imported."""
    (tmp_path / "a.jpg").write_bytes(picture(40, 20))
    coco = {"images": [*images], "categories": [*categories], "annotations": [*annotations]}
    (tmp_path / "coco.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(coco, indent=1).replace("\n", "\r\n").encode())
    return imported("boxclass-cn", tmp_path / "coco.json", tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (
            json.dumps({"images": [IMAGE], "annotations": [BOX]})[:-1].encode() + b', "annotations": []}',
            "'annotations' stands twice",
        ),
        (json.dumps({"images": [IMAGE]}).encode("utf-16"), "UTF-16; convert it to UTF-8"),
    ],
)
def test_a_coco_file_that_may_mean_two_things_is_refused(data, why, tmp_path):
    (tmp_path / "coco.json").write_bytes(data)
    with pytest.raises(SourceError, match=why):
        import_layout("boxclass-cn", [tmp_path / "coco.json"], tmp_path, tmp_path / "out", ImportSettings(name="x"))


def test_an_annotation_of_no_image_is_a_refused_row_behind_the_images(tmp_path):
    strays = [None, "x", {"category_id": 1}, BOX | {"image_id": None}, BOX | {"image_id": 2}]
    found, _, rejects = take(tmp_path, annotations=[*strays, BOX])
    assert (found.rows, found.samples, found.regions) == (6, 1, 1) and found.reasons == {"bad_annotation": 5}
    assert [(r["row"], r["item"]) for r in rejects] == [(row, None) for row in range(1, 6)]
    assert [r["detail"] for r in rejects[:3]] == [
        "annotations[0]: NoneType instead of an object",
        "annotations[1]: str instead of an object",
        "annotations[2]: 0 images have the id None",
    ]


def test_a_category_that_is_no_object_or_has_two_names_costs_its_boxes_alone(tmp_path):
    categories = [None, CATEGORY, {"id": 2, "name": "猫"}, {"id": 2, "name": "马"}, {"name": "鸟"}, CATEGORY]
    boxes = [BOX, BOX | {"category_id": 2}, BOX | {"category_id": 3}, BOX | {"category_id": None}]
    found, records, rejects = take(tmp_path, categories=categories, annotations=boxes)
    assert [region["short"] for region in records[0]["regions"]] == ["狗"] and found.parts == {"bad_text": 3}
    assert rejects[0]["detail"] == "category 2 has no usable name"


def test_boxes_of_an_id_that_two_images_have_are_nobodys(tmp_path):
    images = [IMAGE, IMAGE | {"id": 2}, IMAGE | {"id": 2, "file_name": "b.jpg"}]
    found, _, rejects = take(tmp_path, images, annotations=[BOX, BOX | {"image_id": 2}])
    assert found.samples == 1 and found.reasons == {"no_text": 2, "bad_annotation": 1}
    assert rejects[-1]["detail"] == "annotations[1]: 2 images have the id 2"


def test_ids_and_sides_may_be_numbers_of_any_writing(tmp_path):
    images = [{"id": 1.0, "file_name": "a.jpg", "width": "40", "height": 20.0}]
    boxes = [BOX | {"image_id": "1", "bbox": ["4", 4.0, 8, 8]}, BOX | {"category_id": 1.0}]
    assert take(tmp_path, images, annotations=boxes)[0].regions == 2


def test_a_box_that_is_none_is_refused_alone_and_a_row_without_another_says_why(tmp_path):
    nan, huge = float("nan"), 10**400
    bad = [
        None,
        {},
        [1, 2, 3],
        [nan, 1, 2, 3],
        [huge, 1, 2, 3],
        [8, 8, -4, 4],
        [-8, 0, 10, 10],
        [0, 0, 0, 0],
        [1e308, 0, 1e308, 1],
    ]
    images = [IMAGE, IMAGE | {"id": 2, "width": nan}]
    boxes = [BOX, *(BOX | {"bbox": box} for box in bad), BOX | {"image_id": 2}]
    found, _, rejects = take(tmp_path, images, annotations=boxes)
    assert found.regions == 1 and found.parts == {"bad_box": len(bad)} and found.reasons == {"no_text": 1}
    assert rejects[-1]["detail"] == "no usable box (regions[0]: bad_box)"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ('{"images": [', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "a list instead of an object"),
        ('{"images": []}', "no 'categories'"),
        ('{"images": null, "categories": [], "annotations": []}', "'images' is not a list"),
    ],
)
def test_a_file_that_is_no_coco_file_says_what_it_is(text, why, tmp_path):
    (tmp_path / "coco.json").write_text(text)
    with pytest.raises(SourceError, match=rf"coco\.json: .*{why}"):
        imported("boxclass-cn", tmp_path / "coco.json", tmp_path, tmp_path)


def test_a_name_whose_bytes_are_no_text_costs_its_boxes_alone(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture(40, 20))
    coco = {
        "images": [IMAGE],
        "categories": [CATEGORY, {"id": 2, "name": "XX"}],
        "annotations": [BOX, BOX | {"category_id": 2}],
    }
    (tmp_path / "coco.json").write_bytes(json.dumps(coco).encode().replace(b"XX", b"\xff\xfe"))
    found, *_ = imported("boxclass-cn", tmp_path / "coco.json", tmp_path, tmp_path)
    assert found.regions == 1 and found.parts == {"bad_text": 1}


@pytest.mark.parametrize("lines", [False, True])
def test_a_first_record_that_is_too_long_is_one_refused_row(lines, tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture(40, 20))
    rows = [{"f_path": "a.jpg", "caption": "x" * (5 << 20), "short_caption": ""}]
    rows.append({"f_path": "a.jpg", "caption": "A car.", "short_caption": "a car"})
    (tmp_path / "a.json").write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))
    found, _, rejects = imported("finehard", tmp_path / "a.json", tmp_path, tmp_path)
    assert (found.rows, found.samples) == (2, 1)
    assert [(r["row"], r["reason"]) for r in rejects] == [(0, "bad_row")] and "bytes > 4194304" in rejects[0]["detail"]
