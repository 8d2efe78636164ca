"""The pages on which people judge: who gets what, what is stored when, and what never gets through."""

import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import sqlite3
import threading
from html import unescape
from unittest.mock import Mock

import pytest
from in_process import run_here
from PIL import Image
from postgres_server import NoServer, PostgresServer
from scenes_run import EVIL, make_run, write_recipe
from starlette.testclient import TestClient
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.config import ConfigError, load_recipe
from pipelines.review import book_of, limits, open_book, run_of
from pipelines.review.app import make_app
from pipelines.review.book import Book, Taken
from pipelines.review.database import BookError, Lite, Unsure
from pipelines.review.filler import Filler
from pipelines.review.items import asked_of
from pipelines.review_file import merge_reviews
from pipelines.show import show
from pipelines.stores import place
from pipelines.takedown import take_down


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("review")
    make_run(folder, write_recipe(folder, 6, shard_size=3))
    return folder


@pytest.fixture
def root(made, tmp_path):
    shutil.copytree(made / "runs", tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def server():
    try:
        started = PostgresServer()
    except NoServer as error:
        pytest.skip(f"no PostgreSQL server can be started here: {error}")
    yield started
    started.end()


@pytest.fixture(params=["sqlite", "postgres"])
def where(request):
    """What --book says: nothing, for the file in the run's folder, or the address of an empty database."""
    return None if request.param == "sqlite" else request.getfixturevalue("server").fresh()


sqlite_only = pytest.mark.parametrize("where", ["sqlite"], indirect=True)
postgres_only = pytest.mark.parametrize("where", ["postgres"], indirect=True)


def opened(made, root, double=None, stages=("translate",), where=None):
    run = run_of(root, str(made / "scenes_recipe.yaml"), [], None)
    book = open_book(book_of(run.folder, where), run.name, double)
    filler = Filler(run, book, asked_of(run.snapshot().recipe, list(stages)))
    filler.round()
    return run, book, filler


class Person:
    """A reviewer at a browser."""

    def __init__(self, desk, name):
        run, self.book, filler = desk
        self.web = TestClient(make_app(run, self.book, filler, {"testserver"}), raise_server_exceptions=False)
        assert self.web.get(f"/enter/{self.book.invite(name)}").status_code == 200

    def get(self, path="/"):
        self.page = self.web.get(path)
        return self.page

    def start(self):
        """Take up an item that could be accepted: one holds a direction character."""
        self.get()
        while "202E" in self.page.text:
            self.post(f"/item/{self.item}/skip")
        return self

    def judge(self, verdict="accept", **form):
        """The verdict, or a refusal of what cannot be accepted."""
        return (
            self.post(verdict=verdict, **form)
            if "202E" not in self.page.text
            else self.post(verdict="reject", reason="language")
        )

    @property
    def item(self):
        return int(self.page.url.path.rpartition("/")[2])

    def post(self, path=None, **form):
        csrf = re.search('name="csrf" value="([^"]+)"', self.page.text)[1]
        shown = re.search('data-shown="([^"]*)"', self.page.text)
        form = {"csrf": csrf, "corrected": unescape(shown[1]) if shown else "", "reason": "", "note": "", **form}
        self.page = self.web.post(path or f"/item/{self.item}", data=form)
        return self.page


@pytest.fixture
def desk(made, root, where):
    made_desk = opened(made, root, where=where)
    yield made_desk
    made_desk[1].close()


@pytest.fixture
def li(desk):
    return Person(desk, "Li").start()


def said(book):
    return [(line["reviewer"], line["verdict"], line["corrected"], line["reason"]) for line in book.lines()]


def test_results_of_other_settings_are_told_and_not_passed_over(made, root):
    run = run_of(root, str(made / "scenes_recipe.yaml"), ["stages.translate.min_ratio=0.01"], None)
    book = open_book(book_of(run.folder, None), run.name, None)
    told = []
    filler = Filler(run, book, asked_of(run.snapshot().recipe, ["translate"]), told.append)
    filler.round()
    book.close()
    assert [f"cannot be read: {fault}" for fault in filler.faults] == told
    assert "stage translate: the run's results of it were made with another recipe" in told[0] and len(told) == 1


def test_refused_pairs_come_first_with_source_translation_and_what_was_found(li, desk):
    told = {i.id: i for i in items(desk[1])}
    page = unescape(li.page.text)
    assert told[li.item].content["why"] in page and told[li.item].content["source"][:20] in page and "/picture/" in page
    with desk[1].reading() as db:
        refused = [bool(told[n].content["why"]) for (n,) in db.execute("SELECT id FROM items ORDER BY rank, id")]
    assert refused == sorted(refused, reverse=True) and any(refused) and not all(refused)


def test_accepting_correcting_and_refusing_store_a_verdict_each_and_lead_on(li, desk):
    first = li.item
    li.post(verdict="accept")
    assert li.item != first and said(desk[1]) == [("Li", "accept", None, None)]
    li.post(verdict="correct", corrected="两个红色的圆环。")
    li.post(verdict="reject", reason="meaning", note=" left  and right ")
    assert said(desk[1])[1:] == [("Li", "correct", "两个红色的圆环。", None), ("Li", "reject", None, "meaning: left and right")]
    for _ in range(3):
        li.judge()
    assert "Nothing is left for you" in li.page.text


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ({}, "Choose accept, correct or refuse"),
        ({"verdict": "perhaps"}, "Choose accept, correct or refuse"),
        ({"verdict": "correct"}, "Nothing was changed"),
        ({"verdict": "correct", "corrected": " \n "}, "is empty"),
        ({"verdict": "correct", "corrected": "红\u202e球"}, "control or direction characters"),
        ({"verdict": "correct", "corrected": "红" * 20_001}, "too long"),
        ({"verdict": "accept", "corrected": "另一个译文"}, "You changed the text"),
        ({"verdict": "reject"}, "Choose a reason"),
        ({"verdict": "reject", "reason": "other"}, "Say in a few words"),
        ({"verdict": "reject", "reason": "nonsense"}, "Choose a reason"),
    ],
)
def test_what_cannot_be_stored_is_told_and_nothing_written_is_lost(li, desk, form, told):
    page = li.post(**form)
    assert page.status_code == 422 and told in unescape(page.text) and said(desk[1]) == []
    if form.get("corrected", "").strip():
        assert form["corrected"][:40] in unescape(page.text)


