import copy
import hashlib
import io
import json
import tarfile

import pytest
from PIL import Image

from pipelines import shard_format
from pipelines.shard_format import validate_shard

UID = "0" * 31 + "1"


def picture(kind="JPEG", size=(40, 30), **options):
    file = io.BytesIO()
    Image.new("RGB", size).save(file, kind, **options)
    return file.getvalue()


JPEG = picture()
RECORD = {
    "format": "fineloom/1",
    "uid": UID,
    "source": "laion",
    "license": None,
    "url": "http://example.org/a.jpg",
    "sha256": hashlib.sha256(JPEG).hexdigest(),
    "image_format": "JPEG",
    "width": 40,
    "height": 30,
    "texts": [{"text": "a dog", "language": "en", "length": "short", "origin": "source", "by": "laion"}],
    "regions": [
        {
            "box": [0, 0.25, 0.5, 1],
            "score": None,
            "language": "en",
            "short": "a red dog",
            "long": "a red dog that sits",
            "origin": "model",
            "negatives": [
                {"text": f"a {i} dog", "family": "count", "span": [2, 3], "original": "red", "origin": "lexical", "flags": []}
                for i in range(10)
            ],
            "positives": [{"text": "a crimson dog", "origin": "lexical"}],
        }
    ],
    "long_negatives": [
        {"text": "a big cat sits", "language": "en", "original": "a big dog sits", "span": [6, 9], "family": "state"}
    ],
    "scores": {"clip": 0.3, "none": None},
    "provenance": {"recaption": {"operators": ["recaption@1"], "prompt": "long@1", "model": "qwen", "fingerprint": "ab"}},
}


def dump(record):
    return json.dumps(record, ensure_ascii=False).encode()


def shard(path, *members):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def sample(uid=UID, record=None, data=JPEG):
    return (f"{uid}.jpg", data), (f"{uid}.json", dump(RECORD | {"uid": uid} if record is None else record))


def complaints(tmp_path, *members):
    report = validate_shard(shard(tmp_path / "00000.tar", *members))
    assert all(error.shard.endswith("00000.tar") for error in report.errors)
    return [(error.uid, error.key, error.message) for error in report.errors]


def test_a_good_shard(tmp_path):
    report = validate_shard(shard(tmp_path / "00000.tar", *sample(), *sample("0" * 31 + "2")))
    assert (report.ok, report.samples, report.errors) == (True, 2, [])


def changed(path, value):
    record = copy.deepcopy(RECORD)
    *way, last = path
    place = record
    for step in way:
        place = place[step]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return record


REGION, NEGATIVE = ("regions", 0), ("regions", 0, "negatives", 0)


