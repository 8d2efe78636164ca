"""Zero-shot classification: a folder of class folders, names, and prompts, in any language.

Names come as a JSON object (folder: name, or a list of which the first is used), a JSON list or plain lines in the folders' order, or
lines FOLDER<TAB>NAME. Folders named by numbers, as ImageNetV2's, are ordered as numbers.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from fgclip2_train.data.images import SUFFIXES
from fgclip2_train.evaluation.pictures import READ, Seen, Wanted, Words
from fgclip2_train.evaluation.scores import Scorer, classify
from fgclip2_train.evaluation.settings import ClassesSet, Patches
from fgclip2_train.evaluation.task import Classes, File, Task, prompts, read_text


class ClassesTask(Task):
    def __init__(self, name: str, settings: ClassesSet, root: Path, patches: Patches):
        super().__init__(name, settings, patches)
        self.folder = root / settings.pictures
        if not self.folder.is_dir():
            raise FileNotFoundError(f"no such folder of pictures: {self.folder}")
        folders = sorted((path.name for path in self.folder.iterdir() if path.is_dir()), key=_order)
        if not folders:
            raise ValueError(f"{self.folder}: no class folders in it")
        self.file = root / settings.classes if settings.classes and settings.classes != "imagenet" else None
        names = self._names(settings.classes, folders)
        labels = {folder: label for label, folder in enumerate(names)}
        files = []
        for folder in folders:
            found = sorted(path for path in (self.folder / folder).iterdir() if path.suffix.lower() in SUFFIXES)
            if folder not in labels:
                self.skipped["class unknown"] += len(found)
            else:
                files += [(labels[folder], path) for path in found]
        files = files[: settings.limit]
        if settings.drop_last and (rest := len(files) % settings.drop_last):
            self.skipped["in the last, smaller batch"] += rest
            files = files[:-rest]
        if not files:
            raise ValueError(f"{self.folder}: no picture of a known class in it: {dict(self.skipped)}")
        self.labels = torch.tensor([label for label, _ in files])
        self.wanted = [Wanted(File(str(path)), self.view) for _, path in files]
        self.classes = Classes(list(names.values()), prompts(settings.templates, root), settings.lower, "short")
        self.texts = self.classes.texts()

    def _names(self, classes: str | None, folders: list[str]) -> dict[str, str]:
        """folder -> name, in the order of labels"""
        if classes is None:
            return {folder: folder.replace("_", " ") for folder in folders}
        if classes == "imagenet":
            from open_clip import IMAGENET_CLASSNAMES

            return self._in_order(list(IMAGENET_CLASSNAMES), folders, "ImageNet")
        assert self.file is not None
        text, self.digest = read_text(self.file)
        if self.file.suffix == ".json":
            try:
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{self.file}: not JSON ({error})") from error
        else:
            lines = [line.strip("\r\n") for line in text.split("\n") if line.strip()]
            value = dict(line.split("\t", 1) for line in lines) if lines and all("\t" in line for line in lines) else lines
        if isinstance(value, list):
            return self._in_order([_first(name, self.file) for name in value], folders, str(self.file))
        if not isinstance(value, dict) or not value:
            raise ValueError(f"{self.file}: class names are a list, or an object from folder to name")
        return {folder: _first(name, self.file) for folder, name in value.items()}

    def _in_order(self, names: list[str], folders: list[str], where: str) -> dict[str, str]:
        if len(names) != len(folders):
            raise ValueError(
                f"{where}: {len(names)} names for the {len(folders)} folders of {self.folder}; name them by folder "
                "(FOLDER<TAB>NAME) if some are left out"
            )
        return dict(zip(folders, names, strict=True))

    def score(self, seen: Seen, words: Words, sigmoid: Scorer, skipped: Counter[str]) -> dict[str, Any]:
        readable = seen.state == READ
        if not readable.any():
            raise ValueError(f"{self.name}: none of {len(self.wanted)} pictures is readable under {self.folder}")
        found = classify(seen.whole[readable], self.classes.vectors(words), self.labels[readable])
        found["pictures"] = found.pop("boxes")
        return found

    def source(self) -> dict[str, Any]:
        return {"file": str(self.file) if self.file else None, "digest": self.digest, "pictures": str(self.folder)}


def _order(name: str) -> tuple[int, int, str]:
    return (0, int(name), "") if name.isdigit() else (1, 0, name)


def _first(name: Any, file: Path) -> str:
    found = name[0] if isinstance(name, list) and name else name
    if not isinstance(found, str):
        raise ValueError(f"{file}: a class name is a text, not {found!r}")
    return found
