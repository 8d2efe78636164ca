"""The order of samples, resuming in it to the exact next batch, and batches on their way out of a reader's process."""

import io
import json
import multiprocessing
import os
import pickle
import random
import signal
import time
from collections import Counter
from itertools import islice

import numpy as np
import psutil
import pytest
import torch
from make_shards import record, scene, write_scenes, write_shard
from PIL import Image
from reader_kit import in_language, reader, same, sample

from fgclip2_train.config import load_settings
from fgclip2_train.data.images import Augment, vary
from fgclip2_train.data.loader import DataSettings, Loader, Reader
from fgclip2_train.data.order import Stream, fixed_turn_at, turn_at
from fgclip2_train.data.samples import TextSettings
from fgclip2_train.data.shards import find_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return write_scenes(tmp_path_factory.mktemp("shards"), shards=5, per_shard=12, side=64)


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


def test_readers_end_with_a_main_process_that_is_killed(shards, texts):
    """Also those that wait for somebody to take a batch that is larger than their pipe."""
    reading, writing = os.pipe()
    main = os.fork()
    if main == 0:
        loader = Loader(reader(shards, texts, batch=200), 2)
        next(loader)
        os.write(writing, " ".join(str(child.pid) for child in multiprocessing.active_children()).encode())
        time.sleep(600)
    readers = [psutil.Process(int(pid)) for pid in os.read(reading, 1000).split()]
    os.kill(main, signal.SIGKILL)
    os.waitpid(main, 0)
    assert len(readers) >= 2 and not psutil.wait_procs(readers, timeout=60)[1]


def test_no_text_in_the_wanted_language_is_an_error_and_not_an_endless_search(tmp_path, texts):
    write_shard(tmp_path / "0.tar", [sample("a" * 32)])
    with pytest.raises(ValueError, match="no readable sample with a text in 'zh'"):
        next(Loader(reader(str(tmp_path), texts, languages={"zh": 1}), 0))


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


def test_a_batch_without_boxes_has_one_row_to_run_on(shards, texts):
    settings = DataSettings(shards=shards, patches=16, texts=TextSettings(max_regions=0))
    batch = next(Loader(Reader(settings, texts, 4, lengths=(24, 40), seed=3), 0))
    assert (len(batch.phrases), len(batch.region_slot), len(batch.hard_phrases)) == (1, 1, 1)
    assert not batch.region_valid.any() and not batch.hard_valid.any()
    assert len(next(Loader(reader(shards, texts, pad_regions_to=64), 0)).region_slot) == 64


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


@pytest.fixture(scope="module")
def mixed_sizes(tmp_path_factory) -> str:
    """Two shards, pictures of 160 and of 480 pixels in turn, both languages."""
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


def test_a_batch_beyond_the_memory_is_told_before_a_reader_starts(shards, texts):
    with pytest.raises(
        ValueError, match=r"no memory for the pictures that 2 readers keep ready, 3 × .* GiB each: a smaller batch"
    ):
        Loader(reader(shards, texts, batch=10**12), 2)
