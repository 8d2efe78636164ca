"""The command line as a person and as a machine meet it: help in any width, pipes, JSON, completion, Ctrl-C."""

import errno
import fcntl
import io
import json
import os
import pty
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import typer.main
from in_process import run_here
from PIL import Image
from rich.console import Console
from s3_server import address
from typer.testing import CliRunner

from pipelines import cli
from pipelines.cli import app
from pipelines.config import load_recipe
from pipelines.help_page import App, split
from pipelines.progress import Progress

BIN = Path(sys.executable).parent
FINELOOM = BIN / "fineloom"
ESCAPE = "\x1b["


def leaves(command=None, path=("fineloom",)):
    """Every command with its words, groups too."""
    command = command or typer.main.get_command(app)
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from leaves(child, (*path, name))


COMMANDS = {" ".join(path): command for path, command in leaves()}
EXAMPLES = [line for command in COMMANDS.values() for line in split(command.help)[2]]


def page(words, width):
    return CliRunner().invoke(app, [*words, "--help"], prog_name="fineloom", env={"COLUMNS": str(width)}).output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does_and_has_an_example(name):
    first, text, examples = split(COMMANDS[name].help)
    assert first and text and examples
    assert all(line.startswith("fineloom ") for line in examples)
    wide, narrow = page(name.split()[1:], 100), page(name.split()[1:], 40)
    assert ESCAPE not in wide
    free = {*examples, *(line for line in narrow.splitlines() if re.match(r"Usage: |  --", line))}  # copied whole, or names
    assert [line for line in narrow.splitlines() if len(line) > 40 and line.strip() not in free and line not in free] == []
    assert all(line in narrow for line in examples), "an example is never broken"
    for option in (p for p in COMMANDS[name].params if p.param_type_name == "option"):
        assert option.opts[0] in narrow and "…" + option.opts[0] not in narrow


@pytest.mark.parametrize("line", EXAMPLES)
def test_examples_are_calls_that_are_understood(line):
    words = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(app)
    path = "fineloom"
    while hasattr(command, "commands") and words and words[0] in command.commands:
        path += f" {words[0]}"
        command = command.commands[words.pop(0)]
    words = words[: words.index(">")] if ">" in words else words
    command.make_context(path, words, resilient_parsing=False).close()


