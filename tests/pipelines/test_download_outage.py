"""A machine loses its network: the download waits, refuses nothing for it, and a run that stops goes on when it is called again."""

import errno
import json
import socket
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest
import yaml
from fetching import QUICK, base, fetch, reason
from in_process import run_here
from picture_server import PictureServer, picture, silent

from pipelines.config import load_recipe
from pipelines.download import Download, NetworkDown, outage
from pipelines.rejects import count
from pipelines.run import look
from pipelines.worker import StopRun

HOSTS = 6


def test_a_run_without_a_network_stops_and_loses_nothing(tmp_path, monkeypatch):
    real, up = socket.getaddrinfo, False

    def look_up(host, *arguments, **options):
        if not up:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")  # what some systems say of every name then
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(outage, "LOOKS", (0.1, 0.1))
    with ExitStack() as stack:
        servers = [stack.enter_context(PictureServer(address=f"127.0.0.{i}")) for i in range(1, HOSTS + 1)]
        urls = [server.serve("/a.jpg", picture(80, 60, seed=9 * i)) for i, server in enumerate(servers)]
        (tmp_path / "table.jsonl").write_text("".join(json.dumps({"u": url, "t": "a red cat"}) + "\n" for url in urls))
        columns = {"url": "u", "captions": ["t"]}
        source = {"format": "jsonl", "tables": str(tmp_path / "table.jsonl"), "language": "en", "columns": columns}
        (tmp_path / "links.yaml").write_text(yaml.safe_dump(source))
        download = {"allow_private_addresses": True, "retries": 0, "network_patience": 0.3}
        recipe = {"recipe": "links", "sources": [str(tmp_path / "links.yaml")], "disk_floor_gb": 0}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "stages": {"download": download}}, sort_keys=False))
        recipe, root = load_recipe(tmp_path / "recipe.yaml"), tmp_path / "runs"
        with pytest.raises(StopRun, match=r"no network for 0\.3 s"):
            run_here(recipe, root)
        assert not list((root / "links").glob("ledger/download/*/*"))
        up = True
        chain = run_here(recipe, root)
        assert not count(look(recipe, root)).get("download", {}).get("samples") and len(chain.shards()) == 1
        assert all(server.asked["/a.jpg"] == 1 for server in servers)


@contextmanager
def cable(monkeypatch):
    """An event: while it is set, no address can be reached from here, as with a cable that was pulled."""
    pulled, real = threading.Event(), socket.socket

    class Cabled(real):
        def connect(self, address):
            if pulled.is_set():
                raise OSError(errno.ENETUNREACH, "Network is unreachable")
            super().connect(address)

    monkeypatch.setattr(socket, "socket", Cabled)
    monkeypatch.setattr(outage, "LOOKS", (0.1, 0.2))
    yield pulled
    pulled.clear()


def test_an_outage_in_the_middle_of_a_shard_costs_no_picture(tmp_path, monkeypatch):
    """Hosts that had answered and hosts that had not been asked yet; the failures of the outage leave no host alone either."""
    with ExitStack() as stack, cable(monkeypatch) as pulled:
        servers = [stack.enter_context(PictureServer(address=f"127.0.0.{i}")) for i in range(1, 8)]
        urls = [s.serve(f"/{i}.jpg", picture(), Connection="close") for i in range(6) for s in servers]
        words = set()

        def pull(handler):
            pulled.set()
            threading.Thread(target=restore).start()
            handler.close_connection = True
            handler.answer(200, picture(), Connection="close")

        def restore():
            limit = time.monotonic() + 60
            while not download.waits_for() and time.monotonic() < limit:
                time.sleep(0.02)
            words.add(download.waits_for())
            pulled.clear()

        servers[0].behave("/3.jpg", pull)
        dead = "http://127.0.0.9:1/gone.jpg"
        download = Download(**QUICK, retries=0, threads=2, host_failures=1, respect_robots_txt=False, respect_opt_out=False)
        (tmp_path / "images").mkdir()
        outcome = download.fetch(base(*urls, dead), tmp_path / "images" / "0.tar", tmp_path / "images" / "0.json")
        assert [int(r.uid, 16) for r in outcome.rejects] == [len(urls)] and len(outcome.kept) == len(urls)
        (word,) = words
        assert word.startswith("no network since") and not download.waits_for()


def test_a_network_that_stays_down_stops_the_run_and_refuses_nothing(tmp_path, monkeypatch):
    def unreachable(*a, **k):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(outage, "LOOKS", (0.1, 0.2))
    urls = [f"http://host{i}.example/a.jpg" for i in range(30)]
    with pytest.raises(NetworkDown, match=r"no network for 0.5 s: nobody answered.*Nothing was refused"):
        fetch(tmp_path, *urls, retries=0, network_patience=0.5)
    assert list((tmp_path / "images").iterdir()) == []
    assert reason(tmp_path, *urls, retries=0, network_patience=0) == "dns_failed"


def test_dead_hosts_among_living_ones_are_no_outage(tmp_path, monkeypatch):
    """Not one by one at the end of a shard either, where nobody else answers any more."""
    with ExitStack() as stack, cable(monkeypatch):
        servers = [stack.enter_context(PictureServer(address=f"127.0.0.{i}")) for i in range(2, 8)]
        mute = [s.behave("/mute.jpg", silent(20)) for s in servers]
        urls = [s.serve(f"/{i}.jpg", picture()) for i in range(2) for s in servers]
        outcome = fetch(tmp_path, *urls, *mute, timeout=0.5, retries=0, network_patience=0.1)
        assert [r.reason for r in outcome.rejects] == ["timeout"] * len(mute) and len(outcome.kept) == len(urls)


def test_one_dead_host_is_not_taken_for_a_dead_network(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert reason(tmp_path, *[f"http://127.0.0.1:{port}/{i}.jpg" for i in range(6)], retries=0) == "connection"
