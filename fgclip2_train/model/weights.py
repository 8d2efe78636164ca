"""The files of a checkpoint's weights, looked at before anything is made of them."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

FLOATS = ("F64", "F32", "F16", "BF16")
KINDS = ["*.json", "*.safetensors", "*.model"]
"""What is fetched of a hub name: nothing that is run, and no weights of other programs."""


def fetch(name: str) -> Path:
    """A hub name's copy on this machine, fetched if need be. Raises FileNotFoundError."""
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise FileNotFoundError(f"{name}: no such checkpoint. Give a checkpoint's or a run's folder, or a hub name")
    try:
        return Path(snapshot_download(name, allow_patterns=KINDS))
    except Exception as error:  # the hub's client raises many kinds; all mean that there is no such thing to be had
        raise FileNotFoundError(f"{name}: neither a folder nor to be had from the hub ({type(error).__name__})") from error


def check_files(folder: Path) -> None:
    """All files are there, whole, of floating-point numbers. Raises FileNotFoundError, or ValueError that names file and weight."""
    for file in _files(folder):
        try:
            with safe_open(file, framework="pt") as weights:
                kinds = {name: weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{file}: damaged or cut short ({error}); take an earlier checkpoint or copy it again") from error
        for name, kind in kinds.items():
            if kind not in FLOATS and not name.endswith(".position_ids"):
                raise ValueError(
                    f"{file}: {name} is of kind {kind}, where weights are floating-point numbers of 16 bits or more: take the "
                    "checkpoint that it was quantised from"
                )


def _files(folder: Path) -> list[Path]:
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        others = sorted(file.name for file in folder.glob("*") if file.suffix in (".bin", ".pt", ".pth", ".ckpt", ".msgpack"))
        besides = f". {others[0]} is of a kind that is not read here: save the weights as safetensors" if others else ""
        raise FileNotFoundError(f"{folder}: no model.safetensors there{besides}")
    try:
        named = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        files = [folder / name for name in named]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index}: damaged ({type(error).__name__}: {error})") from error
    gone = [file.name for file in files if not file.is_file()]
    if gone or not files:
        raise FileNotFoundError(f"{folder}: {', '.join(gone[:3]) or 'every file'} is missing of what {index.name} names")
    return files
