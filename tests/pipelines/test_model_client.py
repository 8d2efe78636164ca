"""The client against a real HTTP server that counts its requests and misbehaves as told."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import resource
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from PIL import Image

from pipelines.answers import AnswerStore, read_answers
from pipelines.model_client import ALL_REFUSED, ModelClient, ModelSettings
from pipelines.model_identity import ModelChanged, ServerUnavailable, same_model
from pipelines.sent_picture import SentPicture

PROMPT = """
name: ask
version: 3
language: en
system: Be brief.
user: Say {{ word }}.
answer_schema: {type: object}
sampling: {temperature: 0, max_tokens: 20, top_k: 7}
"""
SHA = "ab" * 32
Reply = Callable[[dict[str, Any], int], Any]
"""(body, how many requests with this text came before) → a response, a text to answer with, a coroutine, or a handler."""


class Server:
    """Counts questions by their user text ("Say yes." is the client's own look whether the server is well)."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.bodies: list[dict[str, Any]] = []
        self.in_flight = self.most_in_flight = 0
        self.model, self.version, self.root = "m", "1.0", "org/model"
        self.keys: set[str | None] = set()
        self.looks = 0
        self.silent = 0  # times that /version answers 503

    def asked(self, word: str) -> int:
        return sum(1 for body in self.bodies if text_of(body) == f"Say {word}.")

    async def __aenter__(self) -> Server:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/version", self._version)
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"  # type: ignore[union-attr]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        self.looks += 1
        return web.json_response({"object": "list", "data": [{"id": self.model, "root": self.root}]})

    async def _version(self, request: web.Request) -> web.Response:
        if self.silent:
            self.silent -= 1
            return web.Response(status=503)
        return web.json_response({"version": self.version})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        before = self.asked(text_of(body).removeprefix("Say ").removesuffix("."))
        self.bodies.append(body)
        self.keys.add(request.headers.get("Authorization"))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            answer = self.reply(body, before)
            if callable(answer):
                answer = answer(request)
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer == "reset":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            return answer if isinstance(answer, web.StreamResponse) else completion(self.model, answer)
        finally:
            self.in_flight -= 1


def completion(model: str, text: Any, finish: str = "stop") -> web.Response:
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 11, "completion_tokens": 7}
    return web.json_response({"model": model, "choices": [{"message": message, "finish_reason": finish}], "usage": usage})


def text_of(body: dict[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def failing(status: int, times: int, headers: dict[str, str] | None = None) -> Reply:
    """`status` for the first `times` requests of a question that is not the client's look, then an answer."""

    def reply(body: dict[str, Any], before: int) -> Any:
        if text_of(body) == "Say yes." or before >= times:
            return "fine"
        return web.json_response({"error": {"message": "trouble"}}, status=status, headers=headers)

    return reply


@pytest.fixture
def prompts(tmp_path) -> Path:
    (tmp_path / "ask.yaml").write_text(PROMPT)
    return tmp_path


def settings(server: Server, **changes: Any) -> ModelSettings:
    quick = {"backoff": 0.01, "timeout": 5, "deadline": 20, "retries": 4, "concurrency": 8}
    return ModelSettings(base_url=server.url, name="m", **{**quick, **changes})


def picture(color: str = "red", size: tuple[int, int] = (100, 60)) -> Image.Image:
    return Image.new("RGB", size, color)


def run(scenario: Callable[[Server], Any], reply: Reply = lambda body, before: "fine") -> Any:
    async def main() -> Any:
        async with Server(reply) as server:
            return await scenario(server)

    return asyncio.run(main())


def test_an_answer_comes_with_its_tokens_and_is_kept_with_its_origin(prompts, tmp_path):
    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server))
        store = AnswerStore(tmp_path / "answers", "a1")
        answer = await client.ask_for(store, SHA, prompts)("ask", {"word": "red"}, picture())
        assert (answer.text, answer.finish, answer.prompt_tokens, answer.output_tokens) == ("fine", "stop", 11, 7)
        store.close()
        ((key, record),) = read_answers(tmp_path / "answers")
        assert key == answer.hash
        assert record.pop("seconds") >= 0
        assert record == {
            "text": "fine",
            "finish": "stop",
            "prompt_tokens": 11,
            "output_tokens": 7,
            "prompt": "ask@3",
            "image": SHA,
            "sent": "84x56 jpeg",
            "identity": {"name": "m", "weights": "org/model", "quantization": None, "server": "1.0"},
            "hash": key,
            "attempt": "a1",
        }
        await client.close()

    run(scenario)


