"""The demo's raw tables, in the four forms in which such tables come, with everything that is wrong with them in the wild.

    tables/laion-0.parquet, laion-1.parquet    LAION: sizes as floats with holes in one part, as integers in the other
    tables/wukong_100m_0.csv                   Wukong: quoted commas and newlines, a NUL byte
    tables/zero.jsonl                          Zero: several texts a row
    tables/grit.parquet                        GRIT/COYO: boxes of phrases, from the renderer's truth

About 600 rendered scenes and the photographs stand behind good links. `FAULTY` lists the links that lead to trouble and
`expected.json`, written beside the tables, says how many rows of which kind there are.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from demo.captions import backdrop
from demo.scenes import Scene, captions, render
from demo.words import PLACES, listed

SCENES = {"laion": 160, "wukong": 140, "zero": 100, "grit": 200}
"""Rendered scenes per source; their seeds follow one another in this order from TRAIN_SEEDS."""

PHOTOS_OF = {"laion": 0, "zero": 1}
"""Every second photograph goes to an English source, the others to a Chinese one."""

# Kind of trouble → (path of the server, what must become of the row). NAME is the picture behind the link.
FAULTY: dict[str, tuple[str, str]] = {
    "missing": ("/fault/missing/NAME", "refused"),
    "page": ("/fault/page/NAME", "refused"),
    "truncated": ("/fault/truncated/NAME", "refused"),
    "cut": ("/fault/cut/NAME", "refused"),
    "drip": ("/fault/drip/NAME", "refused"),
    "noindex": ("/fault/noindex/NAME", "refused"),
    "private redirect": ("/redirect/private/NAME", "refused"),
    "redirect loop": ("/redirect/loop/NAME", "refused"),
    "flaky": ("/fault/flaky/NAME", "kept"),
    "redirect": ("/redirect/NAME", "kept"),
}

UNREADABLE = {"laion": 3, "wukong": 2, "zero": 4, "grit": 0}
"""Ugly rows that no sample can be made of."""
REPEATED = {"laion": 4, "wukong": 1, "zero": 0, "grit": 0}
"""Ugly rows that lead to a picture which another row has."""

# Odd pictures (made by demo.pictures) → what must become of them with the demo's recipe
ODD: dict[str, str] = {
    "copy.jpg": "refused: the same bytes as scene-000000.jpg",
    "near_copy.jpg": "refused: scene-000001.jpg, re-encoded smaller",
    "tiny.jpg": "refused: 24 x 18 pixels",
    "cmyk.jpg": "kept: a CMYK JPEG",
    "rotated.jpg": "kept: upright only after its EXIF orientation is applied",
    "moving.gif": "kept: animated, the first frame counts",
    "moving.webp": "kept: animated, the first frame counts",
    "transparent.png": "kept: has an alpha channel",
}


@dataclass(frozen=True)
class Row:
    """One picture with its texts before it is put into the form of a source."""

    name: str
    url: str
    en: str
    zh: str
    width: int | None
    height: int | None
    scene: Scene | None = None
    fault: str | None = None
    title: str | None = None


def name_of(seed: int) -> str:
    return f"scene-{seed:06d}.jpg"


def write(folder: Path, base: str, photos: list[dict[str, Any]], scenes: Mapping[str, Scene]) -> dict[str, Any]:
    """Write all tables into `folder`/tables and return what is in them.

    base    address of the server, e.g. http://127.0.0.1:18931
    photos  records of photos/index.json
    scenes  the rendered pictures' scenes by file name (demo.pictures.make)
    """
    tables = folder / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    writers: dict[str, Callable[[Path, list[Row]], dict[str, Any]]] = {
        "laion": _laion,
        "wukong": _wukong,
        "zero": _zero,
        "grit": _grit,
    }
    expected: dict[str, Any] = {}
    seed, faults, oddities = 0, list(FAULTY) * 2, list(ODD)
    for number, (source, write_source) in enumerate(writers.items()):
        rows = [_row(base, name_of(seed + i), scenes[name_of(seed + i)]) for i in range(SCENES[source])]
        seed += SCENES[source]
        rows += [_photo_row(base, photo) for photo in photos[PHOTOS_OF[source] :: 2]] if source in PHOTOS_OF else []
        names = [extra_name(seed - 1 - i) for i in range(len(faults[number::4]))]
        rows += [_row(base, name, scenes[name], fault) for name, fault in zip(names, faults[number::4], strict=True)]
        rows += [_odd_row(base, odd) for odd in oddities[number::4]]
        random.Random(f"rows of {source}").shuffle(rows)
        made = write_source(tables, rows)
        expected[source] = {
            "pictures": len(rows),
            "scenes": SCENES[source],
            "photographs": sum(row.name.startswith("photo-") for row in rows),
            "faulty_links": sorted(row.fault for row in rows if row.fault),
            "odd_pictures": sorted(row.name for row in rows if row.name in ODD),
            "refused": _refused(source, rows),
            **made,
        }
    return expected


def _refused(source: str, rows: list[Row]) -> dict[str, int]:
    """How many rows the demo's stages must refuse. A pair of duplicates counts where the later one stands."""
    names = [row.name for row in rows]
    return {
        "source": UNREADABLE[source],
        "download": sum(row.fault is not None and FAULTY[row.fault][1] == "refused" for row in rows),
        "dedup": REPEATED[source] + names.count("copy.jpg") + names.count("near_copy.jpg"),
        "select": names.count("tiny.jpg"),
    }


