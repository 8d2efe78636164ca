"""Fetch one address within bounds of time, bytes and manners: redirects, retries, opt-outs, dead hosts."""

from __future__ import annotations

import random
import re
import threading
import time
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPMessage, HTTPResponse, IncompleteRead
from typing import Protocol
from urllib.parse import urlsplit

from pipelines.download.addresses import host_of, joined, split
from pipelines.download.host_rules import MAX_HOSTS, MAX_REDIRECTS, HostRules
from pipelines.download.network import Clock, Connections, Origin, Resolver
from pipelines.download.outage import SILENT, Network
from pipelines.download.reasons import FetchError, is_retryable
from pipelines.download.robots import MAX_BYTES
from pipelines.public_url import public

PIECE = 1 << 16
LOOK = 0.5
"""Seconds between two looks whether the shard was given up, in the queue before a host."""
OPT_OUTS = {"noai", "noimageai", "noindex", "noimageindex", "none"}
NOT_AGAIN = {"connect_timeout", "host_down", "deadline", "too_slow", "robots_unavailable"}
"""Worth a later run, not a second try at once."""
HOST_FAILURES = {"unreachable", "connect_timeout", "connection", "timeout", "deadline", "too_slow", "dns_failed"}


class Manners(Protocol):
    """The settings that a fetch needs; `Download` has them."""

    timeout: float
    connect_timeout: float
    deadline: float
    max_bytes: int
    min_bytes_per_second: float
    retries: int
    backoff: float
    user_agent: str
    contact: str
    allow_private_addresses: bool
    respect_opt_out: bool
    respect_robots_txt: bool
    per_host: int
    host_failures: int
    host_rest: float
    network_patience: float


@dataclass
class _Host:
    """What is known of one host: how many fetches are under way, how many failed in a row and when the last one did, until when it
    is left alone."""

    slots: threading.Semaphore
    active: int = 0
    failures: int = 0
    failed: float = 0.0
    rests_until: float = 0.0


@dataclass
class _Visit:
    """Where one fetch is: it holds a place at this host, and at no other. Who waits for a place holds none, so that two fetches whose
    hosts redirect to each other never wait for each other."""

    origin: Origin | None = None
    host: _Host | None = None


