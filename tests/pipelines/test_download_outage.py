"""A run whose machine loses its network: it stops without refusing anything, and goes on when it is called again."""

import json
import socket
from contextlib import ExitStack

import pytest
import yaml
from in_process import run_here
from picture_server import PictureServer, picture

from pipelines.config import load_recipe
from pipelines.download import outage
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