def _row(base: str, name: str, scene: Scene, fault: str | None = None) -> Row:
    url = base + (FAULTY[fault][0].replace("NAME", name) if fault else f"/pictures/{name}")
    texts = captions(scene, "en", "short"), captions(scene, "zh", "short")
    return Row(name, url, *texts, scene.width, scene.height, scene, fault)


def _photo_row(base: str, photo: dict[str, Any]) -> Row:
    name, title = f"photo-{photo['file']}", photo["title"]
    en = f"{title['en']}. {photo['text']['en']}" if title else photo["text"]["en"]
    url = f"{base}/pictures/{name}"
    return Row(name, url, en, photo["text"]["zh"], photo["width"], photo["height"], title=title["zh"] if title else None)


def extra_name(seed: int) -> str:
    return f"extra-{seed:06d}.jpg"


def extra_names() -> dict[str, int]:
    """Pictures that only faulty links lead to (those to be kept must not be duplicates) → renderer seed."""
    seed, names = 0, {}
    for number, source in enumerate(SCENES):
        seed += SCENES[source]
        for i in range(len((list(FAULTY) * 2)[number::4])):
            names[extra_name(seed - 1 - i)] = 900_000 + seed - 1 - i
    return names


def odd_seed(name: str) -> int:
    """Renderer seed of the scene that an odd picture shows."""
    return {"copy.jpg": 0, "near_copy.jpg": 1}.get(name, 950_000 + list(ODD).index(name))


def _odd_row(base: str, name: str) -> Row:
    scene = render(odd_seed(name))
    return Row(
        name, f"{base}/pictures/{name}", captions(scene, "en", "short"), captions(scene, "zh", "short"), None, None, scene
    )


