"""Samples that are taken down leave every file of a run, also where a takedown was killed; and the rest stays whole."""

import asyncio
import hashlib
import json
import os
from types import SimpleNamespace

import pytest
import yaml
from in_process import ModelServer, run_here
from picture_server import PictureServer, picture
from s3_server import BUCKET, s3_server
from typer.testing import CliRunner

from pipelines import takedown as takedowns
from pipelines.cli import app
from pipelines.config import ConfigError, load_recipe
from pipelines.durable import Damaged, files, read_table
from pipelines.gc import collect
from pipelines.rejects import count, requeue, retry
from pipelines.report import write_report
from pipelines.report.way import walk
from pipelines.run import lock, look, reach
from pipelines.shard_format import validate_shard
from pipelines.show import show
from pipelines.stores import place
from pipelines.tables import Tables
from pipelines.takedown import sort_out, take_down
from pipelines.view import View
from pipelines.worker import Worker

SECRET = "my aunt Zelda on the terrace"
ANSWER = "A woman sits on a terrace in the evening light, with a glass in her hand and a small dog at her feet. Behind her are hills."


@pytest.fixture
def recipe_of(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(6):
        (pictures / f"{i}.jpg").write_bytes(picture(60 + 10 * i, 50, seed=50 * i))
        (pictures / f"{i}.txt").write_text(SECRET if i == 4 else f"a red cat, number {i}")
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"format": "folder", "tables": str(pictures), "language": "en"}))

    def make(overrides=(), **more):
        stages = {"download": {}, "size": {}, "select": {"keep": "width >= 75"}, **more.pop("stages", {}), "pack": {}}
        body = {
            "recipe": "six",
            "sources": [str(tmp_path / "own.yaml")],
            "shard_size": 3,
            "disk_floor_gb": 0,
            **more,
            "stages": stages,
        }
        (tmp_path / "six.yaml").write_text(yaml.safe_dump(body, sort_keys=False))
        return load_recipe(tmp_path / "six.yaml", overrides)

    return make


def secret(chain):
    """uid of the sample that is to go; its picture is written beside the run."""
    at = reach(chain, chain.shards())
    rows = read_table(chain.run / at.entry(1, "source").files["data"].path).to_pylist()
    (uid,) = [row["uid"] for row in rows if row["captions"] == [SECRET]]
    if not hasattr(chain.run, "store"):
        show(chain, uid, chain.run.parent / "secret.jpg")
    return uid


def traces(run, uid, words, pixels):
    """Files that still hold the sample: its text, its bytes, or its identity in a table."""
    found = []
    for path in files(run, deep=True):
        data, name = path.read_bytes(), str(path.relative_to(run))
        if name.startswith("tombstones/"):
            continue
        if path.suffix == ".parquet":
            data = repr(read_table(path).to_pylist()).encode()
        if words.encode() in data or (pixels and pixels in data) or uid.encode() in data:
            found.append(name)
    return found


@pytest.mark.parametrize("by", ["uid", "sha256"])
def test_nothing_of_the_sample_is_left_and_the_rest_is_whole(recipe_of, tmp_path, by):
    recipe, root = recipe_of(), tmp_path / "runs"
    chain = run_here(recipe, root)
    write_report(chain, [], [])
    uid = secret(look(recipe, root))
    pixels = (root / "secret.jpg").read_bytes()
    assert len(traces(chain.run, uid, SECRET, pixels)) >= 6
    chain = look(recipe, root)
    asked = uid if by == "uid" else hashlib.sha256(pixels).hexdigest()
    receipt = take_down(chain, *sort_out([asked]), why="asked for by the person shown")
    assert (receipt.samples, receipt.unknown, receipt.packed_again) == (1, [], [1])
    assert traces(chain.run, uid, SECRET, pixels) == []
    assert receipt.files and receipt.outside[0]["uids"] == [uid]

    chain = look(recipe, root)
    at = reach(chain, chain.shards())
    assert at.pending() == []
    assert {view.shard: len(read_table(chain.run / view.uid_file)) for view, _ in at.values()} == {0: 1, 1: 2}
    assert all(not validate_shard(chain.run / "shards" / f"0000{i}.tar").errors for i in range(2))
    assert len(read_table(chain.run / "index.parquet")) == 3
    assert walk(chain).faults == []
    with pytest.raises(ConfigError, match="no sample"):
        show(chain, uid)
    run_here(recipe, root)
    assert traces(chain.run, uid, SECRET, pixels) == []


