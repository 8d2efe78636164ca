"""Which model answers: served name, weights, quantisation and server version.

The four are part of every request's hash and of a model stage's fingerprint, so that answers of two models never mix.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

DECIDES_ANSWERS = {".safetensors", ".bin", ".gguf", ".json", ".jinja", ".txt", ".model"}
"""Suffixes of the files that change what a model says: weights, configuration, tokenizer, chat template."""


class ServerUnavailable(RuntimeError):
    """The model server cannot be used: infrastructure, never a refusal of a sample."""


class ModelChanged(RuntimeError):
    """The server no longer serves the model that the run began with."""


def describe(
    card: dict[str, Any], version: str | None, name: str, revision: str | None, quantization: str | None
) -> dict[str, Any]:
    """Identity from the server's own model card (an entry of /v1/models).

    weights        `revision` if the user gave one; else the SHA-256 of the files, where the server's model folder can be
                   read from here; else the name that the server was given, or None
    quantization   as given, else as the model's config.json says, else None
    server         version as /version says, or None if the server has no such address
    """
    root = str(card.get("root") or "")
    folder = Path(root)
    local = folder.is_absolute() and (folder / "config.json").is_file()
    weights = revision
    if weights is None:
        # A path that cannot be read from here says nothing of the weights but its last name.
        weights = f"sha256:{weights_sha256(folder)}" if local else (folder.name if folder.is_absolute() else root) or None
    if quantization is None and local:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        quantization = (config.get("quantization_config") or {}).get("quant_method")
    return {"name": name, "weights": weights, "quantization": quantization, "server": version}


def same_model(was: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether two looks saw one model. A hash says nothing against a name: some machines cannot read the model's folder."""
    comparable = str(was["weights"]).startswith("sha256:") == str(now["weights"]).startswith("sha256:")
    return all(now[part] == was[part] for part in was if comparable or part not in ("weights", "quantization"))


def weights_sha256(folder: Path) -> str:
    """SHA-256 over names and contents of a model folder's files; read again only when a file's size or time has changed."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in DECIDES_ANSWERS)
    if not files:
        raise ValueError(f"{folder}: no model files here")
    stats = ((path, path.stat()) for path in files)
    return _sha256_of(tuple((str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino) for path, stat in stats))


@lru_cache(maxsize=16)
def _sha256_of(files: tuple[tuple[str, int, int, int], ...]) -> str:
    """A few seconds for 15 GB, so it is remembered on the disk too: each Ray actor asks."""
    key = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    note = _cache_folder() / key
    try:
        if len(text := note.read_text(encoding="ascii").strip()) == 64:
            return text
    except (OSError, ValueError):
        pass
    whole = hashlib.sha256()
    for name, *_ in files:
        with open(name, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{Path(name).name} {digest}\n".encode())
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        scratch = note.with_name(f"{key}.{os.getpid()}.tmp")
        scratch.write_text(whole.hexdigest(), encoding="ascii")
        os.replace(scratch, note)
    except OSError:
        pass  # only speed is lost
    return whole.hexdigest()


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fineloom" / "weights"