def test_the_request_holds_schema_sampling_and_the_picture_at_the_size_of_the_models_grid(prompts, tmp_path):
    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server))
        await client.ask_for(AnswerStore(tmp_path, "a"), SHA, prompts)("ask", {"word": "red"}, picture(size=(1000, 500)))
        (body,) = server.bodies
        assert body["response_format"]["json_schema"] == {"name": "ask", "schema": {"type": "object"}}
        assert (body["model"], body["temperature"], body["max_tokens"], body["top_k"]) == ("m", 0, 20, 7)
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}
        image, text = body["messages"][1]["content"]
        assert text == {"type": "text", "text": "Say red."}
        head, data = image["image_url"]["url"].split(",")
        assert head == "data:image/jpeg;base64"
        sent = Image.open(io.BytesIO(base64.b64decode(data)))
        assert sent.size[0] % 28 == sent.size[1] % 28 == 0
        assert sent.size[0] * sent.size[1] <= 200704
        assert sent.size[0] == 2 * sent.size[1]
        await client.close()

    run(scenario)


def test_what_the_store_knows_is_not_asked_again(prompts, tmp_path):
    async def scenario(server: Server) -> None:
        first = ModelClient(settings(server))
        with AnswerStore(tmp_path / "answers", "a1") as store:
            await first.ask_for(store, SHA, prompts)("ask", {"word": "red"}, picture())
        again = ModelClient(settings(server))
        usage = {"requests": 0, "answers_found": 0, "prompt_tokens": 0, "output_tokens": 0}
        ask = again.ask_for(AnswerStore(tmp_path / "answers", "a2"), SHA, prompts, usage)
        assert (await ask("ask", {"word": "red"}, picture())).text == "fine"
        assert server.asked("red") == 1
        assert usage == {"requests": 0, "answers_found": 1, "prompt_tokens": 0, "output_tokens": 0}
        assert again.counters()["from_store"] == 1
        # Another word, no picture, another picture: other questions.
        await ask("ask", {"word": "blue"}, picture())
        await ask("ask", {"word": "red"})
        await again.ask_for(AnswerStore(tmp_path / "b", "a"), "cd" * 32, prompts)("ask", {"word": "red"}, picture())
        assert len(server.bodies) == 4

    run(scenario)


def test_the_same_question_in_flight_is_asked_once_and_kept_by_both_shards(prompts, tmp_path):
    async def slow(body, before):
        await asyncio.sleep(0.2)
        return "fine"

    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server))
        stores = [AnswerStore(tmp_path / name, "a") for name in ("00001", "00002")]
        usage: dict[str, int] = {"requests": 0, "answers_found": 0, "prompt_tokens": 0, "output_tokens": 0}
        asks = [
            client.ask_for(store, SHA, prompts, usage)("ask", {"word": "red"}, picture()) for store in stores for _ in range(3)
        ]
        assert {answer.text for answer in await asyncio.gather(*asks)} == {"fine"}
        assert server.asked("red") == 1
        assert usage == {"requests": 1, "answers_found": 5, "prompt_tokens": 11, "output_tokens": 7}
        for store in stores:
            store.close()
            assert len(list(read_answers(store.folder))) == 1

    run(scenario, lambda body, before: slow(body, before))


def test_a_cancelled_shard_does_not_take_the_answer_from_another(prompts, tmp_path):
    async def slow(body, before):
        await asyncio.sleep(0.3)
        return "fine"

    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server))
        store = AnswerStore(tmp_path, "a")
        first = asyncio.create_task(client.ask_for(store, SHA, prompts)("ask", {"word": "red"}, picture()))
        second = asyncio.create_task(client.ask_for(store, SHA, prompts)("ask", {"word": "red"}, picture()))
        while not server.asked("red"):
            await asyncio.sleep(0.01)
        first.cancel()
        assert (await second).text == "fine"
        assert server.asked("red") == 1
        # With nobody left who waits, the request ends and its slot is free.
        third = asyncio.create_task(client.ask_for(store, SHA, prompts)("ask", {"word": "blue"}, picture()))
        while not server.asked("blue"):
            await asyncio.sleep(0.01)
        third.cancel()
        await asyncio.gather(third, return_exceptions=True)
        await asyncio.sleep(0.05)
        assert client.counters()["in_flight"] == 0

    run(scenario, lambda body, before: slow(body, before))


