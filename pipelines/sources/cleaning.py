"""Cleaning of texts and cells that strangers wrote.

`clean_text` undoes damage that has one right answer and touches nothing else: HTML entities and the few tags that alt
texts carry, UTF-8 that was read as Latin-1 or Windows-1252 (ftfy), control and zero-width characters, runs of blanks,
decomposed accents (NFC). Spelling, punctuation, case and full-width forms stay as they were written.
"""

from __future__ import annotations

import html
import json
import math
import re
import unicodedata
from typing import Any
from urllib.parse import urlsplit

import ftfy
from ftfy.badness import is_bad

from pipelines.public_url import without_login

MAX_URL = 4096
MAX_SIDE = 100_000

_ORDINARY = re.compile(r"[^ -%'-;=?-~]")
"""Anything but printable ASCII without `&`, `<` and `>`: a text without it needs only its blanks tidied."""
_DROPPED = re.compile("[\x00-\x08\x0e-\x1f\x7f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
_WESTERN = re.compile("[\x80-\u052f\u2500-\u259f]")
"""Letters and frames of the Western code pages: without one of them a text is not mojibake, and ftfy need not be asked."""
_C1 = re.compile("[\x80-\x9f]")
_BLANKS = re.compile(r"\s+")
_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9][A-Za-z0-9.-]*(?:[/?][!-~]*)?")
"""What nearly all addresses look like; the others are taken apart."""
_TAGS = re.compile(
    r"</?(?:a|b|i|u|p|br|hr|em|strong|span|div|font|img|li|ul|ol|td|tr|table|h[1-6]|sub|sup|small|big)\b[^<>]{0,500}>", re.I
)
_LOST = ("\ufffd", "锟斤拷", "烫烫烫", "屯屯屯")
"""What is left when characters were lost: the replacement character, and its traces after a trip through GBK."""
_NOTHING = {"", "none", "null", "nan", "n/a", "undefined", "\\n", "(null)"}


def clean_text(text: str) -> str:
    """The text as its author meant it, on one line; empty when there is nothing in it."""
    if _ORDINARY.search(text):
        if "&" in text:
            text = html.unescape(html.unescape(text))
        if "<" in text:
            text = _TAGS.sub(" ", text)
        if _WESTERN.search(text):
            if is_bad(text):  # before anything is dropped: a soft hyphen may be a byte of a Chinese character
                text = ftfy.fix_encoding(text)
            text = _C1.sub("", text)
        text = _DROPPED.sub("", text)
        text = unicodedata.normalize("NFC", text)
    text = " ".join(text.split())
    return "" if text.lower() in _NOTHING else text


def is_lost(text: str) -> bool:
    """Whether characters were lost beyond repair."""
    return any(mark in text for mark in _LOST)


def texts_of(cell: Any) -> list[str]:
    """The texts in a cell: nothing, one, or a list of them."""
    found: list[str] = []
    waiting = [cell]
    while waiting:
        part = text_of(waiting.pop())
        if isinstance(part, list):
            waiting += reversed(part)
        elif isinstance(part, tuple):  # an entry of a Parquet map
            waiting.append(part[1])
        elif isinstance(part, str):
            found.append(part)
        elif isinstance(part, int | float) and not isinstance(part, bool) and part == part:  # NaN is not
            found.append(str(part))
    return found


def json_of(text: str) -> Any:
    """The value that a stranger's JSON stands for; its strings may hold control characters. ValueError (or RecursionError) for what
    is no JSON, and for an object that says two things of one key: whichever were taken, the other would be gone without a word."""
    return _JSON.decode(text)


def _one_value_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next((key for key, value in pairs if value != made[key]), None)
        if twice is not None:
            raise ValueError(f"the key {twice[:60]!r} stands twice, with two values")
    return made


_JSON = json.JSONDecoder(strict=False, object_pairs_hook=_one_value_each)


def text_of(cell: Any) -> Any:
    """Bytes (Parquet columns that say nothing of being text) as the text that they are; anything else as it is."""
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell


def side_of(cell: Any) -> int | None:
    """A width or height in pixels from an int, float or text; None when it is absent or absurd. It is a hint only: the
    download measures the picture."""
    number = number_of(cell)
    return int(number) if number is not None and 1 <= number <= MAX_SIDE else None


def number_of(cell: Any) -> float | None:
    """A finite number from an int, float or text."""
    if cell is None or isinstance(cell, bool):
        return None
    try:
        number = float(cell)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def word_of(cell: Any) -> str | None:
    """A short text (licence, NSFW mark); None when there is nothing in it."""
    text = clean_text(str(text_of(cell)))[:500] if cell is not None else ""
    return text if text and text != "?" else None


def language_of(cell: Any) -> str | None:
    """Primary language subtag: `zh-CN` is `zh`."""
    word = word_of(cell)
    return re.split("[-_]", word.lower())[0] if word else None


def sha256_of(cell: Any) -> str | None:
    """64 lower-case hex digits, or nothing."""
    if isinstance(cell, bytes) and len(cell) == 32:
        return cell.hex()
    word = word_of(cell)
    return word.lower() if word and re.fullmatch("[0-9a-fA-F]{64}", word) else None


def check_url(cell: Any) -> tuple[str | None, str, str]:
    """(address, "", "") or (None, reason, detail). What can never be fetched is refused, a login is left out."""
    cell = text_of(cell)
    if isinstance(cell, str) and _PLAIN_URL.fullmatch(cell) and len(cell) <= MAX_URL:
        return cell, "", ""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None, "no_url", "no address"
    if not isinstance(cell, str):
        return None, "bad_url", f"{type(cell).__name__} instead of a text"
    url = _DROPPED.sub("", cell).strip()
    if url.lower() in _NOTHING:
        return None, "no_url", "empty address"
    if len(url) > MAX_URL:
        return None, "bad_url", f"{len(url)} characters > {MAX_URL}"
    if url.startswith("//"):
        url = f"https:{url}"
    if _BLANKS.search(url):
        url = _BLANKS.sub("%20", url)
    url = without_login(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return None, "bad_url", f"{url[:100]}: {error}"
    if parts.scheme.lower() not in ("http", "https"):
        return None, "bad_url", f"{url[:100]}: scheme {parts.scheme[:20] or 'missing'} instead of http or https"
    if not parts.hostname or port == 0:
        return None, "bad_url", f"{url[:100]}: no host" if port != 0 else f"{url[:100]}: port 0"
    return url, "", ""
