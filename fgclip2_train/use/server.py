"""The two towers over HTTP.

    POST /v1/text    {"texts": […], "walk": "auto"|"short"|"long"|"box"}      {"features": [[…]], "walks": […]}
    POST /v1/image   {"images": [base64, …]}, or one picture as the body     {"features": [[…]]}
    POST /v1/score   {"images": […], "texts": […], "walk": …}                {"cosine": [[…]], "probability": [[…]], "walks": […]}
    POST /v1/search  {"text": …} or {"image": base64} or {"features": […]},  {"results": [{"score": …, "places": […]}, …]}
                     and "k": 10; or a picture as the body and ?k=10
    GET  /health     200 when ready, 503 while it ends
    GET  /metrics    in Prometheus' text form

Vectors are of length one. With "encoding": "base64" they are base64 of little-endian float32 instead of lists. Refusals are
{"error": …}: 400 what makes no sense, 408 too slow, 413 beyond a bound, 415 other content, 429 full (try again after a second), 503
ending, or more connections than file handles.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import errno
import json
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import numpy as np
from aiohttp import http_exceptions, web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from fgclip2_train.data.tokens import refuse_half_characters
from fgclip2_train.use.batching import Busy
from fgclip2_train.use.connections import AT_ONCE, Connections
from fgclip2_train.use.pictures import BadPicture
from fgclip2_train.use.service import Service
from fgclip2_train.use.towers import WALKS, Walk

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
TOO_LARGE = ("too many pixels", "too many bytes")
NOISE = (http_exceptions.HttpProcessingError, web.RequestPayloadError)
"""What clients send that is no HTTP. They get their 400; a traceback for each would let them fill the log."""
log = logging.getLogger("fgclip2_train.serve")
log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], NOISE)))


class Refused(Exception):
    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class Server:
    def __init__(self, service: Service):
        self.service, self.settings, self.ending = service, service.settings, False
        self.in_hand = self.bytes_in_hand = 0
        # What the server as a whole has no room for must not be told to try again.
        self.items = min(self.settings.items, self.settings.queue)
        self.body = min(self.settings.body, self.settings.bodies)
        self.app = web.Application(client_max_size=self.body, middlewares=[self._guard])
        self.app.add_routes(
            [
                web.post("/v1/text", self.text),
                web.post("/v1/image", self.image),
                web.post("/v1/score", self.score),
                web.post("/v1/search", self.search),
                web.get("/health", self.health),
                web.get("/metrics", self.metrics),
            ]
        )

    async def run(self, ready: Callable[[str], None]) -> None:
        """Until SIGTERM or SIGINT; then no new connections, and requests in hand are answered."""
        patience = min(5.0, self.settings.drain)
        runner = web.AppRunner(self.app, access_log=None, logger=log, handle_signals=False, shutdown_timeout=patience)
        await runner.setup()
        assert runner.server is not None
        self.connections = Connections(runner.server, self.settings.timeout)
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        watch = asyncio.create_task(self.connections.watch())
        try:
            try:
                listener = await loop.create_server(self.connections, self.settings.host, self.settings.port, backlog=AT_ONCE)
            except OSError as error:
                raise ValueError(_explain(error, self.settings.host, self.settings.port)) from error
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop.set)
            host, port = listener.sockets[0].getsockname()[:2]
            ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
            await stop.wait()
            self.ending = True
            listener.close()
            # Before the runner's own shutdown, which no longer reads what is still arriving of a request.
            until = time.monotonic() + self.settings.drain
            while self.in_hand and time.monotonic() < until:
                await asyncio.sleep(0.02)
        finally:
            watch.cancel()
            await runner.cleanup()
            self.service.close()

    # -- routes -----------------------------------------------------------------------------------------------------------

    async def text(self, request: web.Request) -> web.Response:
        body = await self._json(request, "texts", "walk", "encoding")
        features, walks = await self.service.texts(self._texts(body), _walk(body))
        return _answer({"features": _encoded(features, body), "walks": walks})

    async def image(self, request: web.Request) -> web.Response:
        if _is_picture(request):
            body: dict[str, Any] = dict(request.query)
            _known(body, "encoding")
            pictures = [await self._body(request)]
        else:
            body = await self._json(request, "images", "encoding")
            pictures = self._pictures(body)
        return _answer({"features": _encoded(await self.service.pictures(pictures), body)})

    async def score(self, request: web.Request) -> web.Response:
        body = await self._json(request, "images", "texts", "walk")
        scores = await self.service.score(self._pictures(body), self._texts(body), _walk(body))
        return _answer(
            {"cosine": _rounded(scores.cosine.numpy()), "probability": scores.probability.tolist(), "walks": scores.walks}
        )

    async def search(self, request: web.Request) -> web.Response:
        if self.service.searcher is None:
            raise Refused(400, "this server was started without a feature cache (cache=DIR)")
        if _is_picture(request):
            _known(request.query, "k")
            body: dict[str, Any] = {"k": _number(request.query.get("k", "10"))}
            (query,) = await self.service.pictures([await self._body(request)])
        else:
            body = await self._json(request, "text", "image", "features", "walk", "k")
            query = await self._query(body)
        k = body.get("k", 10)
        if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= self.settings.results:
            raise Refused(400, f"k: a whole number from 1 to {self.settings.results}")
        hits = await self.service.search(query, k)
        return _answer({"results": [{"score": round(hit.score, 6), "places": hit.places} for hit in hits]})

    async def health(self, request: web.Request) -> web.Response:
        towers, searcher = self.service.towers, self.service.searcher
        state = {
            "status": "ending" if self.ending else "ok",
            **towers.identity(),
            "vectors": len(searcher.rows) if searcher else 0,
        }
        return web.json_response(state, status=503 if self.ending else 200)

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self.service.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    # -- what a request holds ---------------------------------------------------------------------------------------------

    async def _query(self, body: dict[str, Any]) -> np.ndarray:
        given = [key for key in ("text", "image", "features") if body.get(key) is not None]
        if len(given) != 1:
            raise Refused(400, "give one of text, image, features")
        if given == ["text"]:
            return (await self.service.texts(self._texts({"texts": [body["text"]]}), _walk(body)))[0][0]
        if given == ["image"]:
            return (await self.service.pictures(self._pictures({"images": [body["image"]]})))[0]
        return _unit(body["features"], self.service.towers.width)

    def _texts(self, body: dict[str, Any]) -> list[str]:
        texts = body.get("texts")
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise Refused(400, "texts: a list of strings, at least one")
        if len(texts) > self.items:
            raise Refused(413, f"{len(texts)} texts, {self.items} are allowed")
        for text in texts:
            if len(text) > self.settings.characters:
                raise Refused(413, f"a text of {len(text)} characters, {self.settings.characters} are allowed")
            if not text.strip():
                raise Refused(400, "an empty text")
        try:
            refuse_half_characters(texts)
        except ValueError as error:
            raise Refused(400, str(error)) from None
        return texts

    def _pictures(self, body: dict[str, Any]) -> list[bytes]:
        images = body.get("images")
        if not isinstance(images, list) or not images or not all(isinstance(image, str) for image in images):
            raise Refused(400, "images: a list of base64 strings, at least one")
        if len(images) > self.items:
            raise Refused(413, f"{len(images)} images, {self.items} are allowed")
        try:
            return [base64.b64decode(image, validate=True) for image in images]
        except (binascii.Error, ValueError) as error:
            raise Refused(400, f"images: not base64 ({error})") from None

    async def _json(self, request: web.Request, *known: str) -> dict[str, Any]:
        if request.content_type != "application/json":
            raise Refused(415, "send application/json, or a picture as image/* where one is taken")
        data = await self._body(request)
        try:
            body = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"not JSON: {error}"[:200]) from None
        if not isinstance(body, dict):
            raise Refused(400, "not a JSON object")
        _known(body, *known)
        return body

    async def _body(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(self.settings.timeout):
                return await request.read()
        except TimeoutError:
            raise Refused(408, f"the request took longer than {self.settings.timeout:g} s to arrive") from None
        except (ConnectionResetError, web.RequestPayloadError):
            raise Refused(400, "the request broke off") from None

    # -- around every request ---------------------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Bounds on the whole, refusals as JSON, counts and times."""
        started, resource = time.perf_counter(), request.match_info.route.resource
        self.connections.begins(request.protocol)
        try:
            response = await (handler(request) if request.method in ("GET", "HEAD") else self._bounded(request, handler))
        except Refused as refusal:
            response = _refusal(refusal.status, str(refusal))
        except Busy:
            response = _refusal(429, "the queue is full; try again")
        except BadPicture as error:
            response = _refusal(413 if error.reason in TOO_LARGE else 400, f"picture: {error}")
        except web.HTTPRequestEntityTooLarge:
            response = _refusal(413, f"the request is larger than {self.body} bytes")
        except web.HTTPException as error:
            response = _refusal(error.status, error.reason)
        finally:
            self.connections.ends(request.protocol)
        if response.status in (408, 413, 415) or not request.content.is_eof():
            response.force_close()  # what was not read must not be taken for the next request, nor be waited for
        route = resource.canonical if resource else "unknown"
        self.service.metrics.requests.labels(route, str(response.status)).inc()
        self.service.metrics.seconds.labels(route).observe(time.perf_counter() - started)
        return response

    async def _bounded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self.ending:
            raise Refused(503, "the server is ending")
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise Refused(415, "compressed requests are not taken")
        size = request.content_length if request.content_length is not None else self.body
        if size > self.body:
            raise Refused(413, f"{size} bytes, {self.body} are allowed")
        if self.in_hand >= self.settings.queue or self.bytes_in_hand + size > self.settings.bodies:
            raise Busy
        self.in_hand += 1
        self.bytes_in_hand += size
        try:
            async with asyncio.timeout(2 * self.settings.timeout):
                return await handler(request)
        except TimeoutError:
            raise Refused(503, f"no answer within {2 * self.settings.timeout:g} s") from None
        finally:
            self.in_hand -= 1
            self.bytes_in_hand -= size


