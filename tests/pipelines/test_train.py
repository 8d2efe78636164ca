"""`fineloom train`: real Ray workers on CPUs run what torchrun runs, and survive the loss of one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fgclip2_train"))
from make_shards import write_scenes

from fgclip2_train.checkpoint import resolve, write_checkpoint
from fgclip2_train.data.tokens import train_tokenizer
from fgclip2_train.model.configuration import sized
from fgclip2_train.model.initialise import from_scratch

ROOT = Path(__file__).parents[2]
TRAINING = ["stage=1", "batch=3", "log_every=1", "threads=1", "data.workers=0", "data.patches=16", "optimizer.warmup=2"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return write_scenes(tmp_path_factory.mktemp("scenes"), shards=2, per_shard=12, side=64)


def losses(out: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())]


def fineloom_train(*arguments: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "pipelines", "train", "--preset", "tiny", *TRAINING, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes, **options)


@pytest.mark.timeout(900)  # Ray starts twice, each time with processes that import torch
def test_two_ray_workers_train_as_torchrun_does_and_go_on_after_one_is_killed(shards, tmp_path):
    settings = [f"data.shards={shards}", "steps=30", "save.every=5"]
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
    subprocess.run(
        [*torchrun, "--preset", "tiny", *TRAINING, *settings, f"out={tmp_path / 'torchrun'}"],
        cwd=ROOT, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True,
    )  # fmt: skip

    ray = fineloom_train(*settings, f"out={tmp_path / 'ray'}", "--workers", "2", "--retries", "1")
    try:
        while not list((tmp_path / "ray" / "checkpoints").glob("step-*")):
            assert ray.poll() is None, ray.communicate()[0]
            time.sleep(0.1)
        children = psutil.Process(ray.pid).children(recursive=True)
        workers = [child for child in children if "RayTrainWorker" in " ".join(child.cmdline())]
        workers[0].send_signal(signal.SIGKILL)
        output = ray.communicate(timeout=500)[0]
    finally:
        ray.kill()
    assert ray.returncode == 0, output
    assert "going on from" in output and "step 30/30" in output
    assert f"checkpoint: {tmp_path / 'ray' / 'checkpoints' / 'step-00000030'}" in output
    assert losses(tmp_path / "ray") == losses(tmp_path / "torchrun")


@pytest.mark.timeout(900)
def test_what_one_worker_finds_wrong_is_told_with_its_rank_and_not_tried_again(tmp_path):
    """One of the two shards is of another format: whoever has it says so, and the other does not wait for it."""
    pattern = write_scenes(tmp_path / "shards", shards=2, per_shard=12, side=64)
    bad = tmp_path / "shards" / "00001.tar"
    bad.write_bytes(bad.read_bytes().replace(b'"fineloom/1"', b'"fineloom/9"'))
    texts = train_tokenizer(["a picture with red circle"], 300)  # ready-made: making one would read both shards on either
    model = from_scratch(sized(16, 1, 2, 16, len(texts)), 0, 2.3, -6.0)
    start = write_checkpoint(tmp_path / "start", 1, model.state_dict(), {}, model.config, texts, {})
    settings = ["steps=500", f"model.start={start}", "model.tokenizer=null"]
    done = fineloom_train(f"data.shards={pattern}", f"out={tmp_path / 'run'}", *settings, "--workers", "2", "--retries", "3")
    output = done.communicate(timeout=500)[0]
    assert done.returncode == 2, output
    assert "rank " in output and "00001.tar: format fineloom/9; this trainer reads fineloom/1" in output
    assert "Traceback" not in output and output.count("from step 0") <= 1
    assert not list((tmp_path / "run").glob(".ray-*"))


@pytest.mark.timeout(900)
def test_ctrl_c_saves_and_leaves_with_130(shards, tmp_path):
    settings = [f"data.shards={shards}", f"out={tmp_path / 'run'}", "steps=5000", "save.every=5000"]
    run = fineloom_train(*settings, "--workers", "2", start_new_session=True)
    try:
        while not (tmp_path / "run" / "metrics.jsonl").exists():
            assert run.poll() is None, run.communicate()[0]
            time.sleep(0.1)
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
        output = run.communicate(timeout=500)[0]
    finally:
        run.kill()
    assert run.returncode == 130, output
    reached = json.loads((resolve(tmp_path / "run") / "trainer.json").read_text())["step"]
    assert f"saved at step {reached} of 5000" in output
    assert [step for step, _ in losses(tmp_path / "run")] == list(range(1, reached + 1))


def test_a_mistake_in_the_settings_is_told_in_one_line(tmp_path):
    done = fineloom_train(f"out={tmp_path}", "batchsize=3")
    output = done.communicate(timeout=120)[0]
    assert done.returncode == 2 and "batchsize: no such setting. Did you mean batch?" in output
    assert "Traceback" not in output
