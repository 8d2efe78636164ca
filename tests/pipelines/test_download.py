"""The download stage against a real server that misbehaves."""

import errno
import gzip
import hashlib
import json
import os
import socket
import tarfile
import threading
import time
import urllib.request
from email.utils import formatdate
from pathlib import Path

import pyarrow as pa
import pytest
import webdataset
from fetching import QUICK, fetch, reason
from picture_server import PictureServer, answer, drip, hang_up, picture, silent, wait_until

from operators.columns import IMAGE
from pipelines.download import Download, FetchError, is_retryable
from pipelines.download.engine import Spool
from pipelines.download.fetcher import Fetcher
from pipelines.download.network import Clock, Resolver, refused
from pipelines.download.tar import header


@pytest.fixture
def server():
    with PictureServer() as server:
        yield server


def test_pictures_are_stored_untouched_where_the_columns_say(server, tmp_path):
    first, second = picture(64, 48), picture(30, 20, "PNG")
    outcome = fetch(tmp_path, server.serve("/a.jpg", first), server.url + "/gone.jpg", server.serve("/b", second))
    assert outcome.kept.schema == pa.schema([pa.field("uid", pa.string()), *IMAGE])
    rows = outcome.kept.to_pylist()
    assert [(r["uid"][-1], r["image_format"], r["width"], r["height"]) for r in rows] == [
        ("0", "JPEG", 64, 48),
        ("2", "PNG", 30, 20),
    ]
    whole = (tmp_path / "images" / "00000.tar").read_bytes()
    for row, data in zip(rows, (first, second), strict=True):
        assert whole[row["image_offset"] : row["image_offset"] + row["image_size"]] == data
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
    assert [(r.uid[-1], r.reason, r.item) for r in outcome.rejects] == [("1", "http_404", None)]


def test_the_layout_is_img2datasets_and_webdataset_reads_it(server, tmp_path):
    data = picture()
    fetch(tmp_path, server.serve("/a.jpg", data), {"url": server.serve("/b.jpg", data), "captions": ["第二"], "license": "CC0"})
    tar = tmp_path / "images" / "00000.tar"
    with tarfile.open(tar) as members:
        assert members.getnames() == [f"{i:032x}.{e}" for i in range(2) for e in ("jpg", "txt", "json")]
    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False))
    assert [s["__key__"] for s in samples] == [f"{0:032x}", f"{1:032x}"]
    assert samples[1]["txt"].decode() == "第二"
    meta = json.loads(samples[1]["json"])
    assert meta["status"] == "success" and meta["license"] == "CC0" and meta["key"] == f"{1:032x}"
    stats = json.loads((tmp_path / "images" / "00000_stats.json").read_text())
    assert (stats["count"], stats["successes"], stats["status_dict"]) == (2, 2, {"success": 2})


@pytest.mark.parametrize("size", [0, 5000, 8**11 - 1])
def test_headers_are_those_of_tarfile(size):
    info = tarfile.TarInfo("0123456789abcdef0123456789abcdef.json")
    info.size, info.mode = size, 0o644
    assert header(info.name, size) == info.tobuf(tarfile.USTAR_FORMAT)


def test_the_same_shard_makes_the_same_bytes(server, tmp_path):
    urls = [server.serve(f"/{i}.jpg", picture(seed=i)) for i in range(20)]
    tars = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        fetch(folder, *urls, threads=7)
        tars.append((folder / "images" / "00000.tar").read_bytes())
    assert tars[0] == tars[1]


def test_what_a_host_says_is_the_reason(server, tmp_path):
    for status in (404, 410, 403, 451):
        path = f"/{status}.jpg"
        assert reason(tmp_path / _made(tmp_path, path), server.behave(path, answer(status))) == f"http_{status}"
        assert server.asked[path] == 1
        assert not is_retryable(f"http_{status}")


def _made(folder: Path, name: str) -> str:
    name = name.strip("/").replace("/", "_")
    (folder / name).mkdir()
    return name


def test_only_what_can_recover_is_tried_again(server, tmp_path):
    data = picture()
    urls = [
        server.behave("/busy.jpg", answer(503), answer(429), answer(200, data)),
        server.behave("/resets.jpg", hang_up, answer(200, data)),
        server.behave("/waits.jpg", answer(503, Retry_After="0"), answer(200, data)),
    ]
    outcome = fetch(tmp_path, *urls, retries=2)
    assert len(outcome.kept) == 3, outcome.rejects
    assert server.asked["/busy.jpg"] == 3


