"""Our download against bare img2dataset: the same pictures from the same loopback server, in the same run.

    python -m benchmarks.download [--urls 2000] [--rounds 3]

Two mixes of 100 hosts (loopback addresses of their own):
    clean    all answer at once
    faulty   10 % dead (half refuse connections, half take them and stay silent), 5 % slow (3 s before the answer),
             2 % dripping (a byte a second, for as long as --drip seconds)

Three sides, one process of 64 threads each, in turn:
    bare      img2dataset's own Downloader, time-out 10 s, no re-encoding: it stores whatever came, pages too
    checking  the same with `skip_reencode`: img2dataset decodes each picture, as ours does (JPEG bytes stay as they are)
    ours      Download with its default settings (loopback allowed): robots.txt read, every picture checked

Prints links per second of each side and the ratios. The server runs in a process of its own on one of the same cores.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

HOSTS = 100
PORTS = (20_000, 32_000)
"""Below those that the system gives to outgoing connections."""
THREADS = 64
KINDS = {"dead": 10, "slow": 5, "drip": 2}


def pictures(count: int = 40) -> list[bytes]:
    """JPEGs of the size and detail of web photographs: 640 x 480, about 60 KB."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
        grain = rng.normal(0, 6, (480, 640, 3))
        out = io.BytesIO()
        Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
        found.append(out.getvalue())
    return found


