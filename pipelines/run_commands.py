"""Commands around running a recipe: run, plan, status, rejects, retry."""

from __future__ import annotations

import math
import shlex
from typing import Annotated, Any

import typer

from pipelines.config import ConfigError, load_recipe, nearest
from pipelines.counted import counted
from pipelines.help_page import App
from pipelines.terminal import (
    ROOT,
    AsJson,
    Overrides,
    Prompts,
    RecipeName,
    Root,
    console,
    errors,
    print_json,
    print_table,
    say,
    warn,
)

PANEL = "Run"


def add_to(app: App) -> None:
    app.command("run", rich_help_panel=PANEL)(run)
    app.command("plan", rich_help_panel=PANEL)(plan)
    app.command("status", rich_help_panel=PANEL)(status)
    app.command("rejects", rich_help_panel=PANEL)(rejects)
    app.command("retry", rich_help_panel=PANEL)(retry)


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
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON for machines, progress to stderr.")
    ] = False,
) -> None:
    """Run a recipe: take every pending shard through its stages. What is committed already is not done again, so a run that was
    stopped goes on when it is called again.

    Exit status: 0 all shards are whole, 1 some are not (they are named), 2 a mistake in the call, 130 Ctrl-C, SIGTERM
    or SIGHUP.

    Examples:
        fineloom run demo
        fineloom run lit_cn --shards 0-3
        fineloom run lit_cn --limit 500 --max-gpu-hours 2
        fineloom run demo select.keep="width >= 256"
    """
    from pipelines.progress import Progress
    from pipelines.run import Options, execute

    options = Options(_range(shards), limit, max_output_tokens, max_gpu_hours, prompts, address, cpus, metrics)
    loaded = load_recipe(recipe, overrides or [])
    result = execute(loaded, root, options, Progress(errors if as_json else console))
    if as_json:
        print_json(_summary(result))
    elif result.nothing_to_do:
        say(f"everything is done: {counted(result.shards, 'shard')} in {result.run}")
    else:
        say(f"{result.whole:,} of {counted(result.shards, 'shard')} whole after {result.seconds:,.0f} s · {result.run}")
    for failure in result.failures:
        warn(f"failed: shard {failure.shard}, stage {failure.stage}: {failure.error}")
        if failure.trace:
            warn("        " + failure.trace.strip().replace("\n", "\n        "))
    if result.stopped:
        warn(f"stopped: {result.stopped}")
    if not result.ok:
        raise typer.Exit(1)


def _summary(result: Any) -> dict[str, Any]:
    from dataclasses import asdict

    about = asdict(result)
    about["run"] = str(result.run)
    about["stages"] = {
        name: {
            key: dict(value) if isinstance(value, dict) else value
            for key, value in count.items()
            if key not in ("live", "active")
        }
        for name, count in result.stages.items()
    }
    return {"ok": result.ok, **about}


