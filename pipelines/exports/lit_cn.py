"""LIT-CN's layout: pictures and one text file, `image_path<TAB>caption` a line, paths relative to the file.

DCI-CN and DOCCI-CN are read by the same script under another file name. A picture without a long Chinese text is left out, one
that EXIF turns is written upright.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipelines.exports.base import Layout, Shard, emptied, one_line, text_of
from pipelines.exports.samples import Sample, upright
from pipelines.exports.tally import Tally


class LitCn(Layout):
    name = "lit-cn"
    about = "images/ and image_caption_long_cn.txt: image_path<TAB>caption"
    languages = ("both", "zh")
    file = "image_caption_long_cn.txt"
    tags = ("image-to-text",)

    def part(self, shard: Shard, samples: Iterable[Sample], folder: Path, pieces: Path, tally: Tally) -> dict[str, Any]:
        pictures = emptied(folder / "images" / shard.name)
        lines = 0
        with open(pieces / f"{shard.name}.txt", "w", encoding="utf-8", newline="\n") as file:
            for sample in samples:
                caption = text_of(sample, "zh", "long")
                if caption is None:
                    tally.note("no long Chinese text: left out")
                    continue
                if self.settings.pictures:
                    (pictures / f"{sample.uid}.jpg").write_bytes(upright(sample, tally))
                file.write(f"images/{shard.name}/{sample.uid}.jpg\t{one_line(caption.text)}\n")
                tally.add(sample.record, [caption], [])
                lines += 1
        return {"lines": lines}

    def finish(self, shards: list[Shard], records: list[dict[str, Any]], folder: Path, pieces: Path, tally: Tally) -> None:
        with open(folder / self.file, "wb") as whole:
            for shard in shards:
                with open(pieces / f"{shard.name}.txt", "rb") as piece:
                    shutil.copyfileobj(piece, whole)


class DciCn(LitCn):
    name = "dci-cn"
    about = "the same as lit-cn in image_caption_trans.txt, where the scripts for DCI-CN and DOCCI-CN look for it"
    file = "image_caption_trans.txt"
