"""Named evaluations: `load_suite("official", ["root=data", "only=[lit_cn]"])`. Settings are key=value, as in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from fgclip2_train.config import parse_value
from fgclip2_train.evaluation.settings import KINDS, EvaluationSettings, PictureSettings
from fgclip2_train.strict import Name, Strict, explain, suggest

SUITES = Path(__file__).parent
Kind = TypeVar("Kind", bound=EvaluationSettings)


def load_suite(
    suite: str | Path | None, overrides: Sequence[str] = (), sets: Mapping[str, Any] | None = None
) -> EvaluationSettings:
    """A suite (a name, a YAML file, or none) with `key.sub=value` and further sets laid over it."""
    given: dict[str, Any] = {"sets": dict(sets or {})}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ValueError(f"{override!r} is not a setting: write key.sub=value, for instance sets.lit_cn.lower=false")
        value: Any = parse_value(text)
        for part in reversed(key.split(".")):
            value = {part: value}
        given = merge(given, value)
    return build(EvaluationSettings, given, suite, "evaluation settings")


def build(model: type[Kind], given: Mapping[str, Any], suite: str | Path | None, where: str) -> Kind:
    """Settings of `model` from values laid over a suite's. Raises ValueError that names key and nearest valid one."""
    values = merge(_read(_find(suite)), given) if suite else dict(given)
    defaults = _mapping(values.pop("defaults", None), f"{where}: defaults")
    named = _mapping(values.get("sets"), f"{where}: sets")
    for kind, own in defaults.items():
        if kind != "all" and kind not in KINDS:
            raise ValueError(f"{where}: defaults.{kind}: no such kind of set.{suggest(kind, KINDS)}")
        _mapping(own, f"{where}: defaults.{kind}")
    try:
        values["sets"] = {name: _whole(name, own, defaults) for name, own in named.items()}
        settings = model.model_validate(values)
    except ValidationError as error:
        problems = [problem | {"loc": _without_kind(problem["loc"])} for problem in error.errors()]
        told = explain(problems, values, lambda path: _known(path, model, values))
        raise ValueError("\n".join(f"{where}: {line}" for _, line in told)) from None
    if settings.only == []:
        raise ValueError(f"{where}: only: no set is named; null takes all. Sets: {', '.join(settings.sets)}")
    unknown = [name for name in settings.only or [] if name not in settings.sets]
    if unknown:
        raise ValueError(
            f"{where}: only: no set {unknown[0]!r}.{suggest(unknown[0], settings.sets)} Sets: {', '.join(settings.sets)}"
        )
    return settings


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{where}: must be a mapping (found {value!r})")
    return value or {}


def _whole(name: str, own: Any, defaults: Mapping[str, Any]) -> Any:
    """A set's values over its kind's and everybody's defaults, where the kind has such a setting."""
    if isinstance(own, PictureSettings):
        return own
    if not isinstance(own, Mapping) or own.get("kind") not in list(KINDS):
        found = own.get("kind") if isinstance(own, Mapping) else own
        raise ValueError(f"sets.{name}: kind is {found!r}; it must be one of {', '.join(KINDS)}.{suggest(str(found), KINDS)}")
    return merge(merge(defaults.get("all") or {}, defaults.get(own["kind"]) or {}), own)


def _find(suite: str | Path) -> Path:
    file = Path(suite)
    if file.suffix in (".yaml", ".yml"):
        if not file.is_file():
            raise FileNotFoundError(f"no suite file {file}")
        return file
    known = sorted(path.stem for path in SUITES.glob("*.yaml"))
    if str(suite) not in known:
        raise ValueError(f"no suite {str(suite)!r}.{suggest(str(suite), known)} Suites: {', '.join(known)}, or a YAML file")
    return SUITES / f"{suite}.yaml"


def _read(file: Path, within: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What the file says, over what the one says that it extends."""
    try:
        values = yaml.safe_load(file.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not YAML ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file}: a suite is a mapping, this is {type(values).__name__}")
    parent = values.pop("extends", None)
    if not parent:
        return values
    if _find(parent) in (*within, file):
        raise ValueError(f"{file}: extends {parent}, which extends it")
    return merge(_read(_find(parent), (*within, file)), values)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _without_kind(place: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """pydantic names a set's kind, by which it found the right model, behind the set."""
    return (*place[:2], *place[3:]) if place[:1] == ("sets",) else place


def _known(path: Name, model: type[Strict], values: Mapping[str, Any]) -> Any:
    """Names that the settings at a place may have."""
    of_a_set = len(path) == 2 and path[0] == "sets"
    return KINDS[values["sets"][path[1]]["kind"]].model_fields if of_a_set else model.model_fields
