"""Everything around a tried run: a Ray cluster of several nodes, the pictures' server, the model's stand-in, an S3 server, a small
disk; and the processes of the run itself, forked by the zygote."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml
from picture_server import PictureServer, answer, picture

from benchmarks.chaos import KIT, taps
from benchmarks.chaos.parts import NAME
from benchmarks.chaos.zygote import fork
from pipelines.durable import scratch_root

HERE = Path(__file__).parent
FORKED = str(HERE / "forked.py")
NODES = 2
"""Beside the head, where the cluster's own services are."""
ROWS, SHARD, WAVE = 40, 5, 3
DISK_MB = 48
"""Of the small disk, where one can be mounted."""
PATIENCE = 60.0
NOT_OF_A_RUN = tuple(
    f"ray::{name}"
    for name in (
        *("IDLE", "DashboardAgent", "RuntimeEnvAgent"),  # a node dies with its agents
        *("ActorLocationTracker", "_AutoscalingCoordinatorActor", "_StatsActor"),  # Ray Data's own, which outlive the runs
    )
)


class World:
    """`with World(folder) as world:`; what it starts, it ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.control = folder / "control"
        self.nodes: list[Any] = []
        self.restarts = 0
        self._s3: Any = None
        self._model_pid = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> World:
        try:
            return self._start()
        except BaseException:
            self._stack.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> World:
        self.control.mkdir(parents=True, exist_ok=True)
        self._sockets = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="fl-", dir="/tmp")))
        self.zygote_socket = str(self._sockets / "zygote")
        self.wire = _Wire()
        self._stack.callback(self.wire.close)
        self.disk = self._small_disk()
        scratch = (self.disk or self.folder) / "scratch"
        settings = {
            "FINELOOM_ZYGOTE": self.zygote_socket,
            taps.CONTROL: str(self.control),
            "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(KIT)]),
            "FINELOOM_SCRATCH": str(scratch),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "NO_PROXY": "127.0.0.1",
            "AWS_ENDPOINT_URL_S3": self.wire.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "RAY_DEDUP_LOGS": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "RAY_BACKEND_LOG_LEVEL": "fatal",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_memory_monitor_refresh_ms": "0",  # workers die by the schedule alone, whatever else fills this machine's memory
        }
        scratch_root()  # of this process, which delivers commits too: not among those that must be gone at the end
        self._stack.enter_context(_environment(settings))
        scratch.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.chaos.zygote", self.zygote_socket]
        self.zygote = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._stack.callback(_end, self.zygote)
        self.pictures = self._stack.enter_context(PictureServer())
        assert self.zygote.stdout is not None and self.zygote.stdout.readline() == "ready\n", "the zygote did not start"
        self._model_port = _free_port()
        self._stack.callback(self.stop_model)
        self.start_model()
        self._start_cluster()
        return self

    # The cluster.

    def _start_cluster(self) -> None:
        from ray._private import ray_constants, services
        from ray.cluster_utils import Cluster

        command = services._build_python_executable_command_memory_profileable
        agents = (ray_constants.PROCESS_TYPE_DASHBOARD_AGENT, ray_constants.PROCESS_TYPE_RUNTIME_ENV_AGENT)

        def forked(component: str, session: str, unbuffered: bool = True) -> list[str]:
            return [sys.executable, "-S", FORKED] if component in agents else command(component, session, unbuffered)

        services._build_python_executable_command_memory_profileable = forked
        self._stack.callback(setattr, services, command.__name__, command)
        self.cluster = Cluster()
        self._stack.callback(lambda: self.cluster.shutdown())
        # A node that is gone is found out within three seconds; one that stands still counts as dead after fifteen, since on a busy
        # machine a node may stand still for some without anybody's doing.
        health = {"health_check_period_ms": 500, "health_check_timeout_ms": 3000, "health_check_failure_threshold": 5}
        self._add(include_dashboard=False, _system_config=health)
        for _ in range(NODES):
            self.add_node()

    def _add(self, **settings: Any) -> Any:
        for tries in range(3):
            try:
                return self.cluster.add_node(num_cpus=4, setup_worker_path=FORKED, **settings)
            except Exception as error:  # Ray gives a node 30 s to start, however busy the machine
                if "timed out during startup" not in str(error) or tries == 2:
                    raise

    def add_node(self) -> None:
        self.nodes.append(self._add())

    def renew_cluster(self) -> None:
        """A new one: for a cluster that does not answer any more."""
        self.restarts += 1
        self.cluster.shutdown()
        self.nodes = []
        self._start_cluster()

    def kill_node(self, node: Any) -> None:
        """All of a machine's own processes at once; its workers too."""
        self.nodes.remove(node)
        workers = self.workers_of(node)
        self.cluster.remove_node(node, allow_graceful=False)
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def raylet(self, node: Any) -> int:
        return node.all_processes["raylet"][0].process.pid

    @property
    def dead_after(self) -> float:
        """Seconds of standing still after which a node surely counts as dead."""
        return 20.0

    def workers_of(self, node: Any) -> list[int]:
        """Processes of Ray's workers on one node."""
        lines = Path(f"{self.zygote_socket}.forks").read_text().split("\n")
        mine = {int(line.split()[0]) for line in lines if line.endswith(node.node_id)}
        return [process.pid for process in self.workers() if process.pid in mine]

    def workers(self) -> list[psutil.Process]:
        """Ray's worker processes that hold something of the run: actors and tasks."""
        found = []
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self.zygote.pid).children():
                with contextlib.suppress(psutil.Error, IndexError):
                    title = process.cmdline()[0]
                    if title.startswith("ray::") and not title.startswith(NOT_OF_A_RUN):
                        found.append(process)
        return sorted(found, key=lambda process: process.pid)

    def stacks(self) -> str:
        """Where the threads of all forked processes are, of a run's and of Ray's: for a run that does not move any more."""
        told = self.folder / "stacks"
        forked = psutil.Process(self.zygote.pid).children()
        for process in [one for one in forked if one.pid != self._model_pid]:  # which has no taps
            with contextlib.suppress(psutil.Error, OSError, IndexError):
                with told.open("a") as out:
                    out.write(f"\n--- {process.pid} {process.cmdline()[0]}\n")
                process.send_signal(taps.STACKS)
                time.sleep(0.3)
        return told.read_text(errors="replace") if told.exists() else ""

    # The run's own processes.

    def call(self, recipe: Path, root: str, log: Path) -> Call:
        """`fineloom run` as a process of its own."""
        argv = ["fineloom", "run", str(recipe), "--root", root, "--address", self.cluster.address]
        with log.open("ab") as out:
            pid = fork(self.zygote_socket, "pipelines", argv, dict(os.environ), out.fileno(), out.fileno())
        return Call(pid)

    # The model's server.

    @property
    def model_url(self) -> str:
        return f"http://127.0.0.1:{self._model_port}/v1"

    @property
    def asked(self) -> Path:
        """One line per request that reached the model's server, since `forget`."""
        return self.folder / "asked.log"

    def start_model(self) -> None:
        if self._model_pid:
            return
        argv = ["parts", str(self._model_port), str(self.asked)]
        environ = {name: value for name, value in os.environ.items() if name != taps.CONTROL}
        with open(os.devnull, "wb") as nothing:
            self._model_pid = fork(
                self.zygote_socket, "benchmarks.chaos.parts", argv, environ, nothing.fileno(), nothing.fileno()
            )
        ends = time.monotonic() + PATIENCE
        while time.monotonic() < ends:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._model_port), 1):
                return
            time.sleep(0.02)
        raise RuntimeError("the model's stand-in did not start")

    def stop_model(self) -> None:
        if self._model_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._model_pid, signal.SIGKILL)
        self._model_pid = 0

    # Disks and stores.

    def _small_disk(self) -> Path | None:
        """A file system of its own that a schedule can fill; None where this user may not mount one."""
        disk = self.folder / "disk"
        disk.mkdir(exist_ok=True)
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "fineloom-chaos", str(disk)], capture_output=True
        )
        if mounted.returncode:
            return None
        self._stack.callback(subprocess.run, ["umount", "-l", str(disk)], capture_output=True)
        return disk

    def s3(self) -> str:
        """Start the S3 server, once; the root of runs there."""
        from s3_server import BUCKET, s3_server

        if self._s3 is None:
            kept = os.environ["AWS_ENDPOINT_URL_S3"]
            self._s3 = self._stack.enter_context(s3_server())
            self.wire.port = int(self._s3.rsplit(":", 1)[1])
            os.environ["AWS_ENDPOINT_URL_S3"] = kept
            from pipelines.stores import store_of

            store_of.cache_clear()
        return f"s3://{BUCKET}"

    # What is run.

    def write_recipe(self, name: str, stages: dict[str, Any] | None = None) -> Path:
        """Forty links, eight shards, every stage kind. Some links are dead, some pictures broken, some twice there."""
        rng = random.Random(20261122)
        lines = []
        for i in range(ROWS):
            path = f"/{i}.jpg"
            if i % 13 == 5:
                self.pictures.behave(path, answer(404))
            elif i % 17 == 9:
                self.pictures.serve(path, picture(64, 48, seed=i)[:300])
            else:
                body = picture(
                    rng.randrange(40, 90), rng.randrange(40, 90), seed=17 * (i // 2 if i % 9 == 1 else i), quality=90
                )
                self.pictures.serve(path, body)
            lines.append(json.dumps({"u": self.pictures.url + path, "t": f"a cat, number {i}"}))
        folder = self.folder / "recipes"
        folder.mkdir(exist_ok=True)
        (folder / "links.jsonl").write_text("\n".join(lines) + "\n")
        columns = {"url": "u", "captions": ["t"]}
        source = {"format": "jsonl", "tables": str(folder / "links.jsonl"), "language": "en", "columns": columns}
        (folder / "links.yaml").write_text(yaml.safe_dump(source))
        body = {
            "recipe": name,
            "sources": [str(folder / "links.yaml")],
            "shard_size": SHARD,
            "window": 6,
            "disk_floor_gb": 0.000001,
            "model": {
                "base_url": self.model_url,
                "name": NAME,
                "max_pixels": 3136,
                "concurrency": 4,
                "retries": 4,
                "backoff": 0.15,
            },
            **({"wave": WAVE} if name == "waves" else {}),
            "stages": stages or STAGES[name],
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(body, sort_keys=False))
        return folder / f"{name}.yaml"


DOWNLOAD = {
    "allow_private_addresses": True,
    "respect_robots_txt": False,
    "timeout": 5,
    "deadline": 20,
    "retries": 2,
    "backoff": 0.1,
    "threads": 4,
}
CAPTION = {"operator": "benchmarks.chaos.parts:Describe"}
STAGES: dict[str, dict[str, Any]] = {
    "straight": {
        "download": DOWNLOAD,
        "measure": {"operators": {"size": {}, "phash": {}}},
        "caption": CAPTION,
        "pack": {"scores": ["megapixels"]},
    },
    "cut": {
        "download": DOWNLOAD,
        "measure": {"operators": {"size": {}, "phash": {}}},
        "dedup": {},
        "caption": CAPTION,
        "pack": {},
    },
}
"""The second has a stage over all shards, so it is two flows; in the third, in waves, they are at work at the same time."""
STAGES["waves"] = STAGES["cut"]


class Call:
    """One `fineloom run`, a grandchild of this process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)
        self.killed = False

    def ended(self, wait: float = 0.0) -> bool:
        import select

        return bool(select.select([self._fd], [], [], wait)[0])

    def kill(self) -> None:
        self.killed = True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, signal.SIGKILL)

    def close(self) -> None:
        os.close(self._fd)


class _Wire:
    """Bytes to the S3 server and back, over a listener that can be shut and opened again."""

    def __init__(self) -> None:
        from s3_server import Wire

        self._wire = Wire(0)
        self.url = self._wire.url
        self.down = False
        passing = self._wire._pass
        self._open: list[socket.socket] = []

        def guarded(client: socket.socket) -> None:
            if self.down or not self._wire.port:
                client.close()
                return
            self._open.append(client)
            del self._open[:-200]
            passing(client)

        self._wire._pass = guarded  # type: ignore[method-assign]

    @property
    def port(self) -> int:
        return self._wire.port

    @port.setter
    def port(self, port: int) -> None:
        self._wire.port = port

    def break_off(self, down: bool = True) -> None:
        """Cut what is connected; while `down`, nobody gets through."""
        self.down = down
        for client in self._open:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        self._open = []

    def swallow(self, answers: int) -> None:
        """So many answers are lost on their way back: what was asked has been done."""
        self._wire.swallow_answers += answers

    def restore(self) -> None:
        self.down, self._wire.swallow_answers = False, 0

    def close(self) -> None:
        self._wire.close()


@contextlib.contextmanager
def _environment(names: dict[str, str]):  # type: ignore[no-untyped-def]
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end(process: subprocess.Popen[str]) -> None:
    """The zygote, and what it forked."""
    children: Sequence[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()
