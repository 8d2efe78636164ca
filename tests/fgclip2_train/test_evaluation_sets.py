"""The public sets' layouts, the protocols' choices, damaged input, and the same numbers from one process and from two."""

import base64
import io
import json
import math
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from make_shards import write_scenes
from PIL import Image

from fgclip2_train.data.tokens import train_tokenizer
from fgclip2_train.evaluation import pictures as encoding
from fgclip2_train.evaluation.captions import CaptionsTask, read_captions
from fgclip2_train.evaluation.encode import Encoder
from fgclip2_train.evaluation.run import Evaluation, evaluate
from fgclip2_train.evaluation.scores import recall, sigmoid_scores
from fgclip2_train.evaluation.settings import CaptionsSet
from fgclip2_train.evaluation.suites import load_suite
from fgclip2_train.evaluation.table import table
from fgclip2_train.evaluation.task import Folder
from fgclip2_train.model.configuration import sized
from fgclip2_train.model.initialise import from_scratch

TINY = {"width": 16, "layers": 1, "heads": 2, "mlp": 16, "positions": 24, "keep": 20}
ABOUT = {"checkpoint": "x", "step": 3, "stage": 2, "preset": "tiny"}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    texts = train_tokenizer(["a red circle", "a dog and a cat", "红色圆形"], 400)
    model = from_scratch(sized(**TINY, vocabulary=len(texts)), 0, 2.3, -6.0).eval()
    return Encoder(model, texts, 16, batch=3)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Six noisy pictures 0.jpg … 5.jpg, all different."""
    chance = random.Random(0)
    for number in range(6):
        image = Image.frombytes("RGB", (40 + 4 * number, 36), chance.randbytes((40 + 4 * number) * 36 * 3))
        image.resize((200 + 20 * number, 180)).save(tmp_path / f"{number}.jpg", quality=95)
    return tmp_path


def run(encoder: Encoder, root: Path, *overrides: str, suite=None, **sets) -> dict:
    settings = load_suite(suite, [f"root={root}", *overrides], sets)
    return Evaluation(settings, encoder.patches)(encoder, ABOUT)


def one(encoder: Encoder, root: Path, *overrides: str, **values) -> dict:
    return run(encoder, root, *overrides, it=values)["sets"]["it"]


def dump(file: Path, value) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, ensure_ascii=False))
    return file.name


def lines(file: Path, rows: list) -> str:
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    return file.name


# -- captions ---------------------------------------------------------------------------------------------------------------


def test_caption_layouts_are_told_by_their_files(tmp_path):
    (tmp_path / "lit.txt").write_text("a/0.jpg\t一张 图片\u2028两行\n\nb.png\tx\ty\nc.TIF\tz\r\n")
    (tmp_path / "cna.txt").write_text("12#0\t一个孩子\n12#1 跑过\nCOCO_val2014_000000000009#zhm#0\t狗\n")
    dump(
        tmp_path / "coco.json",
        {
            "images": [{"id": 2, "file_name": "2.jpg"}, {"id": 1, "file_name": "1.jpg"}],
            "annotations": [{"image_id": 2, "caption": "b"}, {"image_id": 1, "caption": "a"}, {"image_id": 2, "caption": "c"}],
        },
    )
    karpathy = [
        {"filename": f"{n}.jpg", "filepath": "val2014", "split": split, "sentences": [{"raw": "a"}]}
        for n, split in enumerate(("test", "train"))
    ]
    dump(tmp_path / "karpathy.json", {"images": karpathy, "dataset": "coco"})
    dump(tmp_path / "pairs.json", [{"image": "f/1.jpg", "caption": ["a", "b"]}, {"image": "f/2.jpg", "caption": "c"}])
    dump(tmp_path / "share.json", [{"image": "sam/images/1.jpg", "conversations": [{"value": "?"}, {"value": "long"}]}])
    rows = [
        {"image_file": "t.jpg", "description": "d", "split": "test"},
        {"image_file": "u.jpg", "description": "e", "split": "train"},
    ]
    lines(tmp_path / "docci_descriptions.jsonlines", rows)
    dump(tmp_path / "dci/1.json", {"image": "sa_1.jpg", "extra_caption": "long", "short_caption": "s"})

    def found(name):
        return read_captions(tmp_path / name, "test")[0]

    assert found("lit.txt") == [("a/0.jpg", "一张 图片\u2028两行"), ("b.png", "x y"), ("c.TIF", "z")]
    assert found("cna.txt") == [("12.jpg", "一个孩子"), ("12.jpg", "跑过"), ("COCO_val2014_000000000009.jpg", "狗")]
    assert found("coco.json") == [("1.jpg", "a"), ("2.jpg", "b"), ("2.jpg", "c")]
    assert found("karpathy.json") == [("val2014/0.jpg", "a")]
    assert found("pairs.json") == [("f/1.jpg", "a"), ("f/1.jpg", "b"), ("f/2.jpg", "c")]
    assert found("share.json") == [("sam/images/1.jpg", "long")]
    assert found("docci_descriptions.jsonlines") == [("t.jpg", "d")]
    assert found("dci") == [("sa_1.jpg", "long")]
    for end in ("\n", "\r\n", "\r"):
        (tmp_path / "ends.txt").write_bytes(end.join(("a.jpg\tone", "b.jpg\ttwo", "")).encode())
        assert found("ends.txt") == [("a.jpg", "one"), ("b.jpg", "two")]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("c.txt", "0.jpg\tred\n1.jpg no tab", r"c\.txt:2: a line is PICTURE<TAB>CAPTION"),
        ("c.txt", "0.jpg\tred\r1.jpg\tblue\n2.jpg\tgreen\n", r"c\.txt:1: a line that holds a carriage return"),
        ("c.json", '{"images": [', "not JSON"),
        ("c.json", "[" * 100_000, r"c\.json: not JSON \(maximum recursion"),
        ("c.jsonl", '{"image_file": "a.jpg", "description": ' + "[" * 100_000, r"c\.jsonl:1: .*maximum recursion"),
        ("c.json", '[{"image": "0.jpg", "caption": {"en": "a"}}]', "a row is not as its layout has it"),
        (
            "c.json",
            '{"images": [], "annotations": [{"image_id": 7, "caption": "x"}]}',
            "image_id 7, which is not among its images",
        ),
        (
            "c.json",
            '{"images": [{"id": 7, "file_name": "a"}, {"id": 7, "file_name": "b"}], "annotations": []}',
            "two of its images have the id 7",
        ),
        ("c.json", '{"images": [{"filename": "a.jpg", "split": "val", "sentences": []}]}', "no split 'test'; it has val"),
        ("c.json", "[{}]", "a row is not as its layout has it"),
        ("c.json", '[{"image": "0.jpg", "caption": ["a", null]}]', "a row is not as its layout has it .*not '0.jpg' and None"),
        ("c.json", '[{"image": "0.jpg", "caption": "\\ud83d"}]', "half a surrogate pair"),
        ("c.json", "3", "neither COCO's, Karpathy's nor a list"),
        ("c.jsonl", '{"image_file": "a.jpg"}', r"c\.jsonl:1: no 'description' there"),
        ("c.txt", "", "no caption in it"),
        ("c.txt", "\ufffe".encode("utf-16").decode("latin-1"), "tab"),
        ("c.xml", "<a/>", "captions come as"),
    ],
)
def test_a_damaged_caption_file_is_an_error_that_names_it(encoder, folder, name, text, said):
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        one(encoder, folder, kind="captions", file=name)


def test_missing_and_damaged_pictures_and_empty_captions_are_counted(encoder, folder):
    (folder / "1.jpg").write_bytes((folder / "1.jpg").read_bytes()[:300])
    no_name = "x" * 5000  # longer than a file's name can be
    (folder / "c.txt").write_text(f"0.jpg\tred\n1.jpg\tblue\ngone.jpg\tgreen\n2.jpg\t \n3.jpg\tdog\n{no_name}\tcat")
    found = one(encoder, folder, kind="captions", file="c.txt")
    assert found["skipped"] == {"picture missing": 1, "picture cannot be decoded": 2, "caption empty": 1}
    assert (found["metrics"]["pictures"], found["metrics"]["texts"]) == (2, 2)


def test_a_set_without_a_readable_picture_has_an_error_and_the_others_their_numbers(encoder, folder):
    (folder / "c.txt").write_text("gone.jpg\tred")
    (folder / "d.txt").write_text("0.jpg\tred")
    captions = {"kind": "captions"}
    result = run(encoder, folder, bad=captions | {"file": "c.txt"}, good=captions | {"file": "d.txt"})
    assert "none of 1 pictures is readable" in result["sets"]["bad"]["error"]
    assert result["sets"]["good"]["headline"] == result["score"] == 1.0
    assert "bad: no result" in table(result)


def test_any_picture_with_the_same_text_is_right_unless_the_protocol_says_otherwise(encoder, folder):
    (folder / "c.txt").write_text("".join(f"{n}.jpg\t{'A dog' if n % 2 else 'a Dog'}\n" for n in range(6)))
    right = one(encoder, folder, kind="captions", file="c.txt")["metrics"]
    assert (right["image_to_text"], right["text_to_image"], right["texts"]) == (1.0, 1.0, 1)
    wrong = one(encoder, folder, kind="captions", file="c.txt", same_text="wrong")["metrics"]
    assert wrong["texts"] == 6 and wrong["image_to_text"] == wrong["text_to_image"] == pytest.approx(1 / 6)


def test_copies_of_a_picture_have_one_vector_wherever_they_stand_and_other_parts_of_it_have_their_own(encoder, folder):
    for number in range(16):
        (folder / f"copy{number:02}.jpg").write_bytes((folder / "0.jpg").read_bytes())
    (folder / "c.txt").write_text("".join(f"copy{n:02}.jpg\tred {n}\n{n % 6}.jpg\tdog {n}\n" for n in range(16)))
    wanted = CaptionsTask("it", CaptionsSet(file="c.txt"), folder, 16).wanted
    seen = encoding.encode_all(encoder, wanted, 2)
    assert seen is not None
    copies = [number for number, one in enumerate(wanted) if "copy" in one.picture.path]
    assert len(copies) == 16 and (seen.whole[copies] == seen.whole[copies[0]]).all()
    crops = [encoding.Wanted(wanted[0].picture, wanted[0].view, crop=(0, 0, side, side)) for side in (50, 90, 130)]
    apart = encoding.encode_all(encoder, crops, 2)
    assert apart is not None and len(apart.whole.unique(dim=0)) == 3


def test_first_five_captions_are_the_files_first_five_in_the_released_protocol(encoder, folder):
    """A picture's repeated caption counts among them there; where equal texts are one answer it is no second one."""
    (folder / "c.txt").write_text("".join(f"{n}.jpg\t{text}\n" for n in range(2) for text in (f"a {n}", f"a {n}", f"b {n}")))
    settings = {same: CaptionsSet(file="c.txt", captions_per_picture=2, same_text=same) for same in ("wrong", "right")}
    texts = {same: CaptionsTask("it", choice, folder, 16).texts for same, choice in settings.items()}
    assert [text for _, text in texts["wrong"]] == ["a 0", "a 0", "a 1", "a 1"]
    assert [text for _, text in texts["right"]] == ["a 0", "b 0", "a 1", "b 1"]


