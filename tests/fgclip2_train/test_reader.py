"""The order of samples, resuming in it, and what becomes of shards that are not as they should be."""

import errno
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import tarfile
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from make_shards import record, scene, write_scenes, write_shard
from PIL import Image

from fgclip2_train.config import load_settings
from fgclip2_train.data.images import Augment, vary
from fgclip2_train.data.loader import DataSettings, Loader, Reader
from fgclip2_train.data.order import Stream, fixed_turn_at, turn_at
from fgclip2_train.data.samples import TextSettings, choose
from fgclip2_train.data.shards import Raw, _content, _Header, _indexed, find_shards, read_shard
from fgclip2_train.data.tokens import Texts, load_texts, train_tokenizer

BOTH = TextSettings(region_languages=["en", "zh"], negative_languages=["en", "zh"])


@pytest.fixture(scope="module")
def texts() -> Texts:
    return train_tokenizer(["a picture with red circle at the left", "左边的红色圆形和蓝色方块"] * 3, 400)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return write_scenes(tmp_path_factory.mktemp("shards"), shards=5, per_shard=12, side=64)


def reader(shards, texts, batch=4, step=0, positions=None, rank=0, ranks=1, **settings) -> Reader:
    settings = {"patches": 16, "shuffle_block": 7, "open_shards": 2, "pad_regions_to": 4, "texts": BOTH} | settings
    chosen = DataSettings(shards=shards, **settings)
    return Reader(chosen, texts, batch, lengths=(24, 40), seed=3, rank=rank, ranks=ranks, step=step, positions=positions)


def same(one, other) -> bool:
    ours, theirs = one.tensors(), other.tensors()
    return one.uids == other.uids and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mixing", ["sample", "batch"])
def test_a_resumed_reader_gives_the_exact_next_batches(shards, texts, workers, mixing):
    straight = Loader(reader(shards, texts, mixing=mixing), workers)
    expected = [next(straight) for _ in range(40)]  # several epochs
    first = Loader(reader(shards, texts, mixing=mixing), workers)
    for _ in range(17):
        next(first)
    state = json.loads(json.dumps(first.state()))  # as it comes back from trainer.json
    resumed = Loader(reader(shards, texts, mixing=mixing, step=state["step"], positions=state["positions"]), workers)
    assert all(same(next(resumed), batch) for batch in expected[17:])


def test_an_epoch_gives_every_sample_once_over_all_consumers(shards):
    for consumers in (1, 2, 7):  # also more consumers than shards
        seen: Counter[str] = Counter()
        for consumer in range(consumers):
            stream = Stream(find_shards(shards), "zh", seed=1, consumer=consumer, consumers=consumers, block=5, open_shards=2)
            for epoch, raw in stream._samples:
                if epoch:
                    break
                seen[raw.uid] += 1
        assert len(seen) == 30 and set(seen.values()) == {1}


def test_epochs_differ_in_order_and_seeds_too(shards):
    def order(seed, start):
        return [raw.uid for _, raw in islice(Stream(find_shards(shards), "en", seed=seed)._samples, start, start + 30)]

    assert sorted(order(1, 0)) == sorted(order(1, 30))
    assert order(1, 0) != order(1, 30) and order(1, 0) != order(2, 0) and order(1, 0) == order(1, 0)


def test_languages_take_turns_in_proportion_and_not_in_step_with_workers():
    weights = {"en": 2.0, "zh": 1.0}
    turns = [turn_at(step, weights, seed=5) for step in range(300)]
    assert Counter(turns) == {"en": 200, "zh": 100}
    assert {turns[0::3].count("zh"), turns[1::3].count("zh"), turns[2::3].count("zh")} != {0, 100}
    assert turns == [turn_at(step, weights, seed=5) for step in range(300)]


def test_a_source_of_one_in_a_thousand_has_one_step_in_a_thousand():
    weights = {"large": 0.97, "small": 0.029, "least": 0.001}
    turns = Counter(turn_at(step, weights, seed=5) for step in range(30_000))
    assert turns["large"] / 30_000 == pytest.approx(0.97, abs=0.002)
    assert turns["small"] / 30_000 == pytest.approx(0.029, abs=0.002)
    assert 15 <= turns["least"] <= 45