def _is_picture(request: web.Request) -> bool:
    return request.content_type.startswith("image/")


def _known(given: Iterable[str], *known: str) -> None:
    if strange := sorted(set(given) - set(known)):
        raise Refused(400, f"{strange[0][:50]!r} is not known here; known: {', '.join(known)}")


def _walk(body: dict[str, Any]) -> Walk:
    walk = body.get("walk", "auto")
    if walk not in WALKS:
        raise Refused(400, f"walk: one of {', '.join(WALKS)}")
    return walk


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise Refused(400, "k: a whole number") from None


def _unit(values: Any, width: int) -> np.ndarray:
    """A query's vector, whatever its length, as one of length one."""
    try:
        if isinstance(values, str):
            vector = np.frombuffer(base64.b64decode(values, validate=True), dtype="<f4").astype(np.float64)
        elif isinstance(values, list) and not any(isinstance(value, (str, bool)) for value in values):
            vector = np.asarray(values, dtype=np.float64)
        else:
            raise TypeError
    except (ValueError, TypeError, OverflowError, binascii.Error):
        raise Refused(400, "features: a list of numbers, or base64 of little-endian float32") from None
    if vector.shape != (width,):
        raise Refused(400, f"features: {width} numbers are needed, not {'×'.join(map(str, vector.shape))}")
    largest = np.abs(vector).max()
    if not np.isfinite(largest) or largest == 0:
        raise Refused(400, "features: numbers must be finite and not all zero")
    vector = vector / largest  # the square of a large number would not be finite
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def _encoded(features: np.ndarray, body: dict[str, Any]) -> list:
    encoding = body.get("encoding", "list")
    if encoding == "list":
        return _rounded(features)
    if encoding != "base64":
        raise Refused(400, "encoding: list or base64")
    return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in features]


def _rounded(values: np.ndarray) -> list:
    return np.round(values.astype(np.float64), 7).tolist()


def _answer(content: dict[str, Any]) -> web.Response:
    return web.json_response(content)


def _refusal(status: int, reason: str) -> web.Response:
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return web.json_response({"error": reason}, status=status, headers=headers)


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; choose another one with port=…, or port=0 for any free one"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} may not be opened by this user; choose one above 1023"
    return f"{host}:{port}: cannot be opened ({error})"
