"""What every kind of set gives an evaluation: pictures to encode, texts to encode, and scores from the vectors of both."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fgclip2_train.evaluation.pictures import File, Seen, View, Walk, Wanted, Words
from fgclip2_train.evaluation.scores import Scorer
from fgclip2_train.evaluation.settings import Patches, PictureSettings


class Task(ABC):
    """One set, its file read. `wanted`: pictures; `texts`: (walk, text) in the case to encode them in; `skipped`: by reason."""

    def __init__(self, name: str, settings: PictureSettings, patches: Patches):
        self.name = name
        self.view = View(settings.patches or patches, settings.upright, settings.small)
        self.wanted: list[Wanted] = []
        self.texts: list[tuple[Walk, str]] = []
        self.skipped: Counter[str] = Counter()
        self.digest = ""

    @abstractmethod
    def score(self, seen: Seen, words: Words, sigmoid: Scorer, skipped: Counter[str]) -> dict[str, Any]:
        """Metrics; `seen` has the vectors of `wanted`, `skipped` takes what is left out here. ValueError where nothing is left."""

    def headline(self, metrics: dict[str, Any]) -> float:
        """The one number of this set."""
        for name in ("mean", "top1", "accuracy", "text_to_image"):
            if name in metrics:
                return metrics[name]
        raise KeyError(f"no headline among {', '.join(metrics)}")

    def source(self) -> dict[str, Any]:
        """Where the set came from: paths, and the digest of what was read there."""
        return {"digest": self.digest}


def lowered(texts: Sequence[str], lower: bool) -> list[str]:
    return [text.lower() for text in texts] if lower else list(texts)


# -- files ------------------------------------------------------------------------------------------------------------------


def read_text(file: Path) -> tuple[str, str]:
    """A file's text, whose lines end with \\n whatever system wrote them, and its digest. Raises what a person can mend, naming the
    file."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"no such file: {file}") from None
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error})") from error
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
        return text if "\n" in text else text.replace("\r", "\n"), f"sha256:{hashlib.sha256(data).hexdigest()}"
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 text ({error})") from error


def read_json(file: Path) -> tuple[Any, str]:
    text, digest = read_text(file)
    try:
        return json.loads(text), digest
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not JSON ({error}); is the download whole?") from error


def read_json_lines(file: Path, check: Callable[[Any], Any]) -> tuple[list[Any], str]:
    """Rows of a JSON lines file. `check` looks at a row and raises KeyError, TypeError or ValueError on a wrong one."""
    text, digest = read_text(file)
    rows = []
    for number, line in enumerate(text.split("\n"), 1):  # a caption may hold what str.splitlines also splits at
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            check(row)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise ValueError(f"{file}:{number}: {told(error)}") from error
        rows.append(row)
    return rows, digest


def told(error: Exception) -> str:
    """What a row lacks, or is instead of what its layout says."""
    return f"no {error} there" if isinstance(error, KeyError) else f"not a row of this layout ({error})"


def list_of(file: Path, value: Any, name: str) -> list[dict[str, Any]]:
    """value[name] as a list of objects."""
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ValueError(f"{file}: no list of objects under {name!r}")
    return found


def by_id(file: Path, images: list[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    """Raises ValueError where two pictures have one id: what belongs to the one would be taken for the other's."""
    found: dict[Any, dict[str, Any]] = {}
    for image in images:
        number = image.get("id")
        if found.setdefault(number, image) != image:
            raise ValueError(f"{file}: two of its images have the id {number!r}")
    return found


def numbers(box: Any) -> list[float] | None:
    """Four finite numbers, or None."""
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        return None
    if not all(isinstance(edge, (int, float)) and not isinstance(edge, bool) and abs(edge) < 1e9 for edge in box):
        return None
    return [float(edge) for edge in box]


class Folder:
    """Finds pictures by the names that annotation files give them: as written, else with accents composed or apart as the file system
    has them, else by the last part, else in COCO's own folders."""

    def __init__(self, root: Path):
        self.root = root
        if not root.is_dir():
            raise FileNotFoundError(f"no such folder of pictures: {root}")

    def __call__(self, *names: str) -> File:
        candidates = list(self._candidates(names))
        return File(next((str(path) for path in candidates if os.path.isfile(path)), str(candidates[0])))

    def _candidates(self, names: Sequence[str]) -> Iterator[Path]:
        for name in names:
            yield self.root / name
            for form in ("NFC", "NFD"):  # archives packed on a Mac have é in two characters
                yield self.root / unicodedata.normalize(form, name)
        for name in names:
            last = name.rsplit("/", 1)[-1]
            yield self.root / last
            for part in ("train2014", "val2014"):
                if part in last:
                    yield self.root / part / last


# -- prompts ----------------------------------------------------------------------------------------------------------------


def prompts(templates: list[str] | str | None, root: Path) -> list[str]:
    """Templates with one {} each: given as a list, as a file of lines, or by name; ["{}"] for none."""
    if templates is None:
        return ["{}"]
    if templates == "openai80":
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
    where = "templates"
    if isinstance(templates, str):
        where = str(root / templates)
        text, _ = read_text(root / templates)
        templates = [line.strip() for line in text.splitlines() if line.strip()]
    if not templates:
        raise ValueError(f"{where}: no template there")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"{where}: {template!r} must hold {{}} once, where the name goes")
    return templates


class Classes:
    """Names as vectors: the mean of a name's prompts, made to unit length before and after, as for CLIP."""

    def __init__(self, names: Sequence[str], templates: Sequence[str], lower: bool, walk: Walk):
        self.walk = walk
        self.rows = [lowered([template.replace("{}", name) for template in templates], lower) for name in names]

    def texts(self) -> list[tuple[Walk, str]]:
        return [(self.walk, text) for row in self.rows for text in row]

    def vectors(self, words: Words):
        flat = words([text for row in self.rows for text in row], self.walk)
        mean = flat.view(len(self.rows), -1, flat.shape[-1]).mean(1)
        return mean / mean.norm(dim=-1, keepdim=True).clamp(min=1e-12)
