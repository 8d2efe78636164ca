"""One evaluation: a checkpoint, the sets it is tried on, and a JSON file that a report can read. On all ranks of a process group."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from fgclip2_train.checkpoint import read_trainer, resolve
from fgclip2_train.data.tokens import refuse_half_characters
from fgclip2_train.evaluation.boxes import BoxesTask, FgovdTask
from fgclip2_train.evaluation.captions import CaptionsTask, MugeTask
from fgclip2_train.evaluation.classes import ClassesTask
from fgclip2_train.evaluation.encode import Encoder, trained_patches
from fgclip2_train.evaluation.pictures import Seen, Words, encode_all, encode_texts, from_rank_0
from fgclip2_train.evaluation.scores import Scorer, sigmoid_scores
from fgclip2_train.evaluation.settings import EvaluationSettings, Patches
from fgclip2_train.evaluation.shards import ShardsTask
from fgclip2_train.evaluation.suites import load_suite
from fgclip2_train.evaluation.task import Task
from fgclip2_train.files import make_room, publish
from fgclip2_train.ring import rank, world
from fgclip2_train.setup import wants_gpu
from fgclip2_train.together import ending_together

TASKS: dict[str, type] = {
    "captions": CaptionsTask,
    "muge": MugeTask,
    "boxes": BoxesTask,
    "fgovd": FgovdTask,
    "classes": ClassesTask,
    "shards": ShardsTask,
}


def evaluate(
    checkpoint: str | Path,
    shards: str | list[str] | None = None,
    *,
    fgovd: Path | None = None,
    pictures: Path | None = None,
    patches: int | None = None,
    limit: int | None = None,
    suite: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Everything measured, with what is needed to read it. `shards` and `fgovd` are short for sets of these names, of which `limit` and
    `pictures` are."""
    if limit is not None and not shards:
        raise ValueError("--limit is of --shards; another set has its own: sets.NAME.limit=N")
    if pictures and not fgovd:
        raise ValueError("--pictures is of --fgovd; another set has its own: sets.NAME.pictures=DIR")
    sets: dict[str, Any] = {}
    if shards:
        found = [str(Path(p).absolute()) if "://" not in p else p for p in ([shards] if isinstance(shards, str) else shards)]
        sets["shards"] = {"kind": "shards", "shards": found, "limit": limit}
    if fgovd:
        sets["fgovd"] = {"kind": "fgovd", "file": str(fgovd.absolute()), "pictures": str((pictures or fgovd.parent).absolute())}
    if patches is not None:
        overrides = [f"patches={patches}", *overrides]
    settings = load_suite(suite, overrides, sets)
    if not settings.sets:
        raise ValueError(
            "nothing to evaluate on: give --shards 'DIR/*.tar', --fgovd FILE, --suite official root=DIR, or sets.NAME.…"
        )
    device = _join(settings)
    with ending_together():
        evaluation = Evaluation(settings, trained_patches(checkpoint))
        encoder = Encoder.load(checkpoint, settings.patches, str(device), settings.batch)
        encoder.half = settings.precision == "bf16"
        return evaluation(encoder, origin(checkpoint))


