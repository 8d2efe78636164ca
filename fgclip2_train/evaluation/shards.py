"""Evaluate on shards: every number per language, from the shards' own texts, boxes and negatives."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fgclip2_train.data.shards import UNSOUND, find_shards, read_shard, sound
from fgclip2_train.evaluation.encode import Encoder
from fgclip2_train.evaluation.pictures import CHUNK, INSIDE, READ, Held, Seen, Wanted, Words, encode_own, gather
from fgclip2_train.evaluation.scores import Scorer, classify, picks_positive, recall
from fgclip2_train.evaluation.settings import Patches, ShardsSet
from fgclip2_train.evaluation.task import Task
from fgclip2_train.ring import rank, world


class ShardsTask(Task):
    """Retrieval per language and length, boxes among all phrases, positives among ten negatives.

    The shards are streamed: every rank reads all records, and the pictures of its own chunks.
    """

    def __init__(self, name: str, settings: ShardsSet, root: Path, patches: Patches):
        super().__init__(name, settings, patches)
        patterns = [settings.shards] if isinstance(settings.shards, str) else settings.shards
        self.shards = find_shards([pattern if "://" in pattern else str(root / pattern) for pattern in patterns])
        self.limit = settings.limit
        self.records: list[dict[str, Any]] = []

    def encode(self, encoder: Encoder, workers: int) -> Seen | None:
        """Vectors of all samples, by all ranks together; None on other ranks than 0. Fills `records`, `texts`, `skipped`."""
        self.records, self.skipped = [], Counter()
        own = list(encode_own(encoder, self._own_chunks(), workers))
        if not self.records:
            raise ValueError(f"no readable sample in {len(self.shards)} shards: {dict(self.skipped)}")
        boxes = [len(record["regions"]) for record in self.records]
        starts = range(0, len(boxes), CHUNK)
        seen = gather(encoder, own, [(len(boxes[at : at + CHUNK]), sum(boxes[at : at + CHUNK])) for at in starts])
        self.texts = [
            *((_walk(text), text["text"].lower()) for record in self.records for text in record["texts"]),
            *(("box", text) for record in self.records for region in record["regions"] for text in _group(region)),
        ]
        whole = hashlib.sha256()
        for record in self.records:
            whole.update(json.dumps(record, sort_keys=True).encode())
        self.digest = f"sha256:{whole.hexdigest()}"
        return seen.alike([None] * len(self.records)) if seen else None

    def _own_chunks(self) -> Iterator[list[Wanted]]:
        def wanted(place: int, record: dict[str, Any]) -> bool:
            if self.limit is not None and len(self.records) >= self.limit:
                return False
            if not _whole(record):
                self.skipped[UNSOUND] += 1
                return False
            self.records.append(record)
            return (len(self.records) - 1) // CHUNK % world() == rank()

        chunk: list[Wanted] = []
        current = 0
        for shard in self.shards:
            for raw in read_shard(shard, self.skipped, wanted):
                number = (len(self.records) - 1) // CHUNK
                if number != current and chunk:
                    yield chunk
                    chunk = []
                current = number
                boxes = [region["box"] for region in raw.record["regions"]]
                chunk.append(Wanted(Held(raw.picture), self.view, boxes, fractions=True))
            if self.limit is not None and len(self.records) >= self.limit:
                break
        if chunk:
            yield chunk

    def score(self, seen: Seen, words: Words, sigmoid: Scorer, skipped: Counter[str]) -> dict[str, Any]:
        readable = seen.state == READ
        if not readable.any():
            raise ValueError(f"no readable picture in {len(self.shards)} shards: {dict(skipped)}")
        unreadable = {name: count for name, count in skipped.items()}
        return {
            "samples": int(readable.sum()),
            "unreadable": unreadable,
            "retrieval": self._retrieval(seen, words),
            "boxes": self._boxes(seen, words),
            "hard_negatives": self._hard_negatives(seen, words),
        }

    def headline(self, metrics: dict[str, Any]) -> float:
        """The mean of retrieval, boxes and hard negatives, each over its languages, as far as the shards have them."""
        retrieval = [score["mean"] for lengths in metrics["retrieval"].values() for score in lengths.values()]
        boxes = [score["top1"] for score in metrics["boxes"].values()]
        hard = [score["accuracy"] for score in metrics["hard_negatives"].values()]
        means = [sum(values) / len(values) for values in (retrieval, boxes, hard) if values]
        return sum(means) / len(means)

    def source(self) -> dict[str, Any]:
        return {"shards": self.shards, "digest": self.digest}

    def _retrieval(self, seen: Seen, words: Words) -> dict[str, Any]:
        """Among the pictures that have a caption of that language and length. language -> length -> scores"""
        captions: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
        for number, (state, record) in enumerate(zip(seen.state.tolist(), self.records, strict=True)):
            for text in record["texts"] if state == READ else ():
                captions[text["language"], text["length"]].append((number, text["text"].lower()))
        result: dict[str, Any] = defaultdict(dict)
        for (language, length), found in sorted(captions.items()):
            distinct = {text: number for number, text in enumerate(dict.fromkeys(text for _, text in found))}
            own = {picture: number for number, picture in enumerate(dict.fromkeys(picture for picture, _ in found))}
            pairs = [(own[picture], distinct[text]) for picture, text in found]
            texts = words(list(distinct), "long" if length == "long" else "short")
            result[language][length] = recall(seen.whole[list(own)], texts, pairs)
        return dict(result)

    def _regions(self, seen: Seen) -> dict[str, list[tuple[torch.Tensor, dict[str, Any]]]]:
        """language -> (vector, record of the region), of boxes with area in readable pictures"""
        flat = [region for record in self.records for region in record["regions"]]
        found = defaultdict(list)
        for vector, inside, region in zip(seen.regions, seen.inside.tolist(), flat, strict=True):
            if inside == INSIDE:
                found[region["language"]].append((vector, region))
        return dict(sorted(found.items()))

    def _boxes(self, seen: Seen, words: Words) -> dict[str, Any]:
        """Each box among all distinct short phrases of its language. language -> scores"""
        result = {}
        for language, regions in self._regions(seen).items():
            phrases = {text: n for n, text in enumerate(dict.fromkeys(region["short"].lower() for _, region in regions))}
            labels = torch.tensor([phrases[region["short"].lower()] for _, region in regions])
            vectors = torch.stack([vector for vector, _ in regions])
            result[language] = classify(vectors, words(list(phrases), "box"), labels)
        return result

    def _hard_negatives(self, seen: Seen, words: Words) -> dict[str, Any]:
        """Share of groups whose positive wins, in all and by family of the group's negatives. language -> scores"""
        result = {}
        for language, regions in self._regions(seen).items():
            groups = [(vector, region) for vector, region in regions if region["negatives"]]
            if not groups:
                continue
            by_family: dict[str, list[bool]] = defaultdict(list)
            hits, sizes = [], []
            for vector, region in groups:
                group = _group(region)
                hit = picks_positive(vector, words(group, "box"), "miss")
                hits.append(hit)
                sizes.append(len(group))
                for family in {negative["family"] for negative in region["negatives"]}:
                    by_family[family].append(hit)
            result[language] = {
                "accuracy": sum(hits) / len(hits),
                "chance": sum(1 / size for size in sizes) / len(sizes),
                "groups": len(groups),
                "by_family": {family: sum(found) / len(found) for family, found in sorted(by_family.items())},
            }
        return result


def _group(region: dict[str, Any]) -> list[str]:
    return [region["short"].lower(), *(negative["text"].lower() for negative in region["negatives"])]


def _walk(text: dict[str, Any]):
    return "long" if text["length"] == "long" else "short"


def _whole(record: dict[str, Any]) -> bool:
    try:
        return sound(record) and all(
            negative["family"].strip() for region in record["regions"] for negative in region["negatives"]
        )
    except (KeyError, AttributeError):
        return False
