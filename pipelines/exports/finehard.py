"""FineHARD's layout, as its official reader and download script expect it.

    jsonfiles/NNNNN.json                    list of records: f_path, caption, short_caption, bbox_info; is_cn marks a Chinese one
    url2key_jsons/url2key_coyo_image_N.json address → key, the picture's file name without .jpg
    coyo_image_N/KKKKK.parquet              url, caption: what img2dataset is given to fetch the pictures again
    images/coyo_image_N/KKKKK/KEY.jpg       the pictures; f_path is relative to images/

A hundred shards make one coyo_image_N. The reader takes the first four boxes of a picture and wants exactly ten negatives wherever
flag_short_neg is 1, so regions with negatives come first. It ignores EXIF: turned pictures are written upright. One sample gives
one record for each language in which it has a text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from operators.validators import sentences
from pipelines.exports.base import Layout, Shard, emptied, regions_of, text_of
from pipelines.exports.samples import Sample, upright
from pipelines.exports.tally import Tally
from pipelines.shard_format import NEGATIVES, Region, Text

PER_FOLDER = 100
TABLE = pa.schema({"url": pa.string(), "caption": pa.string(), "key": pa.string()})


class FineHard(Layout):
    name = "finehard"
    about = "jsonfiles/, url2key_jsons/, coyo_image_N/*.parquet and images/, as FineHARD's reader takes them"
    languages = ("both", "en", "zh")
    tags = ("zero-shot-object-detection", "zero-shot-image-classification")

    def part(self, shard: Shard, samples: Iterable[Sample], folder: Path, pieces: Path, tally: Tally) -> dict[str, Any]:
        place = f"coyo_image_{shard.index // PER_FOLDER}/{shard.index % PER_FOLDER:05d}"
        pictures = folder / "images" / place
        rows: dict[str, list[Any]] = {name: [] for name in TABLE.names}
        jsonfile = folder / "jsonfiles" / f"{shard.index:05d}.json"
        for needed in (jsonfile.parent, (folder / place).parent):
            needed.mkdir(exist_ok=True)
        if self.settings.pictures:
            emptied(pictures)
        seen: set[str] = set()
        with open(jsonfile, "w", encoding="utf-8") as file:
            file.write("[")
            written = 0
            for sample in samples:
                records = list(self.records(sample, f"{place}/{sample.uid}.jpg", tally))
                if not records:
                    tally.note("no text in the languages wanted: left out")
                    continue
                for record in records:
                    file.write((",\n" if written else "\n") + json.dumps(record, ensure_ascii=False, allow_nan=False))
                    written += 1
                if self.settings.pictures:
                    (pictures / f"{sample.uid}.jpg").write_bytes(upright(sample, tally))
                url = sample.record.url
                if url is None:
                    tally.note("no address: not in url2key")
                elif url in seen:
                    tally.note("an address that came before: not in url2key a second time")
                else:
                    seen.add(url)
                    for name, value in (("url", url), ("caption", records[0]["short_caption"]), ("key", sample.uid)):
                        rows[name].append(value)
            file.write("\n]\n")
        pq.write_table(pa.table(rows, schema=TABLE), folder / f"{place}.parquet")
        return {"records": written, "table": f"{place}.parquet"}

    def records(self, sample: Sample, f_path: str, tally: Tally) -> Iterator[dict[str, Any]]:
        taken: list[Text] = []
        described: list[Region] = []
        for language in self.settings.languages:
            regions = sorted(regions_of(sample, language), key=lambda region: not region.negatives)
            there = [text for length in ("long", "short") if (text := text_of(sample, language, length))]
            if not there:
                if regions:
                    tally.note(f"no text in its language ({language}): the box is left out", len(regions))
                continue
            taken += there
            described += regions
            long, short = (next((text.text for text in there if text.length == length), None) for length in ("long", "short"))
            if long is None:
                tally.note(f"no long text ({language}): the short one stands for it")
            if short is None:  # both keys are required; a description's first sentence says what the picture is
                tally.note(f"no short text ({language}): the first sentence of the long one stands for it")
                short = (sentences.split(long or "") or [long or ""])[0]
            record = {
                "f_path": f_path,
                "caption": long or short,
                "short_caption": short,
                "bbox_info": [box_info(region) for region in regions],
            }
            yield record | ({"is_cn": True} if language == "zh" else {})
        if taken:
            tally.add(sample.record, taken, described)

    def finish(self, shards: list[Shard], records: list[dict[str, Any]], folder: Path, pieces: Path, tally: Tally) -> None:
        write_url2key([folder / record["table"] for record in records], folder / "url2key_jsons", tally)


def box_info(region: Region) -> dict[str, Any]:
    """One entry of bbox_info. The format guarantees x1 < x2, y1 < y2 and ten negatives or none."""
    box = [*region.box, *([region.score] if region.score is not None else [])]
    info: dict[str, Any] = {"bbox": box, "short_expr": region.short, "long_expr": region.long}
    info["flag_short_neg"] = int(len(region.negatives) == NEGATIVES)
    info["short_expr_negs"] = {str(i): negative.text for i, negative in enumerate(region.negatives)}
    return info


def write_url2key(tables: list[Path], folder: Path, tally: Tally) -> None:
    """One JSON object per hundred tables. Of an address that occurs twice among them the first key counts, as in any JSON reader
    that keeps one; memory is that of a million addresses."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(0, (len(tables) + PER_FOLDER - 1) // PER_FOLDER):
        seen: set[str] = set()
        with open(folder / f"url2key_coyo_image_{number}.json", "w", encoding="utf-8") as file:
            file.write("{")
            for table in tables[number * PER_FOLDER : (number + 1) * PER_FOLDER]:
                rows = pq.read_table(table, columns=["url", "key"])
                for url, key in zip(rows["url"].to_pylist(), rows["key"].to_pylist(), strict=True):
                    if url in seen:
                        tally.note("an address that came before: not in url2key a second time")
                        continue
                    file.write((",\n" if seen else "\n") + f"{json.dumps(url, ensure_ascii=False)}: {json.dumps(key)}")
                    seen.add(url)
            file.write("\n}\n")


class Url2Key(Layout):
    name = "url2key"
    languages = FineHard.languages
    about = "url2key_jsons/ and coyo_image_N/*.parquet alone: addresses and keys, to fetch the pictures with img2dataset"

    def part(self, shard: Shard, samples: Iterable[Sample], folder: Path, pieces: Path, tally: Tally) -> dict[str, Any]:
        place = f"coyo_image_{shard.index // PER_FOLDER}/{shard.index % PER_FOLDER:05d}.parquet"
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        rows: dict[str, list[Any]] = {name: [] for name in TABLE.names}
        for sample in samples:
            if sample.record.url is None:
                tally.note("no address: left out")
                continue
            caption = next((text for ln in self.settings.languages if (text := text_of(sample, ln, "short"))), None)
            for name, value in (("url", sample.record.url), ("caption", caption and caption.text), ("key", sample.uid)):
                rows[name].append(value)
            tally.add(sample.record, [caption] if caption else [], [])
        pq.write_table(pa.table(rows, schema=TABLE), folder / place)
        return {"table": place}

    def finish(self, shards: list[Shard], records: list[dict[str, Any]], folder: Path, pieces: Path, tally: Tally) -> None:
        write_url2key([folder / record["table"] for record in records], folder / "url2key_jsons", tally)
