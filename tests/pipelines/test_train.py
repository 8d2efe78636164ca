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

ROOT = Path(__file__).parents[2]
TRAINING = ["stage=1", "batch=3", "log_every=1", "threads=1", "data.workers=0", "data.patches=16", "optimizer.warmup=2"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return write_scenes(tmp_path_factory.mktemp("scenes"), shards=2, per_shard=12, side=64)


def losses(out: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())]


def fineloom_train(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "pipelines", "train", "--preset", "tiny", *TRAINING, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


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


def test_a_mistake_in_the_settings_is_told_in_one_line(tmp_path):
    done = fineloom_train(f"out={tmp_path}", "batchsize=3")
    output = done.communicate(timeout=120)[0]
    assert done.returncode == 2 and "batchsize: no such setting. Did you mean batch?" in output
    assert "Traceback" not in output
