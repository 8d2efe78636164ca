"""A folder that is made part by part beside its final name and takes that name only when it is whole.

Work happens in `.NAME.partial` next to the folder. Each finished part leaves a marker there, so that a job that was killed goes on
with the next part; the last step is one rename. A folder that is there already is never touched.

The marker says what the part was made from (`identity`) and what came of it (`record`, plain JSON). A part whose input changed is
made again; a partial folder made with other settings is refused.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

from pipelines.config import ConfigError
from pipelines.durable import NO_LOCKS, canonical_json, replace, sync_folder

HIDDEN = ".parts"
"""Folder of markers and of pieces that are joined at the end; it is gone from the finished folder."""


class FolderJob:
    """with FolderJob(out, settings) as job: for each part: job.done(...) or make it and job.commit(...); then job.publish()."""

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self.out = out
        self.folder = out.with_name(f".{out.name}.partial")
        self.parts = self.folder / HIDDEN
        self._settings = settings

    def __enter__(self) -> FolderJob:
        if self.out.exists() or self.out.is_symlink():
            raise ConfigError(f"{self.out} is there already and is not overwritten; choose another folder or remove it")
        self.parts.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.parts / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise ConfigError(f"{self.out} is being made by another process; wait for it to end") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:  # without locks nobody is kept from giving the same command twice at a time
                raise
        settings = canonical_json(self._settings)
        record = self.parts / "settings.json"
        if record.is_file() and record.read_bytes() != settings:
            os.close(self._lock)
            raise ConfigError(
                f"{self.folder} was begun with other settings or another input; remove it to begin anew, or repeat the first command"
            )
        replace(record, settings)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def done(self, name: str, identity: Any) -> dict[str, Any] | None:
        """The record of a part that an earlier try finished from the same input."""
        try:
            marker = json.loads((self.parts / f"{name}.done.json").read_bytes())
        except (OSError, ValueError):
            return None
        return marker["record"] if marker["identity"] == json.loads(json.dumps(identity)) else None

    def commit(self, name: str, identity: Any, record: dict[str, Any]) -> None:
        """Call when all files of the part are in place."""
        replace(self.parts / f"{name}.done.json", canonical_json({"identity": identity, "record": record}))

    def publish(self) -> None:
        """Give the folder its name. Until here nothing stands under it."""
        if self.out.exists():
            raise ConfigError(f"{self.out} appeared meanwhile and is not overwritten; the finished work is in {self.folder}")
        over = self.out.with_name(f".{self.out.name}.over")
        if over.exists():  # of a job that was killed below
            shutil.rmtree(over)
        os.rename(self.parts, over)  # in one step: a marker that outlived its piece would promise it to the next try
        for left in [*self.folder.glob(".*.tmp"), *self.folder.glob("*/.*.tmp")]:  # `replace`, killed in an earlier try
            left.unlink()
        os.rename(self.folder, self.out)
        sync_folder(self.out.parent)
        shutil.rmtree(over)
