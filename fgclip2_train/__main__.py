"""Command line of the trainer: `python -m fgclip2_train --help`.

Commands import what they need when they run: `--help` and configuration errors do not wait for torch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def parity(
    folder: Annotated[Path, typer.Argument(help="a folder of reference numbers in the golden format")],
    verbose: Annotated[bool, typer.Option(help="list every quantity, not only the worst")] = False,
) -> None:
    """Compare this package with reference numbers; exit status 1 if anything is beyond tolerance."""
    from fgclip2_train.parity.run import check_folder, table

    findings = check_folder(folder)
    typer.echo(table(findings, verbose))
    raise typer.Exit(0 if all(item.ok for item in findings) else 1)


def main() -> None:
    try:
        app()
    except (ValueError, FileNotFoundError) as error:
        # What a person can mend: a path, a setting, a file of the wrong kind. Anything else keeps its traceback.
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
