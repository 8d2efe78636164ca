"""What a run says about itself, and what makes it stop."""

import json
import random
from dataclasses import replace

import pytest
import torch
from make_shards import record, scene, write_scenes, write_shard

from fgclip2_train.batch import Batch
from fgclip2_train.config import load_settings
from fgclip2_train.flops import step_flops
from fgclip2_train.loop import train
from fgclip2_train.model.configuration import sized
from fgclip2_train.model.initialise import from_scratch
from fgclip2_train.objective import Terms
from fgclip2_train.optim import make_optimizer, update_norm
from fgclip2_train.step import Outcome
from fgclip2_train.watch import SILENT_STEPS, Watch

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


def outcome(fgv: float, regions: int) -> Outcome:
    one = torch.tensor(1.0)
    terms = Terms(one, {"short": one, "long": one, "fgv": torch.tensor(fgv)}, one, torch.tensor(regions), torch.tensor(0))
    return Outcome(terms, one)


@pytest.mark.parametrize("fgv, regions, stops", [(0.0, 5, True), (0.0, 0, False), (0.3, 5, False)])
def test_a_term_at_zero_while_there_are_regions_stops_the_run_after_fifty_steps(fgv, regions, stops, tmp_path):
    settings = load_settings("tiny", ["stage=2", f"out={tmp_path}"])
    model = from_scratch(sized(**TINY), 0, 2.3, -6.0)
    optimizer, watch, step = make_optimizer(model, settings.optimizer), Watch(tmp_path, model, settings, 200), 0

    def ten_steps():
        nonlocal step
        for _ in range(10):
            watch.add(outcome(fgv, regions), [batch_of(3)], 0.0)
            step += 1
        watch.report(step, optimizer, {})

    for _ in range(SILENT_STEPS // 10 - 1):
        ten_steps()
    if stops:
        with pytest.raises(ValueError, match="fgv has been exactly 0 for 50 steps with 5 regions per step"):
            ten_steps()
    else:
        ten_steps()


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
    events = b"".join(file.read_bytes() for file in (tmp_path / "tensorboard").iterdir())
    assert b"update_norm" in events and b"tokens_per_s" in events
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


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
