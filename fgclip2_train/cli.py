"""Command line of the trainer: `python -m fgclip2_train --help`.

Commands import what they need when they run: `--help` and configuration errors do not wait for torch.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from fgclip2_train.errors import Stopped
from fgclip2_train.use.commands import add_to

PAGE = """Train FG-CLIP 2 from WebDataset shards, evaluate it, and use it.

Settings are written key.sub=value; an unknown one is an error that names the nearest. `COMMAND --help` has examples.

\b
Examples:
  python -m fgclip2_train train stage=1 out=runs/stage1 data.shards='shards/*.tar'
  python -m fgclip2_train eval --checkpoint runs/stage1 --shards 'test/*.tar'
  torchrun --nproc-per-node 8 -m fgclip2_train train …     # the same on eight processes
"""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, help=PAGE)


@app.command()
def parity(
    folder: Annotated[Path, typer.Argument(help="a folder of reference numbers in the golden format")],
    verbose: Annotated[bool, typer.Option(help="list every quantity, not only the worst")] = False,
) -> None:
    """Compare this package with reference numbers. Exit status 1 if anything is beyond tolerance. What a folder holds beside the
    quantities of the format is listed as not compared.

    \b
    Examples:
      python -m fgclip2_train parity golden/public
      python -m fgclip2_train parity golden/public --verbose
    """
    from fgclip2_train.parity.run import FILES, check_folder, table
    from fgclip2_train.parity.unknown import not_compared

    findings = check_folder(folder)
    typer.echo(table(findings, verbose))
    unknown = not_compared(folder, FILES, findings)
    if unknown:
        typer.echo(f"{len(unknown)} more that this command does not know, so not compared:\n  " + "\n  ".join(unknown))
    raise typer.Exit(0 if all(item.ok for item in findings) else 1)


@app.command()
def train(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="settings as key.sub=value; stage=1|2 and out=DIR are needed")
    ] = None,
    preset: Annotated[str, typer.Option(help="a preset's name or a YAML file")] = "fineloom",
) -> None:
    """Train one stage. A run that was interrupted goes on from its newest checkpoint.

    \b
    Examples:
      python -m fgclip2_train train stage=1 out=runs/stage1 data.shards='shards/*.tar' model.start=google/siglip2-base-patch16-naflex
      python -m fgclip2_train train stage=2 out=runs/stage2 data.shards='shards/*.tar' model.start=runs/stage1/checkpoints/last
      python -m fgclip2_train train --preset official stage=2 out=runs/official data.shards='shards/*.tar' batch=1024 data.workers=8
    """
    from fgclip2_train.config import load_settings

    settings = load_settings(preset, overrides or [])

    from fgclip2_train.loop import train as run

    typer.echo(f"checkpoint: {run(settings)}")


@app.command(name="eval")
def evaluate(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="settings as key.sub=value: root=DIR, only=[lit_cn], sets.lit_cn.lower=true")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="a checkpoint's or a run's folder, or a hub name")] = "",
    suite: Annotated[str | None, typer.Option(help="the paper's sets: official or fineloom; or a YAML file of sets")] = None,
    shards: Annotated[list[str] | None, typer.Option(help="folder or pattern of shards; may be given more than once")] = None,
    fgovd: Annotated[Path | None, typer.Option(help="FG-OVD rows as JSON lines")] = None,
    pictures: Annotated[Path | None, typer.Option(help="folder that FG-OVD's img_path is relative to")] = None,
    patches: Annotated[int | None, typer.Option(help="per picture; by default what the checkpoint was trained with")] = None,
    limit: Annotated[int | None, typer.Option(help="samples of the shards to read at most")] = None,
    json: Annotated[Path | None, typer.Option(help="file for the result", dir_okay=False)] = None,
) -> None:
    """Evaluate a checkpoint on shards and on public sets.

    Retrieval, boxes, hard negatives and classes. Also under torchrun, on all processes.

    \b
    Examples:
      python -m fgclip2_train eval --checkpoint runs/stage2 --shards 'test/*.tar' --json eval.json
      python -m fgclip2_train eval --checkpoint runs/stage2 --suite official root=/data/eval only=[lit_cn,coco_cn]
    """
    if not checkpoint:
        raise ValueError("say what to evaluate: --checkpoint DIR (a checkpoint's or a run's folder, or a hub name)")

    from fgclip2_train.files import make_room

    if os.environ.get("RANK", "0") == "0":
        make_room(json)

    from fgclip2_train.evaluation.run import evaluate as run
    from fgclip2_train.evaluation.run import leave, write_json
    from fgclip2_train.evaluation.table import table
    from fgclip2_train.ring import rank

    result = run(
        checkpoint, shards, fgovd=fgovd, pictures=pictures, patches=patches, limit=limit, suite=suite, overrides=overrides or []
    )
    if rank() == 0:
        typer.echo(table(result))
        if json:
            write_json(result, json)
            typer.echo(f"written: {json}")
    leave()
    raise typer.Exit(1 if any("error" in one for one in result["sets"].values()) else 0)


add_to(app)


def main() -> None:
    try:
        app()
    except (ValueError, OSError) as error:
        # What a person can mend: a path, a setting, a file of the wrong kind, a full disk. Anything else keeps its traceback.
        typer.echo(f"error: {_where()}{error}", err=True)
        sys.exit(2)
    except Stopped as error:
        typer.echo(f"error: {_where()}{error}", err=True)
        sys.exit(1)


def _where() -> str:
    """Which of several processes speaks."""
    return f"rank {os.environ.get('RANK', '?')}: " if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