def test_a_fixed_order_needs_whole_turns():
    assert "".join(fixed_turn_at(step, {"a": 1.0, "b": 2.0}) for step in range(7)) == "abbabba"
    with pytest.raises(ValueError, match=r"data\.mixing=turns: .* no round of at most 60 whole turns"):
        fixed_turn_at(0, {"a": 0.97, "b": 0.029, "c": 0.001})


def test_batches_of_one_language_when_they_take_turns(shards, texts):
    loader = Loader(reader(shards, texts, mixing="batch"), 0)
    for _ in range(6):
        batch = next(loader)
        assert len(set(batch.region_language[batch.region_valid].tolist())) == 1


def sample(uid: str, /, **changes) -> tuple[str, bytes, bytes]:
    import random

    picture, objects = scene(random.Random(uid), 64)
    whole = record(uid, picture, objects, ["en"], 64) | changes
    return uid, picture, json.dumps(whole).encode()


def test_damaged_samples_are_skipped_and_counted(tmp_path, texts):
    good = [sample(f"{number:032x}") for number in range(6)]
    bad_picture = (f"{90:032x}", b"<html>not found</html>", sample(f"{90:032x}")[2])
    cut_picture = (f"{91:032x}", sample(f"{91:032x}")[1][:200], sample(f"{91:032x}")[2])
    no_json = (f"{92:032x}", b"x", None)
    odd_json = (f"{93:032x}", b"x", b"[1, 2")
    write_shard(tmp_path / "0.tar", [good[0], bad_picture, *good[1:3], no_json, cut_picture, odd_json, *good[3:]])
    whole = write_shard(tmp_path / "1.tar", good).read_bytes()
    (tmp_path / "1.tar").write_bytes(whole[: len(whole) * 2 // 3])
    loader = Loader(reader(str(tmp_path), texts, languages={"en": 1}), 0)
    uids = {uid for _ in range(8) for uid in next(loader).uids}
    assert uids == {uid for uid, _, _ in good}
    assert loader.counts["bad: picture cannot be decoded"] > 0
    assert loader.counts["bad: picture or record missing"] > 0
    assert loader.counts["bad: record is not a JSON object"] > 0
    assert loader.counts[f"bad: shard cut short: {tmp_path / '1.tar'}"] > 0


def test_too_many_damaged_samples_stop_the_run(tmp_path, texts):
    half = [sample(f"{n:032x}") if n % 2 else (f"{n:032x}", b"no picture", sample(f"{n:032x}")[2]) for n in range(20)]
    write_shard(tmp_path / "0.tar", half)
    loader = Loader(reader(str(tmp_path), texts, languages={"en": 1}, max_bad_share=0.2), 0)
    with pytest.raises(ValueError, match=r"unreadable, above data\.max_bad_share=0\.2: picture cannot be decoded"):
        for _ in range(100):
            next(loader)


def test_a_resumed_reader_counts_on_and_nothing_twice(tmp_path, texts):
    """A position in the middle of a block means reading that block again, with what is bad in it."""
    write_shard(tmp_path / "0.tar", [sample(f"{n:032x}") if n % 4 else (f"{n:032x}", None, b"{") for n in range(20)])

    def loader(**position):
        return Loader(reader(str(tmp_path), texts, languages={"en": 1}, max_bad_share=1, **position), 0)

    straight = loader()
    for _ in range(15):
        next(straight)
    for cut in (1, 4, 7):
        first = loader()
        for _ in range(cut):
            next(first)
        state = json.loads(json.dumps(first.state()))
        resumed = loader(step=state["step"], positions=state["positions"])
        resumed.count_on([state])
        for _ in range(15 - cut):
            next(resumed)
        assert (resumed.counts, resumed.samples, resumed.read) == (straight.counts, straight.samples, straight.read)


def test_counts_of_several_ranks_go_on_in_one(shards, texts):
    states = [{"counts": {"bad: x": n}, "samples": 10 * n, "read": 100 * n} for n in (1, 2)]
    alone, second = Loader(reader(shards, texts), 0), Loader(reader(shards, texts, rank=1, ranks=2), 0)
    alone.count_on(states)
    second.count_on(states)
    assert (alone.counts["bad: x"], alone.samples, alone.read) == (3, 30, 300)
    assert (second.counts["bad: x"], second.samples, second.read) == (2, 20, 200)


def test_a_shard_cut_short_counts_as_what_the_index_says_is_missing(tmp_path, texts):
    """Two thirds of the one shard are gone: far above the ceiling, though it is one fault in one file."""
    folder = tmp_path / "shards"
    folder.mkdir()
    write_shard(folder / "0.tar", [sample(f"{n:032x}") for n in range(100)])
    whole = write_shard(folder / "1.tar", [sample(f"{n:032x}") for n in range(100, 190)])
    with tarfile.open(whole) as tar:
        end = [member.offset for member in tar][2 * 30]
    whole.write_bytes(whole.read_bytes()[:end])

    def given(batches: int) -> Loader:
        settings = {"languages": {"en": 1}, "max_bad_share": 0.2}
        loader = Loader(reader(str(folder), texts, batch=20, **settings), 0)
        for _ in range(batches):
            next(loader)
        return loader

    reason = f"bad: shard cut short: {whole}"
    assert given(8).counts[reason] == 1  # an epoch is 130 samples
    rows = {"uid": ["-"] * 190, "tar": ["0.tar"] * 100 + ["1.tar"] * 90, "offset": [0] * 190, "size": [0] * 190}
    pq.write_table(pa.table(rows), tmp_path / "index.parquet")
    _indexed.cache_clear()
    with pytest.raises(ValueError, match=r"29\.\d% of the samples are unreadable, above .*1\.tar 60 "):
        given(14)


def test_readers_that_share_a_shard_do_not_multiply_its_bad_records(tmp_path, texts):
    """Eight readers, one shard: each reads all records, one in fifty is bad, and each gives out an eighth."""
    samples = [sample(hashlib.md5(str(n).encode()).hexdigest()) for n in range(250)]
    write_shard(tmp_path / "0.tar", [*samples, *[(f"{n:032x}", b"x", b"[") for n in range(5)]])
    settings = {"languages": {"en": 1}, "shuffle_block": 100}
    loader = Loader(reader(str(tmp_path), texts, batch=20, rank=3, ranks=8, **settings), 0)
    for _ in range(12):
        next(loader)
    assert 0.015 < sum(loader.counts.values()) / loader.read < 0.025


GONE, FOLDER = "No such file or directory", "Is a directory"


@pytest.mark.parametrize("mixing", ["sample", "batch"])
@pytest.mark.parametrize("what", [GONE, FOLDER])
def test_a_shard_that_cannot_be_read_is_a_counted_hole_and_resuming_is_exact(what, mixing, tmp_path, texts):
    shards = find_shards(write_scenes(tmp_path, shards=4, per_shard=10, side=64))
    Path(shards[2]).unlink()
    if what == FOLDER:
        Path(shards[2]).mkdir()

    def loader(**position):
        chosen = reader(str(tmp_path), texts, mixing=mixing, max_bad_share=0.1, **position)
        chosen.sources = {"shards": (shards, 1.0)}  # as they were found before one went
        return Loader(chosen, 0)

    straight = loader()
    expected = [next(straight) for _ in range(20)]
    assert len({uid for batch in expected for uid in batch.uids}) == 30
    assert straight.counts[f"bad: shard cannot be read ({what}): {shards[2]}"] > 1
    for cut in (1, 6, 11):
        first = loader()
        for _ in range(cut):
            next(first)
        state = json.loads(json.dumps(first.state()))
        resumed = loader(step=state["step"], positions=state["positions"])
        assert all(same(next(resumed), batch) for batch in expected[cut:])


class Faulty:
    """Raises for `path` at its n-th to m-th read of n, m in `when`, as a disk that comes and goes."""

    def __init__(self, monkeypatch, path: str, error: OSError, when: range):
        self.path, self.error, self.when, self.reads, self.usual = path, error, when, 0, _content
        monkeypatch.setattr("fgclip2_train.data.shards._content", self)
        monkeypatch.setattr("fgclip2_train.data.shards.PAUSE", 0)

    def __call__(self, tar, member):
        if tar.name == self.path:
            self.reads += 1
            if self.reads in self.when:
                raise self.error
        return self.usual(tar, member)


@pytest.mark.parametrize("patches", [16, "bucketed"])
def test_a_shard_lost_for_a_while_ends_there_again_when_the_run_goes_on(patches, tmp_path, texts, monkeypatch):
    """It fails in the middle of the second block and can be read again by the time that the run is resumed."""
    shards = find_shards(write_scenes(tmp_path, shards=2, per_shard=20, side=64, languages=("en",)))

    def loader(**position):
        options = {"languages": {"en": 1}, "patches": patches, "bucket_pool": 3, "shuffle_block": 9}
        return Loader(reader(str(tmp_path), texts, **options, **position), 0)

    faulty = Faulty(monkeypatch, shards[0], OSError(errno.EIO, "Input/output error"), range(0))
    first, positions = loader(), {}
    faulty.reads, faulty.when = 0, range(15, 17)
    expected = []
    for number in range(12):
        expected.append(next(first))
        positions[number + 1] = json.loads(json.dumps(first.state()))
    assert first.counts[f"bad: shard cannot be read (Input/output error): {shards[0]}"] == 1
    faulty.when = range(0)
    for cut, state in positions.items():
        resumed = loader(step=state["step"], positions=state["positions"])
        if cut >= 3:  # the fault lies behind
            assert all(same(next(resumed), batch) for batch in expected[cut:]), cut


def test_one_failed_read_is_tried_again_and_costs_nothing(tmp_path, monkeypatch):
    path = write_shard(tmp_path / "0.tar", [sample(f"{n:032x}") for n in range(5)])
    Faulty(monkeypatch, str(path), OSError(errno.EIO, "Input/output error"), range(4, 5))
    counts: Counter[str] = Counter()
    assert [raw.place for raw in read_shard(str(path), counts, lambda place, record: True)] == [0, 1, 2, 3, 4] and not counts


@pytest.mark.parametrize("fault", [errno.EMFILE, errno.ENOSPC])
def test_faults_of_this_machine_are_no_holes(fault, tmp_path, monkeypatch):
    path = write_shard(tmp_path / "0.tar", [sample(f"{n:032x}") for n in range(5)])
    Faulty(monkeypatch, str(path), OSError(fault, os.strerror(fault)), range(4, 5))
    with pytest.raises(OSError, match=os.strerror(fault)):
        list(read_shard(str(path), Counter(), lambda place, record: True, holes=True))


def test_more_holes_than_the_ceiling_allows_stop_the_run(tmp_path, texts):
    """By the index, which knows how many samples were in them."""
    shards = find_shards(write_scenes(tmp_path, shards=6, per_shard=50, side=64, languages=("en",)))
    names = [Path(shard).name for shard in shards for _ in range(50)]
    pq.write_table(pa.table({"uid": ["-"] * 300, "tar": names}), tmp_path / "index.parquet")
    _indexed.cache_clear()
    chosen = reader(str(tmp_path), texts, batch=20, languages={"en": 1}, max_bad_share=0.2)
    for shard in shards[:2]:
        Path(shard).unlink()
    loader = Loader(chosen, 0)
    with pytest.raises(ValueError, match=rf"{GONE}\): {tmp_path}/0000\d\.tar 50"):
        for _ in range(30):
            next(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_of_which_none_can_be_read_stop_with_their_reason(workers, tmp_path, texts):
    for number in range(3):
        (tmp_path / f"{number}.tar").mkdir()
    with pytest.raises(ValueError, match=r"none of 3 shards can be read: shard cannot be read \(Is a directory\): .*\.tar"):
        next(Loader(reader(str(tmp_path), texts, languages={"en": 1}), workers))


def test_another_format_version_is_refused_by_name(tmp_path):
    path = write_shard(tmp_path / "0.tar", [sample("a" * 32, format="fineloom/2")])
    with pytest.raises(ValueError, match="format fineloom/2; this trainer reads fineloom/1"):
        list(read_shard(str(path), Counter(), lambda place, record: True))


UNSOUND = {
    "no texts": {"texts": None},
    "texts of which there are none": {"texts": []},
    "a text of two languages": {"texts": [{"language": ["en"], "length": "short", "origin": "source", "text": "a cat"}]},
    "a text without words": {"texts": [{"language": "en", "length": "short", "origin": "source", "text": None}]},
    "a text of no known length": {"texts": [{"language": "en", "length": "medium", "origin": "source", "text": "a cat"}]},
    "a text of half a character": {"texts": [{"language": "en", "length": "short", "origin": "source", "text": "a \ud83d"}]},
    "a blank text": {"texts": [{"language": "en", "length": "short", "origin": "source", "text": " "}]},
    "regions that are no list": {"regions": 3},
    "a region without its box": {"regions": [{"language": "en", "short": "a", "long": "a", "negatives": []}]},
    "a blank expression": {"regions": [{"box": [0, 0, 1, 1], "language": "en", "short": " ", "long": "a", "negatives": []}]},
    "a box turned over": {"regions": [{"box": [0.9, 0, 0.1, 1], "language": "en", "short": "a", "long": "a", "negatives": []}]},
    "a box in pixels": {"regions": [{"box": [0, 0, 60, 60], "language": "en", "short": "a", "long": "a", "negatives": []}]},
    "a box of nothing": {"regions": [{"box": [0, float("nan"), 1, 1], "language": "en", "short": "a", "long": "a"}]},
    "no size": {"width": None},
    "an identity of another kind": {"uid": "sample-17"},
    "an identity below zero": {"uid": "-" + "7" * 31},
    "no digest": {"sha256": None},
}


@pytest.mark.parametrize("what", UNSOUND)
def test_a_record_that_is_not_as_the_format_has_it_is_skipped_and_counted(what, tmp_path, texts):
    good = [sample(f"{number:032x}") for number in range(3)]
    write_shard(tmp_path / "0.tar", [good[0], sample(f"{7:032x}", **UNSOUND[what]), *good[1:]])
    loader = Loader(reader(str(tmp_path), texts, languages={"en": 1}, patches="official"), 0)
    assert {uid for _ in range(3) for uid in next(loader).uids} == {uid for uid, _, _ in good}
    assert loader.counts["bad: record is not as the format has it"] > 0


def test_a_record_nested_without_end_is_skipped(tmp_path, texts):
    whole = sample("a" * 32)
    write_shard(tmp_path / "0.tar", [whole, ("b" * 32, whole[1], b"[" * 100_000)])
    loader = Loader(reader(str(tmp_path), texts, languages={"en": 1}), 0)
    assert set(next(loader).uids) == {"a" * 32}
    assert loader.counts["bad: record is not a JSON object"] > 0


def test_nothing_but_broken_pictures_stops_at_once_and_not_never(tmp_path, texts):
    write_shard(tmp_path / "0.tar", [(f"{n:032x}", b"no picture", sample(f"{n:032x}")[2]) for n in range(3)])
    loader = Loader(reader(str(tmp_path), texts, languages={"en": 1}), 0)
    with pytest.raises(ValueError, match="201 pictures that cannot be decoded, for one batch of 4"):
        next(loader)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_headers_of_every_kind_are_read_as_tarfile_reads_them(format, tmp_path):
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w", format=format) as tar:
        for name in ("a.jpg", "x" * 90 + ".json", "y" * 60 + "/" + "z" * 80 + ".jpg", "图.jpg", "folder/", "b.json"):
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            member.size = 0 if member.isdir() else len(name) * 100
            member.uid, member.uname = 2**40 if format != tarfile.USTAR_FORMAT else 7, "someone"
            tar.addfile(member, io.BytesIO(bytes(member.size)))

    def listed(**options):
        with tarfile.open(path, **options) as tar:
            return [(member.name, member.size, member.offset_data, member.type) for member in tar]

    assert listed(tarinfo=_Header) == listed()
    data = bytearray(path.read_bytes())
    for place, byte in ((3, 65), (126, 57), (126, 255), (150, 57), (150, 255)):  # in the name, the size, the checksum
        path.write_bytes(data[:place] + bytes([byte]) + data[place + 1 :])
        for options in ({}, {"tarinfo": _Header}):
            with pytest.raises(tarfile.ReadError):
                listed(**options)


def test_a_batch_is_the_same_on_the_other_side_of_a_pipe(shards, texts):
    batch = next(Loader(reader(shards, texts), 0))
    again = pickle.loads(pickle.dumps(batch))
    assert same(again, batch) and again.info == batch.info and again.extent == batch.extent
    again.boxes += 1  # its own, and not read-only


def test_room_that_is_used_again_shows_nothing_of_the_batch_before(tmp_path, texts):
    """Pictures of many shapes, so that what is beyond their patches differs; a process of its own, and none, give the same."""
    sizes = [(64, 48), (150, 40), (64, 64), (40, 160), (150, 150)]
    samples = []
    for number in range(30):
        data = io.BytesIO()
        Image.effect_noise(sizes[number % 5], 90).save(data, "PNG")
        samples.append((f"{number:032x}", data.getvalue(), sample(f"{number:032x}")[2]))
    write_shard(tmp_path / "0.tar", samples)
    options = {"languages": {"en": 1}, "patches": 36, "shuffle_block": 12}
    one, other = (Loader(reader(str(tmp_path), texts, batch=3, **options), workers) for workers in (1, 0))
    held = [next(one) for _ in range(4)]  # more than there is room for
    assert all(same(batch, next(other)) for batch in held)
    part, expected = held[0].patches[1:], held[0].patches[1:].clone()
    held.clear()
    for _ in range(8):
        assert same(next(one), next(other))
    assert torch.equal(part, expected)  # nothing is written where somebody still reads
    del part
    assert one.reader.rooms[0].memory[:3].count(1) <= 2  # of batches that wait
    one.close()


def test_a_loader_that_nobody_closed_ends_with_the_program(shards, texts, monkeypatch):
    at_exit = []
    monkeypatch.setattr("atexit.register", lambda *call: at_exit.append(call))
    before = set(multiprocessing.active_children())
    loader = Loader(reader(shards, texts), 1)
    assert next(loader) and set(multiprocessing.active_children()) - before
    for call, *arguments in reversed(at_exit):
        call(*arguments)
    assert not set(multiprocessing.active_children()) - before


def test_no_text_in_the_wanted_language_is_an_error_and_not_an_endless_search(tmp_path, texts):
    write_shard(tmp_path / "0.tar", [sample("a" * 32)])
    with pytest.raises(ValueError, match="no readable sample with a text in 'zh'"):
        next(Loader(reader(str(tmp_path), texts, languages={"zh": 1}), 0))


def in_language(language: str, first: int, count: int) -> list:
    import random

    samples = []
    for number in range(first, first + count):
        picture, objects = scene(random.Random(number), 64)
        uid = f"{number:032x}"
        samples.append((uid, picture, json.dumps(record(uid, picture, objects, [language], 64)).encode()))
    return samples


def test_languages_in_shards_of_their_own_leave_no_reader_without(tmp_path):
    """Four readers, one shard each and epoch, three of five shards without the language: it comes round."""
    for number, language in enumerate(["en", "en", "zh", "en", "zh"]):
        write_shard(tmp_path / f"{number}.tar", in_language(language, 10 * number, 3))
    (tmp_path / "5.tar").write_bytes(b"")
    shards = find_shards(str(tmp_path))
    for consumer in range(4):
        stream = Stream(shards, "zh", seed=2, consumer=consumer, consumers=4, block=5, open_shards=2)
        seen = [next(stream) for _ in range(30)]
        assert {raw.record["texts"][0]["language"] for _, raw in seen} == {"zh"}
        state, later = stream.position(), [next(stream)[1].uid for _ in range(20)]
        again = Stream(shards, "zh", seed=2, consumer=consumer, consumers=4, block=5, open_shards=2, position=state)
        assert [next(again)[1].uid for _ in range(20)] == later
    with pytest.raises(ValueError, match=r"'fr' in 6 shards.*left out by data\.languages"):
        next(Stream(shards, "fr", seed=2, consumer=1, consumers=4))


def test_more_readers_than_samples_says_so(tmp_path):
    write_shard(tmp_path / "0.tar", in_language("en", 0, 1))
    with pytest.raises(ValueError, match=r"for reader [12] of 2.*fewer data\.workers"):
        for consumer in range(2):
            next(Stream(find_shards(str(tmp_path)), "en", seed=0, consumer=consumer, consumers=2))


def test_sources_of_one_language_each_are_mixed_by_weight(tmp_path, texts):
    sources = {}
    for name, language, weight in (("laion", "en", 1.0), ("wukong", "zh", 3.0)):
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name / "0.tar", in_language(language, len(sources) * 100, 12))
        sources[name] = {"shards": str(tmp_path / name), "weight": weight, "languages": {language: 1}}
    batches = Loader(reader(None, texts, sources=sources, mixing="sample"), 0)
    seen = Counter("zh" if int(uid, 16) >= 100 else "en" for _ in range(100) for uid in next(batches).uids)
    assert 0.65 < seen["zh"] / seen.total() < 0.85


@pytest.mark.parametrize("workers", [0, 1])
def test_what_stops_a_reader_is_said_in_its_own_words(workers, tmp_path, texts):
    write_shard(tmp_path / "0.tar", [sample("a" * 32, format="fineloom/2")])
    with pytest.raises(ValueError) as caught:
        next(Loader(reader(str(tmp_path), texts, languages={"en": 1}), workers))
    assert str(caught.value).startswith(str(tmp_path)) and "Traceback" not in str(caught.value)


def test_damage_of_any_kind_is_the_pictures_fault(tmp_path, texts):
    """AVIF's reader raises RuntimeError, others raise what the damaged bytes lead them to."""
    data = io.BytesIO()
    Image.effect_noise((64, 48), 50).convert("RGB").save(data, "AVIF")
    half = data.getvalue()[: len(data.getvalue()) * 2 // 3]
    good = [sample(f"{number:032x}") for number in range(4)]
    write_shard(tmp_path / "0.tar", [*good, (f"{9:032x}", half, sample(f"{9:032x}")[2])])
    loader = Loader(reader(str(tmp_path), texts, languages={"en": 1}), 0)
    for _ in range(6):
        next(loader)
    assert loader.counts["bad: picture cannot be decoded"] > 0


def test_a_pattern_without_shards_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no shard matches"):
        find_shards(str(tmp_path / "*.tar"))


def raw(**changes) -> Raw:
    text = {"language": "en", "length": "short", "origin": "source", "by": "x", "text": "A Red cube"}
    return Raw("a" * 32, b"", {"texts": [text], "regions": [], **changes}, 0)


def test_without_a_long_caption_the_short_one_is_repeated_four_times():
    chosen = choose(raw(), "en", TextSettings(prefix_en=""), 0, 0)
    assert chosen.long == "A Red cube A Red cube A Red cube A Red cube"
    assert choose(raw(), "en", TextSettings(), 0, 0).short == "a photo of A Red cube"


def test_without_a_short_caption_the_first_sentence_of_the_long_one_stands_in():
    long = {"language": "zh", "length": "long", "origin": "model", "by": "x", "text": "一只猫。它在睡觉。"}
    chosen = choose(raw(texts=[long]), "zh", TextSettings(), 0, 0)
    assert (chosen.short, chosen.long) == ("一只猫。", "一只猫。它在睡觉。")


def test_regions_follow_the_languages_and_the_limit():
    region = {
        "box": [0, 0, 1, 1],
        "language": "en",
        "short": "s",
        "long": "s",
        "negatives": [{"text": str(n)} for n in range(10)],
    }
    many = raw(regions=[region] * 6)
    assert len(choose(many, "en", TextSettings(), 0, 0).regions) == 4
    assert choose(many, "en", TextSettings(region_languages=["zh"]), 0, 0).regions == []
    assert choose(many, "en", TextSettings(negative_languages=[]), 0, 0).regions[0][2] is None


def test_token_rows_are_right_padded_lower_case_and_of_fixed_length(texts, tmp_path):
    texts.save(tmp_path)
    for tokenizer in (texts, load_texts(tmp_path)):
        ids = tokenizer(["Red CIRCLE", "红色圆形", "red circle " * 50], 12)
        assert ids.shape == (3, 12) and torch.equal(ids[0], tokenizer(["red circle"], 12)[0])
        assert ids[0, -1] == 0 and ids[2, -1] != 0


def test_token_rows_are_those_of_the_tokenizers_own_call(texts):
    said = ["a red circle", "", "红色圆形 and a ball", "red circle " * 50, " \t", "🦊"]
    own = texts.tokenizer(said, padding="max_length", truncation=True, max_length=16)["input_ids"]
    assert texts(said, 16).tolist() == own


def test_a_tokenizer_whose_texts_do_not_end_is_refused_by_its_folder(texts, tmp_path):
    texts.save(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"post_processor": None}))
    with pytest.raises(ValueError, match=rf"{tmp_path}: the tokenizer does not end a text with an end-of-text token"):
        load_texts(tmp_path)


def test_a_batch_without_boxes_has_one_row_to_run_on(shards, texts):
    settings = DataSettings(shards=shards, patches=16, texts=TextSettings(max_regions=0))
    batch = next(Loader(Reader(settings, texts, 4, lengths=(24, 40), seed=3), 0))
    assert (len(batch.phrases), len(batch.region_slot), len(batch.hard_phrases)) == (1, 1, 1)
    assert not batch.region_valid.any() and not batch.hard_valid.any()
    assert len(next(Loader(reader(shards, texts, pad_regions_to=64), 0)).region_slot) == 64


def test_a_folder_without_tokenizer_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="no tokenizer there"):
        load_texts(tmp_path)