class Evaluation:
    """Sets with their files read, so that what is wrong with them shows before a model is loaded, and anything encoded."""

    def __init__(self, settings: EvaluationSettings, patches: Patches):
        """patches: for sets without a choice of their own, where the settings make none either"""
        self.settings = settings
        self.tasks: list[Task] = []
        self.absent: dict[str, str] = {}
        for name, chosen in settings.sets.items():
            if settings.only is not None and name not in settings.only:
                continue
            try:
                task = TASKS[chosen.kind](name, chosen, Path(settings.root), settings.patches or patches)
                refuse_half_characters(text for _, text in task.texts)
                self.tasks.append(task)
            except FileNotFoundError as error:
                if settings.absent == "error":
                    raise FileNotFoundError(f"set {name}: {error}") from error
                self.absent[name] = str(error)
            except ValueError as error:
                raise ValueError(f"set {name}: {error}") from error
        if not self.tasks:
            raise FileNotFoundError(
                f"none of the sets {', '.join(self.absent)} is under {settings.root}: {next(iter(self.absent.values()), '')}"
            )

    def __call__(self, encoder: Encoder, about: dict[str, Any]) -> dict[str, Any]:
        """The result, the same on every rank. about: what is known of the checkpoint."""
        started = time.monotonic()
        seen = self._pictures(encoder)
        words = encode_texts(encoder, (text for task in self.tasks for text in task.texts))
        scale, bias = encoder.model.logit_scale.item(), encoder.model.logit_bias.item()
        result: dict[str, Any] | None = None
        if rank() == 0:
            assert words is not None
            sets = {task.name: self._score(task, seen[task.name], words, sigmoid_scores(scale, bias)) for task in self.tasks}
            result = {
                **about,
                "parameters": sum(p.numel() for p in encoder.model.parameters()),
                "protocol": self.settings.protocol,
                "patches": encoder.patches,
                "precision": self.settings.precision,
                "device": str(encoder.model.device),
                "ranks": world(),
                "tokenizer_keeps_case": encoder.keeps_case,
                "sets": sets,
                "absent": self.absent,
                "score": _mean([one["headline"] for one in sets.values() if "headline" in one]),
                "seconds": time.monotonic() - started,
            }
            # The numbers of shards also stand at the top: they are what a training on shards is asked for.
            result |= sets.get("shards", {}).get("metrics", {})
        return from_rank_0(result)

    def _pictures(self, encoder: Encoder) -> dict[str, Seen]:
        """Vectors of every set by its name, on rank 0."""
        found: dict[str, Seen | None] = {}
        workers = self.settings.workers
        for task in self.tasks:
            if isinstance(task, ShardsTask):
                found[task.name] = task.encode(encoder, workers)
        files = [task for task in self.tasks if not isinstance(task, ShardsTask)]
        # Sets of one view one after another: their pictures then share batches.
        files.sort(key=lambda task: str(task.view))
        whole = encode_all(encoder, [wanted for task in files for wanted in task.wanted], workers)
        if whole is None:
            return {}
        row = part = 0
        for task in files:
            rows, parts = len(task.wanted), sum(len(wanted.boxes) for wanted in task.wanted)
            found[task.name] = whole.take(range(row, row + rows), range(part, part + parts))
            row, part = row + rows, part + parts
        return {name: seen for name, seen in found.items() if seen is not None}

    def _score(self, task: Task, seen: Seen, words: Words, sigmoid: Scorer) -> dict[str, Any]:
        """What the set is, how it was used, and its metrics; or why there are none, so that the other sets' are not lost."""
        skipped = task.skipped + seen.skipped()
        values: dict[str, Any] = {
            "kind": self.settings.sets[task.name].kind,
            **task.source(),
            "pictures_digest": f"blake2b:{seen.fingerprint()}",
            "patches": task.view.patches,
            "settings": self.settings.sets[task.name].model_dump(mode="json", exclude={"kind"}),
        }
        try:
            if not torch.isfinite(seen.whole).all() or not torch.isfinite(words.vectors).all():
                raise ValueError("the checkpoint's vectors are not finite numbers; take an earlier one")
            values["metrics"] = task.score(seen, words, sigmoid, skipped)
            values["headline"] = task.headline(values["metrics"])
        except ValueError as error:
            values["error"] = str(error)
        return values | {"skipped": dict(skipped)}


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def origin(checkpoint: str | Path) -> dict[str, Any]:
    """What a checkpoint says of itself: step, stage and preset where it was trained here."""
    about: dict[str, Any] = {"checkpoint": str(checkpoint), "step": None, "stage": None, "preset": None}
    if Path(checkpoint).exists():
        trainer = read_trainer(resolve(checkpoint))
        settings = trainer.get("settings") or {}
        about |= {"step": trainer.get("step"), "stage": settings.get("stage"), "preset": settings.get("preset")}
    return about


def _join(settings: EvaluationSettings) -> torch.device:
    """The device of this process; joins torchrun's process group if there is one."""
    on_gpu = wants_gpu(settings.device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("cuda:nccl,cpu:gloo" if on_gpu else "gloo")
    if not on_gpu:
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def leave() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def write_json(result: dict[str, Any], file: Path) -> None:
    make_room(file)
    publish(file, json.dumps(result, indent=1, ensure_ascii=False).encode())
