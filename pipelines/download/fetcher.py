"""Fetch one address within bounds of time, bytes and manners: redirects, retries, opt-outs, dead hosts."""

from __future__ import annotations

import math
import random
import re
import threading
import time
import zlib
from collections import OrderedDict
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse, IncompleteRead
from typing import Protocol
from urllib.parse import quote, urljoin, urlsplit

from pipelines.download import robots
from pipelines.download.network import Clock, Connections, Origin, Resolver
from pipelines.download.reasons import FetchError, is_retryable
from pipelines.download.robots import Rules

MAX_REDIRECTS = 5
MAX_HOSTS = 50_000
"""Hosts remembered at a time."""
ROBOTS_KEPT, ROBOTS_SIZE = 24 * 3600.0, 32 << 20
"""Seconds that a host's rules hold (RFC 9309: a day at most), and characters of rules remembered at a time."""
ROBOTS_REST = 600.0
"""Seconds until a host is asked again whose robots.txt answered with a server error."""
PIECE = 1 << 16
OPT_OUTS = {"noai", "noimageai", "noindex", "noimageindex", "none"}
NOT_AGAIN = {"connect_timeout", "host_down", "deadline", "too_slow", "robots_unavailable"}
"""Worth a later run, not a second try at once."""
HOST_FAILURES = {"connect_timeout", "connection", "timeout", "deadline", "too_slow", "dns_failed"}


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
    allow_private_addresses: bool
    respect_opt_out: bool
    respect_robots_txt: bool
    per_host: int
    host_failures: int
    host_rest: float


@dataclass
class _Host:
    """What is known of one host: how many fetches are under way, how many failed in a row, until when it is left alone."""

    slots: threading.Semaphore
    active: int = 0
    failures: int = 0
    rests_until: float = 0.0


