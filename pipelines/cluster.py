"""Joining a Ray cluster, or starting one on this machine, quietly."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from types import FrameType

import psutil

from pipelines.ray_start import bring_token, lacks

NAMESPACE = "fineloom"
TRIES = 3
"""Ray gives a node 30 s to start, whatever the machine is busy with; that limit cannot be set, so the start is tried again."""
KNOCK = 20.0
"""Seconds that a cluster's head has to take a connection."""
LET_IN = 300.0
"""Seconds that a cluster has to let a run in."""
LEAVE = 10.0
"""Seconds that a joining run has to end by itself when it is asked to."""
WATCHER = """import os, select, sys, time
process, let_in, leave, late, asked = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:]
ends, why = time.monotonic() + let_in, late
while select.select([0], [], [], max(0, ends - time.monotonic()))[0]:
    if not os.read(0, 1):
        sys.exit()
    ends, why = min(ends, time.monotonic() + leave), asked
os.write(2, why.encode())
os.kill(process, 9)
"""
"""Reads a byte for each signal that its parent hears, and the end of them when it is no longer wanted."""
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a run: Ctrl-C; Slurm, Kubernetes, `ray job stop`; a terminal that is closed."""


class NoCluster(RuntimeError):
    """Ray did not start here, or none answers at the address that was given; the message says what to do."""


def connect(address: str | None, cpus: int | None = None) -> None:
    """Connect to `address` ("auto" inside a Ray job), or start Ray here.

    `address="local"` starts a cluster of its own: a head that was killed leaves state that a plain `ray.init()` would attach to.
    Raises NoCluster. A cluster that does not let the run in at all ends the process.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Ray lets a driver in when its first workers have begun; were one of them killed before, it would wait for ever.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    import ray

    if ray.is_initialized():
        return
    for name in ("ray", "ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if address is None and os.environ.get("RAY_ADDRESS"):
        address = "auto"
    if address is not None:
        _knock(os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
    else:
        if lack := lacks():
            raise NoCluster(f"Ray cannot start here: {lack}")
        bring_token()
    let_in = _let_in(address) if address else nullcontext()
    with let_in, _ends_heard(after=address is None) as told, _native_stderr_held():
        for attempt in range(TRIES):
            before = set(psutil.Process().children())
            try:
                if address is None:
                    ray.init(
                        address="local",
                        num_cpus=cpus,
                        include_dashboard=False,
                        logging_level=logging.ERROR,
                        log_to_driver=False,
                    )
                else:
                    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
                return
            except ConnectionError as error:
                if address is None:
                    raise
                token = "If it asks for a token: RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN unless ~/.ray/auth_token is its"
                raise NoCluster(f"{address}: no Ray cluster to join: {str(error).rstrip('.')}. {token}") from error
            except Exception as error:  # Ray has no type of its own for this
                if "timed out during startup" not in str(error):
                    raise
                if attempt == TRIES - 1 or told():
                    raise NoCluster(
                        f"Ray did not start in time, {attempt + 1} times: call this again when less runs on this machine, or look into "
                        "/tmp/ray/session_latest/logs"
                    ) from error
                ray.shutdown()
                # Ray knows nothing of what it had begun, and the next try would compete with it.
                for left in set(psutil.Process().children()) - before:
                    with suppress(psutil.NoSuchProcess):
                        left.kill()


def _knock(address: str) -> None:
    """Ask whether anybody listens at HOST:PORT: Ray itself asks for a quarter of an hour, and says nothing."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), KNOCK).close()
        except OSError as error:
            raise NoCluster(f"{address}: no Ray cluster answers there: {error.strerror or error}") from error


@contextmanager
def _let_in(address: str) -> Iterator[None]:
    """End this process when the body lasts longer than LET_IN, or LEAVE after a signal. Ray waits in native code that keeps Python's
    lock, so no thread of this process could, and none hears a signal; but Python's own handler writes of it to the watcher at once."""
    keeps = "Everything committed is kept; call this again to go on\n"
    late = f"stopped: the Ray cluster at {address} has not let this run in for {LET_IN:.0f} s: do its workers begin? Its logs say, in "
    late += f"/tmp/ray/session_latest/logs there. {keeps}"
    asked = f"stopped as asked; the Ray cluster at {address} had not let this run in. {keeps}"
    command = [sys.executable, "-ISc", WATCHER, str(os.getpid()), str(LET_IN), str(LEAVE), late, asked]
    # It ends with its input, so with this process.
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as watcher:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        assert watcher.stdin is not None
        os.set_blocking(watcher.stdin.fileno(), False)
        before = signal.set_wakeup_fd(watcher.stdin.fileno())
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)


@contextmanager
def _ends_heard(after: bool) -> Iterator[Callable[[], bool]]:
    """Ray takes SIGTERM for itself, and its native code prints a stack trace at it and aborts: the handlers of ENDS stay what they are.

    after   hold what comes back until the body is through; a Ctrl-C that comes second is heard at once. Ray's start on this machine
            is many forks, and Python drops what is raised in the hooks of a fork: the signal would be lost, and with it the release
            of the lock of `logging`, at which the run would then wait for ever
    Yields  whether something is held
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    import ray._private.utils as of_ray

    before = {number: signal.getsignal(number) for number in ENDS}
    came: int | None = None

    def hold(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came is not None and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        came = number

    take, of_ray.set_sigterm_handler = of_ray.set_sigterm_handler, lambda handler: None
    for number, handler in before.items():
        if after and callable(handler):  # neither ignored, as below nohup, nor left to the system
            signal.signal(number, hold)
    try:
        yield lambda: came is not None
    finally:
        of_ray.set_sigterm_handler = take
        for number, handler in before.items():
            signal.signal(number, handler)
        if came is not None:
            signal.raise_signal(came)


@contextmanager
def _native_stderr_held() -> Iterator[None]:
    """Hold back what Ray's native code prints while it starts, and show it only if the start fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            os.dup2(kept, 2)
            held.seek(0)
            sys.stderr.write(held.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@dataclass(frozen=True)
class ClusterMemory:
    """A few kilobytes under a name in the memory of the cluster's head, where they outlive the process that wrote them.

    (The store that Ray Serve keeps its controller's checkpoints in, too.)
    """

    name: str

    def load(self) -> bytes | None:
        from ray.experimental.internal_kv import _internal_kv_get

        return _internal_kv_get(self.name, namespace=NAMESPACE)

    def save(self, state: bytes) -> None:
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(self.name, state, overwrite=True, namespace=NAMESPACE)

    def forget(self) -> None:
        from ray.experimental.internal_kv import _internal_kv_del

        _internal_kv_del(self.name, namespace=NAMESPACE)
