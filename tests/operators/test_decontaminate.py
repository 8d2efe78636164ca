import io
import json
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

from operators.decontaminate import Decontaminate, caption_key
from operators.phash import hash_pictures
from pipelines.cli import app


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((96, 80))


def encoded(image, form="PNG", **settings):
    data = io.BytesIO()
    image.save(data, form, **settings)
    return data.getvalue()


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """An evaluation folder in several layouts at once, and what the command makes of it."""
    at = tmp_path_factory.mktemp("set")
    folder = at / "coco-cn"
    (folder / "images").mkdir(parents=True)
    for seed in range(3):
        (folder / "images" / f"{seed}.png").write_bytes(encoded(picture(seed)))
    (folder / "images" / "broken.jpg").write_bytes(b"\xff\xd8nothing")
    (folder / "flat.png").write_bytes(encoded(Image.new("RGB", (64, 64), "white")))
    (folder / "captions.tsv").write_text("0.png#1\t一只黑猫坐在木桌上看着窗外的雨\n", "utf-8")
    (folder / "all.json").write_text(
        json.dumps({"annotations": [{"id": 7, "caption": "A black cat sits on the table, looking out."}]})
    )
    (folder / "bad.json").write_text("{")
    (folder / "notes.txt").write_text("A brown horse\u2028stands behind the old fence.\r\n", "utf-8")
    (folder / "table.csv").write_text('0.png,"A red bus waits\r\nat the ""empty"" stop."\r\n', newline="")
    (folder / "lines.jsonl").write_text('{"caption": "A white dog\u2028runs over the wide meadow."}\n', "utf-8")
    out = at / "coco_cn.jsonl"
    done = CliRunner().invoke(app, ["contamination", str(folder), "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    return out, json.loads(done.stdout)


def batch(*rows):
    pictures, captions = [row[0] for row in rows], [row[1] for row in rows]
    return pa.table(
        {
            "uid": [str(i) for i in range(len(rows))],
            "sha256": [None if p is None else sha256(p).hexdigest() for p in pictures],
            "phash": pa.array(
                [None if p is None else int(hash_pictures([Image.open(io.BytesIO(p)).convert("RGB")])[0]) for p in pictures],
                pa.uint64(),
            ),
            "captions": pa.array(captions, pa.list_(pa.string())),
        }
    )


def refused(operator, *rows):
    return [(reject.uid, reject.reason) for reject in operator(batch(*rows)).rejects]


def test_the_manifest_counts_what_it_found_and_holds_no_text(manifest):
    out, told = manifest
    assert told["set"] == "coco-cn" and told["pictures"] == 4
    assert sum(told["bad"].values()) == 2 and told["bad"]["unreadable_text"] == 1
    text = out.read_text()
    assert "cat" not in text.replace("coco-cn", "") and "猫" not in text
    assert all(set(json.loads(line)) in ({"set", "sha256", "phash"}, {"set", "caption"}) for line in text.splitlines())


def test_bytes_near_pictures_and_captions_are_refused_and_others_are_not(manifest):
    operator = Decontaminate(manifests=(str(manifest[0]),))
    again = encoded(picture(1).resize((60, 50)), "JPEG", quality=70)
    rows = (
        (encoded(picture(0)), ["x"]),
        (again, None),
        (encoded(picture(9)), ["look:", "a BLACK cat sits on the table  looking out"]),
        (encoded(picture(10)), ["一只黑猫坐在木桌上，看着窗外的雨。"]),
        (encoded(picture(11)), ["a black cat"]),
        (None, []),
        (encoded(picture(12)), ["a white dog runs over the wide meadow"]),
        (encoded(picture(13)), ["A brown horse stands behind the old fence."]),
        (encoded(picture(14)), ['A red bus waits at the "empty" stop.']),
    )
    assert refused(operator, *rows) == [
        ("0", "evaluation_picture"),
        ("1", "evaluation_near"),
        ("2", "evaluation_caption"),
        ("3", "evaluation_caption"),
        *((row, "evaluation_caption") for row in "678"),
    ]
    assert refused(Decontaminate(manifests=(str(manifest[0]),), max_distance=None), *rows)[1] == ("2", "evaluation_caption")
    assert operator(batch(rows[0])).rejects[0].detail == "coco-cn"


def test_flat_pictures_are_not_next_to_each_other(manifest):
    flat = encoded(Image.new("RGB", (50, 50), "black"))
    assert refused(Decontaminate(manifests=(str(manifest[0]),), max_distance=16), (flat, [])) == []


def test_short_captions_coincide_by_chance(tmp_path):
    file = tmp_path / "m.jsonl"
    file.write_text(json.dumps({"set": "s", "caption": caption_key("a dog")}) + "\n")
    table = (encoded(picture(1)), ["a dog"])
    assert refused(Decontaminate(manifests=(str(file),)), table) == []
    assert refused(Decontaminate(manifests=(str(file),), min_chars=3), table) == [("0", "evaluation_caption")]


def test_a_manifest_that_is_none_is_named_with_its_line(tmp_path):
    file = tmp_path / "m.jsonl"
    with pytest.raises(ValueError, match="fineloom contamination"):
        Decontaminate(manifests=(str(file),))
    for text in ('{"set": "s"}\n', "[]\n", "{\n", '{"set": "s", "sha256": "", "phash": "zz"}\n'):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"m\.jsonl:1"):
            Decontaminate(manifests=(str(file),))
    file.write_text("\n")
    with pytest.raises(ValueError, match="nothing in it"):
        Decontaminate(manifests=(str(file),))


def test_content_counts_and_not_place(manifest, tmp_path):
    copy = tmp_path / "other.jsonl"
    copy.write_bytes(manifest[0].read_bytes())
    one, two = Decontaminate(manifests=(str(manifest[0]),)), Decontaminate(manifests=(str(copy),))
    assert one.content == two.content and one.model_dump() == two.model_dump()


def test_an_empty_folder_is_a_mistake_of_the_call(tmp_path):
    done = CliRunner().invoke(app, ["contamination", str(tmp_path), "--out", str(tmp_path / "x.jsonl")])
    assert "no picture and no caption" in str(done.exception)