class Fetcher:
    """Fetches for many threads at once; keeps connections, names, robots.txt and dead hosts from one shard to the next."""

    def __init__(self, manners: Manners) -> None:
        self.manners = manners
        self.connections = Connections(Resolver(), manners.allow_private_addresses, manners.connect_timeout)
        self.lock = threading.Lock()
        self.hosts: OrderedDict[str, _Host] = OrderedDict()
        self.robots: OrderedDict[Origin, tuple[float, Future[Rules | FetchError]]] = OrderedDict()
        self.robots_size = 0
        product = re.match(r"(?:Mozilla/5\.0 \(compatible; )?([\w-]+)", manners.user_agent)
        self.agent = (product[1] if product else "FineLoom").lower()

    def fetch(self, url: str, stop: threading.Event) -> bytes:
        """The bytes behind an address. Raises FetchError with the reason; this machine's own failures as OSError."""
        m = self.manners
        clock = Clock(0.0, m.timeout, m.min_bytes_per_second, stop)
        origin, _ = split(url)
        host = self._enter(origin.host)
        try:
            if host.rests_until > time.monotonic():
                raise FetchError("host_down", f"{origin.host} failed {host.failures} times in a row")
            clock.ends = time.monotonic() + m.deadline
            for attempt in range(m.retries + 1):
                try:
                    data = self._follow(url, clock)
                except FetchError as error:
                    self._note(host, error.reason)
                    wait = self._wait(error, attempt)
                    if wait is None or time.monotonic() + wait >= clock.ends or host.rests_until > time.monotonic():
                        raise
                    stop.wait(wait)
                else:
                    host.failures = 0
                    return data
            raise AssertionError("the last attempt returns or raises")
        finally:
            self._leave(host)

    def close(self) -> None:
        self.connections.close()

    def _wait(self, error: FetchError, attempt: int) -> float | None:
        """Seconds until the next attempt, or None when there is no use in one."""
        if attempt >= self.manners.retries or error.reason in NOT_AGAIN or not is_retryable(error.reason):
            return None
        return error.wait if error.wait is not None else self.manners.backoff * 2**attempt * random.uniform(0.75, 1.25)

    def _enter(self, name: str) -> _Host:
        with self.lock:
            host = self.hosts.pop(name, None) or _Host(threading.Semaphore(self.manners.per_host))
            self.hosts[name] = host
            host.active += 1
            oldest = next(iter(self.hosts))
            if len(self.hosts) > MAX_HOSTS and not self.hosts[oldest].active:
                del self.hosts[oldest]
        host.slots.acquire()
        return host

    def _leave(self, host: _Host) -> None:
        host.slots.release()
        with self.lock:
            host.active -= 1

    def _note(self, host: _Host, reason: str) -> None:
        """Count failures that speak of a dead host. Any answer at all, a 404 too, shows that it lives."""
        if reason not in HOST_FAILURES:
            host.failures = 0
            return
        host.failures += 1
        if host.failures >= self.manners.host_failures:
            host.rests_until = time.monotonic() + self.manners.host_rest

    def _follow(self, url: str, clock: Clock) -> bytes:
        """Follow redirects to the bytes, each hop under the same rules."""
        for _ in range(MAX_REDIRECTS + 1):
            origin, target = split(url)
            if self.manners.respect_robots_txt:
                self._check_robots(origin, target, clock)
            answer = self._ask(origin, target, clock, self.manners.max_bytes)
            if isinstance(answer, bytes):
                return answer
            url = joined(url, answer)
            if urlsplit(url).scheme.lower() not in ("http", "https"):
                raise FetchError("redirect_refused", f"to {url[:200]}")
        raise FetchError("redirect_refused", f"more than {MAX_REDIRECTS} redirects, the last to {url[:200]}")

    def _ask(self, origin: Origin, target: str, clock: Clock, max_bytes: int, robots: bool = False) -> bytes | str:
        """The body, or the address that a redirect names."""
        while True:
            connection = self.connections.take(origin, clock)
            response: HTTPResponse | None = None
            try:
                response = connection.get(self._head(origin, target, robots), clock)
                return self._read(response, clock, max_bytes, robots)
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

    def _head(self, origin: Origin, target: str, robots: bool) -> bytes:
        return (
            f"GET {target} HTTP/1.1\r\nHost: {_host(origin)}\r\nUser-Agent: {self.manners.user_agent}\r\n"
            f"Accept: {'text/plain' if robots else 'image/*'},*/*;q=0.5\r\nAccept-Encoding: identity\r\n\r\n"
        ).encode("latin-1", "replace")

    def _read(self, response: HTTPResponse, clock: Clock, max_bytes: int, robots: bool) -> bytes | str:
        status, headers = response.status, response.headers
        if status in (301, 302, 303, 307, 308) and headers["Location"]:
            _drain(response)
            return str(headers["Location"]).strip()
        if status not in (200, 203):
            _drain(response)
            raise FetchError(f"http_{status}", str(response.reason)[:100], _retry_after(headers))
        if self.manners.respect_opt_out and not robots:
            check_opt_out(headers, self.agent)
        announced = response.length
        if announced is not None and announced > max_bytes and not robots:
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
            if size > max_bytes and robots:
                return b"".join(parts)
            if size > max_bytes:
                raise FetchError("too_large", f"more than {max_bytes} bytes")
        if announced is not None and raw < announced:
            raise FetchError("incomplete", f"{raw} of {announced} bytes")
        return b"".join(parts)

    def _check_robots(self, origin: Origin, target: str, clock: Clock) -> None:
        """One thread asks for a host's rules, those that come meanwhile wait for the same answer."""
        with self.lock:
            expires, known = self.robots.pop(origin, (0.0, None))
            mine = known is None or expires < time.monotonic()
            future: Future[Rules | FetchError] = Future() if mine or known is None else known
            self.robots[origin] = (math.inf if mine else expires, future)
            if mine and known is not None:
                self.robots_size -= _size(known)
            while len(self.robots) > MAX_HOSTS or (self.robots_size > ROBOTS_SIZE and len(self.robots) > 1):
                _, (_, oldest) = self.robots.popitem(last=False)
                self.robots_size -= _size(oldest)
        if mine:
            try:
                rules = self._ask_robots(origin, clock)
            except BaseException as error:
                with self.lock:
                    self.robots.pop(origin, None)  # the next attempt asks again
                future.set_exception(error)
            else:
                keep = ROBOTS_REST if isinstance(rules, FetchError) else ROBOTS_KEPT
                future.set_result(rules)
                with self.lock:
                    if self.robots.get(origin, (0.0, None))[1] is future:
                        self.robots[origin] = (time.monotonic() + keep, future)
                        self.robots_size += _size(future)
        try:
            rules = future.result(clock.left(self.manners.deadline))
        except FutureTimeout:
            clock.left()
            raise FetchError("deadline", f"{origin.host}/robots.txt was still being asked for") from None
        except FetchError as error:
            raise FetchError(error.reason, error.detail) from error
        if isinstance(rules, FetchError):
            raise FetchError(rules.reason, rules.detail)
        if not rules.allow(target):
            raise FetchError("robots_disallowed", f"{origin.host}/robots.txt forbids {target[:200]}")

    def _ask_robots(self, origin: Origin, clock: Clock) -> Rules | FetchError:
        """Rules of a host: all allowed where it has none (4xx, 401 and 403 too, or a redirect that leads nowhere), all forbidden
        while it answers with a server error (RFC 9309).

        A host that cannot be reached at all is not remembered: the picture's own fetch would fail alike.
        """
        here, target = origin, "/robots.txt"
        for _ in range(MAX_REDIRECTS):
            try:
                answer = self._ask(here, target, clock, robots.MAX_BYTES, robots=True)
                if isinstance(answer, bytes):
                    return Rules.read(answer, self.agent)
                here, target = split(joined(f"{here.scheme}://{_host(here)}{target}", answer))
            except FetchError as error:
                if error.reason.startswith("http_5") or error.reason == "http_429":
                    return FetchError("robots_unavailable", f"{origin.host}/robots.txt: {error}")
                if error.reason.startswith("http_") or error.reason in ("bad_encoding", "bad_url", "redirect_refused"):
                    break
                raise
        return Rules()