def test_no_more_requests_are_in_flight_than_agreed_over_all_shards(prompts, tmp_path):
    async def slow(body, before):
        await asyncio.sleep(0.05)
        return "fine"

    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server, concurrency=3))
        stores = [AnswerStore(tmp_path / str(i), "a") for i in range(4)]
        await asyncio.gather(
            *(client.ask_for(stores[i % 4], f"{i:064}", prompts)("ask", {"word": f"w{i}"}, picture()) for i in range(24))
        )
        assert server.most_in_flight == 3

    run(scenario, lambda body, before: slow(body, before))


@pytest.mark.parametrize("status", [429, 500, 502, 503, 408])
def test_trouble_that_passes_is_tried_again(prompts, tmp_path, status):
    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server))
        answer = await client.ask_for(AnswerStore(tmp_path, "a"), SHA, prompts)("ask", {"word": "red"}, picture())
        assert answer.text == "fine"
        assert server.asked("red") == 3
        assert client.counters()["retries"] == 2

    run(scenario, failing(status, 2))


def test_retry_after_is_honoured_by_every_request_of_the_client(prompts, tmp_path):
    times: dict[str, list[float]] = {"red": [], "blue": []}

    def reply(body, before):
        word = text_of(body).removeprefix("Say ").removesuffix(".")
        times[word].append(asyncio.get_running_loop().time())
        return web.Response(status=429, headers={"Retry-After": "1"}) if (word, before) == ("red", 0) else "fine"

    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server))
        store = AnswerStore(tmp_path, "a")
        red = asyncio.create_task(client.ask_for(store, SHA, prompts)("ask", {"word": "red"}))
        while not times["red"]:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        await client.ask_for(store, SHA, prompts)("ask", {"word": "blue"})
        await red
        assert times["red"][1] - times["red"][0] >= 1
        assert times["blue"][0] - times["red"][0] >= 1

    run(scenario, reply)


def test_a_wait_longer_than_the_deadline_is_not_waited_for(prompts, tmp_path):
    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server))
        with pytest.raises(ServerUnavailable, match="concurrency"):
            await client.ask_for(AnswerStore(tmp_path, "a"), SHA, prompts)("ask", {"word": "red"})
        assert server.asked("red") == 1

    run(scenario, failing(429, 9, {"Retry-After": "3600"}))


def test_a_date_to_wait_for_is_read_by_the_servers_own_clock(prompts, tmp_path):
    """This machine's may have been set back by years, and no request would be worth the wait."""
    dates = {"Date": "Wed, 21 Oct 2099 07:28:00 GMT", "Retry-After": "Wed, 21 Oct 2099 07:28:01 GMT"}

    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server))
        await client.ask_for(AnswerStore(tmp_path, "a"), SHA, prompts)("ask", {"word": "red"})
        assert server.asked("red") == 2

    run(scenario, failing(429, 1, dates))


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_an_answer_that_says_so_and_is_neither_repeated_nor_kept(prompts, tmp_path, status):
    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server))
        store = AnswerStore(tmp_path / "answers", "a")
        answer = await client.ask_for(store, SHA, prompts)("ask", {"word": "red"}, picture())
        assert answer.finish == f"error:{status}"
        assert "trouble" in answer.text
        assert server.asked("red") == 1
        store.close()
        assert not list(read_answers(tmp_path / "answers"))
        assert client.counters()["errors"] == 1

    run(scenario, failing(status, 9))


def bad_picture(body, before):
    if text_of(body) == "Say bad.":
        return web.Response(status=500, text="cannot process this picture")
    return "fine"


def test_500_for_one_picture_only_concerns_that_picture(prompts, tmp_path):
    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server))
        store = AnswerStore(tmp_path, "a")
        words = ["good", "bad", "fine", "well"]
        answers = await asyncio.gather(*(client.ask_for(store, SHA, prompts)("ask", {"word": w}, picture()) for w in words))
        assert [a.finish for a in answers] == ["stop", "error:500", "stop", "stop"]
        assert "cannot process this picture" in answers[1].text
        assert 2 <= server.asked("bad") <= 5

    run(scenario, bad_picture)


