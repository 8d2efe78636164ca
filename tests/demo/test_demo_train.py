import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from demo import train_vlm


@pytest.fixture
def quick(monkeypatch):
    """Training small enough for a test, deterministic, in this process."""
    import torch

    tokenizer = train_vlm.make_tokenizer(scenes=20)
    monkeypatch.setattr(train_vlm, "make_tokenizer", lambda: tokenizer)
    shape = {"hidden": 64, "layers": 2, "heads": 2, "vision_hidden": 64, "vision_depth": 1}
    monkeypatch.setattr(train_vlm, "SHAPES", {"small": shape})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    torch.set_num_threads(threads)


def options(out):
    amounts = {"scenes": 2, "questions": 1, "texts": 1, "pixels": 12_544, "workers": 0}
    return argparse.Namespace(
        out=out, steps=4, shape="small", rate=1e-3, auxiliary=0.5, seed=0, every=0.0, save_every=1e9, threads=0, **amounts
    )


def test_a_stopped_training_goes_on_with_the_very_next_batch(tmp_path, quick, monkeypatch):
    train_vlm.train(options(tmp_path / "whole"))
    real, steps = train_vlm.Trained.forward, []

    def stop_at_the_second(trained, batch):
        if trained.training:
            steps.append(1)
            if len(steps) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
        return real(trained, batch)

    with monkeypatch.context() as stopping:
        stopping.setattr(train_vlm.Trained, "forward", stop_at_the_second)
        train_vlm.train(options(tmp_path / "parts"))
    assert len(steps) == 2
    train_vlm.train(options(tmp_path / "parts"))
    whole, parts = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(whole[name].equal(parts[name]) for name in whole)


PROGRAM = """
import sys
from demo import train_vlm
tokenizer = train_vlm.make_tokenizer(scenes=20)
train_vlm.make_tokenizer = lambda: tokenizer
train_vlm.SHAPES = {"small": {"hidden": 64, "layers": 2, "heads": 2, "vision_hidden": 64, "vision_depth": 1}}
sys.argv += "--steps 100000 --scenes 2 --questions 1 --texts 1 --workers 1 --every 0 --threads 1".split()
train_vlm.main()
"""


def test_a_signal_to_the_whole_group_saves_the_state(tmp_path):
    command = [sys.executable, "-c", PROGRAM, "--out", str(tmp_path)]
    process = subprocess.Popen(command, cwd=Path(__file__).resolve().parents[2], start_new_session=True)
    log = tmp_path / "log.jsonl"
    while not log.exists() and process.poll() is None:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(120) == 0
    assert (tmp_path / "state.pt").exists() and (tmp_path / "model" / "model.safetensors").exists()
