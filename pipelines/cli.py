"""The command `fineloom`. Each command says what it will do, shows that it moves, and ends with what was made and where."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from pipelines import data_commands, train
from pipelines.config import ConfigError, load_recipe
from pipelines.stores import StoreError, place

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False, help=__doc__)
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Name of a recipe in manifests/recipes, or a path to a YAML file.")
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
ROOT = Path("runs")


@app.command()
def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    root: Root = ROOT,
    shards: Annotated[str | None, typer.Option(help="Only these shards, for example 0-3 or 7.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="About this many samples, rounded up to whole shards; a full run reuses the work.")
    ] = None,
    max_output_tokens: Annotated[
        int | None, typer.Option(min=1, help="Stop when the model has written this many tokens.")
    ] = None,
    max_gpu_hours: Annotated[float | None, typer.Option(min=0, help="Stop after this many GPU-hours of this run.")] = None,
    prompts: Prompts = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to join (auto inside a Ray job); by default Ray starts here.")
    ] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs that a Ray started here may use.")] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST:]PORT", help="Serve figures for Prometheus here; off by default.", envvar="FINELOOM_METRICS"
        ),
    ] = None,
) -> None:
    """Run a recipe: take every pending shard through its stages. What is committed already is not done again.

    [dim]fineloom run demo · fineloom run lit_cn --shards 0-3 · fineloom run demo select.keep="width >= 256"[/dim]
    """
    from pipelines.progress import Progress
    from pipelines.run import Options, execute

    options = Options(_range(shards), limit, max_output_tokens, max_gpu_hours, prompts, address, cpus, metrics)
    loaded = load_recipe(recipe, overrides or [])
    try:
        result = execute(loaded, root, options, Progress(console))
    except KeyboardInterrupt:
        errors.print(f"\nstopped. Everything committed is kept; go on with: fineloom run {recipe} --root {root}", markup=False)
        raise typer.Exit(130) from None
    if result.nothing_to_do:
        console.print(f"everything is done: {result.shards:,} shards in {result.run}", markup=False)
        return
    console.print(
        f"{result.shards - len(result.failures):,} of {result.shards:,} shards whole after {result.seconds:,.0f} s · {result.run}",
        markup=False,
    )
    for failure in result.failures:
        errors.print(f"failed: shard {failure.shard}, stage {failure.stage}: {failure.error}", markup=False)
        if failure.trace:
            errors.print("        " + failure.trace.strip().replace("\n", "\n        "), markup=False)
    if result.stopped:
        errors.print(f"stopped: {result.stopped}", markup=False)
    if not result.ok:
        raise typer.Exit(1)


@app.command()
def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    root: Root = ROOT,
    shards: Annotated[str | None, typer.Option(help="Only these shards, for example 0-3.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="About this many samples, in whole shards.")] = None,
    tokens_per_second: Annotated[
        float | None, typer.Option(help="Output tokens per second of the server; measured by default.")
    ] = None,
    gpus: Annotated[float, typer.Option(help="GPUs behind the server, for the bill.")] = 1.0,
    price: Annotated[
        list[str] | None, typer.Option(help="Of gpu_hour, gb_month or egress_gb, as in --price gpu_hour=2.5; may be repeated.")
    ] = None,
    prompts: Prompts = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run would do: what is done, what would run, how many model calls and tokens, how many hours. Changes nothing."""
    from dataclasses import asdict

    from pipelines.plan import make_plan
    from pipelines.run import Options, chosen_shards, prepare

    loaded = load_recipe(recipe, overrides or [])
    options = Options(shards=_range(shards), limit=limit, prompts=prompts)
    chain = prepare(loaded, root, options)
    prices = _prices(price or [])
    made = make_plan(chain, chosen_shards(chain, options), tokens_per_second=tokens_per_second, gpus=gpus, prices=prices)
    if as_json:
        print(json.dumps(asdict(made), indent=1))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, justify in (
        ("stage", "left"),
        ("done", "right"),
        ("to do", "right"),
        ("samples", "right"),
        ("calls", "right"),
        ("tokens out", "right"),
        ("time", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for stage in made.stages:
        about = "" if stage.exact else "≈ "
        model = stage.kind == "model"
        table.add_row(
            stage.name,
            f"{stage.shards_done:,}",
            f"{stage.shards_to_do:,}",
            f"{stage.samples:,.0f}",
            f"{about}{stage.calls:,.0f}" if model else "",
            f"{about}{stage.output_tokens:,.0f}" if model else "",
            _hours(stage.seconds) if stage.seconds else "",
        )
    console.print(table)
    if made.sampled is not None:
        console.print(f"{made.sampled} shards were gone through, the rest taken in proportion")
    console.print(f"{made.shards:,} shards · about {made.hours:.2f} h · {made.gpu_hours:.2f} GPU-hours", markup=False)
    console.print(
        f"{made.storage_gb:,.2f} GB more to store · {made.egress_gb:,.2f} GB of pictures to read from there", markup=False
    )
    if made.unmeasured:
        names = ", ".join(made.unmeasured)
        console.print(
            f"nothing is committed yet of {names}: their time and bytes are missing above; a pilot (run --limit) tells",
            markup=False,
        )
    if made.cost:
        parts = " + ".join(f"{amount:,.2f} ({name})" for name, amount in made.cost.items())
        console.print(f"cost {sum(made.cost.values()):,.2f} = {parts}", markup=False)


@app.command()
def status(
    recipe: RecipeName, overrides: Overrides = None, root: Root = ROOT, prompts: Prompts = None, as_json: AsJson = False
) -> None:
    """Show how far a run has come, stage by stage, from any machine that sees the root."""
    from pipelines.run import look, reach

    loaded = load_recipe(recipe, overrides or [])
    chain = look(loaded, root, prompts)
    shards = chain.shards()
    rows = reach(chain, shards).counts()
    if as_json:
        print(json.dumps({"shards": len(shards), "stages": rows}))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("stage", "shards", "samples"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage, row in rows.items():
        table.add_row(stage, f"{row['shards']:,} / {len(shards):,}", f"{row['samples']:,}")
    console.print(table)


@app.command()
def rejects(
    recipe: RecipeName,
    overrides: Overrides = None,
    root: Root = ROOT,
    stage: Annotated[str | None, typer.Option(help="Only refusals of this stage.")] = None,
    reason: Annotated[str | None, typer.Option(help="List the refusals for this reason, one a line.")] = None,
    requeue: Annotated[
        str | None, typer.Option(metavar="REASON", help="Put the samples refused for this reason back, in new shards.")
    ] = None,
    prompts: Prompts = None,
    as_json: AsJson = False,
) -> None:
    """Count refusals by stage and reason, list them, or put the refused samples back for the next run."""
    from pipelines import rejects as refusals
    from pipelines.run import lock, look

    loaded = load_recipe(recipe, overrides or [])
    chain = look(loaded, root, prompts)
    if requeue is not None:
        with lock(chain.run):
            table = refusals.requeue(chain, requeue, stage)
        if table is None:
            console.print(
                f"the samples refused for {requeue} were put back before; run the recipe to take them up", markup=False
            )
        else:
            console.print(
                f"{table.rows:,} samples put back in {table.shards} new shards; run `fineloom run {recipe} --root {root}`",
                markup=False,
            )
        return
    if reason is not None:
        for row in refusals.listed(chain, stage, reason):
            print(json.dumps(row, ensure_ascii=False))
        return
    counts = refusals.count(chain)
    if as_json:
        print(json.dumps(counts, ensure_ascii=False))
        return
    table_ = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("stage", "reason", "samples", "parts"):
        table_.add_column(name, justify="left" if name in ("stage", "reason") else "right")
    for name, row in counts.items():
        if stage in (None, name):
            for why in sorted({*row["samples"], *row["parts"]}, key=lambda w: -(row["samples"][w] + row["parts"][w])):
                table_.add_row(
                    name,
                    why,
                    f"{row['samples'][why] or '':,}" if row["samples"][why] else "",
                    f"{row['parts'][why]:,}" if row["parts"][why] else "",
                )
    console.print(table_ if table_.row_count else "no refusals")
    for name, shards in refusals.waiting(chain).items():
        console.print(
            f"{shards:,} shards not through {name} with these settings: what a run was given as KEY=VALUE, give here too",
            style="dim",
            markup=False,
        )


@app.command()
def retry(recipe: RecipeName, overrides: Overrides = None, root: Root = ROOT, prompts: Prompts = None) -> None:
    """Put back what could not be fetched for a reason that may pass (time-outs, 5xx, a host that was down), in new shards."""
    from pipelines import rejects as refusals
    from pipelines.run import lock, look

    chain = look(load_recipe(recipe, overrides or []), root, prompts)
    with lock(chain.run):
        table = refusals.retry(chain)
    if table is None:
        console.print(
            "nothing to fetch again: no refusal of the download is of a kind that may pass, or all were put back before"
        )
    else:
        console.print(
            f"{table.rows:,} samples put back in {table.shards} new shards; run `fineloom run {recipe} --root {root}`",
            markup=False,
        )


@app.command()
def show(
    recipe: RecipeName,
    uid: Annotated[str, typer.Argument(help="Identity of a sample, or the beginning of one.")],
    overrides: Overrides = None,
    root: Root = ROOT,
    picture: Annotated[Path | None, typer.Option(help="Write the picture's bytes to this file.")] = None,
    prompts: Prompts = None,
    as_json: AsJson = False,
) -> None:
    """Show everything known of one sample: picture, texts, boxes, scores, refusals, and which prompt and model made what."""
    from pipelines.run import look
    from pipelines.show import render
    from pipelines.show import show as everything

    found = everything(look(load_recipe(recipe, overrides or []), root, prompts), uid, picture)
    if as_json:
        print(json.dumps(found, ensure_ascii=False, default=str))
    else:
        render(found, console)


@app.command()
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
) -> None:
    """Write report.html: the way of the samples, refusals, costs, distributions, a contact sheet, training and evaluation."""
    from pipelines.report import write_report
    from pipelines.run import look

    chain = look(load_recipe(recipe, overrides or []), root, prompts)
    console.print(str(write_report(chain, train or [], evaluation or [])), markup=False)


@app.command()
def validate(shards: Annotated[list[Path], typer.Argument(help="Shard files, or folders of them.")]) -> None:
    """Check shards against the format of docs/shard-format.md; every fault is named with shard, sample and key."""
    from pipelines.shard_format import validate_shard

    paths = [tar for path in shards for tar in (sorted(path.glob("*.tar")) if path.is_dir() else [path])]
    if not paths:
        raise ConfigError(f"no shards at {', '.join(map(str, shards))}")
    bad = samples = 0
    for path in paths:
        report = validate_shard(path)
        samples += report.samples
        for error in report.errors:
            bad += 1
            errors.print(str(error), markup=False)
    console.print(f"{len(paths)} shards, {samples:,} samples, {bad} faults")
    if bad:
        raise typer.Exit(1)


@app.command()
def gc(
    recipe: RecipeName,
    overrides: Overrides = None,
    root: Root = ROOT,
    dry_run: Annotated[bool, typer.Option(help="Only count.")] = False,
) -> None:
    """Remove files that no ledger entry names: leftovers of attempts that were killed or lost a race."""
    from pipelines.gc import collect
    from pipelines.run import lock

    folder = place(root) / load_recipe(recipe, overrides or []).name
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such run")
    with lock(folder):
        files, size = collect(folder, delete=not dry_run)
    console.print(f"{files} files, {size / 1e6:.1f} MB {'would go' if dry_run else 'removed'}", markup=False)


@app.command("compact")
def compact_(recipe: RecipeName, overrides: Overrides = None, root: Root = ROOT) -> None:
    """Write the ledger's many small entries as few large files, so that planning and status stay quick; a run does it by itself.

    Nothing changes for readers and writers, and it may run beside a run.
    """
    from pipelines.compact import compact
    from pipelines.ledger import Ledger

    folder = place(root) / load_recipe(recipe, overrides or []).name
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such run")
    done = compact(Ledger(folder), lambda line: console.print(line, markup=False))
    console.print(f"{done.taken:,} entries compacted, in {done.segments} files now", markup=False)


@app.command()
def takedown(
    recipe: RecipeName,
    overrides: Overrides = None,
    root: Root = ROOT,
    uid: Annotated[list[str] | None, typer.Option(help="Identity of a sample; may be repeated.")] = None,
    url: Annotated[list[str] | None, typer.Option(help="Address of a picture: every sample with it.")] = None,
    sha256: Annotated[list[str] | None, typer.Option(help="SHA-256 of a picture's bytes: every sample with it.")] = None,
    file: Annotated[Path | None, typer.Option("--list", help="File with one uid, address or SHA-256 a line.")] = None,
    why: Annotated[str, typer.Option(help="Kept with the tombstone.")] = "",
    prompts: Prompts = None,
    as_json: AsJson = False,
) -> None:
    """Remove samples from tables, pictures, answers and shards, for ever, and keep a receipt of what was removed where."""
    from dataclasses import asdict

    from pipelines.run import lock, look
    from pipelines.takedown import sort_out, take_down

    listed = file.read_text(encoding="utf-8").split("\n") if file else []
    uids, urls, hashes = sort_out([*(uid or []), *(url or []), *(sha256 or []), *listed])
    if not (uids or urls or hashes):
        raise ConfigError("takedown: say what is to go, with --uid, --url, --sha256 or --list")
    chain = look(load_recipe(recipe, overrides or []), root, prompts)
    with lock(chain.run):
        receipt = take_down(chain, uids, urls, hashes, why)
    if as_json:
        print(json.dumps(asdict(receipt)))
        return
    for what in receipt.unknown:
        errors.print(f"not here: {what}", markup=False)
    console.print(
        f"{receipt.samples} samples taken down; {len(receipt.files)} files changed, {len(receipt.gone)} removed, "
        f"{len(receipt.packed_again)} shards packed again · receipt: {chain.run}/tombstones/{receipt.number:04d}.receipt.json",
        markup=False,
    )
    if receipt.waiting:
        console.print(f"{len(receipt.waiting)} shards are packed by the next run", markup=False)
    if receipt.outside:
        console.print("your own tables, exports and trained models still hold them: the receipt names the tables", markup=False)


serve = typer.Typer(no_args_is_help=True, help="Start, look at or stop a vLLM server on this machine.")
app.add_typer(serve, name="serve")
data_commands.add_to(app)
train.add_to(app)
Model = Annotated[str, typer.Argument(help="Folder of the model, or its name on the hub.")]
Name = Annotated[str, typer.Option(help="Name under which it is served: `model.name` of a recipe.")]
Port = Annotated[int, typer.Option(help="Port; 0 takes any free one.")]


@serve.command("start")
def serve_start(
    model: Model,
    name: Name = "model",
    port: Port = 8000,
    option: Annotated[
        list[str] | None, typer.Option(help="A further option of vLLM, as in --option=--tensor-parallel-size=2")
    ] = None,
) -> None:
    """Start vLLM, or adopt the server that runs with the same settings; returns when it answers."""
    import shutil

    from pipelines.serve import ServeSettings, start

    device: Literal["cpu", "cuda"] = "cuda" if shutil.which("nvidia-smi") else "cpu"
    settings = ServeSettings(model=model, name=name, port=port, device=device, options=tuple(option or ()))
    start(settings, lambda line: console.print(line, markup=False))


@serve.command("status")
def serve_status(as_json: AsJson = False) -> None:
    """Say whether a server runs here, which model it serves and where its log is."""
    from pipelines.serve import ServeSettings, status

    found = status(ServeSettings(model="", name=""))
    if as_json:
        print(json.dumps(found))
    else:
        for key, value in found.items():
            console.print(f"{key:<10} {value}", markup=False)


@serve.command("stop")
def serve_stop() -> None:
    """Stop the server that `serve start` started here, and nothing else."""
    from pipelines.serve import ServeSettings, stop

    stop(ServeSettings(model="", name=""), lambda line: console.print(line, markup=False))


def _range(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, last = text.partition("-")
    try:
        found = int(first), int(last or first)
    except ValueError:
        raise ConfigError(f"--shards {text}: expected a number or a range such as 0-3") from None
    if found[0] > found[1] or found[0] < 0:
        raise ConfigError(f"--shards {text}: the first shard must not be above the last")
    return found


def _prices(given: list[str]) -> dict[str, float]:
    from pipelines.plan import PRICES

    found: dict[str, float] = {}
    for text in given:
        name, _, number = text.partition("=")
        try:
            found[name] = float(number)
        except ValueError:
            name = ""
        if name not in PRICES:
            raise ConfigError(f"--price {text}: expected one of {', '.join(PRICES)}, as in {PRICES[0]}=2.5")
    return found


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def main() -> None:
    """Entry point: mistakes of the user end in one clear line, defects in a traceback."""
    from pipelines.model_client import ServerUnavailable
    from pipelines.run import RunBusy
    from pipelines.serve import ServeError
    from pipelines.sources import SourceError

    try:
        app()
    except (ConfigError, SourceError, RunBusy, ServerUnavailable, ServeError, StoreError) as error:
        errors.print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(2)
