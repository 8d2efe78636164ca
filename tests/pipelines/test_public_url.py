"""What opens doors in an address: a login is never sent nor kept, a signature is sent and kept where nobody else looks."""

import json

import pyarrow as pa
import pytest
import yaml
from in_process import run_here
from picture_server import PictureServer, answer, picture

from pipelines.config import load_recipe
from pipelines.durable import files, read_table
from pipelines.public_url import public, public_column, without_login, without_logins
from pipelines.rejects import listed
from pipelines.report import write_report
from pipelines.run import look
from pipelines.show import show
from pipelines.takedown import sort_out, take_down
from pipelines.viewer.record import record


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h.example/a.jpg?w=100&h=50#top", "https://h.example/a.jpg?w=100&h=50#top"),
        ("https://me:pw@h.example:8443/a.jpg", "https://h.example:8443/a.jpg"),
        ("HTTP://me@h.example/a.jpg", "HTTP://h.example/a.jpg"),
        ("https://me:p@ss@h.example/a.jpg", "https://h.example/a.jpg"),
        ("https://h.example//@me/a.jpg", "https://h.example//@me/a.jpg"),
        ("https://h.example/a.jpg?who=me@home", "https://h.example/a.jpg?who=me@home"),
        ("https://b.example/a.jpg?X-Amz-Credential=K%2F1&X-Amz-Signature=5&versionId=3", "https://b.example/a.jpg?versionId=3"),
        ("https://b.example/a.jpg?AWSAccessKeyId=K&Signature=5", "https://b.example/a.jpg"),
        ("https://s.example/a.jpg?X-Goog-Signature=5#x", "https://s.example/a.jpg#x"),
        ("https://w.example/a.jpg?sv=2020&sig=5%3D", "https://w.example/a.jpg?sv=2020"),
        ("https://o.example/a.jpg?x-oss-process=image/resize&OSSAccessKeyId=K&Signature=5", "https://o.example/a.jpg?x-oss-process=image/resize"),
        ("https://h.example/a.jpg?tokens=2&signatures=1", "https://h.example/a.jpg?tokens=2&signatures=1"),
        ("https://h.example/a.jpg?", "https://h.example/a.jpg?"),
    ],
)  # fmt: skip
def test_a_login_and_a_signature_leave_an_address_and_nothing_else_does(url, shown):
    assert public(url) == shown
    assert public(shown) == shown
    assert public_column(pa.chunked_array([[url, None], []], pa.string())).to_pylist() == [shown, None]


def test_what_is_no_address_loses_its_logins_too():
    assert without_login("ftp://me:pw@h/a") == "ftp://h/a"
    assert (
        without_logins('{"u": "https://me:pw@h/a.jpg", "t": "write to me@h') == '{"u": "https://h/a.jpg", "t": "write to me@h'
    )


@pytest.fixture
def secretive(tmp_path):
    """A recipe over links with a login, a signature, both in a redirect, and a row that cannot be read."""
    with PictureServer() as server:
        login = server.serve("/0.jpg", picture(60, 50)).replace("//", "//me:hunter2@")
        signed = server.serve("/1.jpg", picture(70, 50)) + "?w=5&X-Amz-Signature=0pen"
        away = server.behave("/2.jpg", answer(302, Location="ftp://me:hunter2@h/2.jpg?X-Amz-Signature=0pen"))
        rows = [json.dumps({"u": url, "t": f"a red cat, number {i}"}) for i, url in enumerate((login, signed, away))]
        (tmp_path / "t.jsonl").write_text("\n".join([*rows, '{"u": "https://me:hunter2@h/3.jpg"', ""]))
        source = {"format": "jsonl", "tables": str(tmp_path / "t.jsonl"), "columns": {"url": "u", "captions": ["t"]}}
        (tmp_path / "links.yaml").write_text(yaml.safe_dump({**source, "language": "en"}))
        stages = {"download": {"allow_private_addresses": True, "retries": 0}, "pack": {}}
        body = {"recipe": "links", "sources": [str(tmp_path / "links.yaml")], "disk_floor_gb": 0, "stages": stages}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(body, sort_keys=False))
        yield server, load_recipe(tmp_path / "recipe.yaml"), tmp_path / "runs"


def test_a_run_asks_with_the_signature_without_the_login_and_tells_neither(secretive):
    server, recipe, root = secretive
    chain = run_here(recipe, root)
    heads = [head for head in server.heads if head["path"].startswith(("/0", "/1"))]
    assert {head["path"] for head in heads} == {"/0.jpg", "/1.jpg?w=5&X-Amz-Signature=0pen"}
    assert not any("authorization" in head for head in heads)
    report = write_report(chain, [], [])
    uids = read_table(root / "links" / "index.parquet")["uid"].to_pylist()
    told = [show(look(recipe, root), uid) for uid in uids]
    tables = [path for path in files(chain.run, deep=True) if path.suffix == ".parquet" and "tables" not in path.parts]
    rows = {path: read_table(path).to_pylist() for path in tables}
    seen = [*told, [record(row) for some in rows.values() for row in some], list(listed(chain, None, None))]
    everything = b"".join(path.read_bytes() for path in files(chain.run, deep=True) if path.suffix != ".parquet")
    assert str(server.url) in everything.decode(errors="replace"), "addresses are told"
    assert "redirect_refused" in str(seen) and "bad_json" in str(seen)
    for secret in ("hunter2", "0pen"):
        assert secret.encode() not in everything and secret not in report.read_text() and secret not in str(seen)
        kept = [path.parent.name for path, some in rows.items() if secret in str(some)]
        assert kept == ([] if secret == "hunter2" else ["source"]), "what fetches the picture again"


def test_an_address_is_taken_down_by_any_form_of_it(secretive):
    server, recipe, root = secretive
    run_here(recipe, root)
    shown = f"{server.url}/1.jpg?w=5"
    for asked in (shown, f"{shown}&X-Amz-Signature=another"):
        urls = sort_out([asked])[1]
        assert urls == [shown]
    receipt = take_down(look(recipe, root), [], urls, [])
    assert (receipt.samples, receipt.to_come) == (1, [])
    (root.parent / "u.jsonl").write_text((root.parent / "t.jsonl").read_text() + "\n")  # the same rows, as another table
    (root.parent / "links.yaml").write_text((root.parent / "links.yaml").read_text().replace("t.jsonl", "[tu].jsonl"))
    asked = server.asked["/1.jpg"]
    run_here(recipe, root)
    assert server.asked["/1.jpg"] == asked, "it is refused before it is fetched again"
