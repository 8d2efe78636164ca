"""From what was gathered to one HTML file that asks for nothing and runs nothing.

Every text of strangers passes `clean` and then Jinja's escaping, both for all output at once, so no template can forget them.
A content security policy in the page forbids scripts and requests even so.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pipelines.counted import counted

HERE = Path(__file__).parent
LONGEST = 3000
"""Characters of one text that are shown."""
BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean(text: str) -> str:
    """Control, bidi-control, unassigned-plane tag and broken characters made visible as ⟨U+202E⟩; endless texts cut."""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}… ({len(text):,} characters)"
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(c) for c in text)


def _shown(c: str) -> str:
    if c in "\n\t":
        return c
    hidden = c in BIDI or "\U000e0000" <= c <= "\U000e007f" or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")
    return f"⟨U+{ord(c):04X}⟩" if hidden else c


def mark(text: str, start: int, end: int) -> Markup:
    """`text` with its changed characters marked."""
    start, end = max(0, min(start, len(text))), max(0, min(end, len(text)))
    before, changed, after = (escape(clean(part)) for part in (text[:start], text[start:end], text[end:]))
    return before + Markup("<mark>") + changed + Markup("</mark>") + after


def count(value: float) -> str:
    return f"{value:,.0f}"


def percent(part: float, whole: float) -> str:
    """Never 0 % of something nor 100 % of less than all."""
    if not whole:
        return "–"
    share = 100 * part / whole
    if 0 < share < 0.1:
        return "< 0.1 %"
    if 99.9 < share < 100:
        return "> 99.9 %"
    return f"{share:.0f} %" if share in (0, 100) else f"{share:.1f} %"


def size(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600):,} h {int(seconds % 3600 // 60)} min"


def render(**content: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.filters.update(count=count, counted=counted, size=size, duration=duration)
    environment.globals.update(percent=percent, mark=mark)
    style = Markup((HERE / "report.css").read_text(encoding="utf-8"))  # ours, and no stranger's text is in it
    return environment.get_template("report.html.j2").render(style=style, **content)
