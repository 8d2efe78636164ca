"""The pages' own words in two languages: English in the templates, Chinese in words.zh.yaml, which has every one of them.

A visitor's language is what the switch on the page set, else what the browser asks for, else English.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

NAMES = {"en": "English", "zh": "中文"}
TAGS = {"en": "en", "zh": "zh-Hans"}
COOKIE = "fineloom_language"
Say = Callable[..., str]


@cache
def words(language: str) -> dict[str, str]:
    if language == "en":
        return {}
    text = (Path(__file__).parent / f"words.{language}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)  # type: ignore[no-any-return]


def speaker(language: str) -> Say:
    """text, values → the text in that language with the values in it; a text that is not in the catalogue stays English."""
    known = words(language)

    def say(text: str, **values: Any) -> str:
        told = known.get(text, text)
        return told.format(**values) if values else told

    return say


def language_of(request: Request) -> str:
    chosen = request.cookies.get(COOKIE)
    if chosen in NAMES:
        return chosen
    best, weight = "en", 0.0
    for part in request.headers.get("accept-language", "").split(",")[:20]:
        tag, _, q = part.strip().partition(";q=")
        language = tag.split("-")[0].strip().lower()
        try:
            wanted = float(q or 1)
        except ValueError:
            continue
        if language in NAMES and wanted > weight:
            best, weight = language, wanted
    return best


def switch(request: Request) -> dict[str, str]:
    """Language → the address that chooses it and leads back here. The one in use is left out."""
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return {to: f"/language?{urlencode({'to': to, 'back': here})}" for to in NAMES if to != language_of(request)}


def choose(request: Request) -> Response:
    """Remember the language and go back, to a page of this server only."""
    to, back = request.query_params.get("to"), request.query_params.get("back", "/")
    if not back.startswith("/") or back.startswith(("//", "/\\")) or any(c in back for c in "\r\n\t"):
        back = "/"
    answer = RedirectResponse(back, 303)
    if to in NAMES:
        answer.set_cookie(COOKIE, to, max_age=365 * 86400, samesite="lax", httponly=True)
    return answer
