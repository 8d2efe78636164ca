"""In every forked worker and driver: count the steps that make something durable, and do at chosen ones what a schedule says.

A step is a call of `fsync`, `link`, `rename` or `unlink` on a file of the run, or a request to its object store. Steps are counted
over all processes of a schedule, in the folder that FINELOOM_CHAOS names:

    control.json   {"run": folder or bucket/prefix, "arms": [{"step": 120, "do": "kill", …}], "full": false, "floor": false}
    steps          how many there were
    done.jsonl     what was done: one line each

What can be done at a step:

    kill        SIGKILL of this very process, before the step
    tear        the step's file is cut at a random place, or overwritten with noise, and the process killed: power was lost
    full        from here on every step fails as on a full disk, for `seconds`, in all processes
    late        the process dies before it publishes a commit; a copy of it does so later, when `release` appears
    twice       the commit is published again, and once more from other files under another attempt's name
"""

from __future__ import annotations

import errno
import faulthandler
import fcntl
import functools
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTROL = "FINELOOM_CHAOS"
FLUSH = 2
"""Answers that make a segment: with 64 no shard of these recipes would ever flush one before its end."""
STACKS = signal.SIGUSR2
"""Asks a process for where its threads are: it says so at the end of the file `stacks`."""
PUBLISH = ("late", "twice")
"""Done at the publication of a commit: the first one at or after the step."""


