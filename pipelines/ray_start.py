"""What a Ray that is started here needs of this machine. Looked at before: Ray says it with a traceback, after half a minute."""

from __future__ import annotations

import os
import resource
import secrets
import shutil
from pathlib import Path

SOCKETS = "/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
"""The longest path that Ray makes below its temporary folder and listens at."""
LONGEST = 107
"""Bytes of the path of a Unix socket."""
FREE_BYTES = 100_000_000
"""For logs and sockets; the rows of a run are small and lie in memory."""
OPEN_FILES = 256
"""What a node of two or three workers takes. Ray raises the soft limit by itself."""


def lacks() -> str:
    """What is missing and what to do; empty where Ray can start."""
    for name in ("RAY_TMPDIR", "TMPDIR"):  # as Ray looks for it
        if name in os.environ:
            folder, named = os.environ[name], f"{name}={os.environ[name]}"
            break
    else:
        folder = named = "/tmp"
    if not folder.isascii() or len(folder) + len(SOCKETS) > LONGEST:
        return f"{named}: Ray's sockets want a folder of ASCII letters and at most {LONGEST - len(SOCKETS)} bytes: set RAY_TMPDIR=/tmp"
    there = next((path for path in (Path(folder), *Path(folder).absolute().parents) if path.is_dir()), Path("/"))
    if (free := shutil.disk_usage(there).free) < FREE_BYTES:
        least = FREE_BYTES / 1e6
        return f"{named}: {free / 1e6:.0f} MB free, Ray wants {least:.0f} there: free some space, or set RAY_TMPDIR to another folder"
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < OPEN_FILES:
        return f"a process may open {most} files here (ulimit -Hn), Ray needs {OPEN_FILES} at least: raise the limit"
    return ""


def bring_token() -> None:
    """Ray keeps the word by which its processes know each other in the home folder. Where there is none to write to, as in many
    containers, it is made for this process and its children alone."""
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    try:
        folder = Path.home() / ".ray"
        folder.mkdir(parents=True, exist_ok=True)
        there = (folder / "auth_token").is_file() or os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # the latter: nobody of this number has a home
        there = False
    if not there:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