def test_a_host_that_stays_busy_is_given_up_and_may_be_asked_in_a_later_run(server, tmp_path):
    assert reason(tmp_path, server.behave("/busy.jpg", answer(503)), retries=2) == "http_503"
    assert server.asked["/busy.jpg"] == 3
    assert is_retryable("http_503") and is_retryable("timeout") and not is_retryable("opted_out")


def test_a_host_that_asks_for_a_long_wait_is_not_waited_for(server, tmp_path):
    assert reason(tmp_path, server.behave("/later.jpg", answer(429, Retry_After="3600"))) == "http_429"
    assert server.asked["/later.jpg"] == 1


def test_a_time_until_which_to_wait_may_be_a_date(server, tmp_path):
    """It was taken for no wish at all, and the host was asked again at once."""
    now = time.time()
    later = server.behave("/later.jpg", answer(503, Retry_After=formatdate(now + 3600, usegmt=True)))
    past = server.behave("/past.jpg", answer(503, Retry_After=formatdate(now - 3600, usegmt=True)), answer(200, picture()))
    nonsense = server.behave("/soon.jpg", answer(503, Retry_After="Soon, 99 Foo"), answer(200, picture()))
    outcome = fetch(tmp_path, later, past, nonsense)
    assert [reject.reason for reject in outcome.rejects] == ["http_503"] and len(outcome.kept) == 2
    assert server.asked["/later.jpg"] == 1


def test_a_dripping_host_does_not_hold_the_shard(server, tmp_path):
    urls = [
        server.behave("/body.jpg", drip(picture(400, 300), 0.1)),
        server.behave("/head.jpg", lambda handler: _drip_head(handler)),
    ]
    outcome = fetch(tmp_path, *urls, timeout=0.5, deadline=2.0, min_bytes_per_second=0, retries=3)
    assert {r.reason for r in outcome.rejects} == {"deadline"}


def _drip_head(handler):
    handler.close_connection = True
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Long: y\r\n" * 100:
        handler.wfile.write(bytes([byte]))
        if handler.server.stopping.wait(0.1):
            return


def test_a_trickle_is_cut_before_the_deadline(server, tmp_path):
    url = server.behave("/slow.jpg", drip(picture(400, 300), 0.05))
    assert reason(tmp_path, url, timeout=0.5, deadline=30.0, min_bytes_per_second=5000) == "too_slow"


def test_silence_is_a_timeout(server, tmp_path):
    assert reason(tmp_path, server.behave("/mute.jpg", silent(20)), timeout=0.3, retries=1) == "timeout"
    assert server.asked["/mute.jpg"] == 2


def test_a_host_that_keeps_failing_is_left_alone(server, tmp_path):
    urls = [server.behave(f"/{i}.jpg", silent(20)) for i in range(40)]
    outcome = fetch(tmp_path, *urls, timeout=0.3, retries=0, host_failures=4, per_host=2)
    reasons = [r.reason for r in outcome.rejects]
    assert set(reasons) == {"timeout", "host_down"} and reasons.count("timeout") <= 6
    assert sum(server.asked[f"/{i}.jpg"] for i in range(40)) <= 6


def test_one_host_is_never_asked_by_more_than_its_share(server, tmp_path):
    most = [0, 0]
    lock = threading.Lock()

    def busy(handler):
        with lock:
            most[0] += 1
            most[1] = max(most)
        time.sleep(0.05)
        with lock:
            most[0] -= 1
        handler.answer(200, picture())

    outcome = fetch(tmp_path, *[server.behave(f"/{i}.jpg", busy) for i in range(20)], per_host=3, threads=20)
    assert len(outcome.kept) == 20 and most[1] <= 3


@pytest.fixture
def names(server, monkeypatch):
    """Every host name leads to the server: a function that gives an address at one."""
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: real("127.0.0.1", *rest, **more))
    return lambda host, path: f"http://{host}.example:{server.server_address[1]}{path}"


ALONE = {"respect_robots_txt": False, "respect_opt_out": False, "retries": 0}


