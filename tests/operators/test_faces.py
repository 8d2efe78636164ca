"""Faces are found, not imagined everywhere; a user's own model is taken instead; nothing in the picture is changed."""

import pyarrow as pa
import pytest
from PIL import Image, ImageDraw, ImageFilter

from operators.base import OtherVersion
from operators.faces import Faces, covered


def drawn_face(side: int) -> Image.Image:
    """What a cascade takes for a face: dark eyes, brows, nostrils and mouth on a light oval."""
    s = side / 100
    face = Image.new("RGB", (side, side), (90, 90, 90))
    draw = ImageDraw.Draw(face)

    def oval(x1, y1, x2, y2, grey):
        draw.ellipse([x1 * s, y1 * s, x2 * s, y2 * s], fill=(grey, grey, grey))

    oval(12, 0, 88, 100, 205)
    for x in (22, 56):
        oval(x, 32, x + 22, 38, 60)  # brow
        oval(x + 2, 40, x + 20, 50, 110)  # socket
        oval(x + 7, 42, x + 15, 49, 25)  # eye
    oval(44, 42, 56, 68, 225)  # ridge of the nose
    oval(41, 64, 48, 69, 110)
    oval(52, 64, 59, 69, 110)
    oval(33, 76, 67, 85, 95)  # mouth
    return face.filter(ImageFilter.GaussianBlur(side / 60))


def scene(width: int, height: int, *places: tuple[int, int, int]) -> Image.Image:
    picture = Image.effect_noise((width, height), 12).convert("RGB")
    for x, y, side in places:
        picture.paste(drawn_face(side), (x, y))
    return picture


def look(*pictures, **settings):
    operator = Faces(**settings)
    operator.setup()
    return operator(pa.table({"uid": [f"{i:032x}" for i in range(len(pictures))]}), list(pictures))


def test_faces_are_found_where_they_are_and_nothing_is_changed():
    picture = scene(360, 220, (30, 60, 110), (210, 40, 130))
    before = picture.tobytes()
    (boxes,) = look(picture).kept["faces"].to_pylist()
    assert picture.tobytes() == before
    middles = [((x1 + x2) / 2 * 360, (y1 + y2) / 2 * 220) for x1, y1, x2, y2 in boxes]
    for x, y, side in ((30, 60, 110), (210, 40, 130)):
        assert any(x < mx < x + side and y < my < y + side for mx, my in middles)
    assert len(boxes) == 2


def test_a_picture_without_faces_and_one_too_small_have_none():
    outcome = look(scene(360, 220), Image.new("RGB", (20, 20)), Image.new("L", (300, 200), 99).convert("RGB"))
    assert outcome.kept["faces"].to_pylist() == [[], [], []]
    assert outcome.kept["face_area"].to_pylist() == [0, 0, 0]


def test_limits_refuse_with_the_measure():
    two = scene(360, 220, (30, 60, 110), (210, 40, 130))
    assert [(r.reason, r.detail) for r in look(two, max_faces=1).rejects] == [("faces", "2 > 1")]
    assert [r.reason for r in look(two, scene(360, 220), max_area=0.01).rejects] == ["face_area"]


def test_an_area_is_counted_once():
    assert covered([[0, 0, 0.5, 1], [0, 0, 0.5, 0.5]]) == pytest.approx(0.5)
    assert covered([]) == 0


def test_a_model_that_is_none_is_named(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        Faces(model=str(tmp_path / "yunet.onnx"))
    (tmp_path / "yunet.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match="OpenCV cannot read"):
        Faces(model=str(tmp_path / "yunet.onnx")).setup()


def test_another_model_is_another_result_and_another_place_of_it_is_not(tmp_path):
    for name, content in (("a.onnx", b"one"), ("b.onnx", b"two"), ("c.onnx", b"one")):
        (tmp_path / name).write_bytes(content)
    first, second, moved = (Faces(model=str(tmp_path / name)).model_dump() for name in ("a.onnx", "b.onnx", "c.onnx"))
    assert first == moved and first != second and Faces().model_dump() not in (first, second)


def test_a_model_that_is_another_than_the_one_planned_with_is_not_taken(tmp_path):
    (tmp_path / "yunet.onnx").write_bytes(b"one")
    planned = Faces(model=str(tmp_path / "yunet.onnx"))
    (tmp_path / "yunet.onnx").write_bytes(b"two")
    with pytest.raises(OtherVersion, match=r"yunet\.onnx is another version"):
        planned.setup()
