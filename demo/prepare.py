"""Make everything that the demo runs on, under one work folder, and say what is there.

    python -m demo [--folder runs/demo-data] [--port 18931] [--serve]

    pictures/        what the server serves
    tables/          the four sources' tables, `expected.json` with what is in them
    eval/            evaluation scenes as training shards, seeds unseen in the tables
    eval-held-out/   the same, of pairs of colour and shape that are left out where a training set leaves them out

A part that is there is whole and is kept; all are made anew when the demo's code, its photographs or the port have changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from demo import evaluation, pictures, server, tables

FOLDER = Path("runs/demo-data")
EVAL = 200
HELD_OUT = 100
_CODE = ("scenes", "shapes", "words", "captions", "negatives", "evaluation", "pictures", "tables", "prepare")


def prepare(
    folder: Path = FOLDER, port: int = server.PORT, workers: int | None = None, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Make what is missing. Returns the content of `prepared.json`, which is written last."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    workers = workers or min(4, os.cpu_count() or 1)
    digest = fingerprint(port)
    done = _read(folder / "prepared.json")
    if done.get("fingerprint") == digest:
        say(
            f"{folder}: everything is there ({done['pictures']} pictures, {sum(s['rows'] for s in done['sources'].values())} rows)"
        )
        return done
    if _read(folder / "making.json").get("fingerprint") != digest:
        for part in ("pictures", "tables", "eval", "eval-held-out"):
            shutil.rmtree(folder / part, ignore_errors=True)
    (folder / "prepared.json").unlink(missing_ok=True)
    _write(folder / "making.json", {"fingerprint": digest})

    start = time.monotonic()
    scenes = pictures.make(folder, workers)
    count = len(os.listdir(folder / "pictures"))
    say(f"pictures       {count:5d}   {time.monotonic() - start:5.1f} s")
    sources = tables.write(folder, f"http://127.0.0.1:{port}", pictures.photographs(), scenes)
    _write(folder / "tables" / "expected.json", sources)
    say(f"table rows     {sum(source['rows'] for source in sources.values()):5d}   {time.monotonic() - start:5.1f} s")
    evaluation.eval_scenes(EVAL, folder / "eval", workers=workers)
    evaluation.eval_scenes(HELD_OUT, folder / "eval-held-out", held_out=True, workers=workers)
    say(f"eval scenes    {EVAL + HELD_OUT:5d}   {time.monotonic() - start:5.1f} s")
    result = {
        "fingerprint": digest,
        "port": port,
        "pictures": count,
        "sources": sources,
        "eval": EVAL,
        "eval_held_out": HELD_OUT,
    }
    _write(folder / "prepared.json", result)
    return result


def fingerprint(port: int) -> str:
    """Digest of everything that the folder's content depends on."""
    digest = hashlib.sha256(str(port).encode())
    root = Path(__file__).parent
    for path in [*(root / f"{name}.py" for name in _CODE), root / "photos" / "index.json"]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, content: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--port", type=int, default=server.PORT, help="of the picture server that the tables' links point to")
    parser.add_argument("--serve", action="store_true", help="start (or adopt) the picture server as well")
    options = parser.parse_args()
    prepare(options.folder, options.port)
    if options.serve:
        running = server.ensure(options.folder, options.port)
        print(f"pictures are served on {running.url} by process {running.pid}")


if __name__ == "__main__":
    main()