@pytest.fixture(scope="module")
def mixed_sizes(tmp_path_factory) -> str:
    """Two shards, pictures of 160 and of 480 pixels in turn, both languages."""
    import random

    folder, rng = tmp_path_factory.mktemp("mixed"), random.Random(0)
    for shard in range(2):
        samples = []
        for number in range(24):
            side, uid = (160, 480)[number % 2], f"{shard * 100 + number:032x}"
            picture, objects = scene(rng, side)
            whole = record(uid, picture, objects, ["en", "zh"], side)
            samples.append((uid, picture if number != 5 else b"no picture", json.dumps(whole).encode()))
        write_shard(folder / f"{shard}.tar", samples)
    return str(folder)


@pytest.mark.parametrize("mixing", ["sample", "batch"])
def test_bucketed_batches_hold_pictures_of_like_size_and_ranks_agree_on_them(mixing, mixed_sizes, texts):
    def run(rank):
        loader = Loader(reader(mixed_sizes, texts, rank=rank, ranks=2, patches="bucketed", bucket_pool=8, mixing=mixing), 0)
        return [next(loader) for _ in range(24)]

    ranks = [run(rank) for rank in range(2)]
    shapes = [[batch.patches.shape[1] for batch in batches] for batches in ranks]
    assert shapes[0] == shapes[1] and set(shapes[0]) == {128, 1024}
    # Of the pictures, as many are in a batch of their own size as the pools allow; alone by chance it would be half.
    small = [int(uid, 16) % 2 == 0 for batch in ranks[0] if batch.patches.shape[1] == 128 for uid in batch.uids]
    assert sum(small) > 0.7 * len(small)