def test_no_item_is_shown_to_two_people(desk, li):
    wang = Person(desk, "Wang")
    wang.get()
    assert wang.item != li.item
    refused = wang.get(f"/item/{li.item}")
    assert refused.status_code == 409 and "Another reviewer has this item" in refused.text
    li.get()
    assert li.get("/").url.path == li.page.url.path, "the same item until it is judged"
    free = next(item.id for item in items(desk[1]) if item.id not in (li.item, wang.item))
    assert li.get(f"/item/{free}").status_code == 200
    assert wang.get(f"/item/{free}").status_code == 409, "whoever opens an item by its address has it too"


def test_many_people_at_once_never_hold_the_same_item(desk):
    book = desk[1]
    people = [book.who(book.enter(book.invite(f"R{i}"))).id for i in range(6)]
    held, together = [], threading.Barrier(6)

    def take(person):
        together.wait()
        held.append(book.next(person))

    threads = [threading.Thread(target=take, args=(person,)) for person in people]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len({item.id for item in held}) == 6


def test_with_double_review_two_people_and_no_third_judge_an_item_and_their_agreement_is_told(made, root, where):
    desk = opened(made, root, double=1.0, where=where)
    li, wang, zhao = (Person(desk, name) for name in ("Li", "Wang", "Zhao"))
    first, second = li.get(), wang.get()
    assert first.url.path == second.url.path
    assert zhao.get().url.path != first.url.path
    desk[1].revoke("Zhao")  # gives back what was in hand
    for i in range(6):
        li.get("/")
        li.judge()
        wang.get("/")
        wang.judge("accept" if i < 4 else "reject", reason="meaning")
    assert "Nothing is left" in Person(desk, "Zhao").get("/").text
    page = li.get("/progress").text
    assert "Cohen’s κ" in page and "Li" in page and 'class="r">6<' in page
    desk[1].close()


