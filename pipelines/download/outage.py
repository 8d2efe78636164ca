"""Whether this machine has a network at all, judged by what its fetches meet.

A host that is silent says nothing of itself while nobody else answers either. Then hosts that answered lately are asked for a
connection, by name. If none gives one the network is down: all fetches wait until one does again, and what had failed meanwhile
is fetched once more. A process to which nobody has answered yet asks the hosts that were silent, if they are many.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pipelines.download.network import Clock, Connection, Connections, Origin, Resolver
from pipelines.download.reasons import FetchError, NetworkDown

SILENT = {"dns", "dns_failed", "unreachable", "connect_timeout", "timeout", "deadline", "too_slow", "host_down"}
"""Reasons behind which could as well stand this machine's own lack of a network."""
DOUBTFUL = SILENT | {"connection", "incomplete", "tls", "bad_response"}
"""What is fetched again after an outage: a router that goes down may also cut what is open."""
PROOF = 5
"""So many hosts must all be silent before the network is blamed and not they: different addresses of hosts that had answered, or
different names of others."""
KEPT = 8
"""Hosts remembered of either kind."""
QUIET = 1.0
"""Seconds without any answer after which a failure is looked into."""
LOOKS = (1.0, 30.0)
"""Seconds between two looks at a network that is down: the first pause, doubled up to the last."""


class Network:
    """Shared by all fetches of a process.

    patience   seconds to wait for a network that is down; 0: every silent host is taken for dead
    forget     called when waiting ends, before anything is fetched again: failures until then were no host's
    word       what everything waits for; empty while the network is up
    outages    how many have ended
    """

    def __init__(self, allow_private: bool, connect_timeout: float, patience: float, forget: Callable[[], None]) -> None:
        self.allow_private, self.connect_timeout = allow_private, connect_timeout
        self.patience, self.forget = patience, forget
        self.word = ""
        self.outages = 0
        self.heard = -1.0
        """Monotonic time of the last sign of anybody."""
        self._lock, self._looking = threading.Lock(), threading.Lock()
        self._witnesses: OrderedDict[str, Origin] = OrderedDict()
        self._suspects: OrderedDict[str, Origin] = OrderedDict()

    def answered(self, connection: Connection | None = None) -> None:
        """Somebody spoke: through `connection`, or by refusing one."""
        self.heard = time.monotonic()
        if connection is not None and connection.fresh:
            try:
                address = str(connection.sock.getpeername()[0])
            except OSError:
                return
            with self._lock:
                _keep(self._witnesses, address, connection.origin)
                self._suspects.clear()

    def doubt(self, origin: Origin, failed: float, stop: threading.Event) -> None:
        """A fetch met silence at the monotonic time `failed`. Returns when it is known that the network is up, waiting for it if
        need be, or when that cannot be known. Raises NetworkDown when patience is over."""
        if self.patience <= 0:
            return
        with self._lock:
            _keep(self._suspects, origin.host, origin)
            if len(self._witnesses) < PROOF and len(self._suspects) < PROOF:
                return
        while self.heard <= failed and time.monotonic() - failed < QUIET and not stop.wait(0.05):
            pass
        with self._looking:  # one looks, the others wait for what it finds
            if self.heard <= failed and not stop.is_set() and not self._look(self._asked()):
                self._wait(stop)

    def _asked(self, all_of_them: bool = False) -> list[Origin]:
        with self._lock:
            witnesses, suspects = list(self._witnesses.values()), list(self._suspects.values())
        return witnesses if len(witnesses) >= PROOF and not all_of_them else [*witnesses, *suspects]

    def _look(self, hosts: list[Origin]) -> bool:
        """Whether any of them takes a connection, or refuses one."""
        with ThreadPoolExecutor(len(hosts), thread_name_prefix="look") as pool:
            up = any(pool.map(self._is_there, hosts))
        if up:
            self.heard = time.monotonic()
        return up

    def _is_there(self, origin: Origin) -> bool:
        wait = self.connect_timeout
        clock = Clock(time.monotonic() + 2 * wait, wait, 0.0, threading.Event())
        try:  # a new resolver, which remembers nothing
            Connections(Resolver(), self.allow_private, wait).take(origin._replace(scheme="http"), clock).close()
        except FetchError as error:
            return error.reason == "connection"
        return True

    def _wait(self, stop: threading.Event) -> None:
        began, pause = time.monotonic(), LOOKS[0]
        hosts = ", ".join(sorted({origin.host for origin in self._asked(True)})[:3])
        self.word = (
            f"no network since {time.strftime('%H:%M')} (nobody answers, not {hosts} either); "
            f"waiting for it, {_minutes(self.patience)} at most"
        )
        try:
            while not (stop.wait(pause) or self.heard > began or self._look(self._asked(True))):
                if time.monotonic() - began > self.patience:
                    raise NetworkDown(
                        f"no network for {_minutes(self.patience)}: nobody answered, not {hosts} either. Nothing was refused for "
                        "it: run again when the network is back. `network_patience` of the download is how long it is waited "
                        "for; with 0 silent hosts are taken for dead"
                    )
                pause = min(2 * pause, LOOKS[1])
        finally:
            self.word = ""
            self.forget()
        if stop.is_set():
            return
        with self._lock:
            self._suspects.clear()
        self.outages += 1
        self.heard = time.monotonic()


def _keep(hosts: OrderedDict[str, Origin], key: str, origin: Origin) -> None:
    hosts[key] = origin
    hosts.move_to_end(key)
    while len(hosts) > KEPT:
        hosts.popitem(last=False)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:g} s"
