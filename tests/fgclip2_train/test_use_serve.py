"""The server as its clients meet it: right answers alone and together, bounds, refusals, and a good end."""

import asyncio
import base64
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from use_kit import bomb, encoded, make_checkpoint, picture, write_pictures

from fgclip2_train.use.batching import Batcher, Busy, Recent
from fgclip2_train.use.build import index
from fgclip2_train.use.cache import Cache
from fgclip2_train.use.connections import OWN_HANDLES
from fgclip2_train.use.scores import score
from fgclip2_train.use.search import Searcher
from fgclip2_train.use.server import Server
from fgclip2_train.use.service import Service
from fgclip2_train.use.settings import ServeSettings
from fgclip2_train.use.towers import load

ROOT = Path(__file__).parents[2]
PNG = encoded(picture(3))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    towers = load(make_checkpoint(folder), device="cpu")
    write_pictures(folder / "pictures", 12)
    index(towers, [str(folder / "pictures")], folder / "cache")
    return folder, towers


class Running:
    """A server in this process, on a free port."""

    def __init__(self, towers, searcher, **settings):
        self.service = Service(towers, ServeSettings(port=0, **settings), searcher)
        self.server = Server(self.service)

    async def __aenter__(self):
        ready = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self.server.run(ready.set_result))
        await asyncio.wait([ready, self.task], return_when=asyncio.FIRST_COMPLETED)
        if self.task.done():
            self.task.result()
        self.session = aiohttp.ClientSession(ready.result(), connector=aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(self, *_):
        await self.session.close()
        os.kill(os.getpid(), signal.SIGTERM)
        await self.task

    async def post(self, route: str, body=None, **more):
        more = more or {"json": body}
        async with self.session.post(route, **more) as response:
            return response.status, await response.json()


@pytest.fixture
def running(world):
    folder, towers = world
    return lambda **settings: Running(towers, Searcher(Cache.open(folder / "cache")), **settings)


def as_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_answers_are_the_models_own(world, running):
    folder, towers = world

    async def ask():
        async with running() as server:
            texts = ["a red circle", "红色圆形", "a blue square " * 20]
            status, answer = await server.post("/v1/text", {"texts": texts})
            assert status == 200 and answer["walks"] == ["short", "short", "long"]
            np.testing.assert_allclose(answer["features"], towers.texts(texts), atol=1e-5)

            status, packed = await server.post("/v1/text", {"texts": texts[:1], "walk": "box", "encoding": "base64"})
            vector = np.frombuffer(base64.b64decode(packed["features"][0]), "<f4")
            np.testing.assert_allclose(vector, towers.texts(texts[:1], "box")[0], atol=1e-6)

            new = encoded(picture(1000))
            _, listed = await server.post("/v1/image", {"images": [as_text(new), as_text(PNG), as_text(new)]})
            own = towers.pictures([picture(1000), picture(3), picture(1000)])
            np.testing.assert_allclose(listed["features"], own, atol=1e-3)  # the second one comes from the cache, in float16
            _, raw = await server.post("/v1/image", data=new, headers={"Content-Type": "image/png"})
            np.testing.assert_allclose(raw["features"][0], own[0], atol=1e-5)

            _, scores = await server.post("/v1/score", {"images": [as_text(new)], "texts": texts})
            expected = score(towers, [picture(1000)], texts)
            np.testing.assert_allclose(scores["cosine"], expected.cosine, atol=1e-4)
            np.testing.assert_allclose(scores["probability"], expected.probability, rtol=1e-3)

            for body in ({"image": as_text(PNG)}, {"features": towers.pictures([picture(3)])[0].tolist()}):
                status, answer = await server.post("/v1/search", body | {"k": 2})
                assert status == 200 and len(answer["results"]) == 2
                assert answer["results"][0]["places"] == [str(folder / "pictures" / "0003.png")]
            _, raw = await server.post("/v1/search?k=1", data=PNG, headers={"Content-Type": "image/png"})
            assert raw["results"][0]["places"] == [str(folder / "pictures" / "0003.png")]
            _, by_text = await server.post("/v1/search", {"text": "红色圆形", "k": 12})
            (hits,) = Searcher(Cache.open(folder / "cache")).hits(towers.texts(["红色圆形"]).numpy(), 12)
            assert [one["places"] for one in by_text["results"]] == [hit.places for hit in hits]

    asyncio.run(ask())


def test_many_at_once_go_through_together_and_nobody_gets_anothers_answer(world, running):
    _, towers = world
    texts = [
        f"a {colour} {shape} {number}" for number in range(10) for colour in ("red", "蓝色") for shape in ("circle", "方块")
    ]

    async def ask():
        async with running() as server:
            answers = await asyncio.gather(*(server.post("/v1/text", {"texts": [text]}) for text in texts))
            own = towers.texts(texts)
            for (status, answer), vector in zip(answers, own, strict=True):
                assert status == 200
                np.testing.assert_allclose(answer["features"][0], vector, atol=1e-5)
            searches = await asyncio.gather(*(server.post("/v1/search", {"features": v.tolist(), "k": 3}) for v in own))
            expected = Searcher(server.service.searcher.cache).hits(own.numpy(), 3)
            for (_, answer), hits in zip(searches, expected, strict=True):
                assert [one["places"] for one in answer["results"]] == [hit.places for hit in hits]
            async with server.session.get("/metrics") as response:
                return await response.text()

    lines = dict(line.rsplit(" ", 1) for line in asyncio.run(ask()).splitlines() if not line.startswith("#"))
    assert float(lines['fgclip2_batch_items_sum{kind="text"}']) == len(texts)
    assert float(lines['fgclip2_batch_items_count{kind="text"}']) < len(texts)
    assert float(lines['fgclip2_requests_total{route="/v1/text",status="200"}']) == len(texts)


def test_what_is_known_is_not_encoded_again(running):
    async def ask():
        async with running() as server:
            for _ in range(3):
                await server.post("/v1/text", {"texts": ["a red circle", "a red circle"]})
                await server.post("/v1/image", {"images": [as_text(PNG)]})
            async with server.session.get("/metrics") as response:
                return await response.text()

    text = asyncio.run(ask())
    assert 'fgclip2_batch_items_sum{kind="text"} 1.0' in text
    assert (
        'fgclip2_batch_items_sum{kind="picture"}' not in text or 'fgclip2_batch_items_sum{kind="picture"} 0.0' in text
    )  # from the cache


REFUSED = [
    ("/v1/text", {}, 400, "texts: a list"),
    ("/v1/text", {"texts": []}, 400, "texts: a list"),
    ("/v1/text", {"texts": "a"}, 400, "texts: a list"),
    ("/v1/text", {"texts": [1]}, 400, "texts: a list"),
    ("/v1/text", {"texts": [" "]}, 400, "empty text"),
    ("/v1/text", {"texts": ["\ud800"]}, 400, "surrogate"),
    ("/v1/text", {"texts": ["a" * 101]}, 413, "101 characters"),
    ("/v1/text", {"texts": ["a"] * 5}, 413, "5 texts"),
    ("/v1/text", {"texts": ["a"], "walk": "run"}, 400, "walk: one of"),
    ("/v1/text", {"texts": ["a"], "walk": ["short"]}, 400, "walk: one of"),
    ("/v1/text", {"texts": ["a"], "encoding": "hex"}, 400, "encoding"),
    ("/v1/text", {"texts": ["a"], "wlak": "short"}, 400, "'wlak' is not known"),
    ("/v1/text", [], 400, "not a JSON object"),
    ("/v1/image", {"images": ["!"]}, 400, "not base64"),
    ("/v1/image", {"images": [""]}, 400, "empty"),
    ("/v1/image", {"images": [as_text(b"GIF89a")]}, 400, "picture: "),
    ("/v1/image", {"images": [as_text(bomb())]}, 413, "too many pixels"),
    ("/v1/image", {"images": [as_text(PNG)] * 5}, 413, "5 images"),
    ("/v1/score", {"images": [as_text(PNG)]}, 400, "texts: a list"),
    ("/v1/search", {}, 400, "give one of"),
    ("/v1/search", {"text": "a", "features": [1]}, 400, "give one of"),
    ("/v1/search", {"text": "a", "k": 0}, 400, "k: a whole number"),
    ("/v1/search", {"text": "a", "k": True}, 400, "k: a whole number"),
    ("/v1/search", {"text": "a", "k": 2000}, 400, "k: a whole number"),
    ("/v1/search", {"text": 3}, 400, "texts: a list"),
    ("/v1/search", {"features": [1.0] * 15}, 400, "16 numbers are needed"),
    ("/v1/search", {"features": [[1.0] * 16]}, 400, "16 numbers are needed"),
    ("/v1/search", {"features": [0.0] * 16}, 400, "not all zero"),
    ("/v1/search", {"features": [float("nan")] * 16}, 400, "finite"),
    ("/v1/search", {"features": [float("inf")] * 16}, 400, "finite"),
    ("/v1/search", {"features": ["x"] * 16}, 400, "list of numbers"),
    ("/v1/search", {"features": {"a": 1}}, 400, "list of numbers"),
    ("/v1/search", {"features": "AAAA"}, 400, "list of numbers"),
    ("/v1/nothing", {}, 404, "Not Found"),
]


def test_what_makes_no_sense_or_is_too_much_is_refused_and_the_server_lives(running):
    async def ask():
        async with running(items=4, characters=100, body=100_000) as server:
            for route, body, status, reason in REFUSED:
                got, answer = await server.post(route, body)
                assert (got, reason in answer["error"]) == (status, True), (route, body, got, answer)
            as_json = {"Content-Type": "application/json"}
            for data, headers, status in (
                (b"{", as_json, 400),
                (b"[" * 90_000, as_json, 400),
                (b"\xff\xfe", as_json, 400),
                (b"{}", {"Content-Type": "text/plain"}, 415),
                (b"{}", as_json | {"Content-Encoding": "gzip"}, 415),
                (b" " * 100_001, as_json, 413),
            ):
                got, answer = await server.post("/v1/text", data=data, headers=headers)
                assert got == status and answer["error"], (data[:20], got, answer)

            async def endless():
                for _ in range(200):
                    yield b" " * 1000

            got, answer = await server.post("/v1/text", data=endless(), headers=as_json)  # no length announced
            assert got == 413, answer
            for route in ("/v1/search?k=x", "/v1/search?kk=3", "/v1/image?k=3"):
                got, answer = await server.post(route, data=PNG, headers={"Content-Type": "image/png"})
                assert got == 400, answer
            async with server.session.get("/v1/text") as response:
                assert response.status == 405
            assert (await server.post("/v1/text", {"texts": ["a"]}))[0] == 200

    asyncio.run(ask())


def test_a_server_without_a_cache_does_not_search(world):
    async def ask():
        async with Running(world[1], None) as server:
            status, answer = await server.post("/v1/search", {"text": "a"})
            assert status == 400 and "without a feature cache" in answer["error"]
            async with server.session.get("/health") as response:
                assert response.status == 200 and (await response.json())["vectors"] == 0

    asyncio.run(ask())


def test_a_full_server_says_so_at_once_and_recovers(running):
    async def ask():
        async with running(queue=3) as server:
            stop = threading.Event()
            server.service.model_thread.submit(stop.wait)
            waiting = [asyncio.create_task(server.post("/v1/text", {"texts": [f"a {number}"]})) for number in range(3)]
            await asyncio.sleep(0.3)
            async with server.session.post("/v1/text", json={"texts": ["one more"]}) as response:
                assert response.status == 429 and response.headers["Retry-After"] == "1"
            async with server.session.get("/health") as response:
                assert response.status == 200  # health is answered under load too
            stop.set()
            assert [status for status, _ in await asyncio.gather(*waiting)] == [200] * 3
            assert (await server.post("/v1/text", {"texts": ["one more"]}))[0] == 200

    asyncio.run(ask())


def test_bytes_in_hand_are_bounded(running):
    async def ask():
        async with running(body=1000, bodies=1500) as server:
            stop = threading.Event()
            server.service.model_thread.submit(stop.wait)
            body = {"texts": ["a " * 400]}
            first = asyncio.create_task(server.post("/v1/text", body))
            await asyncio.sleep(0.2)
            assert (await server.post("/v1/text", {"texts": ["b " * 400]}))[0] == 429
            stop.set()
            assert (await first)[0] == 200 and server.server.bytes_in_hand == 0

    asyncio.run(ask())


def test_what_the_server_as_a_whole_has_no_room_for_is_too_much_and_not_for_later(running):
    async def ask():
        async with running(queue=3, bodies=1500) as server:
            status, told = await server.post("/v1/text", {"texts": ["a", "b", "c", "d"]})
            assert (status, told["error"]) == (413, "4 texts, 3 are allowed")
            status, told = await server.post("/v1/text", {"texts": ["a " * 1000]})
            assert status == 413 and told["error"].endswith("bytes, 1500 are allowed")

    asyncio.run(ask())


def test_a_client_that_drips_is_let_go(running):
    async def ask():
        async with running(timeout=0.3) as server:
            port = server.session._base_url.port
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = "POST /v1/text HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
            writer.write(head.encode())
            answer = await asyncio.wait_for(reader.read(2000), 5)
            assert b" 408 " in answer.splitlines()[0] and b"longer than 0.3 s" in answer
            writer.close()
            assert server.server.in_hand == 0

    asyncio.run(ask())


def test_a_connection_that_never_says_what_it_wants_is_closed_and_one_in_use_is_not(running):
    async def ask():
        async with running(timeout=2) as server:
            port = server.session._base_url.port
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
            silent[1][1].write(b"POST /v1/text HTTP/1.1\r\nHost: x\r\nX-")  # half of a head
            silent[2][1].write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")  # and then nothing more
            for reader, writer in silent:
                with suppress(ConnectionResetError):
                    await asyncio.wait_for(reader.read(), 60)
                writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(10):
                writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                assert b" 200 " in await asyncio.wait_for(reader.read(4000), 5)
                await asyncio.sleep(0.3)
            writer.close()

    asyncio.run(ask())


def test_more_connections_than_file_handles_are_refused_and_the_rest_served(running, monkeypatch, caplog):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (OWN_HANDLES + 3, OWN_HANDLES + 3))

    async def ask():
        async with running() as server:
            port = server.session._base_url.port
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
            while len(server.server.connections.server.connections) < 3:
                await asyncio.sleep(0.01)
            status, told = await server.post("/v1/text", {"texts": ["a"]})
            assert (status, told["error"]) == (503, "too many connections; try again")
            for _, writer in held:
                writer.close()
            while server.server.connections.server.connections:
                await asyncio.sleep(0.01)
            assert (await server.post("/v1/text", {"texts": ["a"]}))[0] == 200

    asyncio.run(ask())
    assert not caplog.records