def test_one_who_was_away_too_long_is_told_and_loses_no_word(desk, li):
    item, book = li.item, desk[1]
    with book.writing() as db:
        db.execute("UPDATE leases SET until = 0")
    wang = Person(desk, "Wang").start()
    assert wang.item == item
    wang.post(verdict="reject", reason="fluency")
    page = li.post(f"/item/{item}", verdict="correct", corrected="我的译文。")
    assert page.status_code == 409 and "Wang has judged this item meanwhile" in page.text and "我的译文。" in page.text
    assert len(said(book)) == 1
    li.post(f"/item/{item}", verdict="correct", corrected="我的译文。", second="yes")
    assert said(book)[1] == ("Li", "correct", "我的译文。", None)


def test_a_form_sent_twice_is_one_verdict_and_a_changed_mind_another(desk, li):
    item, page = li.item, li.page
    for verdict, reason in (("accept", ""), ("accept", ""), ("reject", "added")):
        li.page = page
        li.post(f"/item/{item}", verdict=verdict, reason=reason)
    assert [verdict for _, verdict, _, _ in said(desk[1])] == ["accept", "reject"]
    mine = li.get("/mine").text
    assert f"/item/{item}" in mine and "something is added" in mine
    assert "You judged this item" in li.get(f"/item/{item}").text


def test_an_item_put_off_comes_last(desk, li):
    first = li.item
    li.post(f"/item/{first}/skip")
    seen = [li.item]
    while "/item/" in str(li.page.url):
        seen.append(li.item)
        li.judge()
    assert first not in seen[:5] and first in seen and len(set(seen)) == 6