def test_a_server_that_refuses_all_that_a_prompt_asks_is_no_refusal(prompts, tmp_path):
    (prompts / "tell.yaml").write_text(PROMPT.replace("name: ask", "name: tell").replace("Say", "Tell"))

    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server))
        ask = client.ask_for(AnswerStore(tmp_path / "one", "a"), SHA, prompts)
        for n in range(ALL_REFUSED - 1):
            assert (await ask("ask", {"word": f"{n}"})).finish == "error:400"
        assert (await ask("tell", {"word": "red"})).text == "fine"
        with pytest.raises(ServerUnavailable, match=r"first 32 requests of prompt ask: HTTP 400: .*sees no pictures"):
            await ask("ask", {"word": "last"})
        again = ModelClient(settings(server))
        store = AnswerStore(tmp_path / "two", "b")
        assert (await again.ask_for(store, SHA, prompts)("ask", {"word": "good"})).text == "fine"
        resumed = ModelClient(settings(server)).ask_for(store, SHA, prompts)
        assert (await resumed("ask", {"word": "good"})).text == "fine"  # found in the store, so once it was answered
        for n in range(ALL_REFUSED):
            assert (await resumed("ask", {"word": f"{n}"})).finish == "error:400"

    def reply(body, before):
        if text_of(body) in ("Say yes.", "Say good.") or text_of(body).startswith("Tell"):
            return "fine"
        return web.json_response({"error": {"message": "this model sees no pictures"}}, status=400)

    run(scenario, reply)


def test_a_server_that_fails_everything_is_no_refusal(prompts, tmp_path):
    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server))
        with pytest.raises(ServerUnavailable, match="500"):
            await client.ask_for(AnswerStore(tmp_path, "a"), SHA, prompts)("ask", {"word": "red"}, picture())

    run(scenario, lambda body, before: web.Response(status=500, text="engine dead"))


def test_a_dead_server_is_no_refusal(prompts, tmp_path):
    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server, retries=2))
        await client.identity()
        await server._runner.cleanup()
        store = AnswerStore(tmp_path, "a")
        with pytest.raises(ServerUnavailable, match="cannot be reached"):
            await client.ask_for(store, SHA, prompts)("ask", {"word": "red"}, picture())
        with pytest.raises(ServerUnavailable):
            await client.check_identity()
        with pytest.raises(ServerUnavailable):
            await ModelClient(settings(server, retries=1)).identity()

    run(scenario)


def test_a_hung_server_is_no_refusal(prompts, tmp_path):
    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server, timeout=0.2, retries=1))
        with pytest.raises(ServerUnavailable, match="time-out"):
            await client.ask_for(AnswerStore(tmp_path, "a"), SHA, prompts)("ask", {"word": "red"}, picture())

    run(scenario, lambda body, before: asyncio.sleep(60))


def test_a_dripping_server_is_cut_off_at_the_timeout(prompts, tmp_path):
    """Each byte comes in time, the whole never: a time-out per read would wait for ever."""

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(200):
            await response.write(b" ")
            await asyncio.sleep(0.05)
        return response

    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server, timeout=0.4, retries=1))
        answer = await client.ask_for(AnswerStore(tmp_path, "a"), SHA, prompts)("ask", {"word": "red"})
        assert answer.finish == "error:timeout"

    run(scenario, lambda body, before: "fine" if text_of(body) == "Say yes." else drip)


def test_a_broken_connection_is_tried_again(prompts, tmp_path):
    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server))
        answer = await client.ask_for(AnswerStore(tmp_path, "a"), SHA, prompts)("ask", {"word": "red"}, picture())
        assert answer.text == "fine"
        assert server.asked("red") == 2

    run(scenario, lambda body, before: "reset" if before == 0 else "fine")


@pytest.mark.parametrize("trouble", ["reset", 503, 500])
def test_a_server_that_came_back_after_the_last_try_is_asked_once_more(prompts, tmp_path, trouble):
    """That it is well now tells nothing of the tries before."""

    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server, retries=1))
        ask = client.ask_for(AnswerStore(tmp_path, "a"), SHA, prompts)
        assert (await ask("ask", {"word": "red"})).text == "fine"
        assert (await ask("ask", {"word": "blue"})).finish.startswith("error:")
        assert server.asked("red") == server.asked("blue") == 3

    run(
        scenario, lambda body, before: trouble if "blue" in text_of(body) or ("red" in text_of(body) and before < 2) else "fine"
    )