def test_under_other_settings_only_what_held_the_sample_goes_from_what_was_handed_over(recipe_of, tmp_path):
    recipe, root = recipe_of(), tmp_path / "runs"
    run_here(recipe, root)
    uid = secret(look(recipe, root))
    pixels = (root / "secret.jpg").read_bytes()
    receipt = take_down(look(recipe_of(stages={"select": {"keep": "width >= 61"}}), root), [uid], [], [])
    assert (receipt.others, receipt.waiting, receipt.packed_again) == (True, [1], [])
    assert [path.name for path in files(root / "six" / "shards") if path.suffix == ".tar"] == ["00000.tar"]
    assert traces(root / "six", uid, SECRET, pixels) == []
    assert len(read_table(root / "six" / "index.parquet")) == 3
    run_here(recipe_of(), root)
    assert all(not validate_shard(root / "six" / "shards" / f"0000{i}.tar").errors for i in range(2))
    assert traces(root / "six", uid, SECRET, pixels) == []


def test_a_killed_takedown_acts_at_once_and_is_ended_by_the_next(recipe_of, tmp_path, monkeypatch):
    recipe, root = recipe_of(), tmp_path / "runs"
    run_here(recipe, root)
    uid = secret(look(recipe, root))
    pixels = (root / "secret.jpg").read_bytes()

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(takedowns, "_drop_rows", killed)
        with pytest.raises(Killed):
            take_down(look(recipe, root), [uid], [], [])
    with pytest.raises(ConfigError, match="was taken down"):
        show(look(recipe, root), uid)
    take_down(look(recipe, root), [uid], [], [])
    assert traces(root / "six", uid, SECRET, pixels) == []
    run_here(recipe, root)
    assert len(read_table(root / "six" / "index.parquet")) == 3


def test_a_sample_that_was_put_back_goes_from_both_places_and_does_not_come_again(recipe_of, tmp_path):
    strict, mild = ["select.keep=width < 95"], ["select.keep=width >= 75"]
    root = tmp_path / "runs"
    recipe = recipe_of(strict)
    run_here(recipe, root)
    chain = look(recipe, root)
    requeue(chain, "not_selected")
    uid = secret(look(recipe, root))
    take_down(look(recipe, root), [uid], [], [])
    assert traces(root / "six", uid, SECRET, b"") in (
        [],
        ["tables/" + path.name for path in (root / "six" / "tables").glob("requeued*")],
    )
    run_here(recipe_of(mild), root)
    packed = read_table(root / "six" / "index.parquet")["uid"].to_pylist()
    assert uid not in packed and len(packed) == len(set(packed)) == 3


