import http.client
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from demo import server

ROOT = Path(__file__).resolve().parents[2]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def running(small):
    folder, _, _ = small
    instance = server.ensure(folder, free_port(), idle=60)
    yield instance
    server.stop(folder)


class Quiet(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def get(running, path):
    opener = urllib.request.build_opener(Quiet)
    try:
        with opener.open(running.url + path, timeout=5) as reply:
            return reply.status, dict(reply.headers), reply.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def test_a_picture_comes_whole(running):
    status, headers, body = get(running, "/pictures/scene-000003.jpg")
    assert status == 200 and headers["Content-Type"] == "image/jpeg"
    Image.open(io.BytesIO(body)).load()


def test_missing_and_outside_names_are_404(running):
    assert get(running, "/fault/missing/scene-000003.jpg")[0] == 404
    assert get(running, "/pictures/none.jpg")[0] == 404
    assert get(running, "/pictures/..%2Fserver.json")[0] == 404


def test_flaky_fails_once_per_path(running):
    assert get(running, "/fault/flaky/scene-000003.jpg")[0] == 503
    assert get(running, "/fault/flaky/scene-000003.jpg")[0] == 200
    assert get(running, "/fault/flaky/scene-000004.jpg")[0] == 503


def test_page_is_html_that_claims_to_be_a_picture(running):
    status, headers, body = get(running, "/fault/page/scene-000003.jpg")
    assert status == 200 and headers["Content-Type"] == "image/jpeg" and body.startswith(b"<!doctype html>")


def test_truncated_is_a_complete_answer_with_half_a_picture(running):
    whole, half = get(running, "/pictures/scene-000003.jpg")[2], get(running, "/fault/truncated/scene-000003.jpg")[2]
    assert half == whole[: len(whole) // 2]
    with pytest.raises(OSError):
        Image.open(io.BytesIO(half)).load()


def test_cut_breaks_the_connection(running):
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        get(running, "/fault/cut/scene-000003.jpg")


def test_drip_never_ends(running):
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=5)
    connection.request("GET", "/fault/drip/scene-000003.jpg")
    reply = connection.getresponse()
    assert [reply.read(1) for _ in range(3)] == [b"\xff"] * 3
    connection.close()
    assert get(running, "/health")[0] == 200


def test_redirects(running):
    assert get(running, "/redirect/scene-000003.jpg")[1]["Location"] == "/pictures/scene-000003.jpg"
    assert get(running, "/redirect/loop/a.jpg")[1]["Location"] == "/redirect/loop/a.jpg"
    assert get(running, "/redirect/private/a.jpg")[1]["Location"] == server.PRIVATE


def test_noindex_is_said_in_the_header(running):
    status, headers, _ = get(running, "/fault/noindex/scene-000003.jpg")
    assert status == 200 and "noindex" in headers["X-Robots-Tag"] and "noai" in headers["X-Robots-Tag"]


def test_the_next_run_adopts_a_server_that_runs(running):
    again = server.ensure(Path(running.folder), running.port)
    assert again == running


def test_a_dead_record_is_replaced(running):
    folder = Path(running.folder)
    server.stop(folder)
    (folder / server.RECORD).write_text(
        json.dumps({"pid": os.getpid(), "started": 0.0, "port": running.port, "folder": str(folder)})
    )
    fresh = server.ensure(folder, running.port, idle=60)
    assert fresh.pid not in (os.getpid(), running.pid) and fresh.alive()


def test_a_taken_port_is_an_error_that_says_what_to_do(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RuntimeError, match="with --port"):
            server.ensure(tmp_path, taken.getsockname()[1])


def wait_until_gone(pid):
    for _ in range(100):
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def test_it_ends_with_its_owner(tmp_path):
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    instance = server.ensure(tmp_path, free_port(), owner=owner.pid)
    owner.kill()
    owner.wait()
    assert wait_until_gone(instance.pid)
    assert not (tmp_path / server.RECORD).exists()


def test_it_ends_when_nobody_asks(tmp_path):
    instance = server.ensure(tmp_path, free_port(), idle=1)
    assert wait_until_gone(instance.pid)