class Server(asyncio.Protocol):
    """As little HTTP as will do, so that the server is not what is measured."""

    bodies: ClassVar[list[bytes]] = []
    faulty: ClassVar[bool] = False
    drip_seconds: ClassVar[float] = 60.0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.host = int(transport.get_extra_info("sockname")[0].rpartition(".")[2])
        self.waiting = b""

    def data_received(self, data: bytes) -> None:
        self.waiting += data
        while b"\r\n\r\n" in self.waiting:
            head, _, self.waiting = self.waiting.partition(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            kind = kind_of(self.host) if Server.faulty else "ok"
            closes = b"connection: close" in head.lower()
            if kind == "slow":
                asyncio.get_running_loop().call_later(3.0, self.answer, path, closes)
            elif kind == "drip":
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n")
                self.drip(time.monotonic() + self.drip_seconds)
            elif kind != "dead":
                self.answer(path, closes)

    def answer(self, path: str, closes: bool) -> None:
        if not path.startswith(("/clean/", "/faulty/")):  # robots.txt and the like
            self.transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        else:
            body = self.bodies[int(path.rpartition("/")[2].partition(".")[0]) % len(self.bodies)]
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
            self.transport.write(body)
        if closes:
            self.transport.close()

    def drip(self, ends: float) -> None:
        if self.transport.is_closing():
            return
        if time.monotonic() > ends:
            self.transport.close()
            return
        self.transport.write(b"\xff")
        asyncio.get_running_loop().call_later(1.0, self.drip, ends)


def kind_of(host: int) -> str:
    """What host number 1 … 100 does in the faulty mix."""
    for kind, share in KINDS.items():
        if host <= share:
            return kind
        host -= share
    return "ok"


async def serve(faulty: bool, drip: float) -> None:
    """Print the port at which all hosts listen, and serve until killed."""
    Server.bodies, Server.faulty, Server.drip_seconds = pictures(), faulty, drip
    while not await listen(port := random.SystemRandom().randrange(*PORTS), faulty):
        pass
    print(port, flush=True)
    await asyncio.Event().wait()


async def listen(port: int, faulty: bool) -> bool:
    """False where the port is somebody else's on one of the hosts."""
    loop, servers = asyncio.get_running_loop(), []
    try:
        for host in range(1, HOSTS + 1):
            if not (faulty and host <= KINDS["dead"] // 2):  # these refuse connections
                servers.append(await loop.create_server(Server, f"127.0.1.{host}", port, backlog=1024))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        for server in servers:
            server.close()
        return False
    return True


def urls_of(count: int, port: int, mix: str) -> list[str]:
    order = list(range(count))
    random.Random(0).shuffle(order)
    return [f"http://127.0.1.{i % HOSTS + 1}:{port}/{mix}/{i}.jpg" for i in order]


def fetch_bare(urls: list[str], folder: Path, check: bool) -> int:
    import fsspec
    import pyarrow as pa

    from pipelines.download.engine import _downloader

    downloader = _downloader()
    from img2dataset.resizer import Resizer  # the package is imported whole here, outside the measured time
    from img2dataset.writer import WebDatasetSampleWriter

    shard = folder / "shard.arrow"
    table = pa.table({"url": urls})
    with fsspec.open(str(shard), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    resizer = Resizer(256, "no", False, skip_reencode=True, disable_all_reencoding=not check)
    run = downloader(
        WebDatasetSampleWriter,
        resizer,
        THREADS,
        False,
        False,
        str(folder),
        ["url"],
        10,
        len(urls),
        5,
        "sha256",
        None,
        "jpg",
        0,
        None,
        None,
    )
    with stopwatch():
        run.download_shard((0, str(shard)))
    return int(json.loads((folder / "00000_stats.json").read_text())["successes"])


def fetch_ours(urls: list[str], folder: Path) -> int:
    import pyarrow as pa

    from operators.columns import BASE
    from pipelines.download import Download
    from pipelines.download.engine import _downloader

    _downloader()
    empty: dict[str, Any] = {"source": "bench", "captions": [], "long_captions": [], "source_regions": []}
    rows = [{"uid": f"{i:032x}", "row": i, "url": url, **empty} for i, url in enumerate(urls)]
    base = pa.Table.from_pylist(rows, schema=BASE)
    download = Download(allow_private_addresses=True, threads=THREADS)
    with stopwatch():
        outcome = download.fetch(base, folder / "00000.tar", folder / "00000_stats.json")
    return len(outcome.kept)


@contextmanager
def stopwatch() -> Iterator[None]:
    started, used = time.perf_counter(), time.process_time()
    yield
    print(json.dumps({"seconds": time.perf_counter() - started, "cpu": time.process_time() - used}))


def measure(side: str, count: int, port: int, mix: str) -> tuple[float, float, int]:
    """Seconds, processor seconds and pictures of one side, in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.download",
        "--side",
        side,
        "--urls",
        str(count),
        "--port",
        str(port),
        "--mix",
        mix,
    ]
    environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return float(lines[0]["seconds"]), float(lines[0]["cpu"]), int(lines[1]["pictures"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--urls", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--mix", default="")
    parser.add_argument("--drip", type=float, default=60.0)
    parser.add_argument("--side", default="")
    a = parser.parse_args()
    if a.side == "server":
        asyncio.run(serve(a.mix == "faulty", a.drip))
    elif a.side:
        with tempfile.TemporaryDirectory() as folder:
            urls = urls_of(a.urls, a.port, a.mix)
            found = fetch_ours(urls, Path(folder)) if a.side == "ours" else fetch_bare(urls, Path(folder), a.side == "checking")
            print(json.dumps({"pictures": found}))
    else:
        for mix in [a.mix] if a.mix else ["clean", "faulty"]:
            compare(mix, a.urls, a.rounds if mix == "clean" else 1, a.drip)


def compare(mix: str, count: int, rounds: int, drip: float) -> None:
    command = [sys.executable, "-m", "benchmarks.download", "--side", "server", "--mix", mix, "--drip", str(drip)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        rates: dict[str, list[float]] = {}
        for _ in range(rounds):
            for side in ("bare", "checking", "ours"):
                seconds, cpu, found = measure(side, count, port, mix)
                rates.setdefault(side, []).append(count / seconds)
                speed = f"{count / seconds:7.1f} links/s  {seconds:6.1f} s, {1000 * cpu / count:5.2f} ms of processor per link"
                print(f"{mix:7} {side:9} {speed}  {found} pictures of {count}", flush=True)
        for other in ("bare", "checking"):
            ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates[other], strict=True)]
            print(
                f"{mix:7} ours / {other}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True
            )
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