def test_sigmoid_ranking_makes_the_best_equal_and_lets_the_last_of_them_win():
    pictures = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1]]), dim=-1)
    texts, pairs = pictures.clone(), [(0, 0), (1, 1)]
    assert recall(pictures, texts, pairs)["image_to_text"] == 1.0
    saturated = recall(pictures, texts, pairs, sigmoid_scores(math.log(112.0), -16.0))
    assert saturated["image_to_text"] == saturated["text_to_image"] == 0.5  # both are 1 in float32, and the second is taken
    assert recall(pictures, texts, pairs, sigmoid_scores(math.log(10.0), -10.0))["image_to_text"] == 1.0


def test_case_is_kept_only_where_asked(encoder, folder):
    (folder / "c.txt").write_text("0.jpg\tA Dog\n1.jpg\ta dog")
    assert one(encoder, folder, kind="captions", file="c.txt", lower=True)["metrics"]["texts"] == 1
    assert one(encoder, folder, kind="captions", file="c.txt", lower=False)["metrics"]["texts"] == 2


# -- MUGE -------------------------------------------------------------------------------------------------------------------


def table_of_pictures(folder: Path) -> str:
    alphabets = base64.b64encode, base64.urlsafe_b64encode
    rows = [f"{100 + n}\t{alphabets[n % 2]((folder / f'{n}.jpg').read_bytes()).decode()}" for n in range(6)]
    (folder / "imgs.tsv").write_text("\n".join([*rows, "200\t%%%not base64%%%"]) + "\n")
    return "imgs.tsv"


