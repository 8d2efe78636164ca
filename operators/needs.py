"""What an operator's workers must find on their machine, looked for without loading it, so that a run can tell before it begins.

Weights that are named by their name on the model hub are a worker's to fetch: they are there when the hub's cache has them, or the
hub does.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 10.0
"""Seconds for the hub's answer."""
CONFIG = ("config.json",)
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.txt", "vocab.json")
PROCESSOR = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Need:
    """setting   of the operator, which names what is needed; empty where none does
    what      what it is, with its name
    found     where it is; empty where it is not
    lacks     what was looked for where; empty where it is there
    do        what to do where it is missing
    """

    setting: str
    what: str
    found: str = ""
    lacks: str = ""
    do: str = ""


def file_at(setting: str, path: str | Path) -> Need:
    if Path(path).is_file():
        return Need(setting, str(path), found="there")
    return Need(setting, str(path), lacks="no such file", do="put it there, or set this to where it is")


def program(setting: str, name: str | Path) -> Need:
    if at := shutil.which(name):
        return Need(setting, str(name), found=at)
    return Need(setting, str(name), lacks="no such program", do="make it, or set this to where it is")


def package(what: str, names: Sequence[str], do: str) -> Need:
    """One of several Python packages."""
    for name in names:
        if importlib.util.find_spec(name) is not None:
            return Need("", what, found=f"package {name}")
    return Need("", what, lacks=f"no package {' or '.join(names)}", do=do)


def english_parser() -> Need:
    from operators.phrasing.english import MODELS

    return package("a spaCy pipeline for English", MODELS, "`make setup`, or `python -m spacy download en_core_web_sm`")


def chinese_tagger() -> Need:
    return package("jieba for Chinese", ["jieba"], "`make setup`")


def hub_model(setting: str, what: str, name: str, *files: Sequence[str]) -> Need:
    """A folder, or a name on the model hub, that has one file of each of `files`."""
    found, lacks = _folder(Path(name), files) if Path(name).is_dir() else _of_hub(name, files)
    return Need(setting, f"{what} {name}", found, lacks, "set it to a local folder" if lacks else "")


def open_clip_model(model: str, pretrained: str) -> list[Need]:
    """Weights and tokenizer of `operators.picture_text.Encoder`."""
    # Its import is seconds, but only open_clip knows what its names mean.
    from open_clip import get_model_config, get_pretrained_cfg, list_pretrained_tags_by_model

    config, weights = ("open_clip_config.json",), ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    if model.startswith("local-dir:"):
        folder = Path(model.removeprefix("local-dir:"))
        named = [path.name for end in ("safetensors", "bin", "pth") for path in folder.glob(f"*.{end}")]
        found, lacks = _folder(folder, [config, named or weights])
        return [Need("model", f"open_clip's {model}", found, lacks, "put configuration and weights there" if lacks else "")]
    if model.startswith("hf-hub:"):
        return [hub_model("model", "open_clip's", model.removeprefix("hf-hub:"), config, weights)]
    name = model.replace("/", "-")
    built_in = get_model_config(name)
    if built_in is None:
        return [Need("model", model, lacks="no architecture that open_clip knows", do="set it to local-dir:FOLDER")]
    found, lacks = "there", ""
    if tag := get_pretrained_cfg(name, pretrained):
        owner, _, file_name = tag["hf_hub"].rpartition("/")
        found, lacks = _of_hub(owner, [(f"{os.path.splitext(file_name)[0]}.safetensors", file_name) if file_name else weights])
    elif not Path(pretrained).is_file():
        tags = ", ".join(list_pretrained_tags_by_model(name)) or "none"
        found, lacks = "", f"no such file, and no tag of this architecture (tags: {tags})"
    do = "set it to a file of weights, or `model` to local-dir:FOLDER" if lacks else ""
    needs = [Need("pretrained", f"weights {pretrained!r} of open_clip's {model}", found, lacks, do)]
    if tokenizer := built_in["text_cfg"].get("hf_tokenizer_name"):
        found, lacks = _of_hub(tokenizer, [TOKENIZER])
        needs.append(Need("model", f"tokenizer {tokenizer}", found, lacks, "set it to local-dir:FOLDER" if lacks else ""))
    return needs


def _folder(folder: Path, files: Sequence[Sequence[str]]) -> tuple[str, str]:
    """Where it is, and what it lacks; one of the two is empty."""
    if not folder.is_dir():
        return "", f"no folder {folder}"
    for names in files:
        if not any((folder / name).is_file() for name in names):
            return "", f"no {' or '.join(names)} in {folder}"
    return str(folder), ""


def _of_hub(name: str, files: Sequence[Sequence[str]]) -> tuple[str, str]:
    """The same of a name on the model hub."""
    import httpx2
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = [
            next((path for file in names if isinstance(path := try_to_load_from_cache(name, file), str)), "") for names in files
        ]
    except HFValidationError:  # more than OWNER/NAME: it was meant as a path
        return "", f"no folder {name}"
    if all(cached):
        return str(Path(cached[0]).parent), ""
    nowhere = f"no such folder, not in {constants.HF_HUB_CACHE}"
    if constants.HF_HUB_OFFLINE:
        return "", f"{nowhere}, and HF_HUB_OFFLINE forbids to ask the hub"
    try:
        there = {entry.rfilename for entry in HfApi().model_info(name, timeout=PATIENCE).siblings or []}
    except (httpx2.HTTPError, OSError) as error:
        return "", f"{nowhere}, and not to be had of {constants.ENDPOINT} ({str(error).splitlines()[0]})"
    for names in files:
        if not there & set(names):
            return "", f"{nowhere}, and at {constants.ENDPOINT} it has no {' or '.join(names)}"
    return f"fetched by a worker from {constants.ENDPOINT}", ""
