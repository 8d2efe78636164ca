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


@app.command()
def train(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="settings as key.sub=value; stage=1|2 and out=DIR are needed")
    ] = None,
    preset: Annotated[str, typer.Option(help="a preset's name or a YAML file")] = "fineloom",
) -> None:
    """Train one stage; a run that was interrupted goes on from its newest checkpoint."""
    from fgclip2_train.config import load_settings

    settings = load_settings(preset, overrides or [])

    from fgclip2_train.loop import train as run

    typer.echo(f"checkpoint: {run(settings)}")


def main() -> None:
    try:
        app()
    except (ValueError, FileNotFoundError) as error:
        # What a person can mend: a path, a setting, a file of the wrong kind. Anything else keeps its traceback.
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
