"""Connections within bounds: no more than there are file handles for, and none that brings no request for long.

aiohttp waits for ever for the rest of a request's head, and asyncio, once it has no handle left, fills the log and no longer answers.
"""

from __future__ import annotations

import asyncio
import json
import math
import resource
import time

from aiohttp import web

AT_ONCE = 64
"""Connections that are accepted before any of them is counted."""
OWN_HANDLES = 64 + 2 * AT_ONCE
"""File handles that are left: to the process itself, to connections not yet counted, and to those just refused."""
EVERY = 1.0
"""Seconds between two looks."""


class Connections:
    """server: whose they are. patience: seconds that one may take to bring a request's head, or to take its answer."""

    def __init__(self, server: web.Server, patience: float):
        self.server, self.patience = server, patience
        handles, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most = math.inf if handles == resource.RLIM_INFINITY else max(1, handles - OWN_HANDLES)
        self.heard: dict[asyncio.BaseProtocol, float] = {}  # when each ended its last request; for ever while it has one

    def __call__(self) -> asyncio.Protocol:
        """What speaks on a new connection."""
        return self.server() if len(self.server.connections) < self.most else _Full()

    def begins(self, connection: asyncio.BaseProtocol) -> None:
        self.heard[connection] = math.inf

    def ends(self, connection: asyncio.BaseProtocol) -> None:
        self.heard[connection] = time.monotonic()

    async def watch(self) -> None:
        """Close what was silent for too long; until cancelled."""
        while True:
            await asyncio.sleep(min(EVERY, self.patience / 2))
            now = time.monotonic()
            self.heard = {connection: self.heard.get(connection, now) for connection in self.server.connections}
            for connection in self.server.connections:
                if now - self.heard[connection] > self.patience and connection.transport:
                    connection.transport.abort()  # its last answer may still wait for a client that does not read


class _Full(asyncio.Protocol):
    """Says that there is no room, and hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        said = json.dumps({"error": "too many connections; try again"})
        head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {len(said)}\r\n"
        transport.write(f"{head}Retry-After: 1\r\nConnection: close\r\n\r\n{said}".encode())
        transport.close()