ABORTED = '{"choices": [{"message": {"content": "fi"}, "finish_reason": "abort"}]}'


@pytest.mark.parametrize(
    "body",
    [
        "<html>proxy</html>",
        "[]",
        "{}",
        '{"choices": []}',
        '{"choices": [{"message": {"content": [1]}}]}',
        ABORTED,
        "[" * 10**5,
        "",
    ],
)
def test_a_body_that_is_no_completion_is_tried_again_then_refused(prompts, tmp_path, body):
    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server))
        store = AnswerStore(tmp_path / "answers", "a")
        answer = await client.ask_for(store, SHA, prompts)("ask", {"word": "red"}, picture())
        assert answer.finish == "error:invalid"
        assert server.asked("red") == 3
        store.close()
        assert not list(read_answers(tmp_path / "answers"))

    run(scenario, lambda request, _: "fine" if text_of(request) == "Say yes." else web.Response(text=body))


@pytest.mark.parametrize("status", [200, 500])
def test_a_huge_body_does_not_fill_the_memory(prompts, tmp_path, status):
    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server, max_answer_bytes=100_000))
        answer = await client.ask_for(AnswerStore(tmp_path, "a"), SHA, prompts)("ask", {"word": "red"}, picture())
        assert answer.finish == "error:too-long"
        assert server.asked("red") == 1

    run(scenario, lambda body, before: web.Response(status=status, body=b"x" * 5_000_000))


def test_a_packed_body_is_unpacked_up_to_the_same_limit(prompts, tmp_path):
    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server, max_answer_bytes=100_000))
        ask = client.ask_for(AnswerStore(tmp_path, "a"), SHA, prompts)
        assert (await ask("ask", {"word": "red"})).text == "fine"
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert (await ask("ask", {"word": "bomb"})).finish == "error:too-long"
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # of 1,000,000 KiB that it holds

    zeros = zlib.compressobj(wbits=31)
    bomb = b"".join([*(zeros.compress(bytes(2**20)) for _ in range(1000)), zeros.flush()])

    def reply(body, before):
        data = bomb if "bomb" in text_of(body) else gzip.compress(completion("m", "fine").body)
        return web.Response(body=data, headers={"Content-Encoding": "gzip"})

    run(scenario, reply)


def test_a_page_in_the_place_of_every_answer_is_no_refusal(prompts, tmp_path):
    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server))
        with pytest.raises(ServerUnavailable, match="under maintenance"):
            await client.ask_for(AnswerStore(tmp_path, "a"), SHA, prompts)("ask", {"word": "red"}, picture())

    run(scenario, lambda body, before: web.Response(text="<html>under maintenance</html>", content_type="text/html"))


def test_a_server_that_sends_elsewhere_is_not_followed(prompts, tmp_path):
    async def scenario(elsewhere: Server) -> None:
        def sends(body, before):
            return web.Response(status=307, headers={"Location": f"{elsewhere.url}/chat/completions"})

        async with Server(sends) as server:
            client = ModelClient(settings(server))
            with pytest.raises(ServerUnavailable, match=rf"sends to {elsewhere.url}.*set model\.base_url"):
                await client.ask_for(AnswerStore(tmp_path, "a"), SHA, prompts)("ask", {"word": "red"}, picture())
        assert not elsewhere.bodies and not elsewhere.looks

    run(scenario)


@pytest.mark.parametrize("told", ["Infinity", "1e400", "-4", '"many"', "[1]", str(10**30)])
def test_a_count_of_tokens_that_is_none_counts_nothing(prompts, tmp_path, told):
    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server))
        answer = await client.ask_for(AnswerStore(tmp_path, "a"), SHA, prompts)("ask", {"word": "red"})
        assert (answer.text, answer.prompt_tokens, answer.output_tokens) == ("fine", 0, 3)

    said = '{"model": "m", "choices": [{"message": {"content": "fine"}}], "usage": {"prompt_tokens": TOLD, "completion_tokens": 3}}'
    run(scenario, lambda body, before: web.Response(text=said.replace("TOLD", told)))