def _laion(tables: Path, rows: list[Row]) -> dict[str, Any]:
    """LAION-2B-en: two parts whose size columns have different types."""
    records = [_laion_record(i, row.url, row.en, row.width, row.height) for i, row in enumerate(rows)]
    number = len(records)
    first = rows[0]
    tail: list[tuple[str, str | None, str | None, int | None, int | None]] = [
        ("entities", rows[1].url, "a red ball &amp; a &quot;blue&quot; box &lt;3", 224, 224),
        ("mojibake", rows[2].url, "a small table in a cafÃ©, seen from the street â€“ with two cups", 224, 224),
        ("no text", rows[3].url, None, 224, 224),
        ("no link", None, "a picture that nobody can fetch", 224, 224),
        ("not a web link", "ftp://example.org/picture.jpg", "a picture behind another protocol", 224, 224),
        ("link twice", first.url, "the same link once more, with other words", first.width, first.height),
        ("no size", rows[4].url + "?v=2", rows[4].en, None, None),
    ]
    records += [_laion_record(number + i, url, text, w, h) for i, (_, url, text, w, h) in enumerate(tail)]
    half = len(records) // 2
    for part, kind, chunk in ((0, pa.float64(), records[half:]), (1, pa.int64(), records[:half])):
        schema = pa.schema(
            {
                "SAMPLE_ID": pa.int64(),
                "URL": pa.string(),
                "TEXT": pa.string(),
                "HEIGHT": kind,
                "WIDTH": kind,
                "LICENSE": pa.string(),
                "NSFW": pa.string(),
                "similarity": pa.float64(),
            }
        )
        pq.write_table(pa.Table.from_pylist(chunk, schema=schema), tables / f"laion-{part}.parquet")
    return {"rows": len(records), "files": ["laion-0.parquet", "laion-1.parquet"], "ugly_rows": [kind for kind, *_ in tail]}


def _laion_record(number: int, url: str | None, text: str | None, width: int | None, height: int | None) -> dict[str, Any]:
    rng = random.Random(f"laion {number}")
    return {
        "SAMPLE_ID": 1_000_000 + 7 * number,
        "URL": url,
        "TEXT": text,
        "HEIGHT": height,
        "WIDTH": width,
        "LICENSE": rng.choice(["?", None, "cc0"]),
        "NSFW": rng.choice(["UNLIKELY", "UNLIKELY", "UNSURE", None]),
        "similarity": round(rng.uniform(0.28, 0.42), 6),
    }