def test_a_host_that_many_redirect_to_is_not_asked_by_more_than_its_share(server, names, tmp_path):
    """Twenty hosts, one CDN behind them: all twenty were at it at once."""
    most = [0, 0]
    lock = threading.Lock()

    def busy(handler):
        with lock:
            most[0] += 1
            most[1] = max(most)
        time.sleep(0.05)
        with lock:
            most[0] -= 1
        handler.answer(200, picture())

    server.behave("/big.jpg", busy)
    for i in range(20):
        server.behave(f"/{i}.jpg", answer(302, Location=names("cdn", "/big.jpg")))
    outcome = fetch(tmp_path, *[names(f"host{i}", f"/{i}.jpg") for i in range(20)], per_host=2, threads=20, **ALONE)
    assert len(outcome.kept) == 20 and most[1] <= 2


def test_a_dead_host_behind_a_redirect_is_left_alone_and_the_one_that_redirects_is_not(server, names, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = f"http://dead.example:{closed.getsockname()[1]}/a.jpg"
        for i in range(6):
            server.behave(f"/{i}.jpg", answer(302, Location=dead))
            server.serve(f"/good{i}.jpg", picture())
        urls = [names("living", path) for i in range(6) for path in (f"/{i}.jpg", f"/good{i}.jpg")]
        outcome = fetch(tmp_path, *urls, threads=1, host_failures=2, **ALONE)
    assert len(outcome.kept) == 6
    assert [reject.reason for reject in outcome.rejects] == ["connection"] * 2 + ["host_down"] * 4
    assert "dead.example" in outcome.rejects[-1].detail


def test_hosts_that_redirect_to_each_other_do_not_wait_for_each_other(server, names, tmp_path):
    """With one place at each: whoever held his own while he waited for the other's would wait for ever."""
    server.serve("/end.jpg", picture())
    for here, there in ("ab", "ba", "cc"):
        for i in range(4):
            server.behave(f"/{here}{i}.jpg", answer(302, Location=names(there, "/end.jpg")))
    urls = [names(host, f"/{host}{i}.jpg") for i in range(4) for host in "abc"]
    assert len(fetch(tmp_path, *urls, threads=12, per_host=1, **ALONE).kept) == 12


def test_waiting_behind_others_of_this_process_is_not_the_pictures_time(server, tmp_path):
    def slow(handler):
        time.sleep(0.4)
        handler.answer(200, picture())

    urls = [server.behave(f"/{i}.jpg", slow) for i in range(8)]
    assert len(fetch(tmp_path, *urls, threads=8, per_host=1, deadline=2.0, **ALONE).kept) == 8


def test_a_shard_that_is_given_up_does_not_wait_for_a_place(server):
    fetcher = Fetcher(Download(**{**QUICK, **ALONE, "timeout": 20.0, "deadline": 20.0, "per_host": 1}))
    holds, waits, errors = threading.Event(), threading.Event(), []

    def ask(path, stop):
        with pytest.raises(FetchError) as caught:
            fetcher.fetch(server.url + path, stop)
        errors.append(str(caught.value))

    server.behave("/silent.jpg", silent(20))
    threads = [threading.Thread(target=ask, args=pair, daemon=True) for pair in (("/silent.jpg", holds), ("/next.jpg", waits))]
    threads[0].start()
    assert wait_until(lambda: server.asked["/silent.jpg"] == 1)
    threads[1].start()
    waits.set()
    threads[1].join(10)
    assert threads[0].is_alive() and errors == ["deadline: the shard was given up"]
    assert server.asked["/next.jpg"] == 0
    server.stopping.set()
    threads[0].join(10)
    assert [host.active for host in fetcher.hosts.values()] == [0]


def test_broken_bodies_have_their_own_reasons(server, tmp_path):
    data = picture(200, 200)
    cases = {
        "/cut.jpg": (answer(200, data[:500], Content_Length=str(len(data)), Connection="close"), "incomplete"),
        "/trunc.jpg": (answer(200, data[:-300]), "truncated"),
        "/trunc.png": (answer(200, picture(200, 200, "PNG")[:-400]), "truncated"),
        "/page.jpg": (answer(200, b"<!DOCTYPE html><html>gone</html>"), "not_an_image"),
        "/text.jpg": (answer(200, b"no picture here"), "not_an_image"),
        "/drawing.jpg": (answer(200, b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'), "svg"),
        "/none.jpg": (answer(200, b""), "empty"),
        "/script.eps": (answer(200, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"), "not_an_image"),
        "/zip.jpg": (answer(200, b"x", Content_Encoding="br"), "bad_encoding"),
    }
    urls = [server.behave(path, behaviour) for path, (behaviour, _) in cases.items()]
    outcome = fetch(tmp_path, *urls, retries=0)
    assert len(outcome.kept) == 0
    assert [r.reason for r in outcome.rejects] == [wanted for _, wanted in cases.values()]


def test_size_is_bounded_by_what_comes_not_by_what_was_announced(server, tmp_path):
    def endless(handler):
        handler.close_connection = True
        handler.send_response(200)
        handler.end_headers()
        while not handler.server.stopping.is_set():
            handler.wfile.write(b"\xff\xd8" * 5000)

    urls = [
        server.behave("/endless.jpg", endless),
        server.behave("/claims.jpg", answer(200, b"x", Content_Length="99999999999", Connection="close")),
        server.behave("/bomb.jpg", answer(200, gzip.compress(b"\0" * 10_000_000), Content_Encoding="gzip")),
    ]
    assert reason(tmp_path, *urls, max_bytes=100_000) == "too_large"


def test_a_compressed_answer_is_unpacked(server, tmp_path):
    data = picture()
    outcome = fetch(tmp_path, server.serve("/a.jpg", gzip.compress(data), Content_Encoding="gzip"))
    assert outcome.kept["sha256"].to_pylist() == [hashlib.sha256(data).hexdigest()]


def test_what_follows_a_compressed_answer_is_not_read(server, tmp_path):
    """zlib keeps every byte of it, and copies them with each piece that comes."""
    body, sent = gzip.compress(picture()), []

    def endless(handler):
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(body)
        for _ in range(100):
            handler.wfile.write(bytes(1 << 20))
            sent.append(1)

    outcome = fetch(tmp_path, server.behave("/junk.jpg", endless), max_bytes=50 << 20, deadline=30.0)
    assert len(outcome.kept) == 1 and len(sent) < 30


def test_pixels_are_counted_before_anything_is_decoded(server, tmp_path):
    url = server.serve("/huge.png", picture(3000, 3000, "PNG"))
    assert reason(tmp_path, url, max_pixels=1_000_000) == "too_many_pixels"


def test_redirects_are_followed_within_bounds(server, tmp_path):
    data = picture()
    server.serve("/end.jpg", data)
    urls = [
        server.behave("/once.jpg", answer(302, Location="/end.jpg")),
        server.behave("/whole.jpg", answer(308, Location=server.url + "/end.jpg")),
        server.behave("/loop.jpg", answer(301, Location="/loop.jpg")),
        server.behave("/file.jpg", answer(302, Location="file:///etc/passwd")),
        server.behave("/metadata.jpg", answer(302, Location="http://169.254.169.254/latest/meta-data/")),
    ]
    outcome = fetch(tmp_path, *urls)
    assert len(outcome.kept) == 2
    assert [r.reason for r in outcome.rejects] == ["redirect_refused", "redirect_refused", "refused_address"]


@pytest.mark.parametrize("where", ["http://[::1/a.jpg", "http://[half/", "https://a\u2100b.example/", "//[", "http://:80:80/"])
def test_a_redirect_to_nonsense_costs_one_picture_and_not_the_shard(server, tmp_path, where):
    good = server.serve("/good.jpg", picture())
    bad = server.behave("/bad.jpg", raw_location(where.encode()))
    outcome = fetch(tmp_path, bad, good)
    assert [row["uid"][-1] for row in outcome.kept.to_pylist()] == ["1"]
    assert outcome.rejects[0].reason in ("redirect_refused", "bad_url")


def test_redirects_written_in_bytes_lead_where_browsers_go(server, tmp_path):
    names = {"/图片.jpg".encode(): "/%E5%9B%BE%E7%89%87.jpg", "/图片.jpg".encode("gbk"): "/%CD%BC%C6%AC.jpg"}
    urls = []
    for number, (location, path) in enumerate(names.items()):
        server.serve(path, picture())
        urls.append(server.behave(f"/{number}.jpg", raw_location(location)))
    assert len(fetch(tmp_path, *urls).kept) == 2


def raw_location(where: bytes):
    def behave(handler):
        handler.close_connection = True
        handler.wfile.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + where + b"\r\n\r\n")

    return behave


def test_private_addresses_are_never_connected_to(server, tmp_path):
    port = server.server_address[1]
    server.default = [answer(200, picture())]
    hosts = ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"]
    urls = [f"http://{host}:{port}/a.jpg" for host in hosts] + [
        "http://169.254.169.254/",
        "http://10.0.0.1/",
        "http://[fe80::1]/",
    ]
    outcome = fetch(tmp_path, *urls, allow_private_addresses=False)
    assert {r.reason for r in outcome.rejects} == {"refused_address"} and len(outcome.rejects) == len(urls)
    assert server.connections == 0


REFUSED = """
    127.0.0.1 192.168.1.1 172.16.0.1 100.64.0.1 100.100.100.200 168.63.129.16 224.0.0.1 0.0.0.0 240.0.0.1 192.0.2.1 255.255.255.255
    ::1 :: fd00:ec2::254 ::ffff:10.0.0.1 64:ff9b::a9fe:a9fe 2002:7f00:1:: fe80::1%eth0 ff02::1 2001:db8::1
    fec0::1 ::7f00:1 ::ffff:0:7f00:1 64:ff9b:1::a00:1
"""


@pytest.mark.parametrize("address", REFUSED.split())
def test_address_is_refused(address):
    assert refused(address)


def test_public_addresses_are_not_refused():
    assert not any(refused(a) for a in ("8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808"))


def test_loopback_may_be_allowed_but_metadata_services_never():
    assert not refused("127.0.0.1", allow_private=True) and not refused("10.1.2.3", allow_private=True)
    for address in ("169.254.169.254", "::ffff:169.254.169.254", "168.63.129.16", "fd00:ec2::254", "192.0.0.192", "0.0.0.0"):
        assert refused(address, allow_private=True)


def test_the_address_that_was_checked_is_the_one_connected_to(server, tmp_path, monkeypatch):
    """A name server that gives a good address to the check and a bad one to the connection gets nowhere."""
    answers = iter([[(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]])
    real = socket.getaddrinfo
    bad = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 0))]
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: next(answers, bad) if host == "rebinds.example" else real(host, *a, **k)
    )
    port = server.server_address[1]
    server.default = [answer(200, picture())]
    outcome = fetch(tmp_path, f"http://rebinds.example:{port}/a.jpg", f"http://rebinds.example:{port}/b.jpg")
    assert len(outcome.kept) == 2
    assert {head["host"] for head in server.heads} == {f"rebinds.example:{port}"}


def test_of_several_addresses_only_public_ones_are_tried_and_a_family_that_this_machine_lacks_is_passed_over(
    server, tmp_path, monkeypatch
):
    port, real, opened = server.server_address[1], socket.socket, []
    found = [(socket.AF_INET6, "::ffff:169.254.169.254"), (socket.AF_INET6, "2606:4700::1"), (socket.AF_INET, "127.0.0.1")]
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: [(f, socket.SOCK_STREAM, 6, "", (address, port)) for f, address in found]
    )

    class NoIPv6(real):
        def __init__(self, family=-1, *arguments, **options):
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *arguments, **options)

        def connect(self, address):
            opened.append(address[0])
            super().connect(address)

    server.default = [answer(200, picture())]
    monkeypatch.setattr(socket, "socket", NoIPv6)
    outcome = fetch(tmp_path, f"http://both.example:{port}/a.jpg")
    assert len(outcome.kept) == 1 and set(opened) == {"127.0.0.1"}