def test_what_the_server_marks_as_a_refusal_is_one(prompts, tmp_path):
    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server))
        answer = await client.ask_for(AnswerStore(tmp_path, "a"), SHA, prompts)("ask", {"word": "red"})
        assert (answer.text, answer.finish) == ("That is against the rules.", "refusal")

    message = {"content": None, "refusal": "That is against the rules."}
    run(scenario, lambda body, before: web.json_response({"model": "m", "choices": [{"message": message}]}))


def test_an_empty_or_cut_answer_is_kept_as_it_came(prompts, tmp_path):
    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server))
        store = AnswerStore(tmp_path / "answers", "a")
        ask = client.ask_for(store, SHA, prompts)
        assert (await ask("ask", {"word": "nothing"})).text == ""
        cut = await ask("ask", {"word": "cut"})
        assert (cut.text, cut.finish) == ("\x00\u202e{", "length")
        store.close()
        assert len(list(read_answers(tmp_path / "answers"))) == 2

    def reply(body, before):
        return completion("m", None) if "nothing" in text_of(body) else completion("m", "\x00\u202e{", "length")

    run(scenario, reply)


def test_a_model_that_changes_in_mid_run_stops_the_run(prompts, tmp_path):
    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server))
        ask = client.ask_for(AnswerStore(tmp_path, "a"), SHA, prompts)
        await ask("ask", {"word": "red"})
        await client.check_identity()
        server.version = "2.0"
        with pytest.raises(ModelChanged, match=r"2\.0"):
            await client.check_identity()
        server.version, server.model = "1.0", "other"
        with pytest.raises(ModelChanged, match="other"):
            await client.check_identity()
        with pytest.raises(ModelChanged, match="answers as 'other'"):
            await ask("ask", {"word": "blue"})

    run(scenario)


def test_after_trouble_the_model_is_looked_at_before_anything_is_asked(prompts, tmp_path):
    """A server that was restarted with other weights: its answers must not be kept under the first model's name."""

    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server))
        store = AnswerStore(tmp_path / "answers", "a")

        def restarted(body, before):
            server.version = "2.0"
            return "reset"

        server.reply = restarted
        with pytest.raises(ModelChanged):
            await client.ask_for(store, SHA, prompts)("ask", {"word": "red"})
        assert server.asked("red") == 1
        store.close()
        assert not list(read_answers(tmp_path / "answers"))

    run(scenario)


def test_another_process_checks_the_model_it_was_told_of(prompts):
    async def scenario(server: Server) -> None:
        told = await ModelClient(settings(server)).identity()
        assert await ModelClient(settings(server), expected=told).identity() == told
        with pytest.raises(ModelChanged):
            await ModelClient(settings(server), expected={**told, "server": "0.9"}).identity()

    run(scenario)


def test_a_model_that_is_not_served_is_named_with_those_that_are(prompts):
    async def scenario(server: Server) -> None:
        server.model = "qwen2.5-vl"
        with pytest.raises(ServerUnavailable, match=r"serves qwen2\.5-vl, not m; set model\.name"):
            await ModelClient(settings(server)).identity()
        assert server.looks == 1

    run(scenario)


def test_a_version_that_is_not_told_just_now_is_no_other_model(prompts, tmp_path):
    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server))
        before = await client.identity()
        server.silent = 2
        await client.check_identity()
        assert await client.identity() == before and before["server"] == "1.0"
        assert server.silent == 0

    run(scenario)


