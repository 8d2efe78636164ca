"""Pages that are made while the site is built, so that they cannot say anything else than the code: commands, operators, prompts,
recipes, examples. Hooks of mkdocs; see manifests/mkdocs.yml."""

from __future__ import annotations

import importlib
import inspect
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
logging.getLogger("jieba").setLevel(logging.ERROR)
EXAMPLES = ROOT / "docs" / "examples"


def on_files(files: Files, config: Any) -> Files:
    for uri, content in pages():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Addresses of files beside docs/ become their paths: on the site there is nothing behind them."""
    if "/" in page.file.src_uri:  # a page in a folder: `..` is still in docs/
        return markdown
    return re.sub(r"\[([^\]]+)\]\(\.\./([^)]+)\)", r"\1 (`\2`)", markdown)


def pages() -> Iterator[tuple[str, str]]:
    """(address, Markdown) of every made page."""
    yield "reference/commands.md", commands()
    yield "reference/operators.md", operators()
    yield "reference/prompts.md", prompts()
    yield "reference/recipes.md", recipes()
    yield "examples.md", examples()


def commands() -> str:
    import typer.main

    from pipelines.cli import app
    from pipelines.help_page import _argument, _option, split

    parts = ["# Commands", "Made from the command line itself; `fineloom COMMAND --help` says the same in the terminal."]

    def walk(command: Any, path: str) -> None:
        children = getattr(command, "commands", None)
        _, text, lines = split(command.help)
        if path != "fineloom":
            parts.append(f"## {path}")
        parts.append(_escape(text))
        parameters = [p for p in command.params if not getattr(p, "hidden", False)]
        rows = [_argument(p) if p.param_type_name == "argument" else _option(p, None) for p in parameters]
        if rows:
            parts.append(_table(("argument or option", "meaning"), [(_code(name), _escape(about)) for name, about in rows]))
        if lines:
            parts.append("```\n" + "\n".join(lines) + "\n```")
        for name, child in (children or {}).items():
            walk(child, f"{path} {name}")

    walk(typer.main.get_command(app), "fineloom")
    return "\n\n".join(parts) + "\n"


def operators() -> str:
    from operators import OPERATORS
    from operators.base import GlobalOperator, ModelOperator

    parts = [
        "# Operators",
        "Made from each operator's docstring, settings and reasons. In a recipe an operator is named as a stage, or in `operator` / "
        "`operators` of one; its settings stand beside it and can be changed as `stages.STAGE.SETTING=VALUE`. How to write one: "
        "[Extending](../extending.md).",
    ]
    rows, pages = [], []
    for name, target in OPERATORS.items():
        module, _, attribute = target.partition(":")
        made = importlib.import_module(module)
        operator = getattr(made, attribute)
        kind = (
            "all samples"
            if issubclass(operator, GlobalOperator)
            else "model"
            if issubclass(operator, ModelOperator)
            else "batch"
        )
        text = inspect.cleandoc(made.__doc__ or "")
        first = re.split(r"(?<=[.;:])\s", " ".join(text.split()), maxsplit=1)[0].rstrip(".;:")
        rows.append((f"[{name}](#{name})", kind, _escape(first)))
        pages.append(f"## {name}")
        pages.append("```text\n" + text + "\n```")
        if operator.model_fields:
            fields = [
                (_code(field), _code(_type(info.annotation)), _code("needed" if info.is_required() else repr(info.default)))
                for field, info in operator.model_fields.items()
            ]
            pages.append(_table(("setting", "type", "default"), fields))
        if operator.reasons:
            pages.append(
                _table(("reason of a refusal", "meaning"), [(_code(k), _escape(v)) for k, v in operator.reasons.items()])
            )
    parts.append(_table(("operator", "sees", "what it does"), rows))
    return "\n\n".join(parts + pages) + "\n"


def prompts() -> str:
    from prompts.load import FOLDER, load

    parts = [
        "# Prompts",
        "What the model is asked: one YAML file each in `prompts/`, with the answer's schema and sampling. Content and "
        "version are part of every fingerprint; `--prompts FOLDER` puts others in their place.",
    ]
    for file in sorted(FOLDER.glob("*.yaml")):
        prompt = load(file.stem)
        parts.append(f"## {prompt.name}")
        parts.append(f"Version {prompt.version}, language of the answer: {prompt.language}.")
        parts.append("```yaml\n" + file.read_text(encoding="utf-8").strip() + "\n```")
    return "\n\n".join(parts) + "\n"


def recipes() -> str:
    from pipelines.config import MANIFESTS, recipe_names

    parts = [
        "# Each recipe",
        "Made from `manifests/recipes` and `manifests/sources`. What they are after, and what differs: [Recipes](../recipes.md).",
    ]
    for name in recipe_names():
        text = (MANIFESTS / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
        raw = yaml.safe_load(text)
        parts.append(f"## {name}")
        parts.append(_escape(raw.get("description", "")) + ".")
        rows = []
        for source in raw["sources"]:
            file = MANIFESTS / "sources" / f"{source}.yaml"
            about = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
            rows.append((_code(source), _code(str(about.get("format", ""))), _escape(str(about.get("about", "")))))
        parts.append(_table(("source", "format", "what it is"), rows))
        parts.append("```yaml\n" + text.strip() + "\n```")
    return "\n\n".join(parts) + "\n"


def examples() -> str:
    parts = ["# Examples", "Whole scripts in `docs/examples`; a test runs each of them at a tiny size."]
    for file in sorted(EXAMPLES.glob("*.py")):
        text = file.read_text(encoding="utf-8")
        parts.append(f"## {file.stem.replace('_', ' ').capitalize()}")
        parts.append(f"`docs/examples/{file.name}`")
        parts.append("```python\n" + text.strip() + "\n```")
    return "\n\n".join(parts) + "\n"


def _type(annotation: Any) -> str:
    arguments = get_args(annotation)
    if not arguments:
        return getattr(annotation, "__name__", str(annotation)).replace("NoneType", "null")
    return re.sub(r"\b\w+\.(?=\w)", "", str(annotation)).replace("NoneType", "null").replace("None", "null")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows])


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _escape(text: str) -> str:
    """Plain words as Markdown; what stands in backticks stays as it is."""
    pieces = text.split("`")
    return "`".join(piece if i % 2 else re.sub(r"([<*_\[\]])", r"\\\1", piece) for i, piece in enumerate(pieces))
