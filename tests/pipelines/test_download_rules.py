"""What a host forbids or reserves: in headers, in robots.txt and in tdmrep.json."""

import json
import threading
import time

import pytest
from fetching import QUICK, fetch, reason
from picture_server import PictureServer, answer, drip, hang_up, picture, silent

from pipelines.download import Download, FetchError
from pipelines.download.fetcher import Fetcher, split
from pipelines.download.host_rules import reservations
from pipelines.download.robots import Rules


@pytest.fixture
def server():
    with PictureServer() as server:
        yield server


def test_opt_outs_in_headers_are_honoured(server, tmp_path):
    data = picture()
    urls = [
        server.serve("/all.jpg", data, X_Robots_Tag="noai"),
        server.serve("/mine.jpg", data, X_Robots_Tag="otherbot: noarchive, fineloom: NoImageAI"),
        server.serve("/tdm.jpg", data, TDM_Reservation="1"),
        server.serve("/other.jpg", data, X_Robots_Tag="otherbot: noindex, nofollow"),
        server.serve("/until.jpg", data, X_Robots_Tag="unavailable_after: 25 Jun 2090 15:00:00 PST"),
    ]
    outcome = fetch(tmp_path, *urls)
    assert [(r.uid[-1], r.reason) for r in outcome.rejects] == [(i, "opted_out") for i in "012"]
    assert server.asked["/all.jpg"] == 1
    (tmp_path / "again").mkdir()
    assert len(fetch(tmp_path / "again", *urls, respect_opt_out=False).kept) == 5


def test_an_opt_out_that_comes_with_a_redirect_is_one(server, tmp_path):
    server.serve("/end.jpg", picture())
    moved = server.behave("/moved.jpg", answer(302, Location="/end.jpg", X_Robots_Tag="noai"))
    assert reason(tmp_path, moved) == "opted_out" and server.asked["/end.jpg"] == 0
    (tmp_path / "again").mkdir()
    assert len(fetch(tmp_path / "again", moved, respect_opt_out=False).kept) == 1


def test_reservations_in_a_file_of_the_host_are_honoured(server, tmp_path):
    """The TDM Reservation Protocol's file, with patterns as in robots.txt: the longest that matches decides."""
    rules = [
        {"location": "/art/*", "tdm-reservation": 1, "tdm-policy": "https://example.org/policy"},
        {"location": "/art/free/", "tdm-reservation": 0},
        {"location": "/*.png$", "tdm-reservation": 1},
    ]
    server.behave("/.well-known/tdmrep.json", answer(200, json.dumps(rules).encode()))
    server.default = [answer(200, picture())]
    paths = ["/art/a.jpg", "/art/free/b.jpg", "/c.png", "/c.png?size=2", "/d.jpg"]
    urls = [server.url + path for path in paths]
    outcome = fetch(tmp_path, *urls)
    assert [(r.uid[-1], r.reason) for r in outcome.rejects] == [(i, "opted_out") for i in "023"]
    assert outcome.rejects[0].detail == "127.0.0.1/.well-known/tdmrep.json reserves /art/a.jpg"
    assert server.asked["/.well-known/tdmrep.json"] == 1 and server.asked["/art/a.jpg"] == 0
    (tmp_path / "again").mkdir()
    assert len(fetch(tmp_path / "again", *urls, respect_opt_out=False).kept) == 5
    assert server.asked["/.well-known/tdmrep.json"] == 1


@pytest.mark.parametrize(
    ("content", "reserved"),
    [
        ('{"location": "/", "tdm-reservation": 1}', True),
        ('\ufeff[{"location": "/", "tdm-reservation": 1}]', True),
        ('[{"location": "https://example.org/a.jpg", "tdm-reservation": "1"}]', True),
        ('[{"location": "/a.jpg", "tdm-reservation": 0}, {"location": "/%61.jpg", "tdm-reservation": true}]', True),
        ('[{"location": "a.jpg", "tdm-reservation": 1}, 7, {"location": 3, "tdm-reservation": 1}, {}]', True),
        ('[{"location": "/b", "tdm-reservation": 1}]', False),
        ("<html>1</html>", False),
        ("[" * 200_000, False),
        ('"1"', False),
    ],
)
def test_a_file_of_reservations_as_strangers_write_it(content, reserved):
    assert reservations(content.encode()).allow("/a.jpg") != reserved


@pytest.mark.parametrize(
    "behaviour", [answer(500), silent(20), drip(b"[" * 500, 0.05), hang_up, answer(302, Location="http://169.254.169.254/")]
)
def test_a_host_that_does_not_say_whether_it_reserves_anything_keeps_no_picture(server, tmp_path, behaviour):
    server.behave("/.well-known/tdmrep.json", behaviour)
    urls = [server.serve(f"/{i}.jpg", picture()) for i in range(3)]
    assert len(fetch(tmp_path, *urls, timeout=0.3, retries=0).kept) == 3
    assert server.asked["/.well-known/tdmrep.json"] <= 2, "asked by one, and once more where the connection broke"


