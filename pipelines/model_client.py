"""Ask a model over an OpenAI-compatible HTTP address: many requests in flight, each answer kept, nothing asked twice.

A request is looked for in the answer store, then among the requests in flight, and only then sent. What may go wrong falls
into three kinds, and the difference is what a run's truth rests on:

* trouble that passes (429, 5xx, time-outs, broken connections, bodies that are no completion, answers that the server broke off):
  tried again, with back-off and the server's Retry-After;
* a request that the server will not answer although it is well (400, or 500 each time for this one picture): an `Answer` whose
  `finish` begins with "error:", on which the operator refuses that one sample. Not kept in the store: a requeue asks again;
* a server that is gone, hung, misaddressed, unfit for all that a prompt asks, or that serves another model: `ServerUnavailable`,
  `ModelChanged`. Never a refusal.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import httpx2
import openai
from PIL import Image
from pydantic import Field, field_validator, model_validator

from operators.base import Answer, Settings
from pipelines.answers import AnswerStore, request_hash
from pipelines.model_http import Bounded, Refused, Trouble, read_body, request_body, retry_after, trouble_named
from pipelines.model_identity import ModelChanged, ServerUnavailable, describe, same_model
from pipelines.offline import ADDRESS, Engine, EngineSettings
from pipelines.offline import identity as identity_of_engine
from pipelines.sent_picture import SentPicture
from prompts.images import fit
from prompts.load import Prompt, load

LONGEST_WAIT = 30.0
"""Seconds; where the doubling of the back-off ends."""
TRIES_BEFORE_DOUBT = 2
"""Failures of one request after which the client looks whether the server is well without it; it is then asked once more."""
ALL_REFUSED = 32
"""So many requests of one prompt refused, and never one answered: the server cannot do what is asked (a model that sees no
pictures, too short a context); no fault of 32 pictures."""
QUIET = 10.0
"""Seconds without an answer after which the server may have been restarted with another model."""


class ModelSettings(Settings):
    """Where and how to ask. Only `name`, `revision`, `quantization` and the picture's settings can change an answer.

    engine         "server": the one at `base_url`; "offline": each model worker starts its own, as `offline` says
    base_url       of the API, mostly ending in /v1
    name           under which the model is served
    revision       of the weights, where the server's files cannot be read from here (a commit of the model hub)
    api_key_env    name of the environment variable that holds the key; the key itself is in no file
    max_pixels     budget to which a picture is scaled before it is sent
    concurrency    requests in flight
    timeout        seconds for one try, until the answer's last byte
    deadline       seconds for one request with all its tries and waits
    gpus           behind the server, for budgets and the bill; offline it is the stages' `resources` that say it
    max_answer_tokens   bound on one answer's length where a prompt allows more; null leaves it to the prompts
    retries        tries after the first; with `backoff` (seconds, doubled each time) 8 outlast a server's restart of 90 s;
                   one more follows where the server is well without this request
    """

    engine: Literal["server", "offline"] = "server"
    offline: EngineSettings | None = None
    base_url: str = "http://127.0.0.1:8000/v1"
    name: str
    revision: str | None = None
    quantization: str | None = None
    api_key_env: str = "FINELOOM_API_KEY"
    max_pixels: int = Field(default=200704, ge=784)
    min_pixels: int = Field(default=3136, ge=784)
    picture_format: Literal["jpeg", "png"] = "jpeg"
    concurrency: int = Field(default=32, ge=1)
    gpus: float = Field(default=1.0, ge=0)
    timeout: float = Field(default=120.0, gt=0)
    deadline: float = Field(default=600.0, gt=0)
    retries: int = Field(default=8, ge=0)
    backoff: float = Field(default=0.5, gt=0)
    max_answer_tokens: int | None = Field(default=None, ge=16)
    max_answer_bytes: int = Field(default=4_000_000, ge=1000)

    @field_validator("base_url")
    @classmethod
    def _address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"expected an address such as http://127.0.0.1:8000/v1, found {parts.scheme}://{parts.hostname}")
        if parts.username or parts.password:
            raise ValueError("an address must not hold a password; name the variable that holds the key in api_key_env")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _has_an_engine(self) -> Self:
        if self.engine == "offline" and self.offline is None:
            raise ValueError("engine: offline needs to know what to run, e.g. offline: {model: /models/qwen2.5-vl-7b}")
        return self

    @property
    def address(self) -> str:
        return ADDRESS if self.engine == "offline" else self.base_url


class ModelClient:
    """One per process and event loop; `concurrency` holds over all shards that share it.

    expected   identity as the run began with, when another process found it out; None: what is served now is right
    """

    def __init__(self, settings: ModelSettings, expected: dict[str, Any] | None = None) -> None:
        self.settings = settings
        self._key = os.environ.get(settings.api_key_env) or "none"
        self._engine: Engine | None = None
        transport = None
        if settings.engine == "offline":
            assert settings.offline is not None
            self._engine = Engine(settings.name, settings.offline)
            transport = httpx2.AsyncHTTPTransport(uds=str(self._engine.socket), limits=openai.DEFAULT_CONNECTION_LIMITS)
        self._http = openai.DefaultAsyncHttpxClient(
            event_hooks={"response": [self._bound]},
            transport=transport,
            headers={"Accept-Encoding": "gzip"},  # which `Bounded` can unpack piece by piece
            follow_redirects=False,  # pictures and the key go to the address that the recipe names, nowhere else
        )
        self._openai = openai.AsyncOpenAI(
            base_url=settings.address,
            api_key=self._key,
            max_retries=0,
            timeout=settings.timeout,
            http_client=self._http,
        )
        self._slots = asyncio.Semaphore(settings.concurrency)
        # Encoded pictures wait here for a slot, so that a slot never waits for an encoding; more would only cost memory.
        self._room = asyncio.Semaphore(2 * settings.concurrency)
        self._flights: dict[str, _Flight] = {}
        self._answered: set[str] = set()  # prompts
        self._refused: Counter[str] = Counter()  # prompts of which no request was ever answered
        self._identity = expected
        self._verified = False
        self._answers_as: str | None = None
        self._last_answer = -math.inf
        self._resume_at = 0.0
        self._counts: dict[str, float] = dict.fromkeys(
            ("requests", "from_store", "shared", "retries", "errors", "prompt_tokens", "output_tokens", "in_flight"), 0
        )
        self._counts["request_seconds"] = 0.0

    def __repr__(self) -> str:
        return f"ModelClient({self.settings.name} at {self.settings.address})"

    async def close(self) -> None:
        await self._openai.close()
        if self._engine is not None:
            await asyncio.to_thread(self._engine.close)

    def counters(self) -> dict[str, float]:
        """Since the start, for progress and reports.

        requests          sent to the server (a request tried thrice is one)
        from_store        answered by the store; `shared`: by a request already in flight
        retries, errors   tries after the first; requests given up as "error:…"
        request_seconds   sum over answers of the time from sending to the last byte: / (concurrency × wall) = slots' load
        """
        return dict(self._counts)

    def ask_for(
        self,
        store: AnswerStore,
        image_sha256: str | None,
        prompts_folder: Path | None = None,
        usage: dict[str, int] | None = None,
    ) -> SampleAsk:
        """The `ask` of one sample, whose answers go to `store`.

        image_sha256     of the picture's file; None if the sample has no picture to send
        prompts_folder   of the recipe's own prompts; None: the project's
        usage            the shard's own counts of requests, answers_found, prompt_tokens and output_tokens, added to
        """
        return SampleAsk(self, store, image_sha256, prompts_folder, usage)

    async def identity(self) -> dict[str, Any]:
        """{name, weights, quantization, server} of the served model, checked against `expected`. Cached."""
        if self._engine is not None and not self._engine.starts:  # what is known of its files need not be asked of it
            if self._identity is None:
                s = self.settings
                assert s.offline is not None
                found = await asyncio.to_thread(identity_of_engine, s.name, s.offline, s.revision, s.quantization)
                self._identity = self._identity or found
            return self._identity
        if not self._verified:
            await self.check_identity()
        assert self._identity is not None
        return self._identity

    async def check_identity(self) -> None:
        """Look at the server again; ModelChanged if it is another model than at the start."""
        if self._engine is not None and not self._engine.starts:
            return  # nothing was asked of it
        deadline = time.monotonic() + self.settings.deadline
        for attempt in range(self.settings.retries + 1):
            await self._have_engine()
            try:
                return await self._together("identity", self._compare_identity)
            except Trouble as trouble:
                if not await self._wait(trouble, attempt, deadline):
                    raise self._unavailable(trouble) from None

    async def _have_engine(self) -> None:
        """Start the engine of one's own, where there is one and it does not run. A server is somebody else's business."""
        if self._engine is not None and not self._engine.running:
            await self._together("engine", lambda: asyncio.to_thread(self._engine.ready))  # type: ignore[union-attr]
            self._last_answer = -math.inf  # and look what it is

    async def _compare_identity(self) -> None:
        now = await self._served_identity()
        if self._identity is None:
            self._identity = now
        elif not same_model(self._identity, now):
            raise ModelChanged(
                f"{self.settings.address} now serves {json.dumps(now)}, the run began with {json.dumps(self._identity)}. "
                "Serve the first model again, or start a new run: its model stages will be asked anew."
            )
        self._verified = True
        self._last_answer = time.monotonic()

    async def _served_identity(self) -> dict[str, Any]:
        s = self.settings
        root = s.address.removesuffix("/v1")
        with trouble_named(self._clean):
            async with asyncio.timeout(min(s.timeout, 30)):
                listed = await self._openai.models.with_raw_response.list()
                version = await self._http.get(f"{root}/version")
        if version.status_code == 429 or version.status_code >= 500:  # it has one, and does not say it now
            raise Trouble(str(version.status_code), f"/version: HTTP {version.status_code}", retry_after(version.headers))
        try:
            cards = {card["id"]: card for card in json.loads(listed.content)["data"]}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Trouble("invalid", f"/models answered what is no list of models: {error}") from None
        server = None
        with suppress(ValueError, KeyError, TypeError, RecursionError):  # other servers have no such address, or a page there
            server = json.loads(version.content)["version"] if version.status_code == 200 else None
        if s.name not in cards:
            message = f"{s.address} serves {', '.join(sorted(cards)) or 'no model'}, not {s.name}"
            raise ModelChanged(message) if self._verified else ServerUnavailable(f"{message}; set model.name to one of these")
        return await asyncio.to_thread(describe, cards[s.name], server, s.name, s.revision, s.quantization)

    async def _together(self, key: str, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Do `work` once for all who want `key` now. It ends when the last of them has been cancelled."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.ensure_future(work()))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if flight.task.done() or not flight.waiting:
                flight.task.cancel()
                if self._flights.get(key) is flight:
                    del self._flights[key]

    async def _request(self, prompt: Prompt, system: str, user: str, picture: SentPicture | None) -> dict[str, Any]:
        """The record of one question, asked of the server."""
        async with self._room:
            body = request_body(self.settings.name, prompt, system, user, await picture.data_url() if picture else None)
            record = await self._until_answered(body)
        if not record["finish"].startswith("error:"):
            self._answered.add(prompt.name)
        elif prompt.name not in self._answered:
            self._refused[prompt.name] += 1
            if self._refused[prompt.name] >= ALL_REFUSED:
                first = f"model server {self.settings.address} has refused each of the first {ALL_REFUSED} requests"
                raise ServerUnavailable(f"{first} of prompt {prompt.name}: {record['text']}")
        return record

    async def _until_answered(self, body: dict[str, Any]) -> dict[str, Any]:
        await self._have_engine()  # a first start may take longer than any request
        deadline = time.monotonic() + self.settings.deadline
        counted = surely_well = False
        for attempt in count():
            await self._have_engine()
            try:
                if time.monotonic() - self._last_answer > QUIET:
                    await self._together("identity", self._compare_identity)
                await asyncio.sleep(max(0.0, self._resume_at - time.monotonic()))
                async with self._slots:
                    if not counted:
                        self._counts["requests"] += 1
                        counted = True
                    return await self._send(body)
            except Trouble as error:
                trouble = error
            except ServerUnavailable:
                await self._together("identity", self._compare_identity)  # if it is another model, that is what to say
                raise
            self._last_answer = -math.inf  # the server may come back as another model
            tries = attempt + 1
            doubtful = trouble.kind in ("500", "invalid") and tries >= TRIES_BEFORE_DOUBT
            if not (doubtful and await self._together("probe", self._is_well)):
                if await self._wait(trouble, attempt, deadline):
                    surely_well = False
                    continue
                if trouble.kind == "429" or not await self._together("probe", self._is_well):
                    raise self._unavailable(trouble)
            # A server that came back just now is well too: only what it then fails at is the request's own fault.
            if surely_well and trouble.kind == "unreachable":
                raise self._unavailable(trouble)
            if surely_well:
                break
            surely_well = True
            self._counts["retries"] += 1
        self._counts["errors"] += 1
        return _error(trouble.kind, f"after {tries} tries: {trouble}")

    async def _send(self, body: dict[str, Any]) -> dict[str, Any]:
        begun = time.monotonic()
        self._counts["in_flight"] += 1
        try:
            with trouble_named(self._clean):
                async with asyncio.timeout(self.settings.timeout):
                    answer = await self._openai.post("/chat/completions", cast_to=httpx2.Response, body=body)
            record, served = read_body(answer.content, self._clean)
        except Refused as refused:
            self._counts["errors"] += 1
            return _error(refused.kind, str(refused))
        finally:
            self._counts["in_flight"] -= 1
        now = time.monotonic()
        self._last_answer = now
        if self._answers_as is None:
            self._answers_as = served
        elif served != self._answers_as:
            raise ModelChanged(f"{self.settings.address} answers as {served!r}, before as {self._answers_as!r}")
        record["seconds"] = round(now - begun, 3)
        self._counts["request_seconds"] += now - begun
        self._counts["prompt_tokens"] += record["prompt_tokens"]
        self._counts["output_tokens"] += record["output_tokens"]
        return record

    async def _wait(self, trouble: Trouble, attempt: int, deadline: float) -> bool:
        """Back off before the next try. False if there is none: tries or time are used up."""
        pause = random.uniform(0.5, 1) * min(LONGEST_WAIT, self.settings.backoff * 2**attempt)
        now = time.monotonic()
        if trouble.retry_after is not None:
            pause = max(pause, trouble.retry_after)
            if now + pause < deadline:
                self._resume_at = max(self._resume_at, now + trouble.retry_after)  # the others hold back as well
        if attempt >= self.settings.retries or now + pause >= deadline:
            return False
        self._counts["retries"] += 1
        await asyncio.sleep(pause)
        return True

    async def _is_well(self) -> bool:
        """Whether the server answers something else than the request in doubt."""
        try:
            async with asyncio.timeout(min(self.settings.timeout, 30)):
                await self._openai.models.with_raw_response.list()
                asked = {"model": self.settings.name, "messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 1}
                answer = await self._openai.post("/chat/completions", cast_to=httpx2.Response, body=asked)
            read_body(answer.content, self._clean)  # a page that is put in the place of every answer is no answer
        except (openai.OpenAIError, TimeoutError, Trouble):
            return False
        return True

    def _unavailable(self, trouble: Trouble) -> ServerUnavailable:
        limited = "; it limits the rate: lower model.concurrency" if trouble.kind == "429" else ""
        return ServerUnavailable(f"model server {self.settings.address}: {trouble}{limited}")

    def _clean(self, text: str) -> str:
        """A server's own words, cut to what a person reads, the key taken out."""
        text = " ".join(text[:2000].split())[:500]
        return text if self._key == "none" else text.replace(self._key, "***")

    async def _bound(self, response: httpx2.Response) -> None:
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        packed = response.headers.get("Content-Encoding") == "gzip"
        if packed:
            del response.headers["Content-Encoding"]
        response.stream = Bounded(response.stream, self.settings.max_answer_bytes, packed)


