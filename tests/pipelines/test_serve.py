"""Processes that are started, adopted and stopped: a small stand-in for most tests, vLLM itself for the last ones."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from pipelines import serve
from pipelines.answers import AnswerStore
from pipelines.model_client import ModelClient, ModelSettings
from pipelines.serve import ServeError, ServeSettings, command, start, status, stop

STAND_IN = '''#!{python}
"""Listens as vLLM does: slow to come up, with a child that outlives it."""
import http.server, os, signal, subprocess, sys, time
arguments = dict(zip(sys.argv, sys.argv[1:]))
if "--die" in sys.argv:
    sys.exit("no such model architecture")
if "--hang" in sys.argv:
    time.sleep(600)
handler = "SIG_IGN" if "--stubborn" in sys.argv else "SIG_DFL"
subprocess.Popen([sys.executable, "-c", f"import signal, time; signal.signal(signal.SIGTERM, signal.{handler}); time.sleep(600)"])
time.sleep(0.3)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer((arguments["--host"], int(arguments["--port"])), Handler).serve_forever()
'''


@pytest.fixture
def settings(tmp_path):
    """A function that makes settings; whatever they started is ended after the test."""
    python = tmp_path / "python"
    python.write_text(STAND_IN.replace("{python}", sys.executable))
    python.chmod(0o755)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")

    def make(**changes) -> ServeSettings:
        base = {"model": str(tmp_path / "model"), "name": "m", "port": 0, "python": python, "folder": tmp_path / "state"}
        return ServeSettings(**{**base, "patience": 30, **changes})

    yield make
    stop(make(), say=lambda _: None)


def family(pid: int) -> list[psutil.Process]:
    return [p for p in psutil.process_iter() if os.getpgid(p.pid) == pid and p.status() != psutil.STATUS_ZOMBIE]


def test_a_server_is_started_then_adopted_then_stopped_with_all_its_processes(settings):
    said: list[str] = []
    first = start(settings(), said.append)
    assert first.started
    assert len(family(first.pid)) == 2
    assert "starting" in said[0] and "answers" in said[-1]
    again = start(settings(), said.append)
    assert (again.pid, again.base_url, again.started) == (first.pid, first.base_url, False)
    state = status(settings())
    assert (state["running"], state["answers"], state["pid"], state["base_url"]) == (True, True, first.pid, first.base_url)
    assert stop(settings(), said.append)
    assert not family(first.pid)
    assert status(settings()) == {"running": False, "answers": False}
    assert not stop(settings(), said.append)


def test_a_process_that_does_not_heed_is_ended(settings, monkeypatch):
    monkeypatch.setattr(serve, "GRACE", 0.5)
    server = start(settings(options=("--stubborn",)))
    stop(settings())
    assert not family(server.pid)


def test_a_server_outlives_the_process_that_started_it(settings, tmp_path):
    config = settings()
    code = "import sys; from pipelines.serve import *; s = start(ServeSettings.model_validate_json(sys.argv[1])); print(s.pid)"
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code, config.model_dump_json()], cwd=root, capture_output=True, text=True, check=True
    )
    server = start(config)
    assert not server.started
    assert server.pid == int(done.stdout.split()[-1])


@pytest.mark.parametrize("change", [{"name": "other"}, {"max_model_len": 99}, {"options": ("--seed", "1")}])
def test_other_settings_replace_the_server(settings, change):
    first = start(settings())
    second = start(settings(**change))
    assert second.started
    assert second.pid != first.pid
    assert not family(first.pid)


def test_a_retrained_model_in_the_same_folder_replaces_the_server(settings, tmp_path):
    first = start(settings())
    (tmp_path / "model" / "model.safetensors").write_bytes(b"new weights")
    assert start(settings()).pid != first.pid


def test_another_port_replaces_the_server_and_the_same_port_does_not(settings):
    first = start(settings())
    port = int(first.base_url.split(":")[2].removesuffix("/v1"))
    assert start(settings(port=port)).pid == first.pid
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        other = probe.getsockname()[1]
    assert start(settings(port=other)).base_url == f"http://127.0.0.1:{other}/v1"
    assert not family(first.pid)


def test_after_kill_nine_the_orphans_are_ended_before_a_new_start(settings):
    first = start(settings())
    os.kill(first.pid, signal.SIGKILL)
    os.waitpid(first.pid, 0)
    assert len(family(first.pid)) == 1
    second = start(settings())
    assert second.started
    assert not family(first.pid)


def test_a_note_about_a_process_that_is_gone_is_forgotten(settings):
    config = settings()
    config.folder.mkdir()
    note = {"pid": 2**22 - 3, "create_time": 1.0, "port": 1, "command": "x", "model": "m", "name": "m"}
    (config.folder / "server.json").write_text(json.dumps(note))
    assert status(config) == {"running": False, "answers": False}
    assert start(config).started


def test_a_process_that_has_got_the_recorded_number_is_left_alone(settings):
    """The number was given anew: same pid, other start time."""
    config = settings()
    config.folder.mkdir()
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        note = {"pid": bystander.pid, "create_time": time.time() - 3600, "port": 1, "command": "x", "model": "m", "name": "m"}
        (config.folder / "server.json").write_text(json.dumps(note))
        assert not stop(config)
        assert start(config).started
        stop(config)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_damaged_note_is_forgotten(settings, text):
    config = settings()
    config.folder.mkdir()
    (config.folder / "server.json").write_text(text)
    assert not status(config)["running"]


def test_a_port_taken_by_a_stranger_is_said_and_the_stranger_is_left_alone(settings):
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        with pytest.raises(ServeError, match=rf"port {port} .* is taken by .*{os.getpid()}.*base_url"):
            start(settings(port=port))
    assert not status(settings())["running"]


def test_a_server_that_ends_while_starting_shows_its_last_words(settings):
    with pytest.raises(ServeError, match="no such model architecture"):
        start(settings(options=("--die",)))
    assert not status(settings())["running"]


def test_a_server_that_never_answers_is_ended(settings):
    with pytest.raises(ServeError, match="did not answer within"):
        start(settings(options=("--hang",), patience=0.5))
    assert not status(settings())["running"]


def test_a_missing_environment_says_how_to_make_it(settings, tmp_path):
    with pytest.raises(ServeError, match="make setup"):
        start(settings(python=tmp_path / "none"))
    with pytest.raises(ServeError, match="no such model folder"):
        start(settings(model=str(tmp_path / "no-model")))


def test_starts_at_once_from_several_places_make_one_server(settings):
    servers = []
    threads = [threading.Thread(target=lambda: servers.append(start(settings(), say=lambda _: None))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({server.pid for server in servers}) == 1
    assert sorted(server.started for server in servers) == [False, False, False, True]


def test_a_start_need_not_wait(settings):
    server = start(settings(), wait=False)
    assert server.started
    assert status(settings())["running"]
    assert start(settings()).pid == server.pid
    assert status(settings())["answers"]


def test_only_this_machine_may_ask_unless_told_otherwise(settings):
    arguments, _ = command(settings(), 8000)
    assert arguments[arguments.index("--host") + 1] == "127.0.0.1"


def test_on_a_cpu_no_prompt_is_read_in_parts(settings):
    """vLLM's worker ends on one that is, where the request has a seed and a temperature."""
    assert "--no-enable-chunked-prefill" in command(settings(), 8000)[0]
    assert "--no-enable-chunked-prefill" not in command(settings(device="cuda"), 8000)[0]
    allowed, _ = command(settings(options=("--enable-chunked-prefill",)), 8000)
    assert allowed.index("--enable-chunked-prefill") > allowed.index("--no-enable-chunked-prefill")  # the later one counts