def test_queries_find_pictures_of_a_base64_table(encoder, folder):
    rows = [
        {"query_id": 1, "query_text": "狗", "item_ids": [100, 103, 999]},
        {"text_id": 2, "text": "cat", "image_ids": ["101"]},
    ]
    rows += [{"query_id": 3, "query_text": "x", "item_ids": []}, {"query_id": 4, "query_text": "y", "item_ids": [998]}]
    rows += [{"query_id": 5, "query_text": " ", "item_ids": [100]}]
    queries = lines(folder / "q.jsonl", rows)
    found = one(encoder, folder, kind="muge", file=queries, pictures=table_of_pictures(folder))
    assert (found["metrics"]["pictures"], found["metrics"]["texts"]) == (6, 2)
    assert found["metrics"]["text_to_image_at_10"] == 1.0
    skipped = {
        "query without a picture": 1,
        "query's pictures not in the table": 1,
        "query empty": 1,
        "picture cannot be decoded": 1,
    }
    assert found["skipped"] == skipped


def test_pictures_of_a_table_have_the_vectors_of_their_files(encoder, folder):
    table_of_pictures(folder)
    settings = load_suite(None, [f"root={folder}"], {"m": {"kind": "muge", "file": "q.jsonl", "pictures": "imgs.tsv"}})
    lines(folder / "q.jsonl", [{"query_text": "a", "item_ids": [102]}])
    task = Evaluation(settings, 16).tasks[0]
    in_table = encoding.encode_all(encoder, task.wanted[:6], 2)
    files = [encoding.Wanted(encoding.File(str(folder / f"{n}.jpg")), task.view) for n in range(6)]
    assert torch.equal(in_table.whole, encoding.encode_all(encoder, files, 2).whole)