def test_the_top_page_has_its_commands_in_groups_in_the_order_of_work():
    shown = page([], 80)
    titles = ["Run", "Look", "Data out and in", "Train", "Machine", "Options", "Examples"]
    assert [line for line in shown.splitlines() if line in titles] == titles
    assert "FineLoom makes" in shown.splitlines()[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 12 rows, three of them refused."""
    at = tmp_path_factory.mktemp("run")
    rows = [{"u": f"http://example.org/{i}.jpg", "t": f"a cat {i}", "w": 10 if i < 3 else 400} for i in range(12)]
    (at / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"url": "u", "captions": ["t"], "width": "w", "height": "w"}
    source = {"format": "jsonl", "tables": str(at / "table.jsonl"), "language": "en", "columns": columns}
    (at / "links.yaml").write_text(json.dumps(source))
    select = {"operator": "select", "keep": "source_width >= 100"}
    recipe = {
        "recipe": "tiny",
        "sources": [str(at / "links.yaml")],
        "shard_size": 4,
        "disk_floor_gb": 0,
        "stages": {"pick": select},
    }
    (at / "tiny.yaml").write_text(json.dumps(recipe))
    run_here(load_recipe(at / "tiny.yaml"), at / "runs")
    return at


def call(finished, *words, width=200):
    made = [word.replace("RECIPE", str(finished / "tiny.yaml")) for word in words]
    return CliRunner().invoke(app, [*made, "--root", str(finished / "runs")], env={"COLUMNS": str(width)})


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("run", "RECIPE"), {"ok": True, "whole": 3, "nothing_to_do": True}),
        (("plan", "RECIPE"), {"shards": 3}),
        (("status", "RECIPE"), {"shards": 3}),
        (("rejects", "RECIPE"), {"pick": {"samples": {"not_selected": 3}, "parts": {}}}),
        (("report", "RECIPE"), {"recipe": "tiny"}),
        (("gc", "RECIPE", "--dry-run"), {"files": 0, "removed": False}),
        (("compact", "RECIPE"), {"entries": 6}),
    ],
)
def test_json_is_all_that_stdout_holds(finished, words, expected):
    done = call(finished, *words, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    for key, value in expected.items():
        if isinstance(value, dict):
            assert value.items() <= told[key].items()
        else:
            assert told[key] == value


@pytest.mark.parametrize("command", ["gc", "compact"])
def test_a_run_that_never_began_is_not_tidy_but_missing(finished, tmp_path, command):
    (tmp_path / "tiny").mkdir()  # as a misspelt plan leaves it
    done = CliRunner().invoke(app, [command, str(finished / "tiny.yaml"), "--root", str(tmp_path)])
    assert f"{tmp_path / 'tiny'}: no run of recipe tiny is here" in str(done.exception)


def test_one_shard_is_told_as_one(finished):
    one = ("RECIPE", "--shards", "0")
    assert "\n1 shard · about" in call(finished, "plan", *one).stdout
    assert call(finished, "run", *one).stdout.splitlines()[-1] == f"everything is done: 1 shard in {finished / 'runs' / 'tiny'}"
    assert "\n3 shards · about" in call(finished, "plan", "RECIPE").stdout


def test_a_pipe_gets_whole_lines_whatever_the_width(finished):
    done = call(finished, "report", "RECIPE", width=20)
    assert done.stdout.strip() == str(finished / "runs" / "tiny" / "report.html")
    rows = call(finished, "rejects", "RECIPE", width=20).stdout.splitlines()
    assert rows[0].split() == ["stage", "reason", "samples", "parts"] and rows[1].split() == ["pick", "not_selected", "3"]


def on_terminal(words, columns, **environment):
    """What a command writes on a terminal of so many columns."""
    leader, follower = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), **environment}
    for name in ("NO_COLOR", "FORCE_COLOR"):
        if name not in environment:
            env.pop(name, None)
    with subprocess.Popen(words, stdin=follower, stdout=follower, stderr=follower, env=env) as process:
        os.close(follower)
        shown = b""
        while True:
            try:
                more = os.read(leader, 65536)
            except OSError:
                break
            if not more:
                break
            shown += more
    os.close(leader)
    assert process.returncode == 0, shown
    return shown.decode().replace("\r", "")


def test_colour_only_on_a_terminal_and_lists_in_a_narrow_one(finished):
    words = [str(FINELOOM), "rejects", str(finished / "tiny.yaml"), "--root", str(finished / "runs")]
    narrow = on_terminal(words, 24)
    assert ESCAPE in narrow
    plain = re.sub(r"\x1b\[[0-9;]*m", "", narrow)
    assert plain == "pick\n  reason not_selected\n  samples 3\n"
    assert "\x1b[3" not in on_terminal(words, 80, NO_COLOR="1"), "no colours"
    assert ESCAPE not in subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_rejects_are_validated_json_lines_when_listed(finished):
    lines = call(finished, "rejects", "RECIPE", "--reason", "not_selected").stdout.splitlines()
    assert len(lines) == 3 and all(json.loads(line)["reason"] == "not_selected" for line in lines)


def test_a_misspelt_reason_or_stage_is_told_and_not_taken_for_no_refusals(finished):
    done = call(finished, "rejects", "RECIPE", "--reason", "not_seleted")
    assert not done.stdout and "nothing was refused for 'not_seleted'. Did you mean not_selected?" in done.stderr
    assert "no stage 'pik'. Did you mean pick?" in str(call(finished, "rejects", "RECIPE", "--stage", "pik").exception)
    elsewhere = call(finished, "rejects", "RECIPE", "--requeue", "not_selected", "--stage", "source").exception
    assert "no sample was refused for 'not_selected'" in str(elsewhere)


@pytest.mark.parametrize("words", [("--price", "gpu_hour=nan"), ("--price", "gpu_hour=-1"), ("--tokens-per-second", "0")])
def test_a_bill_is_made_of_numbers(finished, words):
    assert " ".join(words) in str(call(finished, "plan", "RECIPE", *words).exception)


COMPLETE = {
    "bash": (
        ["--norc"],
        'source {script}; COMP_WORDS=({words}); COMP_CWORD={last}; _fineloom_completion fineloom; printf "%s\\n" "${{COMPREPLY[@]}}"',
    ),
    "fish": ([], 'source {script}; complete -C "{line}"'),
}


@pytest.mark.parametrize("shell", COMPLETE)
@pytest.mark.parametrize(("line", "expected"), [("fineloom st", "status"), ("fineloom status pic", "pictures")])
def test_completion_in_the_shell_itself(shell, line, expected, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "complete"
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    shown = subprocess.run([FINELOOM, "completion", shell], capture_output=True, text=True, check=True, env=env)
    script.write_text(shown.stdout)
    options, template = COMPLETE[shell]
    code = template.format(script=script, words=line, line=line, last=len(line.split()) - 1)
    done = subprocess.run([shell, *options, "-c", code], capture_output=True, text=True, env=env)
    assert expected in [offered.split("\t")[0] for offered in done.stdout.split("\n")], done.stderr


def test_completion_for_zsh_offers_commands_with_their_meaning():
    env = {**os.environ, "_FINELOOM_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "fineloom sta"}
    done = subprocess.run([FINELOOM], capture_output=True, text=True, env=env)
    assert '"status":"Show how far' in done.stdout


@pytest.mark.parametrize("program", ["fineloom", "python -m pipelines"])
def test_ctrl_c_ends_a_command_with_one_line_that_says_how_to_go_on(program, monkeypatch):
    small = App()

    @small.command("export")
    def export():
        """Write."""
        raise KeyboardInterrupt

    @small.command("other")
    def other():
        """Other."""

    monkeypatch.setattr(sys, "argv", ["fineloom", "export", "a b", "--out", "x"])
    done = CliRunner().invoke(small, ["export"], prog_name=program)
    assert done.exit_code == 130
    assert done.stderr.strip() == f"stopped. What is written is kept; go on with: {program} export 'a b' --out x"


def test_a_full_disk_ends_a_command_with_one_line(tmp_path, monkeypatch, capsys):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    Image.new("RGB", (8, 8)).save(tmp_path / "cat.png")
    monkeypatch.setenv("FINELOOM_PICTURES", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.durable.sync_file", full)
        patch.setattr(sys, "argv", ["fineloom", "run", "pictures", "--root", str(tmp_path / "runs")])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    said = " ".join(capsys.readouterr().err.split())
    assert ended.value.code == 1
    assert said.startswith("error: the disk is full:") and said.endswith("nothing committed is lost")

    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["fineloom", "run", "pictures", "--root", str(tmp_path / "file")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (
        ended.value.code == 2
        and "error: " + str(tmp_path / "file" / "pictures") + ": Not a directory" in capsys.readouterr().err
    )


def test_a_root_on_a_disk_that_is_not_mounted_is_told_as_such(tmp_path, monkeypatch, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "cat.png")
    monkeypatch.setenv("FINELOOM_PICTURES", str(tmp_path))
    (tmp_path / "runs").symlink_to(tmp_path / "away")
    monkeypatch.setattr(sys, "argv", ["fineloom", "run", "pictures", "--root", str(tmp_path / "runs")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = " ".join(capsys.readouterr().err.split())
    assert ended.value.code == 2 and f"runs: a link to {tmp_path / 'away'}, and nothing is there" in said


def test_a_store_that_is_away_ends_a_command_with_one_line(tmp_path, monkeypatch, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "cat.png")
    monkeypatch.setenv("FINELOOM_PICTURES", str(tmp_path))
    monkeypatch.setattr("pipelines.stores.s3.TRIES", 1)
    monkeypatch.setattr(sys, "argv", ["fineloom", "run", "pictures", "--root", "s3://bucket/runs"])
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens
        with address(f"http://127.0.0.1:{closed.getsockname()[1]}"), pytest.raises(SystemExit) as ended:
            cli.main()
    said = " ".join(capsys.readouterr().err.split())
    assert ended.value.code == 1 and said.startswith("error: s3://bucket/runs/pictures/") and "Could not connect" in said
    assert said.endswith("call this again when the store answers")


@pytest.mark.parametrize(
    ("command", "sign"), [("run", signal.SIGINT), ("run", signal.SIGTERM), ("view", signal.SIGINT), ("view", signal.SIGTERM)]
)
def test_ctrl_c_and_sigterm_on_the_real_command(command, sign, tmp_path, finished):
    """`run` is interrupted while Ray and its workers are there, `view` while it serves. Only a Ctrl-C reaches their children, too."""
    recipe = json.loads((finished / "tiny.yaml").read_text())
    recipe["stages"] = {"mark": {"operator": "faulty_operators:Mark", "seconds": 60}}
    (tmp_path / "slow.yaml").write_text(json.dumps(recipe))
    words = {
        "run": ["run", str(tmp_path / "slow.yaml"), "--root", str(tmp_path / "runs"), "--cpus", "2"],
        "view": ["view", str(finished / "runs"), "--port", "0"],
    }[command]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "kit")}
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}

    def hear() -> None:  # what is started in the background of a shell ignores Ctrl-C, and so do its children
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen([FINELOOM, *words], env=env, start_new_session=True, preexec_fn=hear, **pipe) as process:
        seen = []
        for line in process.stdout:
            seen.append(line)
            if re.search(r"2 stages|looking at", line):
                break
        time.sleep({"run": 8, "view": 1}[command])
        (os.killpg if sign == signal.SIGINT else os.kill)(process.pid, sign)
        rest, _ = process.communicate(timeout=400)
    told = "".join(seen) + rest
    assert "Traceback" not in told and "raylet" not in told
    if command == "run":
        assert process.returncode == 130, told
        assert (
            rest.strip().splitlines()[-1]
            == f"stopped. Everything committed is kept; go on with: {shlex.join(['fineloom', *words])}"
        )
    else:
        assert process.returncode in (0, 130)


@pytest.mark.parametrize(
    ("raised", "status", "said"), [("KeyboardInterrupt", 130, "stopped"), ("MemoryError", 1, "error: no memory")]
)
def test_a_ctrl_c_or_no_memory_while_the_command_imports_what_it_needs_is_no_traceback(raised, status, said, tmp_path):
    """In the place of what it imports first is a module that raises, as either would anywhere among its imports."""
    (tmp_path / "rich.py").write_text(f"raise {raised}")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run([FINELOOM, "plan", "demo"], env=env, capture_output=True, text=True)
    assert ended.returncode == status and ended.stderr.strip().startswith(said) and "Traceback" not in ended.stderr


def test_a_second_ctrl_c_does_not_leave_a_terminal_without_its_cursor(monkeypatch):
    """It comes while the run waits for the thread that asks how far it is."""
    shown, answered, started = io.StringIO(), threading.Event(), threading.Thread.start

    def start(thread):
        started(thread)
        if thread.name.endswith("(follow)"):
            thread.join = interrupted

    def interrupted(timeout=None):
        raise KeyboardInterrupt

    monkeypatch.setattr("ray.get", lambda _: answered.wait(400))
    monkeypatch.setattr(threading.Thread, "start", start)
    progress = Progress(Console(file=shown, force_terminal=True, width=80))
    with pytest.raises(KeyboardInterrupt), progress.watch(MagicMock(), ["mark"], 1):
        raise KeyboardInterrupt
    answered.set()
    hidden, back = "\x1b[?25l", "\x1b[?25h"
    assert hidden in shown.getvalue() and shown.getvalue().rindex(back) > shown.getvalue().rindex(hidden)


AT_WORK = """
import time
import pipelines.run
from pipelines.cli import main

pipelines.run.execute = lambda *_: (print("at work", flush=True), time.sleep(400))
main()
"""


def own_terminal():
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.parametrize("closed", [True, False])
def test_the_end_of_the_terminal_is_a_ctrl_c(closed, finished):
    """A terminal that is gone, to which nothing can be written, or the signal alone, as often as it comes."""
    leader, follower = pty.openpty()
    words = ["run", str(finished / "tiny.yaml")]
    on = {"stdin": follower, "stdout": follower, "stderr": follower if closed else subprocess.PIPE}
    call = [sys.executable, "-c", AT_WORK, *words]
    with subprocess.Popen(call, start_new_session=True, preexec_fn=own_terminal, **on) as process:
        os.close(follower)
        assert b"at work" in os.read(leader, 4096)
        if closed:
            os.close(leader)
        else:
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGHUP)
        told = process.communicate(timeout=400)[1]
    assert process.returncode == 130
    if not closed:
        os.close(leader)
        assert told.decode().strip() == f"stopped. Everything committed is kept; go on with: {shlex.join(['fineloom', *words])}"


def test_below_nohup_the_end_of_the_terminal_is_not_heard(finished):
    call = [sys.executable, "-c", AT_WORK, "run", str(finished / "tiny.yaml")]

    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with subprocess.Popen(call, preexec_fn=nohup, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == b"at work\n"
        ignored = re.search(r"SigIgn:\s+(\w+)", Path(f"/proc/{process.pid}/status").read_text()).group(1)
        process.terminate()
    assert int(ignored, 16) & 1 << signal.SIGHUP - 1
    assert process.returncode == 130
