"""Help that reads like a page, in any width: what a command does, its arguments and options, then examples to copy.

A command's docstring is its page: the first sentence stands in the list of commands, the lines under `Examples:` are shown as they are.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import typer
from rich.cells import cell_len
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from pipelines.terminal import console, ending, errors

INTERRUPTED = 130
"""The exit status of a command that a Ctrl-C, SIGTERM or SIGHUP ended."""
WIDEST = 100
TWO_COLUMNS = 60
"""Below this width an option's text stands under its name."""
WORDS = {int: "N", float: "X", Path: "PATH"}


def split(help: str | None) -> tuple[str, str, list[str]]:
    """(first sentence, whole text without the examples, examples) of a docstring."""
    text, _, tail = inspect.cleandoc(help or "").partition("\nExamples:\n")
    examples = [line.strip() for line in tail.splitlines() if line.strip()]
    first = " ".join(text.split("\n\n")[0].split())
    for end in (". ", ": "):
        head, cut, _ = first.partition(end)
        if cut and len(head) > 20:
            first = head
            break
    return first.rstrip("."), text.strip(), examples


class Command(TyperCommand):
    """A command whose help is a page, and which ends on Ctrl-C by saying how to go on."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _, text, examples = split(self.help)
        _usage(self, ctx)
        _paragraphs(text)
        parameters: list[Any] = list(self.get_params(ctx))
        _list("Arguments", [_argument(p) for p in parameters if p.param_type_name == "argument"])
        _list("Options", [_option(p, ctx) for p in parameters if p.param_type_name == "option" and not p.hidden])
        if examples:
            _heading("Examples")
            for line in examples:
                console.print(Text("  " + line), soft_wrap=True)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            errors.print("\n" + ending(ctx), markup=False, soft_wrap=True)
            raise typer.Exit(INTERRUPTED) from None


class Group(TyperGroup):
    """Commands under headings, in the order in which they were added."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _, text, examples = split(self.help)
        _usage(self, ctx)
        _paragraphs(text)
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                about = split(command.help)[0]
                panels.setdefault(getattr(command, "rich_help_panel", None) or "Commands", []).append((name, about))
        width = max(cell_len(name) for rows in panels.values() for name, _ in rows)
        for title, rows in panels.items():
            _list(title, rows, width)
        parameters: list[Any] = list(self.get_params(ctx))
        _list("Options", [_option(p, ctx) for p in parameters if p.param_type_name == "option" and not p.hidden])
        if examples:
            _heading("Examples")
            for line in examples:
                console.print(Text("  " + line), soft_wrap=True)


class App(typer.Typer):
    """A Typer whose commands have such pages."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            cls=Group,
            no_args_is_help=True,
            add_completion=False,
            rich_markup_mode=None,
            pretty_exceptions_enable=False,
            **settings,
        )

    def command(self, name: str | None = None, **settings: Any) -> Callable[..., Any]:  # type: ignore[override]
        return super().command(name, cls=Command, **settings)


def _width() -> int:
    return min(console.width, WIDEST)


def _usage(command: Any, ctx: Any) -> None:
    pieces = []
    options = [p for p in command.get_params(ctx) if p.param_type_name == "option"]
    for parameter in command.get_params(ctx):
        if parameter.param_type_name == "argument":
            name = _argument(parameter)[0].strip("[]")
            many = " …" if parameter.nargs == -1 else ""
            pieces.append(f"{name}{many}" if parameter.required else f"[{name}{many}]")
    if hasattr(command, "commands"):
        pieces.append("COMMAND")
    if options:
        pieces.append("[OPTIONS]")
    line = f"{ctx.command_path} {' '.join(pieces)}"
    console.print(Text.assemble(("Usage: ", "bold"), line), soft_wrap=True)


def _paragraphs(text: str) -> None:
    for paragraph in text.split("\n\n"):
        console.print()
        for line in textwrap.wrap(" ".join(paragraph.split()), _width(), break_on_hyphens=False):
            console.print(Text(line), soft_wrap=True)


def _heading(title: str) -> None:
    console.print()
    console.print(Text(title, style="bold"))


def _list(title: str, rows: list[tuple[str, str]], width: int = 0) -> None:
    """Names and what they mean: beside each other, or one under the other where the window is narrow."""
    if not rows:
        return
    _heading(title)
    beside = _width() >= TWO_COLUMNS
    left = max(width, *(min(cell_len(name), 26) for name, _ in rows))
    for name, about in rows:
        indent = left + 4 if beside else 6
        lines = textwrap.wrap(about, max(_width() - indent, 20), break_on_hyphens=False, break_long_words=False)
        head = Text("  ").append(name, style="cyan")
        if beside and cell_len(name) <= left:
            first = lines.pop(0) if lines else ""
            console.print(head + Text(" " * (left - cell_len(name) + 2) + first), soft_wrap=True)
        else:
            console.print(head, soft_wrap=True)
        for line in lines:
            console.print(Text(" " * indent + line), soft_wrap=True)


def _argument(parameter: Any) -> tuple[str, str]:
    name = (parameter.metavar or parameter.name.upper()).strip("[]")
    return name, parameter.help or ""


def _option(parameter: Any, ctx: Any) -> tuple[str, str]:
    names = ", ".join(sorted(parameter.opts, key=len))
    if parameter.secondary_opts:
        names += " / " + ", ".join(parameter.secondary_opts)
    about = parameter.help or ""
    if not parameter.is_flag:
        names += " " + _word(parameter)
    notes = []
    if parameter.required:
        notes.append("needed")
    default = parameter.default
    if parameter.show_default and default not in (None, "", False, []) and not callable(default):
        notes.append(f"by default {default}" if not parameter.is_flag else f"by default {parameter.opts[0]}")
    if parameter.envvar:
        notes.append(f"or ${parameter.envvar}")
    return names, f"{about} [{'; '.join(notes)}]" if notes else about


def _word(parameter: Any) -> str:
    if parameter.metavar:
        return str(parameter.metavar)
    kind = parameter.type_descriptor
    if kind.choices:
        return "|".join(str(choice) for choice in kind.choices)
    bare = get_args(kind.annotation)[0] if kind.is_list else kind.annotation
    return WORDS.get(bare, "TEXT")
