"""Hostile links and pictures, and what becomes of each: a table of tried → became.

    python -m benchmarks.hostile

Links are asked of a server on loopback that misbehaves, by `Download` as a stage calls it; what it keeps is then decoded, as every
later stage does. A decoder that crashes is a planted one (a segmentation fault at one row of twenty), in a run on a real Ray.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import struct
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

KIT = Path(__file__).resolve().parents[1] / "tests" / "kit"
sys.path.insert(0, str(KIT))

from fetching import fetch  # noqa: E402
from picture_server import PictureServer, answer, drip, picture, silent  # noqa: E402

from operators.pictures import decode  # noqa: E402

Case = tuple[str, list[Any], dict[str, Any]]
"""What is tried, in words; rows; settings of `Download`."""
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def main() -> None:
    print("| tried | became |\n|---|---|")
    with tempfile.TemporaryDirectory() as name, PictureServer() as server:
        for number, (tried, rows, settings) in enumerate([*links(server), *manners(server), *pictures(server)]):
            folder = Path(name) / str(number)
            folder.mkdir()
            asked = server.connections
            told = became(folder, rows, settings)
            if settings.get("allow_private_addresses") is False:
                told += f"; {server.connections - asked} connections"
            print(f"| {tried} | {told} |", flush=True)
        with rebinding() as host:
            server.default = [answer(200, picture())]
            rows = [f"http://{host}:{server.server_address[1]}/{n}.jpg" for n in "ab"]
            folder = Path(name) / "rebinding"
            folder.mkdir()
            told = became(folder, rows, {})
            print(
                f"| a name that leads to a good address when it is asked first, and to 169.254.169.254 from then on | {told} |"
            )
    print(f"| a decoder that crashes at one row of twenty (segmentation fault), shards of five | {crashing()} |")


def became(folder: Path, rows: Sequence[Any], settings: dict[str, Any]) -> str:
    """Reasons, and what was kept: all of it must decode to what was recorded of it."""
    outcome = fetch(folder, *rows, **settings)
    told = Counter(f"`{reject.reason}`" for reject in outcome.rejects)
    tar = (folder / "images" / "00000.tar").read_bytes()
    for row in outcome.kept.to_pylist():
        seen = decode(tar[row["image_offset"] : row["image_offset"] + row["image_size"]])
        assert seen.size == (row["width"], row["height"]) and seen.mode == "RGB"
        told["kept, decodes to upright 8-bit RGB"] += 1
    if len(rows) == 1:
        return next(iter(told))
    return ", ".join(f"{count} {what}" for what, count in told.most_common())


def links(server: PictureServer) -> Iterator[Case]:
    port = server.server_address[1]
    hosts = ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"]
    inside = [f"http://{host}:{port}/a.jpg" for host in hosts] + ["http://10.0.0.1/", "http://[fe80::1]/"]
    yield f"addresses of this machine and of private networks: {', '.join(hosts)}, 10.0.0.1, [fe80::1]", inside, PUBLIC
    yield (
        "metadata services, also where private addresses are allowed",
        ["http://169.254.169.254/", "http://[fd00:ec2::254]/"],
        {},
    )
    where = {
        "metadata": "http://169.254.169.254/latest/",
        "file": "file:///etc/passwd",
        "loop": "/loop",
        "half": "http://[half/",
    }
    for name, location in where.items():
        yield f"a redirect to {location}", [server.behave(f"/{name}", answer(302, Location=location))], {}
    body = picture(400, 300)
    slow = {"timeout": 0.5, "deadline": 2.0, "min_bytes_per_second": 0}
    yield "a byte every 0.1 s", [server.behave("/drip", drip(body, 0.1))], slow
    yield (
        "the same, with the default least rate",
        [server.behave("/drip2", drip(body, 0.05))],
        {"timeout": 0.5, "deadline": 30.0},
    )
    yield "a host that is silent, 20 links", [server.behave(f"/mute{n}", silent(20)) for n in range(20)], SILENT

    def endless(handler: Any) -> None:
        handler.close_connection = True
        handler.send_response(200)
        handler.end_headers()
        while not handler.server.stopping.is_set():
            handler.wfile.write(b"\xff\xd8" * 5000)

    small = {"max_bytes": 100_000}
    yield "a body without end", [server.behave("/endless", endless)], small
    yield (
        "99 GB announced",
        [server.behave("/claims", answer(200, b"x", Content_Length="99999999999", Connection="close"))],
        small,
    )
    bomb = answer(200, gzip.compress(b"\0" * 10_000_000), Content_Encoding="gzip")
    yield "a gzip bomb", [server.behave("/gzip", bomb)], small
    cut = answer(200, body[:500], Content_Length=str(len(body)), Connection="close")
    yield "a body that ends before what was announced", [server.behave("/cut", cut)], {"retries": 0}


PUBLIC = {"allow_private_addresses": False}
SILENT = {"timeout": 0.3, "retries": 0, "host_failures": 4, "per_host": 2}


def manners(server: PictureServer) -> Iterator[Case]:
    headers = [{"X_Robots_Tag": "noai"}, {"X_Robots_Tag": "noindex"}, {"tdm_reservation": "1"}]
    said = [server.serve(f"/said{n}", picture(), **header) for n, header in enumerate(headers)]
    yield "X-Robots-Tag: noai, noindex; TDM-Reservation: 1", said, {}
    server.serve("/robots.txt", b"User-agent: *\nDisallow: /private/\n")
    yield "a path that robots.txt forbids", [server.serve("/private/a.jpg", picture())], {}


def pictures(server: PictureServer) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (80, 80, 3), np.uint8))
    whole = {kind: _saved(noise, kind) for kind in KINDS}
    tried: list[tuple[str, list[bytes]]] = [
        (
            "pictures cut at 30, 60 and 90 %: " + ", ".join(KINDS),
            [d[: int(len(d) * s)] for d in whole.values() for s in (0.3, 0.6, 0.9)],
        ),
        (
            "PNG of 100,000 × 100,000 and 2³¹ × 2³¹, of a few hundred bytes",
            [png(10**5, 10**5), png(2**31 - 1, 2**31 - 1, 16, 6)],
        ),
        ("GIF screen of 65,535², BMP of 60,000²", [_at("GIF", 6, "<HH", 65535, 65535), _at("BMP", 18, "<ii", 60_000, 60_000)]),
        ("PNG text chunk that unpacks to 80 MB", [_with_chunk(b"zTXt", b"note\0\0" + zlib.compress(b"\0" * 80_000_000, 9))]),
        ("PNG iCCP that unpacks to 80 MB", [_with_chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"\0" * 80_000_000, 9))]),
        ("PNG iCCP that is no zlib stream, that is noise, that is empty", [_with_chunk(b"iCCP", b) for b in broken_profiles()]),
        ("JPEG APP2 profile: noise, half of its parts missing, parts counted wrongly, 16 MB", jpegs_with_profiles()),
        (
            "SVG with a reference to a file",
            [b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'],
        ),
        ("EPS, PDF, HTML before a JPEG", [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.7\n", b"<html>" + picture()]),
        ("HTML after a JPEG", [picture() + b"<html><script>alert(1)</script>"]),
        ("no bytes at all", [b""]),
        ("CMYK, palette, grey with alpha, 16 bit, float, animated; EXIF orientations 1–8; broken EXIF", _odd()),
        ("900 pictures with up to twelve bytes turned over", list(_noisy(rng))),
    ]
    for number, (words, bodies) in enumerate(tried):
        yield words, [server.serve(f"/p{number}-{n}", body) for n, body in enumerate(bodies)], {"threads": 8}


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG whose header promises this size, with next to nothing behind it."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + _chunk(b"IEND", b"")


def _with_chunk(name: bytes, body: bytes) -> bytes:
    data = picture(20, 10, "PNG")
    at = data.index(b"IDAT") - 4
    return data[:at] + _chunk(name, body) + data[at:]


def broken_profiles() -> list[bytes]:
    """Bodies of iCCP chunks."""
    return [b"icc\0\0no zlib at all", b"icc\0\0" + zlib.compress(os.urandom(3000)), b"icc\0\0" + zlib.compress(b"")]


def jpegs_with_profiles() -> list[bytes]:
    def with_parts(*parts: tuple[int, int, bytes]) -> bytes:
        data = picture(20, 10)
        bodies = [b"ICC_PROFILE\0" + bytes([number, count]) + body for number, count, body in parts]
        return data[:2] + b"".join(b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body for body in bodies) + data[2:]

    large = os.urandom(65_000)
    return [
        with_parts((1, 1, os.urandom(3000))),
        with_parts((1, 4, large), (3, 4, large)),
        with_parts((0, 0, b""), (9, 2, large), (9, 2, large)),
        with_parts(*((n, 255, large) for n in range(1, 256))),
    ]


def _at(kind: str, place: int, form: str, *values: int) -> bytes:
    data = bytearray(picture(10, 10, kind))
    data[place : place + struct.calcsize(form)] = struct.pack(form, *values)
    return bytes(data)


def _odd() -> list[bytes]:
    modes = [("P", "GIF"), ("LA", "PNG"), ("RGBA", "WEBP"), ("CMYK", "JPEG"), ("F", "TIFF")]
    found = [picture(40, 30, kind, mode) for mode, kind in modes]
    found.append(_saved(Image.fromarray(np.full((30, 40), 32768, np.uint16)), "PNG"))
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    found += [_saved(frames[0], kind, save_all=True, append_images=frames[1:]) for kind in ("GIF", "WEBP", "PNG", "TIFF")]
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        found.append(picture(40, 30, exif=exif))
    block = b"Exif\0\0MM\0*\xff\xff\xff\xff garbage"
    data = picture(40, 30)
    return [*found, data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]]


def _noisy(rng: np.random.Generator) -> Iterator[bytes]:
    for kind in KINDS:
        whole = np.frombuffer(picture(40, 30, kind), np.uint8)
        for _ in range(150):
            data = whole.copy()
            places = rng.integers(0, len(data), rng.integers(1, 13))
            data[places] = rng.integers(0, 255, len(places), np.uint8)
            yield data.tobytes()


@contextmanager
def rebinding() -> Iterator[str]:
    """A name of which the name server tells a good address once, and a bad one afterwards."""
    real: Callable[..., Any] = socket.getaddrinfo
    told = iter(["127.0.0.1"])

    def lookup(host: Any, *rest: Any, **options: Any) -> Any:
        if host != "rebinds.example":
            return real(host, *rest, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(told, "169.254.169.254"), 0))]

    socket.getaddrinfo = lookup
    try:
        yield "rebinds.example"
    finally:
        socket.getaddrinfo = real


def crashing() -> str:
    """A run whose operator kills its process at one row."""
    from pipelines.config import load_recipe
    from pipelines.progress import Progress
    from pipelines.rejects import count
    from pipelines.run import Options, execute, look

    os.environ["PYTHONPATH"] = os.pathsep.join([str(KIT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [json.dumps({"u": f"http://example.org/{i}.jpg", "t": "a cat"}) for i in range(20)]
        (folder / "links.jsonl").write_text("\n".join(lines) + "\n")
        columns = {"url": "u", "captions": ["t"]}
        source = {"format": "jsonl", "tables": str(folder / "links.jsonl"), "language": "en", "columns": columns}
        (folder / "links.yaml").write_text(yaml.safe_dump(source))
        stages = {"decode": {"operator": "faulty_operators:Mark", "notes": name, "kill_on": 12}}
        body = {
            "recipe": "crash",
            "sources": [str(folder / "links.yaml")],
            "shard_size": 5,
            "disk_floor_gb": 0,
            "stages": stages,
        }
        (folder / "crash.yaml").write_text(yaml.safe_dump(body))
        recipe = load_recipe(folder / "crash.yaml")
        silent_progress = Progress()
        silent_progress.say = lambda line: None  # type: ignore[method-assign]
        result = execute(recipe, folder / "runs", Options(cpus=2), silent_progress)
        assert result.ok, result
        refused = count(look(recipe, folder / "runs"))["decode"]["samples"]
        deaths = len((folder / "deaths").read_text().splitlines())
        kept = result.stages["decode"]["rows_out"]
    told = ", ".join(f"{number} `{reason}`" for reason, number in refused.items())
    return f"{told}, {kept} kept, after {deaths} deaths of a worker"


if __name__ == "__main__":
    main()
