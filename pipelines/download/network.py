"""Connections that keep to a clock and to public addresses.

Names are resolved here, each address is checked, and the socket is opened to that very address: neither a second answer of
the name server nor a redirect can lead into the private network. Proxies of the environment are not used, since behind one
nothing could be checked.
"""

from __future__ import annotations

import errno
import io
import ipaddress
import socket
import ssl
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from http.client import HTTPResponse
from typing import NamedTuple

from pipelines.download.reasons import FetchError

INFRASTRUCTURE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC}
"""Errors of this machine, never of a host."""
NO_WAY = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN}
"""Errors that say as little of a host as silence."""

METADATA = {
    ipaddress.ip_address(a)
    for a in ("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254", "fd00:c1::a9fe:a9fe")
}
"""Addresses of cloud services inside the network that no general rule covers everywhere."""
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Origin(NamedTuple):
    scheme: str
    host: str
    port: int


@dataclass
class Clock:
    """The time that one fetch may take. Every wait asks it how long it may last.

    ends       monotonic time of the deadline
    timeout    seconds of silence allowed
    least      bytes per second below which a body is given up, counted after `timeout` seconds
    stop       set when the whole shard is given up
    """

    ends: float
    timeout: float
    least: float
    stop: threading.Event
    since: float = 0.0
    received: int = 0

    def left(self, at_most: float | None = None) -> float:
        if self.stop.is_set():
            raise FetchError("deadline", "the shard was given up")
        left = self.ends - time.monotonic()
        if left <= 0:
            raise FetchError("deadline", "the whole fetch took too long")
        return min(left, self.timeout if at_most is None else at_most)

    def start_body(self) -> None:
        self.since, self.received = time.monotonic(), 0

    def count(self, received: int) -> None:
        self.received += received
        spent = time.monotonic() - self.since
        if self.since and spent > self.timeout and self.received < self.least * spent:
            raise FetchError("too_slow", f"{self.received} bytes in {spent:.1f} s, at least {self.least:g} bytes/s wanted")


def refused(address: str, allow_private: bool = False) -> str:
    """Why an address may not be connected to; empty when it may.

    allow_private   accept loopback and private networks too. Link-local addresses and metadata services stay refused: there
                    are no pictures there, only the machine's credentials
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return refused(str(inner), allow_private)
    if ip in METADATA:
        return "metadata service"
    for kind in ("link_local", "multicast", "unspecified"):
        if getattr(ip, f"is_{kind}"):
            return kind.replace("_", "-")
    if allow_private:
        return ""
    for kind in ("loopback", "private", "reserved", "site_local"):
        if getattr(ip, f"is_{kind}", False):
            return kind.replace("_", "-")
    return "" if ip.is_global else "not public"


class Resolver:
    """Name lookups with a time limit, shared by all threads, each answer kept for a while.

    The system's lookup cannot be interrupted, so it runs in a thread of its own; at most `at_once` are under way, which
    keeps a local name server from drowning, and eight times as many wait for their turn.
    """

    def __init__(self, keep: float = 300.0, at_once: int = 32, size: int = 50_000) -> None:
        self.keep, self.size = keep, size
        self.lock = threading.Lock()
        self.slots, self.under_way, self.at_most = threading.Semaphore(at_once), 0, 8 * at_once
        self.known: OrderedDict[tuple[str, int], tuple[float, Future[list[tuple[int, str]]]]] = OrderedDict()

    def __call__(self, host: str, port: int, clock: Clock) -> list[tuple[int, str]]:
        """(address family, address) of a host, at least one."""
        key, now = (host, port), time.monotonic()
        with self.lock:
            expires, future = self.known.get(key, (0.0, None))
            if future is None or expires < now:
                if self.under_way >= self.at_most:  # a name server that says nothing: threads must not pile up before it
                    raise FetchError("dns_failed", f"{host}: {self.under_way} names are being asked for already")
                self.under_way += 1
                future = Future()
                self.known[key] = (now + self.keep, future)
                threading.Thread(target=self._look_up, args=(host, port, future), daemon=True, name="resolve").start()
                while len(self.known) > self.size:
                    self.known.popitem(last=False)
        try:
            return future.result(clock.left())
        except FutureTimeout:
            clock.left()
            raise FetchError("dns_failed", f"{host}: no answer from the name server") from None
        except socket.gaierror as error:
            again = error.errno in (socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_SYSTEM, socket.EAI_MEMORY)
            if again:
                with self.lock:
                    self.known.pop(key, None)
            raise FetchError("dns_failed" if again else "dns", f"{host}: {error.strerror}") from None
        except (UnicodeError, ValueError) as error:
            raise FetchError("bad_url", f"{host[:100]}: {error}") from None

    def forget(self) -> None:
        with self.lock:
            self.known.clear()

    def _look_up(self, host: str, port: int, future: Future[list[tuple[int, str]]]) -> None:
        with self.slots:
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                future.set_result(list(dict.fromkeys((int(family), str(place[0])) for family, _, _, _, place in found)))
            except BaseException as error:
                future.set_exception(error)
            finally:
                with self.lock:
                    self.under_way -= 1


class _Timed(io.RawIOBase):
    """Reads a socket by the clock."""

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self.sock, self.clock = sock, clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        self.sock.settimeout(self.clock.left())
        try:
            received = self.sock.recv_into(buffer)
        except TimeoutError:
            self.clock.left()
            raise FetchError("timeout", f"no byte for {self.clock.timeout:g} s") from None
        except OSError as error:
            raise broken(error) from error
        self.clock.count(received)
        return received


class _Stream:
    """What http.client wants of a socket."""

    def __init__(self, raw: _Timed) -> None:
        self.raw = raw

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self.raw, 1 << 16)


@dataclass
class Connection:
    """One open connection, used by one thread at a time."""

    origin: Origin
    sock: socket.socket
    used: float = field(default_factory=time.monotonic)
    fresh: bool = True

    def get(self, head: bytes, clock: Clock) -> HTTPResponse:
        """Send a request and read the answer's head."""
        self.sock.settimeout(clock.left())
        try:
            self.sock.sendall(head)
        except TimeoutError:
            raise FetchError("timeout", "the request could not be sent") from None
        except OSError as error:
            raise broken(error) from error
        clock.since = 0.0
        response = HTTPResponse(_Stream(_Timed(self.sock, clock)), method="GET")  # type: ignore[arg-type]
        response.begin()
        clock.start_body()
        return response

    def close(self) -> None:
        self.sock.close()