def test_a_client_that_goes_away_costs_nothing(running):
    async def ask():
        async with running() as server:
            stop = threading.Event()
            server.service.model_thread.submit(stop.wait)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(server.post("/v1/text", {"texts": ["nobody waits for this"]}), 0.2)
            stop.set()
            assert (await server.post("/v1/text", {"texts": ["b"]}))[0] == 200

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01 no http\r\n\r\n", b"400"),
        (b"POST /v1/text HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", b"400"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", b"400"),
        (b"POST /v1/text HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nxx", b"415"),
        (b"POST /v1/text HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{", b""),
    ],
    ids=["no http", "length", "header", "gzip", "broken off"],
)
def test_requests_that_are_none_get_their_refusal_and_leave_no_traceback(sent, status, running, caplog):
    async def ask():
        async with running() as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.session._base_url.port)
            writer.write(sent)
            if not status:
                writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), 30)
            writer.close()
            assert answer[9:12] == status
            assert (await server.post("/v1/text", {"texts": ["b"]}))[0] == 200

    asyncio.run(ask())
    assert not caplog.records


def test_a_port_in_use_is_said(world):

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        service = Service(world[1], ServeSettings(port=port), None)
        with pytest.raises(ValueError, match=f"port {port} on 127.0.0.1 is in use"):
            asyncio.run(Server(service).run(lambda _: None))