def test_threads_do_not_pile_up_before_a_silent_name_server(monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: over.wait(10))
    resolver = Resolver(at_once=1)
    reasons = []
    for i in range(12):
        with pytest.raises(FetchError) as caught:
            resolver(f"{i}.example", 80, Clock(time.monotonic() + 0.02, 0.02, 0, threading.Event()))
        reasons.append(caught.value.detail.partition(": ")[2])
    assert sum("being asked for already" in text for text in reasons) == 4
    waiting = [thread for thread in threading.enumerate() if thread.name == "resolve"]
    assert len(waiting) <= 8
    over.set()
    for thread in waiting:  # or they would ask the name server of the next test
        thread.join(10)


def test_names_are_asked_for_once(server, tmp_path, monkeypatch):
    asked = []
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **k: asked.append(host) or real("127.0.0.1", *a, **k))
    port = server.server_address[1]
    server.default = [answer(200, picture(), Connection="close")]
    fetch(tmp_path, *[f"http://names.example:{port}/{i}.jpg" for i in range(30)], respect_robots_txt=False)
    assert asked == ["names.example"]


def test_a_name_without_address_and_a_name_server_that_is_silent(tmp_path, monkeypatch):
    def look_up(host, *a, **k):
        if host == "silent.example":
            time.sleep(3)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    outcome = fetch(tmp_path, "http://nowhere.example/a.jpg", "http://silent.example/a.jpg", timeout=0.3, retries=0)
    assert [r.reason for r in outcome.rejects] == ["dns", "dns_failed"]
    assert not is_retryable("dns") and is_retryable("dns_failed")


