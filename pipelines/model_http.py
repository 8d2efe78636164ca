"""What an OpenAI-compatible server says over HTTP: requests written, bodies read within bounds, troubles named.

Each failure becomes one of three, on which `model_client` acts: `Trouble` (it may pass), `Refused` (this request alone, for good),
`ServerUnavailable` (no request can succeed).
"""

from __future__ import annotations

import email.utils
import json
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any

import httpx2
import openai

from pipelines.model_identity import ServerUnavailable
from prompts.load import Prompt


class Trouble(Exception):
    """It may pass. kind: "429", "500" …, "timeout", "unreachable", "connection", "invalid"."""

    def __init__(self, kind: str, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.retry_after = retry_after


class Refused(Exception):
    """It will not pass, and concerns this request alone."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class TooLong(Exception):
    pass


class Bounded(httpx2.AsyncByteStream):
    """A response's bytes, unpacked where they are gzipped, up to a limit: a server gone mad must not fill the memory."""

    def __init__(self, stream: httpx2.AsyncByteStream, limit: int, packed: bool) -> None:
        self._stream = stream
        self._left = limit
        self._gzip = zlib.decompressobj(zlib.MAX_WBITS | 16) if packed else None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            if self._gzip is not None:
                try:
                    chunk = self._gzip.decompress(chunk, self._left + 1)
                except zlib.error as error:
                    raise httpx2.DecodingError(str(error)) from None
            self._left -= len(chunk)
            if self._left < 0:
                raise TooLong
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class trouble_named:
    """Turn what the HTTP side raises inside into `Trouble`, `Refused` or `ServerUnavailable`."""

    def __init__(self, clean: Callable[[str], str]) -> None:
        self._clean = clean

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None:
            return
        if isinstance(error, openai.APIStatusError):
            raise self._of_status(error) from None
        if isinstance(error, openai.APITimeoutError | httpx2.TimeoutException | TimeoutError):
            raise Trouble("timeout", "no whole answer within the time-out") from None
        if isinstance(error, TooLong) or isinstance(error.__cause__, TooLong):
            raise Refused("too-long", "the server's answer is longer than model.max_answer_bytes") from None
        if isinstance(error, openai.APIConnectionError | httpx2.HTTPError):
            kind = "unreachable" if isinstance(error.__cause__ or error, httpx2.ConnectError) else "connection"
            raise Trouble(kind, self._clean(f"cannot be reached: {error.__cause__ or error}")) from None

    def _of_status(self, error: openai.APIStatusError) -> Exception:
        status, words = error.status_code, error.response.text or error.message
        detail = self._clean(f"HTTP {status}: {words}")
        if status in (408, 409, 425, 429) or status >= 500:
            return Trouble(str(status), detail, retry_after(error.response.headers))
        if 300 <= status < 400:
            where = self._clean(error.response.headers.get("Location", "nowhere"))
            return ServerUnavailable(f"the model server sends to {where}; set model.base_url to where it is. {detail}")
        if status in (401, 403):
            return ServerUnavailable(
                f"the model server does not accept the key; model.api_key_env names its variable. {detail}"
            )
        if status == 404:
            return ServerUnavailable(
                f"the model server knows no such address or model; see model.base_url, model.name. {detail}"
            )
        return Refused(str(status), detail)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from either form of the header (seconds, HTTP date); a date by the server's own clock where it tells the time, since
    this machine's may be wrong."""
    header = headers.get("retry-after")
    if header is None:
        return None
    with suppress(ValueError):
        return max(0.0, float(header))
    with suppress(ValueError, TypeError):
        now = email.utils.parsedate_to_datetime(headers["date"]).timestamp() if "date" in headers else time.time()
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - now)
    return None


def request_body(model: str, prompt: Prompt, system: str, user: str, data_url: str | None) -> dict[str, Any]:
    """Body of a chat completion, by the server's own words: sampling settings that only it knows (top_k …) pass as they are.

    The system text is the same for all pictures, so it comes first, where the server's prefix cache finds it.
    """
    content: Any = user
    if data_url is not None:
        content = [{"type": "image_url", "image_url": {"url": data_url}}, {"type": "text", "text": user}]
    messages = [{"role": "system", "content": system}] if system else []
    body: dict[str, Any] = {"model": model, "messages": [*messages, {"role": "user", "content": content}]}
    body |= prompt.sampling
    if prompt.answer_schema is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": prompt.name, "schema": prompt.answer_schema}}
    return body


def read_body(content: bytes, clean: Callable[[str], str]) -> tuple[dict[str, Any], str]:
    """The record of an answer, and the model's name in it. What is no chat completion is trouble that may pass.

    clean   makes the server's words fit for a message
    """
    try:
        data = json.loads(content)
        choice, usage = data["choices"][0], data.get("usage")
        text, refusal = choice["message"].get("content") or "", choice["message"].get("refusal")
        if not isinstance(text, str):
            raise TypeError(f"content is a {type(text).__name__}")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        words = clean(content[:2000].decode(errors="replace"))
        raise Trouble("invalid", f"the answer is no chat completion ({type(error).__name__}: {error}): {words}"[:500]) from None
    finish = str(choice.get("finish_reason") or "unknown")[:40]
    if finish == "abort":
        raise Trouble("invalid", "the server broke the answer off (finish_reason abort)")
    if not text and isinstance(refusal, str) and refusal:
        text, finish = refusal, "refusal"
    usage = usage if isinstance(usage, dict) else {}
    record = {
        "text": text,
        "finish": finish,
        "prompt_tokens": _tokens(usage.get("prompt_tokens")),
        "output_tokens": _tokens(usage.get("completion_tokens")),
    }
    return record, str(data.get("model"))


def _tokens(count: Any) -> int:
    """As the server counts them; 0 where that is no count."""
    return count if type(count) is int and 0 <= count < 2**31 else 0
