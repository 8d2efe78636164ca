"""Training as a user runs it: both stages, resume after SIGTERM and `kill -9` with equal losses, and stops that say why."""

import fcntl
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import torch
from make_shards import write_scenes, write_shard
from safetensors.torch import load_file, save_file

from fgclip2_train import counting, loop
from fgclip2_train.checkpoint import latest, resolve
from fgclip2_train.cli import main
from fgclip2_train.config import load_settings
from fgclip2_train.data.loader import Loader, Reader
from fgclip2_train.data.shards import read_shard
from fgclip2_train.data.tokens import train_tokenizer
from fgclip2_train.errors import NonFinite
from fgclip2_train.evaluation.run import evaluate
from fgclip2_train.loop import train
from fgclip2_train.model import Fgclip2Model
from fgclip2_train.model.configuration import sized
from fgclip2_train.model.initialise import from_scratch, load_model
from fgclip2_train.optim import learning_rate, make_optimizer
from fgclip2_train.setup import total_steps
from fgclip2_train.step import Stepper
from fgclip2_train.stopping import INTERRUPTED, NOT, StopRequests

ROOT = Path(__file__).parents[2]
COMMON = [
    "threads=1",
    "batch=6",
    "log_every=1",
    "data.workers=0",
    "data.patches=16",
    "data.shuffle_block=16",
    "optimizer.warmup=2",
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return write_scenes(tmp_path_factory.mktemp("scenes"), shards=2, per_shard=16, side=96)


@pytest.fixture(scope="module")
def stage1(shards, tmp_path_factory) -> Path:
    return train(settings(shards, tmp_path_factory.mktemp("stage1"), "stage=1", "steps=3"))


def settings(shards, out, *more):
    return load_settings("tiny", [f"data.shards={shards}", f"out={out}", *COMMON, *more])


def losses(out: Path) -> list[tuple]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line.get("fgv"), line["threshold"], line["grad_norm"]) for line in lines]


def test_stage_1_leaves_the_region_parts_alone_and_stage_2_trains_them(shards, stage1, tmp_path):
    before = load_file(stage1 / "model.safetensors")
    final = train(settings(shards, tmp_path, "stage=2", "steps=3", f"model.start={stage1}"))
    after = load_file(final / "model.safetensors")
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert {"boxtext_head.weight", "dense_feature_head.attention.in_proj_weight", "rank_threshold"} <= moved
    assert "dense_feature_head.probe" in moved  # copied again at the start of stage 2, then left alone
    assert torch.equal(after["dense_feature_head.probe"], before["vision_model.head.probe"])
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert {"short", "long", "fgv", "tic", "hard_batch", "hard_group", "hard_rank", "lr", "samples_per_s", "data_wait"} <= set(
        first
    )
    assert first["regions"] > 0 and first["groups"] > 0