def test_what_killed_tries_left_goes_with_a_takedown(recipe_of, tmp_path, monkeypatch):
    """No entry names it: files of an attempt that was not published, half of a publication, and a table of samples put back."""
    recipe, root = recipe_of(["select.keep=width < 95"]), tmp_path / "runs"
    chain = run_here(recipe, root)
    with monkeypatch.context() as patch:
        patch.setattr(Tables, "register", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            requeue(look(recipe, root), "not_selected")
    chain = look(recipe, root)
    uid = secret(chain)
    pixels = (root / "secret.jpg").read_bytes()
    entry = reach(chain, chain.shards()).entry(1, "download")
    for file in entry.files.values():
        path = chain.run / file.path
        copy = path.with_name(path.name.replace(entry.attempt, "b" * 12))
        copy.write_bytes(path.read_bytes())
    (chain.run / "size" / ".00001.json.0123456789ab.tmp").write_text(SECRET)
    (orphan,) = (chain.run / "tables").glob("requeued*")
    receipt = take_down(look(recipe, root), [uid], [], [])
    assert traces(chain.run, uid, SECRET, pixels) == []
    assert {str(copy.relative_to(chain.run)), f"tables/{orphan.name}"} < set(receipt.gone)
    assert collect(chain.run, delete=True) == (0, 0)


def test_a_tar_that_was_cut_is_named_and_the_takedown_ends_without_it(recipe_of, tmp_path):
    recipe, root = recipe_of(), tmp_path / "runs"
    chain = run_here(recipe, root)
    uid = secret(look(recipe, root))
    pixels = (root / "secret.jpg").read_bytes()
    (tar,) = (chain.run / "images").glob("00001.*.tar")
    os.truncate(tar, 1000)
    with pytest.raises(Damaged, match=f"{tar}: not the tar that was written here"):
        take_down(look(recipe, root), [uid], [], [])
    tar.unlink()
    receipt = take_down(look(recipe, root), [uid], [], [])
    assert receipt.ended and (receipt.packed_again, receipt.waiting) == ([], [1])
    assert traces(chain.run, uid, SECRET, pixels) == []


def test_answers_that_were_asked_with_the_picture_go(recipe_of, tmp_path):
    with ModelServer(lambda text: ANSWER) as server:
        recipe = recipe_of(
            model={"base_url": server.url, "name": server.name},
            stages={"long_caption_en": {"operator": "recaption", "language": "en"}},
        )
        root = tmp_path / "runs"
        run_here(recipe, root)
        uid = secret(look(recipe, root))
        lines = sum(len(path.read_bytes().splitlines()) for path in files(root / "six" / "answers", deep=True))
        # The recipe has no such stage any more: its answers hold the picture's description all the same.
        take_down(look(recipe_of(), root), [uid], [], [])
        left = sum(len(path.read_bytes().splitlines()) for path in files(root / "six" / "answers", deep=True))
        assert lines == 4 and left == 3


def test_collecting_leftovers_leaves_tombstones_receipts_and_what_a_user_put_there(recipe_of, tmp_path):
    recipe, root = recipe_of(), tmp_path / "runs"
    run_here(recipe, root)
    uid = secret(look(recipe, root))
    take_down(look(recipe, root), [uid], [], [])
    (root / "six" / "notes").mkdir()
    (root / "six" / "notes" / "why.txt").write_text("for later")
    left = root / "six" / "size" / f"00000.{'a' * 12}.{'b' * 12}.parquet"
    left.write_bytes(b"x")
    assert collect(root / "six", delete=True) == (1, 1)
    assert not left.exists() and (root / "six" / "notes" / "why.txt").exists()
    assert sorted(path.name for path in (root / "six" / "tombstones").iterdir()) == ["0000.json", "0000.receipt.json"]
    (root / "six" / "ledger").rename(root / "elsewhere")
    with pytest.raises(Damaged, match="ledger: names nothing, though shards of this run were handed over"):
        collect(root / "six", delete=True)


def test_who_is_not_here_is_told(recipe_of, tmp_path):
    recipe, root = recipe_of(), tmp_path / "runs"
    run_here(recipe, root, shards=1)
    with pytest.raises(ConfigError, match="1 sample asked for, and none is here"):
        take_down(look(recipe, root), ["f" * 32], [], [])
    with pytest.raises(ConfigError, match="no uid"):
        sort_out(["zelda"])
    assert sort_out([" http://h/my aunt.jpg\n"])[1] == ["http://h/my%20aunt.jpg"], "as the table's row has it"
    assert not (root / "six" / "tombstones").exists()
    (gone,) = (root / "six" / "source").glob("00000.*.parquet")
    gone.unlink()
    with pytest.raises(
        ConfigError, match=rf"1 sample asked for, and none is here.* could not be looked into: source/{gone.name}"
    ):
        take_down(look(recipe, root), ["f" * 32], [], [])


@pytest.fixture
def links(tmp_path):
    """A server with the pictures 0 … 5, a function that writes a recipe over tables of links to them, and the first table."""
    with PictureServer() as server:
        pixels = [picture(60 + 10 * i, 50, seed=50 * i) for i in range(6)]
        urls = [server.serve(f"/{i}.jpg", pixels[i]) for i in range(6)]

        def write(table, *addresses):
            lines = [json.dumps({"u": url, "t": f"a red cat at {url}"}) + "\n" for url in addresses]
            (tmp_path / f"{table}.jsonl").write_text("".join(lines))

        def recipe():
            columns = {"url": "u", "captions": ["t"]}
            source = {"format": "jsonl", "tables": str(tmp_path / "*.jsonl"), "language": "en", "columns": columns}
            (tmp_path / "links.yaml").write_text(yaml.safe_dump(source))
            body = {"recipe": "links", "sources": [str(tmp_path / "links.yaml")], "shard_size": 3, "disk_floor_gb": 0}
            stages = {"download": {"allow_private_addresses": True, "retries": 0}, "pack": {}}
            (tmp_path / "links_recipe.yaml").write_text(yaml.safe_dump({**body, "stages": stages}, sort_keys=False))
            return load_recipe(tmp_path / "links_recipe.yaml")

        write("a", *urls)
        yield SimpleNamespace(server=server, urls=urls, pixels=pixels, write=write, recipe=recipe, root=tmp_path / "runs")


def refused(chain, stage):
    return {reason: n for reason, n in count(chain)[stage]["samples"].items()}


def test_an_address_is_refused_before_its_shard_is_begun_and_in_every_later_table(links):
    """It was an error that nothing was found, and the picture was fetched by the next run."""
    run_here(links.recipe(), links.root, shards=1)
    receipt = take_down(look(links.recipe(), links.root), [], [links.urls[4]], [])
    assert (receipt.samples, receipt.to_come, receipt.unknown) == (0, [links.urls[4]], [])
    links.write("b", links.urls[4], links.server.serve("/6.jpg", picture(130, 50)))
    chain = run_here(links.recipe(), links.root)
    assert links.server.asked["/4.jpg"] == 0 and refused(chain, "source") == {"taken_down": 2}
    packed = read_table(chain.run / "index.parquet")
    assert packed["tar"].to_pylist() == ["00000.tar"] * 3 + ["00001.tar"] * 2 + ["00002.tar"]
    assert walk(chain).faults == []
    entry = chain.ledger.get("source", chain.fingerprint(chain.recipe.stages[0], View(1)), 1)
    assert (entry.rows_in, entry.rows_out) == (3, 2), "samples in are those kept and those refused"


def test_the_same_bytes_under_another_address_are_refused_and_not_kept(links):
    run_here(links.recipe(), links.root)
    digest = hashlib.sha256(links.pixels[4]).hexdigest()
    assert take_down(look(links.recipe(), links.root), [], [], [digest.upper()]).samples == 1
    links.write("b", links.server.serve("/copy.jpg", links.pixels[4]), links.server.serve("/6.jpg", picture(130, 50)))
    chain = run_here(links.recipe(), links.root)
    assert links.server.asked["/copy.jpg"] == 1 and refused(chain, "download") == {"taken_down": 1}
    assert len(read_table(chain.run / "index.parquet")) == 6 and walk(chain).faults == []
    assert not [name for name in files(chain.run, deep=True) if links.pixels[4] in name.read_bytes()]
    assert retry(look(links.recipe(), links.root)) is None, "it may not come back by asking again"


def test_a_takedown_does_not_wait_for_the_run_that_is_at_work(links):
    """The run has shard 0 committed and shard 1 before it; what it had committed goes when the command is given again."""
    chain = run_here(links.recipe(), links.root, shards=1)
    call = [
        "takedown",
        links.recipe().file,
        "--root",
        str(links.root),
        "--url",
        links.urls[1],
        "--url",
        links.urls[4],
        "--json",
    ]
    with lock(chain.run):
        outcome = CliRunner().invoke(app, call)
        told = json.loads(outcome.stdout)
        assert outcome.exit_code == 1 and "give this command again" in outcome.stderr
        assert (told["samples"], told["to_come"], told["ended"], told["files"]) == (1, [links.urls[4]], "", {})
        (path,) = chain.ledger.entries("download")
        assert links.pixels[1] in (chain.run / path.files["images"].path).read_bytes(), "a run's files are not touched"
        asyncio.run(_go_on(chain, shard=1))  # as a worker of that run, which knows of the tombstone only what lies there
    assert links.server.asked["/4.jpg"] == 0 and refused(look(links.recipe(), links.root), "source") == {"taken_down": 1}
    outcome = CliRunner().invoke(app, call)
    told = json.loads(outcome.stdout)
    assert outcome.exit_code == 0 and told["ended"] and told["files"]
    chain = run_here(links.recipe(), links.root)
    assert not [name for name in files(chain.run, deep=True) if links.pixels[1] in name.read_bytes()]
    assert len(read_table(chain.run / "index.parquet")) == 4 and walk(chain).faults == []


async def _go_on(chain, shard):
    view = View(shard)
    for stage in chain.recipe.stages:
        view = view.after((await Worker(chain, stage).process(view, takedowns._quiet))[0])


def test_what_a_run_committed_after_it_was_looked_for_goes_with_the_next_takedown(links):
    """The worker had read its rows before the tombstone lay there, and committed them after."""
    chain = run_here(links.recipe(), links.root, shards=1)
    asked = [], [links.urls[4]], []
    take_down(look(links.recipe(), links.root), *asked, remove=False)
    (stones := chain.run / "tombstones").rename(links.root / "later")
    chain = run_here(links.recipe(), links.root)
    (links.root / "later").rename(stones)
    receipt = take_down(look(links.recipe(), links.root), [], [], ["0" * 64])
    assert receipt.samples == 1 and receipt.packed_again == [1]
    assert not [name for name in files(chain.run, deep=True) if links.pixels[4] in name.read_bytes()]


@pytest.mark.parametrize("damage", ["gone", "torn", "changed"])
def test_a_takedown_that_cannot_be_read_any_more_stops_whoever_would_show_its_samples(recipe_of, tmp_path, damage):
    recipe, root = recipe_of(), tmp_path / "runs"
    run_here(recipe, root)
    take_down(look(recipe, root), [secret(look(recipe, root))], [], [])
    stone = root / "six" / "tombstones" / "0000.json"
    written = stone.read_bytes()
    uid = json.loads(written)["uids"]["1"][0].encode()
    damaged = {"torn": written[:-9], "changed": written.replace(uid, bytes(reversed(uid)))}
    stone.unlink()
    if damage in damaged:
        stone.write_bytes(damaged[damage])
    with pytest.raises(Damaged, match=r"0000\.json: is no.* any more.*Put it back"):
        look(recipe, root)


def test_the_receipt_tells_what_the_book_of_a_review_keeps(recipe_of, tmp_path):
    recipe, root = recipe_of(), tmp_path / "runs"
    run_here(recipe, root)
    uid = secret(look(recipe, root))
    assert take_down(look(recipe, root), [uid], [], []).review == ""
    (root / "six" / "review.sqlite").touch()
    assert "review serve" in take_down(look(recipe, root), [uid], [], []).review


def test_a_takedown_on_a_store(recipe_of):
    with s3_server():
        recipe, root = recipe_of(), place(f"s3://{BUCKET}/runs")
        run_here(recipe, root)
        uid = secret(look(recipe, root))
        receipt = take_down(look(recipe, root), [uid], [], [])
        assert receipt.packed_again == [1] and traces(root / "six", uid, SECRET, b"") == []


def test_a_sample_accepted_by_a_shard_before_it_was_put_back_is_packed_once(recipe_of, tmp_path):
    """Mild, then strict, put back, and mild again: the first shard's mild entries are all there still."""
    root, strict = tmp_path / "runs", ["select.keep=width < 95"]
    run_here(recipe_of(), root)
    chain = run_here(recipe_of(strict), root)
    requeue(look(chain.recipe, root), "not_selected")
    chain = run_here(recipe_of(), root)
    packed = read_table(root / "six" / "index.parquet")["uid"].to_pylist()
    assert len(packed) == len(set(packed)) == 4
    walked = {
        shard: chain.advance(view.__class__(shard), chain.recipe.stages)
        for shard, (view, _) in reach(chain, chain.shards()).items()
    }
    assert dict(reach(chain, chain.shards())) == walked