def test_weights_are_known_by_their_content(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("says nothing to the model")

    async def scenario(server: Server) -> None:
        server.root = str(folder)
        client = ModelClient(settings(server))
        first = await client.identity()
        assert first["weights"].startswith("sha256:")
        assert first["quantization"] == "awq"
        (folder / "README.md").write_text("changed")
        assert await ModelClient(settings(server)).identity() == first
        assert (await ModelClient(settings(server, revision="abc")).identity())["weights"] == "abc"
        (folder / "model.safetensors").write_bytes(b"retrained")
        with pytest.raises(ModelChanged):
            await client.check_identity()

    run(scenario)


def test_a_machine_that_cannot_read_the_weights_trusts_name_and_version():
    driver = {"name": "m", "weights": "sha256:1", "quantization": "awq", "server": "1"}
    worker = {"name": "m", "weights": "model", "quantization": None, "server": "1"}
    assert same_model(driver, worker)
    assert not same_model(driver, {**worker, "server": "2"})
    assert not same_model(driver, {**driver, "weights": "sha256:2"})


def test_the_key_is_sent_and_is_nowhere_else(prompts, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SOME_KEY", "sk-very-secret")

    def reply(body, before):
        return (
            web.json_response({"error": {"message": "bad key sk-very-secret"}}, status=400) if "bad" in text_of(body) else "ok"
        )

    async def scenario(server: Server) -> None:
        caplog.set_level("DEBUG")
        config = settings(server, api_key_env="SOME_KEY")
        client = ModelClient(config)
        store = AnswerStore(tmp_path / "answers", "a")
        ask = client.ask_for(store, SHA, prompts)
        refused = await ask("ask", {"word": "bad"})
        await ask("ask", {"word": "red"})
        store.close()
        assert server.keys == {"Bearer sk-very-secret"}
        seen = [repr(client), repr(config), config.model_dump_json(), json.dumps(client.counters()), refused.text, caplog.text]
        seen += [path.read_text() for path in (tmp_path / "answers").iterdir()]
        assert not any("very-secret" in text for text in seen)
        assert "***" in refused.text

    run(scenario, reply)


def test_a_key_that_is_not_accepted_stops_the_run(prompts, tmp_path):
    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server))
        with pytest.raises(ServerUnavailable, match="api_key_env"):
            await client.ask_for(AnswerStore(tmp_path, "a"), SHA, prompts)("ask", {"word": "red"})

    run(scenario, failing(401, 9))


@pytest.mark.parametrize("url", ["127.0.0.1:8000/v1", "ftp://host/v1", "http://", "http://user:pass@host/v1"])
def test_an_address_that_cannot_be_used_is_refused_and_not_repeated(url):
    with pytest.raises(ValueError) as caught:
        ModelSettings(base_url=url, name="m")
    assert "pass@" not in str(caught.value.errors()[0]["msg"])  # type: ignore[attr-defined]


def test_a_part_of_the_picture_is_another_question(prompts, tmp_path):
    async def scenario(server: Server) -> None:
        client = ModelClient(settings(server, picture_format="png"))
        whole = picture("white", (560, 280))
        whole.paste((255, 0, 0), (0, 0, 280, 280))
        ask = client.ask_for(AnswerStore(tmp_path, "a"), SHA, prompts)
        hashes = {
            (await ask("ask", {"word": "colour"}, whole, region=region)).hash
            for region in (None, (0, 0, 280, 280), (280, 0, 560, 280))
        }
        assert len(hashes) == 3
        colours = []
        for body in server.bodies[1:]:
            data = body["messages"][1]["content"][0]["image_url"]["url"].split(",")[1]
            sent = Image.open(io.BytesIO(base64.b64decode(data)))
            assert sent.size == (280, 280)
            colours.append(sent.getpixel((140, 140)))
        assert colours == [(255, 0, 0), (255, 255, 255)]
        with pytest.raises(ValueError, match="region"):
            await ask("ask", {"word": "colour"}, whole.crop((0, 0, 280, 280)))
        with pytest.raises(ValueError, match="not inside"):
            await ask("ask", {"word": "colour"}, whole, region=(500, 0, 600, 280))
        with pytest.raises(ValueError, match="without one"):
            await client.ask_for(AnswerStore(tmp_path, "a"), None, prompts)("ask", {"word": "colour"}, whole)

    run(scenario)


def test_a_picture_is_encoded_once_for_all_questions_about_it(monkeypatch):
    encoded = []
    original = SentPicture._encode
    monkeypatch.setattr(SentPicture, "_encode", lambda self: encoded.append(self) or original(self))

    async def scenario() -> None:
        sent = SentPicture(picture(), None, 200704, 3136, "jpeg")
        urls = await asyncio.gather(*(sent.data_url() for _ in range(5)))
        assert len(set(urls)) == 1

    asyncio.run(scenario())
    assert len(encoded) == 1


def test_a_grey_or_transparent_picture_is_sent_as_rgb():
    for mode in ("L", "RGBA", "P", "CMYK"):
        sent = SentPicture(Image.new(mode, (60, 60)), None, 200704, 3136, "jpeg")
        data = asyncio.run(sent.data_url()).split(",")[1]
        assert Image.open(io.BytesIO(base64.b64decode(data))).mode == "RGB"