@pytest.mark.parametrize(
    ("path", "value", "key", "message"),
    [
        (("format",), "fineloom/2", "json.format", "expected 'fineloom/1', found 'fineloom/2'"),
        (("format",), None, "json.format", "expected 'fineloom/1', found None"),
        (("uid",), "0" * 32, "json.uid", "expected the member's key"),
        (("source",), "", "json.source", "at least 1 character"),
        (("url",), KeyError, "json.url", "Field required"),
        (("urls",), "x", "json.urls", "Extra inputs are not permitted"),
        (("sha256",), "0" * 64, "jpg", "SHA-256 of the bytes is not json.sha256"),
        (("sha256",), "xyz", "json.sha256", "should match pattern"),
        (("image_format",), "PNG", "json.image_format", "expected JPEG, found 'PNG'"),
        (("width",), 41, "json.width", "the upright picture is 40x30, found 41x30"),
        (("width",), 40.5, "json.width", "valid integer, found 40.5"),
        (("width",), "40", "json.width", "valid integer, found '40'"),
        (("height",), 0, "json.height", "greater than or equal to 1"),
        (("height",), 2**31, "json.height", "less than or equal to 2147483647"),
        (("texts",), [], "json.texts", "at least 1 item"),
        (("texts",), RECORD["texts"] * 2, "json.texts", "texts repeat one another"),
        (("texts", 0, "text"), " \n", "json.texts[0].text", "should match pattern"),
        (("texts", 0, "language"), "de", "json.texts[0].language", "'en' or 'zh', found 'de'"),
        (("texts", 0, "length"), "medium", "json.texts[0].length", "'short' or 'long'"),
        (("texts", 0, "origin"), "nobody", "json.texts[0].origin", "'human'"),
        (("regions",), None, "json.regions", "valid array"),
        ((*REGION, "box"), [0.5, 0, 0.5, 1], "json.regions[0]", "expected x1 < x2 and y1 < y2"),
        ((*REGION, "box"), [0, 0, 1.5, 1], "json.regions[0].box[2]", "less than or equal to 1, found 1.5"),
        ((*REGION, "box"), [0, 0, 1], "json.regions[0].box[3]", "Field required"),
        ((*REGION, "score"), "high", "json.regions[0].score", "valid number"),
        ((*REGION, "short"), "", "json.regions[0].short", "at least 1 character"),
        ((*REGION, "negatives"), RECORD["regions"][0]["negatives"][:9], "json.regions[0]", "9 negatives; expected 10 or none"),
        ((*NEGATIVE, "text"), "a 1 dog", "json.regions[0]", "negatives repeat one another"),
        ((*REGION, "short"), "a 3 dog", "json.regions[0]", "a negative is the region's own expression"),
        ((*NEGATIVE, "family"), "taste", "json.regions[0].negatives[0].family", "found 'taste'"),
        ((*NEGATIVE, "span"), [2, 99], "json.regions[0].negatives[0]", "does not lie in a text of 7 characters"),
        ((*NEGATIVE, "span"), [3, 2], "json.regions[0].negatives[0]", "does not lie"),
        ((*NEGATIVE, "span"), [-1, 2], "json.regions[0].negatives[0].span[0]", "greater than or equal to 0"),
        ((*NEGATIVE, "original"), "0", "json.regions[0].negatives[0]", "nothing is changed"),
        (("long_negatives", 0, "text"), "a big dog sits", "json.long_negatives[0]", "equals its original"),
        (("long_negatives", 0, "text"), "a big cat lies", "json.long_negatives[0]", "outside span [6, 9]"),
        (("scores", "clip"), "high", "json.scores.clip", "valid number"),
        (("provenance", "recaption", "model"), {"name": "x"}, "json.provenance.recaption.model", "valid string"),
    ],
)
def test_every_broken_promise_is_told_with_its_place(tmp_path, path, value, key, message):
    ((uid, found_key, found_message), *more) = complaints(tmp_path, *sample(record=changed(path, value)))
    assert more == []
    assert (uid, found_key) == (UID, key)
    assert message in found_message


def test_ten_negatives_or_none(tmp_path):
    assert complaints(tmp_path, *sample(record=changed((*REGION, "negatives"), []))) == []


JSON = f"{UID}.json"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a JSON object"),
        (b"[]", "expected a JSON object, found list"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": 1, "a": 2}', "a key occurs twice in one object"),
        (b"[" * 100_000, "not a JSON object"),
        (dump(RECORD)[:-1], "not a JSON object"),
        (b"{}", "expected 'fineloom/1', found None"),
    ],
)
def test_odd_json(tmp_path, data, message):
    ((_, _, found),) = complaints(tmp_path, (f"{UID}.jpg", JPEG), (JSON, data))
    assert message in found


