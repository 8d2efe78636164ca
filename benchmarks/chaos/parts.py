"""What the tried recipe is made of: the operator that asks the model, and a stand-in for the server that answers.

The stand-in speaks as an OpenAI-compatible server does, and is no model: an answer follows from the request's hash, so that it is
the same whoever asks, and however often. Every request is written down before it is answered; the file outlives the process.

python -m benchmarks.chaos.parts PORT LOG
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pyarrow as pa
from PIL import Image

from operators.base import Ask, ModelOperator, Reject, schema

NAME = "stand-in"
LATENCY = 0.03
WORDS = [
    "a",
    "red",
    "small",
    "cat",
    "sits",
    "beside",
    "the",
    "old",
    "wooden",
    "table",
    "under",
    "warm",
    "light",
    "while",
    "two",
    "birds",
    "look",
    "at",
    "bread",
]


class Describe(ModelOperator):
    """One long caption of each picture; a short answer is refused alone."""

    needs_image: ClassVar[bool] = True
    reasons: ClassVar[dict[str, str]] = {"short": "fewer than twelve words"}

    @property
    def reads(self) -> pa.Schema:
        return schema()

    @property
    def writes(self) -> pa.Schema:
        return schema(long_caption_en=pa.string())

    @property
    def prompts(self) -> list[str]:
        return ["long_caption_en"]

    async def __call__(
        self, sample: dict[str, Any], image: Image.Image | None, ask: Ask
    ) -> tuple[dict[str, Any] | None, list[Reject]]:
        answer = await ask("long_caption_en", {}, image)
        if answer.finish.startswith("error:"):
            return None, [Reject(sample["uid"], "refused_request", answer.text)]
        text = json.loads(answer.text)["caption"]
        if len(text.split()) < 12:
            return {"long_caption_en": None}, [Reject(sample["uid"], "short", text, "long_caption_en")]
        return {"long_caption_en": text}, []


def reply(key: str) -> str:
    """Words drawn by the request's hash; every eighth answer is too short."""
    digits = hashlib.sha256(key.encode()).digest()
    words = [WORDS[value % len(WORDS)] for value in digits[: 8 if digits[0] % 8 == 0 else 32]]
    return json.dumps({"caption": " ".join(words) + "."})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    log = -1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/version":
            self._send({"version": "1.0"})
        else:
            self._send({"object": "list", "data": [{"id": NAME, "root": "stand-in-weights"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        messages = body["messages"]
        key = hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()
        if messages[-1]["content"] != "Say yes.":  # the client's own look at whether the server is well
            os.write(self.server.log, f"{key}\n".encode())
        time.sleep(LATENCY)
        message = {"role": "assistant", "content": reply(key)}
        usage = {"prompt_tokens": 11, "completion_tokens": 7}
        self._send({"model": NAME, "choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})

    def _send(self, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    server = _Server(("127.0.0.1", int(sys.argv[1])), _Handler)
    server.log = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    server.serve_forever()


if __name__ == "__main__":
    main()