def install() -> None:
    folder = os.environ.get(CONTROL)
    if not folder:
        return
    for name in ("fsync", "link", "replace", "unlink"):
        setattr(os, name, _tapped(getattr(os, name), name, Path(folder)))
    shutil.disk_usage = _disk_usage(shutil.disk_usage, Path(folder))
    faulthandler.register(STACKS, os.open(Path(folder).parent / "stacks", os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    import botocore.client

    from pipelines import answers
    from pipelines.ledger import Ledger

    answers.BATCH = FLUSH

    botocore.client.BaseClient._make_api_call = _api(botocore.client.BaseClient._make_api_call, Path(folder))
    Ledger.publish = _publish(Ledger.publish, Path(folder))  # type: ignore[method-assign]


def control(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / "control.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def steps(folder: Path) -> int:
    try:
        return int((folder / "steps").read_bytes() or b"0")
    except (FileNotFoundError, ValueError):
        return 0


def _count(folder: Path) -> int:
    fd = os.open(folder / "steps", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        count = int(os.pread(fd, 20, 0) or b"0") + 1
        os.pwrite(fd, b"%d" % count, 0)
        return count
    finally:
        os.close(fd)


def _take(folder: Path, number: int) -> bool:
    """Whether this process is the one that does arm `number`."""
    try:
        os.close(os.open(folder / f"arm-{number}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def note(folder: Path, **what: Any) -> None:
    fd = os.open(folder / "done.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, json.dumps({**what, "pid": os.getpid()}).encode() + b"\n")
    os.close(fd)


def _tapped(real: Callable[..., Any], name: str, folder: Path) -> Callable[..., Any]:
    @functools.wraps(real)
    def tap(first: Any, *rest: Any, **options: Any) -> Any:
        plan = control(folder)
        if plan is not None:
            path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else os.fspath(first)
            if str(path).startswith(plan["run"]):
                _step(folder, plan, name, str(path))
        return real(first, *rest, **options)

    return tap


def _api(real: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    @functools.wraps(real)
    def tap(self: Any, operation: str, arguments: dict[str, Any]) -> Any:
        plan = control(folder)
        if plan is not None and plan["run"].startswith(f"{arguments.get('Bucket')}/"):
            _step(folder, plan, operation, str(arguments.get("Key", "")))
        return real(self, operation, arguments)

    return tap


def _disk_usage(real: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    def usage(path: Any) -> Any:
        plan, found = control(folder), real(path)
        return found._replace(free=0) if plan is not None and plan.get("floor") else found

    return usage


def _step(folder: Path, plan: dict[str, Any], name: str, path: str) -> None:
    count = _count(folder)
    for number, arm in enumerate(plan["arms"]):
        if arm["do"] in PUBLISH or count < arm["step"]:
            continue
        if arm["do"] == "full":
            _full(folder, number, arm, name, path)
        elif _tear_fits(arm, name, path) and _take(folder, number):
            note(folder, do=arm["do"], step=count, at=f"{name} {path}")
            if arm["do"] == "tear":
                _tear(Path(path), random.Random(arm["step"]))
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)


def _tear_fits(arm: dict[str, Any], name: str, path: str) -> bool:
    """Only what is not published yet can be torn: a file at its fsync, or a scratch file at the link that would publish it. What the
    handed-over tars are links to is committed."""
    return arm["do"] != "tear" or (os.path.isfile(path) and (name == "fsync" or (name == "link" and path.endswith(".tmp"))))


def _tear(path: Path, rng: random.Random) -> None:
    size = path.stat().st_size
    if rng.random() < 0.5:
        os.truncate(path, rng.randrange(size) if size else 0)
    else:
        path.write_bytes(rng.randbytes(max(size, 1)))


def _full(folder: Path, number: int, arm: dict[str, Any], name: str, path: str) -> None:
    if _take(folder, number):
        (folder / "full-until").write_text(str(time.time() + arm["seconds"]))
        note(folder, do="full", at=f"{name} {path}")
    try:
        until = float((folder / "full-until").read_text() or "0")
    except (FileNotFoundError, ValueError):
        return
    if name != "unlink" and time.time() < until:  # there is always room for a removal
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def _publish(real: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    @functools.wraps(real)
    def publish(self: Any, entry: Any) -> Any:
        plan = control(folder)
        arms = list(enumerate(plan["arms"])) if plan is not None and plan["run"].endswith(_run_of(self.run)) else []
        due = [arm for number, arm in arms if arm["do"] in PUBLISH and steps(folder) >= arm["step"] and _take(folder, number)]
        for arm in due:
            note(folder, do=arm["do"], at=f"{entry.stage} {entry.shard}")
        if any(arm["do"] == "late" for arm in due):
            _late(folder, functools.partial(real, self, entry))
        winner = real(self, entry)
        if any(arm["do"] == "twice" for arm in due):
            deliver_again(self, winner, real)
        return winner

    return publish


def _run_of(run: Any) -> str:
    return "/".join(run.parts[1:]) if str(run).startswith("s3:") else str(run)


def _late(folder: Path, publish: Callable[[], Any]) -> None:
    """Die, and leave a copy of this process that publishes later, with the engine's own code."""
    if os.fork() == 0:
        try:
            os.setsid()
            os.closerange(3, 4096)  # sockets to the raylet among them: nobody shall take the dead for living
            from pipelines.stores import store_of

            store_of.cache_clear()
            (folder / "late").write_text(str(os.getpid()))
            while not (folder / "release").exists():
                time.sleep(0.02)
            publish()
            note(folder, do="late-delivered")
        except BaseException as error:
            note(folder, do="late-failed", error=repr(error))
        finally:
            os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def deliver_again(ledger: Any, entry: Any, publish: Callable[..., Any] | None = None) -> None:
    """Publish a committed entry once more, and once more as another attempt that made the same: neither may change anything."""
    from dataclasses import replace
    from uuid import uuid4

    from pipelines.durable import write_new

    publish = publish or type(ledger).publish
    assert publish(ledger, entry).attempt == entry.attempt
    other = uuid4().hex[:12]
    copies = {role: replace(file, path=file.path.replace(entry.attempt, other)) for role, file in entry.files.items()}
    for role, file in entry.files.items():
        data = (ledger.run / file.path).read_bytes()
        write_new(ledger.run / copies[role].path, lambda path, data=data: path.write_bytes(data) and None)  # type: ignore[misc]
    assert publish(ledger, replace(entry, attempt=other, files=copies)).attempt == entry.attempt
