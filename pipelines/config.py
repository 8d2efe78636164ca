"""Recipes: YAML in, validated and checked stages out, with every mistake named before work starts.

recipe: demo
sources: [demo_laion, demo_wukong]
shard_size: 100
model: {base_url: "http://127.0.0.1:8000/v1", name: qwen2.5-vl}
stages:
  download: {timeout: 10}
  measure: {operators: {size: {}, phash: {}}}       # several operators that share one read and decode
  select: {keep: "width >= 256"}                    # a stage's own name is its operator's name …
  long_caption_en: {operator: recaption, language: en}  # … unless it says otherwise
"""

from __future__ import annotations

import difflib
import importlib
import json
import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

import manifests
from operators import OPERATORS
from operators.base import GlobalOperator, ModelOperator, Operator, OperatorBase, Settings
from operators.columns import BASE, IMAGE
from pipelines.yaml_file import read_yaml

MANIFESTS = Path(manifests.__file__).parent
ROW = pa.schema([column for column in BASE if column.name != "uid"])
ENGINE_STAGES = {"download": "pipelines.download:Download", "pack": "pipelines.pack:Pack"}
OPERATOR_KINDS = (Operator, ModelOperator, GlobalOperator)
ENGINE_KEYS = ("operator", "operators", "resources", "refuse_at_most", "attempts")
RESERVED = ("source", "rejects", "answers", "ledger", "shards", "tables", "tombstones", "runs", "images")
Kind = Literal["source", "download", "batch", "model", "global", "pack"]


class ConfigError(ValueError):
    """A setting that cannot be used: says file, key, what was expected and, where there is one, the nearest valid name."""


