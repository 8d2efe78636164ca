"""A real HTTP server on the loopback address that serves the demo's pictures and misbehaves on purpose.

    python -m demo.server --folder runs/demo-data --port 18931

    /pictures/NAME           the picture
    /fault/missing/NAME      404
    /fault/flaky/NAME        503 at the first request of a path (with Retry-After), the picture afterwards
    /fault/page/NAME         a web page with status 200 and the type of a picture
    /fault/truncated/NAME    the first half of the picture as if it were all of it
    /fault/cut/NAME          promises the whole picture, closes the connection half way
    /fault/drip/NAME         one byte every half second, without end
    /fault/noindex/NAME      the picture, with `X-Robots-Tag: noindex, noai`
    /redirect/NAME           302 to the picture
    /redirect/loop/NAME      302 to itself
    /redirect/private/NAME   302 to the metadata address of cloud machines, which nobody should follow

It ends by itself when its owner (`--owner PID`) is gone or nothing was asked for `--idle` seconds. `FOLDER/server.json` records
its pid and start time: the next `ensure` of the same folder adopts it, `stop` ends it and nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from aiohttp import web

PORT = 18931
PRIVATE = "http://169.254.169.254/latest/meta-data/"
RECORD = "server.json"
TYPES = {".jpg": "image/jpeg", ".png": "image/png", ".gif": "image/gif", ".webp": "image/webp"}


@dataclass(frozen=True)
class Running:
    """A server of `folder`. `started` is the process's start time: a pid alone may be another process by now."""

    pid: int
    started: float
    port: int
    folder: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def alive(self) -> bool:
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) < 1 and self.answers()
        except psutil.NoSuchProcess:
            return False

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as reply:
                return bool(json.load(reply)["folder"] == self.folder)
        except (OSError, ValueError, KeyError):
            return False


