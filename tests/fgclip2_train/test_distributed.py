"""Two and four real processes joined by gloo: the numbers of one process, whatever each rank's data looks like."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from make_shards import write_scenes
from safetensors.torch import load_file

from fgclip2_train.batch import Batch
from fgclip2_train.checkpoint import resolve
from fgclip2_train.config import load_settings, validate
from fgclip2_train.data.loader import Loader, Reader
from fgclip2_train.data.tokens import train_tokenizer
from fgclip2_train.errors import NonFinite
from fgclip2_train.loop import train
from fgclip2_train.losses import sigmoid_contrastive
from fgclip2_train.model import Features
from fgclip2_train.model.configuration import sized
from fgclip2_train.model.initialise import from_scratch
from fgclip2_train.objective import compute
from fgclip2_train.optim import learning_rate, make_optimizer
from fgclip2_train.parallel import full, spread
from fgclip2_train.step import Stepper, join_batches, join_features

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


# -- losses and steps: two and four processes do all of it one after another, for processes take longer to start than to work ----

CASES = ("one rank without boxes", "no box in the world", "in two parts")
STEPS = 3


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return write_scenes(tmp_path_factory.mktemp("scenes"), shards=1, per_shard=24, side=64)


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request, shards, tmp_path_factory) -> list[dict]:
    each = write_scenes(tmp_path_factory.mktemp("each"), shards=request.param, per_shard=8, side=64)
    return in_processes(one_rank, request.param, tmp_path_factory.mktemp("ranks"), shards, each)


def one_rank(rank, folder, shards, each):
    found = {"sigmoid": one_rank_of_the_sigmoid_loss(rank)}
    for parallel in ("ddp", "fsdp"):
        for case in CASES:
            found[parallel, case] = one_rank_of_some_steps(rank, shards, parallel, case)
    return found | {"nan": one_rank_beside_one_with_nan(rank, folder / "run", each)}


def big_batch(seed: int = 0):
    torch.manual_seed(seed)
    parts = [torch.nn.functional.normalize(torch.randn(8, 6, dtype=torch.float64), dim=-1) for _ in range(2)]
    return *parts, torch.tensor(8.0, dtype=torch.float64), torch.tensor(-3.0, dtype=torch.float64)


def one_rank_of_the_sigmoid_loss(rank):
    image, text, scale, bias = big_batch()
    rows = slice(rank * (8 // dist.get_world_size()), (rank + 1) * (8 // dist.get_world_size()))
    mine = [t.clone().requires_grad_() for t in (image[rows], text[rows], scale, bias)]
    identity = torch.arange(8)[rows, None] // 2 * 2  # neighbours say the same
    value = sigmoid_contrastive(*mine, identity=identity, chunk=3)
    value.backward()
    return {"value": value.detach(), "gradients": [t.grad for t in mine]}


def test_the_ring_gives_the_loss_and_gradient_of_one_big_batch(ranks):
    ranks = [rank["sigmoid"] for rank in ranks]
    whole = [t.clone().requires_grad_() for t in big_batch()]
    value = sigmoid_contrastive(*whole, identity=torch.arange(8)[:, None] // 2 * 2)
    value.backward()
    torch.testing.assert_close(torch.stack([r["value"] for r in ranks]).mean(), value.detach())
    for index in (0, 1):  # rows: the ranks' parts one after another, each 1/W of its share
        joined = torch.cat([r["gradients"][index] for r in ranks]) / len(ranks)
        torch.testing.assert_close(joined, whole[index].grad)
    for index in (2, 3):
        mean = torch.stack([r["gradients"][index] for r in ranks]).mean(0)
        torch.testing.assert_close(mean, whole[index].grad)


def start(parallel: str = "ddp"):
    """Texts, a model with a margin above 0, and settings; equal wherever it is called."""
    texts = train_tokenizer(["a picture with red circle at the left", "左边的红色圆形"], 400)
    model = from_scratch(sized(**TINY, vocabulary=len(texts)), 9, 2.3, -6.0).double()
    model.rank_threshold.fill_(0.5)
    model.freeze_unused(regional=True)
    return texts, model, validate({"stage": 2, "out": "x", "steps": 5, "precision": "fp32", "parallel": parallel}, "test")


def micro_of(rank: int, shards: str, texts, case: str) -> list[Batch]:
    """A rank's batch for a step, in one part or two. Rank 1 never has boxes, the others have."""
    boxes = rank != 1 and case != "no box in the world"
    settings = {"shards": shards, "patches": 16, "workers": 0, "pad_regions_to": 4}
    settings["texts"] = {
        "max_regions": 4 if boxes else 0,
        "region_languages": ["en", "zh"],
        "negative_languages": ["en", "zh"],
    }
    whole = validate({"stage": 2, "out": "x", "data": settings}, "test")
    parts = 2 if case == "in two parts" else 1
    loader = Loader(Reader(whole.data, texts, 4 // parts, lengths=(24, 36), seed=rank, parts=parts), 0)
    micro = [next(loader) for _ in range(parts)]
    assert all(bool(batch.region_valid.any()) == bool(batch.hard_valid.any()) == boxes for batch in micro)
    return micro


def one_rank_of_some_steps(rank, shards, parallel, case):
    texts, model, settings = start(parallel)
    runner = spread(model, settings)
    stepper = Stepper(model, runner, make_optimizer(model, settings.optimizer), settings, 5)
    micro = micro_of(rank, shards, texts, case)
    outcomes = [stepper(step, micro) for step in range(STEPS)]
    return {
        "weights": weights_of(model),
        "norm": torch.stack([outcome.grad_norm for outcome in outcomes]),
        "threshold": model.rank_threshold.clone(),
        "loss": torch.stack([outcome.terms.total.detach() for outcome in outcomes]),
    }


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: full(parameter.detach()).clone() for name, parameter in model.named_parameters()}


def one_process(count: int, shards: str, case: str) -> dict:
    """The same steps with the batches of all ranks in one place: the global terms over all pairs, the regional ones of each rank's own
    boxes, as the released program has them."""
    texts, model, settings = start()
    stepper = Stepper(model, model, make_optimizer(model, settings.optimizer), settings, 5)
    ranks = [micro_of(rank, shards, texts, case) for rank in range(count)]
    regional_only = settings.loss.model_copy(
        update={"weights": settings.loss.weights.model_copy(update={"short": 0, "long": 0})}
    )
    norms, losses = [], []
    for step in range(STEPS):
        for group in stepper.optimizer.param_groups:
            group["lr"] = learning_rate(step, 5, settings.optimizer)
        features = [join_features([model(part) for part in micro]) for micro in ranks]
        joined = join_features([Features(one.image, one.short, one.long) for one in features])
        whole = compute(joined, join_batches([part for micro in ranks for part in micro]), model, settings.loss)
        own = [compute(one, join_batches(micro), model, regional_only) for one, micro in zip(features, ranks, strict=True)]
        total = whole.total + torch.stack([terms.total for terms in own]).mean()
        margins = [terms.margin if terms.groups else model.rank_threshold for terms in own]
        total.backward()
        norms.append(stepper._finish(replace(whole, total=total, threshold=torch.stack(margins).mean().clamp(0, 10))))
        losses.append(total.detach())
    return {
        "weights": weights_of(model),
        "norm": torch.stack(norms),
        "threshold": model.rank_threshold,
        "loss": torch.stack(losses),
    }


@pytest.mark.parametrize("case", CASES)
def test_sharded_and_replicated_steps_are_those_of_one_process_on_all_of_the_batch(case, ranks, shards):
    expected = one_process(len(ranks), shards, case)
    assert expected["threshold"] > 0 and (expected["threshold"] == 0.5) == (case == "no box in the world")
    for parallel in ("ddp", "fsdp"):
        results = [rank[parallel, case] for rank in ranks]
        mean = torch.stack([result["loss"] for result in results]).mean(0)
        torch.testing.assert_close(mean, expected["loss"], rtol=1e-9, atol=0)
        for result in results:
            torch.testing.assert_close(result["norm"], expected["norm"], rtol=1e-9, atol=0)
            torch.testing.assert_close(result["threshold"], expected["threshold"], rtol=1e-9, atol=1e-15)
            for name, weight in result["weights"].items():
                torch.testing.assert_close(weight, expected["weights"][name], rtol=1e-9, atol=1e-12, msg=name)


def one_rank_beside_one_with_nan(rank, out, shards):
    """A run whose third step has a NaN in one feature of rank 1; the next look is after the fourth."""
    settings = [
        f"data.shards={shards}",
        f"out={out}",
        "stage=2",
        "steps=20",
        "model.tokenizer=train",
        "log_every=10",
        "save.every=4",
    ]
    settings += ["threads=1", "batch=4", "data.workers=0", "data.patches=16", "optimizer.warmup=2"]
    chosen, usual, seen = load_settings("tiny", settings), Stepper._encode, {}

    def encode(self, batch):
        features = usual(self, batch)
        seen["model"] = self.model
        if self.optimizer.param_groups[0]["lr"] == learning_rate(2, 20, chosen.optimizer):
            seen["before"] = weights_of(self.model)
            if rank == 1:
                features.short.data[0, 0] = torch.nan
        return features

    Stepper._encode = encode
    try:
        train(chosen)
        return {"said": "nothing"}
    except NonFinite as error:
        kept = json.loads((out / f"nonfinite-rank{rank}.json").read_text())
        steps = [(step["step"], step["uids"]) for step in kept]
        return {"said": str(error), "steps": steps, "before": seen["before"], "after": weights_of(seen["model"])}
    finally:
        Stepper._encode = usual


def test_a_nan_on_one_rank_stops_all_of_them_before_the_update_with_their_uids_saved(ranks):
    ranks = [rank["nan"] for rank in ranks]
    for rank in ranks:
        assert "not finite at step 3" in rank["said"]
        assert [step for step, _ in rank["steps"]] == [2, 3] and len(rank["steps"][0][1]) == 4
        assert all(torch.equal(rank["after"][name], weight) for name, weight in rank["before"].items())
    assert len({tuple(rank["steps"][0][1]) for rank in ranks}) == len(ranks)


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
    shutil.copytree(tmp_path / "straight", tmp_path / "cut", symlinks=True)
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