SCHEMA = """
name: ask
version: 1
language: en
system: Answer in JSON.
user: Picture {{ number }}.
answer_schema:
  type: object
  properties: {verdicts: {type: array, minItems: 3, maxItems: 3, items: {type: boolean}}}
  required: [verdicts]
  additionalProperties: false
sampling: {temperature: 0, max_tokens: 40, seed: 0}
"""


@pytest.mark.vllm
def test_vllm_answers_many_picture_questions_at_once_in_the_form_asked_for(vllm_server, tmp_path):
    (tmp_path / "ask.yaml").write_text(SCHEMA)

    async def ask_all() -> list:
        client = ModelClient(ModelSettings(base_url=vllm_server.base_url, name=vllm_server.name, concurrency=8))
        identity = await client.identity()
        assert identity["weights"].startswith("sha256:")
        assert identity["server"]
        store = AnswerStore(tmp_path / "answers", "a")
        pictures = [Image.new("RGB", (200 + 10 * i, 150), (20 * i, 100, 255 - 20 * i)) for i in range(12)]
        answers = await asyncio.gather(
            *(client.ask_for(store, f"{i:064x}", tmp_path)("ask", {"number": i}, p) for i, p in enumerate(pictures))
        )
        await client.check_identity()
        assert client.counters()["requests"] == 12
        store.close()
        await client.close()
        return answers

    for answer in asyncio.run(ask_all()):
        assert answer.finish == "stop"
        assert [type(v) for v in json.loads(answer.text)["verdicts"]] == [bool] * 3
        assert answer.prompt_tokens > 40
        assert 0 < answer.output_tokens <= 40


