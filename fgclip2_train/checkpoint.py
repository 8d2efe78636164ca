"""Checkpoints that are whole or not there: a folder is written under a hidden name, synced, and renamed.

    <out>/checkpoints/step-00002000/   model.safetensors, config.json, tokenizer, optimizer/, trainer.json
    <out>/checkpoints/last             symbolic link to the newest one
    <out>/checkpoints/best             symbolic link to the best one, where the run evaluates; kept as long as it is the best

The folder itself is what `from_pretrained` takes. `optimizer/` is a torch.distributed.checkpoint: every process writes its part, and
any number of processes can read it. trainer.json holds step, settings, and the reader's position per rank. All processes must see
the same folder.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as distributed
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from fgclip2_train.data.tokens import Texts
from fgclip2_train.model import Fgclip2Config
from fgclip2_train.model.release import write_release
from fgclip2_train.ring import rank, world
from fgclip2_train.saved import Saved, ToGoOn, Told, read_saved

# torch says so, from several threads, where one process trains alone.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")

NAME = "step-{:08d}"
WRITTEN = "step-" + 8 * "[0-9]"
"""Pattern of those names: a copy that somebody keeps under another one is neither gone on from nor taken away."""


class Saver:
    """Writes in the background, one checkpoint at a time. Lives on every rank; each call is made by all of them together."""

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep
        # A group of its own: training goes on talking through the other one meanwhile.
        self.group = dist.new_group(backend="gloo") if world() > 1 else None
        self.writing: threading.Thread | None = None
        self.failure: BaseException | None = None
        if rank() == 0:
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
        """Start writing. `after` runs on rank 0 with the finished folder.

        weights    whole, in host memory, not to change until `wait()`; only rank 0's are read
        optimizer, trainer  this rank's, sharded or not; copied before this returns
        """
        self.wait()
        trainer = copy.deepcopy(trainer)
        hidden, final = self.folder / f".{NAME.format(step)}", self.folder / NAME.format(step)
        try:
            if rank() == 0:
                shutil.rmtree(hidden, ignore_errors=True)
                hidden.mkdir(parents=True)
        except OSError as error:
            self.failure = error
        self._raise_failure()
        written = distributed.async_save(
            optimizer,
            storage_writer=distributed.FileSystemWriter(hidden / "optimizer"),
            process_group=self.group,
            no_dist=self.group is None,
        )

        def write() -> None:
            try:
                written.result()  # type: ignore[union-attr]
                if rank() == 0:
                    finish(hidden, final, weights, config, texts, trainer)
                    point(self.folder / "last", final)
                    self._prune()
                    if after:
                        after(final)
            except BaseException as error:
                self.failure = error
                if rank() == 0:
                    shutil.rmtree(hidden, ignore_errors=True)

        self.writing = threading.Thread(target=write, name="checkpoint")
        self.writing.start()

    def wait(self) -> None:
        """Until the checkpoint in the making is whole. Raises on every rank what its writing raised on any."""
        if self.writing is None:
            return
        self.writing.join()
        self.writing = None
        self._raise_failure()

    def _raise_failure(self) -> None:
        error, self.failure = self.failure, None
        failed = torch.tensor([int(error is not None)])
        if self.group is not None:
            dist.all_reduce(failed, dist.ReduceOp.MAX, group=self.group)
        if not failed.item():
            return
        told = _storage_error(error)
        if error is not None and told is None:
            raise error
        raise ValueError(
            f"{self.folder}: the checkpoint could not be written ({told or 'on another process'}); earlier ones are whole"
        ) from error

    def _prune(self) -> None:
        best = (self.folder / "best").resolve()
        for old in sorted(self.folder.glob(WRITTEN))[: -self.keep]:
            if old.resolve() != best:
                remove(old)


def _storage_error(error: BaseException | None) -> BaseException | str | None:
    """What the disk said, if it was the disk."""
    if isinstance(error, CheckpointException):
        causes = [cause for cause, _ in error.failures.values()]
        return next((cause for cause in causes if _storage_error(cause)), None)
    # torch's writer turns a failed write into "PytorchStreamWriter failed writing file"; safetensors has an error class of its own.
    words = ("failed writing", "No space left", "I/O error", "File too large")
    return error if isinstance(error, OSError) or any(word in str(error) for word in words) else None


def write_checkpoint(
    folder: Path,
    step: int,
    weights: dict[str, Tensor],
    optimizer: dict[str, Tensor],
    config: Fgclip2Config,
    texts: Texts,
    trainer: dict[str, Any],
) -> Path:
    """A checkpoint of one process, written at once."""
    final, hidden = folder / NAME.format(step), folder / f".{NAME.format(step)}"
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir(parents=True)
    try:
        distributed.save(optimizer, storage_writer=distributed.FileSystemWriter(hidden / "optimizer"), no_dist=True)
        return finish(hidden, final, weights, config, texts, trainer)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise


def finish(
    hidden: Path, final: Path, weights: dict[str, Tensor], config: Fgclip2Config, texts: Texts, trainer: dict[str, Any]
) -> Path:
    """Add what is not the optimizer to the hidden folder, and give it its name."""
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, hidden / "model.safetensors", {"format": "pt"})
    write_release(hidden, config)
    texts.save(hidden)
    (hidden / "trainer.json").write_text(json.dumps(trainer, ensure_ascii=False, indent=1))
    for path in (*hidden.rglob("*"), hidden):
        _sync(path)
    if final.exists():  # the same step again, after going on from an earlier checkpoint
        remove(final)
    hidden.rename(final)
    _sync(final.parent)
    return final


def remove(checkpoint: Path) -> None:
    """Take a checkpoint away, under a name that a new Saver sweeps: a kill in between leaves none that is taken for whole."""
    gone = checkpoint.with_name(f".{checkpoint.name}-gone")
    shutil.rmtree(gone, ignore_errors=True)
    checkpoint.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def point(link: Path, target: Path) -> None:
    """Make `link` name its neighbour `target`, in one step."""
    hidden = link.with_name(f".{link.name}")
    hidden.unlink(missing_ok=True)
    hidden.symlink_to(target.name)
    hidden.rename(link)


def latest(out: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None."""
    found = sorted((out / "checkpoints").glob(f"{WRITTEN}/trainer.json"))
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


