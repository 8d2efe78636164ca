"""What all commands share at the terminal: two consoles, arguments, tables that fit their window, JSON, the end by Ctrl-C.

Results go to stdout; progress of commands that print JSON, warnings and errors go to stderr. Colour only where a terminal shows it
(`NO_COLOR` and `TERM=dumb` are honoured); lines are never broken for a pipe.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

ROOT = Path("runs")


def complete_recipe(incomplete: str) -> list[str]:
    """Names of recipes, for the shell's completion."""
    from pipelines.config import recipe_names

    return [name for name in recipe_names() if name.startswith(incomplete)]


RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="Name of a recipe in manifests/recipes, or a path to a YAML file.",
        autocompletion=complete_recipe,
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change, as in stages.ground.min_confidence=0.5")
]
Root = Annotated[
    Path,
    typer.Option(
        help="Folder, or s3://, gs:// or hdfs:// address, that holds the runs, one below per recipe.", envvar="FINELOOM_ROOT"
    ),
]
Prompts = Annotated[Path | None, typer.Option(help="Folder of prompt files that replaces the packaged one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def say(line: str, style: str | None = None) -> None:
    """A line of a result, unbroken: a path in it can be copied, and a pipe gets it whole."""
    console.print(line, style=style, markup=False, soft_wrap=True)


def warn(line: str) -> None:
    errors.print(line, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1, default=_plain))


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def print_table(columns: Mapping[str, str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Rows under their columns (name → "left" or "right"). In a window too narrow for them, each row as a short list.

    A pipe has no width: there the columns are as wide as they need to be.
    """
    table = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    widths = [
        max([cell_len(name), *(row[i].cell_len for row in table)])  # one line of figures per row
        for i, name in enumerate(columns)
    ]
    needed = sum(widths) + 2 * (len(widths) - 1)
    fits = needed <= console.width
    if not fits and console.is_terminal:
        _print_lists(list(columns), table)
        return
    shown = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0), collapse_padding=True)
    for name, justify in columns.items():
        shown.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for row in table:
        shown.add_row(*row)
    out = console if fits else Console(width=needed, highlight=False)
    out.print(shown)


def _print_lists(names: list[str], rows: list[list[Text]]) -> None:
    for row in rows:
        console.print(row[0], style="bold")
        for name, cell in zip(names[1:], row[1:], strict=True):
            if cell.plain.strip():
                console.print(Text(f"  {name} ", style="dim") + cell)


STOPPED = "stopped. Call it again to go on: {again}"
ENDINGS = {
    "run": "stopped. Everything committed is kept; go on with: {again}",
    "train": "stopped. Go on from the newest checkpoint with: {again}",
    "export": "stopped. What is written is kept; go on with: {again}",
    "import": "stopped. Shards that are whole are kept; go on with: {again}",
    "compare": "stopped. Answers that came are kept; go on with: {again}",
    "view": "ended",
    "review serve": "ended; every verdict is kept. Open it again with: {again}",
    "serve start": "stopped waiting; a server that was started goes on. Look: fineloom serve status. End it: fineloom serve stop",
}
"""What Ctrl-C ends with, by command."""


def ending(context: typer.Context) -> str:
    """What a command that was interrupted says last. The call in it is to be copied, and `python -m pipelines` may be its beginning."""
    program = context.find_root().command_path
    command = context.command_path.removeprefix(program).strip()
    known = program if program.startswith("python -m ") else "fineloom"
    return ENDINGS.get(command, STOPPED).format(again=f"{known} {shlex.join(sys.argv[1:])}")
