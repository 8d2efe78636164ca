"""Commands around finished data: hand it on in other layouts, take other layouts in, have people look at it, compare two prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from pipelines.config import ConfigError, load_recipe

console = Console(highlight=False)
Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe, or a path to a YAML file.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings that the run was made with.")]
Root = Annotated[Path, typer.Option(help="Folder that holds the runs, one subfolder per recipe.", envvar="FINELOOM_ROOT")]
ROOT = Path("runs")


def add_to(app: typer.Typer) -> None:
    app.command("export")(export_command)
    app.command("import")(import_command)


def say(line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)


def export_command(
    layout: Annotated[
        str, typer.Option(help="lit-cn, dci-cn, finehard, url2key, boxclass-cn, grit, huggingface or croissant.")
    ],
    out: Annotated[Path, typer.Option(help="New folder to write; one that is there already is never touched.")],
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="Recipe whose shards to export.")] = None,
    overrides: Overrides = None,
    shards: Annotated[Path | None, typer.Option(help="Folder of shards, in the place of a recipe's.")] = None,
    language: Annotated[
        Literal["en", "zh", "both"], typer.Option(help="Texts and regions to take, where a layout holds one language a record.")
    ] = "both",
    pictures: Annotated[bool, typer.Option(help="Write the pictures too, not only addresses and annotations.")] = True,
    title: Annotated[str, typer.Option(help="Name of the data set, for its card.")] = "",
    root: Root = ROOT,
) -> None:
    """Write a run's shards in the layout that an existing reader expects. Killed, it goes on when called again.

    [dim]fineloom export lit_cn --layout lit-cn --out LIT-CN · fineloom export --shards FOLDER --layout huggingface --out hub[/dim]
    """
    from pipelines.exports import ExportSettings, export, shards_in

    if (recipe is None) == (shards is None):
        raise ConfigError("name either a recipe or --shards FOLDER")
    folder = shards
    about = _about(recipe, overrides or [], title or out.name)
    if folder is None:
        folder = root / load_recipe(str(recipe), overrides or []).name
    found = list(shards_in(folder))
    if not found:
        raise ConfigError(f"{folder}: no shards there. Run the recipe to its `pack` stage first")
    settings = ExportSettings(language=language, pictures=pictures, title=title)
    tally = export(found, layout, out, settings, about, say)
    for note, times in tally.counts["notes"].most_common():
        say(f"note: {note} ({times:,})")
    regions, groups = (sum(tally.counts[kind].values()) for kind in ("regions", "groups"))
    say(f"{tally.samples:,} samples · {regions:,} regions · {groups:,} groups of negatives · {out}")


def _about(recipe: str | None, overrides: list[str], title: str):  # type: ignore[no-untyped-def]
    from pipelines.config import MANIFESTS
    from pipelines.exports import About
    from pipelines.sources import load_source

    if recipe is None:
        return About(title, "Pictures with texts, regions and hard negatives, exported from fineloom shards.", {}, "1.0.0")
    loaded = load_recipe(recipe, overrides)
    folders = [Path("manifests/sources"), MANIFESTS / "sources"]
    sources = {source.name: source.about for source in (load_source(name, folders) for name in loaded.sources)}
    return About(title, loaded.description or f"Made by the recipe {loaded.name}.", sources, "1.0.0")


def import_command(
    files: Annotated[list[Path], typer.Argument(help="Annotation files, or a folder of them.")],
    layout: Annotated[str, typer.Option(help="finehard, lit-cn or boxclass-cn.")],
    pictures: Annotated[Path, typer.Option(help="Folder below which the pictures lie.")],
    out: Annotated[Path, typer.Option(help="New folder for the shards.")],
    name: Annotated[str | None, typer.Option(help="Name of the source in the records; by default the layout's.")] = None,
    license: Annotated[str | None, typer.Option(help="Licence of the pictures, where one holds for all.")] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Rows per shard.")] = 1000,
) -> None:
    """Take a published set in its own layout, with its pictures, into shards that the trainer reads. Bad rows go to rejects/.

    [dim]fineloom import FineHARD/jsonfiles --layout finehard --pictures data/grit-12m --out runs/finehard-shards[/dim]
    """
    from pipelines.imports import ImportSettings, import_layout

    settings = ImportSettings(name=name or layout, license=license, shard_size=shard_size)
    made = import_layout(layout, files, pictures, out, settings, say)
    for kind, reasons in (("rows", made.reasons), ("parts", made.parts)):
        if reasons:
            say(f"refused {kind}: " + ", ".join(f"{reason} {n:,}" for reason, n in reasons.most_common()))
    say(f"{made.samples:,} of {made.rows:,} rows · {made.regions:,} regions · {made.groups:,} groups of negatives · {out}")
