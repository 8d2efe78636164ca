"""Refuse samples whose captions hold a word of a list, or whose picture comes from a host of a list.

Reads    `column`   list<string> or string (`captions` by default); `url` where hosts are given
Writes   nothing
Refuses  "blocked_word"   a caption (`when: any`) or every caption (`when: all`) holds a word of the list
         "blocked_host"   the picture's host is on the list, or below one that is
Source   word lists and host lists are the user's: `words`, `hosts` in the recipe, or files of one a line (# begins a remark)

Words are compared after NFKC, without case and invisible characters, in Simplified script; Latin ones as whole words, those with Han
characters anywhere. Hosts are compared as they are asked for (中文.example is xn--fiq228c.example). The lists' content, not their
place, is part of what the stage was made from.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, Literal, Self
from urllib.parse import urlsplit

import pyarrow as pa
from PIL import Image
from pydantic import Field, PrivateAttr, model_validator

from operators.base import Operator, Outcome, keep
from operators.columns import BASE
from operators.validators.language import converter

MAX_CHARS = 4000
"""Of a caption that are looked at."""
HAN = re.compile(r"[\u3400-\u9fff]")
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff]")
"""Between the letters of a word they hide it from a search, and from nobody's eyes."""
WORD = re.compile(r"[^\W_]+")


def plain(text: str) -> str:
    text = " ".join(INVISIBLE.sub("", unicodedata.normalize("NFKC", text[:MAX_CHARS]).casefold()).split())
    return str(converter().convert(text)) if HAN.search(text) else text


def host_of(url: str | None) -> str:
    """The host as it is asked for, empty where there is none."""
    try:
        return as_asked(urlsplit(url or "").hostname or "")
    except ValueError:
        return ""


def as_asked(host: str) -> str:
    """Lower case, ASCII, without the dot at the end."""
    with suppress(UnicodeError):  # no name of a host, or one that only newer rules know
        host = host.encode("idna").decode()
    return host.lower().strip(" .")


def read_list(file: str) -> list[str]:
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 at byte {error.start}") from None
    return [line for line in (line.partition("#")[0].strip() for line in lines) if line]


class Blocklist(Operator):
    column: str = "captions"
    words: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    word_file: str | None = Field(None, exclude=True)
    host_file: str | None = Field(None, exclude=True)
    when: Literal["any", "all"] = "any"
    content: str = Field("", description="filled in: checksum of the lists' content")

    _tokens: frozenset[str] = PrivateAttr(default=frozenset())
    _phrases: re.Pattern[str] | None = PrivateAttr(default=None)
    _hosts: frozenset[str] = PrivateAttr(default=frozenset())

    version: ClassVar[int] = 2
    reasons: ClassVar[dict[str, str]] = {
        "blocked_word": "a caption holds a word of the list",
        "blocked_host": "the picture's host is on the list",
    }

    @model_validator(mode="after")
    def _prepare(self) -> Self:
        words = {plain(word) for word in [*self.words, *(read_list(self.word_file) if self.word_file else [])]} - {""}
        hosts = {as_asked(host) for host in [*self.hosts, *(read_list(self.host_file) if self.host_file else [])]} - {""}
        if not (words or hosts or self.word_file or self.host_file):
            raise ValueError("nothing to look for: give words, word_file, hosts or host_file")
        self._tokens = frozenset(word for word in words if WORD.fullmatch(word) and not HAN.search(word))
        rest = sorted(words - self._tokens, key=lambda word: (-len(word), word))
        bound = [re.escape(word) if HAN.search(word) else rf"(?<![^\W_]){re.escape(word)}(?![^\W_])" for word in rest]
        self._phrases = re.compile("|".join(bound)) if bound else None
        self._hosts = frozenset(hosts)
        if self.word_file or self.host_file:
            listed = "\n".join([*sorted(words), "", *sorted(hosts)])
            object.__setattr__(self, "content", sha256(listed.encode("utf-8", "replace")).hexdigest())
        return self

    @property
    def reads(self) -> pa.Schema:
        kind = BASE.field(self.column).type if self.column in BASE.names else pa.string()
        fields = {self.column: kind} | ({"url": pa.string()} if self._hosts else {})
        return pa.schema(list(fields.items()))

    @property
    def writes(self) -> pa.Schema:
        return pa.schema([])

    def blocked(self, text: str) -> str | None:
        """The word that stands in the text, if any."""
        text = plain(text)
        found = next((token for token in WORD.findall(text) if token in self._tokens), None) if self._tokens else None
        if found is None and self._phrases is not None and (match := self._phrases.search(text)):
            found = match[0]
        return found

    def _blocked_host(self, url: str | None) -> str | None:
        labels = host_of(url).split(".")
        return next((tail for i in range(len(labels)) if (tail := ".".join(labels[i:])) in self._hosts), None)

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        words: list[str | None] = []
        for value in batch[self.column].to_pylist():
            texts = [text for text in (value if isinstance(value, list) else [value]) if text]
            found = [self.blocked(text) for text in texts]
            hit = all(found) if self.when == "all" else any(found)
            words.append(next(filter(None, found), None) if found and hit else None)
        hosts = [self._blocked_host(url) for url in batch["url"].to_pylist()] if self._hosts else [None] * len(batch)
        return keep(
            batch,
            {},
            unless={
                "blocked_host": ([host is not None for host in hosts], lambda i: str(hosts[i])),
                "blocked_word": ([word is not None for word in words], lambda i: str(words[i])),
            },
        )