def test_a_picture_is_found_however_its_accents_are_written(tmp_path):
    composed, apart = "caf\u00e9.jpg", "cafe\u0301.jpg"
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / composed).touch()
    (tmp_path / "two" / apart).touch()
    for name in (composed, apart):
        assert Folder(tmp_path / "one")(name).path == str(tmp_path / "one" / composed)
        assert Folder(tmp_path / "two")(name).path == str(tmp_path / "two" / apart)


def test_an_empty_row_of_a_table_is_no_picture_and_not_the_whole_table(encoder, folder):
    queries = lines(folder / "q.jsonl", [{"query_text": "a", "item_ids": [1, 2]}])
    data = (folder / "0.jpg").read_bytes()
    (folder / "imgs.tsv").write_bytes(b"1\t" + base64.b64encode(data) + b"\n2\t\n")
    task = Evaluation(
        load_suite(None, [f"root={folder}"], {"m": {"kind": "muge", "file": "q.jsonl", "pictures": "imgs.tsv"}}), 16
    ).tasks[0]
    assert [wanted.picture.read() for wanted in task.wanted] == [data, b""]
    found = one(encoder, folder, kind="muge", file=queries, pictures="imgs.tsv")
    assert found["skipped"] == {"picture cannot be decoded": 1} and found["metrics"]["pictures"] == 1


@pytest.mark.parametrize(
    ("queries", "pictures", "said"),
    [
        ('{"query_text": "a"}', "1\tAAAA", "q.jsonl:1: no 'image_ids' there"),
        ("{", "1\tAAAA", "q.jsonl:1: not a row"),
        ('{"query_text": "a", "item_ids": "12"}', "1\tAAAA", "q.jsonl:1: not a row .*a list of pictures"),
        ('{"query_text": "a", "item_ids": [1]}', "1 AAAA", "imgs.tsv:1: a line is ID<TAB>BASE64"),
        ('{"query_text": "a", "item_ids": [5]}', "1\tAAAA", "no query with a picture"),
        ('{"query_text": "a", "item_ids": [1]}', "1\tAAAA\n\udcff\tAAAA", r"imgs\.tsv:2: .*this id is no text"),
        ('{"query_text": "a", "item_ids": [5]}', "", "no line of id<TAB>base64"),
    ],
)
def test_a_damaged_query_set_is_an_error_that_names_it(encoder, folder, queries, pictures, said):
    (folder / "q.jsonl").write_text(queries)
    (folder / "imgs.tsv").write_bytes(pictures.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=said):
        one(encoder, folder, kind="muge", file="q.jsonl", pictures="imgs.tsv")


# -- boxes ------------------------------------------------------------------------------------------------------------------


def instances(**changes) -> dict:
    boxes = [(0, [10, 10, 50, 60], 3), (0, [100, 20, 90, 100], 8), (1, [0, 0, 220, 180], 3)]
    return {
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(6)],
        "annotations": [{"image_id": image, "bbox": box, "category_id": label} for image, box, label in boxes],
        "categories": [{"id": 3, "name": "dog"}, {"id": 8, "name": "alarm_clock"}],
        **changes,
    }


def test_boxes_are_classified_with_and_without_prompts(encoder, folder):
    name = dump(folder / "boxes.json", instances())
    (folder / "prompts.txt").write_text("a photo of {}.\n\nthe {}\n")
    for templates in (None, ["一个{}"], "prompts.txt"):
        metrics = one(encoder, folder, kind="boxes", file=name, templates=templates)["metrics"]
        assert (metrics["boxes"], metrics["classes"]) == (3, 2) and metrics["top5"] == 1.0


def test_every_bad_box_is_counted_by_its_reason(encoder, folder):
    good = instances()["annotations"]
    bad = [
        {"image_id": 0, "bbox": [1, 2, 3], "category_id": 3},
        {"image_id": 0, "bbox": [1, 2, None, 4], "category_id": 3},
        {"image_id": 99, "bbox": [1, 2, 3, 4], "category_id": 3},
        {"image_id": 0, "bbox": [1, 2, 3, 4], "category_id": 5},
        {"image_id": 0, "bbox": [1, 2, 3, 4], "category_id": 3, "iscrowd": 1},
        {"image_id": 2, "bbox": [5000, 10, 20, 20], "category_id": 3},
        {"image_id": 2, "bbox": [10, 10, 0, 20], "category_id": 3},
        {"image_id": 3, "bbox": [-10, -10, 5000, 5000], "category_id": 3},  # overhangs: cut to the picture
    ]
    name = dump(folder / "boxes.json", instances(annotations=good + bad))
    found = one(encoder, folder, kind="boxes", file=name)
    assert found["skipped"] == {
        "box is not four numbers": 2,
        "picture not listed": 1,
        "category unknown": 1,
        "box around a crowd": 1,
        "box without area in its picture": 2,
    }
    assert found["metrics"]["boxes"] == 4
    kept = one(encoder, folder, kind="boxes", file=name, crowd="keep", empty="count")
    assert kept["metrics"]["boxes"] == 7 and "box around a crowd" not in kept["skipped"]


