"""What all settings are made of: nothing unknown, no infinite numbers, no `yes` for a number; and what is wrong with them in words."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = tuple[str, ...]
"""The parts of a setting's name."""
Weight = Annotated[float, Field(ge=0, le=1e12)]
"""Of what is mixed: a share, or how many samples there are."""
Threads = Annotated[int, Field(ge=1, le=1024)]
"""Or processes, of one machine."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _yes_is_no_number(cls, values: Any) -> Any:
        """YAML reads yes, no, on and off as truth values, and Python takes those for 1 and 0: as words they are refused."""
        if not isinstance(values, Mapping):
            return values
        return {
            name: str(value).lower() if isinstance(value, bool) and cls._takes_no_truth(name) else value
            for name, value in values.items()
        }

    @classmethod
    def _takes_no_truth(cls, name: str) -> bool:
        kind = cls.model_fields[name].annotation if name in cls.model_fields else bool
        return not {kind, *typing.get_args(kind)} & {bool, str}


def explain(
    problems: Iterable[Mapping[str, Any]], values: Mapping[str, Any], known: Callable[[Name], Iterable[str]]
) -> Iterator[tuple[Name, str]]:
    """Setting and what is wrong with it, one for each setting; of a list's items the first wrong one, and nothing of the list itself.

    problems: of pydantic's ValidationError     known: names that a mapping of settings may have
    """
    places: dict[Name, list[Any]] = {}
    for problem in problems:
        places.setdefault(_place(problem, values), []).append(problem)
    for path in _telling(list(places), values):
        several = places[path]
        first, name = several[0], ".".join(path)
        if first["type"] == "extra_forbidden":
            yield path, f"{name}: no such setting.{suggest(path[-1], known(path[:-1]), path[:-1])}"
        elif first["type"] == "missing":
            yield path, f"{name}: not given, and it has no default"
        elif first["type"] == "value_error":
            # What only several settings together show names them itself.
            said = first["msg"].removeprefix("Value error, ")
            yield path, said if isinstance(first["input"], (Mapping, BaseModel)) else f"{name}: {said}"
        else:
            # Those of another input are of a value whose name in a mapping is wrong.
            several = [problem for problem in several if problem["input"] is first["input"]]
            said = "; ".join(dict.fromkeys(problem["msg"] for problem in several))
            wanted = said.replace("; Input should be", " or").replace("Input should be", "must be")
            wanted = re.sub(r"valid dictionary or instance of \w+", "mapping of settings", wanted)
            choices = re.findall(r"'([^']+)'", " ".join(problem.get("ctx", {}).get("expected", "") for problem in several))
            yield path, f"{name}: {wanted} (found {first['input']!r}).{suggest(str(first['input']), choices)}"


def _telling(paths: Sequence[Name], values: Any) -> Iterator[Name]:
    """Where several kinds were tried, a list may be found wrong both as no text and in its items: those say more."""
    items: set[Name] = set()
    for path in paths:
        within = path[:-1]
        if any(longer[: len(path)] == path for longer in paths if len(longer) > len(path)):
            continue
        if isinstance(_value(values, within), (list, tuple)):
            if within in items:
                continue
            items.add(within)
        yield path


def _value(values: Any, name: Name) -> Any:
    for part in name:
        named = values.items() if isinstance(values, Mapping) else enumerate(values)
        values = next((value for key, value in named if str(key) == part), None)
    return values


def _place(problem: Mapping[str, Any], values: Any) -> Name:
    """Where a problem lies in what was given: pydantic's own way there also names the kinds that it tried."""
    path = []
    for number, part in enumerate(problem["loc"]):
        there = part in values if isinstance(values, Mapping) else isinstance(part, int) and isinstance(values, (list, tuple))
        if there and not (isinstance(part, int) and part >= len(values)):
            values = values[part]
            path.append(str(part))
        elif problem["type"] == "missing" and number == len(problem["loc"]) - 1:
            path.append(str(part))
    return tuple(path)


def suggest(word: str, known: Iterable[str], path: Sequence[str] = ()) -> str:
    """What an error ends with: the nearest name, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {'.'.join([*path, near[0]])}?" if near else ""