def _size(rules: Future[Rules | FetchError]) -> int:
    """Of an answer that is there."""
    found = rules.result() if rules.done() and rules.exception() is None else None
    return found.size if isinstance(found, Rules) else 0


def _host(origin: Origin) -> str:
    """As it stands in an address."""
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return host if origin.port == (443 if origin.scheme == "https" else 80) else f"{host}:{origin.port}"


def joined(url: str, location: str) -> str:
    """Where a redirect leads to. Raises FetchError for what is no address."""
    try:  # http.client reads bytes as Latin-1, but hosts write UTF-8 into headers, or what their files are called
        location = location.encode("latin-1").decode("utf-8")
    except UnicodeError:
        location = "".join(c if c.isascii() or ord(c) > 255 else f"%{ord(c):02X}" for c in location)
    try:
        url = urljoin(url, location)
        urlsplit(url)
    except ValueError as error:
        raise FetchError("redirect_refused", f"to {location[:200]}: {error}") from None
    return url


def split(url: str) -> tuple[Origin, str]:
    """Origin and request target of an address, with whatever strangers write in one quoted. Raises FetchError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise FetchError("bad_url", f"{url[:200]}: {error}") from None
    scheme, host = parts.scheme.lower(), parts.hostname or ""
    if scheme not in ("http", "https") or not host or port == 0:
        raise FetchError("bad_url", f"{url[:200]}: not an http(s) address with a host")
    try:
        host = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise FetchError("bad_url", f"{host[:100]}: {error}") from None
    if re.search(r"[\s\x00-\x20\x7f/\\@?#]", host):
        raise FetchError("bad_url", f"{host[:100]!r}: not a host name")
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if not path.startswith("/"):
        path = f"/{path}"
    query = "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?[]|{}^`") if parts.query else ""
    return Origin(scheme, host, port or (443 if scheme == "https" else 80)), path + query


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
    if str(headers["TDM-Reservation"] or "").strip() == "1":
        raise FetchError("opted_out", "TDM-Reservation: 1")


def _drain(response: HTTPResponse) -> None:
    """Read a small body to its end, so that the connection can be used again."""
    if response.length is not None and response.length <= PIECE:
        response.read()


def _retry_after(headers: HTTPMessage) -> float | None:
    value = str(headers["Retry-After"] or "").strip()
    return float(value) if value.isdigit() and len(value) < 7 else None


def _unpacker(encoding: str | None) -> zlib._Decompress | None:
    name = (encoding or "identity").strip().lower()
    if name in ("identity", "", "none"):
        return None
    if name in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(47 if name != "deflate" else 15)
    raise FetchError("bad_encoding", f"Content-Encoding: {name[:50]}")