class Fetcher:
    """Fetches for many threads at once; keeps connections, names, robots.txt and dead hosts from one shard to the next."""

    def __init__(self, manners: Manners) -> None:
        self.manners = manners
        self.connections = Connections(Resolver(), manners.allow_private_addresses, manners.connect_timeout)
        self.network = Network(
            manners.allow_private_addresses, manners.connect_timeout, manners.network_patience, self._forget_failures
        )
        self.lock = threading.Lock()
        self.hosts: OrderedDict[str, _Host] = OrderedDict()
        product = re.match(r"(?:Mozilla/5\.0 \(compatible; )?([\w-]+)", manners.user_agent)
        self.agent = (product[1] if product else "FineLoom").lower()
        self.introduction = f"{manners.user_agent} (+{manners.contact})" if manners.contact else manners.user_agent
        self.rules = HostRules(
            manners, self.agent, lambda origin, target, clock: self._ask(origin, target, clock, MAX_BYTES, rules=True)
        )

    def fetch(self, url: str, stop: threading.Event) -> bytes:
        """The bytes behind an address. Raises FetchError with the reason; this machine's own failures as OSError or NetworkDown.

        After an outage of this machine's network, which it waits for, the error is raised all the same: see `Network.outages`.
        """
        m = self.manners
        clock = Clock(time.monotonic() + m.deadline, m.timeout, m.min_bytes_per_second, stop)
        visit = _Visit()
        try:
            for attempt in range(m.retries + 1):
                try:
                    return self._follow(url, clock, visit)
                except FetchError as error:
                    wait = self._wait(error, attempt)
                    now = time.monotonic()
                    if wait is None or now + wait >= clock.ends or (visit.host and visit.host.rests_until > now):
                        raise
                    stop.wait(wait)  # in its place: a host that asks for patience is not asked by another meanwhile
            raise AssertionError("the last attempt returns or raises")
        except FetchError as error:
            failed = visit.host.failed if visit.host and error.reason == "host_down" else time.monotonic()
            self._leave(visit)
            if error.reason in SILENT and visit.origin is not None:
                self.network.doubt(visit.origin, failed, stop)
            elif error.reason in ("connection", "tls"):
                self.network.answered()
            raise
        finally:
            self._leave(visit)

    def close(self) -> None:
        self.connections.close()

    def _wait(self, error: FetchError, attempt: int) -> float | None:
        """Seconds until the next attempt, or None when there is no use in one."""
        if attempt >= self.manners.retries or error.reason in NOT_AGAIN or not is_retryable(error.reason):
            return None
        return error.wait if error.wait is not None else self.manners.backoff * 2**attempt * random.uniform(0.75, 1.25)

    def _enter(self, visit: _Visit, origin: Origin, clock: Clock) -> _Host:
        """Take a place at a host, once the one before is left. The time in the queue is added to the fetch's own: others of this
        process are in the way, no host. Raises FetchError for a host that rests, and when the shard is given up."""
        name = origin.host
        if visit.host is None or visit.origin is None or visit.origin.host != name:
            self._leave(visit)
            visit.host = self._queue(name, clock)
        visit.origin = origin
        if visit.host.rests_until > time.monotonic():
            raise FetchError("host_down", f"{name} failed {visit.host.failures} times in a row")
        return visit.host

    def _queue(self, name: str, clock: Clock) -> _Host:
        with self.lock:
            host = self.hosts.pop(name, None) or _Host(threading.Semaphore(self.manners.per_host))
            self.hosts[name] = host
            host.active += 1
            oldest = next(iter(self.hosts))
            if len(self.hosts) > MAX_HOSTS and not self.hosts[oldest].active:
                del self.hosts[oldest]
        came = time.monotonic()
        while not host.slots.acquire(timeout=LOOK):
            if clock.stop.is_set():
                with self.lock:
                    host.active -= 1
                raise FetchError("deadline", "the shard was given up")
        clock.ends += time.monotonic() - came
        return host

    def _leave(self, visit: _Visit) -> None:
        host, visit.host = visit.host, None
        if host is not None:
            host.slots.release()
            with self.lock:
                host.active -= 1

    def _note(self, host: _Host, reason: str) -> None:
        """Count failures that speak of a dead host. Any answer at all, a 404 too, shows that it lives."""
        if reason not in HOST_FAILURES:
            host.failures = 0
            return
        host.failures, host.failed = host.failures + 1, time.monotonic()
        if host.failures >= self.manners.host_failures:
            host.rests_until = time.monotonic() + self.manners.host_rest

    def _forget_failures(self) -> None:
        """They were this machine's own."""
        self.connections.resolver.forget()
        with self.lock:
            for host in self.hosts.values():
                host.failures, host.rests_until = 0, 0.0

    def _follow(self, url: str, clock: Clock, visit: _Visit) -> bytes:
        """Follow redirects to the bytes, each hop under the same rules and limits; its failures are those of its own host."""
        for _ in range(MAX_REDIRECTS + 1):
            origin, target = split(url)
            host = self._enter(visit, origin, clock)
            try:
                self.rules.check(origin, target, clock)
                answer = self._ask(origin, target, clock, self.manners.max_bytes)
            except FetchError as error:
                self._note(host, error.reason)
                raise
            host.failures = 0
            if isinstance(answer, bytes):
                return answer
            url = joined(url, answer)
            if urlsplit(url).scheme.lower() not in ("http", "https"):
                raise FetchError("redirect_refused", f"to {public(url)[:200]}")
        raise FetchError("redirect_refused", f"more than {MAX_REDIRECTS} redirects, the last to {public(url)[:200]}")

    def _ask(self, origin: Origin, target: str, clock: Clock, max_bytes: int, rules: bool = False) -> bytes | str:
        """The body, or the address that a redirect names."""
        while True:
            connection = self.connections.take(origin, clock)
            response: HTTPResponse | None = None
            try:
                response = connection.get(self._head(origin, target, rules), clock)
                self.network.answered(connection)
                return self._read(response, clock, max_bytes, rules)
            except FetchError as error:
                # The host may have closed a kept connection in the meantime: that is no failure of its own.
                if connection.fresh or response is not None or error.reason != "connection":
                    raise
            except IncompleteRead as error:
                raise FetchError("incomplete", f"the body broke off: {error}"[:200]) from error
            except (HTTPException, ValueError) as error:
                if connection.fresh or response is not None:
                    kind = "connection" if isinstance(error, ConnectionError) else "bad_response"
                    raise FetchError(kind, f"{type(error).__name__}: {error}"[:200]) from error
            finally:
                if response is not None and response.isclosed() and not response.will_close:
                    self.connections.give(connection)
                else:
                    connection.close()

    def _head(self, origin: Origin, target: str, rules: bool) -> bytes:
        return (
            f"GET {target} HTTP/1.1\r\nHost: {host_of(origin)}\r\nUser-Agent: {self.introduction}\r\n"
            f"Accept: {'text/plain' if rules else 'image/*'},*/*;q=0.5\r\nAccept-Encoding: identity\r\n\r\n"
        ).encode("latin-1", "replace")

    def _read(self, response: HTTPResponse, clock: Clock, max_bytes: int, rules: bool) -> bytes | str:
        status, headers = response.status, response.headers
        if status in (301, 302, 303, 307, 308) and headers["Location"]:
            _drain(response)
            if self.manners.respect_opt_out and not rules:
                check_opt_out(headers, self.agent)
            return str(headers["Location"]).strip()
        if status not in (200, 203):
            _drain(response)
            raise FetchError(f"http_{status}", str(response.reason)[:100], _retry_after(headers))
        if self.manners.respect_opt_out and not rules:
            check_opt_out(headers, self.agent)
        announced = response.length
        if announced is not None and announced > max_bytes and not rules:
            raise FetchError("too_large", f"{announced} bytes announced > {max_bytes}")
        unpack = _unpacker(headers["Content-Encoding"])
        parts: list[bytes] = []
        size = raw = 0
        while piece := response.read(PIECE):
            raw += len(piece)
            if unpack is not None:
                try:
                    piece = unpack.decompress(piece, max_bytes + 1)
                except zlib.error as error:
                    raise FetchError("bad_encoding", f"{headers['Content-Encoding']}: {error}") from error
            size += len(piece)
            parts.append(piece)
            if max(size, raw) > max_bytes and rules:
                return b"".join(parts)
            if max(size, raw) > max_bytes:
                raise FetchError("too_large", f"more than {max_bytes} bytes")
            if unpack is not None and unpack.eof:
                return b"".join(parts)  # what follows belongs to nothing, and zlib would keep all of it
        if announced is not None and raw < announced:
            raise FetchError("incomplete", f"{raw} of {announced} bytes")
        return b"".join(parts)


