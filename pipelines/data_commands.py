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
    app.command("compare")(compare_command)
    app.command("view")(view_command)
    app.add_typer(review, name="review")


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


def view_command(
    root: Annotated[Path, typer.Argument(help="Folder or address that holds the runs, or the folder of one run.")] = ROOT,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings of the run; by default those it was last called with."),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe of the run; by default the one of the same name.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at. Beyond this machine there is no login.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any free one.")] = 8765,
    prompts: Annotated[Path | None, typer.Option(help="Folder of prompt files that replaced the packaged one.")] = None,
) -> None:
    """Look at a run in the browser: samples with boxes and negatives, refusals, filters, search, where everything came from.

    [dim]fineloom view runs · fineloom view runs/demo · fineloom view runs --port 0[/dim]
    """
    from pipelines.viewer import runs_in, serve

    serve(runs_in(root, recipe, overrides, prompts), host, port, say)


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

    settings = ImportSettings.model_validate({"name": name or layout, "license": license, "shard_size": shard_size})
    made = import_layout(layout, files, pictures, out, settings, say)
    for kind, reasons in (("rows", made.reasons), ("parts", made.parts)):
        if reasons:
            say(f"refused {kind}: " + ", ".join(f"{reason} {n:,}" for reason, n in reasons.most_common()))
    say(f"{made.samples:,} of {made.rows:,} rows · {made.regions:,} regions · {made.groups:,} groups of negatives · {out}")


review = typer.Typer(no_args_is_help=True, help="Doubtful translations out to people, and their verdicts back.")


@review.command("export")
def review_export(
    recipe: Recipe,
    out: Annotated[Path, typer.Option(help="New file of JSON lines for the reviewers.")],
    overrides: Overrides = None,
    stage: Annotated[str, typer.Option(help="Stage that translates.")] = "translate",
    doubtful: Annotated[
        str | None,
        typer.Option(help="Which accepted pairs to show, over judge, back and chars; refused ones are always shown."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many pairs.")] = None,
    root: Root = ROOT,
) -> None:
    """Write refused and doubtful pairs, one a line, with empty verdict, corrected, reviewer and time for people to fill in."""
    from pipelines.review_file import DOUBTFUL, export_doubtful
    from pipelines.run import look

    chain = look(load_recipe(recipe, overrides or []), root)
    pairs, refused = export_doubtful(chain, stage, out, doubtful or DOUBTFUL, limit)
    say(f"{pairs:,} pairs, {refused:,} of them refused by the validators · {out}")


@review.command("import")
def review_import(
    files: Annotated[list[Path], typer.Argument(help="Files that reviewers filled in.")],
    out: Annotated[Path, typer.Option(help="New file of all good lines: stages.reviewed.file of a recipe.")],
) -> None:
    """Check what reviewers wrote, say how far they agree, and write the good lines for the next run."""
    from pipelines.review_file import merge_reviews

    merged = merge_reviews(files, out)
    for file, number, why in merged.bad:
        say(f"{file}:{number}: {why}")
    for first, second, kappa, both in merged.kappas:
        shown = "not defined: both gave one and the same verdict throughout" if kappa is None else f"{kappa:.2f}"
        say(f"Cohen's κ of {first} and {second}: {shown} ({both:,} pairs judged by both)")
    verdicts = ", ".join(f"{verdict} {count:,}" for verdict, count in merged.verdicts.items())
    say(
        f"{merged.reviews:,} verdicts on {merged.pairs:,} pairs: {verdicts}, divided {merged.disputed:,} · "
        f"{merged.waiting:,} not filled in, {len(merged.bad):,} bad lines · {out}"
    )
    say(f"next: fineloom run RECIPE stages.reviewed.file={out}")


def compare_command(
    recipe: Recipe,
    stage: Annotated[str, typer.Argument(help="Stage that asks the model.")],
    out: Annotated[Path, typer.Option(help="New HTML file.")],
    overrides: Overrides = None,
    b: Annotated[list[str] | None, typer.Option("--b", help="Setting of B, as in prompt=long_caption_en_short.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="Folder of A's prompts.")] = None,
    prompts_b: Annotated[Path | None, typer.Option(help="Folder of B's prompts.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples to show.")] = 40,
    seed: Annotated[int, typer.Option(help="Another seed takes other samples.")] = 0,
    root: Root = ROOT,
) -> None:
    """Ask two prompts (or settings) about the same samples and write both side by side. What was answered is not asked again.

    [dim]fineloom compare demo long_caption_en --prompts-b my_prompts --samples 40 --out a-b.html[/dim]
    """
    from pipelines.compare import compare
    from pipelines.run import look

    settings = [f"stages.{stage}.{setting}" for setting in b or []]
    chain = look(load_recipe(recipe, overrides or []), root, prompts)
    other = load_recipe(recipe, [*(overrides or []), *settings])
    figures = compare(chain, other, stage, samples, out, prompts_b, seed)
    say(
        f"{figures['samples']} samples, {figures['same']} the same under both · {figures['asked']} requests, "
        f"{figures['found']} answers found · {out}"
    )