def ensure(folder: Path, port: int = PORT, owner: int | None = None, idle: float = 900) -> Running:
    """The server of a folder: the one that runs already, or a new one.

    Raises RuntimeError when the port is taken by something else or the server does not come up.
    """
    folder = folder.resolve()
    running = recorded(folder)
    if running and running.port == port and running.alive():
        return running
    if running:
        stop(folder)
    command = [sys.executable, "-m", "demo.server", "--folder", str(folder), "--port", str(port), "--idle", str(idle)]
    command += ["--owner", str(owner)] if owner else []
    root = Path(__file__).resolve().parents[1]
    with open(folder / "server.log", "ab") as log:
        process = subprocess.Popen(command, cwd=root, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    for _ in range(100):
        running = recorded(folder)
        if running and running.pid == process.pid and running.alive():
            return running
        if process.poll() is not None:
            break
        time.sleep(0.1)
    tail = (folder / "server.log").read_text(errors="replace").strip().splitlines()[-1:]
    raise RuntimeError(
        f"the demo's picture server did not start on port {port}: {' '.join(tail)} "
        f"(log: {folder / 'server.log'}; choose another port with --port)"
    )


def stop(folder: Path) -> bool:
    """End the recorded server of a folder. False where none runs."""
    running = recorded(folder.resolve())
    (folder / RECORD).unlink(missing_ok=True)
    if running is None:
        return False
    try:
        process = psutil.Process(running.pid)
        if abs(process.create_time() - running.started) >= 1:
            return False
        process.terminate()
        process.wait(10)
    except psutil.NoSuchProcess:
        return False
    return True


def recorded(folder: Path) -> Running | None:
    try:
        return Running(**json.loads((folder / RECORD).read_text()))
    except (OSError, ValueError, TypeError):
        return None


class Server:
    """The handlers and what they remember: which flaky paths were asked for, and when the last request came."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: set[str] = set()
        self.last = time.monotonic()

    def application(self) -> web.Application:
        @web.middleware
        async def note(request: web.Request, handler: web.Handler) -> web.StreamResponse:  # type: ignore[name-defined]
            self.last = time.monotonic()
            return await handler(request)

        app = web.Application(middlewares=[note])
        app.router.add_get("/health", self.health)
        app.router.add_get("/pictures/{name}", self.picture)
        app.router.add_get("/redirect/loop/{name}", self.redirect_loop)
        app.router.add_get("/redirect/private/{name}", self.redirect_private)
        app.router.add_get("/redirect/{name}", self.redirect)
        for fault in ("flaky", "page", "truncated", "cut", "drip", "noindex"):
            app.router.add_get(f"/fault/{fault}/{{name}}", getattr(self, fault))
        return app

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({"folder": str(self.folder), "pid": os.getpid()})

    def read(self, request: web.Request) -> tuple[bytes, str]:
        path = self.folder / "pictures" / Path(request.match_info["name"]).name
        if not path.is_file():
            raise web.HTTPNotFound()
        return path.read_bytes(), TYPES[path.suffix]

    async def picture(self, request: web.Request) -> web.Response:
        body, kind = self.read(request)
        return web.Response(body=body, content_type=kind)

    async def flaky(self, request: web.Request) -> web.Response:
        if request.path not in self.seen:
            self.seen.add(request.path)
            return web.Response(status=503, text="busy", headers={"Retry-After": "0"})
        return await self.picture(request)

    async def page(self, request: web.Request) -> web.Response:
        return web.Response(body=b"<!doctype html><title>Gone</title><p>This picture has moved.", content_type="image/jpeg")

    async def truncated(self, request: web.Request) -> web.Response:
        body, kind = self.read(request)
        return web.Response(body=body[: len(body) // 2], content_type=kind)

    async def cut(self, request: web.Request) -> web.StreamResponse:
        body, kind = self.read(request)
        reply = web.StreamResponse(headers={"Content-Type": kind, "Content-Length": str(len(body))})
        await reply.prepare(request)
        await reply.write(body[: len(body) // 2])
        if request.transport:
            request.transport.close()
        return reply

    async def drip(self, request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"Content-Type": "image/jpeg"})
        await reply.prepare(request)
        while True:
            await reply.write(b"\xff")
            await asyncio.sleep(0.5)

    async def noindex(self, request: web.Request) -> web.Response:
        reply = await self.picture(request)
        reply.headers["X-Robots-Tag"] = "noindex, noai"
        return reply

    async def redirect(self, request: web.Request) -> web.Response:
        raise web.HTTPFound(f"/pictures/{request.match_info['name']}")

    async def redirect_loop(self, request: web.Request) -> web.Response:
        raise web.HTTPFound(request.path)

    async def redirect_private(self, request: web.Request) -> web.Response:
        raise web.HTTPFound(PRIVATE)


async def serve(folder: Path, port: int, owner: int | None, idle: float) -> None:
    """Serve until the owner is gone or nothing was asked for `idle` seconds."""
    server = Server(folder)
    runner = web.AppRunner(server.application(), access_log=None, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    me = psutil.Process()
    record = Running(me.pid, me.create_time(), port, str(folder))
    partial = folder / f"{RECORD}.{me.pid}"
    partial.write_text(json.dumps(asdict(record)))
    os.replace(partial, folder / RECORD)
    born = psutil.Process(owner).create_time() if owner and psutil.pid_exists(owner) else None
    print(f"serving {folder} on {record.url}", flush=True)
    while time.monotonic() - server.last < idle:
        await asyncio.sleep(0.5)
        if owner and not (psutil.pid_exists(owner) and psutil.Process(owner).create_time() == born):
            break
    await runner.cleanup()
    if recorded(folder) == record:
        (folder / RECORD).unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.server", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--folder", type=Path, required=True, help="the work folder of demo.prepare")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--owner", type=int, help="end when the process of this pid is gone")
    parser.add_argument("--idle", type=float, default=900, help="end after so many seconds without a request")
    options = parser.parse_args()
    try:
        asyncio.run(serve(options.folder.resolve(), options.port, options.owner, options.idle))
    except OSError as error:
        sys.exit(
            f"error: port {options.port} of 127.0.0.1 cannot be used: {error.strerror or error}. Choose another with --port."
        )
    except (KeyboardInterrupt, urllib.error.URLError):
        pass


if __name__ == "__main__":
    main()