def test_a_category_is_found_by_id_or_by_position(encoder, folder):
    name = dump(folder / "boxes.json", instances(categories=[{"id": 8, "name": "猫"}, {"id": 1, "name": "狗"}]))
    by_id = one(encoder, folder, kind="boxes", file=name)
    assert by_id["metrics"]["boxes"] == 1 and by_id["skipped"] == {"category unknown": 2}
    annotations = [{"image_id": 0, "bbox": [10, 10, 50, 60], "category_id": number} for number in (1, 2)]
    name = dump(
        folder / "cn.json", instances(categories=[{"id": 2, "name": "a"}, {"id": 1, "name": "b"}], annotations=annotations)
    )
    top = {way: one(encoder, folder, kind="boxes", file=name, category=way)["metrics"]["top1"] for way in ("id", "position")}
    assert top == {"id": 0.5, "position": 0.5}  # the same box twice under two names: one of them is right either way


def test_lvis_names_its_pictures_by_address(encoder, folder):
    (folder / "val2017").mkdir()
    (folder / "0.jpg").rename(folder / "val2017/0.jpg")
    images = [{"id": 0, "coco_url": "http://x/val2017/0.jpg"}, {"id": 1, "coco_url": "http://x/train2017/9.jpg"}]
    name = dump(folder / "lvis.json", instances(images=images))
    found = one(encoder, folder, kind="boxes", file=name)
    assert found["metrics"]["boxes"] == 2 and found["skipped"] == {"picture missing": 1}
    inside = one(encoder, folder, kind="boxes", file=name, pictures="val2017")  # the last part of the address is enough
    assert inside["metrics"]["boxes"] == 2


def test_cut_out_boxes_are_pictures_of_their_own(encoder, folder):
    annotations = [{"image_id": 0, "bbox": box, "category_id": 3} for box in ([20, 30, 100, 90], [900, 0, 5, 5])]
    name = dump(folder / "boxes.json", instances(annotations=annotations))
    settings = load_suite(None, [f"root={folder}"], {"c": {"kind": "boxes", "file": name, "regions": "crop", "walk": "short"}})
    task = Evaluation(settings, 16).tasks[0]
    seen = encoding.encode_all(encoder, task.wanted, 1)
    cut = Image.open(folder / "0.jpg").convert("RGB").crop((20, 30, 120, 120))
    torch.testing.assert_close(seen.whole[0], encoder.pictures([cut])[0][0], rtol=0, atol=1e-5)
    found = one(encoder, folder, kind="boxes", file=name, regions="crop", walk="short")
    assert found["metrics"]["boxes"] == 1 and found["skipped"] == {"box without area in its picture": 1}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": None}, "no list of objects under 'images'"),
        ({"categories": []}, "list of categories is empty"),
        ({"categories": [{"id": 3}]}, r"boxes\.json: categories: no 'name' there"),
        ({"categories": [{"id": 3, "name": None}]}, r"boxes\.json: categories: not a row of this layout"),
        ({"categories": [{"id": 3, "name": " "}]}, r"boxes\.json: categories: one of them has an empty name"),
        ({"categories": [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]}, r"boxes\.json: categories: two of them have one id"),
        (
            {"annotations": [{"image_id": [0], "bbox": [0, 0, 9, 9], "category_id": 3}]},
            r"boxes\.json: an id is a number or a text",
        ),
        ({"annotations": []}, "no box to classify"),
        (
            {"images": [{"id": 0, "file_name": "0.jpg"}, {"id": 0, "file_name": "1.jpg"}]},
            r"boxes\.json: two of its images have the id 0",
        ),
        ({"images": [{"id": 0}, {"id": 1}]}, "has neither file_name nor coco_url"),
    ],
)
def test_a_damaged_box_file_is_an_error_that_names_it(encoder, folder, changes, said):
    with pytest.raises(ValueError, match=said):
        one(encoder, folder, kind="boxes", file=dump(folder / "boxes.json", instances(**changes)))


def test_exif_turns_pictures_only_where_asked(encoder, folder):
    image = Image.open(folder / "3.jpg")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(folder / "turned.jpg", exif=exif)
    wanted = [
        encoding.Wanted(encoding.File(str(folder / "turned.jpg")), encoding.View(16, upright, "as_is"))
        for upright in (True, False)
    ]
    grids = [encoding.prepare(one).grid for one in wanted]
    assert grids[0] == grids[1][::-1] and grids[0] != grids[1]


# -- FG-OVD -----------------------------------------------------------------------------------------------------------------


def group(name: str, negatives: int, **changes) -> dict:
    row = {"img_path": name, "bbox": [5, 5, 50, 40], "pos_expression": ["a red circle"], "test_type": "hard"}
    return row | {"neg_expression": [f"a blue circle {n}" for n in range(negatives)], **changes}


