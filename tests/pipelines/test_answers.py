"""What the answer store promises to those who paid for the answers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipelines import answers
from pipelines.answers import AnswerStore, read_answers, request_hash

ROOT = Path(__file__).parents[2]


def put_many(store: AnswerStore, numbers: range) -> None:
    for i in numbers:
        store.put(f"h{i}", {"text": f"answer {i}"})


def test_an_answer_is_found_again_by_the_next_attempt(tmp_path):
    with AnswerStore(tmp_path / "ask" / "00042", "a1") as store:
        store.put("h", {"text": "红色\u2028 \x00 car\n", "finish": "stop"})
    record = AnswerStore(tmp_path / "ask" / "00042", "a2").get("h")
    assert record == {"text": "红色\u2028 \x00 car\n", "finish": "stop", "hash": "h", "attempt": "a1"}


def test_an_unknown_request_has_no_answer_and_makes_no_folder(tmp_path):
    store = AnswerStore(tmp_path / "none", "a")
    assert store.get("h") is None
    store.close()
    assert not (tmp_path / "none").exists()


def test_a_lone_surrogate_from_the_model_is_kept(tmp_path):
    with AnswerStore(tmp_path, "a") as store:
        store.put("h", {"text": "cut emoji \ud83d"})
    assert AnswerStore(tmp_path, "b").get("h")["text"] == "cut emoji \ud83d"
    (path,) = tmp_path.glob("*.jsonl")
    path.read_text(encoding="utf-8")  # the file itself stays valid UTF-8


def test_an_answer_in_which_a_letter_was_changed_is_asked_for_again_and_one_of_an_older_version_is_read(tmp_path, caplog):
    with AnswerStore(tmp_path, "a") as store:
        store.put("h", {"text": "a red cat"})
        store.put("i", {"text": "a blue dog"})
    (path,) = tmp_path.glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b"red cat", b"rad cat") + b'{"text": "old", "hash": "j", "attempt": "0"}\n')
    after = AnswerStore(tmp_path, "b")
    assert after.get("h") is None and "line 1 is not a whole answer" in caplog.text
    assert after.get("i") == {"text": "a blue dog", "hash": "i", "attempt": "a"} and after.get("j")["text"] == "old"


def test_a_number_that_json_cannot_say_is_refused(tmp_path):
    with AnswerStore(tmp_path, "a") as store, pytest.raises(ValueError):
        store.put("h", {"text": "", "seconds": float("nan")})


def test_a_segment_is_published_at_sixty_four_answers(tmp_path):
    store = AnswerStore(tmp_path, "a")
    put_many(store, range(answers.BATCH - 1))
    assert not list(tmp_path.glob("*.jsonl"))
    store.put("last", {"text": ""})
    wait_for(lambda: list(tmp_path.glob("*.jsonl")))
    assert len(AnswerStore(tmp_path, "b")) == answers.BATCH
    store.close()


def test_a_lonely_answer_is_published_when_patience_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "PATIENCE", 0.05)
    store = AnswerStore(tmp_path, "a")
    store.put("h", {"text": "alone"})
    wait_for(lambda: list(tmp_path.glob("*.jsonl")))
    store.close()


def test_segments_are_never_changed_and_never_share_a_name(tmp_path):
    with AnswerStore(tmp_path, "a") as store:
        put_many(store, range(3))
        store.flush()
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        put_many(store, range(3, 5))
    with AnswerStore(tmp_path, "a") as again:  # the same name by mistake: still no overwriting
        put_many(again, range(3, 8))
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(after) == ["a-000000.jsonl", "a-000001.jsonl", "a-000002.jsonl"]
    assert before.items() <= after.items()
    assert len(after["a-000002.jsonl"].splitlines()) == 3


def test_two_writers_with_one_attempt_name_lose_nothing(tmp_path):
    first, second = AnswerStore(tmp_path, "same"), AnswerStore(tmp_path, "same")
    put_many(first, range(10))
    put_many(second, range(10, 20))
    first.close()
    second.close()
    assert len(AnswerStore(tmp_path, "reader")) == 20


def test_the_lowest_segment_name_holds_for_every_reader(tmp_path):
    with AnswerStore(tmp_path, "b") as late:
        late.put("h", {"text": "from b"})
    (tmp_path / "a-000000.jsonl").write_text(json.dumps({"hash": "h", "text": "from a"}) + "\n")
    assert AnswerStore(tmp_path, "c").get("h")["text"] == "from a"
    assert dict(read_answers(tmp_path))["h"]["text"] == "from a"


def test_a_second_answer_to_the_same_request_is_dropped(tmp_path):
    with AnswerStore(tmp_path, "a") as store:
        store.put("h", {"text": "first"})
        store.put("h", {"text": "second"})
    assert AnswerStore(tmp_path, "b").get("h")["text"] == "first"


@pytest.mark.parametrize("damage", [b'{"hash": "torn", "te', b"\x00\x00\x00\x00", b"[]", b'{"text": "no hash"}', b"\xff\xfe"])
def test_a_damaged_line_is_left_out_and_its_neighbours_are_kept(tmp_path, damage):
    good = json.dumps({"hash": "good", "text": "x"}).encode()
    other = json.dumps({"hash": "other", "text": "y"}).encode()
    (tmp_path / "a-000000.jsonl").write_bytes(good + b"\n" + damage + b"\n" + other + b"\n" + damage)
    store = AnswerStore(tmp_path, "b")
    assert {key for key, _ in read_answers(tmp_path)} == {"good", "other"}
    assert store.get("torn") is None


def test_unfinished_files_of_a_killed_writer_are_not_read(tmp_path):
    (tmp_path / ".a-000000.jsonl.1234.tmp").write_text(json.dumps({"hash": "h", "text": "x"}) + "\n")
    assert len(AnswerStore(tmp_path, "b")) == 0


def test_flush_returns_only_when_everything_is_on_the_disk(tmp_path):
    store = AnswerStore(tmp_path, "a")
    for end in (1, 70, 200):
        put_many(store, range(end))
        store.flush()
        assert len(AnswerStore(tmp_path, "reader")) == end
    store.close()
    store.close()
    with pytest.raises(ValueError, match="closed"):
        store.put("late", {})


def test_a_disk_that_refuses_is_an_error_of_the_run_not_a_lost_answer(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    store = AnswerStore(blocked / "00001", "a")
    store.put("h", {"text": "x"})
    with pytest.raises(RuntimeError, match="answers cannot be kept"):
        store.flush()
    with pytest.raises(RuntimeError, match="answers cannot be kept"):
        store.put("i", {"text": "y"})
    with pytest.raises(RuntimeError, match="answers cannot be kept"):
        store.close()


def test_many_threads_and_an_event_loop_may_put_at_once(tmp_path):
    store = AnswerStore(tmp_path, "a")

    async def from_loop() -> None:
        for i in range(300):
            store.put(f"loop{i}", {"text": str(i)})
            await asyncio.sleep(0)
        await asyncio.to_thread(store.flush)

    threads = [threading.Thread(target=put_many, args=(store, range(k * 200, k * 200 + 200))) for k in range(4)]
    for thread in threads:
        thread.start()
    asyncio.run(from_loop())
    for thread in threads:
        thread.join()
    store.close()
    assert len(AnswerStore(tmp_path, "b")) == 300 + 800


WRITER = """
import sys
from pathlib import Path
from pipelines.answers import AnswerStore
store = AnswerStore(Path(sys.argv[1]), sys.argv[2])
i = len(store)
while True:
    store.put(f"h{i}", {"text": "x" * (i % 5000), "number": i})
    i += 1
    print(i, flush=True)
    if store._waiting and len(store._waiting) >= 64:
        store.flush()  # a writer that outruns the disk: keep the loss bounded by what is promised