def test_robots_txt_is_read_once_and_honoured(server, tmp_path):
    server.behave("/robots.txt", answer(200, b"User-agent: *\nDisallow: /private/\n\nUser-agent: FineLoom\nDisallow: /own/\n"))
    server.default = [answer(200, picture())]
    paths = ["/own/a.jpg", "/private/b.jpg", "/c.jpg", "/d.jpg"]
    outcome = fetch(tmp_path, *[server.url + p for p in paths])
    assert [(r.uid[-1], r.reason) for r in outcome.rejects] == [("0", "robots_disallowed")]
    assert server.asked["/robots.txt"] == 1 and server.asked["/own/a.jpg"] == 0


@pytest.mark.parametrize(
    ("rules", "forbidden"),
    [
        ("User-agent: *\nDisallow: /*.jpg$\n", ["/a.jpg", "/x/b.jpg"]),
        ("User-agent: *\nDisallow: /*/private/*.jpg\n", ["/x/private/a.jpg", "/x/private/a.jpg?size=2"]),
        (
            "User-agent: *\nDisallow: /\nAllow: /x/\nDisallow: /x/private/\n",
            ["/a.jpg", "/x/private/a.jpg", "/x/private/a.jpg?size=2"],
        ),
        (
            "User-agent: *\nAllow: /\n\nUser-agent: *\nDisallow: /x\n",
            ["/x/b.jpg", "/x/private/a.jpg", "/x/private/a.jpg?size=2"],
        ),
        ("User-agent: a\nUser-agent: FINELOOM/2 # us\n\nDisallow: /a.jpg\nUser-agent: *\nDisallow: /\n", ["/a.jpg"]),
        ("\ufeffUser-agent: *\r\nDisallow: /a.jpg\r\n", ["/a.jpg"]),
        ("User-agent: *\nCrawl-delay: 9\nDisallow: /%61.jpg\nSitemap: x\nDisallow: /%E5%9B%BE\n", ["/a.jpg", "/图.jpg"]),
        ("User-agent: *\nDisallow: /图\n", ["/图.jpg"]),
        ("User-agent: *\nDisallow:\n", []),
        ("Disallow: /\n", []),
        ("<html>Disallow: /</html>", []),
    ],
)
def test_rules_are_read_as_the_standard_says(rules, forbidden):
    paths = ["/a.jpg", "/x/b.jpg", "/x/private/a.jpg", "/x/private/a.jpg?size=2", "/图.jpg"]
    read = Rules.read(rules.encode(), "fineloom")
    no_pictures = (
        {"/x/private/a.jpg", "/图.jpg"} if "jpg$" in rules else {"/图.jpg"} if "Disallow: /\nAllow" in rules else set()
    )
    assert [path for path in paths if not read.allow(split(f"http://h{path}")[1])] == [
        path for path in paths if path in forbidden or path in no_pictures
    ]


def test_of_a_huge_robots_txt_the_beginning_counts(server, tmp_path):
    """It was once taken for none at all."""
    long = b"User-agent: *\nDisallow: /a\n" + b"# nothing\n" * 200_000
    server.behave("/robots.txt", answer(200, long))
    server.default = [answer(200, picture())]
    outcome = fetch(tmp_path, server.url + "/a.jpg", server.url + "/b.jpg")
    assert [r.reason for r in outcome.rejects] == ["robots_disallowed"] and len(outcome.kept) == 1
    cut = b"User-agent: *\nDisallow: /private/" + b"x" * 600_000
    assert Rules.read(cut, "fineloom").allow("/private/a")


def test_a_hostile_pattern_costs_no_time():
    rules = Rules.read(b"User-agent: *\nDisallow: /" + b"a*" * 20_000 + b"$\n", "fineloom")
    began = time.process_time()
    assert rules.allow("/" + "a" * 2000)
    assert time.process_time() - began < 5


def test_rules_are_asked_for_again_after_a_while(server, tmp_path, monkeypatch):
    """A run lasts a month: a bad minute of a host must not shut it out for good, and an owner may change his mind."""
    server.behave(
        "/robots.txt", answer(503), answer(200, b"User-agent: *\nDisallow: /b\n"), answer(200, b"User-agent: *\nDisallow: /\n")
    )
    server.default = [answer(200, picture())]
    fetcher = Fetcher(Download(**QUICK))
    now, real = [0.0], time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + now[0])

    def ask(path):
        try:
            return len(fetcher.fetch(server.url + path, threading.Event())) > 0
        except FetchError as error:
            return error.reason

    assert (ask("/a.jpg"), ask("/a.jpg")) == ("robots_unavailable", "robots_unavailable")
    now[0] += 700
    assert (ask("/a.jpg"), ask("/b.jpg")) == (True, "robots_disallowed")
    now[0] += 25 * 3600
    assert ask("/a.jpg") == "robots_disallowed" and server.asked["/robots.txt"] == 3


def test_a_robots_txt_that_leads_nowhere_is_none(server, tmp_path):
    server.behave("/robots.txt", answer(302, Location="http://[half/"))
    assert len(fetch(tmp_path, server.serve("/a.jpg", picture())).kept) == 1


def test_a_robots_txt_that_cannot_be_read_forbids_for_now(server, tmp_path):
    server.behave("/robots.txt", answer(500))
    url = server.serve("/a.jpg", picture())
    assert reason(tmp_path, url) == "robots_unavailable"
    (tmp_path / "again").mkdir()
    assert len(fetch(tmp_path / "again", url, respect_robots_txt=False).kept) == 1
