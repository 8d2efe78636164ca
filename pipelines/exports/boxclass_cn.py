"""BoxClass-CN's layout: one file in COCO's form, as its official evaluation reads it, and numbered pictures.

    jsonfile/valid_category_data_total_zh.json   images {id, file_name, width, height}, categories {id, name},
                                                 annotations {id, image_id, category_id, bbox, area, iscrowd}
    images/NNNNNN.jpg

bbox is x, y, width, height in pixels; categories are numbered from 1 in the list's order (the reader takes id - 1 as the index).
A category is the short expression of a Chinese region, as the recipe boxclass_cn leaves it. Pictures turned by EXIF are written
upright.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipelines.exports.base import Layout, Shard, emptied, regions_of
from pipelines.exports.samples import Sample, upright
from pipelines.exports.tally import Tally


class BoxClassCn(Layout):
    name = "boxclass-cn"
    about = "images/NNNNNN.jpg and jsonfile/valid_category_data_total_zh.json in COCO's form"
    languages = ("both", "zh")
    tags = ("zero-shot-image-classification",)

    def part(self, shard: Shard, samples: Iterable[Sample], folder: Path, pieces: Path, tally: Tally) -> dict[str, Any]:
        pictures = pieces / shard.name
        pictures.mkdir(exist_ok=True)
        names: Counter[str] = Counter()
        images = 0
        with open(pieces / f"{shard.name}.jsonl", "w", encoding="utf-8") as file:
            for sample in samples:
                regions = regions_of(sample, "zh")
                if not regions:
                    tally.note("no Chinese region: left out")
                    continue
                width, height = sample.record.width, sample.record.height
                boxes = [
                    [round(x1 * width, 2), round(y1 * height, 2), round((x2 - x1) * width, 2), round((y2 - y1) * height, 2)]
                    for x1, y1, x2, y2 in (region.box for region in regions)
                ]
                categories = [region.short for region in regions]
                names.update(categories)
                row = {"uid": sample.uid, "width": width, "height": height, "boxes": boxes, "categories": categories}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                if self.settings.pictures:
                    (pictures / f"{sample.uid}.jpg").write_bytes(upright(sample, tally))
                tally.add(sample.record, [], regions, negatives=False)
                images += 1
        return {"images": images, "categories": dict(names)}

    def finish(self, shards: list[Shard], records: list[dict[str, Any]], folder: Path, pieces: Path, tally: Tally) -> None:
        names: Counter[str] = Counter()
        for record in records:
            names.update(record["categories"])
        numbers = {name: i for i, name in enumerate(sorted(names, key=lambda name: (-names[name], name)), 1)}
        images, annotations = emptied(folder / "images"), 0  # a shard that is made anew since a kill shifts the numbers
        (folder / "jsonfile").mkdir(exist_ok=True)
        with open(folder / "jsonfile" / "valid_category_data_total_zh.json", "w", encoding="utf-8") as file:
            categories = [{"id": number, "name": name} for name, number in numbers.items()]
            file.write('{"categories": ' + json.dumps(categories, ensure_ascii=False) + ',\n"images": [')
            for number, shard, row in self._rows(shards, pieces):
                name = f"{number:06d}.jpg"
                picture = pieces / shard.name / f"{row['uid']}.jpg"
                if picture.exists():
                    _link(picture, images / name)
                image = {"id": number, "file_name": name, "width": row["width"], "height": row["height"]}
                file.write((",\n" if number > 1 else "\n") + json.dumps(image))
            file.write('\n],\n"annotations": [')
            for number, _, row in self._rows(shards, pieces):
                for box, category in zip(row["boxes"], row["categories"], strict=True):
                    annotations += 1
                    one = {"id": annotations, "image_id": number, "category_id": numbers[category], "bbox": box}
                    one |= {"area": round(box[2] * box[3], 2), "iscrowd": 0}
                    file.write((",\n" if annotations > 1 else "\n") + json.dumps(one))
            file.write("\n]}\n")

    @staticmethod
    def _rows(shards: list[Shard], pieces: Path) -> Iterator[tuple[int, Shard, dict[str, Any]]]:
        number = 0
        for shard in shards:
            with open(pieces / f"{shard.name}.jsonl", encoding="utf-8") as file:
                for line in file:
                    number += 1
                    yield number, shard, json.loads(line)


def _link(picture: Path, name: Path) -> None:
    """A second name for the picture, whose first one goes with the pieces; a copy where the file system knows no links."""
    try:
        os.link(picture, name)
    except OSError:
        shutil.copyfile(picture, name)
