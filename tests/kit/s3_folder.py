"""As little of S3 as planning asks for, over a folder, so that the server is not what is measured.

    python tests/kit/s3_folder.py FOLDER       prints its port; http://127.0.0.1:PORT/BUCKET/KEY is FOLDER/KEY, whatever the bucket

GET with ranges, HEAD, listings in pages of 1,000 keys, PUT (with `If-None-Match: *` too), DELETE; signatures are not looked at. What is
right is tested against moto (tests/kit/s3_server.py), which takes some 10 ms a request and reads a whole object for every part of it.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 1000
HEAD = b"\r\n\r\n"


class Server(asyncio.Protocol):
    def __init__(self, folder: Path) -> None:
        self.folder, self.waiting = folder, b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.waiting += data
        while HEAD in self.waiting:
            head, _, rest = self.waiting.partition(HEAD)
            line, *fields = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
            length = int(headers.get("content-length", 0))
            if len(rest) < length:
                if headers.get("expect") and not rest:
                    self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return
            body, self.waiting = rest[:length], rest[length:]
            method, target, _ = line.split(" ")
            self.answer(method, target, headers, body)

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        url = urlsplit(target)
        asked = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        key = unquote(url.path).lstrip("/").partition("/")[2]
        file = self.folder / key
        if "list-type" in asked:
            self.send(200, self.listed(asked))
        elif method in ("GET", "HEAD") and file.is_file():
            self.give(file, method, headers.get("range", ""))
        elif method == "PUT" and headers.get("if-none-match") == "*" and file.exists():
            self.send(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        elif method == "PUT":
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(body)
            self.send(200, b"", 'ETag: "0"\r\n')
        elif method == "DELETE":
            file.unlink(missing_ok=True)
            self.send(204, b"")
        else:
            self.send(404, b"" if method == "HEAD" else b"<Error><Code>NoSuchKey</Code></Error>")

    def give(self, file: Path, method: str, wanted: str) -> None:
        size = file.stat().st_size
        first, last, status, more = 0, size - 1, 200, ""
        if wanted:
            start, end = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted).groups()  # type: ignore[union-attr]
            first, last, status = int(start), min(last, int(end or last)), 206
            if first >= size:
                return self.send(416, b"<Error><Code>InvalidRange</Code></Error>")
            more = f"Content-Range: bytes {first}-{last}/{size}\r\n"
        more += f'ETag: "{size}"\r\nLast-Modified: {formatdate(file.stat().st_mtime, usegmt=True)}\r\n'
        if method == "HEAD":
            return self.send(status, b"", more, size)
        with file.open("rb") as opened:
            self.send(status, os.pread(opened.fileno(), last - first + 1, first), more)

    def listed(self, asked: dict[str, str]) -> bytes:
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        within = self.folder / prefix.rpartition("/")[0]
        keys: dict[str, int | None] = {}  # size, or None for what is common to several
        if delimiter:
            for entry in os.scandir(within) if within.is_dir() else ():
                keys[f"{prefix.rpartition('/')[0]}/{entry.name}{'/' * entry.is_dir()}".lstrip("/")] = (
                    None if entry.is_dir() else entry.stat().st_size
                )
        else:
            for path, _, names in os.walk(within):
                for name in names:
                    file = Path(path, name)
                    keys[str(file.relative_to(self.folder))] = file.stat().st_size
        found = sorted(key for key in keys if key.startswith(prefix) and key > asked.get("continuation-token", ""))
        page, cut = found[:PAGE], len(found) > PAGE
        parts = [
            f"<CommonPrefixes><Prefix>{escape(key)}</Prefix></CommonPrefixes>"
            if keys[key] is None
            else f'<Contents><Key>{escape(key)}</Key><Size>{keys[key]}</Size><ETag>"0"</ETag></Contents>'
            for key in page
        ]
        following = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if cut else ""
        whole = f"<IsTruncated>{str(cut).lower()}</IsTruncated>{following}{''.join(parts)}"
        return f"<ListBucketResult>{whole}</ListBucketResult>".encode()

    def send(self, status: int, body: bytes, more: str = "", length: int | None = None) -> None:
        length = len(body) if length is None else length
        head = f"HTTP/1.1 {status} -\r\nContent-Length: {length}\r\nContent-Type: application/xml\r\n{more}\r\n"
        self.transport.write(head.encode())
        if body:
            self.transport.write(body)


async def serve(folder: Path) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Server(folder), "127.0.0.1", 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    parent = os.getppid()
    while os.getppid() == parent:  # ends with whoever started it
        await asyncio.sleep(1)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