def test_a_checkpoint_is_what_from_pretrained_takes(stage1):
    model, again = load_model(stage1), Fgclip2Model.from_pretrained(str(stage1))
    config = json.loads((stage1 / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("fgclip2", ["Fgclip2Model"])
    assert config["text_config"]["keep_len"] == 20
    for (name, one), (other, two) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other and torch.equal(one, two)


def test_a_checkpoint_without_the_extra_scalars_gets_their_start(stage1, tmp_path):
    for file in stage1.iterdir():
        if file.is_file() and file.name != "model.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(stage1 / "model.safetensors")
    for name in ("logit_scale_finegraind", "logit_scale_hardneg", "rank_threshold"):
        del weights[name]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    model = load_model(tmp_path)
    assert model.rank_threshold == 0
    assert model.logit_scale_finegraind.item() == pytest.approx(4.6052)


def train_call(shards, out, stage1) -> list[str]:
    arguments = [f"data.shards={shards}", f"out={out}", *COMMON, "stage=2", "steps=8", f"model.start={stage1}", "save.every=3"]
    return [sys.executable, "-m", "fgclip2_train", "train", "--preset", "tiny", *arguments, "data.workers=1"]


def run_until(shards, out, stage1, how: int, line: str) -> subprocess.Popen:
    """Start training as a process of its own and send it, and its reader, a signal when it prints `line`, as torchrun does."""
    command = train_call(shards, out, stage1)
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ, start_new_session=True, **piped)
    for text in process.stdout:
        if text.startswith(line):
            os.killpg(process.pid, how)
            break
    process.stdout.read()
    process.wait(timeout=120)
    return process


def tear(file: Path) -> None:
    """Half a line at the end, as a kill in the middle of writing leaves it."""
    with file.open("a") as out:
        out.write('{"step": 99, "lo')


def test_interrupted_runs_go_on_with_the_losses_of_an_uninterrupted_one(shards, stage1, tmp_path):
    options = ("stage=2", "steps=8", f"model.start={stage1}", "save.every=3")
    straight, stopped, killed = (tmp_path / name for name in ("straight", "stopped", "killed"))
    train(settings(shards, straight, *options))

    asked = run_until(shards, stopped, stage1, signal.SIGTERM, "step 4/8")
    assert asked.returncode == 0
    tear(stopped / "metrics.jsonl")
    reached = json.loads((resolve(stopped) / "trainer.json").read_text())["step"]
    assert 4 <= reached < 8
    train(settings(shards, stopped, *options))
    assert losses(stopped) == losses(straight)

    assert run_until(shards, killed, stage1, signal.SIGKILL, "step 7/8").returncode == -signal.SIGKILL
    (killed / "checkpoints" / ".step-00000006").mkdir(exist_ok=True)  # as a kill in the middle of a checkpoint leaves it
    assert resolve(killed).name in ("step-00000003", "step-00000006")
    train(settings(shards, killed, *options))
    assert losses(killed) == losses(straight)
    assert not list((killed / "checkpoints").glob(".step-*"))

    one, other = (load_file(resolve(out) / "model.safetensors") for out in (straight, killed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_ctrl_c_saves_and_leaves_with_130(shards, stage1, tmp_path):
    """The terminal sends it to the readers too. 130, so that nobody goes on to the next stage with what is half trained."""
    assert run_until(shards, tmp_path, stage1, signal.SIGINT, "step 4/8").returncode == 130
    reached = json.loads((resolve(tmp_path) / "trainer.json").read_text())["step"]
    assert 4 <= reached < 8 and [step for step, *_ in losses(tmp_path)] == list(range(1, reached + 1))
    assert not list((tmp_path / "checkpoints").glob(".step-*"))


def own_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_the_end_of_the_terminal_saves_and_leaves_with_130(shards, stage1, tmp_path):
    """Nothing can be written to it any more, and the shell sends the signal again."""
    leader, follower = pty.openpty()
    call = train_call(shards, tmp_path, stage1)
    with subprocess.Popen(
        call, cwd=ROOT, stdin=follower, stdout=follower, stderr=follower, start_new_session=True, preexec_fn=own_terminal
    ) as process:
        os.close(follower)
        told = b""
        while b"step 4/8" not in told:
            told += os.read(leader, 4096)
        os.close(leader)
        os.killpg(process.pid, signal.SIGHUP)
        assert process.wait(120) == 130
    reached = json.loads((resolve(tmp_path) / "trainer.json").read_text())["step"]
    assert 4 <= reached < 8 and [step for step, *_ in losses(tmp_path)] == list(range(1, reached + 1))


@pytest.mark.parametrize("ignored", [True, False])
def test_below_nohup_the_end_of_the_terminal_is_not_heard(ignored):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with StopRequests() as requests:
            os.kill(os.getpid(), signal.SIGHUP)
            assert requests.agreed() == (NOT if ignored else INTERRUPTED)
        assert signal.getsignal(signal.SIGHUP) is (signal.SIG_IGN if ignored else signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_sigterm_before_the_first_step_ends_the_run_with_0_and_nothing_is_lost(shards, stage1, tmp_path, monkeypatch, capfd):
    out = Path(shutil.copytree(stage1.parents[1], tmp_path / "run", symlinks=True))
    monkeypatch.setattr(loop, "start_from", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        train(settings(shards, out, "stage=1", "steps=9"))
    assert ended.value.code == 0 and "before the first step" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
    assert latest(out).name == stage1.name


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])  # torchrun makes a SIGTERM of the second Ctrl-C
def test_a_second_ctrl_c_ends_the_process_at_once(second):
    code = "import time\nfrom fgclip2_train.stopping import StopRequests\n"
    # One long sleep would not see a signal that comes right before it, as a step's many calls do.
    code += "with StopRequests() as requests:\n print('ready', flush=True)\n for _ in range(1000):\n  time.sleep(0.1)"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)  # asks, and ends nothing, however often
    process.send_signal(signal.SIGINT)
    assert "saved first; Ctrl-C again" in process.stderr.readline()
    process.send_signal(second)
    assert process.wait(120) == -second
    assert process.communicate()[1] == ""


def test_a_sigterm_and_a_ctrl_c_at_the_same_instant_are_one_request():
    code = (
        "import signal\nfrom fgclip2_train.stopping import INTERRUPTED, StopRequests\nboth = {signal.SIGTERM, signal.SIGINT}\n"
    )
    code += "with StopRequests() as requests:\n signal.pthread_sigmask(signal.SIG_BLOCK, both)\n"
    code += " for each in both: signal.raise_signal(each)\n"
    code += " signal.pthread_sigmask(signal.SIG_UNBLOCK, both)\n assert requests.asked == INTERRUPTED"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.count("\n")) == (0, 1), ended.stderr


def test_the_batch_that_is_to_blame_is_named_however_late_the_log_looks(shards, stage1, tmp_path, monkeypatch):
    """The numbers go bad at the third step of ten between two looks: no update since, and that batch's samples are on the disk."""
    usual = Stepper._encode

    def encode(self, batch):
        features = usual(self, batch)
        if self.optimizer.param_groups[0]["lr"] == bad_lr:
            features.short.data[0, 0] = torch.inf
        return features

    run = settings(shards, tmp_path, "stage=2", "steps=20", f"model.start={stage1}", "log_every=10")
    bad_lr = learning_rate(2, 20, run.optimizer)
    monkeypatch.setattr(Stepper, "_encode", encode)
    with pytest.raises(NonFinite, match="not finite at step 3"):
        train(run)
    steps = json.loads((tmp_path / "nonfinite-rank0.json").read_text())
    reader = Loader(Reader(run.data, train_tokenizer(["a"], 300), 6, lengths=(32, 68), seed=0), 0)
    third = [next(reader) for _ in range(3)][2]
    assert steps[0]["step"] == 2 and steps[0]["uids"] == third.uids


def test_recomputed_layers_change_no_number_and_are_no_reason_to_warn(shards, stage1, tmp_path, capfd):
    for name, value in (("kept", "false"), ("again", "true")):
        more = (f"checkpoint_layers={value}", f"model.start={stage1}")
        train(settings(shards, tmp_path / name, "stage=2", "steps=2", *more))
    assert losses(tmp_path / "kept") == losses(tmp_path / "again")
    assert "embeddings" not in capfd.readouterr().err


def test_half_precision_computes_and_single_precision_remembers(shards, stage1, tmp_path):
    for precision in ("fp32", "bf16"):
        options = ("stage=2", "steps=3", f"precision={precision}", f"model.start={stage1}")
        final = train(settings(shards, tmp_path / precision, *options))
    exact, half = losses(tmp_path / "fp32"), losses(tmp_path / "bf16")
    assert [loss for _, loss, *_ in half] == pytest.approx([loss for _, loss, *_ in exact], rel=0.02) and half != exact
    before, after = load_file(stage1 / "model.safetensors"), load_file(final / "model.safetensors")
    assert {weight.dtype for weight in after.values()} == {torch.float32}
    # Steps too small for bfloat16 are kept.
    moved = after["boxtext_head.weight"] != before["boxtext_head.weight"]
    assert (after["boxtext_head.weight"].bfloat16().float() != after["boxtext_head.weight"])[moved].any()


def test_compiled_layers_change_no_number_beyond_rounding(shards, tmp_path):
    for name, value in (("eager", "false"), ("compiled", "true")):
        train(settings(shards, tmp_path / name, "stage=1", "steps=2", f"compile={value}"))
    eager, compiled = losses(tmp_path / "eager"), losses(tmp_path / "compiled")
    assert [loss for _, loss, *_ in compiled] == pytest.approx([loss for _, loss, *_ in eager], rel=1e-4)


def test_a_run_that_ends_within_its_warm_up_is_told(shards, tmp_path, capsys):
    train(settings(shards, tmp_path / "a", "stage=1", "steps=2", "optimizer.warmup=20", "optimizer.lr=0.002"))
    assert (
        "optimizer.warmup=20 is as long as the run or longer: of optimizer.lr=0.002 it reaches 0.0001\n"
        in capsys.readouterr().out
    )
    train(settings(shards, tmp_path / "b", "stage=1", "steps=2", "optimizer.warmup=1"))
    assert "optimizer.warmup" not in capsys.readouterr().out


def test_another_number_of_readers_goes_on_and_says_what_changes(shards, tmp_path, capsys):
    train(settings(shards, tmp_path, "stage=1", "steps=2"))
    train(settings(shards, tmp_path, "stage=1", "steps=4", "data.workers=2"))
    assert "1 × 0 readers became 1 × 2" in capsys.readouterr().out
    assert [step for step, *_ in losses(tmp_path)] == [1, 2, 3, 4]


def test_other_shards_begin_the_epochs_order_anew_and_that_is_said(tmp_path, capsys):
    """A position counts in the shards that were there; in others it would lie somewhere, or beyond the end."""
    pattern = write_scenes(tmp_path / "shards", shards=3, per_shard=8, side=96)
    out = tmp_path / "run"
    train(settings(pattern, out, "stage=1", "steps=3"))
    train(settings(pattern, out, "stage=1", "steps=4"))
    assert "the exact next batch" in capsys.readouterr().out
    train(settings(pattern, out, "stage=1", "steps=5", "data.texts.original_share=0.5"))
    assert "with the next sample of every source" in capsys.readouterr().out
    for shard in (1, 2):
        (tmp_path / "shards" / f"0000{shard}.tar").unlink()
    train(settings(pattern, out, "stage=1", "steps=6", "data.shuffle_block=8"))
    said = capsys.readouterr().out
    assert "data.shuffle_block changed, the shards of shards changed, so the current epoch's order starts anew" in said
    assert [step for step, *_ in losses(out)] == [1, 2, 3, 4, 5, 6]


def test_shards_of_the_same_names_and_sizes_that_were_written_again_are_named(tmp_path, capsys):
    pattern = write_scenes(tmp_path / "shards", shards=3, per_shard=8, side=96)
    out, shard = tmp_path / "run", tmp_path / "shards/00001.tar"
    train(settings(pattern, out, "stage=1", "steps=3"))
    content = shard.read_bytes()
    shard.write_bytes(content.replace(b"red", b"tan"))
    train(settings(pattern, out, "stage=1", "steps=4"))
    said = capsys.readouterr().out
    assert "with the exact next batch if 1 shards that were written again since, with the names and sizes that they had" in said
    assert f"hold the same samples: {shard}\n" in said
    train(settings(pattern, out, "stage=1", "steps=5"))
    assert "step 4, with the exact next batch\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "damage",
    ["trainer.json", "optimizer/.metadata", "optimizer/__0_0.distcp", "model.safetensors", "config.json", "tokenizer.json"],
)
def test_a_checkpoint_damaged_later_is_named_with_what_to_do(damage, shards, stage1, tmp_path):
    out = Path(shutil.copytree(stage1.parents[1], tmp_path / "run", symlinks=True))
    file = latest(out) / damage
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(
        ValueError, match=r"step-00000003.*Move .*step-00000003 away, and the run goes on from the one before it"
    ):
        train(settings(shards, out, "stage=1", "steps=4"))


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("step",), "three", r"step: must be a valid integer \(found 'three'\)"),
        (("readers",), [], r"readers: List should have at least 1 item"),
        (
            ("readers", 0, "positions", "0", "shards/en", "taken"),
            -1,
            r"readers\.0\.positions\.0\.shards/en\.taken: must be greater",
        ),
        (("settings", "stage"), None, r"settings\.stage: must be 1 or 2"),
        (("settings", "data", "patches"), 10**9, r"settings\.data\.patches: must be less than or equal to 16384"),
        (("order",), None, r"order: must be"),
        (("workers",), 1.5, r"workers: must be a valid integer"),
    ],
)
def test_a_checkpoint_with_an_edited_trainer_json_is_refused_with_file_and_key(place, value, said, shards, stage1, tmp_path):
    out = Path(shutil.copytree(stage1.parents[1], tmp_path / "run", symlinks=True))
    file = latest(out) / "trainer.json"
    whole = within = json.loads(file.read_text())
    for key in place[:-1]:
        within = within[key]
    within[place[-1]] = value
    file.write_text(json.dumps(whole))
    with pytest.raises(ValueError, match=rf"^{file}: damaged \({said}.*Move .*step-00000003 away"):
        train(settings(shards, out, "stage=1", "steps=4"))


