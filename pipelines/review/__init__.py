"""`fineloom review`: pages on which several people judge what a run is not sure of.

book.py      items, people and verdicts
database.py  where they lie: an SQLite file
postgres.py  or a PostgreSQL database
items.py     what of a run is asked about
filler.py    keeps the book filled while the run goes on
app.py       addresses, who is there, refusals
limits.py    how often one may ask

Verdicts reach the next run through the review file (`fineloom review import BOOK --out reviews.jsonl`, operators/reviewed.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.config import ConfigError
from pipelines.review.book import Book
from pipelines.review.database import BookError, database_of, is_address
from pipelines.stores import Place, place
from pipelines.viewer import is_loopback, listen, runs_in
from pipelines.viewer.snapshot import Run

PORT = 8766
BOOK = "review.sqlite"


def book_of(folder: Path, given: str | None) -> Path | str:
    """Where the book of a run lies: a file, or the address of a database. ConfigError where it must be said."""
    if given is not None:
        if "://" in given and not is_address(given):
            scheme = given.partition("://")[0]
            raise ConfigError(
                f"--book {scheme}://…: a book is a file on this machine's disk, or at postgresql://user@host/database"
            )
        return given if is_address(given) else Path(given)
    if isinstance(folder, Place):
        raise ConfigError(
            f"{folder} is on a store, where no database can lie: give a file on this machine's disk, or postgresql://…, with --book"
        )
    return folder / BOOK


def open_book(where: Path | str, run: str, double: float | None = None) -> Book:
    try:
        return Book(where, run, double)
    except BookError as error:
        raise ConfigError(str(error)) from error


def is_begun(where: Path | str) -> bool:
    """Whether a book is there; ConfigError where nobody can say."""
    try:
        return database_of(where).exists()
    except BookError as error:
        raise ConfigError(str(error)) from error


def run_of(root: Path, recipe: str, overrides: Sequence[str], prompts: Path | None) -> Run:
    """The run of a recipe below the root, or ConfigError."""
    from pipelines.config import load_recipe

    loaded = load_recipe(recipe, list(overrides))
    (run,) = runs_in(place(root) / loaded.name, recipe, overrides, prompts).values()
    return run


def serve(
    run: Run,
    book: Book,
    reviewers: Sequence[str],
    stages: Sequence[str],
    doubtful: str | None,
    host: str,
    port: int,
    outside: str | None,
    say: Callable[[str], None],
) -> None:
    """Until Ctrl-C. outside: the address under which people reach the pages, where a proxy stands before them."""
    import uvicorn

    from pipelines.review.app import make_app, name_fault
    from pipelines.review.filler import Filler
    from pipelines.review.items import asked_of
    from pipelines.viewer.snapshot import NotThere

    for name in reviewers:
        if fault := name_fault(name):
            raise ConfigError(f"--reviewer: {fault}")
    try:
        snapshot = run.snapshot()
    except NotThere as error:
        raise ConfigError(str(error)) from error
    asked = asked_of(snapshot.recipe, list(stages), doubtful)
    bound = listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    here = f"http://{shown}:{bound.getsockname()[1]}"
    address = (outside or here).rstrip("/")
    hosts = {host, "localhost", "127.0.0.1", "::1"} if is_loopback(host) else set()
    if outside:
        outer = urlsplit(outside).hostname
        if outer is None or urlsplit(outside).scheme not in ("http", "https"):
            bound.close()
            raise ConfigError(f"--address {outside}: expected something like https://review.example.org")
        hosts.add(outer)
    filler = Filler(run, book, asked, say)
    app = make_app(
        run,
        book,
        filler,
        hosts or None,
        None if not hosts else _origins(hosts, bound.getsockname()[1], outside),
        address.startswith("https"),
    )
    say(f"review of {run.name} · {', '.join(a.stage.name + ' (' + a.kind + ')' for a in asked)} · book {book.at.name}")
    for name in reviewers:
        say(f"{name}: {address}/enter/{book.invite(name)}")
    known = [name for name in book.names() if name not in reviewers]
    if known:
        say(f"links given before still work: {', '.join(known)}")
    if not reviewers and not known:
        say(f"nobody is invited yet: fineloom review invite {run.name} NAME")
    if not is_loopback(host) and not address.startswith("https"):
        say("beyond this machine links and texts travel unencrypted: put a proxy with HTTPS before it and give its --address")
    say(f"{here}/ · Ctrl-C ends it; every verdict is stored at once")
    filler.start()
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, limit_concurrency=200)
    try:
        uvicorn.Server(config).run(sockets=[bound])
    except KeyboardInterrupt:
        pass
    finally:
        filler.stop()
        bound.close()
        book.close()


def _origins(hosts: set[str], port: int, outside: str | None) -> set[str]:
    found = {f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}" for host in hosts}
    if outside:
        parts = urlsplit(outside)
        found.add(f"{parts.scheme}://{parts.netloc}")
    return found