class Resources(BaseModel):
    """What one worker of a stage asks of the cluster, and how many workers there are."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    cpus: float = Field(1.0, gt=0)
    gpus: float = Field(0.0, ge=0)
    memory_gb: float = Field(0.0, ge=0)
    workers: int | tuple[int, int] = 1

    @field_validator("workers")
    @classmethod
    def _some(cls, workers: int | tuple[int, int]) -> int | tuple[int, int]:
        least, most = (workers, workers) if isinstance(workers, int) else workers
        if not 1 <= least <= most:
            raise ValueError("expected a number of at least 1, or two as in [1, 4], the smaller first")
        return workers

    @property
    def most_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]


ONE_CPU = Resources.model_validate({})


class RecipeFile(BaseModel):
    """The top level of a recipe, before its stages are built."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    description: str = ""
    sources: list[str] = Field(min_length=1)
    shard_size: int = Field(1000, ge=1, le=100_000)
    window: int = Field(64, ge=1)
    wave: int | None = Field(None, ge=1)
    """Shards that go through the global stages together, so that later stages begin while further shards download; None: all."""
    disk_floor_gb: float = Field(1.0, ge=0)
    model: dict[str, Any] | None = None
    stages: dict[str, dict[str, Any] | None]


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe, its operators validated and filled with defaults."""

    name: str
    kind: Kind
    operators: dict[str, Settings]
    resources: Resources = ONE_CPU
    refuse_at_most: float = 1.0
    attempts: int = 2

    @property
    def operator(self) -> Any:
        """The only operator of a model, global or engine stage."""
        (operator,) = self.operators.values()
        return operator

    def reads(self) -> pa.Schema:
        if self.kind in ("source", "pack"):
            return pa.schema([])
        if self.kind == "download":
            return ROW
        names: dict[str, pa.Field] = {}
        made: set[str] = {"uid"}
        for operator in self.operators.values():
            for column in operator.reads:  # type: ignore[attr-defined]
                if column.name not in made:
                    names.setdefault(column.name, column)
            made.update(operator.writes.names)  # type: ignore[attr-defined]
        if self.needs_image or self.kind == "model":
            for name in ("image_offset", "image_size", "sha256", "width", "height"):
                names.setdefault(name, IMAGE.field(name))
        return pa.schema(list(names.values()))

    def optional(self) -> frozenset[str]:
        if self.kind in ("source", "download", "pack"):
            return frozenset()
        required = {n for op in self.operators.values() for n in set(op.reads.names) - op.optional}  # type: ignore[attr-defined]
        offered = {n for op in self.operators.values() for n in op.optional}  # type: ignore[attr-defined]
        return frozenset(offered - required)

    def writes(self) -> pa.Schema:
        if self.kind == "source":
            return ROW
        if self.kind == "download":
            return IMAGE
        if self.kind == "pack":
            return pa.schema({"shard_offset": pa.int64(), "shard_size": pa.int64()})
        return pa.schema([column for op in self.operators.values() for column in op.writes if column.name != "uid"])  # type: ignore[attr-defined]

    @property
    def needs_image(self) -> bool:
        return any(getattr(op, "needs_image", False) for op in self.operators.values())


@dataclass(frozen=True)
class Recipe:
    """A whole recipe, ready to run. `stages` begins with the implicit source stage."""

    name: str
    file: str
    description: str
    sources: list[str]
    shard_size: int
    window: int
    wave: int | None
    disk_floor_gb: float
    model: Any  # pipelines.model_client.ModelSettings or None
    stages: list[Stage]
    overrides: tuple[str, ...]

    @property
    def given(self) -> str:
        """What a command is given to find this recipe again."""
        return self.name if self.file == f"manifests/recipes/{self.name}.yaml" else self.file

    def stage(self, name: str) -> Stage:
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise ConfigError(f"{self.file}: no stage {name!r}.{nearest(name, [s.name for s in self.stages])}")

    def gpus(self, stage: Stage) -> float:
        """GPUs that a model stage keeps: those behind the server, or offline those of its workers, when there are most of them."""
        if self.model.engine == "offline":
            return stage.resources.gpus * stage.resources.most_workers
        return float(self.model.gpus)

    def segments(self) -> list[list[Stage]]:
        """The stages cut at the global ones: [flow, global, flow, …]; a global stage is a segment of its own.

        So is a model stage that brings its own engine: two at a time would want the GPUs twice.
        """
        alone = {"global", "model"} if getattr(self.model, "engine", "server") == "offline" else {"global"}
        cut: list[list[Stage]] = [[]]
        for stage in self.stages:
            if stage.kind in alone:
                cut += [[stage], []]
            else:
                cut[-1].append(stage)
        return [segment for segment in cut if segment]


def nearest(name: str, valid: Sequence[str], values: Mapping[str, Any] | None = None) -> str:
    """ " Did you mean X (default)?" or the list of valid names."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    if close:
        shown = f" ({values[close[0]]})" if values and close[0] in values else ""
        return f" Did you mean {close[0]}{shown}?"
    return f" Valid names: {', '.join(sorted(valid))}." if valid else ""


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe by name (manifests/recipes/NAME.yaml) or by path, apply `key.sub=value` overrides, validate everything.

    `stages.NAME=null` leaves a stage out, `stages.NAME.operators.NAME=null` one operator of several.
    """
    file = _find(name)
    raw = _read_yaml(file)
    shown = _shown(file)
    for override in overrides:
        _apply(raw, override)
    top = _validate(RecipeFile, raw, shown, "")
    stages = [Stage("source", "source", {})]
    for stage_name, body in top.stages.items():
        if stage_name in RESERVED:
            raise ConfigError(f"{shown}: stages.{stage_name}: the name is taken by a folder of every run; choose another")
        stages.append(_stage(stage_name, dict(body or {}), shown))
    model = None
    if top.model is not None:
        model = _validate(_load("pipelines.model_client:ModelSettings"), top.model, shown, "model")
    recipe = Recipe(
        name=top.recipe,
        file=shown,
        description=top.description,
        sources=top.sources,
        shard_size=top.shard_size,
        window=top.window,
        wave=top.wave,
        disk_floor_gb=top.disk_floor_gb,
        model=model,
        stages=stages,
        overrides=tuple(overrides),
    )
    _check_columns(recipe)
    return recipe


def recipe_names() -> list[str]:
    return sorted(file.stem for file in (MANIFESTS / "recipes").glob("*.yaml"))


def _find(name: str | Path) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"{path}: no such recipe file")
        return path
    file = MANIFESTS / "recipes" / f"{name}.yaml"
    if not file.is_file():
        raise ConfigError(f"no recipe {str(name)!r}.{nearest(str(name), recipe_names())}")
    return file


def _shown(file: Path) -> str:
    """The path as a person would type it."""
    return str(file.relative_to(MANIFESTS.parent)) if file.is_relative_to(MANIFESTS.parent) else str(file)


def _read_yaml(file: Path) -> dict[str, Any]:
    raw = read_yaml(file, _shown(file), ConfigError)
    if not isinstance(raw, dict):
        raise ConfigError(f"{_shown(file)}: expected a mapping with the keys {', '.join(RecipeFile.model_fields)}")
    return raw


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: expected key.sub=value, for example shard_size=500")
    if not text.strip():  # as a variable of the shell leaves it that is not set
        raise ConfigError(
            f"override {override!r}: nothing stands behind the `=`: null is no value (of a stage: it is left out), "
            "{{}} a stage with its defaults, '\"\"' an empty text"
        )
    parts = key.split(".")
    if parts[0] not in RecipeFile.model_fields:
        stages = raw.get("stages") or {}
        if parts[0] in stages:
            parts.insert(0, "stages")
        elif len(parts) > 1:
            names = [*RecipeFile.model_fields, *stages]
            raise ConfigError(f"override {override!r}: no setting or stage {parts[0]!r}.{nearest(parts[0], names)}")
    at: Any = raw
    for i, part in enumerate(parts[:-1]):
        if part == "stages" or i != 1 or parts[0] != "stages":
            child = at.get(part) if isinstance(at, dict) else None
            if child is None:
                child = {}
        elif part not in at:
            raise ConfigError(f"override {override!r}: no stage {part!r}.{nearest(part, list(at))}")
        else:
            child = at[part] or {}
        # YAML's aliases are one object: only this place changes.
        at[part] = at = dict(child) if isinstance(child, dict) else child
        if not isinstance(at, dict):
            raise ConfigError(f"override {override!r}: {'.'.join(parts[: i + 1])} is {at!r}, which has no parts")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML: {error}") from error
    last, kind = parts[-1], _names(parts)
    if value is not None or kind is None:
        at[last] = value
    elif last in at:
        del at[last]
    else:
        raise ConfigError(f"override {override!r}: no {kind} {last!r} to leave out.{nearest(last, list(at))}")


def _names(parts: list[str]) -> str | None:
    """What the key of an override names as a whole, if that is something which a recipe may be without."""
    match parts:
        case ["stages", _]:
            return "stage"
        case ["stages", _, "operators", _]:
            return "operator"
    return None


def _stage(name: str, body: dict[str, Any], file: str) -> Stage:
    where = f"stages.{name}"
    if not re.fullmatch(r"\w[\w-]*", name):  # it names folders, and stands in settings on the command line
        raise ConfigError(f"{file}: {where}: expected a name of letters, digits, `_` and `-`")
    engine = {key: body.pop(key) for key in ENGINE_KEYS if key in body}
    if "operators" in engine:
        several = _several(engine["operators"], f"{file}: {where}.operators")
        if "operator" in engine or body:
            extra = "operator" if "operator" in engine else next(iter(body))
            right = extra if extra in several else f"{next(iter(several))}.{extra}"
            raise ConfigError(
                f"{file}: {where}.{extra}: no such setting beside `operators`; settings belong to one of them, "
                f"as in {where}.operators.{right}"
            )
        wanted = {operator: (f"{where}.operators.{operator}", settings or {}) for operator, settings in several.items()}
    else:
        operator = engine.get("operator", name)
        if not isinstance(operator, str):
            raise ConfigError(f"{file}: {where}.operator: expected a name (found {_found(operator)})")
        wanted = {operator: (where, body)}
    operators: dict[str, Settings] = {}
    for operator, (key, settings) in wanted.items():
        # A user's own operator needs no line in this project: `operator: package.module:Class`.
        target = operator if ":" in operator else {**OPERATORS, **ENGINE_STAGES}.get(operator)
        if target is None:
            raise ConfigError(
                f"{file}: {key}: no stage or operator {operator!r}.{nearest(operator, [*OPERATORS, *ENGINE_STAGES])}"
            )
        kind = _load(target, f"{file}: {key}: ")
        if operator not in ENGINE_STAGES and not (isinstance(kind, type) and issubclass(kind, OPERATOR_KINDS)):
            raise ConfigError(f"{file}: {key}: {target} is no operator: expected a subclass of one in operators/base.py")
        operators[operator] = _validate(kind, settings, file, key)
    kinds = {_kind(operator, built) for operator, built in operators.items()}
    if len(operators) > 1 and kinds != {"batch"}:
        raise ConfigError(
            f"{file}: {where}.operators: only batch operators can share a stage; give each of {', '.join(operators)} its own"
        )
    resources = _validate(Resources, engine.get("resources") or {}, file, f"{where}.resources")
    refuse_at_most = engine.get("refuse_at_most", 1.0)
    if not isinstance(refuse_at_most, int | float) or not 0 <= refuse_at_most <= 1:
        raise ConfigError(f"{file}: {where}.refuse_at_most: expected a share between 0 and 1, found {refuse_at_most!r}")
    attempts = engine.get("attempts", 2)
    if not isinstance(attempts, int) or attempts < 1:
        raise ConfigError(f"{file}: {where}.attempts: expected a whole number of at least 1, found {attempts!r}")
    return Stage(name, kinds.pop(), operators, resources, float(refuse_at_most), attempts)


def _kind(name: str, operator: Settings) -> Kind:
    if name == "download":
        return "download"
    if name == "pack":
        return "pack"
    if isinstance(operator, GlobalOperator):
        return "global"
    if isinstance(operator, ModelOperator):
        return "model"
    return "batch"


def _several(given: Any, where: str) -> dict[str, Any]:
    """`operators`, as a mapping or a list of names."""
    if isinstance(given, list) and all(isinstance(name, str) for name in given) and len(set(given)) == len(given):
        given = dict.fromkeys(given)
    if not isinstance(given, dict) or not given or not all(isinstance(name, str) for name in given):
        raise ConfigError(
            f"{where}: expected operators and their settings, as in {{size: {{}}, text: {{}}}} (found {_found(given)})"
        )
    return given


def _load(target: str, where: str = "") -> Any:
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{where}operator {target}: {error}") from error
    except Exception as error:  # a user's own module may raise anything
        *_, last = traceback.extract_tb(error.__traceback__)
        told = f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"
        raise ConfigError(f"{where}operator {target}: {told}") from error


def _found(value: Any) -> str:
    """What stands there, short and without passwords."""
    try:
        text = json.dumps(value, default=str, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError):  # an anchor within itself, or a key that JSON does not have
        text = repr(value)
    return re.sub(r"://[^/@\s]+@", "://***@", text)[:200]


def _validate(model: type[Any], raw: Any, file: str, where: str) -> Any:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        owner: Any = model
        for part in first["loc"][:-1]:
            annotation = getattr(owner, "model_fields", {}).get(part)
            owner = getattr(annotation, "annotation", None)
        key = ".".join([*([where] if where else []), *(str(part) for part in first["loc"])])
        if first["type"] == "extra_forbidden":
            fields = getattr(owner, "model_fields", {})
            defaults = {name: f.default for name, f in fields.items() if not f.is_required()}
            raise ConfigError(
                f"{file}: {key}: no such setting.{nearest(str(first['loc'][-1]), list(fields), defaults)}"
            ) from error
        message = first["msg"].removeprefix("Value error, ")
        found = "" if first["type"] == "missing" else f" (found {_found(first['input'])})"
        raise ConfigError(f"{file}: {key}: {message}{found}") from error


def _check_columns(recipe: Recipe) -> None:
    """Every column that a stage reads is written before it, with the same type; a model stage has a model to ask."""
    if recipe.wave is not None and getattr(recipe.model, "engine", "server") == "offline":
        raise ConfigError(
            f"{recipe.file}: waves work at several stages at once, and model.engine=offline at one: leave out `wave`"
        )
    known: dict[str, pa.DataType] = {}
    kinds = [stage.kind for stage in recipe.stages]
    for place, stage in enumerate(recipe.stages):
        if stage.kind == "pack" and place < len(kinds) - 1:
            after = recipe.stages[place + 1].name
            raise ConfigError(
                f"{recipe.file}: stages.{after}: stands after {stage.name}, which packs what all stages left: put it before"
            )
        if stage.kind == "download" and "download" in kinds[:place]:
            raise ConfigError(f"{recipe.file}: stages.{stage.name}: the pictures were downloaded by an earlier stage")
        for operator in stage.operators.values():
            check = getattr(operator, "check", None)
            if check is not None:  # what it reads follows from its settings, such as the expression of select
                try:
                    check(pa.schema(list(known.items())))
                except ValueError as error:
                    raise ConfigError(f"{recipe.file}: stages.{stage.name}: {error}") from error
        for column in stage.reads():
            if column.name not in known:
                if column.name in stage.optional():
                    continue
                hint = " Put a `download` stage before it." if column.name in IMAGE.names else nearest(column.name, list(known))
                raise ConfigError(
                    f"{recipe.file}: stages.{stage.name}: reads column {column.name!r}, which no stage before it writes.{hint}"
                )
            if column.type not in (known[column.name], pa.null()):
                raise ConfigError(
                    f"{recipe.file}: stages.{stage.name}: reads column {column.name!r} as {column.type}, but it is {known[column.name]}"
                )
        if stage.kind == "global" and recipe.wave is not None and not stage.operator.in_waves:
            raise ConfigError(
                f"{recipe.file}: stages.{stage.name} must see all shards at once, so they cannot go in waves: leave out `wave`"
            )
        if stage.kind == "model" and recipe.model is None:
            raise ConfigError(
                f"{recipe.file}: stages.{stage.name} asks a model, but the recipe has no `model` (base_url, name)"
            )
        for column in stage.writes():
            if stage.kind != "source" and column.name in known and column.name in BASE.names:
                raise ConfigError(f"{recipe.file}: stages.{stage.name}: writes {column.name!r}, a column of the source")
            known[column.name] = column.type


__all__ = ["ConfigError", "OperatorBase", "Recipe", "Resources", "Stage", "load_recipe", "nearest", "recipe_names"]
