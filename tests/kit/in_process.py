"""A whole run in this process, without Ray, and a served model on loopback whose answers a test writes.

with ModelServer(lambda prompt_text: "an answer") as server:
    recipe = …  # model: {base_url: server.url, name: server.name}
    chain = run_here(load_recipe(path), root)
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pipelines.chain import Chain
from pipelines.config import Recipe
from pipelines.reach import global_fingerprint
from pipelines.run import Options, handoff, prepare
from pipelines.verdicts import commit_verdicts
from pipelines.view import View
from pipelines.worker import Worker


async def _quiet(_: dict[str, int]) -> None:
    pass


def run_here(recipe: Recipe, root: Path, shards: int | None = None, options: Options | None = None) -> Chain:
    """Take the first `shards` shards (default: all) through the recipe with the engine's own worker and commit, then hand them over."""
    chain = prepare(recipe, root, options or Options())
    chosen = chain.shards()[:shards]
    views = {shard: View(shard) for shard in chosen}
    done: list[Any] = []

    async def take(segment: list[Any]) -> None:
        for stage in segment:
            worker = Worker(chain, stage)
            for shard in chosen:
                views[shard] = views[shard].after((await worker.process(views[shard], _quiet))[0])
            if worker.client is not None:
                await worker.client.close()

    for segment in recipe.segments():
        if segment[0].kind == "global":
            fingerprint = global_fingerprint(chain, segment[0], list(views.values()))
            chain.globals[segment[0].name] = {0: fingerprint}
            commit_verdicts(chain, segment[0], done, chosen)
            views = {shard: chain.advance(view, segment)[0] for shard, view in views.items()}
        else:
            asyncio.run(take(segment))
        done = done + segment
    handoff(chain)
    return chain


class ModelServer(ThreadingHTTPServer):
    """Answers chat completions with what `reply` makes of the user's text; counts them in `asked`."""

    daemon_threads = True
    name = "canned"

    def __init__(self, reply: Callable[[str], str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply = reply
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> ModelServer:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ModelServer  # type: ignore[assignment]

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/version":
            self._send({"version": "1.0"})
        else:
            self._send({"object": "list", "data": [{"id": self.server.name, "root": "canned-weights"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][-1]["content"]
        text = content if isinstance(content, str) else content[-1]["text"]
        self.server.asked.append(text)
        message = {"role": "assistant", "content": self.server.reply(text)}
        usage = {"prompt_tokens": 11, "completion_tokens": 7}
        self._send({"model": self.server.name, "choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})

    def _send(self, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