def test_the_rest_of_the_epochs_is_cut_into_steps_of_todays_size(shards):
    run = settings(shards, "run", "stage=1", "epochs=3", "steps=null")  # 32 samples, 6 a step
    assert total_steps(run, 1) == 16
    assert total_steps(run, 1, step=8, pairs=48) == 16
    assert total_steps(run, 2, step=8, pairs=48) == 8 + 4
    assert total_steps(run, 1, step=4, pairs=48) == 4 + 8  # two processes before


def test_another_stage_needs_a_folder_of_its_own_and_changed_settings_are_said(shards, stage1, capsys, tmp_path):
    out = Path(shutil.copytree(stage1.parents[1], tmp_path / "run", symlinks=True))
    with pytest.raises(
        ValueError, match=r"holds a run of stage 1\. Give stage 2 an out= of its own; model\.start=.*last lets it"
    ):
        train(settings(shards, out, "stage=2", "steps=4"))
    train(settings(shards, out, "stage=1", "steps=4", "optimizer.lr=0.5", "save.every=7"))
    assert "changed since step-00000003: optimizer.lr 0.002 → 0.5, steps 3 → 4\n" in capsys.readouterr().out


def test_weights_that_are_not_finite_stop_before_any_update(shards, stage1, tmp_path):
    broken = Path(shutil.copytree(stage1, tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    weights["text_model.head.bias"][3] = torch.nan
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(NonFinite, match="not finite at step 1"):
        train(settings(shards, tmp_path / "run", "stage=2", "steps=3", f"model.start={broken}"))
    steps = json.loads((tmp_path / "run" / "nonfinite-rank0.json").read_text())
    assert steps[0]["step"] == 0 and len(steps[0]["uids"]) == 6
    assert latest(tmp_path / "run") is None

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "nonfinite-rank0.json").symlink_to("/dev/full")
    with pytest.raises(NonFinite, match=f"No space left on device.*{steps[0]['uids'][0]}"):
        train(settings(shards, tmp_path / "full", "stage=2", "steps=3", f"model.start={broken}"))


@pytest.mark.parametrize("name", ["settings.json", "metrics.jsonl", "evaluations/.step-00000000.json", ".samples.json"])
def test_a_full_disk_is_told_in_one_line_that_names_the_file(name, shards, tmp_path, monkeypatch, capsys):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to("/dev/full")
    options = [f"data.shards={shards}", f"out={tmp_path}", *COMMON, "stage=1", "steps=null", "epochs=1"]
    options += ["evaluate.every=9", "evaluate.at_start=true", f"evaluate.shards={shards}", "evaluate.limit=4"]
    monkeypatch.setattr(sys, "argv", ["fgclip2_train", "train", "--preset", "tiny", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2
    assert "No space left on device" in said[-1] and str(tmp_path / name).replace("/.", "/") in said[-1]
    assert not any("Traceback" in line for line in said)


def test_a_stage_without_data_or_length_is_refused(tmp_path, shards):
    with pytest.raises(ValueError, match=r"set data\.shards="):
        train(load_settings("tiny", [f"out={tmp_path}", "stage=1"]))
    with pytest.raises(ValueError, match="steps=N or epochs=N"):
        train(settings(shards, tmp_path, "stage=1", "steps=null"))


def test_missing_data_is_told_before_a_model_is_loaded(tmp_path):
    with pytest.raises(FileNotFoundError, match="no shard matches"):
        train(settings(tmp_path / "none" / "*.tar", tmp_path / "out", "stage=1", f"model.start={tmp_path}/nothing"))


@pytest.mark.parametrize("shard", ["a folder", "another format"])
def test_shards_of_which_none_can_be_read_are_told_before_a_model_is_loaded(shard, tmp_path):
    if shard == "a folder":
        (tmp_path / "0.tar").mkdir()
    else:
        write_shard(tmp_path / "0.tar", [("a" * 32, b"", b'{"format": "fineloom/2"}')])
    said = {"a folder": r"no readable sample in 1 shards: shard cannot be read", "another format": "format fineloom/2"}[shard]
    with pytest.raises(ValueError, match=said):
        train(settings(tmp_path, tmp_path / "out", "stage=1", "steps=3", f"model.start={tmp_path}/nothing"))


def test_a_folder_that_cannot_be_made_is_named_with_its_setting(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match=r"out=.*out: no folder can be made there \(File exists\)"):
        train(settings(tmp_path, tmp_path / "out", "stage=1", "steps=3"))


def test_shards_without_a_sample_to_count_say_why(tmp_path):
    (tmp_path / "0.tar").mkdir()
    with pytest.raises(
        ValueError, match=r"no sample with a text in en or zh in 1 shards: shard cannot be read \(Is a dir.*0\.tar 1"
    ):
        total_steps(settings(tmp_path, tmp_path / "out", "stage=1", "steps=null", "epochs=1"), 1)


def test_epochs_are_counted_in_samples_once_for_each_shard(tmp_path, monkeypatch):
    pattern = write_scenes(tmp_path / "shards", shards=3, per_shard=10, side=64)
    read: list[str] = []

    def noted(shard, *arguments, **options):
        yield from read_shard(shard, *arguments, **options)
        read.append(Path(shard).name)  # to its end: a look at the first sample is no count

    monkeypatch.setattr(counting, "read_shard", noted)

    def run(epochs: float) -> int:
        train(settings(pattern, tmp_path, "stage=1", "steps=null", f"epochs={epochs}"))
        return losses(tmp_path)[-1][0]

    assert run(0.5) == round(0.5 * 30 / 6) and read == ["00000.tar", "00001.tar", "00002.tar"]
    assert run(0.8) == round(0.8 * 30 / 6) and len(read) == 3
    write_scenes(tmp_path / "more", shards=2, per_shard=16, side=64)
    (tmp_path / "more" / "00001.tar").rename(tmp_path / "shards" / "00001.tar")
    assert run(1) == round(36 / 6) and read[3:] == ["00001.tar"]


def test_skipped_samples_are_counted_on_after_a_resume(tmp_path):
    pattern = write_scenes(tmp_path / "shards", shards=2, per_shard=16, side=64)
    for shard in (tmp_path / "shards").iterdir():
        data = shard.read_bytes()
        shard.write_bytes(data.replace(b'"format": "fineloom/1"', b'"format": "fineloom/1 ', 1))  # no JSON any more

    def told(out: Path) -> list[tuple]:
        return [(line["bad"], line["samples"]) for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())]

    train(settings(pattern, tmp_path / "straight", "stage=1", "steps=6", "data.max_bad_share=1"))
    for steps in (3, 6):
        train(settings(pattern, tmp_path / "resumed", "stage=1", f"steps={steps}", "data.max_bad_share=1"))
    assert told(tmp_path / "resumed") == told(tmp_path / "straight")
    assert told(tmp_path / "straight")[-1][0]["bad: record is not a JSON object"] > 2


@pytest.mark.parametrize("masked", [False, True])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(masked, shards):
    """Also where equal phrases of different parts are masked."""
    texts = train_tokenizer(["a picture with red circle", "红色圆形"], 400)
    tiny = {"width": 16, "layers": 1, "heads": 2, "mlp": 16, "positions": 24, "keep": 20}
    chosen = settings(
        shards, "unused", "stage=2", "steps=9", "data.mixing=batch", f"loss.mask_duplicates={masked}", "loss.chunk=5"
    )
    gradients = {}
    for parts in (1, 3):
        model = from_scratch(sized(**tiny, vocabulary=len(texts)), 0, 2.3, -6.0).double()
        model.freeze_unused(regional=True)
        reader = Reader(chosen.data, texts, 6 // parts, lengths=model.lengths, seed=0, parts=parts)
        loader = Loader(reader, 0)
        stepper = Stepper(model, model, make_optimizer(model, chosen.optimizer), chosen, 9)
        batches = [next(loader) for _ in range(parts)]
        said = [{tuple(row) for row in batch.phrases[batch.region_phrase[batch.region_valid]].tolist()} for batch in batches]
        assert parts == 1 or said[0] & said[1] or said[1] & said[2] or said[0] & said[2], "no phrase in two parts"
        stepper._backward_whole(batches[0]) if parts == 1 else stepper._backward_in_parts(batches)
        gradients[parts] = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    for name, whole in gradients[1].items():
        torch.testing.assert_close(gradients[3][name], whole, rtol=1e-6, atol=1e-10, msg=name)


def test_evaluation_says_what_it_measured(shards, stage1):
    result = evaluate(stage1, shards, limit=20)
    assert result["samples"] == 20 and result["patches"] == 16
    assert set(result["retrieval"]) == {"en", "zh"} and set(result["retrieval"]["en"]) == {"short", "long"}
    assert 0 <= result["boxes"]["zh"]["top1"] <= 1
    assert result["hard_negatives"]["en"]["by_family"].keys() == {"colour"}
