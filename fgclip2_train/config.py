"""Configuration of a training run: a preset's YAML, one stage of it, and `key.sub=value` overrides, validated as one model."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from fgclip2_train.data.loader import DataSettings
from fgclip2_train.evaluation.settings import DuringTraining
from fgclip2_train.objective import LossSettings
from fgclip2_train.strict import Name, Strict, Threads, explain, suggest

PRESETS = Path(__file__).parent / "presets"
Model = TypeVar("Model", bound=BaseModel)
Beta = Annotated[float, Field(ge=0, lt=1)]


class ModelSettings(Strict):
    """Where the weights come from: `start` (a folder or hub name, FG-CLIP 2 or plain SigLIP 2), or random ones of a `size`."""

    start: str | None = None
    size: Literal["tiny", "base", "large", "so400m"] | None = "base"
    """null: no random model, so `start` must be given."""
    tokenizer: str | None = None
    """Folder or hub name; "train" makes a small one from the shards' texts; by default the one beside `start`."""
    vocabulary: int = Field(default=4000, ge=300, le=1_000_000)
    """Size of a trained tokenizer, and of a random model without tokenizer of its own."""
    logit_scale: float = Field(default=2.3026, ge=-10, le=20)
    """Start of a random model's log temperature and bias: ln 10 and -10, SigLIP's."""
    logit_bias: float = Field(default=-10.0, ge=-100, le=100)
    recopy_region_heads: bool = False
    """Copy box head and dense head again at the start of stage 2; needed where stage 1 started from random weights."""


class OptimizerSettings(Strict):
    """AdamW. Decay applies outside LayerNorm to every parameter without "bias" in its name, temperatures included."""

    lr: float = Field(default=1e-6, gt=0, le=1)
    weight_decay: float = Field(default=0.001, ge=0, le=1000)
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    eps: float = Field(default=1e-6, gt=0, le=1)
    warmup: float = Field(default=0.03, ge=0)
    """Below 1 a share of all steps, else a number of steps; then a cosine down to zero."""
    clip: float | None = Field(default=None, gt=0)
    """Largest gradient norm; the released code clips nothing."""


class SaveSettings(Strict):
    every: int = Field(default=2000, ge=1)
    keep: int = Field(default=3, ge=1)


class Settings(Strict):
    """Everything that decides a run's result, and where it goes."""

    stage: Literal[1, 2]
    out: str = Field(min_length=1)
    seed: int = Field(default=0, ge=0, lt=2**62)
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    loss: LossSettings = LossSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    batch: int = Field(default=512, ge=1)
    """Pairs per process and step."""
    accumulate: int = Field(default=1, ge=1)
    """Encode a step's batch in this many parts; the losses still see all of it (two passes, exact gradient)."""
    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    """Length of the run if `steps` is not given; counts the shards' samples first."""
    precision: Literal["fp32", "bf16"] = "bf16"
    checkpoint_layers: bool = False
    compile: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Threads | None = None
    log_every: int = Field(default=10, ge=1, le=100_000)
    wandb: str | None = None
    """Project of Weights & Biases to log to as well."""
    save: SaveSettings = SaveSettings()
    evaluate: DuringTraining | None = None
    """Evaluation on its own period; null for none."""
    preset: str = ""
    """Where these settings came from; written by the program, recorded with every result."""

    @model_validator(mode="after")
    def _boxes_stay_where_they_are(self) -> Settings:
        if self.regional and self.data.augment.crop < 1:
            raise ValueError(
                "data.augment.crop is for stage 1: in stage 2 the boxes would not move along with a cropped picture"
            )
        return self

    @model_validator(mode="after")
    def _parts_are_equal(self) -> Settings:
        if self.batch % self.accumulate:
            raise ValueError(f"batch={self.batch} cannot be cut into accumulate={self.accumulate} equal parts")
        return self

    @model_validator(mode="after")
    def _something_is_learnt(self) -> Settings:
        counted = self.loss.weights.model_dump()
        if not any(counted.values() if self.regional else (counted["short"], counted["long"])):
            raise ValueError(f"loss.weights: every term of stage {self.stage} has the weight 0, so nothing would be learnt")
        return self

    @property
    def regional(self) -> bool:
        return self.stage == 2


