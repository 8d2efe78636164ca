"""A real S3 server in a process of its own, on loopback, and a wire that can be cut between it and the client.

python s3_server.py        prints its port, and serves until it is killed

moto answers the requests; it looks whether an object is there and then writes it, so one writing request is let in at a time, as a
conditional write must be.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BUCKET = "data"


def serve() -> None:
    import logging

    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application, one = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def guarded(environ, start_response):
        if environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE"):
            with one:
                return list(application(environ, start_response))
        return application(environ, start_response)

    server = make_server("127.0.0.1", 0, guarded, threaded=True)
    print(server.server_port, flush=True)
    server.serve_forever()


@contextmanager
def s3_server() -> Iterator[str]:
    """The server's address, with a bucket named `BUCKET` in it; the variables that boto3 reads point there meanwhile."""
    process = subprocess.Popen([sys.executable, str(Path(__file__))], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        with address(url):
            import boto3

            boto3.client("s3").create_bucket(Bucket=BUCKET)
            yield url
    finally:
        process.kill()
        process.wait()


@contextmanager
def address(url: str) -> Iterator[None]:
    """Let boto3, and stores made from now on, speak to `url`."""
    from pipelines.stores import store_of

    names = {
        "AWS_ENDPOINT_URL_S3": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    store_of.cache_clear()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        store_of.cache_clear()


class Wire:
    """Passes bytes to the server and back, until it is cut: after so many bytes of a request, or before its answer comes back."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.cut_requests_after: int | None = None
        self.swallow_answers = 0
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self.port))
        threading.Thread(target=self._back, args=(server, client), daemon=True).start()
        sent = 0
        try:
            while data := client.recv(65536):
                if self.cut_requests_after is not None and sent + len(data) > self.cut_requests_after:
                    server.sendall(data[: self.cut_requests_after - sent])
                    self.cuts += 1
                    break
                server.sendall(data)
                sent += len(data)
        except OSError:
            pass
        for end in (server, client):
            _shut(end)

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        try:
            while data := server.recv(65536):
                if self.swallow_answers and not data.startswith(b"HTTP/1.1 100"):
                    self.swallow_answers -= 1
                    self.cuts += 1
                    break
                client.sendall(data)
        except OSError:
            pass
        for end in (client, server):
            _shut(end)

    def close(self) -> None:
        self.listener.close()


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    serve()