class SampleAsk:
    """`operators.base.Ask` for one sample: its picture is scaled and encoded once for all questions about it."""

    def __init__(
        self,
        client: ModelClient,
        store: AnswerStore,
        image_sha256: str | None,
        folder: Path | None,
        usage: dict[str, int] | None,
    ) -> None:
        self._client = client
        self._store = store
        self._sha256 = image_sha256
        self._folder = folder
        self._usage = Counter[str]() if usage is None else usage
        self._pictures: dict[tuple[int, int, int, int] | None, SentPicture] = {}
        self._image_size: tuple[int, int] | None = None
        self._loading = threading.Lock()

    async def __call__(
        self,
        prompt: str,
        variables: dict[str, Any],
        image: Image.Image | None = None,
        region: tuple[int, int, int, int] | None = None,
    ) -> Answer:
        """image: the sample's whole picture; region: x1, y1, x2, y2 in its pixels, to send only that part of it."""
        client = self._client
        question = load(prompt, self._folder).capped(client.settings.max_answer_tokens)
        system, user = question.render(variables)
        picture = None if image is None else self._picture(image, region)
        identity = await client.identity()
        key = request_hash(
            self._sha256 if picture else None,
            picture.how if picture else None,
            [{"role": "system", "content": system}, {"role": "user", "content": user}],
            question.answer_schema,
            question.sampling,
            identity,
        )
        record = self._store.get(key)
        if record is not None:
            client._counts["from_store"] += 1
            client._answered.add(prompt)
            self._usage["answers_found"] += 1
        else:
            sent = key not in client._flights
            if not sent:
                client._counts["shared"] += 1
            record = await client._together(key, lambda: client._request(question, system, user, picture))
            self._usage["requests" if sent else "answers_found"] += 1
            if sent:
                self._usage["prompt_tokens"] += record["prompt_tokens"]
                self._usage["output_tokens"] += record["output_tokens"]
            if not record["finish"].startswith("error:"):
                origin = {
                    "prompt": f"{question.name}@{question.version}",
                    "image": self._sha256 if picture else None,
                    "sent": picture.how if picture else None,
                    "identity": identity,
                }
                self._store.put(key, {**record, **origin})
        return Answer(record["text"], record["finish"], record["prompt_tokens"], record["output_tokens"], key, system, user)

    def sent_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height at which a picture of `size` is sent: boxes in an answer are in these pixels."""
        return fit(*size, self._client.settings.max_pixels, self._client.settings.min_pixels)

    def _picture(self, image: Image.Image, region: tuple[int, int, int, int] | None) -> SentPicture:
        if self._sha256 is None:
            raise ValueError("a picture was given for a sample without one: its answers could not be told apart")
        if self._image_size not in (None, image.size):
            raise ValueError("another picture than before: to send a part of the sample's picture, give `region`")
        self._image_size = image.size
        if region not in self._pictures:
            s = self._client.settings
            self._pictures[region] = SentPicture(image, region, s.max_pixels, s.min_pixels, s.picture_format, self._loading)
        return self._pictures[region]


class _Flight:
    def __init__(self, task: asyncio.Future[Any]) -> None:
        self.task = task
        self.waiting = 0


def _error(kind: str, detail: str) -> dict[str, Any]:
    return {"text": detail, "finish": f"error:{kind}", "prompt_tokens": 0, "output_tokens": 0}