def test_sigterm_answers_what_is_in_hand_and_ends_with_0(world, tmp_path):
    folder, _ = world
    checkpoint = folder / "checkpoints" / "step-00000001"
    command = [
        sys.executable,
        "-m",
        "fgclip2_train",
        "serve",
        "--checkpoint",
        str(checkpoint),
        "port=0",
        f"cache={folder / 'cache'}",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert process.stdout
    address = next(line for line in process.stdout if line.startswith("serving on")).split()[-1]
    body = json.dumps({"texts": ["a red circle"]}).encode()
    port = int(address.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as slow:
        head = f"POST /v1/text HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        slow.sendall(head.encode() + body[:5])
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(OSError):  # no new connection
            socket.create_connection(("127.0.0.1", port), timeout=1)
        slow.sendall(body[5:])
        slow.settimeout(10)
        assert slow.recv(100).startswith(b"HTTP/1.1 200")
    assert process.wait(200) == 0
    assert "ended" in process.stdout.read()


# -- batching by itself -------------------------------------------------------------------------------------------------------


def batcher(run, most=4, waiting=10):
    from concurrent.futures import ThreadPoolExecutor

    return Batcher(run, most, waiting, ThreadPoolExecutor(1))


def test_batches_grow_while_one_is_worked_on():
    sizes = []

    def run(items):
        sizes.append(len(items))
        time.sleep(0.05)
        return [item * 2 for item in items]

    async def ask():
        batch = batcher(run)
        return await asyncio.gather(*(batch([number]) for number in range(9)))

    assert asyncio.run(ask()) == [[number * 2] for number in range(9)]
    assert sum(sizes) == 9 and max(sizes) == 4


def test_a_failed_batch_fails_its_callers_and_not_the_next():
    def run(items):
        if "bad" in items:
            raise RuntimeError("out of memory")
        return items

    async def ask():
        batch = batcher(run)
        with pytest.raises(RuntimeError, match="out of memory"):
            await batch(["bad"])
        with pytest.raises(Busy):
            await batch(["x"] * 11)
        return await batch(["good"])

    assert asyncio.run(ask()) == ["good"]


def test_memory_keeps_the_newest():
    recent = Recent(2)
    for key in "abc":
        recent.put(key, key)
        recent.get("a")
    assert [recent.get(key) for key in "abc"] == ["a", None, "c"]
