"""Evaluation on its own period while training: its log, the best checkpoint, resuming, and no trace of it in the training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from make_shards import write_scenes

from fgclip2_train.checkpoint import Saver, latest, point
from fgclip2_train.config import load_settings
from fgclip2_train.evaluation.run import evaluate
from fgclip2_train.loop import train

ROOT = Path(__file__).parents[2]
COMMON = [
    "stage=1",
    "threads=1",
    "batch=6",
    "log_every=1",
    "data.workers=0",
    "data.patches=16",
    "optimizer.warmup=2",
    "steps=6",
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return write_scenes(tmp_path_factory.mktemp("scenes"), shards=2, per_shard=16, side=64)


def settings(shards, out, *more):
    return load_settings("tiny", [f"data.shards={shards}", f"out={out}", *COMMON, *more])


def lines(out: Path, kind: str) -> list[dict]:
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if kind in line]


def losses(out: Path) -> list[tuple]:
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines(out, "loss")]


def test_it_is_logged_on_its_period_and_leaves_the_training_as_it_is(shards, tmp_path):
    train(settings(shards, tmp_path / "plain"))
    watched = ["evaluate.every=2", f"evaluate.shards={shards}", "evaluate.limit=12", "evaluate.at_start=true"]
    final = train(settings(shards, tmp_path / "watched", *watched))
    assert losses(tmp_path / "watched") == losses(tmp_path / "plain")
    found = lines(tmp_path / "watched", "eval")
    assert [line["step"] for line in found] == [0, 2, 4, 6]
    assert {"score", "shards.headline", "shards.retrieval.zh.long.mean", "shards.boxes.en.top1"} <= found[0]["eval"].keys()
    whole = json.loads((tmp_path / "watched/evaluations/step-00000006.json").read_text())
    again = evaluate(final, shards, limit=12)
    assert (
        (whole["step"], whole["preset"], whole["patches"])
        == (again["step"], again["preset"], again["patches"])
        == (6, "tiny", 16)
    )
    assert whole["sets"]["shards"] == json.loads(json.dumps(again["sets"]["shards"]))


def test_the_best_checkpoint_is_kept_and_a_resumed_run_knows_it(shards, tmp_path):
    watched = ["evaluate.every=1", f"evaluate.shards={shards}", "evaluate.best=shards.retrieval.en.short.mean", "save.keep=1"]
    train(settings(shards, tmp_path, *watched, "steps=6"))
    values = {line["step"]: line["eval"]["shards.retrieval.en.short.mean"] for line in lines(tmp_path, "eval")}
    best = max(values, key=lambda step: (values[step], -step))
    folder = tmp_path / "checkpoints"
    assert (folder / "best").resolve().name == f"step-{best:08d}"
    assert (folder / "last").resolve().name == "step-00000006" and (folder / "best/model.safetensors").is_file()
    train(settings(shards, tmp_path, *watched, "steps=8"))
    values |= {line["step"]: line["eval"]["shards.retrieval.en.short.mean"] for line in lines(tmp_path, "eval")}
    assert sorted(values) == list(range(1, 9))
    best = max(values, key=lambda step: (values[step], -step))
    assert (folder / "best").resolve().name == f"step-{best:08d}" and (folder / "last").resolve().name == "step-00000008"


def test_an_evaluation_damaged_later_is_named(shards, tmp_path):
    (tmp_path / "evaluations").mkdir()
    file = tmp_path / "evaluations/step-00000000.json"
    for text in ("{", "[]", '{"score": 1}'):
        file.write_text(text)
        with pytest.raises(ValueError, match=rf"^{file}: damaged .*Move it away$"):
            train(settings(shards, tmp_path, "evaluate.every=2", f"evaluate.shards={shards}"))


def test_pruning_spares_the_best(tmp_path):
    saver = Saver(tmp_path, 2)
    for step in range(5):
        (tmp_path / f"step-{step:08d}").mkdir()
    point(tmp_path / "best", tmp_path / "step-00000001")
    saver._prune()
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [f"step-{step:08d}" for step in (1, 3, 4)]


def test_a_copy_that_somebody_keeps_of_a_checkpoint_is_neither_gone_on_from_nor_pruned(tmp_path):
    names = ["step-00000001", "step-00000002", "step-00000002 (copy)", "step-00000003", "step-final"]
    for name in names:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "trainer.json").write_text("{}")
    assert latest(tmp_path) == tmp_path / "checkpoints/step-00000003"
    Saver(tmp_path / "checkpoints", 1)._prune()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == names[2:]


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        (["evaluate.shards=gone/*.tar"], FileNotFoundError, "set shards: no shard matches"),
        ([], ValueError, "evaluate: nothing to evaluate on"),
        (["evaluate.suite=oficial"], ValueError, "Did you mean official"),
        (
            ["evaluate.shards=x", "evaluate.only=[]"],
            ValueError,
            "^evaluate: only: no set is named; null takes all. Sets: shards$",
        ),
        (
            ["evaluate.sets.x.kind=captions", "evaluate.sets.x.fiel=a.txt"],
            ValueError,
            "sets.x.fiel: no such setting. Did you mean sets.x.file",
        ),
        (["evaluate.sets.x.kind=captions", "evaluate.sets.x.file=a.txt"], FileNotFoundError, "set x: no such"),
    ],
)
def test_what_is_wrong_with_it_stops_the_run_before_the_first_step(shards, tmp_path, more, error, said):
    with pytest.raises(error, match=said):
        train(settings(shards, tmp_path, "evaluate.every=2", *more))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_best_number_of_no_set_is_told_before_the_first_step(shards, tmp_path):
    with pytest.raises(
        ValueError, match=r"^evaluate.best=accuracy: no such number: .* of the sets shards, as shards.headline$"
    ):
        train(settings(shards, tmp_path, "evaluate.every=2", f"evaluate.shards={shards}", "evaluate.best=accuracy"))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_an_unknown_best_number_is_named_with_those_there_are(shards, tmp_path):
    watched = ["evaluate.every=2", f"evaluate.shards={shards}", "evaluate.best=shards.top1", "evaluate.at_start=true"]
    with pytest.raises(ValueError, match=r"evaluate.best=shards.top1: no such number .* score, seconds, shards\.boxes"):
        train(settings(shards, tmp_path, *watched))


def test_a_set_that_becomes_unreadable_is_shown_and_the_training_goes_on(shards, tmp_path, capsys):
    (tmp_path / "c.txt").write_text("gone.jpg\tred")
    watched = ["evaluate.every=3", f"evaluate.root={tmp_path}", "evaluate.sets.x.kind=captions", "evaluate.sets.x.file=c.txt"]
    train(settings(shards, tmp_path / "out", *watched))
    assert [line["step"] for line in lines(tmp_path / "out", "eval")] == [3, 6]
    assert "x: no result: x: none of 1 pictures is readable" in capsys.readouterr().out
    assert not (tmp_path / "out/checkpoints/best").exists()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_evaluate_together_whole_or_sharded(shards, tmp_path, parallel):
    words = [f"data.shards={shards}", f"out={tmp_path}", *COMMON, "steps=2", f"parallel={parallel}", "batch=4"]
    words += ["evaluate.every=2", f"evaluate.shards={shards}"]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "fgclip2_train",
        "train",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*torchrun, "--preset", "tiny", *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    whole = json.loads((tmp_path / "evaluations/step-00000002.json").read_text())
    alone = evaluate(tmp_path / "checkpoints/best", shards)
    assert whole["ranks"] == 2
    for section in ("retrieval", "boxes", "hard_negatives", "samples"):
        assert whole[section] == json.loads(json.dumps(alone[section])), section
