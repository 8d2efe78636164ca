"""What a run says about itself, and what makes it stop."""

import json
import random
import resource
import shutil
from dataclasses import replace

import pytest
import torch
import wandb
from make_shards import record, scene, write_scenes, write_shard
from tensorboardX.proto.event_pb2 import Event, SessionLog

from fgclip2_train.batch import Batch
from fgclip2_train.checkpoint import resolve
from fgclip2_train.config import load_settings
from fgclip2_train.flops import step_flops
from fgclip2_train.loop import train
from fgclip2_train.model.configuration import sized
from fgclip2_train.model.initialise import from_scratch
from fgclip2_train.objective import Terms
from fgclip2_train.optim import make_optimizer, update_norm
from fgclip2_train.step import Outcome
from fgclip2_train.watch import SILENT_STEPS, Watch, _tensorboard, alike

TINY = {"width": 16, "layers": 1, "heads": 2, "mlp": 16, "vocabulary": 300, "positions": 24, "keep": 20}

TOKENIZER = "model.tokenizer=train"


def batch_of(phrases: int) -> Batch:
    """Two pictures of 12 and 6 patches; `phrases` distinct ones, padded to 8 rows."""
    regions = torch.arange(4) % max(1, phrases)
    return Batch(
        patches=torch.zeros(2, 16, 768, dtype=torch.uint8), grid=torch.tensor([[3, 4], [2, 3]]),
        short=torch.zeros(2, 24, dtype=torch.int64), long=torch.zeros(2, 36, dtype=torch.int64),
        picture=torch.arange(2), text=torch.zeros(2, 2, dtype=torch.int64), boxes=torch.zeros(2, 2, 4),
        phrases=torch.zeros(8, 24, dtype=torch.int64), region_slot=torch.zeros(4, dtype=torch.int64), region_phrase=regions,
        region_language=torch.zeros(4, dtype=torch.int64), region_valid=torch.full((4,), phrases > 0),
        hard_slot=torch.zeros(1, dtype=torch.int64), hard_phrases=torch.full((1, 11), 7), hard_valid=torch.zeros(1, dtype=torch.bool),
        extent=16, uids=["a", "b"],
    )  # fmt: skip


def test_padding_is_not_counted_as_work():
    assert batch_of(3).distinct_phrases == 3 and batch_of(0).distinct_phrases == 0
    assert batch_of(3).tokens(regional=True) == 18 + 2 * 36 + (2 + 3) * 24
    assert batch_of(3).tokens(regional=False) == 18 + 2 * 36 + 2 * 24
    config = sized(**TINY)
    assert step_flops(config, batch_of(3), True) == step_flops(config, replace(batch_of(3), phrases=torch.zeros(64, 24)), True)
    assert (
        step_flops(config, batch_of(4), True) > step_flops(config, batch_of(3), True) > step_flops(config, batch_of(3), False)
    )


def test_the_update_norm_is_what_the_parameters_moved_by():
    model = from_scratch(sized(**TINY), 0, 2.3, -6.0)
    settings = load_settings("tiny", ["stage=2", "out=x", "optimizer.lr=0.01", "optimizer.weight_decay=0.1"])
    optimizer = make_optimizer(model, settings.optimizer)
    for _ in range(3):
        before = [parameter.detach().clone() for parameter in model.parameters()]
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    moved = torch.stack([(new - old).norm() for new, old in zip(model.parameters(), before, strict=True)]).norm().detach()
    torch.testing.assert_close(update_norm(optimizer), moved, rtol=1e-4, atol=0)


def outcome(regions: int, groups: int, **terms: float) -> Outcome:
    one = torch.tensor(1.0)
    values = {"short": one, "long": one, **{name: torch.tensor(value) for name, value in terms.items()}}
    return Outcome(Terms(one, values, one, torch.tensor(regions), torch.tensor(groups), one), one)