def _wukong(tables: Path, rows: list[Row]) -> dict[str, Any]:
    """Wukong: CSV with a header; captions with commas, quotes, newlines, one NUL byte, and a row with a field too many."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["url", "caption"])
    for i, row in enumerate(rows):
        caption = row.zh
        if i == 3:
            caption = f"{row.zh}\n（第二行，带逗号,和换行）"
        elif i == 5:
            caption = f'他们说"{row.zh}"'
        writer.writerow([row.url, caption])
    base = rows[0].url.split("/", 3)
    picture = f"{base[0]}//{base[2]}/pictures"
    text.write(f"{picture}/{rows[7].name}?v=2,带有\x00空字节的{rows[7].zh}\n")
    writer.writerow([f"{picture}/{rows[8].name}?v=2", "", "多出来的一列"])
    writer.writerow([f"{picture}/{rows[9].name}?v=2", ""])
    (tables / "wukong_100m_0.csv").write_bytes(text.getvalue().encode())
    return {
        "rows": len(rows) + 3,
        "files": ["wukong_100m_0.csv"],
        "ugly_rows": ["newline in quotes", "quotes in quotes", "NUL byte", "a field too many", "no text"],
    }


def _zero(tables: Path, rows: list[Row]) -> dict[str, Any]:
    """Zero/R2D2: JSON lines whose rows have a title, a content and a list of queries for one picture."""
    lines = [json.dumps(_zero_record(i, row), ensure_ascii=False) for i, row in enumerate(rows)]
    ugly = [
        '{"Url": "https://example.org/page/cut", "Title": "没有写完的一行',
        json.dumps(
            {
                "Url": "https://example.org/page/none",
                "Title": None,
                "Content": None,
                "ImageQuery": [],
                "ImageUrl": rows[0].url + "?v=2",
            }
        ),
        json.dumps(
            {"Url": "https://example.org/page/no-picture", "Title": "没有图片地址", "Content": "", "ImageQuery": []},
            ensure_ascii=False,
        ),
        "[1, 2, 3]",
    ]
    (tables / "zero.jsonl").write_text("\n".join(lines + ugly) + "\n", encoding="utf-8")
    return {
        "rows": len(lines) + len(ugly),
        "files": ["zero.jsonl"],
        "ugly_rows": ["cut line", "no text", "no picture", "not an object"],
    }


def _zero_record(number: int, row: Row) -> dict[str, Any]:
    if row.scene:
        content = f"{listed('zh', [thing.short('zh') for thing in row.scene.things])}，{backdrop(row.scene, 'zh')}"
        title, queries = row.zh, [thing.short("zh") for thing in row.scene.things[:2]]
    else:
        title, content, queries = row.title or "", row.zh, []
    return {
        "Url": f"https://example.org/page/{number}",
        "Title": title,
        "Content": content,
        "Keywords": "",
        "ImageKey": f"{number:032x}",
        "ImageUrl": row.url,
        "ImageQuery": queries if number % 3 or not queries else queries[0],
    }


def _grit(tables: Path, rows: list[Row]) -> dict[str, Any]:
    """GRIT: a caption, and [start, end, x1, y1, x2, y2, score] of phrases in it with normalised boxes."""
    records, regions = [], 0
    for i, row in enumerate(rows):
        assert row.scene is not None
        caption, chunks, expressions = _grounded(row.scene, random.Random(f"grit {row.name}"))
        regions += len(chunks)
        if i == 2:  # a box that ends before it begins, and a span beyond the caption: both happen in the wild
            chunks = [*chunks, [0.0, 5.0, 0.9, 0.8, 0.2, 0.1, 0.8], [4.0, 4000.0, 0.1, 0.1, 0.2, 0.2, 0.8]]
        records.append(
            {
                "key": f"{i:09d}",
                "url": row.url,
                "caption": caption,
                "noun_chunks": chunks,
                "ref_exps": expressions,
                "width": row.width,
                "height": row.height,
                "clip_similarity_vitb32": round(random.Random(i).uniform(0.27, 0.4), 4),
            }
        )
    lists = pa.list_(pa.list_(pa.float64()))
    schema = pa.schema(
        {
            "key": pa.string(),
            "url": pa.string(),
            "caption": pa.string(),
            "noun_chunks": lists,
            "ref_exps": lists,
            "width": pa.int32(),
            "height": pa.int32(),
            "clip_similarity_vitb32": pa.float64(),
        }
    )
    pq.write_table(pa.Table.from_pylist(records, schema=schema), tables / "grit.parquet")
    return {
        "rows": len(records),
        "files": ["grit.parquet"],
        "regions": regions,
        "ugly_rows": ["swapped corners", "span beyond the caption", "low score"],
    }


def _grounded(scene: Scene, rng: random.Random) -> tuple[str, list[list[float]], list[list[float]]]:
    """A caption that names all things with their places, the boxes of its phrases, and those of the longer expressions."""
    caption = ""
    chunks: list[list[float]] = []
    expressions: list[list[float]] = []
    for i, thing in enumerate(scene.things):
        if i:
            caption += ", " if i < len(scene.things) - 1 else " and "
        start = float(len(caption))
        caption += thing.short("en")
        box = [round(value, 5) for value in scene.normalised(thing)]
        chunks.append([start, float(len(caption)), *box, round(rng.uniform(0.55, 0.98), 4)])
        caption += " " + PLACES[thing.place][0]
        expressions.append([start, float(len(caption)), *box, round(rng.uniform(0.5, 0.9), 4)])
    if rng.random() < 0.15:
        # What a weak detector adds: the right words on the whole picture, with a low score.
        chunks.append([*chunks[0][:2], 0.0, 0.0, 1.0, 1.0, round(rng.uniform(0.1, 0.35), 4)])
    return caption, chunks, expressions