def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    root: Root = ROOT,
    shards: Annotated[str | None, typer.Option(help="Only these shards, for example 0-3.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="About this many samples, in whole shards.")] = None,
    tokens_per_second: Annotated[
        float | None, typer.Option(help="Output tokens per second of the server; measured by default.")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(min=0, help="GPUs behind the server, for the bill; by default model.gpus of the recipe.")
    ] = None,
    price: Annotated[
        list[str] | None, typer.Option(help="Of gpu_hour, gb_month or egress_gb, as in --price gpu_hour=2.5; may be repeated.")
    ] = None,
    prompts: Prompts = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run would do and cost: what is done, what would run, model calls, tokens, hours, storage. Changes nothing.

    Examples:
        fineloom plan lit_cn
        fineloom plan lit_cn --gpus 8 --price gpu_hour=2.5 --price egress_gb=0.05
        fineloom plan lit_cn select.keep="width >= 512" --json
    """
    from dataclasses import asdict

    from pipelines.needs import missing_here
    from pipelines.plan import make_plan
    from pipelines.run import Options, chosen_shards, prepare, warnings

    if tokens_per_second is not None and not 0 < tokens_per_second < math.inf:
        raise ConfigError(f"--tokens-per-second {tokens_per_second:g}: expected a number above 0")
    loaded = load_recipe(recipe, overrides or [])
    options = Options(shards=_range(shards), limit=limit, prompts=prompts)
    chain = prepare(loaded, root, options)
    for word in warnings(chain):
        warn(f"warning: {word}")
    prices = _prices(price or [])
    made = make_plan(chain, chosen_shards(chain, options), tokens_per_second=tokens_per_second, gpus=gpus, prices=prices)
    for word in missing_here([loaded.stage(stage.name) for stage in made.stages if stage.shards_to_do]):
        warn(f"warning: a run on this machine stops at once: {word}")
    if as_json:
        print_json(asdict(made))
        return
    rows = []
    for stage in made.stages:
        about = "" if stage.exact else "≈ "
        model = stage.kind == "model"
        rows.append(
            (
                stage.name,
                f"{stage.shards_done:,}",
                f"{stage.shards_to_do:,}",
                f"{stage.samples:,.0f}",
                f"{about}{stage.calls:,.0f}" if model else "",
                f"{about}{stage.output_tokens:,.0f}" if model else "",
                _hours(stage.seconds) if stage.seconds else "",
            )
        )
    names = ("done", "to do", "samples", "calls", "tokens out", "time")
    print_table({"stage": "left", **dict.fromkeys(names, "right")}, rows)
    if made.sampled is not None:
        say(f"only {counted(made.sampled, 'shard')} gone through, the rest taken in proportion")
    say(f"{counted(made.shards, 'shard')} · about {made.hours:.2f} h · {made.gpu_hours:.2f} GPU-hours")
    say(f"{made.storage_gb:,.2f} GB more to store · {made.egress_gb:,.2f} GB of pictures to read from there")
    if made.unmeasured:
        missing = ", ".join(made.unmeasured)
        say(f"nothing is measured yet of {missing}: their time and bytes are missing above; a pilot (run --limit) tells")
    if made.cost:
        parts = " + ".join(f"{amount:,.2f} ({name})" for name, amount in made.cost.items())
        say(f"cost {sum(made.cost.values()):,.2f} = {parts}")


def status(
    recipe: RecipeName, overrides: Overrides = None, root: Root = ROOT, prompts: Prompts = None, as_json: AsJson = False
) -> None:
    """Show how far a run has come, stage by stage, from any machine that sees the root.

    Examples:
        fineloom status demo
        fineloom status lit_cn --root s3://team/runs --json
    """
    from pipelines.run import look, reach

    loaded = load_recipe(recipe, overrides or [])
    chain = look(loaded, root, prompts)
    shards = chain.shards()
    rows = reach(chain, shards).counts()
    if as_json:
        print_json({"shards": len(shards), "stages": rows})
        return
    print_table(
        {"stage": "left", "shards": "right", "samples": "right"},
        ((stage, f"{row['shards']:,} / {len(shards):,}", f"{row['samples']:,}") for stage, row in rows.items()),
    )


def rejects(
    recipe: RecipeName,
    overrides: Overrides = None,
    root: Root = ROOT,
    stage: Annotated[str | None, typer.Option(help="Only refusals of this stage.")] = None,
    reason: Annotated[str | None, typer.Option(help="List the refusals for this reason, as JSON lines.")] = None,
    requeue: Annotated[
        str | None, typer.Option(metavar="REASON", help="Put the samples refused for this reason back, in new shards.")
    ] = None,
    prompts: Prompts = None,
    as_json: AsJson = False,
) -> None:
    """Count refusals by stage and reason, list them, or put the refused samples back for the next run.

    Examples:
        fineloom rejects demo
        fineloom rejects demo --stage select --reason not_selected
        fineloom rejects demo --requeue timeout
    """
    from pipelines import rejects as refusals
    from pipelines.run import lock, look

    loaded = load_recipe(recipe, overrides or [])
    if stage is not None:
        loaded.stage(stage)
    chain = look(loaded, root, prompts)
    if requeue is not None:
        with lock(chain.run):
            table = refusals.requeue(chain, requeue, stage)
        again = f"the samples refused for {requeue} were put back before; run the recipe to take them up"
        _put_back(table, again, recipe, root, as_json)
        return
    if reason is not None:
        import json

        row = None
        for row in refusals.listed(chain, stage, reason):
            print(json.dumps(row, ensure_ascii=False))
        if row is None:
            there = {
                why
                for name, kinds in refusals.count(chain).items()
                if stage in (None, name)
                for n in kinds.values()
                for why in n
            }
            warn(f"nothing was refused for {reason!r}.{nearest(reason, sorted(there))}")
        return
    counts = {name: row for name, row in refusals.count(chain).items() if stage in (None, name)}
    waiting = refusals.waiting(chain)
    if as_json:
        print_json(counts)
    else:
        rows = []
        for name, row in counts.items():
            whole, parts = row["samples"], row["parts"]
            for why in sorted({*whole, *parts}, key=lambda w: (-whole[w] - parts[w], w)):
                rows.append((name, why, *(f"{n[why]:,}" if n[why] else "" for n in (whole, parts))))
        if rows:
            print_table({"stage": "left", "reason": "left", "samples": "right", "parts": "right"}, rows)
        else:
            say("no refusals")
    for name, shards in waiting.items():
        warn(
            f"{counted(shards, 'shard')} not through {name} with these settings: what a run was given as KEY=VALUE, give here too"
        )


def retry(
    recipe: RecipeName, overrides: Overrides = None, root: Root = ROOT, prompts: Prompts = None, as_json: AsJson = False
) -> None:
    """Put back what could not be fetched for a reason that may pass (time-outs, 5xx, a host that was down), in new shards.

    Examples:
        fineloom retry lit_cn
    """
    from pipelines import rejects as refusals
    from pipelines.run import lock, look

    chain = look(load_recipe(recipe, overrides or []), root, prompts)
    with lock(chain.run):
        table = refusals.retry(chain)
    nothing = "nothing to fetch again: no refusal of the download is of a kind that may pass, or all were put back before"
    _put_back(table, nothing, recipe, root, as_json)


def _put_back(table: Any, nothing: str, recipe: str, root: Any, as_json: bool) -> None:
    if as_json:
        print_json({"samples": table.rows if table else 0, "shards": table.shards if table else 0})
    elif table is None:
        say(nothing)
    else:
        again = shlex.join(["fineloom", "run", recipe, "--root", str(root)])
        say(f"{counted(table.rows, 'sample')} put back in {counted(table.shards, 'new shard')}; run `{again}`")


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
        if name not in PRICES or not 0 <= found[name] < math.inf:
            raise ConfigError(f"--price {text}: expected one of {', '.join(PRICES)}, as in {PRICES[0]}=2.5")
    return found


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