def fifty_steps(out, steps: list[Outcome], *more: str, offered: int = 0, threshold: float = 0.5) -> None:
    """Ten steps between two looks; `steps` are repeated."""
    settings = load_settings("tiny", ["stage=2", f"out={out}", *more])
    model = from_scratch(sized(**TINY), 0, 2.3, -6.0)
    model.rank_threshold.fill_(threshold)
    optimizer, watch = make_optimizer(model, settings.optimizer), Watch(out, model, settings, 200)
    batch = replace(batch_of(3), info={"regions": offered})
    for step in range(1, SILENT_STEPS + 1):
        watch.add(steps[step % len(steps)], [batch], 0.0)
        if step % 10 == 0:
            watch.report(step, optimizer, {})


@pytest.mark.parametrize(
    ("counts", "terms", "said"),
    [
        ((5, 0), {"fgv": 0.0}, "fgv has been exactly 0 for 50 steps with 5 regions per step"),
        ((0, 0), {"fgv": 0.0}, None),
        ((5, 0), {"fgv": 0.3}, None),
        ((1, 1), {"fgv": 0.0, "tic": 0.0, "hard_group": 0.1, "hard_rank": 0.1}, None),  # one region is told from nothing
        ((1, 1), {"hard_group": 0.0}, "hard_group has been exactly 0 for 50 steps with 1 groups per step"),
        ((1, 1), {"hard_rank": 0.0}, "hard_rank has been exactly 0 for 50 steps with 1 groups per step"),
    ],
)
def test_a_term_at_zero_while_there_is_what_it_is_about_stops_the_run_after_fifty_steps(counts, terms, said, tmp_path):
    steps = [outcome(*counts, **terms)]
    if said is None:
        return fifty_steps(tmp_path, steps)
    with pytest.raises(ValueError, match=said):
        fifty_steps(tmp_path, steps)


def test_a_rank_loss_that_is_content_or_has_hardly_a_group_stops_nothing(tmp_path):
    none, one = outcome(0, 0, hard_rank=0.0), outcome(1, 1, hard_rank=0.0)
    fifty_steps(tmp_path / "content", [one], threshold=10.0)  # beyond its ceiling every margin is enough
    fifty_steps(tmp_path / "rare", [one, none, none])  # 17 groups in 50 steps


def test_regions_that_never_reach_a_batch_stop_the_run_unless_none_are_wanted(tmp_path):
    steps = [outcome(0, 0, fgv=0.0)]
    with pytest.raises(ValueError, match=r"no region was trained on for 50 steps, while the samples hold 6 per step.*\['en'\]"):
        fifty_steps(tmp_path, steps, "data.texts.region_languages=[en]", offered=6)
    fifty_steps(tmp_path, steps, "data.texts.max_regions=0", offered=6)
    fifty_steps(tmp_path, steps, "data.texts.region_languages=[]", offered=6)
    fifty_steps(tmp_path, [*steps, outcome(2, 0, fgv=0.1)], offered=6)


def test_pairs_that_say_the_same_are_counted_once_whatever_they_share():
    picture, text = torch.tensor([1, 1, 2, 3, 4]), torch.tensor([7, 7, 7, 8, 9])
    assert alike(picture, text) == 6  # the first three with each other, both ways
    assert alike(torch.arange(3), torch.arange(3)) == 0


