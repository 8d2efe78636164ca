"""Local sources all the way: a folder, a MUGE table and a WebDataset through index, slice and download."""

import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
import yaml
from picture_server import picture

from pipelines.download import Download
from pipelines.sources import index_table, load_source, read_slice


def run(tmp_path, shard_size=1000, **content):
    """All base rows, download outcomes and refusals of a manifest's only table."""
    manifest = tmp_path / "local.yaml"
    manifest.write_text(yaml.safe_dump({"base": str(tmp_path), **content}))
    source = load_source(str(manifest), [])
    (path,) = source.tables()
    index = index_table(source, path, shard_size)
    rows, kept, rejects = [], [], []
    for number, piece in enumerate(index.slices):
        base, refused = read_slice(source, path, index.digest, piece)
        tar = tmp_path / f"{number:05d}.tar"
        outcome = Download().fetch(base, tar, tmp_path / f"{number:05d}_stats.json")
        whole = tar.read_bytes()
        for row in outcome.kept.to_pylist():
            stored = whole[row["image_offset"] : row["image_offset"] + row["image_size"]]
            assert hashlib.sha256(stored).hexdigest() == row["sha256"]
            kept.append({**row, "bytes": stored})
        rows += base.to_pylist()
        rejects += [*refused, *outcome.rejects]
    assert len(kept) + sum(reject.item is None for reject in rejects) == index.rows
    return rows, kept, rejects


def test_a_folder_of_pictures_and_other_things(tmp_path):
    (tmp_path / "f").mkdir()
    good = picture(31, 17)
    for name, data in {"a.jpg": good, "b.png": b"no picture", "c.jpg": good[:200], "d.jpg": b""}.items():
        (tmp_path / "f" / name).write_bytes(data)
    _, kept, rejects = run(tmp_path, format="folder", tables="f")
    assert [(k["bytes"] == good, k["width"], k["height"]) for k in kept] == [(True, 31, 17)]
    assert [r.reason for r in rejects] == ["not_an_image", "truncated", "empty"]


def test_base64_pictures_of_a_table(tmp_path):
    pictures = [picture(20, 10, seed=i) for i in range(5)]
    lines = [f"{i}\t{base64.b64encode(data).decode()}" for i, data in enumerate(pictures)] + ["5\t*not base64*"]
    (tmp_path / "valid_imgs.tsv").write_text("\r\n".join(lines))
    (tmp_path / "valid_queries.jsonl").write_text(json.dumps({"query_id": 1, "query_text": "裙子", "item_ids": list(range(6))}))
    _, kept, rejects = run(tmp_path, 2, format="tsv_images", tables="valid_imgs.tsv", queries="{stem}_queries.jsonl")
    assert [k["bytes"] for k in kept] == pictures
    assert [r.reason for r in rejects] == ["not_an_image"]


def test_our_own_tars_are_a_webdataset_to_start_from(tmp_path):
    (tmp_path / "f").mkdir()
    for i in range(7):
        (tmp_path / "f" / f"{i}.jpg").write_bytes(picture(20 + i, 10))
        (tmp_path / "f" / f"{i}.txt").write_text(f"picture {i}")
    _, first, _ = run(tmp_path, format="folder", tables="f")
    (tmp_path / "again").mkdir()
    (tmp_path / "00000.tar").rename(tmp_path / "again" / "shard.tar")
    columns = {"captions": "json.caption", "sha256": "json.sha256"}
    rows, second, rejects = run(tmp_path, 3, format="webdataset", tables="again/*.tar", columns=columns)
    assert not rejects
    assert [r["captions"] for r in rows] == [[f"picture {i}"] for i in range(7)]
    assert [k["bytes"] for k in second] == [k["bytes"] for k in first]


def test_a_webdataset_whose_picture_differs_from_its_hash(tmp_path):
    with tarfile.open(tmp_path / "w.tar", "w") as tar:
        for name, data in {"0.jpg": picture(), "0.json": json.dumps({"sha256": "0" * 64}).encode()}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    _, kept, rejects = run(tmp_path, format="webdataset", tables="w.tar", columns={"sha256": "json.sha256"})
    assert not kept and [r.reason for r in rejects] == ["sha256_mismatch"]


def test_the_photographs_beside_the_repository(tmp_path):
    photos = Path(__file__).parents[3] / "shared" / "data" / "photos"
    if not photos.is_dir():
        pytest.skip("no folder shared/data/photos beside the repository")
    rows, kept, rejects = run(tmp_path, 50, format="folder", tables=str(photos))
    assert len(kept) == len(rows) > 0 and not rejects