def test_what_strangers_wrote_is_shown_as_text_isolated_and_never_run(desk, li):
    page = next(p for p in (li.web.get(f"/item/{i.id}") for i in items(desk[1])) if "document.title" in p.text)
    assert "<script>document" not in page.text and "<img src=x" not in page.text
    assert "。⟨U+202E⟩" in page.text and "<bdi>" in page.text
    policy = page.headers["content-security-policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy and "style=" not in page.text
    assert EVIL[:12] in unescape(page.text)
    assert page.headers["referrer-policy"] == "no-referrer" and page.headers["x-frame-options"] == "DENY"


def items(book):
    with book.reading() as db:
        numbers = [n for (n,) in db.execute("SELECT id FROM items")]
    return [book.item(n) for n in numbers]


def test_strangers_see_nothing_and_links_end(desk, li):
    run, book, filler = desk
    stranger = TestClient(make_app(run, book, filler, {"testserver"}))
    for path in ("/", f"/item/{li.item}", "/mine", "/progress", f"/picture/{li.item}"):
        assert stranger.get(path).status_code == 401, path
    assert stranger.post(f"/item/{li.item}", data={"verdict": "accept"}).status_code == 401
    assert stranger.get("/enter/wrong").status_code == 403
    assert stranger.get("/", headers={"host": "evil.example"}).status_code == 421
    book.revoke("Li")
    assert li.get("/").status_code == 401


def test_a_form_from_elsewhere_changes_nothing(desk, li):
    for csrf, headers in (("", {}), ("x" * 32, {}), (None, {"sec-fetch-site": "cross-site"})):
        csrf = re.search('name="csrf" value="([^"]+)"', li.page.text)[1] if csrf is None else csrf
        answer = li.web.post(f"/item/{li.item}", data={"csrf": csrf, "verdict": "accept"}, headers=headers)
        assert answer.status_code == 403 and "Nothing was stored" in answer.text
    run, book, filler = desk
    strict = make_app(run, book, filler, {"testserver"}, {"http://testserver"})
    web = TestClient(strict, cookies=li.web.cookies)
    csrf = re.search('name="csrf" value="([^"]+)"', li.page.text)[1]
    form = {"csrf": csrf, "verdict": "accept", "corrected": ""}
    assert web.post(f"/item/{li.item}", data=form, headers={"origin": "http://evil.example"}).status_code == 403
    assert said(book) == []
    assert web.post(f"/item/{li.item}", data=form, headers={"origin": "http://testserver"}).status_code == 200
    assert len(said(book)) == 1


def test_bodies_that_are_no_form_and_too_long_ones_are_refused(li, desk):
    assert li.web.post(f"/item/{li.item}", content=b"x" * 700_000).status_code == 413
    assert li.web.post(f"/item/{li.item}", content=b"\xff\xfe=1").status_code in (400, 403)
    assert li.web.get("/item/99999").status_code == 404 and li.web.get("/item/1%2f..%2f..").status_code == 404
    assert li.web.get(f"/picture/{li.item}?side=99999").status_code == 404
    assert said(desk[1]) == []


def test_guessing_links_and_hammering_are_slowed_down(desk, li, monkeypatch):
    guesses = [li.web.get(f"/enter/{i}").status_code for i in range(12)]
    assert guesses[0] == 403 and guesses[-1] == 429
    monkeypatch.setattr(limits, "REVIEWER", (5.0, 0.01))
    wang = Person(desk, "Wang")
    answers = [wang.get("/progress") for _ in range(9)]
    assert answers[-1].status_code == 429 and answers[-1].headers["retry-after"]


def test_the_picture_is_a_bounded_jpeg(li):
    answer = li.web.get(f"/picture/{li.item}?side=480")
    assert answer.headers["content-type"] == "image/jpeg" and max(Image.open(io.BytesIO(answer.content)).size) <= 480


@sqlite_only
def test_a_book_that_is_locked_stores_nothing_and_keeps_what_was_written(desk, li, monkeypatch):
    monkeypatch.setattr("pipelines.review.database.BUSY", 0.05)
    other = sqlite3.connect(desk[1].at.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    page = li.post(verdict="correct", corrected="我的译文。")
    assert page.status_code == 503 and "NOT stored" in page.text and "held the book" in page.text and "我的译文。" in page.text
    other.execute("ROLLBACK")
    item = re.search(r'action="(/item/\d+)"', page.text)[1]
    assert li.post(item, verdict="correct", corrected="我的译文。").status_code == 200 and len(said(desk[1])) == 1


@sqlite_only
def test_a_book_that_is_gone_is_told_and_never_written_to_in_secret(desk, li):
    path, page = desk[1].at.path, li.page
    hidden = path.with_name("elsewhere.sqlite")
    path.rename(hidden)
    answer = li.post(f"/item/{li.item}", verdict="accept")
    assert answer.status_code == 503 and "not there any more" in answer.text
    assert li.web.get("/").status_code == 503 and not path.exists()
    hidden.rename(path)
    li.page = page
    assert li.post(f"/item/{li.item}", verdict="accept").status_code == 200 and len(said(desk[1])) == 1


def test_foreign_newer_and_other_runs_books_are_refused_with_a_reason(tmp_path):
    sqlite3.connect(tmp_path / "other.sqlite").execute("CREATE TABLE x (y)").connection.close()
    (tmp_path / "text.sqlite").write_bytes(b"something else, of some length, that is no database" * 100)
    for name in ("other", "text"):
        with pytest.raises(ConfigError, match="no book of a review"):
            open_book(tmp_path / f"{name}.sqlite", "demo")
    open_book(tmp_path / "mine.sqlite", "demo").close()
    with pytest.raises(ConfigError, match="book of the run demo, not of dci_cn"):
        open_book(tmp_path / "mine.sqlite", "dci_cn")
    newer = sqlite3.connect(tmp_path / "mine.sqlite")
    newer.execute("PRAGMA user_version=9")
    newer.close()
    with pytest.raises(ConfigError, match="another version of fineloom"):
        open_book(tmp_path / "mine.sqlite", "demo")
    with pytest.raises(ConfigError, match="on a store"):
        book_of(place("s3://bucket/run"), None)


def _judge_until_killed(where, pipe):
    book = Book(where, "demo")
    me = book.who(book.enter(book.invite("Li"))).id
    while (item := book.next(me)) is not None:
        book.store(item.id, me, "accept", None, None)
        pipe.send(item.id)


def test_a_process_killed_in_mid_review_loses_nothing_that_it_said_was_stored(tmp_path, where):
    where = where or tmp_path / "book.sqlite"
    book = Book(where, "demo")
    content = {"column": "t", "place": None, "source": "a dog", "shown": "一只狗"}
    book.fill("translate", 0, "x", [(f"{i:032x}", "translation", 0.0, content) for i in range(3000)])
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_judge_until_killed, args=(where, theirs))
    process.start()
    told = [ours.recv() for _ in range(25)]
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    while ours.poll():
        told.append(ours.recv())
    book.close()
    again = Book(where, "demo")
    with again.reading() as db:
        stored = [item for (item,) in db.execute("SELECT item FROM verdicts ORDER BY id")]
    if isinstance(where, str):
        assert stored[: len(told)] == told and len(stored) <= len(told) + 1
        return again.close()
    with again.reading() as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",) and db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert stored[: len(told)] == told and len(stored) <= len(told) + 1
    again.close()


def test_after_a_restart_reviewers_are_still_in_and_have_the_same_item(made, desk, li, where):
    run, book, _ = desk
    item = li.item
    book.close()
    second = opened(made, run.folder.parent, where=where)
    web = TestClient(make_app(*second, {"testserver"}), cookies=li.web.cookies)
    assert web.get("/").url.path == f"/item/{item}"
    second[1].close()


def test_verdicts_on_translations_captions_and_negatives_reach_the_next_run_through_the_review_file(
    made, root, tmp_path, where
):
    desk = opened(made, root, stages=(), where=where)
    li = Person(desk, "Li")
    li.get()
    done = {}
    for _ in range(60):
        if "/item/" not in str(li.page.url):
            break
        item = desk[1].item(li.item)
        turn = done.setdefault(item.kind, [])
        if item.content["shown"] is None or "<script" in item.content["shown"]:
            li.post(verdict="reject", reason="language" if item.kind == "translation" else "fluency")
        elif not turn:
            turn.append(item)
            zh = "一张重新写过的译文。" if item.kind == "translation" else None
            lines = item.content["shown"].split("\n")
            li.post(verdict="correct", corrected=zh or "\n".join(["a see-through paper thing", *lines[1:]]))
        elif len(turn) == 1:
            turn.append(item)
            li.post(verdict="reject", reason="fluency", note="no")
        else:
            li.post(verdict="accept")
        assert li.page.status_code == 200, li.page.text
    assert set(done) == {"translation", "negatives"}
    desk[1].close()
    merged = merge_reviews([book_of(desk[0].folder, where)], tmp_path / "reviews.jsonl")
    assert merged.reviews > 10 and merged.waiting == 0 and not merged.bad
    told = [json.loads(line) for line in (tmp_path / "reviews.jsonl").read_text("utf-8").splitlines()]
    assert any(line["reason"] == "fluency: no" for line in told)
    settings = (f"stages.{name}.file={tmp_path / 'reviews.jsonl'}" for name in ("reviewed", "reviewed_negatives"))
    chain = make_run_again(made, root, tuple(settings))

    def step(item, name):
        return next(s for s in show(chain, item.uid)["stages"] if s["stage"] == name)

    first, second = done["translation"]
    assert step(first, "reviewed")["columns"]["translation_zh_human"] == ["一张重新写过的译文。"]
    assert [(p["reason"], p["detail"]) for p in step(second, "reviewed")["parts"]] == [("rejected", "by Li: fluency: no")]
    first, second = done["negatives"]
    group = step(first, "reviewed_negatives")["columns"]["negatives"][first.content["place"]]
    assert group[0]["text"] == "a see-through paper thing" and group[0]["origin"] == "human"
    assert step(second, "reviewed_negatives")["columns"]["negatives"][second.content["place"]] == []


def make_run_again(made, root, settings):
    """The next run: the translations are there, so no server is asked."""
    from in_process import ModelServer

    with ModelServer(lambda asked: pytest.fail("asked again")) as server:
        model = [f"model.base_url={server.url}", f"model.name={server.name}"]
        return run_here(load_recipe(made / "scenes_recipe.yaml", [*model, *settings]), root)


def test_a_sample_that_was_taken_down_leaves_the_book_with_all_that_was_said_of_it(made, desk, li):
    run, book, filler = desk
    uid = book.item(li.item).uid
    li.post(verdict="correct", corrected="一个秘密。")
    take_down(run.snapshot().chain, [uid], [], [], "")
    filler.round()
    assert not any(item.uid == uid for item in items(book)) and said(book) == []
    if isinstance(book.at, Lite):
        assert "一个秘密".encode() not in book.at.path.read_bytes()


def test_a_half_deleted_run_is_asked_about_as_far_as_it_is_there(made, root):
    shutil.rmtree(root / "scenes" / "translate")
    desk = opened(made, root)
    assert desk[2].faults and "shard 0" in desk[2].faults[0] and items(desk[1]) == []
    li = Person(desk, "Li")
    assert "cannot be read" in li.get("/progress").text
    desk[1].close()


def test_a_run_that_goes_on_brings_new_items(made, tmp_path, where):
    root = tmp_path / "runs"
    shutil.copytree(made / "runs", root)
    for entry in (root / "scenes" / "ledger" / "translate").rglob("00001.json"):
        entry.rename(tmp_path / "later.json")
        back = entry
    desk = opened(made, root, where=where)
    before = len(items(desk[1]))
    (tmp_path / "later.json").rename(back)
    desk[0]._until = 0.0
    desk[2].round()
    assert 0 < before < len(items(desk[1]))
    desk[1].close()


def test_only_what_can_be_asked_about_is_and_a_wrong_stage_is_named(made, root):
    recipe = load_recipe(made / "scenes_recipe.yaml")
    assert [(a.stage.name, a.kind) for a in asked_of(recipe)] == [("translate", "translation"), ("negatives", "negatives")]
    with pytest.raises(ConfigError, match=r"makes no translation, caption or negatives; .*negatives, translate"):
        asked_of(recipe, ["size"])
    with pytest.raises(ConfigError, match=r"what is doubtful in stage translate: .*Did you mean judge"):
        asked_of(recipe, ["translate"], "jugde < 1")
    with pytest.raises(ConfigError, match="what is doubtful"):
        asked_of(recipe, ["negatives"], "judge < 1")


def test_a_stale_lease_is_no_reason_to_refuse_ones_own_second_thought(desk):
    book = desk[1]
    li, wang = (book.who(book.enter(book.invite(name))).id for name in ("Li", "Wang"))
    item = book.next(li).id
    book.store(item, li, "accept", None, None)
    with pytest.raises(Taken):
        book.store(item, wang, "accept", None, None)
    book.store(item, li, "reject", None, "added")
    with pytest.raises(BookError, match="no longer asked"):
        book.store(10**6, li, "accept", None, None)


def test_people_are_invited_counted_and_let_go_at_the_terminal(made, root, where):
    def call(*arguments):
        recipe, place_ = str(made / "scenes_recipe.yaml"), ["--root", str(root), *(["--book", where] if where else [])]
        return CliRunner().invoke(app, ["review", arguments[0], recipe, *arguments[1:], *place_])

    assert "no review was begun" in str(call("status").exception)
    first, second = (call("invite", "Li", "--address", "https://review.example.org/").output for _ in range(2))
    assert first != second and first.startswith("Li: https://review.example.org/enter/")
    book = Book(where or root / "scenes" / "review.sqlite", "scenes")
    token = second.strip().rpartition("/")[2]
    assert book.enter(first.strip().rpartition("/")[2]) is None and book.enter(token)
    if where is None:
        assert token.encode() not in book.at.path.read_bytes() + book.at.path.with_name("review.sqlite-wal").read_bytes()
    told = json.loads(call("status", "--json").output)
    assert told["reviewers"]["Li"]["accept"] == 0 and told["agreement"] == []
    assert "have ended" in call("invite", "Li", "--revoke").output and book.enter(token) is None
    assert "no reviewer Wang" in str(call("invite", "Wang", "--revoke").exception)
    assert "a reviewer's name is" in str(call("invite", "<b>").exception)
    book.close()


# What is PostgreSQL's own.


@postgres_only
def test_a_database_stopped_in_mid_review_is_told_loses_nothing_and_goes_on_when_it_is_back(desk, li, server):
    book, filler = desk[1], desk[2]
    page, first = li.page, li.item
    li.post(verdict="reject", reason="added")
    page, second = li.page, li.item
    for how in ("fast", "immediate"):
        server.stop(how)
        try:
            answer = li.post(f"/item/{second}", verdict="correct", corrected="我的译文。")
            assert answer.status_code == 503 and "Nothing that was stored before is lost" in answer.text
            assert "the database" in answer.text and li.web.get("/").status_code == 503
            with pytest.raises(BookError, match=r"stopped or cannot be reached|does not answer"):
                book.store(second, 1, "accept", None, None)
            filler.round()
            assert "does not answer" in filler.faults[0]
        finally:
            server.start()
        filler.round()
        assert not filler.faults and [verdict for _, verdict, _, _ in said(book)] == ["reject"]
        li.page = page
    assert li.post(f"/item/{second}", verdict="correct", corrected="我的译文。").status_code == 200
    assert said(book) == [("Li", "reject", None, "added"), ("Li", "correct", "我的译文。", None)] and first != second


@postgres_only
def test_a_transaction_cut_off_before_its_end_leaves_nothing_and_one_cut_off_at_its_end_is_told_apart(
    desk, li, server, monkeypatch
):
    book = desk[1]
    with pytest.raises(BookError, match="stopped or cannot be reached"), book.writing() as db:
        db.execute("UPDATE items SET gone = 1")
        (own,) = db.execute("SELECT pg_backend_pid()").fetchone()
        server.ask(f"SELECT pg_terminate_backend({own})")
        db.execute("UPDATE items SET done = 1")
    with book.reading() as db:
        assert db.execute("SELECT count(*) FROM items WHERE gone = 1 OR done = 1").fetchone() == (0,)
    with pytest.raises(Unsure, match="ended meanwhile"), book.writing() as db:
        (own,) = db.execute("SELECT pg_backend_pid()").fetchone()
        server.ask(f"SELECT pg_terminate_backend({own})")
    monkeypatch.setattr(book, "store", Mock(side_effect=Unsure("gone")))
    assert "Nobody knows whether" in li.post(verdict="accept").text
    with book.writing() as db:
        assert db.execute("SELECT current_setting('synchronous_commit')").fetchone() == ("on",)


@postgres_only
def test_tables_that_another_session_holds_store_nothing_and_say_so(desk, li, where, monkeypatch):
    import psycopg

    monkeypatch.setattr("pipelines.review.database.BUSY", 0.05)
    with psycopg.connect(where) as other:
        other.execute("LOCK TABLE fineloom_review.about IN EXCLUSIVE MODE")
        page = li.post(verdict="correct", corrected="我的译文。")
        assert (
            page.status_code == 503 and "NOT stored" in page.text and "held the book" in page.text and "我的译文。" in page.text
        )
    item = re.search(r'action="(/item/\d+)"', page.text)[1]
    assert li.post(item, verdict="correct", corrected="我的译文。").status_code == 200 and len(said(desk[1])) == 1


def _judge_all(where, name):
    book = Book(where, "demo")
    me = book.who(book.enter(book.invite(name))).id
    while (item := book.next(me)) is not None:
        book.store(item.id, me, "accept", None, None)
    book.close()


@postgres_only
def test_several_servers_on_one_database_give_no_item_to_two_and_lose_none(where):
    content = {"column": "t", "place": None, "source": "a dog", "shown": "一只狗"}
    context = multiprocessing.get_context("spawn")
    found = [(f"{i:032x}", "translation", 0.0, content) for i in range(24)]
    starting = [threading.Thread(target=lambda: Book(where, "demo").close()) for _ in range(4)]  # who begins it is one
    [thread.start() for thread in starting]
    [thread.join() for thread in starting]
    book = Book(where, "demo")
    book.fill("translate", 0, "x", found)
    processes = [context.Process(target=_judge_all, args=(where, name)) for name in ("Li", "Wang")]
    [process.start() for process in processes]
    [process.join() for process in processes]
    judged = [line["uid"] for line in book.lines()]
    assert sorted(judged) == [uid for uid, *_ in found] and book.progress()["stages"]["translate"]["done"] == 24
    book.close()


@postgres_only
def test_two_who_save_the_same_item_at_once_are_one_verdict_and_one_question(where):
    servers = [Book(where, "demo") for _ in range(2)]
    content = {"column": "t", "place": None, "source": "a dog", "shown": "一只狗"}
    servers[0].fill("translate", 0, "x", [("0" * 32, "translation", 0.0, content)])
    people = [servers[0].who(servers[0].enter(servers[0].invite(name))).id for name in ("Li", "Wang")]
    item, together, told = items(servers[0])[0].id, threading.Barrier(2), []

    def save(book, person):
        together.wait()
        try:
            told.append(book.store(item, person, "accept", None, None))
        except Taken as error:
            told.append(error)

    threads = [threading.Thread(target=save, args=pair) for pair in zip(servers, people, strict=True)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(isinstance(one, Taken) for one in told) == [False, True] and len(said(servers[1])) == 1
    [book.close() for book in servers]


@postgres_only
def test_newer_foreign_and_other_runs_tables_and_missing_rights_are_named(where, server):
    name = where.partition("@/")[2].partition("?")[0]
    with pytest.raises(ConfigError, match="not there"):
        merge_reviews([where], "never.jsonl")
    open_book(where, "demo").close()
    with pytest.raises(ConfigError, match="book of the run demo, not of dci_cn"):
        open_book(where, "dci_cn")
    server.ask("CREATE ROLE reader LOGIN") if not server.ask("SELECT 1 FROM pg_roles WHERE rolname = 'reader'") else None
    with pytest.raises(ConfigError, match="permission denied"):
        open_book(server.address(name, "reader"), "demo")
    server.ask("GRANT USAGE ON SCHEMA fineloom_review TO reader", name)
    server.ask("GRANT SELECT ON ALL TABLES IN SCHEMA fineloom_review TO reader", name)
    looked = open_book(server.address(name, "reader"), "demo")
    with pytest.raises(BookError, match="this user may not do that"):
        looked.invite("Li")
    assert looked.names() == []
    looked.close()
    with pytest.raises(ConfigError, match=r"does not let us in.*nowhere"):
        open_book(server.address("nowhere"), "demo")
    server.ask("UPDATE fineloom_review.about SET value = '9' WHERE name = 'layout'", name)
    with pytest.raises(
        ConfigError, match=r"fineloom_review.* were written by another version of fineloom \(layout 9, this one"
    ):
        open_book(where, "demo")
    server.ask("DELETE FROM fineloom_review.about WHERE name = 'layout'", name)
    with pytest.raises(ConfigError, match="is no book of a review"):
        open_book(where, "demo")
    server.ask("DROP SCHEMA fineloom_review CASCADE", name)
    with pytest.raises(ConfigError, match="permission denied"):
        open_book(server.address(name, "reader"), "demo")


@postgres_only
def test_a_server_that_does_not_sync_is_refused(where, server):
    server.stop()
    server.start("-c fsync=off")
    try:
        with pytest.raises(ConfigError, match="fsync off"):
            open_book(where, "demo")
    finally:
        server.stop()
        server.start()


def test_a_password_in_the_address_is_refused_and_repeated_nowhere():
    for address in ("postgresql://li:s3cret@db/x", "postgresql://db/x?password=s3cret", "postgresql://li:s3cret@db:port/x"):
        with pytest.raises(ConfigError) as told:
            open_book(address, "demo")
        assert "s3cret" not in str(told.value)
    for other in ("mysql://li:s3cret@db/x", "s3://bucket/book"):
        with pytest.raises(ConfigError, match="or at postgresql://") as told:
            book_of(place("runs"), other)
        assert "s3cret" not in str(told.value)
    with pytest.raises(ConfigError, match=r"PGPASSWORD"):
        open_book("postgresql://li:s3cret@db/x", "demo")