class Connections:
    """Open connections by origin: those that a host leaves open are used again."""

    def __init__(self, resolver: Resolver, allow_private: bool, connect_timeout: float, idle: int = 256) -> None:
        self.resolver, self.allow_private, self.connect_timeout, self.idle = resolver, allow_private, connect_timeout, idle
        self.lock = threading.Lock()
        self.waiting: OrderedDict[int, Connection] = OrderedDict()
        self.by_origin: dict[Origin, list[int]] = {}
        self._tls: ssl.SSLContext | None = None

    def take(self, origin: Origin, clock: Clock) -> Connection:
        with self.lock:
            ids = self.by_origin.get(origin)
            while ids:
                connection = self.waiting.pop(ids.pop())
                if not ids:
                    del self.by_origin[origin]
                if time.monotonic() - connection.used < 4.0:  # many servers close after 5 s
                    connection.fresh = False
                    return connection
                connection.close()
        return self._connect(origin, clock)

    def give(self, connection: Connection) -> None:
        connection.used = time.monotonic()
        with self.lock:
            self.waiting[id(connection)] = connection
            self.by_origin.setdefault(connection.origin, []).append(id(connection))
            while len(self.waiting) > self.idle:
                key, old = self.waiting.popitem(last=False)
                ids = self.by_origin[old.origin]
                ids.remove(key)
                if not ids:
                    del self.by_origin[old.origin]
                old.close()

    def close(self) -> None:
        with self.lock:
            for connection in self.waiting.values():
                connection.close()
            self.waiting.clear()
            self.by_origin.clear()

    def _connect(self, origin: Origin, clock: Clock) -> Connection:
        addresses = self.resolver(origin.host, origin.port, clock)
        allowed = [(family, address) for family, address in addresses if not refused(address, self.allow_private)]
        if not allowed:
            address = addresses[0][1]
            raise FetchError("refused_address", f"{origin.host} is {address}: {refused(address, self.allow_private)}")
        error: FetchError | None = None
        for family, address in allowed[:4]:
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as problem:  # a machine without IPv6
                error = broken(problem, f"{address}: ")
                continue
            try:
                sock.settimeout(clock.left(self.connect_timeout))
                sock.connect((address, origin.port))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return Connection(origin, self._secure(sock, origin, clock))
            except TimeoutError:
                sock.close()
                error = FetchError("connect_timeout", f"{address} port {origin.port}: no answer")
            except ssl.SSLError as problem:
                sock.close()
                error = FetchError("tls", f"{origin.host}: {problem.reason or problem}")
            except OSError as problem:
                sock.close()
                error = broken(problem, f"{address} port {origin.port}: ")
            except BaseException:
                sock.close()
                raise
        raise error or FetchError("dns", f"{origin.host} has no address")

    def _secure(self, sock: socket.socket, origin: Origin, clock: Clock) -> socket.socket:
        if origin.scheme != "https":
            return sock
        if self._tls is None:
            self._tls = ssl.create_default_context()
        sock.settimeout(clock.left(self.connect_timeout))
        return self._tls.wrap_socket(sock, server_hostname=origin.host)


def broken(error: OSError, where: str = "") -> FetchError:
    """A host's failure as a FetchError; this machine's own is raised as it is."""
    if error.errno in INFRASTRUCTURE:
        raise error
    return FetchError("unreachable" if error.errno in NO_WAY else "connection", f"{where}{error.strerror or error}")