"""


def test_sigkill_in_mid_write_loses_at_most_the_unflushed(tmp_path):
    """Three writers in turn are killed while they write; each goes on where the kept answers end, and no hole appears."""
    kept = 0
    for attempt in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), f"{attempt:04d}"],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        put = 0
        for line in process.stdout:
            put = int(line)
            if put >= kept + 150 + 37 * attempt:
                break
        process.send_signal(signal.SIGKILL)
        put = max([put, *(int(line) for line in process.stdout.read().split(b"\n")[:-1])])
        process.wait()
        records = dict(read_answers(tmp_path))
        assert put - len(records) <= 2 * answers.BATCH  # one segment waiting, one being written
        assert sorted(record["number"] for record in records.values()) == list(range(len(records)))
        assert all(len(record["text"]) == record["number"] % 5000 for record in records.values())
        assert len(records) > kept
        kept = len(records)


def test_the_hash_knows_everything_that_decides_an_answer():
    base = {
        "image_sha256": "ab" * 32,
        "sent_size": "448x336",
        "messages": [{"role": "user", "content": "Describe."}],
        "schema": {"type": "object"},
        "sampling": {"temperature": 0, "seed": 0},
        "identity": {"name": "m", "weights": "sha256:1"},
    }
    other = {
        "image_sha256": None,
        "sent_size": "448x308",
        "messages": [{"role": "user", "content": "Describe!"}],
        "schema": None,
        "sampling": {"temperature": 0, "seed": 1},
        "identity": {"name": "m", "weights": "sha256:2"},
    }
    hashes = {request_hash(**base)} | {request_hash(**{**base, key: value}) for key, value in other.items()}
    assert len(hashes) == 1 + len(other)
    shuffled = {**base, "sampling": {"seed": 0, "temperature": 0}}
    assert request_hash(**shuffled) == request_hash(**base)
    assert len(request_hash(**base)) == 64
    request_hash(**{**base, "messages": [{"role": "user", "content": "\ud83d"}]})
    with pytest.raises(ValueError):
        request_hash(**{**base, "sampling": {"temperature": float("nan")}})


def wait_for(condition) -> None:
    """Until the writing thread has done it; the test's time-out is the limit."""
    while not condition():
        time.sleep(0.01)
