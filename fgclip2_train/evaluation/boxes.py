"""Boxes and their categories (COCO's instances, LVIS, BoxClass-CN), and boxes with hard negatives (FG-OVD).

The first are one JSON file: images, annotations (bbox: x y width height in pixels), categories. LVIS names pictures by `coco_url` and
writes its categories with underscores for spaces. A picture is encoded once, and all of its boxes are pooled from it together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fgclip2_train.evaluation.pictures import EMPTY, INSIDE, OUTSIDE, READ, UNSEEN, Seen, Wanted, Words
from fgclip2_train.evaluation.scores import Scorer, classify, picks_positive
from fgclip2_train.evaluation.settings import BoxesSet, FgovdSet, Patches
from fgclip2_train.evaluation.task import (
    Classes,
    File,
    Folder,
    Task,
    by_id,
    list_of,
    lowered,
    numbers,
    prompts,
    read_json,
    read_json_lines,
    told,
)


class RegionTask(Task):
    """Boxes with vectors, pooled from their picture's dense map or encoded as pictures of their own."""

    def __init__(self, name: str, settings: BoxesSet | FgovdSet, root: Path, patches: Patches):
        super().__init__(name, settings, patches)
        self.dense = settings.regions == "dense"
        self.file = root / settings.file
        self.folder = root / settings.pictures if settings.pictures else self.file.parent

    def source(self) -> dict[str, Any]:
        return {"file": str(self.file), "digest": self.digest, "pictures": str(self.folder)}

    def want(self, picture: File, boxes: list[list[float]]) -> None:
        """boxes: x y width height in pixels"""
        if self.dense:
            edges = [[x, y, x + width, y + height] for x, y, width, height in boxes]
            self.wanted.append(Wanted(picture, self.view, edges))
        else:
            # Whole pixels, as the released scripts cut.
            for x, y, width, height in (map(int, box) for box in boxes):
                self.wanted.append(Wanted(picture, self.view, crop=(x, y, x + width, y + height)))

    def vectors(self, seen: Seen) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, D] and the state of each: INSIDE, OUTSIDE, UNSEEN. Zeros for boxes without a vector."""
        if self.dense:
            return seen.regions, seen.inside
        states = {READ: INSIDE, EMPTY: OUTSIDE}
        return seen.whole, torch.tensor([states.get(state, UNSEEN) for state in seen.state.tolist()])


class BoxesTask(RegionTask):
    def __init__(self, name: str, settings: BoxesSet, root: Path, patches: Patches):
        super().__init__(name, settings, root, patches)
        self.settings = settings
        find = Folder(self.folder)
        value, self.digest = read_json(self.file)
        categories, labels = self._categories(value)
        of_image: dict[Any, list[tuple[list[float], int]]] = defaultdict(list)
        try:
            images = by_id(self.file, list_of(self.file, value, "images"))
            for box, number, label in self._boxes(value, images, labels):
                of_image[number].append((box, label))
        except TypeError as error:
            raise ValueError(f"{self.file}: an id is a number or a text ({error})") from error
        self.labels: list[int] = []
        for number in list(of_image)[: settings.limit]:
            self.want(find(*self._names(images[number])), [box for box, _ in of_image[number]])
            self.labels += [label for _, label in of_image[number]]
        if not self.labels:
            raise ValueError(f"{self.file}: no box to classify in it: {dict(self.skipped) or 'no annotations'}")
        self.classes = Classes(categories, prompts(settings.templates, root), settings.lower, settings.walk)
        self.texts = self.classes.texts()

    def _categories(self, value: Any) -> tuple[list[str], dict[Any, int]]:
        found = list_of(self.file, value, "categories")
        try:
            names = [category["name"].replace("_", " ") for category in found]
            labels = {category["id"]: place for place, category in enumerate(found)}
            if self.settings.category == "position":
                labels = {place + 1: place for place in range(len(found))}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.file}: categories: {told(error)}") from error
        if not names:
            raise ValueError(f"{self.file}: its list of categories is empty")
        if not all(name.strip() for name in names):
            raise ValueError(f"{self.file}: categories: one of them has an empty name")
        if len(labels) < len(names):
            raise ValueError(f"{self.file}: categories: two of them have one id")
        return names, labels

    def _boxes(self, value: Any, images: dict, labels: dict) -> Iterator[tuple[list[float], Any, int]]:
        for annotation in list_of(self.file, value, "annotations"):
            box = numbers(annotation.get("bbox"))
            if box is None:
                self.skipped["box is not four numbers"] += 1
            elif annotation.get("image_id") not in images:
                self.skipped["picture not listed"] += 1
            elif annotation.get("category_id") not in labels:
                self.skipped["category unknown"] += 1
            elif annotation.get("iscrowd") and self.settings.crowd == "skip":
                self.skipped["box around a crowd"] += 1
            else:
                yield box, annotation["image_id"], labels[annotation["category_id"]]

    def _names(self, image: dict[str, Any]) -> list[str]:
        if isinstance(image.get("file_name"), str):
            return [image["file_name"]]
        if isinstance(image.get("coco_url"), str):
            return ["/".join(image["coco_url"].split("/")[-2:])]
        raise ValueError(f"{self.file}: image {image.get('id')!r} has neither file_name nor coco_url")

    def score(self, seen: Seen, words: Words, sigmoid: Scorer, skipped: Counter[str]) -> dict[str, Any]:
        vectors, inside = self.vectors(seen)
        outside = int((inside == OUTSIDE).sum())
        counted = inside == INSIDE
        if self.settings.empty == "count":
            counted |= inside == OUTSIDE
        elif outside:
            skipped["box without area in its picture"] += outside
        if not counted.any():
            raise ValueError(f"{self.name}: no box left, pictures from {self.folder}: {dict(skipped)}")
        labels = torch.tensor(self.labels)
        return classify(vectors[counted], self.classes.vectors(words), labels[counted])


class FgovdTask(RegionTask):
    """FG-OVD: img_path, bbox (x y width height in pixels), pos_expression [1], neg_expression [mostly 10], test_type."""

    def __init__(self, name: str, settings: FgovdSet, root: Path, patches: Patches):
        super().__init__(name, settings, root, patches)
        self.settings = settings
        find = Folder(self.folder)
        rows, self.digest = read_json_lines(self.file, _fgovd_row)
        of_picture: dict[str, list[tuple[list[float], list[str], str]]] = defaultdict(list)
        for row in rows:
            box, group = numbers(row["bbox"]), lowered(_fgovd_row(row), settings.lower)
            if box is None:
                self.skipped["box is not four numbers"] += 1
            elif len(group) < 2:
                self.skipped["group without negatives"] += 1
            elif not all(text.strip() for text in group):
                self.skipped["group with an empty text"] += 1
            else:
                of_picture[row["img_path"]].append((box, group, row.get("test_type", "unnamed")))
        self.groups: list[list[str]] = []
        self.types: list[str] = []
        for picture in list(of_picture)[: settings.limit]:
            self.want(find(picture), [box for box, _, _ in of_picture[picture]])
            self.groups += [group for _, group, _ in of_picture[picture]]
            self.types += [kind for _, _, kind in of_picture[picture]]
        if not self.groups:
            raise ValueError(f"{self.file}: no group in it: {dict(self.skipped) or 'the file is empty'}")
        self.texts = [(settings.walk, text) for group in self.groups for text in group]

    def score(self, seen: Seen, words: Words, sigmoid: Scorer, skipped: Counter[str]) -> dict[str, Any]:
        vectors, inside = self.vectors(seen)
        hits: dict[str, list[bool]] = defaultdict(list)
        sizes: list[int] = []
        for vector, state, group, kind in zip(vectors, inside.tolist(), self.groups, self.types, strict=True):
            if state != INSIDE:
                if state == OUTSIDE:
                    skipped["box without area in its picture"] += 1
                continue
            hit = picks_positive(vector, words(group, self.settings.walk), self.settings.ties)
            hits["all"].append(hit)
            hits[kind].append(hit)
            if len(group) == 11:
                hits["ten negatives"].append(hit)
            sizes.append(len(group))
        if not sizes:
            raise ValueError(f"{self.name}: no group left, pictures from {self.folder}: {dict(skipped)}")
        shares = {name: sum(found) / len(found) for name, found in hits.items()}
        return {
            "accuracy": shares.pop("all"),
            "groups": len(sizes),
            "chance": sum(1 / size for size in sizes) / len(sizes),
            "by_type": shares,
        }


def _fgovd_row(row: Any) -> list[str]:
    """The group's texts, the positive first."""
    _ = row["img_path"].strip(), row["bbox"]
    positive, negatives = row["pos_expression"], row["neg_expression"]
    if not (isinstance(positive, list) and positive and isinstance(negatives, list)):
        raise TypeError("pos_expression and neg_expression are lists of texts, the first not empty")
    texts = [positive[0], *negatives]
    if not all(isinstance(text, str) for text in [*texts, row.get("test_type", "")]):
        raise TypeError("pos_expression and neg_expression hold texts, and test_type is one")
    return texts