def load_settings(preset: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """Settings of a preset (a name, or a YAML file) for the stage that the overrides or the preset choose.

    A preset may `extend` another one, which it outranks in all that it says, and holds per-stage differences under `stages`. Raises
    ValueError naming file, key and the nearest valid key.
    """
    file = find_preset(preset)
    files = _read(file)
    given = dict(_parse(override) for override in overrides)
    if "preset" in given:
        raise ValueError(f"preset is no setting but what settings begin with: --preset {given['preset']}")
    stage = given.get("stage", next((values["stage"] for _, values in reversed(files) if "stage" in values), None))
    if stage not in (1, 2):
        known = list(Settings.model_fields)
        for name in (key.partition(".")[0] for key in given):
            if name not in known:  # "stag=1"
                raise ValueError(f"{file}: {name}: no such setting.{suggest(name, known)}")
        raise ValueError(f"{file}: say which stage to train: stage=1 (global alignment) or stage=2 (regions), not {stage!r}")
    said: list[tuple[str, Mapping[str, Any]]] = []
    for where, values in files:
        stages = values.pop("stages", {})
        said.append((str(where), _merge(values, stages.get(stage) or {})))
    said += [("command line", _nest(key.split("."), value)) for key, value in given.items()]
    merged = functools.reduce(_merge, (values for _, values in said), {"preset": str(preset)})
    return validate_as(Settings, merged, lambda name: _said_in(name, said) or str(file))


def validate(values: Mapping[str, Any], where: str) -> Settings:
    return validate_as(Settings, values, lambda name: where)


def override(model: type[Model], overrides: Sequence[str]) -> Model:
    """A model's defaults with `key.sub=value` laid over them."""
    values: dict[str, Any] = {}
    for key, value in map(_parse, overrides):
        values = _merge(values, _nest(key.split("."), value))
    return validate_as(model, values, lambda name: "settings")


def validate_as(model: type[Model], values: Mapping[str, Any], where: Callable[[Name], str]) -> Model:
    """where: a setting's file"""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        told = explain(error.errors(), values, lambda name: _fields(name, model))
        raise ValueError("\n".join(f"{where(name)}: {line}" for name, line in told)) from None


def _said_in(name: Name, said: Sequence[tuple[str, Mapping[str, Any]]]) -> str | None:
    """Which of several settings laid over one another holds this one, the last first."""
    return next((where for where, values in reversed(said) if name and _holds(values, name)), None)


def _holds(values: Any, name: Name) -> bool:
    for part in name:
        if isinstance(values, Mapping) and part not in values:
            return False
        values = values[part] if isinstance(values, Mapping) else values
    return True


def changed(before: Mapping[str, Any], now: Mapping[str, Any], under: str = "") -> Iterator[str]:
    """Which settings that decide a result are not what they were: "data.patches 64 → 128"."""
    for key, value in now.items():
        old, name = before.get(key), f"{under}{key}"
        if isinstance(value, Mapping) and isinstance(old, Mapping) and key not in _WHOLE:
            yield from changed(old, value, f"{name}.")
        elif value != old and name not in _OF_NO_MATTER and not name.startswith(("save.", "evaluate.")):
            yield f"{name} {old} → {value}"


_OF_NO_MATTER = ("out", "preset", "threads", "device", "log_every", "wandb", "save", "evaluate")
"""To what is learnt."""


def find_preset(preset: str | Path) -> Path:
    file = Path(preset)
    if file.suffix in (".yaml", ".yml"):
        if not file.is_file():
            raise FileNotFoundError(f"no preset file {file}")
        return file
    known = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    if str(preset) not in known:
        raise ValueError(f"no preset {str(preset)!r}.{suggest(str(preset), known)} Presets: {', '.join(known)}")
    return PRESETS / f"{preset}.yaml"


def _read(file: Path, within: tuple[Path, ...] = ()) -> list[tuple[Path, dict[str, Any]]]:
    """What the file says, after what those say that it extends."""
    try:
        values = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not YAML ({' '.join(str(error).split())})") from None
    values = {} if values is None else values
    stages = values.get("stages", {}) if isinstance(values, dict) else None
    if not isinstance(stages, dict) or not all(isinstance(one, dict) or one is None for one in stages.values()):
        raise ValueError(f"{file}: settings are written `key: value`, and `stages` holds them by stage")
    if strange := [stage for stage in stages if stage not in (1, 2)]:
        raise ValueError(f"{file}: stages: there are 1 and 2, and no {strange[0]!r}")
    parent = values.pop("extends", None)
    if parent is None:
        return [(file, values)]
    if find_preset(parent) in (*within, file):
        raise ValueError(f"{file}: extends {parent}, which extends it")
    return [*_read(find_preset(parent), (*within, file)), (file, values)]


def _parse(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ValueError(f"{override!r} is not an override: write key.sub=value, for instance optimizer.lr=1e-5")
    return key, parse_value(text)


def parse_value(text: str) -> Any:
    """What stands behind the = of an override."""
    try:
        return yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        raise ValueError(
            f"{text!r} is not a value: lists are written [a, b], mappings {{en: 2, zh: 1}}, and odd texts in quotes"
        ) from None


def _nest(keys: Sequence[str], value: Any) -> dict[str, Any]:
    return {keys[0]: _nest(keys[1:], value) if len(keys) > 1 else value}


_WHOLE = ("languages", "sources")
"""Mappings that an override replaces: {en: 1} means English only, not "English too"."""


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping) and key not in _WHOLE
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _fields(path: Sequence[str], model: Any) -> list[str]:
    by_name = False  # the next part is a key of a mapping, not a setting
    for part in path:
        if by_name:
            by_name = False
            continue
        annotation = model.model_fields[part].annotation if part in getattr(model, "model_fields", {}) else None
        by_name = typing.get_origin(annotation) is dict
        options = [annotation, *typing.get_args(annotation)]
        model = next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), None)
        if model is None:
            return []
    return list(model.model_fields)