def test_fgovd_counts_groups_of_any_size_and_what_is_left_out(encoder, folder):
    rows = [group("0.jpg", 10), group("0.jpg", 2, test_type="easy"), group("gone.jpg", 10), group("0.jpg", 0)]
    rows += [group("0.jpg", 3, bbox=[7000, 5, 50, 40]), group("0.jpg", 3, bbox=["a", 5, 50, 40])]
    rows += [group("0.jpg", 3, pos_expression=[" "])]
    found = one(encoder, folder, kind="fgovd", file=lines(folder / "rows.jsonl", rows))
    assert found["metrics"]["groups"] == 2 and set(found["metrics"]["by_type"]) == {"hard", "easy", "ten negatives"}
    assert found["skipped"] == {
        "picture missing": 1,
        "group without negatives": 1,
        "group with an empty text": 1,
        "box is not four numbers": 1,
        "box without area in its picture": 1,
    }


def test_a_tied_positive_is_a_hit_in_the_released_protocol_only(encoder, folder):
    rows = [group("0.jpg", 0, neg_expression=["A Red Circle", "a red circle"])]
    name = lines(folder / "rows.jsonl", rows)
    accuracy = {
        ties: one(encoder, folder, kind="fgovd", file=name, ties=ties)["metrics"]["accuracy"] for ties in ("hit", "miss")
    }
    assert accuracy == {"hit": 1.0, "miss": 0.0}


@pytest.mark.parametrize(
    "row",
    [
        '{"img_path": "0.jpg"}',
        "{",
        '{"img_path": "0.jpg", "bbox": [], "pos_expression": [], "neg_expression": []}',
        '{"img_path": "0.jpg", "bbox": [0, 0, 9, 9], "pos_expression": "red", "neg_expression": ["blue"]}',
        '{"img_path": "0.jpg", "bbox": [0, 0, 9, 9], "pos_expression": ["red"], "neg_expression": "blue"}',
    ],
)
def test_a_damaged_fgovd_row_is_an_error_with_its_line(encoder, folder, row):
    (folder / "rows.jsonl").write_text(json.dumps(group("0.jpg", 3)) + "\n" + row)
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: "):
        one(encoder, folder, kind="fgovd", file="rows.jsonl")


# -- classes ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def classes(folder) -> Path:
    for number in range(6):
        (folder / f"val/{number % 3 * 5}").mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").rename(folder / f"val/{number % 3 * 5}/{number}.jpg")
    return folder


def test_folders_are_classes_in_the_order_of_their_numbers(encoder, classes):
    (classes / "names.txt").write_text("狗\n猫\n鸟\n")
    settings = load_suite(None, [f"root={classes}"], {"it": {"kind": "classes", "pictures": "val", "classes": "names.txt"}})
    task = Evaluation(settings, 16).tasks[0]
    assert [label for label in task.labels.tolist()] == [0, 0, 1, 1, 2, 2] and task.classes.rows[2] == ["鸟"]  # 0, 5, 10
    found = one(encoder, classes, kind="classes", pictures="val", classes="names.txt", templates=["一张{}的照片", "{}"])
    assert (found["metrics"]["pictures"], found["metrics"]["classes"], found["metrics"]["top5"]) == (6, 3, 1.0)


def test_names_come_by_folder_too_and_unnamed_folders_are_counted(encoder, classes):
    dump(classes / "names.json", {"10": ["bird", "fowl"], "0": "dog"})
    found = one(encoder, classes, kind="classes", pictures="val", classes="names.json")
    assert found["metrics"]["pictures"] == 4 and found["skipped"] == {"class unknown": 2}
    (classes / "names.txt").write_text("0\tdog\n5\tcat\n10\tbird\n")
    assert one(encoder, classes, kind="classes", pictures="val", classes="names.txt")["metrics"]["classes"] == 3


def test_the_last_smaller_batch_is_dropped_as_officially_where_asked(encoder, classes):
    found = one(encoder, classes, kind="classes", pictures="val", drop_last=4)
    assert found["metrics"]["pictures"] == 4 and found["skipped"] == {"in the last, smaller batch": 2}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"classes": "names.txt"}, "2 names for the 3 folders"),
        ({"classes": "imagenet"}, "1000 names for the 3 folders"),
        ({"templates": ["no place"]}, "must hold {} once"),
        ({"templates": []}, "no template there"),
        ({"pictures": "."}, "no picture of a known class"),
        ({"pictures": "val/0"}, "no class folders"),
        ({"drop_last": 100}, "no picture of a known class"),
    ],
)
def test_classes_that_cannot_be_told_are_an_error(encoder, classes, values, said):
    (classes / "names.txt").write_text("dog\ncat\n")
    with pytest.raises(ValueError, match=said):
        one(encoder, classes, **{"kind": "classes", "pictures": "val"} | values)