def test_patience_may_be_changed_in_the_middle_of_a_run_and_what_is_accepted_may_not():
    """More threads for the second week must not fetch the first week's pictures again."""
    known = Download().model_dump(mode="json")
    patient = {"timeout": 5, "deadline": 9, "retries": 9, "threads": 9, "per_host": 2, "host_rest": 9, "user_agent": "Me/1"}
    assert Download(**patient).model_dump(mode="json") == known
    for name, value in {"max_bytes": 9, "max_pixels": 9, "respect_opt_out": False, "licenses": ["CC0"]}.items():
        assert Download(**{name: value}).model_dump(mode="json") != known
    assert Download(**patient)._fetcher() is not Download()._fetcher()


def test_it_says_who_asks(server, tmp_path):
    fetch(tmp_path, server.serve("/a.jpg", picture()), user_agent="Looms/2.0 (+mailto:someone@example.org)")
    assert {head["user-agent"] for head in server.heads} == {"Looms/2.0 (+mailto:someone@example.org)"}


def test_it_says_whom_to_write_to(server, tmp_path):
    fetch(tmp_path, server.serve("/a.jpg", picture()), contact="https://lab.example.org/bot")
    (told,) = {head["user-agent"] for head in server.heads}
    assert "FineLoom/" in told and told.endswith(" (+https://lab.example.org/bot)")


