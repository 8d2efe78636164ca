"""Commands around finished data: hand it on in other layouts, take other layouts in, have people look at it, compare two prompts."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines import machine_commands, review_commands
from pipelines.config import ConfigError, load_recipe
from pipelines.counted import counted
from pipelines.help_page import App
from pipelines.terminal import ROOT, AsJson, Overrides, Prompts, RecipeName, Root, print_json, say, warn

LOOK, DATA = "Look", "Data out and in"


def add_to(app: App) -> None:
    app.command("view", rich_help_panel=LOOK)(view_command)
    app.command("compare", rich_help_panel=LOOK)(compare_command)
    app.add_typer(review, name="review", rich_help_panel=LOOK)
    review_commands.add_to(review)
    app.command("export", rich_help_panel=DATA)(export_command)
    app.command("import", rich_help_panel=DATA)(import_command)
    app.command("takedown", rich_help_panel=DATA)(machine_commands.takedown)
    app.command("contamination", rich_help_panel=DATA)(contamination_command)


def export_command(
    layout: Annotated[
        str, typer.Option(help="lit-cn, dci-cn, finehard, url2key, boxclass-cn, grit, huggingface or croissant.")
    ],
    out: Annotated[Path, typer.Option(help="New folder to write; one that is there already is never touched.")],
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="Recipe whose shards to export.")] = None,
    overrides: Overrides = None,
    shards: Annotated[Path | None, typer.Option(help="Folder of shards, in the place of a recipe's.")] = None,
    language: Annotated[
        Literal["en", "zh", "both"],
        typer.Option(help="Texts and regions to take; for finehard and url2key, whose records are of one language."),
    ] = "both",
    pictures: Annotated[bool, typer.Option(help="Write the pictures too, not only addresses and annotations.")] = True,
    title: Annotated[str, typer.Option(help="Name of the data set, for its card.")] = "",
    contact: Annotated[str, typer.Option(help="To whom people write who want something taken down, for the card.")] = "",
    quality: Annotated[
        list[Path] | None,
        typer.Option(
            help="JSON of `review import --json` or `benchmarks.quality --json`: figures for the card; may be repeated."
        ),
    ] = None,
    root: Root = ROOT,
    prompts: Prompts = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's shards in the layout that an existing reader expects. Killed, it goes on when called again. Of a run that is not
    through, what is missing is told, here and in the card.

    Examples:
        fineloom export lit_cn --layout lit-cn --out LIT-CN
        fineloom export --shards FOLDER --layout huggingface --out hub
        fineloom export dci_cn --layout huggingface --out hub --contact data@example.org --quality verdicts.json
    """
    from pipelines.exports import About, ExportSettings, export, layout_named
    from pipelines.exports.of_run import of_run, shards_in
    from pipelines.exports.quality import read_quality

    layout_named(layout)  # before a long look for shards
    if shards is not None and recipe is None:
        found = shards_in(shards)
        if not found:
            raise ConfigError(f"{shards}: no shards there")
        about = About(
            title or out.name, "Pictures with texts, regions and hard negatives, exported from fineloom shards.", {}, "1.0.0"
        )
    elif recipe is not None and shards is None:
        found, about = of_run(load_recipe(recipe, overrides or []), root, prompts, title or out.name)
    else:
        raise ConfigError("name either a recipe or --shards FOLDER")
    about = replace(about, contact=contact, quality=tuple(figure for file in quality or [] for figure in read_quality(file)))
    if about.missing.shards:
        warn(f"warning: {about.missing}")
    settings = ExportSettings(language=language, pictures=pictures, title=title)
    tally = export(found, layout, out, settings, about, warn if as_json else say)
    if as_json:
        missing = asdict(about.missing)
        print_json({"out": str(out), "layout": layout, **tally.counts, "samples": tally.samples, "missing": missing})
        return
    for note, times in tally.counts["notes"].most_common():
        say(f"note: {note} ({times:,})")
    told = [counted(tally.samples, "sample")]
    for kind, thing, more in (("texts", "text", ""), ("regions", "region", ""), ("groups", "group", " of negatives")):
        if there := sum(tally.counts[kind].values()):
            told.append(counted(there, thing) + more)
    say(" · ".join([*told, str(out)]))


