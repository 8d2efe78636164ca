"""Read what a model said: lenient about form, strict about trust.

Reads an `Answer` and gives its JSON value, or says in one reason why it cannot be used:

    "refused_request"  the server refused this one request (finish "error:…")
    "refusal"          the server marked it as the model's refusal (finish "refusal"), whatever its words
    "empty"            nothing came back
    "oversized"        more text than any honest answer has; it is not even parsed
    "not_json"         no JSON object in it
    "wrong_shape"      valid JSON that is not what was asked for

Lenient: raw control characters inside strings, code fences, words before and after the object. An answer that was cut at the
token cap is closed where it stopped, and what may be incomplete is marked: a last number is dropped ("12" may have been
"123"), a last string is kept and `cut` says so.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from operators.base import Answer

MAX_CHARS = 60_000
"""The longest answer that any prompt's schema allows is far below this."""

FENCE = re.compile(r"```[a-zA-Z]*\s*(.*?)(?:```|$)", re.DOTALL)

CUT = frozenset(("length", "repetition", "content_filter"))
"""How an answer ends that is not the model's own end: at the token cap, in a loop, before words that a filter holds back."""

REASONS = {
    "refused_request": "the server refused this one request",
    "refusal": "the model declined",
    "empty": "the model said nothing",
    "oversized": "the answer is longer than any honest one",
    "not_json": "no JSON object in the answer",
    "wrong_shape": "JSON that is not what was asked for",
}


class Unusable(Exception):
    """Why an answer cannot be used."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Parsed:
    """value: the JSON object. cut: it ended before the model was done, so its last part may be incomplete."""

    value: dict[str, Any]
    cut: bool


def read_object(answer: Answer, max_chars: int = MAX_CHARS) -> Parsed:
    """The JSON object in an answer, or `Unusable`."""
    text = _unfenced(_usable_text(answer, max_chars))
    start = text.find("{")
    value, whole = _decode(text[start:] if start >= 0 else text)
    if value is None:
        raise Unusable("not_json", f"no object in {excerpt(text)}")
    if not isinstance(value, dict):
        raise Unusable("wrong_shape", f"expected an object, got {excerpt(text)}")
    return Parsed(value, cut=not whole or answer.finish in CUT)


def read_text(answer: Answer, key: str, max_chars: int = MAX_CHARS) -> tuple[str, bool]:
    """The text under `key` and whether it was cut. An answer that is no JSON at all is taken as the bare text."""
    bare = _usable_text(answer, max_chars).strip()
    if not bare.startswith(("{", "[", "```")) and f'"{key}"' not in bare:
        return _unquoted(bare), answer.finish in CUT
    parsed = read_object(answer, max_chars)
    value = parsed.value.get(key)
    if not isinstance(value, str):
        raise Unusable(
            "wrong_shape", f"expected a text under {key!r}, got {excerpt(json.dumps(parsed.value, ensure_ascii=False))}"
        )
    if not value.strip():
        raise Unusable("empty", f"{key!r} is blank")
    return value, parsed.cut


def read_list(answer: Answer, key: str, max_chars: int = MAX_CHARS) -> tuple[list[Any], bool]:
    """The list under `key`, or a bare list (Qwen2.5-VL's own habit), and whether it was cut."""
    text = _unfenced(_usable_text(answer, max_chars))
    if text.startswith("["):
        bare, whole = _decode(text)
        if isinstance(bare, list):
            return bare, not whole or answer.finish in CUT
    parsed = read_object(answer, max_chars)
    value = parsed.value.get(key)
    if not isinstance(value, list):
        raise Unusable(
            "wrong_shape", f"expected a list under {key!r}, got {excerpt(json.dumps(parsed.value, ensure_ascii=False))}"
        )
    return value, parsed.cut


def read_verdicts(answer: Answer, count: int) -> list[bool]:
    """Exactly `count` booleans under "verdicts"; any other number cannot be matched to the texts and is unusable."""
    verdicts, _ = read_list(answer, "verdicts")
    if len(verdicts) != count or not all(isinstance(v, bool) for v in verdicts):
        raise Unusable("wrong_shape", f"expected {count} verdicts true/false, got {excerpt(json.dumps(verdicts))}")
    return verdicts


def excerpt(text: str, limit: int = 80) -> str:
    """A short, printable, quoted piece of a stranger's text for a reject's detail."""
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text[:limit])
    return repr(shown)[1:-1] if not shown else f"“{shown}{'…' if len(text) > limit else ''}”"


def _usable_text(answer: Answer, max_chars: int) -> str:
    if answer.finish.startswith("error"):
        raise Unusable("refused_request", f"{answer.finish} {excerpt(answer.text)}")
    if len(answer.text) > max_chars:
        raise Unusable("oversized", f"{len(answer.text):,} characters > {max_chars:,}")
    if answer.finish == "refusal":
        raise Unusable("refusal", excerpt(answer.text))
    if not answer.text.strip():
        raise Unusable("empty", f"finish {answer.finish!r}")
    return answer.text


def _unfenced(text: str) -> str:
    fence = FENCE.search(text)
    return (fence[1] if fence and fence[1].strip() else text).strip()


def _unquoted(text: str) -> str:
    """A text that is written as JSON writes one, without its quotes; any other as it is."""
    try:
        said: str = json.loads(text, strict=False) if text.startswith('"') else text
    except ValueError:
        return text
    return said if said.strip() else text


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _decode(text: str) -> tuple[Any, bool]:
    """The first JSON value of `text`, and whether it was whole. (None, False) when there is none."""
    decoder = json.JSONDecoder(strict=False, parse_constant=_no_constant)
    # A hundred thousand opening brackets end in RecursionError, a number of a million digits in ValueError.
    try:
        return decoder.raw_decode(text)[0], True
    except (ValueError, RecursionError):
        pass
    closed = _close(text)
    if closed is None:
        return None, False
    try:
        return decoder.raw_decode(closed)[0], False
    except (ValueError, RecursionError):
        return None, False


def _close(text: str) -> str | None:
    """`text` cut at its last complete place, with its open string and brackets closed; None if it is not a cut object."""
    stack: list[str] = []
    in_string = escaped = False
    after_key = False  # inside an object, the last string was a key or still may be one
    safe = 0  # everything before this is complete inside the open brackets
    safe_stack: list[str] = []
    string_start = 0
    for i, c in enumerate(text):
        if in_string:
            if escaped:
                escaped = False
            elif c == "\\":
                escaped = True
            elif c == '"':
                in_string = False
                if not (stack and stack[-1] == "}" and not after_key):
                    safe, safe_stack = i + 1, list(stack)
            continue
        if c == '"':
            in_string, string_start = True, i
        elif c in "{[":
            stack.append("}" if c == "{" else "]")
            after_key = False
            safe, safe_stack = i + 1, list(stack)
        elif c in "}]":
            if not stack or stack.pop() != c:
                return None
            safe, safe_stack = i + 1, list(stack)
            if not stack:
                return None  # it was whole and yet did not parse: not a cut answer
            after_key = False
        elif c == ":":
            after_key = True
        elif c == ",":
            # What stood before the comma is whole, numbers included.
            safe, safe_stack = i, list(stack)
            after_key = False
    if not stack:
        return None
    if in_string and stack[-1] == "}" and after_key:
        tail = text[string_start:]
        if escaped:
            tail = tail[:-1]
        tail = re.sub(r"\\u[0-9a-fA-F]{0,3}$", "", tail)
        return text[:string_start] + tail + '"' + "".join(reversed(stack))
    return text[:safe] + "".join(reversed(safe_stack))