@pytest.mark.parametrize(
    "data", [b"", b"<html>", JPEG[:20], b"GIF89a", b"\x89PNG\r\n\x1a\n" + b"\x00" * 50, b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_what_is_not_a_picture(tmp_path, data):
    record = RECORD | {"sha256": hashlib.sha256(data).hexdigest()}
    assert [(key, message[:13]) for _, key, message in complaints(tmp_path, *sample(record=record, data=data))] == [
        ("jpg", "not a picture")
    ]


def test_sizes_are_those_of_the_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = picture(exif=exif, size=(30, 40))
    assert complaints(tmp_path, *sample(record=RECORD | {"sha256": hashlib.sha256(data).hexdigest()}, data=data)) == []


def test_members_must_be_adjacent_complete_and_unique(tmp_path):
    (jpg1, json1), (jpg2, json2) = sample(), sample("0" * 31 + "2")
    assert (UID, "json", "missing; expected <uid>.jpg and <uid>.json next to each other") in complaints(tmp_path, jpg1)
    apart = complaints(tmp_path, jpg1, jpg2, json2, json1)
    assert (UID, "", "key occurs twice; expected the two members of a sample next to each other, once") in apart
    assert (UID, "json", "member occurs twice") in complaints(tmp_path, jpg1, json1, json1)
    assert complaints(tmp_path, *sample(), *sample("0" * 31 + "2"), *sample())[0][2].startswith("key occurs twice")


@pytest.mark.parametrize(
    "name", ["abc.jpg", f"{UID}.png", f"{UID}.en.json", f"../{UID}.jpg", f"{UID.replace('0', 'A')}.jpg", "é\x1b[2J.jpg"]
)
def test_members_with_other_names(tmp_path, name):
    found = complaints(tmp_path, *sample(), (name, b"x"))
    assert [message for _, _, message in found] == ["unexpected member; expected <32 lower-case hex digits>.jpg or .json"]
    assert found[0][1].isprintable()


def test_links_and_folders_are_not_followed(tmp_path):
    path = shard(tmp_path / "00000.tar", *sample())
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo(f"{'0' * 31}3.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert [error.message for error in validate_shard(path).errors] == ["not a plain file; expected only plain files"]


def test_a_file_that_is_no_tar_or_cut_short_or_missing(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"no tar at all" * 1000)
    assert "not a whole tar" in str(validate_shard(tmp_path / "a.tar").errors[0])
    whole = shard(tmp_path / "b.tar", *sample(data=picture("BMP", size=(99, 99)))).read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[:9000])
    assert "not a whole tar" in str(validate_shard(tmp_path / "b.tar").errors[0])
    assert validate_shard(tmp_path / "none.tar").errors[0].message == "cannot be read: No such file or directory"
    (tmp_path / "c.tar").write_bytes(b"")
    assert not validate_shard(tmp_path / "c.tar").ok
    assert [e.message for e in validate_shard(shard(tmp_path / "d.tar")).errors] == ["no sample in it"]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda head, rest: head, "not a whole tar: no empty block at its end"),
        (lambda head, rest: head + rest[:300], "not a whole tar: no empty block at its end"),
        (lambda head, rest: head + bytes(50_000), "the tar ends before its file does"),
        (lambda head, rest: head + 9 * rest, "the tar ends before its file does"),
    ],
)
def test_a_tar_that_only_seems_to_be_at_its_end_is_told(made, said, tmp_path):
    path = shard(tmp_path / "a.tar", *sample(), *sample("0" * 31 + "2"))
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        end = archive.getmembers()[2].offset
    path.write_bytes(made(whole[:end], whole[end:]))
    assert said in validate_shard(path).errors[-1].message


def test_errors_are_bounded_in_number_and_length(tmp_path):
    long = RECORD | {"format": "x" * 1_000_000}
    path = shard(tmp_path / "a.tar", *(m for i in range(50) for m in sample(f"{i:032x}", long)))
    report = validate_shard(path, max_errors=7)
    assert (len(report.errors), report.found, report.samples) == (7, 50, 50)
    assert all(len(str(error)) < 500 for error in report.errors)


def test_huge_members_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_format, "MAX_JSON_BYTES", 100)
    assert "expected at most 100" in complaints(tmp_path, *sample())[0][2]


def test_a_stream_can_be_validated_without_a_file(tmp_path):
    data = shard(tmp_path / "a.tar", *sample()).read_bytes()
    report = validate_shard("s3://bucket/a.tar", stream=io.BytesIO(data))
    assert report.ok and report.shard == "s3://bucket/a.tar"