def view_command(
    root: Annotated[Path, typer.Argument(help="Folder or address that holds the runs, or the folder of one run.")] = ROOT,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings of the run; by default those it was last called with."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Recipe of the run; by default the file it was last called with, or the one of the same name."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at. Beyond this machine there is no login.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any free one.")] = 8765,
    against: Annotated[
        Path | None, typer.Option(help="Another run's folder, or a root: its runs are shown too, and two can be compared.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="Folder of prompt files that replaced the packaged one.")] = None,
) -> None:
    """Look at a run in the browser: samples with boxes and negatives, refusals, filters, search, where everything came from.

    Examples:
        fineloom view runs
        fineloom view runs/demo
        fineloom view runs --port 0
    """
    from pipelines.viewer import runs_in, serve, with_others

    runs = runs_in(root, recipe, overrides, prompts)
    if against is not None:
        runs = with_others(runs, runs_in(against, recipe, None, prompts))
    serve(runs, host, port, say)


def import_command(
    files: Annotated[list[Path], typer.Argument(help="Annotation files, or a folder of them.")],
    layout: Annotated[str, typer.Option(help="finehard, lit-cn or boxclass-cn.")],
    pictures: Annotated[Path, typer.Option(help="Folder below which the pictures lie.")],
    out: Annotated[Path, typer.Option(help="New folder for the shards.")],
    name: Annotated[str | None, typer.Option(help="Name of the source in the records; by default the layout's.")] = None,
    license: Annotated[str | None, typer.Option(help="Licence of the pictures, where one holds for all.")] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Rows per shard.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Take a published set in its own layout, with its pictures, into shards that the trainer reads. Bad rows go to rejects/.

    Examples:
        fineloom import FineHARD/jsonfiles --layout finehard --pictures data/grit-12m --out runs/finehard-shards
    """
    from pipelines.imports import ImportSettings, import_layout

    settings = ImportSettings.model_validate({"name": name or layout, "license": license, "shard_size": shard_size})
    made = import_layout(layout, files, pictures, out, settings, warn if as_json else say)
    if as_json:
        print_json({"out": str(out), **vars(made)})  # asdict would count the counters' pairs
        return
    for kind, reasons in (("rows", made.reasons), ("parts", made.parts)):
        if reasons:
            say(f"refused {kind}: " + ", ".join(f"{reason} {n:,}" for reason, n in reasons.most_common()))
    say(
        f"{made.samples:,} of {counted(made.rows, 'row')} · {counted(made.regions, 'region')} · "
        f"{counted(made.groups, 'group')} of negatives · {out}"
    )


review = App(
    help="""What a run is not sure of, before people: on pages (serve) or as files (export), and their verdicts back (import).

    Examples:
        fineloom review serve dci_cn --reviewer Li --reviewer Wang
        fineloom review export dci_cn --out doubtful.jsonl
        fineloom review import doubtful-anna.jsonl doubtful-bo.jsonl --out verdicts.jsonl
    """
)


@review.command("export")
def review_export(
    recipe: RecipeName,
    out: Annotated[Path, typer.Option(help="New file of JSON lines for the reviewers.")],
    overrides: Overrides = None,
    stage: Annotated[str | None, typer.Option(help="Stage that translates, where the recipe has several.")] = None,
    doubtful: Annotated[
        str | None,
        typer.Option(help="Which accepted pairs to show, over judge, back and chars; refused ones are always shown."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many pairs.")] = None,
    root: Root = ROOT,
    as_json: AsJson = False,
) -> None:
    """Write refused and doubtful pairs, one a line, with empty verdict, corrected, reviewer and time for people to fill in.

    Examples:
        fineloom review export dci_cn --out doubtful.jsonl --limit 500
    """
    from pipelines.review_file import DOUBTFUL, export_doubtful
    from pipelines.run import look

    chain = look(load_recipe(recipe, overrides or []), root)
    pairs, refused = export_doubtful(chain, stage, out, doubtful or DOUBTFUL, limit)
    if as_json:
        print_json({"out": str(out), "pairs": pairs, "refused": refused})
    else:
        say(f"{counted(pairs, 'pair')}, {refused:,} of them refused by the validators · {out}")


@review.command("import")
def review_import(
    files: Annotated[
        list[str],
        typer.Argument(help="Files that reviewers filled in, or books of `review serve`: files, or postgresql://… addresses."),
    ],
    out: Annotated[Path, typer.Option(help="New file of all good lines: stages.reviewed.file of a recipe.")],
    as_json: AsJson = False,
) -> None:
    """Check what reviewers wrote, say how far they agree, and write the good lines for the next run.

    Examples:
        fineloom review import doubtful-anna.jsonl doubtful-bo.jsonl --out verdicts.jsonl
        fineloom review import runs/dci_cn/review.sqlite --out verdicts.jsonl
        fineloom review import postgresql://review@db.example.org/review --out verdicts.jsonl
    """
    from pipelines.review_file import merge_reviews

    merged = merge_reviews(files, out)
    if as_json:
        print_json({"out": str(out), **asdict(merged)})
        return
    for file, number, why in merged.bad:
        say(f"{file}:{number}: {why}")
    for first, second, kappa, both in merged.kappas:
        shown = "not defined: both gave one and the same verdict throughout" if kappa is None else f"{kappa:.2f}"
        say(f"Cohen's κ of {first} and {second}: {shown} ({counted(both, 'pair')} judged by both)")
    verdicts = ", ".join(f"{verdict} {count:,}" for verdict, count in merged.verdicts.items())
    say(
        f"{counted(merged.reviews, 'verdict')} on {counted(merged.pairs, 'pair')}: {verdicts}, divided {merged.disputed:,} · "
        f"{merged.waiting:,} not filled in, {len(merged.bad):,} bad lines · {out}"
    )
    say(f"next: fineloom run RECIPE stages.reviewed.file={out}")


def contamination_command(
    folder: Annotated[
        Path, typer.Argument(help="Folder of an evaluation set: pictures, and captions as txt, tsv, csv or JSON.")
    ],
    out: Annotated[Path, typer.Option(help="File of JSON lines to write: hashes of pictures and captions.")],
    name: Annotated[str | None, typer.Option(help="Name of the set, for refusals; by default the folder's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the hashes of an evaluation set, by which the `decontaminate` operator keeps it out of training.

    Examples:
        fineloom contamination data/coco-cn --out manifests/evaluation/coco_cn.jsonl
        fineloom contamination data/lit-cn --name LIT-CN --out manifests/evaluation/lit_cn.jsonl --json
    """
    from pipelines.contamination import make_manifest

    made = make_manifest(folder, out, name, warn)
    if as_json:
        print_json({"out": str(out), **vars(made)})
        return
    if made.bad:
        warn("left out: " + ", ".join(f"{reason} {n:,}" for reason, n in made.bad.most_common()))
    say(f"{made.set}: {counted(made.pictures, 'picture')}, {counted(made.captions, 'caption')} · {out}")
    say(f"next: a stage `decontaminate: {{manifests: [{out}]}}` after the one that measures phash")


def compare_command(
    recipe: RecipeName,
    stage: Annotated[str, typer.Argument(help="Stage that asks the model.")],
    out: Annotated[Path, typer.Option(help="New HTML file.")],
    overrides: Overrides = None,
    b: Annotated[
        list[str] | None, typer.Option("--b", help="Setting of B, as in prompt=long_caption_en_short or model.name=other.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="Folder of A's prompts.")] = None,
    prompts_b: Annotated[Path | None, typer.Option(help="Folder of B's prompts.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples to show.")] = 40,
    seed: Annotated[int, typer.Option(help="Another seed takes other samples.")] = 0,
    root: Root = ROOT,
    as_json: AsJson = False,
) -> None:
    """Ask two prompts, settings or models about the same samples and write both side by side. What was answered is not asked again.

    Examples:
        fineloom compare demo long_caption_en --prompts-b my_prompts --samples 40 --out a-b.html
        fineloom compare demo translate --b model.name=qwen3-vl --b model.base_url=http://127.0.0.1:8001/v1 --out models.html
    """
    from pipelines.compare import compare
    from pipelines.run import look

    settings = [setting if setting.startswith("model.") else f"stages.{stage}.{setting}" for setting in b or []]
    chain = look(load_recipe(recipe, overrides or []), root, prompts)
    other = load_recipe(recipe, [*(overrides or []), *settings])
    figures = compare(chain, other, stage, samples, out, prompts_b, seed)
    if as_json:
        print_json({"out": str(out), **figures})
        return
    say(
        f"{counted(figures['samples'], 'sample')}, {figures['same']} the same under both · {counted(figures['asked'], 'request')}, "
        f"{counted(figures['found'], 'answer')} found · {out}"
    )
