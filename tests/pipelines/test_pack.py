import hashlib
import io
import json
import subprocess
import sys
import tarfile

import pyarrow as pa
import pytest
import webdataset
from PIL import Image

from operators.base import Reject
from operators.columns import BASE, IMAGE, NEGATIVES, POSITIVES, REGIONS
from pipelines.pack import Pack
from pipelines.shard_format import validate_shard

PROVENANCE = {
    "source": {"operators": [], "prompt": None, "model": None, "fingerprint": "f0"},
    "captions": {
        "operators": ["recaption@1"],
        "prompt": "long_caption_en@3",
        "model": "qwen2.5-vl",
        "fingerprint": "f1",
        "columns": ["long_caption_en"],
    },
}


def picture(n=0, kind="JPEG", size=(40, 30), **options):
    file = io.BytesIO()
    Image.new("RGB", size, (n % 256, n // 256, 99)).save(file, kind, **options)
    return file.getvalue()


def uid(n):
    return f"{n:032x}"


def row(n=0, data=None, **columns):
    data = data or picture(n)
    return {
        "uid": uid(n),
        "source": "laion",
        "language": "en",
        "captions": [f"a caption {n}"],
        "sha256": hashlib.sha256(data).hexdigest(),
        "image_format": "JPEG",
        "width": 40,
        "height": 30,
        **columns,
    }


def table(*rows):
    known = {f.name: f.type for f in [*BASE, *IMAGE]} | {"regions": REGIONS, "negatives": NEGATIVES, "positives": POSITIVES}
    names = list(dict.fromkeys(name for r in rows for name in r))
    return pa.table({name: pa.array([r.get(name) for r in rows], known.get(name)) for name in names})


def write(tar, *rows, pictures=None, pack=None, provenance=PROVENANCE):
    found = pictures or {uid(n): picture(n) for n in range(300)}
    return (pack or Pack()).write(table(*rows), lambda r: found[r["uid"]], tar, provenance)


def records(tar):
    with tarfile.open(tar) as archive:
        return [json.load(archive.extractfile(m)) for m in archive if m.name.endswith("json")]


def negatives(**changes):
    return [
        {"text": f"a {i} dog", "family": "colour", "start": 2, "end": 3, "original": "red", "origin": "lexical", "flags": []}
        | changes.get(f"n{i}", {})
        for i in range(10)
    ]


def region(**columns):
    return {
        "box": [0.1, 0.2, 0.5, 1.0],
        "score": 0.7,
        "short": "a red dog",
        "long": "",
        "language": "en",
        "origin": "model",
    } | columns


def test_what_is_packed_passes_the_validator_and_comes_back_whole(tmp_path):
    tar = tmp_path / "00000.tar"
    full = row(
        0,
        long_captions=["a human's long caption"],
        long_caption_en="a model's long caption",
        long_caption_zh="模型写的长描述",
        regions=[region()],
        negatives=[negatives()],
        positives=[[{"text": "a crimson dog", "origin": "lexical"}]],
        clip_score=0.1,
        license="CC0",
    )
    outcome = write(tar, full, row(1), pack=Pack(scores=("clip_score",)))
    assert outcome.rejects == []
    report = validate_shard(tar)
    assert (report.errors, report.samples) == ([], 2)
    first, second = records(tar)
    assert [(t["text"], t["language"], t["length"], t["origin"], t["by"]) for t in first["texts"]] == [
        ("a caption 0", "en", "short", "source", "laion"),
        ("a human's long caption", "en", "long", "source", "laion"),
        ("a model's long caption", "en", "long", "model", "long_caption_en@3 qwen2.5-vl"),
        ("模型写的长描述", "zh", "long", "model", "long_caption_zh"),
    ]
    (packed,) = first["regions"]
    assert packed["box"] == [0.1, 0.2, 0.5, 1.0]
    assert packed["long"] == "a red dog"
    assert packed["negatives"][3] == {
        "text": "a 3 dog",
        "family": "colour",
        "span": [2, 3],
        "original": "red",
        "origin": "lexical",
        "flags": [],
    }
    assert packed["positives"] == [{"text": "a crimson dog", "origin": "lexical"}]
    assert first["scores"] == {"clip_score": 0.1} and second["scores"] == {"clip_score": None}
    assert first["license"] == "CC0" and second["license"] is None
    assert first["provenance"]["captions"] == {
        "operators": ["recaption@1"],
        "prompt": "long_caption_en@3",
        "model": "qwen2.5-vl",
        "fingerprint": "f1",
    }
    assert second["regions"] == [] and second["long_negatives"] == []


def test_the_same_input_gives_the_same_bytes_and_other_order_another_file(tmp_path):
    for name, numbers in [("a", (0, 1)), ("b", (0, 1)), ("c", (1, 0))]:
        write(tmp_path / name, *(row(n) for n in numbers))
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_offset_and_size_cut_out_one_sample(tmp_path):
    tar = tmp_path / "t.tar"
    kept = write(tar, row(0), row(1), row(2)).kept.to_pylist()
    assert [k["uid"] for k in kept] == [uid(0), uid(1), uid(2)]
    part = tar.read_bytes()[kept[1]["shard_offset"] :][: kept[1]["shard_size"]]
    with tarfile.open(fileobj=io.BytesIO(part)) as archive:
        assert archive.getnames() == [f"{uid(1)}.jpg", f"{uid(1)}.json"]
        assert archive.extractfile(f"{uid(1)}.jpg").read() == picture(1)


def test_a_sample_without_text_is_a_reject_that_says_what_was_wrong_with_its_texts(tmp_path):
    outcome = write(tmp_path / "t.tar", row(0, captions=None), row(1, captions=["", "\u200b\u202e", "x" * 20_001]), row(2))
    assert outcome.kept["uid"].to_pylist() == [uid(2)]
    assert outcome.rejects == [
        Reject(uid(0), "no_text", "0 texts < 1 (no column has one)"),
        Reject(uid(1), "no_text", "0 texts < 1 (captions[0]: blank; captions[1]: blank; captions[2]: text_too_long)"),
    ]


def test_bad_parts_are_refused_and_the_sample_stays(tmp_path):
    tar = tmp_path / "t.tar"
    bad = row(
        0,
        captions=["fine", "fine", " ", None],
        regions=[
            region(box=[0.5, 0, 0.5, 1]),
            region(box=[0, 0, float("nan"), 1]),
            region(box=None),
            region(short="", long=None),
            region(language="de"),
            region(short=" "),
            region(),
            region(),
            region(),
        ],
        negatives=[
            [],
            [],
            [],
            [],
            [],
            [],
            negatives()[:9],
            negatives(n3={"text": "a red dog"}),
            negatives(n4={"start": 2, "end": 99}),
        ],
    )
    bad["regions"][5]["long"] = "a red dog that sits"
    outcome = write(tar, bad)
    assert [(r.reason, r.item) for r in outcome.rejects] == [
        ("repeated_text", "captions[1]"),
        ("blank", "captions[2]"),
        ("bad_box", "regions[0]"),
        ("bad_box", "regions[1]"),
        ("bad_box", "regions[2]"),
        ("bad_region", "regions[3]"),
        ("bad_region", "regions[4]"),
        ("bad_negatives", "negatives[6]"),
        ("bad_negatives", "negatives[7]"),
        ("bad_negatives", "negatives[8]"),
    ]
    (record,) = records(tar)
    assert [r["short"] for r in record["regions"]] == ["a red dog that sits", "a red dog", "a red dog", "a red dog"]
    assert validate_shard(tar).ok
    assert set(Pack.reasons) >= {r.reason for r in outcome.rejects}


@pytest.mark.parametrize(
    ("columns", "language"),
    [
        ({"language": "zh", "captions": ["LOUIS VUITTON 女包"]}, "zh"),
        ({"language": None, "caption_language": "zh", "captions": ["iPhone 15 手机"]}, "zh"),
        ({"language": None, "captions": ["一只小狗 dog"]}, "zh"),
        ({"language": None, "captions": ["a dog named 狗 in the park"]}, "en"),
    ],
)
def test_language_of_captions(tmp_path, columns, language):
    write(tmp_path / "t.tar", row(0, **columns))
    assert records(tmp_path / "t.tar")[0]["texts"][0]["language"] == language


@pytest.mark.parametrize("measured", ["en", "zh"])
def test_captions_in_both_languages_under_one_measure_are_each_in_their_own(tmp_path, measured):
    write(tmp_path / "t.tar", row(0, language=None, caption_language=measured, captions=["a red ball", "一个红球", "42"]))
    said = {text["text"]: text["language"] for text in records(tmp_path / "t.tar")[0]["texts"]}
    assert said == {"a red ball": "en", "一个红球": "zh", "42": measured}


@pytest.mark.parametrize("columns", [{"caption_language": "de", "captions": ["ein Hund"]}, {"captions": ["123"]}])
def test_a_text_in_neither_language_is_refused(tmp_path, columns):
    (reject,) = write(tmp_path / "t.tar", row(0, language=None, **columns)).rejects
    assert reject.reason == "no_text" and "unknown_language" in reject.detail


@pytest.mark.parametrize(
    ("language", "right", "wrong"),
    [
        ("en", ["a cat", "IMG_2034", "Zoë's café", "1984"], ["صورة قطة", "😀😀", "一只猫"]),
        ("zh", ["一只猫", "iPhone 15 手机"], ["a cat", "😀", "美しい夜景と東京タワー"]),
        (None, ["a cat", "一只猫"], ["Красная площадь"]),
    ],
)
def test_of_the_sources_texts_only_those_of_its_language_are_packed(tmp_path, language, right, wrong):
    mixed = row(0, language=language, captions=[wrong[0], *right, *wrong[1:]], caption_language=None)
    only_wrong = row(1, language=language, captions=wrong, long_caption_en="a model's text")
    outcome = write(tmp_path / "t.tar", mixed, only_wrong)
    first, second = records(tmp_path / "t.tar")
    assert [text["text"] for text in first["texts"]] == right
    assert [text["text"] for text in second["texts"]] == ["a model's text"]
    reason = "other_language" if language else "unknown_language"
    assert {reject.reason for reject in outcome.rejects} == {reason}
    assert [reject.item for reject in outcome.rejects if reject.uid == uid(1)] == [f"captions[{i}]" for i in range(len(wrong))]


def test_a_measure_of_all_captions_together_is_not_that_of_one_in_another_script(tmp_path):
    (reject,) = write(
        tmp_path / "t.tar", row(0, language=None, caption_language="en", captions=["a red ball", "كرة حمراء"])
    ).rejects
    assert (reject.reason, reject.item) == ("other_language", "captions[1]")
    assert reject.detail == "en: 0 Han, 0 Latin and 8 other letters"


def test_a_model_s_texts_are_judged_where_they_are_made(tmp_path):
    assert write(tmp_path / "t.tar", row(0, language="zh", captions=["一只猫"], long_caption_en="一只猫。")).rejects == []


def test_source_boxes_are_packed_where_nothing_was_grounded(tmp_path):
    boxes = [
        {"box": [0.25, 0, 1, 1], "text": "a dog", "score": 0.9},
        {"box": [0, 0, 1, 1], "text": None, "score": None},
        {"box": [0, 0, 1, 1], "text": "собака", "score": None},
    ]
    outcome = write(tmp_path / "t.tar", row(0, source_regions=boxes), row(1, source_regions=None))
    first, second = records(tmp_path / "t.tar")
    assert [(r["short"], r["long"], r["origin"], r["score"]) for r in first["regions"]] == [("a dog", "a dog", "source", 0.9)]
    assert second["regions"] == []
    assert [(r.item, r.reason) for r in outcome.rejects] == [("regions[1]", "bad_region"), ("regions[2]", "other_language")]
    write(tmp_path / "t.tar", row(0, source_regions=boxes, regions=[]))
    assert records(tmp_path / "t.tar")[0]["regions"] == []


def test_columns_and_order_of_texts_are_the_recipes_business(tmp_path):
    pack = Pack(
        texts={"title": {"length": "short", "language": "zh", "origin": "human"}, "captions": {"length": "long"}}, min_texts=2
    )
    made = {"captions": {"operators": ["clean@2"], "prompt": None, "model": None, "fingerprint": ""}}
    outcome = write(tmp_path / "t.tar", row(0, title="标题"), row(1), pack=pack, provenance=made)
    assert [(t["text"], t["length"], t["by"]) for t in records(tmp_path / "t.tar")[0]["texts"]] == [
        ("标题", "short", "title"),
        ("a caption 0", "long", "clean@2"),
    ]
    assert [r.uid for r in outcome.rejects] == [uid(1)]


def test_a_models_text_is_by_its_prompt_and_model_also_where_a_later_stage_went_through_it(tmp_path):
    asked = {"prompt": "translate_en_zh@2", "model": "m", "columns": ["translation_zh"]}
    nobody = {"prompt": None, "model": None, "columns": ["translation_zh", "translation_zh_human"]}
    made = {
        "translate": {"operators": ["translate@1"], "fingerprint": "", **asked},
        "reviewed": {"operators": ["reviewed@2"], "fingerprint": "", **nobody},
    }
    texts = {
        "translation_zh_human": {"length": "long", "language": "zh", "origin": "human"},
        "translation_zh": {"length": "long", "language": "zh"},
    }
    sample = row(0, translation_zh=["一"], translation_zh_human=["二"])
    write(tmp_path / "t.tar", sample, pack=Pack(texts=texts), provenance=made)
    told = [(text["text"], text["by"]) for text in records(tmp_path / "t.tar")[0]["texts"]]
    assert told == [("二", "reviewed@2"), ("一", "translate_en_zh@2 m")]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_scores_that_json_has_no_number_for_are_null(tmp_path, value):
    write(tmp_path / "t.tar", row(0, score=value), row(1, score=0.5), pack=Pack(scores=("score",)))
    assert records(tmp_path / "t.tar")[0]["scores"] == {"score": None}


def test_damaged_bytes_and_broken_contracts_stop_the_shard_instead_of_refusing_samples(tmp_path):
    with pytest.raises(ValueError, match=r"t\.tar: sample 0+: the picture's bytes do not have its SHA-256"):
        write(tmp_path / "t.tar", row(0), pictures={uid(0): b"other"})
    with pytest.raises(ValueError, match="occurs twice"):
        write(tmp_path / "t.tar", row(0), row(0))
    with pytest.raises(ValueError, match="1 entries in negatives, but 2 regions"):
        write(tmp_path / "t.tar", row(0, regions=[region(), region()], negatives=[[]]))
    with pytest.raises(ValueError, match="no column sha256"):
        Pack().write(table(row(0)).drop_columns(["sha256"]), lambda r: b"", tmp_path / "t.tar", {})
    with pytest.raises(ValueError, match="family"):
        write(tmp_path / "t.tar", row(0, regions=[region()], negatives=[negatives(n0={"family": "taste"})]))


def test_scores_are_checked_before_the_run():
    with pytest.raises(ValueError, match=r"no stage before it writes a column 'clip'; columns: clip_score, url"):
        Pack(scores=("clip",)).check(pa.schema({"url": pa.string(), "clip_score": pa.float32()}))
    with pytest.raises(ValueError, match="column 'url' is string, expected a number"):
        Pack(scores=("url",)).check(pa.schema({"url": pa.string()}))


def test_no_samples_make_an_empty_tar(tmp_path):
    outcome = write(tmp_path / "t.tar", row(0, captions=[]))
    assert len(outcome.kept) == 0 and outcome.kept.schema.names == ["uid", "shard_offset", "shard_size"]
    with tarfile.open(tmp_path / "t.tar") as archive:
        assert archive.getnames() == []


def test_plain_webdataset_reads_it(tmp_path):
    write(tmp_path / "00000.tar", row(0, regions=[region()]), row(1))
    samples = list(webdataset.WebDataset(str(tmp_path / "00000.tar"), shardshuffle=False).decode("pil").to_tuple("jpg", "json"))
    assert [(image.size, record["uid"]) for image, record in samples] == [((40, 30), uid(0)), ((40, 30), uid(1))]


def test_datasets_loads_the_folder_though_the_first_samples_are_bare(tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    pack = Pack(scores=("score",))
    bare = [row(n, license=None) for n in range(8)]
    rich = row(8, regions=[region()], negatives=[negatives()], score=0.5, license="CC0", long_caption_zh="长描述")
    write(shards / "00000.tar", *bare, pack=pack)
    write(shards / "00001.tar", row(9), rich, pack=pack)
    pack.write_card(shards)
    pack.write_card(shards)
    assert sorted(p.name for p in shards.iterdir()) == ["00000.tar", "00001.tar", "README.md"]
    # In a process of its own: `datasets` reads its offline switch and its cache folder when it is imported.
    script = """
import sys, datasets
data = datasets.load_dataset(sys.argv[1], cache_dir=sys.argv[2])["train"]
assert data.num_rows == 10, data
assert data[0]["json"]["regions"] == [] and data[0]["json"]["scores"] == {"score": None}
last = data[9]
assert last["jpg"].size == (40, 30)
assert last["json"]["regions"][0]["negatives"][9]["span"] == [2, 3]
assert last["json"]["scores"] == {"score": 0.5} and last["json"]["license"] == "CC0"
assert last["json"]["provenance"]["captions"]["prompt"] == "long_caption_en@3"
streamed = list(datasets.load_dataset(sys.argv[1], streaming=True)["train"])
assert [s["__key__"] for s in streamed] == [s["__key__"] for s in data]
"""
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", script, str(shards), str(tmp_path / "cache")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_half_truths_of_the_operator_reach_the_shard(tmp_path):
    from operators.columns import LONG_NEGATIVES
    from operators.long_negatives import LongNegatives

    caption = "A red ball lies on the left. Next to it stands a wooden chair."
    made = LongNegatives(captions={"long_caption_en": "en"})(
        pa.table({"uid": [uid(0)], "long_caption_en": [caption], "regions": pa.array([[]], REGIONS)})
    ).kept["long_negatives"]
    assert made.type == LONG_NEGATIVES
    tar = tmp_path / "0.tar"
    outcome = write(tar, row(long_caption_en=caption, long_negatives=made.to_pylist()[0]))
    ((half,),) = (record["long_negatives"] for record in records(tar))
    assert outcome.rejects == [] and validate_shard(tar).ok
    start, end = half["span"]
    assert half["original"] == caption and half["text"][:start] == caption[:start] and caption.endswith(half["text"][end:])
