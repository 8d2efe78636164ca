"""One real vLLM server with a tiny model for all tests that want it, started when the first one asks and stopped at the end.

With pytest-xdist the workers share it: they start it through the same folder, where only the first succeeds and the others adopt.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
RUN = "FINELOOM_TEST_RUN"
"""Environment variable that names this run of pytest to its workers."""
FIRST = ("test_train.py", "test_distributed.py", "test_chaos.py", "test_training.py", "test_asking.py", "test_submit.py")
FIRST_OF_THEIR_FOLDER = ("test_engine.py", "test_verdicts.py", "test_waves.py")
"""Files that take minutes, the longest first. The latter leave a Ray in their process, of whose threads forks know nothing."""


@dataclass(frozen=True)
class VllmServer:
    base_url: str
    name: str
    model: Path
    folder: Path


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vllm: needs the real model server (made by `make setup`; FINELOOM_SKIP_VLLM=1 skips)")
    # Ray's workers are niced by default: beside anything else on the machine, tests of whole runs would wait for minutes.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # xdist tells its workers how wide its own screen is, which a console would take for its own for good.
    os.environ.pop("COLUMNS", None)
    os.environ.pop("LINES", None)
    # A shell lets what it puts into the background ignore Ctrl-C, and so would all commands that tests start and stop by it.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        os.environ[RUN] = str(os.getpid())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files begin first: one that a worker of pytest-xdist begins at the end would leave the others with nothing to do."""
    long = FIRST + FIRST_OF_THEIR_FOLDER

    def place(item: pytest.Item) -> tuple[str, int]:
        name = item.path.name
        return "" if name in FIRST else item.path.parent.name, long.index(name) if name in long else len(long)

    items.sort(key=place)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        return
    for folder in Path(tempfile.gettempdir()).glob("fineloom-vllm-*"):
        run = int(folder.name.rsplit("-", 1)[1])
        if run == os.getpid() or not psutil.pid_exists(run):  # also what a killed run left behind
            _stop(folder)


@pytest.fixture(scope="session")
def vllm_server() -> VllmServer:
    """Address and served name of a random-weight Qwen2.5-VL. Its answers are nonsense in the form that was asked for."""
    if os.environ.get("FINELOOM_SKIP_VLLM"):
        pytest.skip("FINELOOM_SKIP_VLLM is set")
    if not PYTHON.exists():
        pytest.fail(
            f"{PYTHON} is missing: `make setup` makes the model server's environment (FINELOOM_SKIP_VLLM=1 skips these)"
        )
    from pipelines.serve import start

    settings = _settings(Path(tempfile.gettempdir()) / f"fineloom-vllm-{os.environ[RUN]}")
    server = start(settings)
    return VllmServer(server.base_url, settings.name, Path(settings.model), settings.folder)


def _settings(folder: Path):
    from pipelines.serve import ServeSettings

    return ServeSettings(
        model=str(_tiny_model()), name="tiny-qwen2.5-vl", port=0, python=PYTHON, folder=folder, max_num_seqs=32, patience=550
    )


def _tiny_model() -> Path:
    """Made once per version of the script that makes it; in a process of its own, since torch takes much memory."""
    script = ROOT / "demo" / "model.py"
    folder = ROOT / "build" / f"tiny-model-{hashlib.sha256(script.read_bytes()).hexdigest()[:12]}"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / "tiny-model.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "config.json").is_file():
            subprocess.run([sys.executable, "-m", "demo.model", str(folder)], cwd=ROOT, check=True)
    return folder


def _stop(folder: Path) -> None:
    from pipelines.serve import ServeSettings, stop

    stop(ServeSettings(model="", name="", folder=folder), say=lambda _: None)
    shutil.rmtree(folder, ignore_errors=True)