# -- settings ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["sets.lit_cn.lowr=true"], "sets.lit_cn.lowr: no such setting. Did you mean sets.lit_cn.lower"),
        (["sets.lit_cn.rank_by=cosin"], "sets.lit_cn.rank_by: must be .*Did you mean cosine"),
        (["patchs=16"], "patchs: no such setting. Did you mean patches"),
        (["only=[lit_c]"], "only: no set 'lit_c'. Did you mean lit_cn"),
        (["sets.mine.file=x.json"], "sets.mine: kind is None"),
        (["sets.mine.kind=captoins"], "sets.mine: kind is 'captoins'.*Did you mean captions"),
        (["sets.mine.kind=shards", "sets.mine.shards=x", "sets.mine.limit=0"], r"sets\.mine\.limit: must be greater"),
        (["sets.shards.kind=shards", "sets.shards.shards=x", "sets.shards.limit=0"], r"sets\.shards\.limit: must be greater"),
        (["sets=3"], r"sets: must be a mapping \(found 3\)"),
        (["defaults=3"], r"defaults: must be a mapping \(found 3\)"),
        (["defaults.captions=3"], r"defaults\.captions: must be a mapping"),
        (["sets.mine.kind=boxes"], "sets.mine.file: not given"),
        (["lower"], "is not a setting: write key.sub=value"),
        (["defaults.captoins.lower=false"], "no such kind of set. Did you mean captions"),
    ],
)
def test_a_wrong_setting_is_named_with_the_nearest_right_one(overrides, said):
    with pytest.raises(ValueError, match=said):
        load_suite("official", overrides)
    with pytest.raises(ValueError, match=r"no suite 'oficial'. Did you mean official"):
        load_suite("oficial")


