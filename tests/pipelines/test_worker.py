"""What ends a run, and what is one shard's own."""

import errno
import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from in_process import ModelServer
from picture_server import picture
from tiny_onnx import make_tiny_onnx

import prompts
from operators.base import OtherVersion
from operators.size import Size
from pipelines.config import load_recipe
from pipelines.run import Options, prepare
from pipelines.stores import StoreError, StoreFailed, place
from pipelines.worker import StopRun, Worker, stopping
from prompts.load import load


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run" / "tables").mkdir(parents=True)
    return tmp_path / "run"


def system(number, path=None):
    return OSError(number, os.strerror(number), None if path is None else str(path))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.EMFILE])
def test_what_every_shard_would_meet_stops_the_run(run, number):
    with pytest.raises(StopRun, match="nothing committed is lost"), stopping(run):
        raise system(number, run / "size" / "1.parquet")


def test_a_permission_that_is_missing_in_the_runs_folder_stops_it_and_elsewhere_it_does_not(run, tmp_path):
    with pytest.raises(StopRun, match="can be read and written"), stopping(run):
        raise system(errno.EACCES, run / "size" / "1.parquet")
    with pytest.raises(PermissionError), stopping(run):
        raise system(errno.EACCES, tmp_path / "pictures" / "1.jpg")


def test_a_run_whose_folder_was_moved_away_stops(run):
    run.rename(run.with_name("elsewhere"))
    (run / "size").mkdir(parents=True)  # as a writer leaves it
    with pytest.raises(StopRun, match="is gone"), stopping(run):
        raise system(errno.ENOENT, run / "size" / "1.parquet")


def test_a_store_that_refuses_stops_the_run_and_one_that_is_away_fails_a_shard():
    run = place("s3://bucket/runs/one")
    with pytest.raises(StopRun, match="the store refuses: AccessDenied"), stopping(run):
        raise StoreError("AccessDenied")
    with pytest.raises(StoreFailed), stopping(run):
        raise StoreFailed("no answer")
    with pytest.raises(StopRun, match="the disk is full"), stopping(run):  # of the scratch folder
        raise system(errno.ENOSPC)


def test_a_file_that_is_missing_is_one_shards_own(run):
    with pytest.raises(FileNotFoundError), stopping(run):
        raise system(errno.ENOENT, run / "size" / "1.parquet")


def test_a_disk_with_room_and_no_place_for_one_more_file_is_told_as_that(run, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_files=90, f_favail=0))
    with pytest.raises(StopRun, match="can hold no more files"), stopping(run):
        raise system(errno.ENOSPC, run / "size" / "1.parquet")


def test_a_worker_of_another_version_than_the_run_began_with_does_not_begin(tmp_path, monkeypatch):
    """A prompt is edited while pictures are downloaded; an operator is another on one node. It would be written down as the first."""
    shutil.copytree(Path(prompts.__file__).parent, tmp_path / "prompts")
    (tmp_path / "cat.jpg").write_bytes(picture(60, 50))
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"format": "folder", "tables": str(tmp_path), "language": "en"}))
    body = {"recipe": "one", "sources": [str(tmp_path / "own.yaml")], "disk_floor_gb": 0}
    body["stages"] = {"download": {}, "size": {}, "caption": {"operator": "recaption", "language": "en"}}
    with ModelServer(lambda text: "a cat") as server:
        body["model"] = {"base_url": server.url, "name": server.name}
        (tmp_path / "one.yaml").write_text(yaml.safe_dump(body, sort_keys=False))
        recipe = load_recipe(tmp_path / "one.yaml")
        chain = prepare(recipe, tmp_path / "runs", Options(prompts=tmp_path / "prompts"))
    size, caption = recipe.stage("size"), recipe.stage("caption")
    began = [chain.made_by(stage) for stage in (size, caption)]
    sent = pickle.dumps(chain)
    Worker(pickle.loads(sent), caption)

    prompt = tmp_path / "prompts" / "long_caption_en.yaml"
    prompt.write_text(prompt.read_text().replace("Describe this picture.", "Describe what you see."))
    load.cache_clear()  # another process has read nothing yet
    with pytest.raises(OtherVersion, match="prompt long_caption_en of stage caption is another version"):
        Worker(pickle.loads(sent), caption)
    Worker(pickle.loads(sent), size)
    monkeypatch.setattr(Size, "version", 99)
    with pytest.raises(OtherVersion, match="operator size of stage size"):
        Worker(pickle.loads(sent), size)
    assert [pickle.loads(sent).made_by(stage) for stage in (size, caption)] == began


def test_a_worker_whose_model_file_is_another_does_not_begin(tmp_path):
    """The settings that arrive hold the hash of the file that the run was planned with; the file is the node's own."""
    model = make_tiny_onnx(tmp_path / "nsfw.onnx")
    (tmp_path / "cat.jpg").write_bytes(picture(60, 50))
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"format": "folder", "tables": str(tmp_path), "language": "en"}))
    body = {"recipe": "one", "sources": [str(tmp_path / "own.yaml")], "disk_floor_gb": 0}
    body["stages"] = {"download": {}, "nsfw": {"operator": "onnx_score", "model": model, "size": 8}}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(body, sort_keys=False))
    recipe = load_recipe(tmp_path / "one.yaml")
    sent = pickle.dumps((prepare(recipe, tmp_path / "runs", Options()), recipe.stage("nsfw")))
    make_tiny_onnx(Path(model), side=16)
    with pytest.raises(OtherVersion, match=r"file \S+nsfw\.onnx is another version here"):
        Worker(*pickle.loads(sent))
    make_tiny_onnx(Path(model))
    Worker(*pickle.loads(sent))
