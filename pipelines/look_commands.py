"""Commands for looking at what was made: show, report, validate. (The pages of `view`, `compare` and `review` are data_commands.)"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipelines.config import ConfigError, load_recipe
from pipelines.counted import counted
from pipelines.help_page import App
from pipelines.terminal import ROOT, AsJson, Overrides, Prompts, RecipeName, Root, console, print_json, say, warn

PANEL = "Look"


def add_to(app: App) -> None:
    app.command("show", rich_help_panel=PANEL)(show)
    app.command("report", rich_help_panel=PANEL)(report)
    app.command("validate", rich_help_panel=PANEL)(validate)


def show(
    recipe: RecipeName,
    uid: Annotated[str, typer.Argument(help="Identity of a sample, or the beginning of one.")],
    overrides: Overrides = None,
    root: Root = ROOT,
    picture: Annotated[Path | None, typer.Option(help="Write the picture's bytes to this file.")] = None,
    prompts: Prompts = None,
    as_json: AsJson = False,
) -> None:
    """Show everything known of one sample: picture, texts, boxes, scores, refusals, and which prompt and model made what.

    Examples:
        fineloom show demo 5aed26
        fineloom show demo 5aed269bd3a5bb0fd798de80189ebf6e --picture seen.jpg --json
    """
    from pipelines.run import look
    from pipelines.show import render
    from pipelines.show import show as everything

    found = everything(look(load_recipe(recipe, overrides or []), root, prompts), uid, picture)
    if as_json:
        print(json.dumps(found, ensure_ascii=False, default=str))
    else:
        render(found, console)


def report(
    recipe: RecipeName,
    overrides: Overrides = None,
    root: Root = ROOT,
    train: Annotated[
        list[Path] | None, typer.Option(help="Folder of a training run, for its loss curves; may be given twice.")
    ] = None,
    evaluation: Annotated[
        list[Path] | None, typer.Option("--eval", help="JSON file of an evaluation; may be given twice.")
    ] = None,
    prompts: Prompts = None,
    as_json: AsJson = False,
) -> None:
    """Write report.html: the way of the samples, refusals, costs, distributions, a contact sheet, training and evaluation.

    Examples:
        fineloom report demo
        fineloom report demo --train runs/demo-train/stage2 --eval runs/demo-train/eval.json
    """
    from pipelines.report import write_report
    from pipelines.run import look

    chain = look(load_recipe(recipe, overrides or []), root, prompts)
    path = write_report(chain, train or [], evaluation or [])
    if as_json:
        print_json({"report": str(path), "recipe": chain.recipe.name, "run": str(chain.run)})
    else:
        say(str(path))


def validate(
    shards: Annotated[list[Path], typer.Argument(help="Shard files, or folders of them.")], as_json: AsJson = False
) -> None:
    """Check shards against the format of docs/shard-format.md; every fault is named with shard, sample and key.

    Exit status: 0 all hold, 1 faults were found.

    Examples:
        fineloom validate runs/demo/shards
        fineloom validate runs/demo/shards/00000.tar --json
    """
    from dataclasses import asdict

    from pipelines.shard_format import validate_shard

    paths = [tar for path in shards for tar in (sorted(path.glob("*.tar")) if path.is_dir() else [path])]
    if not paths:
        raise ConfigError(f"no shards at {', '.join(map(str, shards))}")
    bad = samples = 0
    told = []
    for path in paths:
        found = validate_shard(path)
        samples += found.samples
        bad += found.found
        if as_json:
            told.append({**asdict(found), "errors": [str(error) for error in found.errors]})
            continue
        for error in found.errors:
            warn(str(error))
        if found.found > len(found.errors):
            warn(f"{path}: and {found.found - len(found.errors):,} more")
    if as_json:
        print_json({"ok": not bad, "shards": len(paths), "samples": samples, "faults": bad, "found": told})
    else:
        say(f"{counted(len(paths), 'shard')}, {counted(samples, 'sample')}, {counted(bad, 'fault')}")
    if bad:
        raise typer.Exit(1)
