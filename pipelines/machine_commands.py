"""Commands around the machine and what lies on it: serve, doctor, gc, compact, takedown."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from pipelines.config import ConfigError, load_recipe
from pipelines.counted import counted
from pipelines.help_page import App
from pipelines.stores import place
from pipelines.terminal import (
    ROOT,
    AsJson,
    Overrides,
    Prompts,
    RecipeName,
    Root,
    complete_recipe,
    console,
    print_json,
    say,
    warn,
)

PANEL = "Machine"


COMPLETE_VARIABLE = "_FINELOOM_COMPLETE"
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def add_to(app: App) -> None:
    app.command("doctor", rich_help_panel=PANEL)(doctor)
    app.add_typer(serve, name="serve", rich_help_panel=PANEL)
    app.command("gc", rich_help_panel=PANEL)(gc)
    app.command("verify", rich_help_panel=PANEL)(verify)
    app.command("compact", rich_help_panel=PANEL)(compact_)
    app.command("completion", rich_help_panel=PANEL)(completion)


def doctor(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="[RECIPE]", help="What this recipe needs is then a must.", autocompletion=complete_recipe),
    ] = None,
    overrides: Overrides = None,
    root: Root = ROOT,
    server: Annotated[str | None, typer.Option(help="Address of the model server; by default the recipe's.")] = None,
    ray: Annotated[bool, typer.Option(help="Start a Ray for a moment too.")] = True,
    as_json: AsJson = False,
) -> None:
    """Look at this machine: Python, GPU, memory, disk, rights in the root, language models, model server, Ray; of a recipe its tables
    and what each stage loads (weights, tokenizers, files); and what to do.

    The root is tried with a small probe that is removed again. Exit status: 0 a run can start, 1 something is missing.

    Examples:
        fineloom doctor
        fineloom doctor lit_cn --root s3://team/runs --server http://gpu1:8000/v1
        fineloom doctor --no-ray --json
    """
    from dataclasses import asdict

    from pipelines.doctor import examine

    loaded = load_recipe(recipe, overrides or []) if recipe else None
    checks = []
    width = max(
        len(name) for name in ["model server", *(f"stages.{stage.name}" for stage in (loaded.stages if loaded else []))]
    )
    for check in examine(root, loaded, server, ray):
        checks.append(check)
        if not as_json:
            console.print(
                Text.assemble((f"{check.state:<4}", STYLES[check.state]), f"  {check.name:<{width}} ", check.found),
                soft_wrap=True,
            )
            if check.do:
                console.print(Text(f"      → {check.do}"), soft_wrap=True)
    failed = sum(check.state == "fail" for check in checks)
    if as_json:
        print_json({"ok": not failed, "checks": [asdict(check) for check in checks]})
    elif failed:
        say(f"{failed} of {len(checks)} must be mended before a run")
    else:
        say("a run can start")
    if failed:
        raise typer.Exit(1)


def gc(
    recipe: RecipeName,
    overrides: Overrides = None,
    root: Root = ROOT,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove files that no ledger entry names: leftovers of attempts that were killed or lost a race.

    Examples:
        fineloom gc demo --dry-run
        fineloom gc demo
    """
    from pipelines.gc import collect
    from pipelines.run import lock

    folder = _run_of(recipe, overrides, root)
    with lock(folder):
        files, size = collect(folder, delete=not dry_run)
    if as_json:
        print_json({"files": files, "bytes": size, "removed": not dry_run})
    else:
        say(f"{counted(files, 'file')}, {size / 1e6:.1f} MB {'would go' if dry_run else 'removed'}")


