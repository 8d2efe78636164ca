"""Go through a run's shards with nothing but webdataset: count what is there, print one sample, save its picture with its boxes.

python docs/examples/look_at_a_run.py runs/demo/shards seen.png
"""

import sys
from collections import Counter
from pathlib import Path

import webdataset
from PIL import ImageDraw, ImageOps


def main(shards: str, out: str) -> None:
    tars = sorted(str(tar) for tar in Path(shards).glob("*.tar"))
    counts: Counter[str] = Counter()
    best = None
    for picture, record in webdataset.WebDataset(tars, shardshuffle=False).decode("pil").to_tuple("jpg", "json"):
        counts["samples"] += 1
        for text in record["texts"]:
            counts[f"{text['length']} texts {text['language']} by {text['origin']}"] += 1
        counts["regions"] += len(record["regions"])
        counts["hard negatives"] += sum(len(region["negatives"]) for region in record["regions"])
        if best is None or len(record["regions"]) > len(best[1]["regions"]):
            best = picture, record
    for name, number in counts.most_common():
        print(f"{number:8,}  {name}")

    assert best is not None, f"no samples in {shards}"
    picture, record = ImageOps.exif_transpose(best[0]).convert("RGB"), best[1]
    print(f"\n{record['uid']}: {record['texts'][0]['text']}")
    draw = ImageDraw.Draw(picture)
    for region in record["regions"]:
        x1, y1, x2, y2 = (side * at for side, at in zip(picture.size * 2, region["box"], strict=True))
        draw.rectangle((x1, y1, x2, y2), outline="red", width=3)
        wrong = region["negatives"][0]["text"] if region["negatives"] else "–"
        print(f"  {region['short']}   not: {wrong}")
    picture.save(out)
    print(f"written: {out}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
