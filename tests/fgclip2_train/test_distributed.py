"""Two and four real processes joined by gloo: the numbers of one process, whatever each rank's data looks like."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from make_shards import write_scenes
from safetensors.torch import load_file

from fgclip2_train.batch import Batch
from fgclip2_train.checkpoint import resolve
from fgclip2_train.config import validate
from fgclip2_train.data.loader import Loader, Reader
from fgclip2_train.data.tokens import train_tokenizer
from fgclip2_train.losses import sigmoid_contrastive
from fgclip2_train.model.configuration import sized
from fgclip2_train.model.initialise import from_scratch
from fgclip2_train.optim import make_optimizer
from fgclip2_train.parallel import full, spread
from fgclip2_train.step import Stepper

ROOT = Path(__file__).parents[2]
TINY = {"width": 16, "layers": 2, "heads": 2, "mlp": 16, "positions": 24, "keep": 20}


def in_processes(work, count: int, folder: Path, *arguments) -> list[dict]:
    """Run work(rank, folder, *arguments) in `count` processes of one group; gives what each returned."""
    multiprocessing.start_processes(_process, args=(work, count, folder, arguments), nprocs=count, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt") for rank in range(count)]


def _process(rank, work, count, folder, arguments):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=count)
    try:
        torch.save(work(rank, folder, *arguments), folder / f"{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


def big_batch(seed: int = 0):
    torch.manual_seed(seed)
    parts = [torch.nn.functional.normalize(torch.randn(8, 6, dtype=torch.float64), dim=-1) for _ in range(2)]
    return *parts, torch.tensor(8.0, dtype=torch.float64), torch.tensor(-3.0, dtype=torch.float64)


def one_rank_of_the_sigmoid_loss(rank, folder):
    image, text, scale, bias = big_batch()
    rows = slice(rank * (8 // dist.get_world_size()), (rank + 1) * (8 // dist.get_world_size()))
    mine = [t.clone().requires_grad_() for t in (image[rows], text[rows], scale, bias)]
    identity = torch.arange(8)[rows, None] // 2 * 2  # neighbours say the same
    value = sigmoid_contrastive(*mine, identity=identity, chunk=3)
    value.backward()
    return {"value": value.detach(), "gradients": [t.grad for t in mine]}


@pytest.mark.parametrize("count", [2, 4])
def test_the_ring_gives_the_loss_and_gradient_of_one_big_batch(count, tmp_path):
    ranks = in_processes(one_rank_of_the_sigmoid_loss, count, tmp_path)
    whole = [t.clone().requires_grad_() for t in big_batch()]
    value = sigmoid_contrastive(*whole, identity=torch.arange(8)[:, None] // 2 * 2)
    value.backward()
    torch.testing.assert_close(torch.stack([r["value"] for r in ranks]).mean(), value.detach())
    for index in (0, 1):  # rows: the ranks' parts one after another, each 1/W of its share
        joined = torch.cat([r["gradients"][index] for r in ranks]) / count
        torch.testing.assert_close(joined, whole[index].grad)
    for index in (2, 3):
        mean = torch.stack([r["gradients"][index] for r in ranks]).mean(0)
        torch.testing.assert_close(mean, whole[index].grad)


def batch_of(rank: int, shards: str, texts) -> Batch:
    """Rank 1 has no boxes at all, the others have."""
    settings = {"shards": shards, "patches": 16, "workers": 0, "pad_regions_to": 4}
    settings["texts"] = {"max_regions": 0 if rank == 1 else 4, "region_languages": ["en", "zh"], "negative_languages": ["en"]}
    whole = validate({"stage": 2, "out": "x", "data": settings}, "test")
    batch = next(Loader(Reader(whole.data, texts, 3, lengths=(24, 36), seed=rank), 0))
    assert bool(batch.region_valid.any()) == (rank != 1)
    return batch


def one_rank_of_a_step(rank, folder, shards, parallel):
    texts = train_tokenizer(["a picture with red circle at the left", "左边的红色圆形"], 400)
    model = from_scratch(sized(**TINY, vocabulary=len(texts)), 1, 2.3, -6.0).double()  # a seed with a margin above 0
    model.freeze_unused(regional=True)
    settings = validate({"stage": 2, "out": "x", "steps": 5, "precision": "fp32", "parallel": parallel}, "test")
    runner = spread(model, settings)
    stepper = Stepper(model, runner, make_optimizer(model, settings.optimizer), settings, 5)
    batch = batch_of(rank, shards, texts)
    for step in range(3):
        outcome = stepper(step, [batch])
    weights = {name: full(p.detach()).clone() for name, p in model.named_parameters()}
    return {
        "weights": weights,
        "norm": outcome.grad_norm,
        "threshold": model.rank_threshold.clone(),
        "loss": outcome.terms.total.detach(),
    }


def test_sharded_and_replicated_steps_agree_with_a_rank_that_has_no_boxes(tmp_path):
    shards = write_scenes(tmp_path / "shards", shards=1, per_shard=24, side=64)
    results = {}
    for parallel in ("ddp", "fsdp"):
        (tmp_path / parallel).mkdir()
        results[parallel] = in_processes(one_rank_of_a_step, 2, tmp_path / parallel, shards, parallel)
    first, second = results["ddp"]
    assert first["loss"] != second["loss"] and first["threshold"] == second["threshold"] > 0
    for ranks in results.values():
        for result, replicated in zip(ranks, (first, second), strict=True):
            torch.testing.assert_close(result["norm"], first["norm"], rtol=1e-9, atol=0)
            torch.testing.assert_close(result["loss"], replicated["loss"], rtol=1e-9, atol=0)
            for name, weight in result["weights"].items():
                torch.testing.assert_close(weight, first["weights"][name], rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_torchrun_trains_resumes_and_writes_whole_checkpoints(parallel, tmp_path):
    shards = write_scenes(tmp_path / "shards", shards=3, per_shard=12, side=64)
    arguments = [
        f"data.shards={shards}", "threads=1", "batch=4", "log_every=1", "data.workers=0", "data.patches=16", "stage=1",
        f"parallel={parallel}", "save.every=2",
    ]  # fmt: skip

    def torchrun(out: str, steps: int, *more: str, processes: int = 2) -> str:
        several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
        command = [sys.executable, *several, "-m", "fgclip2_train", "train", "--preset", "tiny", *arguments, *more]
        command += [f"out={tmp_path / out}", f"steps={steps}", "optimizer.warmup=3"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout
        return done.stdout

    torchrun("straight", 4)
    torchrun("cut", 4)
    shutil.rmtree(resolve(tmp_path / "cut"))  # as if the run had ended after step 2
    torchrun("cut", 4)
    lines = {
        out: [json.loads(line) for line in (tmp_path / out / "metrics.jsonl").read_text().splitlines()]
        for out in ("straight", "cut")
    }
    assert [line["loss"] for line in lines["cut"]] == [line["loss"] for line in lines["straight"]]
    one, other = (load_file(resolve(tmp_path / out) / "model.safetensors") for out in ("straight", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)

    # The sharded or replicated run goes on in one process: its optimizer's state is put together again.
    told = torchrun("cut", 6, processes=1)
    assert "at step 4: weights, optimizer and schedule as they were, but 2 × 0 readers became 1 × 0" in told
    first = lines["cut"][-1]
    after = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in after] == [1, 2, 3, 4, 5, 6]
    assert abs(after[4]["param_norm"] / first["param_norm"] - 1) < 0.05


def test_ranks_with_different_holes_train_on_and_their_holes_are_added_up(tmp_path):
    pattern = write_scenes(tmp_path / "shards", shards=2, per_shard=24, side=64)
    for shard, count in (("00000", 1), ("00001", 3)):  # one shard a rank, and more holes in the second
        path = tmp_path / "shards" / f"{shard}.tar"
        with tarfile.open(path) as tar:
            pictures = [member for member in tar if member.name.endswith(".jpg")][4 : 4 + 2 * count : 2]
        data = bytearray(path.read_bytes())
        for member in pictures:
            data[member.offset_data : member.offset_data + 64] = bytes(64)
        path.write_bytes(data)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "fgclip2_train",
        "train",
    ]
    command += [
        "--preset",
        "tiny",
        f"data.shards={pattern}",
        "threads=1",
        "batch=4",
        "log_every=1",
        "data.workers=0",
        "stage=2",
    ]
    command += [
        "data.patches=16",
        "data.mixing=sample",
        f"out={tmp_path / 'run'}",
        "steps=6",
        "optimizer.warmup=3",
        "model.tokenizer=train",
    ]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    last = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()][-1]
    # An epoch of 12 samples a language is read and re-read; both ranks have met holes, the sum shows it.
    assert last["bad"]["bad: picture cannot be decoded"] >= 2
    assert last["samples"] == 6 * 2 * 4
