"""Checkpoints that are whole or not there: a folder is written under a hidden name, synced, and renamed.

    <out>/checkpoints/step-00002000/   model.safetensors, config.json, tokenizer, optimizer.safetensors, trainer.json
    <out>/checkpoints/last             symbolic link to the newest one

The folder itself is what `from_pretrained` takes. trainer.json holds step, settings, and the reader's position per rank.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from fgclip2_train.data.tokens import Texts
from fgclip2_train.model import Fgclip2Config

NAME = "step-{:08d}"


class Saver:
    """Writes in the background what it is handed in host memory; one at a time. Lives on rank 0 only."""

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep
        self.writing: threading.Thread | None = None
        self.failure: BaseException | None = None
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".step-*"):  # of a process that was killed while it wrote
            shutil.rmtree(leftover, ignore_errors=True)

    def save(
        self,
        step: int,
        weights: dict[str, Tensor],
        optimizer: dict[str, Tensor],
        config: Fgclip2Config,
        texts: Texts,
        trainer: dict[str, Any],
        after: Callable[[Path], None] | None = None,
    ) -> None:
        """Start writing; tensors must not change until `wait()`. `after` runs with the finished folder."""
        self.wait()

        def write() -> None:
            try:
                final = write_checkpoint(self.folder, step, weights, optimizer, config, texts, trainer)
                point(self.folder / "last", final)
                self._prune()
                if after:
                    after(final)
            except BaseException as error:
                self.failure = error

        self.writing = threading.Thread(target=write, name="checkpoint")
        self.writing.start()

    def wait(self) -> None:
        """Until the checkpoint in the making is whole. Raises what its writing raised."""
        if self.writing:
            self.writing.join()
            self.writing = None
        if self.failure:
            error, self.failure = self.failure, None
            if isinstance(error, OSError):
                raise ValueError(
                    f"{self.folder}: the checkpoint could not be written ({error}); earlier ones are whole"
                ) from error
            raise error

    def _prune(self) -> None:
        for old in sorted(self.folder.glob("step-*"))[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)


def write_checkpoint(
    folder: Path,
    step: int,
    weights: dict[str, Tensor],
    optimizer: dict[str, Tensor],
    config: Fgclip2Config,
    texts: Texts,
    trainer: dict[str, Any],
) -> Path:
    final, hidden = folder / NAME.format(step), folder / f".{NAME.format(step)}"
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir(parents=True)
    try:
        save_file(
            {name: tensor.contiguous() for name, tensor in weights.items()}, hidden / "model.safetensors", {"format": "pt"}
        )
        save_file({name: tensor.contiguous() for name, tensor in optimizer.items()}, hidden / "optimizer.safetensors")
        config.architectures = ["Fgclip2Model"]
        config.save_pretrained(hidden)
        texts.save(hidden)
        (hidden / "trainer.json").write_text(json.dumps(trainer, ensure_ascii=False, indent=1))
        for file in hidden.iterdir():
            _sync(file)
        _sync(hidden)
        if final.exists():  # the same step again, after going on from an earlier checkpoint
            shutil.rmtree(final)
        hidden.rename(final)
        _sync(folder)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    return final


def point(link: Path, target: Path) -> None:
    """Make `link` name its neighbour `target`, in one step."""
    hidden = link.with_name(f".{link.name}")
    hidden.unlink(missing_ok=True)
    hidden.symlink_to(target.name)
    hidden.rename(link)


def latest(out: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None."""
    found = sorted((out / "checkpoints").glob("step-*/trainer.json"))
    return found[-1].parent if found else None


def resolve(path: str | Path) -> Path:
    """A checkpoint's folder from itself, or from a run's folder (its newest one)."""
    path = Path(path)
    if (path / "config.json").is_file():
        return path.resolve()
    newest = latest(path)
    if newest is None:
        raise FileNotFoundError(f"{path}: no checkpoint there (neither config.json nor checkpoints/step-*)")
    return newest


def load_trainer(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """trainer.json and the optimizer's tensors."""
    return json.loads((folder / "trainer.json").read_text()), load_file(folder / "optimizer.safetensors")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