@pytest.mark.vllm
def test_vllm_sees_the_picture_at_the_size_that_was_sent(vllm_server, tmp_path):
    """Prompt tokens grow by one per 28 x 28 pixels: the server's own resize changes nothing."""
    (tmp_path / "ask.yaml").write_text(SCHEMA)

    async def tokens(size: tuple[int, int]) -> int:
        client = ModelClient(ModelSettings(base_url=vllm_server.base_url, name=vllm_server.name))
        with AnswerStore(tmp_path / "answers", "a") as store:
            ask = client.ask_for(store, f"{size[0]:064x}", tmp_path)
            answer = await ask("ask", {"number": 1}, Image.new("RGB", size))
        await client.close()
        return answer.prompt_tokens

    small, large = asyncio.run(tokens((280, 280))), asyncio.run(tokens((560, 280)))
    assert large - small == (560 - 280) // 28 * (280 // 28)


@pytest.mark.vllm
def test_vllm_survives_more_seeded_words_at_once_than_it_reads_in_a_step(vllm_server, tmp_path):
    (tmp_path / "ask.yaml").write_text(SCHEMA.replace("temperature: 0,", "temperature: 0.7,"))

    async def ask_all() -> list:
        client = ModelClient(ModelSettings(base_url=vllm_server.base_url, name=vllm_server.name, concurrency=8))
        with AnswerStore(tmp_path / "answers", "a") as store:
            ask = client.ask_for(store, None, tmp_path)
            answers = await asyncio.gather(*(ask("ask", {"number": f"{i} of " + "seven red balls " * 100}) for i in range(8)))
        await client.close()
        return answers

    answers = asyncio.run(ask_all())
    assert sum(answer.prompt_tokens for answer in answers) > 2 * 2048
    assert [answer.finish for answer in answers] == ["stop"] * 8


@pytest.mark.vllm
def test_vllm_refuses_a_request_that_is_too_long_and_the_client_says_so(vllm_server, tmp_path):
    (tmp_path / "ask.yaml").write_text(SCHEMA.replace("max_tokens: 40", "max_tokens: 4000"))

    async def ask() -> str:
        client = ModelClient(ModelSettings(base_url=vllm_server.base_url, name=vllm_server.name))
        with AnswerStore(tmp_path / "answers", "a") as store:
            answer = await client.ask_for(store, None, tmp_path)("ask", {"number": 1})
        await client.close()
        return answer.finish

    assert asyncio.run(ask()) == "error:400"


@pytest.mark.vllm
def test_vllm_is_adopted_by_whoever_starts_it_alike(vllm_server):
    note = json.loads((vllm_server.folder / "server.json").read_text())
    state = status(ServeSettings(model=str(vllm_server.model), name=vllm_server.name, folder=vllm_server.folder))
    assert (state["answers"], state["pid"], state["base_url"]) == (True, note["pid"], vllm_server.base_url)
    assert state["memory_gib"] > 0.5