def test_suites_that_extend_each_other_or_are_no_text_are_refused_with_their_name(tmp_path):
    (tmp_path / "a.yaml").write_text(f"extends: {tmp_path / 'b.yaml'}")
    (tmp_path / "b.yaml").write_text(f"extends: {tmp_path / 'a.yaml'}")
    with pytest.raises(ValueError, match=r"b\.yaml: extends .*a\.yaml, which extends it"):
        load_suite(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_bytes(b"protocol: \xff")
    with pytest.raises(ValueError, match=r"b\.yaml: not YAML"):
        load_suite(tmp_path / "b.yaml")


def test_suites_hold_the_released_choices_and_the_differences_from_them():
    official, ours = load_suite("official"), load_suite("fineloom")
    assert official.sets.keys() == ours.sets.keys()
    assert (official.sets["lit_cn"].lower, ours.sets["lit_cn"].lower) == (False, True)
    assert (official.sets["imagenet"].drop_last, official.sets["imagenet"].patches) == (128, 1024)
    assert (official.sets["fgovd_hard"].ties, ours.sets["fgovd_hard"].ties) == ("hit", "miss")
    assert official.sets["boxclass_cn"].templates is None and official.sets["coco_boxes"].templates == "openai80"
    assert load_suite("official", ["defaults.captions.lower=false"]).sets["coco"].lower is False


def test_sets_that_are_not_there_are_left_out_or_an_error_as_asked(encoder, folder):
    (folder / "LIT-CN").mkdir()
    (folder / "0.jpg").rename(folder / "LIT-CN/0.jpg")
    (folder / "LIT-CN/image_caption_long_cn.txt").write_text("0.jpg\t这张图片展示了一只狗")
    result = run(encoder, folder, "patches=16", suite="official")
    assert list(result["sets"]) == ["lit_cn"] and "coco" in result["absent"] and "not there: " in table(result)
    with pytest.raises(FileNotFoundError, match="set share1k: no such"):
        run(encoder, folder, "absent=error", suite="official")
    with pytest.raises(FileNotFoundError, match=r"none of the sets .* is under"):
        run(encoder, folder / "LIT-CN", suite="official")


def test_a_result_says_what_it_was_measured_with_and_on(encoder, folder):
    (folder / "c.txt").write_text("0.jpg\tA Dog\n1.jpg\ta dog")
    first = run(encoder, folder, it={"kind": "captions", "file": "c.txt", "patches": 9})
    it = first["sets"]["it"]
    assert (first["step"], first["preset"], first["protocol"], it["patches"]) == (3, "tiny", "own", 9)
    assert it["digest"].startswith("sha256:") and it["file"].endswith("c.txt") and it["settings"]["lower"] is True
    (folder / "1.jpg").write_bytes((folder / "2.jpg").read_bytes())
    again = run(encoder, folder, it={"kind": "captions", "file": "c.txt"})["sets"]["it"]
    assert again["digest"] == it["digest"] and again["pictures_digest"] != it["pictures_digest"]
    assert json.loads(json.dumps(first)) == first
    printed = table(first)
    assert "step 3" in printed and "short captions, R@1 I→T / T→I" in printed


# -- once, and on all ranks -------------------------------------------------------------------------------------------------


def every_kind(folder: Path) -> dict:
    """Sets of all kinds over the same six pictures, and shards."""
    (folder / "c.txt").write_text("".join(f"{n}.jpg\ttext {n % 4}\n" for n in range(6)) + "gone.jpg\tx\n")
    dump(folder / "boxes.json", instances())
    lines(folder / "rows.jsonl", [group(f"{n}.jpg", 10, bbox=[5 * n, 5, 50, 60]) for n in range(6)])
    lines(folder / "q.jsonl", [{"query_text": f"q {n}", "item_ids": [100 + n]} for n in range(6)])
    table_of_pictures(folder)
    write_scenes(folder / "shards", shards=2, per_shard=7, side=64)
    return {
        "captions": {"kind": "captions", "file": "c.txt"},
        "long": {"kind": "captions", "file": "c.txt", "length": "long", "language": "zh"},
        "boxes": {"kind": "boxes", "file": "boxes.json"},
        "fgovd": {"kind": "fgovd", "file": "rows.jsonl"},
        "muge": {"kind": "muge", "file": "q.jsonl", "pictures": "imgs.tsv"},
        "shards": {"kind": "shards", "shards": "shards/*.tar"},
    }


def test_a_picture_is_encoded_once_for_all_sets_that_use_it(encoder, folder, monkeypatch):
    sets = every_kind(folder)
    counted: list[int] = []
    whole = encoding.encode_chunk
    monkeypatch.setattr(encoding, "encode_chunk", lambda e, chunk, ready: counted.append(len(chunk)) or whole(e, chunk, ready))
    result = run(encoder, folder, **{name: sets[name] for name in ("captions", "long", "boxes", "fgovd")})
    assert sum(counted) == 7  # six pictures, and the one that is missing
    alone = {name: run(encoder, folder, **{name: sets[name]})["sets"][name]["metrics"] for name in result["sets"]}
    assert alone == {name: one["metrics"] for name, one in result["sets"].items()}


RANKED = """
import json, sys
from pathlib import Path
import torch
from fgclip2_train.evaluation import pictures, shards
pictures.CHUNK = shards.CHUNK = 2
torch.set_num_threads(1)
from fgclip2_train.evaluation.run import evaluate, write_json
from fgclip2_train.ring import rank
result = evaluate(sys.argv[1], suite=sys.argv[2])
write_json(result, Path(sys.argv[3]) / f"{rank()}.json")
"""


def test_two_processes_give_the_numbers_of_one(encoder, folder, tmp_path_factory):
    checkpoint, out = tmp_path_factory.mktemp("checkpoint"), tmp_path_factory.mktemp("out")
    encoder.model.save_pretrained(checkpoint)
    encoder.texts.save(checkpoint)
    suite = {"protocol": "test", "root": str(folder), "patches": 16, "workers": 1, "sets": every_kind(folder)}
    (out / "suite.yaml").write_text(json.dumps(suite))
    (out / "ranked.py").write_text(RANKED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(__file__).parents[2]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    words = [str(out / "ranked.py"), str(checkpoint), str(out / "suite.yaml"), str(out)]
    done = subprocess.run(
        [*torchrun, *words], cwd=root, env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    first, second = (json.loads((out / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second and first["ranks"] == 2
    alone = evaluate(checkpoint, suite=out / "suite.yaml")
    for name, one_set in alone["sets"].items():
        assert first["sets"][name] == json.loads(json.dumps(one_set)), name


def test_a_shard_with_a_damaged_record_and_a_damaged_picture_keeps_the_rest(encoder, tmp_path):
    from make_shards import record, scene, write_shard

    samples = []
    for number in range(4):
        picture, objects = scene(random.Random(number), 64)
        whole = record(f"{number:032x}", picture, objects, ["en"], 64)
        if number == 1:
            del whole["texts"]
        samples.append((f"{number:032x}", picture[: 100 if number == 2 else None], json.dumps(whole).encode()))
    write_shard(tmp_path / "0.tar", samples)
    result = run(encoder, tmp_path, shards={"kind": "shards", "shards": "*.tar"})
    assert result["samples"] == 2
    assert result["unreadable"] == {"bad: record is not as the format has it": 1, "picture cannot be decoded": 1}


def test_the_sample_of_fgovd_rows_is_read_as_it_is(encoder, tmp_path):
    sample = Path(__file__).parents[3] / "shared/data/fgovd_sample.jsonl"
    if not sample.is_file():
        pytest.skip("the sample is not beside this checkout")
    row = json.loads(sample.read_text().splitlines()[0])
    data = io.BytesIO()
    Image.new("RGB", (row["width"], row["height"]), "red").save(data, "JPEG")
    (tmp_path / row["img_path"]).parent.mkdir(parents=True)
    (tmp_path / row["img_path"]).write_bytes(data.getvalue())
    found = one(encoder, tmp_path, kind="fgovd", file=str(sample), pictures=".")
    assert found["metrics"]["groups"] >= 1 and found["skipped"]["picture missing"] > 100
