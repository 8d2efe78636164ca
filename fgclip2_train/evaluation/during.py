"""Evaluation while training, on its own period: numbers to the log and boards, and whether the checkpoint is the best so far.

<out>/evaluations/step-00002000.json   everything, as `eval --json` writes it
<out>/metrics.jsonl                    {"step", "eval": numbers} among the training's lines
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from fgclip2_train.checkpoint import WRITTEN
from fgclip2_train.data.tokens import Texts
from fgclip2_train.errors import writing
from fgclip2_train.evaluation.encode import Encoder, own_patches
from fgclip2_train.evaluation.pictures import from_rank_0
from fgclip2_train.evaluation.run import Evaluation, write_json
from fgclip2_train.evaluation.settings import DuringTraining, EvaluationSettings
from fgclip2_train.evaluation.suites import build
from fgclip2_train.evaluation.table import table
from fgclip2_train.model import Fgclip2Model
from fgclip2_train.parallel import full
from fgclip2_train.ring import rank

_OF_ALL = ("score", "seconds")
"""Numbers that are of no set."""
Board = Callable[[dict[str, float], int], None]


class InTraining:
    """Made before the first step, so that a set that is not there stops the run then and not hours later."""

    def __init__(self, settings: DuringTraining, out: Path, step: int, patches: int | str, about: dict[str, Any]):
        """step: where the run goes on; what was measured beyond it is forgotten. patches: the training's."""
        self.settings, self.folder, self.about = settings, out / "evaluations", about
        self.patches = settings.patches or own_patches(patches)
        self.evaluation = Evaluation(_whole(settings), self.patches)
        sets = [task.name for task in self.evaluation.tasks]
        if settings.best not in _OF_ALL and not settings.best.startswith(tuple(f"{name}." for name in sets)):
            raise ValueError(
                f"evaluate.best={settings.best}: no such number: it is {' or '.join(_OF_ALL)}, or a number of one of the sets "
                f"{', '.join(sets)}, as {sets[0]}.headline"
            )
        self.found: dict[int, float | None] = from_rank_0(self._read(step) if rank() == 0 else None)

    def _read(self, step: int) -> dict[int, float | None]:
        """step -> what the best is chosen by"""
        found = {}
        for file in sorted(self.folder.glob(f"{WRITTEN}.json")):
            number = int(file.stem.removeprefix("step-"))
            if number > step:
                file.unlink()
                continue
            try:
                numbers = flatten(json.loads(file.read_text()))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{file}: damaged ({type(error).__name__}: {error}). Move it away") from error
            found[number] = numbers.get(self.settings.best)
        return found

    def due(self, step: int) -> bool:
        if step == 0:
            return self.settings.at_start and 0 not in self.found
        return step % self.settings.every == 0 and step not in self.found

    def __call__(self, model: Fgclip2Model, texts: Texts, step: int, log: Path, boards: list[Board]) -> bool:
        """Evaluate, on all ranks together; True on all of them if this is the best step so far (step 0 is not in the race)."""
        result = self._measure(model, texts, step)
        numbers = flatten(result)
        failed = [name for name, one in result["sets"].items() if "error" in one]
        if self.settings.best not in numbers and not failed:
            raise ValueError(
                f"evaluate.best={self.settings.best}: no such number in the result. There are: {', '.join(sorted(numbers))}"
            )
        # A set that has become unreadable is shown and logged, but no reason to stop the training.
        value, before = numbers.get(self.settings.best), [v for at, v in self.found.items() if at > 0 and v is not None]
        self.found[step] = value
        if rank() == 0:
            write_json(result, self.folder / f"step-{step:08d}.json")
            with writing(log), log.open("a") as file:
                file.write(json.dumps({"step": step, "eval": numbers}) + "\n")
            for board in boards:
                board({f"eval/{name}": number for name, number in numbers.items()}, step)
            print(table(result), flush=True)
        return step > 0 and value is not None and (not before or value > max(before))

    def _measure(self, model: Fgclip2Model, texts: Texts, step: int) -> dict[str, Any]:
        whole, training = _gathered(model), model.training
        encoder = Encoder(whole.eval(), texts, self.patches, self.settings.batch, self.settings.precision == "bf16")
        try:
            # Shapes here are others than training's: compiled layers would be compiled again for each.
            with torch.compiler.set_stance("force_eager"):
                return self.evaluation(encoder, self.about | {"step": step})
        finally:
            model.train(training)


def _whole(settings: DuringTraining) -> EvaluationSettings:
    """The sets of the suite, of `sets`, and of `shards`, under one roof."""
    own = {"every", "suite", "shards", "limit", "at_start", "best"}
    given = settings.model_dump(exclude_unset=True, exclude=own)
    if settings.shards:
        patterns = [settings.shards] if isinstance(settings.shards, str) else settings.shards
        absolute = [pattern if "://" in pattern else str(Path(pattern).absolute()) for pattern in patterns]
        given.setdefault("sets", {})["shards"] = {"kind": "shards", "shards": absolute, "limit": settings.limit}
    whole = build(EvaluationSettings, given, settings.suite, "evaluate")
    if not whole.sets:
        raise ValueError("evaluate: nothing to evaluate on: set evaluate.shards, evaluate.suite, or evaluate.sets")
    return whole


def _gathered(model: Fgclip2Model) -> Fgclip2Model:
    """The model itself, or a whole copy of one whose parameters lie on several ranks; a collective then."""
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return model
    state: dict[str, Tensor] = {name: full(tensor.detach()) for name, tensor in model.state_dict().items()}
    with torch.random.fork_rng():
        copy = Fgclip2Model(model.config)
    copy.load_state_dict(state)
    torch.nn.Module.to(copy, model.device)
    return copy


def flatten(result: dict[str, Any]) -> dict[str, float]:
    """`score` and every set's numbers by dotted name: "coco.image_to_text", "shards.retrieval.en.short.mean"."""
    numbers: dict[str, float] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(f"{name}.{key}", inner)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            numbers[name] = value

    for name, one in result["sets"].items():
        add(name, one.get("metrics", {}))
        add(f"{name}.headline", one.get("headline"))
    for name in _OF_ALL:
        add(name, result[name])
    return numbers
