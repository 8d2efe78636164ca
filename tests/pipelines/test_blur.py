"""Hidden parts stay hidden, everything else stays; and a sample says that its picture is not the one that came."""

import hashlib
import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from operators.columns import BASE, BOX, IMAGE
from pipelines.blur import blurred
from pipelines.pack import Pack
from pipelines.shard_format import validate_shard

FACES = {"operators": ["faces@1"], "prompt": None, "model": None, "fingerprint": "f7", "columns": ["faces", "face_area"]}


def picture(kind="JPEG", size=(200, 120), **options):
    """Stripes of two pixels: nothing of them is left where it is hidden."""
    stripes = np.tile(np.repeat(np.array([0, 255], np.uint8), 2), size[0] // 4)
    file = io.BytesIO()
    Image.fromarray(np.repeat(np.tile(stripes, (size[1], 1))[..., None], 3, axis=2)).save(file, kind, **options)
    return file.getvalue()


def contrast(image, box):
    return float(np.asarray(image.convert("L").crop(box), np.float64).std())


def test_what_is_hidden_has_no_detail_left_and_the_rest_keeps_its_own():
    before = Image.open(io.BytesIO(picture("PNG")))
    after = Image.open(io.BytesIO(blurred(picture("PNG"), [[0.5, 0.25, 0.75, 0.75]])))
    assert (after.format, after.size) == ("JPEG", before.size)
    assert contrast(after, (100, 30, 150, 90)) < 20 < 100 < contrast(before, (100, 30, 150, 90))
    assert contrast(after, (0, 0, 80, 120)) > 100


def test_boxes_at_the_edge_and_of_a_pixel_are_hidden_too():
    for box in ([0.0, 0.0, 1.0, 1.0], [0.995, 0.99, 1.0, 1.0], [0.0, 0.0, 0.001, 0.001]):
        assert Image.open(io.BytesIO(blurred(picture("PNG"), [box]))).size == (200, 120)


def test_a_turned_picture_is_written_upright_and_nothing_is_told_beside_it():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    after = Image.open(io.BytesIO(blurred(picture(exif=exif), [[0.1, 0.1, 0.2, 0.2]])))
    assert after.size == (120, 200) and not after.getexif()


def row(n, faces, data):
    return {
        "uid": f"{n:032x}",
        "source": "laion",
        "language": "en",
        "captions": [f"a caption {n}"],
        "sha256": hashlib.sha256(data).hexdigest(),
        "image_format": Image.open(io.BytesIO(data)).format,
        "width": 200,
        "height": 120,
        "faces": faces,
    }


def pack(tar, rows, pictures, **settings):
    kinds = {field.name: field.type for field in [*BASE, *IMAGE]} | {"faces": pa.list_(BOX)}
    table = pa.table({name: pa.array([r[name] for r in rows], kinds[name]) for name in rows[0]})
    found = {r["uid"]: data for r, data in zip(rows, pictures, strict=True)}
    outcome = Pack(**settings).write(table, lambda r: found[r["uid"]], tar, {"people": FACES})
    assert outcome.rejects == []
    with tarfile.open(tar) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    return [(members[f"{r['uid']}.jpg"], json.loads(members[f"{r['uid']}.json"])) for r in rows]


def test_only_pictures_with_faces_are_written_anew_and_they_say_so(tmp_path):
    png, jpeg = picture("PNG"), picture()
    rows = [row(0, [[0.5, 0.25, 0.75, 0.75]], png), row(1, [], jpeg), row(2, None, jpeg)]
    tar = tmp_path / "00000.tar"
    (hidden, record), (same, plain), (also, _) = pack(tar, rows, [png, jpeg, jpeg], blur="faces")
    assert validate_shard(tar).errors == []
    assert same == also == jpeg and hidden != png
    assert (record["sha256"], record["image_format"]) == (hashlib.sha256(hidden).hexdigest(), "JPEG")
    assert record["provenance"]["pack"] == {
        "operators": ["blur@1", "pack@6"],
        "prompt": None,
        "model": None,
        "fingerprint": "f7",
    }
    assert plain["provenance"]["pack"]["operators"] == ["pack@6"], "the same keys in every sample"
    assert (plain["sha256"], plain["image_format"]) == (rows[1]["sha256"], "JPEG")


def test_without_the_option_bytes_are_untouched_whatever_faces_were_found(tmp_path):
    png = picture("PNG")
    ((data, record),) = pack(tmp_path / "00000.tar", [row(0, [[0.5, 0.25, 0.75, 0.75]], png)], [png])
    assert data == png and set(record["provenance"]) == {"people"}


def test_the_column_must_be_one_of_boxes():
    available = pa.schema({"faces": pa.list_(BOX), "face_area": pa.float32()})
    Pack(blur="faces").check(available)
    for name in ("face_area", "nobody"):
        with pytest.raises(ValueError, match=f"blur: no stage before it writes a column '{name}' of boxes"):
            Pack(blur=name).check(available)
