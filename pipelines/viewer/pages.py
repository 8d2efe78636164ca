"""The templates of the pages. Every text of strangers passes `clean` (control and direction characters) and Jinja's escaping."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipelines.report.page import HERE as REPORT
from pipelines.report.page import clean, count, mark, percent
from pipelines.viewer.language import NAMES, TAGS, speaker

HERE = Path(__file__).parent
ORIGINS = ("source", "model", "lexical", "human")


def link(path: str, **query: Any) -> str:
    """An address on this server; parts of it that hold nothing are left out."""
    kept = {key: value for key, value in query.items() if value not in (None, "", False)}
    return quote(path) + (f"?{urlencode(kept)}" if kept else "")


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def environment(*folders: Path) -> Environment:
    made = Environment(
        loader=FileSystemLoader([*folders, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    made.filters.update(count=count, value=_value, sumof=lambda counter: sum(counter.values()))
    made.globals.update(link=link, mark=mark, percent=percent, origins=ORIGINS, languages=NAMES, tags=TAGS)
    return made


_PAGES = environment()


def render(template: str, language: str, pages: Environment = _PAGES, **content: Any) -> str:
    return pages.get_template(f"{template}.html.j2").render(_=speaker(language), language=language, **content)


def style() -> str:
    """The report's look, and what these pages have beside it."""
    return (REPORT / "report.css").read_text(encoding="utf-8") + (HERE / "viewer.css").read_text(encoding="utf-8")


def script() -> str:
    return (HERE / "viewer.js").read_text(encoding="utf-8")