def events(folder) -> list[Event]:
    """What TensorBoard reads, in its order: length, checksum, record, checksum."""
    found = []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_a_full_disk_names_tensorboards_folder(tmp_path):
    """A limit on the size of files makes the kernel refuse writes for real."""
    board, before = _tensorboard(tmp_path / "tensorboard", 0), resource.getrlimit(resource.RLIMIT_FSIZE)
    board({"loss": 1.0}, 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        with pytest.raises(OSError, match=rf"File too large: '{tmp_path / 'tensorboard'}'"):
            board({f"term_{number}": 1.0 for number in range(20)}, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return write_scenes(tmp_path_factory.mktemp("scenes"), shards=1, per_shard=16, side=64)


def test_a_run_logs_rates_and_norms_to_all_that_is_asked_for(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    common = [
        "threads=1",
        "batch=4",
        "data.workers=0",
        "data.patches=16",
        "log_every=2",
        "optimizer.warmup=1",
        "wandb=try",
        TOKENIZER,
    ]
    train(load_settings("tiny", ["stage=2", "steps=4", f"data.shards={shards}", f"out={tmp_path}", *common]))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    for name in ("update_norm", "param_norm", "grad_norm", "samples_per_s", "tokens_per_s", "tflops_per_s"):
        assert lines[-1][name] > 0, name
    assert lines[-1]["mfu"] is None  # nobody says what a CPU's peak is
    assert lines[-1]["eta_seconds"] == 0 < lines[0]["eta_seconds"] and 0 <= lines[0]["data_wait"] <= 1
    assert "tokens/s" in capsys.readouterr().out
    assert all(line["pairs"] == 4 and line["regions_offered"] >= line["regions"] > 0 for line in lines)
    assert all(0 <= line["masked_short"] <= 4 * 3 for line in lines)
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    shown = [(event.step, value.tag) for event in events(tmp_path / "tensorboard") for value in event.summary.value]
    assert {(step, name) for step in (2, 4) for name in ("update_norm", "tokens_per_s", "loss")} <= set(shown)


def test_a_board_that_refuses_is_told_in_one_line_with_its_setting(shards, tmp_path, monkeypatch):
    def refuses(**_):
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.setattr(wandb, "init", refuses)
    options = ["stage=1", "steps=1", "batch=4", "data.workers=0", "data.patches=16", "threads=1", "wandb=try", TOKENIZER]
    with pytest.raises(ValueError, match=r"^wandb=try: No API key configured\. WANDB_MODE=offline logs to files only$"):
        train(load_settings("tiny", [f"data.shards={shards}", f"out={tmp_path}", *options]))


def test_what_is_done_again_after_a_kill_shows_once(shards, tmp_path):
    common = ["threads=1", "batch=4", "data.workers=0", "data.patches=16", "log_every=1", "save.every=2", TOKENIZER]
    settings = load_settings("tiny", ["stage=1", "steps=3", f"data.shards={shards}", f"out={tmp_path}", *common])
    train(settings)
    shutil.rmtree(resolve(tmp_path))  # as if it had been killed between the third step and its checkpoint
    train(settings)
    found = events(tmp_path / "tensorboard")
    starts = [(place, event.step) for place, event in enumerate(found) if event.session_log.status == SessionLog.START]
    assert [step for _, step in starts] == [1, 3]
    # TensorBoard drops what came before a start and lies at its step or beyond.
    kept = [
        event.step for place, event in enumerate(found) if not any(place < at and event.step >= step for at, step in starts)
    ]
    assert sorted({step for step in kept if step}) == [1, 2, 3] and kept.count(3) == 2  # the start itself, and the line
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]


def test_a_batch_without_any_box_in_the_world_is_trained_on(tmp_path):
    """Stage 2 on pictures without regions: all region terms are zero, nothing stops, nothing turns into NaN."""
    rng, samples = random.Random(0), []
    for number in range(8):
        picture, objects = scene(rng, 64)
        whole = record(f"{number:032x}", picture, objects, ["en"], 64) | {"regions": []}
        samples.append((f"{number:032x}", picture, json.dumps(whole).encode()))
    shards = write_shard(tmp_path / "0.tar", samples)
    out = tmp_path / "run"
    common = ["threads=1", "batch=4", "data.workers=0", "data.patches=16", "log_every=1", "optimizer.warmup=1", TOKENIZER]
    train(
        load_settings("tiny", ["stage=2", "steps=3", f"data.shards={shards}", f"out={out}", "data.languages={en: 1}", *common])
    )
    for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()):
        assert line["regions"] == line["groups"] == line["fgv"] == line["tic"] == line["hard_rank"] == 0
        assert line["loss"] > 0 and line["grad_norm"] > 0
