"""Help of the trainer's command line: every command says in one line what it does, and shows how to call it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from fgclip2_train.cli import app

COMMANDS = sorted(typer.main.get_group(app).commands)


def shown(*arguments: str, columns: int = 100) -> str:
    result = CliRunner().invoke(app, [*arguments, "--help"], env={"COLUMNS": str(columns)}, terminal_width=columns)
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example_of_itself(command: str) -> None:
    assert f"\n    python -m fgclip2_train {command} " in shown(command).partition("Examples:")[2]


def test_no_line_of_the_list_of_commands_is_cut() -> None:
    page = shown(columns=80)
    assert all(f"\n  {command} " in page for command in COMMANDS)
    assert "..." not in page.partition("Commands:")[2]


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, fgclip2_train.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_ctrl_c_while_it_imports_what_it_needs_ends_it_with_a_line() -> None:
    code = "import signal, sys\nfrom fgclip2_train import __main__\n"
    code += (
        "sys.meta_path.insert(0, type('F', (), {'find_spec': lambda *_: signal.raise_signal(signal.SIGINT)}))\n__main__.main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (130, "\nstopped\n")