def test_addresses_as_people_write_them(server, tmp_path):
    server.default = [answer(200, picture())]
    urls = [server.url + "/größe 图.jpg?q=ä b&x=%20", server.url.replace("http", "HTTP") + "/A.JPG#part", server.url + "?x"]
    outcome = fetch(tmp_path, *urls)
    assert len(outcome.kept) == 3, outcome.rejects
    assert "/gr%C3%B6%C3%9Fe%20%E5%9B%BE.jpg?q=%C3%A4%20b&x=%20" in {head["path"] for head in server.heads}


def test_addresses_that_mean_nothing(tmp_path):
    urls = [
        "http://",
        "http://[::1",
        "http://host:99999/",
        "http://a b/",
        "http://" + "a" * 300 + ".example/x.jpg",
        "http://h:0/",
    ]
    assert {r.reason for r in fetch(tmp_path, *urls).rejects} <= {"bad_url", "dns"}


def test_connections_are_used_again(server, tmp_path):
    server.default = [answer(200, picture())]
    outcome = fetch(tmp_path, *[f"{server.url}/{i}.jpg" for i in range(60)], threads=4)
    assert len(outcome.kept) == 60 and server.connections <= 4


def test_a_host_that_closes_kept_connections_costs_nothing(server, tmp_path):
    """Without Connection: close, so that the next request finds a dead connection."""

    def answer_and_hang_up(handler):
        handler.answer(200, picture())
        handler.close_connection = True

    server.default = [answer_and_hang_up]
    outcome = fetch(tmp_path, *[f"{server.url}/{i}.jpg" for i in range(30)], retries=0, threads=4)
    assert len(outcome.kept) == 30, outcome.rejects


def test_the_sources_hash_is_checked(server, tmp_path):
    data = picture()
    right = {"url": server.serve("/a.jpg", data), "source_sha256": hashlib.sha256(data).hexdigest()}
    outcome = fetch(tmp_path, right, {**right, "source_sha256": "0" * 64})
    assert len(outcome.kept) == 1 and [r.reason for r in outcome.rejects] == ["sha256_mismatch"]