def verify(
    recipe: RecipeName,
    overrides: Overrides = None,
    root: Root = ROOT,
    again: Annotated[bool, typer.Option("--again", help="Let the next run make again what is damaged.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read every file that was committed and compare it with its checksum: what a disk lost, or somebody removed or changed, is named.

    With --again the entries that name such files are taken out of the ledger, so that the next run does those stages of those shards
    once more, and what follows only where it comes out another. A picture is then downloaded again, if it is still there.
    Exit status: 0 all is as it was committed, or will be made again; 1 something is damaged.

    Examples:
        fineloom verify lit_cn
        fineloom verify lit_cn --again && fineloom run lit_cn
    """
    from dataclasses import asdict

    from pipelines.run import lock
    from pipelines.verify import Looked, damages, make_again

    folder, looked = _run_of(recipe, overrides, root), Looked()
    told = time.monotonic()

    def tell(now: Looked) -> None:
        nonlocal told
        if time.monotonic() - told > 10:
            told = time.monotonic()
            warn(f"{counted(now.files, 'file')}, {now.bytes / 1e9:,.1f} GB")

    with lock(folder, warn) if again else nullcontext():
        found = []
        for damage in damages(folder, looked, tell):
            found.append(damage)
            if not as_json:
                say(f"{folder / damage.file} {damage.found}")
        if again:
            make_again(folder, found)
    if as_json:
        print_json({**asdict(looked), "damaged": [{"file": damage.file, "found": damage.found} for damage in found]})
    else:
        how = " · will be made again by the next run" if again else " · --again lets the next run make them again"
        say(f"{counted(looked.files, 'file')}, {looked.bytes / 1e6:,.1f} MB · {len(found):,} damaged{how if found else ''}")
    if found and not again:
        raise typer.Exit(1)


def compact_(recipe: RecipeName, overrides: Overrides = None, root: Root = ROOT, as_json: AsJson = False) -> None:
    """Write the ledger's many small entries as few large files, so that planning and status stay quick; a run does it by itself.

    Nothing changes for readers and writers, and it may run beside a run.

    Examples:
        fineloom compact lit_cn
    """
    from pipelines.compact import compact
    from pipelines.ledger import Ledger

    folder = _run_of(recipe, overrides, root)
    done = compact(Ledger(folder), warn if as_json else say)
    if as_json:
        print_json({"entries": done.taken, "files": done.segments})
    else:
        say(f"{counted(done.taken, 'entry', 'entries')} compacted, in {counted(done.segments, 'file')} now")


def _run_of(recipe: str, overrides: list[str] | None, root: Path) -> Path:
    """The folder of a run that has begun."""
    name = load_recipe(recipe, overrides or []).name
    folder = place(root) / name
    if not (folder / "tables").is_dir():
        raise ConfigError(f"{folder}: no run of recipe {name} is here")
    return folder


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="bash, zsh or fish.")],
    install: Annotated[bool, typer.Option("--install", help="Put it into the shell's own start-up files.")] = False,
) -> None:
    """Print what makes a shell complete commands, options and recipes with the Tab key, or install it.

    Examples:
        fineloom completion bash --install
        fineloom completion zsh > ~/.zfunc/_fineloom
        fineloom completion fish > ~/.config/fish/completions/fineloom.fish
    """
    from typer import completion as typers

    if install:
        _, path = typers.install(shell=shell, prog_name="fineloom", complete_var=COMPLETE_VARIABLE)
        say(f"installed: {path}; a new {shell} has it")
    else:
        print(typers.get_completion_script(prog_name="fineloom", complete_var=COMPLETE_VARIABLE, shell=shell))


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
    """Remove samples from tables, pictures, answers and shards, for ever, and keep a receipt of what was removed where. Addresses and
    SHA-256 sums are refused from now on, also where no sample has them yet.

    Exit status: 0 all is removed, 1 a run is at work: it takes in no more of them; give the command again when it has ended. Or
    files that the ledger names are gone, and with them the knowledge of what they held.

    Examples:
        fineloom takedown lit_cn --url https://example.org/me.jpg --why "asked by the photographer"
        fineloom takedown lit_cn --list requests.txt --json
    """
    from dataclasses import asdict

    from pipelines.run import RunBusy, lock, look
    from pipelines.takedown import sort_out, take_down

    try:
        listed = file.read_text(encoding="utf-8-sig").split("\n") if file else []
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 text: {error}") from None
    uids, urls, hashes = sort_out([*(uid or []), *(url or []), *(sha256 or []), *listed])
    if not (uids or urls or hashes):
        raise ConfigError("takedown: say what is to go, with --uid, --url, --sha256 or --list")
    chain = look(load_recipe(recipe, overrides or []), root, prompts)
    try:
        with lock(chain.run):
            receipt = take_down(chain, uids, urls, hashes, why)
    except RunBusy as busy:
        receipt = take_down(chain, uids, urls, hashes, why, remove=False)
        warn(f"{busy}; then give this command again")
    if as_json:
        print_json(asdict(receipt))
    else:
        _tell_takedown(receipt, f"{chain.run}/tombstones/{receipt.number:04d}")
    if not receipt.ended or receipt.unread:
        raise typer.Exit(1)


def _tell_takedown(receipt: Any, at: str) -> None:
    for what in receipt.unknown:
        warn(f"not here: {what}")
    for what in receipt.unread:
        warn(f"gone, so that nobody knows whether it held one of the samples: {what}")
    for what in receipt.to_come:
        say(f"no sample has it yet, and none will: {what}")
    if not receipt.ended:
        say(
            f"no more shown or packed: {counted(receipt.samples, 'sample')}, and what is asked for is not taken in from now on "
            f"({at}.json). Nothing is removed yet of what the run has committed"
        )
        return
    say(
        f"{counted(receipt.samples, 'sample')} taken down; {counted(len(receipt.files), 'file')} changed, {len(receipt.gone)} removed, "
        f"{counted(len(receipt.packed_again), 'shard')} packed again · receipt: {at}.receipt.json"
    )
    if receipt.others:
        say(
            "shards/ was made with other settings than these, or by another version: only tars that held one of the samples are gone "
            f"from it. `fineloom run` with the settings that you want packs {counted(len(receipt.waiting), 'shard')} again"
        )
    elif receipt.waiting:
        say(f"the next run packs {counted(len(receipt.waiting), 'shard')} again")
    if receipt.outside:
        say("your own tables, exports and trained models still hold them: the receipt names the tables")
    if receipt.review:
        say(receipt.review)


serve = App(
    help="""Start, look at or stop a vLLM server on this machine.

    Examples:
        fineloom serve start Qwen/Qwen2.5-VL-7B-Instruct --name qwen2.5-vl
        fineloom serve status
    """
)
Model = Annotated[str, typer.Argument(help="Folder of the model, or its name on the hub.")]
Name = Annotated[str, typer.Option(help="Name under which it is served: `model.name` of a recipe.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any free one.")]


@serve.command("start")
def serve_start(
    model: Model,
    name: Name = "model",
    port: Port = 8000,
    option: Annotated[
        list[str] | None, typer.Option(help="A further option of vLLM, as in --option=--tensor-parallel-size=2")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start vLLM, or adopt the server that runs with the same settings; returns when it answers.

    Examples:
        fineloom serve start Qwen/Qwen2.5-VL-7B-Instruct --name qwen2.5-vl
        fineloom serve start /models/qwen2.5-vl-32b-awq --name qwen2.5-vl --option=--tensor-parallel-size=2
    """
    import shutil
    from dataclasses import asdict

    from pipelines.serve import ServeSettings, start

    device: Literal["cpu", "cuda"] = "cuda" if shutil.which("nvidia-smi") else "cpu"
    settings = ServeSettings(model=model, name=name, port=port, device=device, options=tuple(option or ()))
    server = start(settings, warn if as_json else say)
    if as_json:
        print_json(asdict(server))


@serve.command("status")
def serve_status(as_json: AsJson = False) -> None:
    """Say whether a server runs here, which model it serves and where its log is.

    Examples:
        fineloom serve status --json
    """
    from pipelines.serve import ServeSettings, status

    found = status(ServeSettings(model="", name=""))
    if as_json:
        print_json(found)
    else:
        for key, value in found.items():
            say(f"{key:<10} {value}")


@serve.command("stop")
def serve_stop() -> None:
    """Stop the server that `serve start` started here, and nothing else.

    Examples:
        fineloom serve stop
    """
    from pipelines.serve import ServeSettings, stop

    stop(ServeSettings(model="", name=""), say)
