"""`fineloom review serve`, `invite` and `status`: people at work on what a run is not sure of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.config import ConfigError, load_recipe
from pipelines.help_page import App
from pipelines.stores import place
from pipelines.terminal import ROOT, AsJson, Overrides, Prompts, RecipeName, Root, print_json, say

if TYPE_CHECKING:
    from pipelines.review.book import Book

BookFile = Annotated[
    str | None,
    typer.Option(
        "--book",
        metavar="PATH|ADDRESS",
        help="SQLite file of the review, by default review.sqlite in the run's folder; or postgresql://user@host/database.",
    ),
]


def add_to(review: App) -> None:
    for name, command in (("serve", serve_command), ("invite", invite_command), ("status", status_command)):
        review.command(name)(command)


def serve_command(
    recipe: RecipeName,
    overrides: Overrides = None,
    reviewer: Annotated[
        list[str] | None,
        typer.Option(help="Somebody to invite: a new personal link is printed, an older one ends. Repeatable."),
    ] = None,
    double: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of items that two people judge, for agreement; 1 for all.")
    ] = None,
    stage: Annotated[
        list[str] | None, typer.Option(help="Stage whose work to ask about; by default what the recipe reviews. Repeatable.")
    ] = None,
    doubtful: Annotated[str | None, typer.Option(help="What is asked about, an expression; refused texts always are.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any free one.")] = 8766,
    address: Annotated[
        str | None, typer.Option(help="Address under which people reach the pages, where a proxy stands before them.")
    ] = None,
    book: BookFile = None,
    root: Root = ROOT,
    prompts: Prompts = None,
) -> None:
    """Open the pages on which people judge doubtful translations, captions and negatives: accept, correct or refuse, by keyboard.

    Each reviewer has a personal link; no item is shown to two of them unless --double says so. A verdict is on the disk
    before the next item is shown, and reaches the next run through `fineloom review import`.

    Examples:
        fineloom review serve dci_cn --reviewer Li --reviewer Wang --double 0.2
        fineloom review serve finehard --stage verify --doubtful "doubtful > 0"
        fineloom review serve dci_cn --book postgresql://review@db.example.org/review
    """
    from pipelines.review import book_of, open_book, run_of, serve

    run = run_of(root, recipe, overrides or [], prompts)
    opened = open_book(book_of(run.folder, book), run.name, double)
    serve(run, opened, reviewer or [], stage or [], doubtful, host, port, address, say)


def invite_command(
    recipe: RecipeName,
    name: Annotated[str, typer.Argument(help="Name under which verdicts are kept.")],
    revoke: Annotated[bool, typer.Option("--revoke", help="End the reviewer's link and sessions; verdicts stay.")] = False,
    address: Annotated[str, typer.Option(help="Address of the pages, for the link.")] = "http://127.0.0.1:8766",
    book: BookFile = None,
    root: Root = ROOT,
) -> None:
    """Print a new personal link for a reviewer, also while the pages are open. An older link of theirs ends.

    Examples:
        fineloom review invite dci_cn Li
        fineloom review invite dci_cn Li --revoke
    """
    from pipelines.review.app import name_fault

    if fault := name_fault(name):
        raise ConfigError(fault)
    with _book(recipe, root, book, begin=not revoke) as opened:
        if not revoke:
            say(f"{name}: {address.rstrip('/')}/enter/{opened.invite(name)}")
        elif opened.revoke(name):
            say(f"{name}'s link and sessions have ended; verdicts are kept")
        else:
            raise ConfigError(f"no reviewer {name}; there are: {', '.join(opened.names()) or 'none'}")


def status_command(recipe: RecipeName, book: BookFile = None, root: Root = ROOT, as_json: AsJson = False) -> None:
    """Say how many items are judged, by whom, and how far people agree (Cohen's kappa).

    Examples:
        fineloom review status dci_cn
    """
    from pipelines.review.app import reviews_of
    from pipelines.review_file import agreement

    with _book(recipe, root, book) as opened:
        told, kappas = opened.progress(), agreement(reviews_of(opened))
    if as_json:
        pairs = [dict(zip(("first", "second", "kappa", "both"), row, strict=True)) for row in kappas]
        print_json({**told, "agreement": pairs})
        return
    for stage, row in told["stages"].items():
        say(f"{stage}: {row['done']:,} of {row['items']:,} judged, {row['double']:,} meant for two people")
    for name, row in told["reviewers"].items():
        say(f"{name}: accept {row['accept']:,}, correct {row['correct']:,}, reject {row['reject']:,}")
    for first, second, kappa, both in kappas:
        shown = "not defined: both gave one and the same verdict throughout" if kappa is None else f"{kappa:.2f}"
        say(f"Cohen's κ of {first} and {second}: {shown} ({both:,} judged by both)")


@contextmanager
def _book(recipe: str, root: Path, given: str | None, begin: bool = False) -> Iterator[Book]:
    from pipelines.review import book_of, is_begun, open_book
    from pipelines.review.database import BookError

    name = load_recipe(recipe, []).name
    folder = place(root) / name
    where = book_of(folder, given)
    if not is_begun(where) and not (begin and (folder / "tables").is_dir()):
        at = f" --book {where}" if given else ""
        raise ConfigError(f"{where}: no review was begun; `fineloom review serve {recipe}{at}` begins one")
    opened = open_book(where, name)
    try:
        yield opened
    except BookError as error:
        raise ConfigError(str(error)) from error
    finally:
        opened.close()