def test_only_wanted_licences_are_fetched(server, tmp_path):
    url = server.serve("/a.jpg", picture())
    rows = [{"url": url, "license": "CC0"}, {"url": url, "license": "all rights reserved"}, {"url": url}]
    outcome = fetch(tmp_path, *rows, licenses=["CC0"])
    assert [(r.uid[-1], r.reason) for r in outcome.rejects] == [("1", "license"), ("2", "license")]
    assert server.asked["/a.jpg"] == 1


def test_local_pictures_go_through_the_same_checks(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture())
    (tmp_path / "b.jpg").write_bytes(b"<html>")
    refs = [f"file:{tmp_path}/a.jpg", f"file:{tmp_path}/b.jpg", f"file:{tmp_path}/c.jpg", "elsewhere:x"]
    outcome = fetch(tmp_path, *refs)
    assert len(outcome.kept) == 1
    assert [r.reason for r in outcome.rejects] == ["not_an_image", "missing_file", "bad_reference"]


def test_nothing_stays_behind_when_the_disk_is_full(server, tmp_path, monkeypatch):
    server.default = [answer(200, picture())]
    real = Spool.keep

    def keep(self, row, data, found):
        if row == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, row, data, found)

    monkeypatch.setattr(Spool, "keep", keep)
    with pytest.raises(OSError, match="No space left"):
        fetch(tmp_path, *[f"{server.url}/{i}.jpg" for i in range(30)], threads=2)
    assert list((tmp_path / "images").iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_tar_that_cannot_be_written_is_taken_away(server, tmp_path, monkeypatch):
    from pipelines.download import tar as tars

    real = open
    monkeypatch.setattr(
        tars, "open", lambda path, mode, **k: (real(path, mode).close(), real("/dev/full", "wb"))[1], raising=False
    )
    with pytest.raises(OSError, match="No space left"):
        fetch(tmp_path, server.serve("/a.jpg", picture()))
    assert list((tmp_path / "images").iterdir()) == []


def test_running_out_of_file_handles_is_not_the_hosts_fault(server, tmp_path, monkeypatch):
    def no_more(*a, **k):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", no_more)
    with pytest.raises(OSError, match="Too many open files"):
        fetch(tmp_path, server.url + "/a.jpg")


def test_other_users_of_urllib_in_the_process_are_left_alone(server, tmp_path):
    url = server.serve("/a.jpg", picture())
    fetch(tmp_path, url)
    with urllib.request.urlopen(url, timeout=5) as response:
        assert response.status == 200
    assert "Python-urllib" in server.heads[-1]["user-agent"]


def test_two_shards_at_once_keep_their_own_rules(server, tmp_path):
    server.default = [answer(200, picture(), X_Robots_Tag="noai")]
    found = {}

    def run(name, **settings):
        (tmp_path / name).mkdir()
        found[name] = fetch(tmp_path / name, *[f"{server.url}/{i}.jpg" for i in range(40)], **settings)

    threads = [
        threading.Thread(target=run, args=("polite",)),
        threading.Thread(target=run, args=("rude",), kwargs={"respect_opt_out": False}),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found["polite"].kept) == 0 and len(found["rude"].kept) == 40


def test_a_file_that_is_already_there_is_not_touched(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "00000.tar").write_bytes(b"someone else's")
    with pytest.raises(FileExistsError):
        fetch(tmp_path)
    assert (tmp_path / "images" / "00000.tar").read_bytes() == b"someone else's"


def test_an_empty_shard_is_a_shard(tmp_path):
    outcome = fetch(tmp_path)
    assert len(outcome.kept) == 0 and not outcome.rejects
    assert (tmp_path / "images" / "00000.tar").stat().st_size == 10240


def test_open_files_do_not_pile_up(server, tmp_path):
    server.default = [answer(200, picture())]
    fetch(tmp_path, *[f"{server.url}/{i}.jpg" for i in range(20)])
    before = len(os.listdir("/proc/self/fd"))
    for i in range(5):
        (tmp_path / str(i)).mkdir()
        fetch(tmp_path / str(i), *[f"{server.url}/{i}.jpg" for i in range(20)])
    assert len(os.listdir("/proc/self/fd")) <= before + 2