def load_trainer(folder: Path) -> dict[str, Any]:
    """What a run goes on with. Raises ValueError for a damaged file."""
    return _read_trainer(folder / "trainer.json", ToGoOn)


def read_trainer(folder: Path) -> dict[str, Any]:
    """What trainer.json says; nothing where there is none, as beside the released weights. Raises ValueError for a damaged file."""
    file = folder / "trainer.json"
    return _read_trainer(file, Told) if file.is_file() else {}


def _read_trainer(file: Path, kind: type[Saved]) -> dict[str, Any]:
    try:
        return read_saved(file, kind)
    except (OSError, ValueError) as error:
        raise ValueError(_damaged(file, error)) from error


def load_optimizer(folder: Path, empty: dict[str, Tensor]) -> set[str]:
    """Fill those tensors of `empty` that the checkpoint has, in place, sharded as they are; gives their names."""
    reader = distributed.FileSystemReader(folder / "optimizer")
    try:
        stored = reader.read_metadata().state_dict_metadata
        wanted = {name: tensor for name, tensor in empty.items() if name in stored}
        distributed.load(wanted, storage_reader=reader, no_dist=True)
    except (Exception, CheckpointException) as error:  # a file cut short shows as an error of pickle, zip, storage or shape
        raise ValueError(_damaged(folder / "optimizer", error)) from error
    return set(wanted)


def _damaged(path: Path, error: BaseException) -> str:
    cause = next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error
    kind = [] if type(cause) is ValueError else [type(cause).__name__]  # which is said in words here
    what = ": ".join([*kind, *str(cause).strip().split("\n")[:1]]).removesuffix(": ")[:200]
    return f"{path}: damaged ({what}). {way_out(path.parent)}"


def way_out(checkpoint: Path) -> str:
    """What to do about one that cannot be gone on from."""
    return f"Move {checkpoint} away, and the run goes on from the one before it"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