@pytest.mark.parametrize("workers", [0, 2])
def test_bucketed_batches_are_resumed_exactly_also_past_replaced_pictures(workers, mixed_sizes, texts):
    def loader(**position):
        return Loader(reader(mixed_sizes, texts, patches="bucketed", bucket_pool=3, mixing="sample", **position), workers)

    straight = loader()
    expected = [next(straight) for _ in range(20)]
    assert straight.counts["bad: picture cannot be decoded"] > 0
    for cut in (1, 7, 12):
        first = loader()
        for _ in range(cut):
            next(first)
        state = json.loads(json.dumps(first.state()))
        resumed = loader(step=state["step"], positions=state["positions"])
        resumed.count_on([state])
        assert all(same(next(resumed), batch) for batch in expected[cut:])
        assert (resumed.counts, resumed.samples, resumed.read) == (straight.counts, straight.samples, straight.read)


def test_pictures_vary_from_epoch_to_epoch_and_the_same_in_every_process(shards, texts):
    plain = reader(shards, texts)
    varied = [reader(shards, texts, augment={"crop": 0.5, "light": 0.3}) for _ in range(2)]
    untouched, once, again = ([next(batches).patches for _ in range(20)] for batches in map(iter, (plain, *varied)))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(untouched, once, strict=True))


def test_a_crop_keeps_at_least_its_share_and_never_leaves_the_picture():
    for seed in range(200):
        size = vary(Image.new("RGB", (300, 2)), Augment(crop=0.8), np.random.default_rng(seed)).size
        assert 240 <= size[0] <= 300 and 1 <= size[1] <= 2


def test_a_crop_is_refused_where_boxes_would_not_move_along():
    with pytest.raises(ValueError, match=r"data\.augment\.crop is for stage 1"):
        load_settings("tiny", ["stage=2", "data.shards=x", "out=y", "data.augment.crop=0.8"])