def check_opt_out(headers: HTTPMessage, agent: str) -> None:
    """Refuse a picture whose headers reserve it, for all or for this agent by name."""
    for value in headers.get_all("X-Robots-Tag") or []:
        meant = ""
        for part in str(value).lower().split(","):
            name, colon, rest = part.strip().partition(":")
            if colon and name.strip() not in ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"):
                meant, part = name.strip(), rest
            if part.strip() in OPT_OUTS and meant in ("", "*", agent):
                raise FetchError("opted_out", f"X-Robots-Tag: {str(value)[:100]}")
    if any(str(value).strip() == "1" for value in headers.get_all("TDM-Reservation") or []):
        raise FetchError("opted_out", "TDM-Reservation: 1")


def _drain(response: HTTPResponse) -> None:
    """Read a small body to its end, so that the connection can be used again."""
    if response.length is not None and response.length <= PIECE:
        response.read()


def _retry_after(headers: HTTPMessage) -> float | None:
    """Seconds, of a number or a date; by the host's own clock where it tells the time. The deadline bounds what is waited."""
    value = str(headers["Retry-After"] or "").strip()
    if value.isdigit() and len(value) < 7:
        return float(value)
    until, now = _date(value), _date(str(headers["Date"] or "")) or datetime.now(UTC)
    return max(0.0, (until - now).total_seconds()) if until else None


def _date(text: str) -> datetime | None:
    """An HTTP date."""
    try:
        found = parsedate_to_datetime(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _unpacker(encoding: str | None) -> zlib._Decompress | None:
    name = (encoding or "identity").strip().lower()
    if name in ("identity", "", "none"):
        return None
    if name in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(47 if name != "deflate" else 15)
    raise FetchError("bad_encoding", f"Content-Encoding: {name[:50]}")
