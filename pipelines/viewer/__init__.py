"""`fineloom view`: a run of any size in the browser, read only.

snapshot.py   the run as the ledger tells it, and samples at given places
beside.py     two runs over the same samples
find.py       filter, search, sort and draw, shard by shard
record.py     what is shown of a sample
pictures.py   bounded thumbnails
pages.py      templates, in which every text of strangers is escaped
app.py        addresses, headers, refusals
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from pipelines.config import ConfigError
from pipelines.stores import place
from pipelines.viewer.snapshot import NotThere, Run

PORT = 8765


def runs_in(root: Path, recipe: str | None, overrides: Sequence[str] | None, prompts: Path | None) -> dict[str, Run]:
    """The runs below a root, or the one whose folder `root` is, by name. ConfigError where there is none."""
    root = place(root)
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder. Give the folder that holds the runs, as in `fineloom view runs`")
    folders = [root] if _is_run(root) else [folder for folder in sorted(root.iterdir()) if _is_run(folder)]
    if not folders:
        raise ConfigError(f"{root}: no run is here (a run's folder has `tables` and `ledger` in it)")
    if len(folders) > 1 and (recipe is not None or overrides):
        names = ", ".join(folder.name for folder in folders)
        raise ConfigError(f"{root} holds several runs ({names}): with --recipe or settings, give the folder of one")
    return {folder.name: Run(folder, recipe, overrides or None, prompts) for folder in folders}


def with_others(runs: dict[str, Run], others: dict[str, Run]) -> dict[str, Run]:
    """Both; of two with one name the second is named after its root too."""
    found = dict(runs)
    for name, run in others.items():
        number, label = 2, name
        while label in found:
            label, number = f"{name}-{run.folder.parent.name}" if number == 2 else f"{name}-{number}", number + 1
        run.label, found[label] = label, run
    return found


def _is_run(folder: Path) -> bool:
    return (folder / "ledger").is_dir() or (folder / "tables" / "0000.json").is_file()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. ConfigError for a port in use or an address that is not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"cannot listen at {host}: {error.strerror or error}") from None
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
        bound.listen(256)  # from here on visitors wait instead of being refused
    except (OSError, OverflowError) as error:
        bound.close()
        number = getattr(error, "errno", None)
        why = {
            errno.EADDRINUSE: f"port {port} is in use: choose another with --port (0 takes any free one)",
            errno.EACCES: f"port {port} needs rights that you do not have: choose one above 1023 with --port",
        }.get(number or 0, f"cannot listen at {host}:{port}: {error}")
        raise ConfigError(why) from None
    return bound


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(runs: dict[str, Run], host: str, port: int, say: Callable[[str], None]) -> None:
    """Until Ctrl-C."""
    import uvicorn

    from pipelines.viewer.app import make_app

    bound = listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    for run in runs.values():
        with suppress(NotThere):  # the page says it
            run.snapshot()  # read before the address is told, so that the first visitor need not wait
    say(f"looking at {', '.join(runs)} · http://{shown}:{bound.getsockname()[1]}/ · Ctrl-C ends it")
    if not is_loopback(host):
        say("anyone who reaches this address sees the run: there is no login")
    app = make_app(runs, hosts=None if not is_loopback(host) else {host, "localhost", "127.0.0.1", "::1"})
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, limit_concurrency=200)
    try:
        uvicorn.Server(config).run(sockets=[bound])
    except KeyboardInterrupt:
        pass
    finally:
        bound.close()
