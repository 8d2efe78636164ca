"""A real HTTP server on loopback whose every path can be made to behave or misbehave.

with PictureServer() as server:
    server.serve("/cat.jpg", jpeg(64, 48))
    server.behave("/drip.jpg", drip)
"""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

Behaviour = Callable[["Handler"], None]


def picture(width: int = 64, height: int = 48, kind: str = "JPEG", mode: str = "RGB", seed: int = 0, **options: Any) -> bytes:
    """Bytes of a picture with something in it, so that it does not compress to nothing."""
    ramp = Image.linear_gradient("L").resize((width, height)).rotate(seed % 360)
    image = ramp.convert(mode) if mode != "CMYK" else Image.merge("CMYK", [ramp] * 4)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PictureServer  # type: ignore[assignment]
    timeout = 30

    def log_message(self, *args: Any) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        with self.server.lock:
            self.server.asked[path] += 1
            self.server.heads.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
            behaviours = self.server.behaviours.get(path) or self.server.default
            behaviour = behaviours.pop(0) if len(behaviours) > 1 else behaviours[0]
        try:
            behaviour(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def answer(status: int = 200, body: bytes = b"", **headers: str) -> Behaviour:
    return lambda handler: handler.answer(status, body, **headers)


def drip(body: bytes, every: float, announced: int | None = None) -> Behaviour:
    """Byte by byte, until the body is out or the other side hangs up."""

    def behave(handler: Handler) -> None:
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("Content-Length", str(announced or len(body)))
        handler.end_headers()
        for i in range(len(body)):
            handler.wfile.write(body[i : i + 1])
            if handler.server.stopping.wait(every):
                return

    return behave


def silent(seconds: float) -> Behaviour:
    """Takes the request and says nothing."""

    def behave(handler: Handler) -> None:
        handler.server.stopping.wait(seconds)
        handler.close_connection = True

    return behave


def hang_up(handler: Handler) -> None:
    handler.close_connection = True


class PictureServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, port: int = 0, address: str = "127.0.0.1") -> None:
        super().__init__((address, port), Handler)
        self.behaviours: dict[str, list[Behaviour]] = {}
        self.default: list[Behaviour] = [answer(404)]
        self.asked: Counter[str] = Counter()
        self.heads: list[dict[str, str]] = []
        self.connections = 0
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.url = f"http://{address}:{self.server_address[1]}"

    def behave(self, path: str, *behaviours: Behaviour) -> str:
        """What a path does, request after request; the last goes on for ever. Returns its address."""
        self.behaviours[path] = list(behaviours)
        return self.url + path

    def serve(self, path: str, body: bytes, **headers: str) -> str:
        return self.behave(path, answer(200, body, **headers))

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients of these tests hang up on purpose

    def __enter__(self) -> PictureServer:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether something became true in time."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if condition():
            return True
        time.sleep(0.02)
    return condition()
