"""What a host lays down in files of its own, asked for once and remembered for a while.

robots.txt (RFC 9309)                what may be fetched at all
.well-known/tdmrep.json              what is reserved from text and data mining (W3C TDM Reservation Protocol)
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, replace
from typing import Protocol
from urllib.parse import urlsplit

from pipelines.download.addresses import host_of, joined, split
from pipelines.download.network import Clock, Origin
from pipelines.download.reasons import FetchError
from pipelines.download.robots import Rules, normal

MAX_HOSTS, MAX_SIZE = 50_000, 32 << 20
"""Hosts remembered at a time, and characters of their rules."""
KEPT = 24 * 3600.0
"""Seconds that a host's rules hold (RFC 9309: a day at most)."""
REST = 600.0
"""Seconds until a host is asked again that had a server's error for an answer, or none for a reservation."""
MAX_REDIRECTS = 5
ROBOTS, RESERVED = "/robots.txt", "/.well-known/tdmrep.json"


class Manners(Protocol):
    timeout: float
    deadline: float
    respect_opt_out: bool
    respect_robots_txt: bool


@dataclass(frozen=True)
class Found:
    """robots     why nothing may be fetched for now, or what may be
    reserved   whose "disallowed" is what is reserved
    keep       seconds
    """

    robots: Rules | FetchError
    reserved: Rules
    keep: float

    @property
    def size(self) -> int:
        return self.reserved.size + (self.robots.size if isinstance(self.robots, Rules) else 0)


class HostRules:
    """Shared by all fetches of a process.

    agent   product token in lower case
    ask     (origin, target, clock) → the beginning of a file, or the address that a redirect names
    """

    def __init__(self, manners: Manners, agent: str, ask: Callable[[Origin, str, Clock], bytes | str]) -> None:
        self.manners, self.agent, self.ask = manners, agent, ask
        self.lock = threading.Lock()
        self.known: OrderedDict[Origin, tuple[float, Future[Found]]] = OrderedDict()
        self.size = 0

    def check(self, origin: Origin, target: str, clock: Clock) -> None:
        """Raises FetchError where a host forbids or reserves what is to be asked of it."""
        if not (self.manners.respect_robots_txt or self.manners.respect_opt_out):
            return
        found = self._of(origin, clock)
        if isinstance(found.robots, FetchError):
            raise FetchError(found.robots.reason, found.robots.detail)
        if not found.robots.allow(target):
            raise FetchError("robots_disallowed", f"{origin.host}{ROBOTS} forbids {target[:200]}")
        if not found.reserved.allow(target.partition("?")[0]):
            raise FetchError("opted_out", f"{origin.host}{RESERVED} reserves {target[:200]}")

    def _of(self, origin: Origin, clock: Clock) -> Found:
        """One thread asks for a host's rules, those that come meanwhile wait for the same answer."""
        with self.lock:
            expires, known = self.known.pop(origin, (0.0, None))
            mine = known is None or expires < time.monotonic()
            future: Future[Found] = Future() if mine or known is None else known
            self.known[origin] = (math.inf if mine else expires, future)
            if mine and known is not None:
                self.size -= _size(known)
            while len(self.known) > MAX_HOSTS or (self.size > MAX_SIZE and len(self.known) > 1):
                _, (_, oldest) = self.known.popitem(last=False)
                self.size -= _size(oldest)
        if mine:
            try:
                found = self._ask(origin, clock)
            except BaseException as error:
                with self.lock:
                    if self.known.get(origin, (0.0, None))[1] is future:
                        del self.known[origin]  # the next attempt asks again
                future.set_exception(error)
            else:
                with self.lock:
                    future.set_result(found)
                    if self.known.get(origin, (0.0, None))[1] is future:
                        self.known[origin] = (time.monotonic() + found.keep, future)
                        self.size += found.size
        try:
            return future.result(clock.left(self.manners.deadline))
        except FutureTimeout:
            clock.left()
            raise FetchError("deadline", f"{origin.host}: its rules were still being asked for") from None
        except FetchError as error:
            raise FetchError(error.reason, error.detail) from error

    def _ask(self, origin: Origin, clock: Clock) -> Found:
        """One request after the other, through the same connection where the host keeps it open."""
        robots = self._robots(origin, clock) if self.manners.respect_robots_txt else Rules()
        if isinstance(robots, FetchError):
            return Found(robots, Rules(), REST)
        if not self.manners.respect_opt_out or not robots.allow(RESERVED):
            return Found(robots, Rules(), KEPT)
        reserved = self._reserved(origin, clock)
        return Found(robots, reserved or Rules(), KEPT if reserved is not None else REST)

    def _robots(self, origin: Origin, clock: Clock) -> Rules | FetchError:
        """All allowed where a host has none (4xx, 401 and 403 too, or a redirect that leads nowhere), all forbidden while it answers
        with a server error (RFC 9309).

        A host that cannot be reached at all is not remembered: the picture's own fetch would fail alike.
        """
        try:
            return Rules.read(self._file(origin, ROBOTS, clock), self.agent)
        except FetchError as error:
            if error.reason.startswith("http_5") or error.reason == "http_429":
                return FetchError("robots_unavailable", f"{origin.host}{ROBOTS}: {error}")
            if error.reason.startswith("http_") or error.reason in ("bad_encoding", "bad_url", "redirect_refused"):
                return Rules()
            raise

    def _reserved(self, origin: Origin, clock: Clock) -> Rules | None:
        """Nothing where the host says that it has no such file; None where it does not say. Neither keeps a picture: hosts that know
        nothing of the file do with its name what they like, also not answer."""
        now = time.monotonic()
        limit = min(clock.ends, now + min(self.manners.timeout, (clock.ends - now) / 2))
        try:
            return reservations(self._file(origin, RESERVED, replace(clock, ends=limit)))
        except FetchError as error:
            clock.left()  # raises when it is this fetch that has no time left, or the shard that was given up
            if error.reason in ("dns_failed", "unreachable", "connect_timeout"):
                raise  # as for robots.txt
            return None if error.reason not in ("http_404", "http_410", "http_403", "redirect_refused") else Rules()

    def _file(self, origin: Origin, target: str, clock: Clock) -> bytes:
        here, at = origin, target
        for _ in range(MAX_REDIRECTS):
            answer = self.ask(here, at, clock)
            if isinstance(answer, bytes):
                return answer
            here, at = split(joined(f"{here.scheme}://{host_of(here)}{at}", answer))
        raise FetchError("redirect_refused", f"more than {MAX_REDIRECTS} redirects")


def reservations(data: bytes) -> Rules:
    """The rules of a tdmrep.json, whose patterns are those of robots.txt. The longest that matches decides, and of two as long the
    one that reserves. What is no such file reserves nothing."""
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        return Rules()
    rules: dict[str, bool] = {}
    for rule in told if isinstance(told, list) else [told]:
        if isinstance(rule, dict) and isinstance(rule.get("location"), str) and "tdm-reservation" in rule:
            allowed = str(rule["tdm-reservation"]).strip().lower() not in ("1", "true")
            pattern = normal(_pattern(rule["location"].strip()))
            rules[pattern] = allowed and rules.get(pattern, True)
    return Rules(list(rules.items()))


def _pattern(location: str) -> str:
    """A path, where an address was written; from the root, where it says no start."""
    try:
        path = urlsplit(location).path if "://" in location else location
    except ValueError:
        path = location
    return path if path.startswith(("/", "*")) else f"/{path}"


def _size(rules: Future[Found]) -> int:
    """Of an answer that is there."""
    return rules.result().size if rules.done() and rules.exception() is None else 0
