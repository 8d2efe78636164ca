"""Results of a search as one HTML file: thumbnails inside, every text escaped, nothing fetched when it is opened."""

from __future__ import annotations

import base64
import io
import tarfile
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

from fgclip2_train.data.shards import read_shard
from fgclip2_train.files import publish
from fgclip2_train.use.pictures import MAX_BYTES, BadPicture, open_picture
from fgclip2_train.use.search import Hit

THUMBNAIL = 240
STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 24px; color: #222; background: #fafafa }
h1 { font-size: 18px; font-weight: 600 } h2 { font-size: 16px; margin: 28px 0 8px }
ol { display: flex; flex-wrap: wrap; gap: 14px; list-style: none; padding: 0 }
li { width: 240px } img, .none { width: 240px; height: 240px; object-fit: contain; background: #eee; display: block }
.none { display: grid; place-items: center; color: #777 } small { color: #666; overflow-wrap: anywhere }
"""


def write_sheet(file: Path, queries: Sequence[str], results: Sequence[Sequence[Hit]], cache: str) -> None:
    parts = [
        "<!doctype html><html><head><meta charset='utf-8'>",
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
        f"<title>Search</title><style>{STYLE}</style></head><body><h1>Search in {escape(cache)}</h1>",
    ]
    for query, hits in zip(queries, results, strict=True):
        parts.append(f"<h2>{escape(query)}</h2><ol>")
        parts += [_tile(number, hit) for number, hit in enumerate(hits, 1)]
        parts.append("</ol>")
    parts.append("</body></html>\n")
    # Names of files may hold what is no text at all.
    publish(file, "".join(parts).encode("utf-8", "replace"))


def _tile(number: int, hit: Hit) -> str:
    place, copies = hit.places[0], len(hit.places) - 1
    try:
        picture = open_picture(read_place(place))
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=85)
        shown = f"<img alt='' src='data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}'>"
    except (OSError, BadPicture, tarfile.TarError, ValueError):
        shown = "<div class='none'>cannot be read any more</div>"
    more = f" (and {copies} {'copy' if copies == 1 else 'copies'})" if copies else ""
    return f"<li>{shown}{number}. {hit.score:.3f}<br><small>{escape(place)}{more}</small></li>"


def read_place(place: str) -> bytes:
    """The bytes of an indexed picture: a file, or a member of a shard."""
    shard, hash_sign, uid = place.rpartition("#")
    if not (hash_sign and shard.endswith(".tar")):
        with Path(place).open("rb") as file:
            return file.read(MAX_BYTES)
    for raw in read_shard(shard, Counter(), lambda _, record: record.get("uid") == uid):
        return raw.picture
    raise FileNotFoundError(place)
