"""The pages' words in two languages: the catalogue is whole, the visitor's language is found, the switch leads back here only."""

import ast
import re
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from pipelines import review, viewer
from pipelines.review import app as review_app
from pipelines.viewer.language import choose, language_of, speaker, words

FOLDERS = [Path(module.__file__).parent for module in (viewer, review)]
SAYING = {"NotThere", "Told", "say", "speaker"}


def in_templates():
    """Texts of `_("…")`, of every constant text in a `_(… if … else …)` too."""
    for folder in FOLDERS:
        for file in [*folder.glob("*.j2"), FOLDERS[0].parent / "compare.html.j2"]:
            for call in re.finditer(r'\b_\(("(?:[^"\\]|\\.)*"(?: if [^"]* else "(?:[^"\\]|\\.)*")?)', file.read_text("utf-8")):
                yield from re.findall(r'"((?:[^"\\]|\\.)*)"', call[1])


def in_code():
    """Texts that the pages' code tells: constant arguments of NotThere, Told and say."""
    for folder in FOLDERS:
        for file in folder.glob("*.py"):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") in SAYING:
                    if file.name == "__init__.py":
                        continue  # at the terminal
                    for argument in node.args[:2]:
                        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                            yield argument.value
                for keyword in node.keywords if isinstance(node, ast.Call) else ():
                    if keyword.arg == "text" and isinstance(keyword.value, ast.Constant):
                        yield keyword.value.value
    yield from (review_app.UNREAD, review_app.NO_PAGE, review_app.CLOSED, *review_app.REASONS.values(), *review_app.VERDICTS)


def test_every_text_of_the_pages_is_in_the_catalogue_and_nothing_else_is():
    said = {*in_templates(), *in_code()}
    assert len(said) > 120
    assert said - {*words("zh")} == set() and {*words("zh")} - said == set()


def test_a_translation_keeps_the_values_of_its_text():
    for english, chinese in words("zh").items():
        assert sorted(re.findall(r"\{\w+\}", english)) == sorted(re.findall(r"\{\w+\}", chinese)), english
        assert re.search("[\u4e00-\u9fff]", chinese), english


def asked(**headers):
    found = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": found})


@pytest.mark.parametrize(
    ("header", "language"),
    [("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("en-GB,zh;q=0.5", "en"), ("fr", "en"), ("", "en"), ("zh;q=x,en", "en"), ("*", "en")],
)
def test_the_browsers_language_is_spoken(header, language):
    assert language_of(asked(accept_language=header)) == language


def test_the_switch_outweighs_the_browser():
    assert language_of(asked(accept_language="zh", cookie="fineloom_language=en")) == "en"
    assert language_of(asked(accept_language="zh", cookie="fineloom_language=xx")) == "zh"


@pytest.mark.parametrize(
    ("back", "to"),
    [
        ("/a/?q=1", "/a/?q=1"),
        ("//evil.example", "/"),
        ("https://evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/\r\nX: y", "/"),
    ],
)
def test_the_switch_leads_back_to_this_server_only(back, to):
    routes = [Route("/language", choose), Route("/{rest:path}", lambda _: PlainTextResponse(""))]
    answer = TestClient(Starlette(routes=routes)).get("/language", params={"to": "zh", "back": back}, follow_redirects=False)
    assert answer.headers["location"] == to and "fineloom_language=zh" in answer.headers["set-cookie"]


def test_values_are_put_in_whatever_they_hold():
    assert speaker("zh")("{n} bytes", n="{0}{x}") == "{0}{x} 字节"
    assert speaker("en")("{n} bytes", n=3) == "3 bytes" and speaker("zh")("not in the catalogue") == "not in the catalogue"
