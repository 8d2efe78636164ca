"""Retrieval: pictures and captions that find each other, from any of the layouts that the known sets come in.

lines        .txt   PICTURE<TAB>CAPTION (LIT-CN, DCI-CN, DOCCI-CN), NAME#NUMBER<TAB>CAPTION (Flickr30k-CNA, COCO-CN)
coco         .json  {"images": [{id, file_name}], "annotations": [{image_id, caption}]}
karpathy     .json  {"images": [{filename, filepath?, split, sentences: [{raw}]}]}
pairs        .json  [{image, caption: one or several}]
sharegpt4v   .json  [{image, conversations: [_, {value}]}]
docci        .jsonl, .jsonlines  {image_file, description, split}
dci          folder of .json  {image, extra_caption}
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fgclip2_train.data.images import SUFFIXES
from fgclip2_train.evaluation.pictures import READ, Seen, Wanted, Words
from fgclip2_train.evaluation.scores import Scorer, recall, recall_one_way
from fgclip2_train.evaluation.settings import CaptionsSet, MugeSet, Patches
from fgclip2_train.evaluation.task import (
    File,
    Folder,
    Task,
    by_id,
    list_of,
    lowered,
    read_json,
    read_json_lines,
    read_text,
    told,
)

_NUMBERED = re.compile(r"(\S+?)(?:#\w+)?#\d+\s+(.*)")


class CaptionsTask(Task):
    def __init__(self, name: str, settings: CaptionsSet, root: Path, patches: Patches):
        super().__init__(name, settings, patches)
        self.settings = settings
        self.file = root / settings.file
        self.folder = root / settings.pictures if settings.pictures else self.file if self.file.is_dir() else self.file.parent
        find = Folder(self.folder)
        captions: dict[str, list[str]] = {}
        found, self.digest = read_captions(self.file, settings.split)
        for picture, caption in found:
            if not caption.strip():
                self.skipped["caption empty"] += 1
            elif settings.same_text == "wrong" or caption not in captions.get(picture, ()):
                captions.setdefault(picture, []).append(caption)
        chosen = list(captions.items())[: settings.limit]
        if not chosen:
            raise ValueError(f"{self.file}: no caption in it: {dict(self.skipped) or 'it is empty, or has other splits only'}")
        self.wanted = [Wanted(find(picture), self.view) for picture, _ in chosen]
        self.captions = [
            (number, text)
            for number, (_, texts) in enumerate(chosen)
            for text in lowered(texts[: settings.captions_per_picture], settings.lower)
        ]
        self.texts = [(settings.length, text) for _, text in self.captions]

    def score(self, seen: Seen, words: Words, sigmoid: Scorer, skipped: Counter[str]) -> dict[str, Any]:
        readable = (seen.state == READ).nonzero().flatten().tolist()
        place = {picture: number for number, picture in enumerate(readable)}
        captions = [(place[picture], text) for picture, text in self.captions if picture in place]
        if not captions:
            raise ValueError(f"{self.name}: none of {len(self.wanted)} pictures is readable under {self.folder}")
        if self.settings.same_text == "right":
            distinct = {text: number for number, text in enumerate(dict.fromkeys(text for _, text in captions))}
            texts, pairs = list(distinct), [(picture, distinct[text]) for picture, text in captions]
        else:
            texts, pairs = [text for _, text in captions], [(picture, number) for number, (picture, _) in enumerate(captions)]
        scorer = sigmoid if self.settings.rank_by == "sigmoid" else None
        return recall(seen.whole[readable], words(texts, self.settings.length), pairs, scorer)

    def source(self) -> dict[str, Any]:
        return {"file": str(self.file), "digest": self.digest, "pictures": str(self.folder)}


def read_captions(file: Path, split: str) -> tuple[list[tuple[str, str]], str]:
    """(picture's name, caption) in the file's order, and the file's digest."""
    if file.is_dir():
        return _dci(file)
    match file.suffix:
        case ".txt" | ".tsv":
            text, digest = read_text(file)
            return list(_lines(file, text)), digest
        case ".jsonl" | ".jsonlines":
            rows, digest = read_json_lines(file, lambda row: _pair(row["image_file"], row["description"]))
            return [(row["image_file"], row["description"]) for row in rows if row.get("split", split) == split], digest
        case ".json":
            value, digest = read_json(file)
            try:
                return [_pair(*found) for found in _json(file, value, split)], digest
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise ValueError(f"{file}: a row is not as its layout has it ({type(error).__name__}: {error})") from error
    raise ValueError(f"{file}: captions come as .txt, .tsv, .json, .jsonl, or a folder of .json files")


def _pair(picture: Any, caption: Any) -> tuple[str, str]:
    if not (isinstance(picture, str) and isinstance(caption, str)):
        raise TypeError(f"a picture's name and a caption are texts, not {picture!r} and {caption!r}"[:200])
    return picture, caption


def _lines(file: Path, text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        if numbered := _NUMBERED.fullmatch(line.strip()):
            name, caption = numbered.groups()
        else:
            name, tab, caption = line.partition("\t")
            if not tab:
                raise ValueError(f"{file}:{number}: a line is PICTURE<TAB>CAPTION, this one has no tab")
            if "\t" in caption.partition("\r")[2]:
                raise ValueError(f"{file}:{number}: a line that holds a carriage return and then a tab may be two")
        if not name.lower().endswith(SUFFIXES):
            name += ".jpg"
        yield name, " ".join(caption.split("\t")).strip()


def _json(file: Path, value: Any, split: str) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict) and "annotations" in value:
        names = {number: image["file_name"] for number, image in by_id(file, list_of(file, value, "images")).items()}
        captions: dict[Any, list[str]] = {}
        for annotation in list_of(file, value, "annotations"):
            captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
        unknown = [number for number in captions if number not in names]
        if unknown:
            raise ValueError(f"{file}: captions for image_id {unknown[0]!r}, which is not among its images")
        for number in sorted(captions):
            for caption in captions[number]:
                yield names[number], caption
    elif isinstance(value, dict) and "images" in value:
        splits: Counter[str] = Counter()
        for image in list_of(file, value, "images"):
            splits[image.get("split", split)] += 1
            if image.get("split", split) == split:
                folder = f"{image['filepath']}/" if image.get("filepath") else ""
                for sentence in image["sentences"]:
                    yield folder + image["filename"], sentence["raw"]
        if split not in splits:
            raise ValueError(f"{file}: no split {split!r}; it has {', '.join(sorted(splits))}")
    elif isinstance(value, list):
        for row in value:
            if "conversations" in row:
                yield row["image"], row["conversations"][1]["value"]
            else:
                captions_of = row["caption"]
                for caption in captions_of if isinstance(captions_of, list) else [captions_of]:
                    yield row["image"], caption
    else:
        raise ValueError(f"{file}: neither COCO's, Karpathy's nor a list of captions; see docs/evaluation.md for the layouts")


def _dci(folder: Path) -> tuple[list[tuple[str, str]], str]:
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ValueError(f"{folder}: no .json file in it")
    whole = hashlib.sha256()
    found = []
    for file in files:
        value, digest = read_json(file)
        whole.update(digest.encode())
        try:
            found.append(_pair(value["image"], value["extra_caption"] or ""))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{file}: {told(error)}") from error
    return found, f"sha256:{whole.hexdigest()}"


class MugeTask(Task):
    """Queries (`query_id, query_text, item_ids`, or `text_id, text, image_ids`) over pictures in a TSV of id and base64."""

    def __init__(self, name: str, settings: MugeSet, root: Path, patches: Patches):
        super().__init__(name, settings, patches)
        self.settings, self.file, self.table = settings, root / settings.file, root / settings.pictures
        rows, self.digest = read_json_lines(self.file, _query)
        queries = [_query(row) for row in rows]
        items = dict(list(self._items())[: settings.limit])
        if not items:
            raise ValueError(f"{self.table}: no line of id<TAB>base64 in it")
        self.wanted = [Wanted(file, self.view) for file in items.values()]
        place = {number: row for row, number in enumerate(items)}
        self.queries = []
        for text, wanted in queries:
            own = [place[item] for item in wanted if item in place]
            if not text.strip():
                self.skipped["query empty"] += 1
            elif own:
                self.queries.append((lowered([text], settings.lower)[0], own))
            else:
                self.skipped["query without a picture" if not wanted else "query's pictures not in the table"] += 1
        if not self.queries:
            raise ValueError(f"{self.file}: no query with a picture that is in {self.table}: {dict(self.skipped)}")
        self.texts = [("short", text) for text, _ in self.queries]

    def _items(self) -> Iterator[tuple[str, File]]:
        if not self.table.is_file():
            raise FileNotFoundError(f"no such file: {self.table}")
        start = 0
        with self.table.open("rb") as file:
            for number, line in enumerate(file, 1):
                name, tab, data = line.partition(b"\t")
                if not tab and line.strip():
                    raise ValueError(f"{self.table}:{number}: a line is ID<TAB>BASE64, this one has no tab")
                if tab:
                    yield self._id(name, number), File(str(self.table), start + len(name) + 1, len(data.rstrip()))
                start += len(line)

    def _id(self, name: bytes, line: int) -> str:
        try:
            return name.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.table}:{line}: a line is ID<TAB>BASE64, and this id is no text ({error})") from error

    def score(self, seen: Seen, words: Words, sigmoid: Scorer, skipped: Counter[str]) -> dict[str, Any]:
        readable = (seen.state == READ).nonzero().flatten().tolist()
        place = {picture: number for number, picture in enumerate(readable)}
        kept = [(text, [place[item] for item in own if item in place]) for text, own in self.queries]
        kept = [(text, own) for text, own in kept if own]
        if not kept:
            raise ValueError(f"{self.name}: no picture of any query is readable in {self.table}")
        pairs = [(number, item) for number, (_, own) in enumerate(kept) for item in own]
        scorer = sigmoid if self.settings.rank_by == "sigmoid" else None
        pictures, texts = seen.whole[readable], words([text for text, _ in kept], "short")
        found = recall_one_way(texts, pictures, pairs, scorer)
        return {
            "text_to_image": found[1],
            "text_to_image_at_5": found[5],
            "text_to_image_at_10": found[10],
            "mean_recall": sum(found.values()) / len(found),
            "chance": len(pairs) / (len(kept) * len(pictures)),
            "pictures": len(pictures),
            "texts": len(kept),
        }

    def source(self) -> dict[str, Any]:
        return {"file": str(self.file), "digest": self.digest, "pictures": str(self.table)}


def _query(row: Any) -> tuple[str, list[str]]:
    text = row["query_text"] if "query_text" in row else row["text"]
    items = row["item_ids"] if "item_ids" in row else row["image_ids"]
    if not isinstance(text, str) or not isinstance(items, list):
        raise TypeError("a query is a text and a list of pictures")
    return text, [str(item) for item in items]
