"""Load the versioned prompts: what the model is asked, with which answer schema and sampling settings.

A prompt is one YAML file; its keys are the fields of `Prompt`. Templates are Jinja; `{% include "parts/x.txt" %}` is replaced
by that file's text when the prompt is loaded, so that a fingerprint of `Prompt.content()` sees a change in the included file.

What is sent: a system message (fixed text, so that the server's prefix cache holds it for all pictures), then one user
message: the picture first, then the rendered user text. Several questions about one picture thus share system text and picture.
"""

from __future__ import annotations

import difflib
import functools
import re
import unicodedata
from pathlib import Path
from typing import Any, Literal

import yaml
from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import SandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

FOLDER = Path(__file__).parent
INCLUDE = re.compile(r"""\{%-?\s*include\s+["']([^"']+)["']\s*-?%\}""")
SPECIAL = re.compile(r"<\|([^|<>]{0,40})\|>")
"""Chat-control tokens such as <|im_end|>: in a stranger's text they would end the message and begin another."""


@functools.cache
def _environment() -> SandboxedEnvironment:
    return SandboxedEnvironment(undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True)


@functools.cache
def _template(text: str) -> Template:
    """Compiled once: a prompt is rendered for every request."""
    return _environment().from_string(text)


class Prompt(BaseModel):
    """One question to the model.

    language       of the texts that come back: "en", "zh", or "any" where they follow the variables
    answer_schema  JSON schema of the answer, enforced by the server; None: free text. Every string and list in it is bounded,
                   so that a model that never stops still ends with a whole answer
    sampling       parameters of the request: temperature, max_tokens, top_p, seed …
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: int = Field(ge=1)
    language: Literal["en", "zh", "any"]
    system: str
    user: str
    answer_schema: dict[str, Any] | None
    sampling: dict[str, float | int]

    @model_validator(mode="after")
    def _check(self) -> Prompt:
        try:
            asked = self._undeclared(self.system)
            self._undeclared(self.user)
        except TemplateError as error:
            raise ValueError(f"prompt {self.name}: bad template: {error}") from None
        if asked:
            raise ValueError(
                f"prompt {self.name}: variables {sorted(asked)} in `system`; put them in `user`, or nothing can be cached"
            )
        if "max_tokens" not in self.sampling:
            raise ValueError(f"prompt {self.name}: sampling needs max_tokens, or a looping answer never ends")
        return self

    @staticmethod
    @functools.cache
    def _undeclared(template: str) -> frozenset[str]:
        return frozenset(meta.find_undeclared_variables(_environment().parse(template)))

    @property
    def variables(self) -> frozenset[str]:
        """Names that `render` wants."""
        return self._undeclared(self.user)

    def render(self, variables: dict[str, Any]) -> tuple[str, str]:
        """The system and user texts. A missing or unknown variable is a ValueError.

        Values are data: they are never read as templates, and chat-control tokens in them are broken up.
        """
        wanted = self.variables
        missing, unknown = sorted(wanted - variables.keys()), sorted(variables.keys() - wanted)
        if missing or unknown:
            raise ValueError(
                f"prompt {self.name}: missing variables {missing}, unknown variables {unknown}; it takes {sorted(wanted)}"
            )
        system = _template(self.system).render()
        user = _template(self.user).render(_harmless(variables))
        return system.strip(), user.strip()

    def capped(self, tokens: int | None) -> Prompt:
        """The same question with no more room for the answer than that."""
        if tokens is None or self.sampling["max_tokens"] <= tokens:
            return self
        return self.model_copy(update={"sampling": {**self.sampling, "max_tokens": tokens}})

    def content(self) -> dict[str, Any]:
        """Everything that decides what is asked, in canonical form (NFC, LF, includes expanded), for fingerprints."""
        return _canonical(self.model_dump())


def _harmless(value: Any) -> Any:
    if isinstance(value, str):
        return SPECIAL.sub(r"<\1>", value)
    if isinstance(value, dict):
        return {key: _harmless(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_harmless(item) for item in value]
    return value


def _canonical(value: Any) -> Any:
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value.replace("\r\n", "\n").replace("\r", "\n"))
    if isinstance(value, dict):
        return {_canonical(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return value


def names(folder: Path | None = None) -> list[str]:
    """Names of all prompts in a folder."""
    return sorted(path.stem for path in (folder or FOLDER).glob("*.yaml"))


@functools.lru_cache(maxsize=256)
def load(name: str, folder: Path | None = None) -> Prompt:
    """The prompt `name` of `folder` (default: the project's own). ValueError with the nearest valid name when there is none."""
    root = folder or FOLDER
    path = root / f"{name}.yaml"
    known = names(root)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, 0.5)
        hint = f" Did you mean {near[0]}?" if near else f" Known: {', '.join(known) or 'none'}."
        raise ValueError(f"{root}: no prompt {name!r}.{hint}")
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise ValueError("expected a mapping of keys")
        if fields.get("name") != name:
            raise ValueError(f"`name` is {fields.get('name')!r}, the file's name says {name!r}")
        for key in ("system", "user"):
            if isinstance(fields.get(key), str):
                fields[key] = _expand(fields[key], root)
        return Prompt.model_validate(fields)
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'prompt'}: {e['msg']}" for e in error.errors())
        raise ValueError(f"{path}: {lines}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _expand(text: str, root: Path, inside: tuple[str, ...] = ()) -> str:
    """Put included files in place; they are looked for in `root`, then among the project's own."""

    def replace(match: re.Match[str]) -> str:
        target = match[1]
        if target in inside:
            raise ValueError(f"{target} includes itself")
        for base in (root, FOLDER):
            path = (base / target).resolve()
            if path.is_relative_to(base.resolve()) and path.is_file():
                return _expand(path.read_text(encoding="utf-8").strip(), root, (*inside, target))
        raise ValueError(f"included file {target} not found")

    return INCLUDE.sub(replace, text)
