"""The commands that use a trained model: score, dense, boxes, index, search, serve. Added to the trainer's command line."""

from __future__ import annotations

import functools
import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from fgclip2_train.files import make_room, publish

if TYPE_CHECKING:
    from PIL import Image

    from fgclip2_train.use.search import Kind
    from fgclip2_train.use.towers import Towers, Walk

Checkpoint = Annotated[str, typer.Option(help="a checkpoint's or a run's folder, or a hub name")]
Patches = Annotated[
    int | None, typer.Option(help="per picture, more for finer maps; by default what the checkpoint was trained with")
]
Text = Annotated[list[str] | None, typer.Option("--text", help="English or Chinese; may be given more than once")]
Json = Annotated[Path | None, typer.Option(help="file for the result, - for standard output", dir_okay=False)]


def add_to(app: typer.Typer) -> None:
    for command in (score, dense, boxes, index, search, serve):
        app.command()(command)


def score(
    pictures: Annotated[list[Path], typer.Argument(help="picture files")],
    checkpoint: Checkpoint,
    text: Text = None,
    walk: Annotated[str, typer.Option(help="auto (by length), short, long or box")] = "auto",
    patches: Patches = None,
    json: Json = None,
) -> None:
    """Score texts against pictures. Cosine and sigmoid probability of every pair.

    \b
    Examples:
      python -m fgclip2_train score cat.jpg dog.jpg --checkpoint runs/stage2 --text 'a grey cat on a sofa' --text 一只黑色的狗
    """
    from fgclip2_train.use.scores import score as run

    make_room(json)
    texts = _texts(text)
    opened, chosen = [_open(file) for file in pictures], _walk(walk)
    towers = _load(checkpoint, patches)
    _tell_cut(towers, texts, chosen)
    result = run(towers, opened, texts, chosen)
    rows = []
    tell = functools.partial(typer.echo, err=_is_output(json))
    for number, file in enumerate(pictures):
        tell(str(file))
        for place, words in enumerate(texts):
            cosine, chance = result.cosine[number, place].item(), result.probability[number, place].item()
            tell(f"  {chance:8.2%}  cos {cosine:+.4f}  {result.walks[place]:<5}  {words}")
            rows.append(
                {"picture": str(file), "text": words, "walk": result.walks[place], "cosine": cosine, "probability": chance}
            )
    _write(json, rows)


def dense(
    picture: Annotated[Path, typer.Argument(help="a picture file")],
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option(help="PNG to write", dir_okay=False)],
    text: Text = None,
    patches: Patches = None,
    font: Annotated[Path | None, typer.Option(help="font file with the captions' letters")] = None,
) -> None:
    """Draw where in a picture each phrase is. Similarity with every patch of the dense map, as a PNG.

    \b
    Examples:
      python -m fgclip2_train dense street.jpg --checkpoint runs/stage2 --text 'a red bicycle' --out map.png --patches 1024
    """
    from fgclip2_train.use.dense import dense_maps, draw

    _need_png(out)
    texts, opened = _texts(text), _open(picture)
    _need_font(font, texts)
    towers = _load(checkpoint, patches)
    _tell_cut(towers, texts, "box")
    maps = dense_maps(towers, opened, texts)
    for words, values in zip(texts, maps, strict=True):
        typer.echo(f"  {values.min():+.3f} … {values.max():+.3f}  {words}")
    _save(draw(opened, texts, maps, font=font), out)
    typer.echo(f"written: {out} ({maps.shape[1]} × {maps.shape[2]} patches)")


def boxes(
    picture: Annotated[Path, typer.Argument(help="a picture file")],
    checkpoint: Checkpoint,
    text: Text = None,
    most: Annotated[int, typer.Option(min=1, max=50, help="boxes per phrase at most")] = 1,
    patches: Patches = None,
    out: Annotated[Path | None, typer.Option(help="PNG with maps and boxes to write", dir_okay=False)] = None,
    font: Annotated[Path | None, typer.Option(help="font file with the captions' letters")] = None,
    json: Json = None,
) -> None:
    """Find the boxes that fit a phrase best in its dense map. No detector: there is always a best box, for what is not there too.

    \b
    Examples:
      python -m fgclip2_train boxes street.jpg --checkpoint runs/stage2 --text 'a red bicycle' --most 3 --out boxes.png
    """
    from fgclip2_train.use.boxes import find_boxes
    from fgclip2_train.use.dense import dense_maps, draw

    make_room(json)
    if out:
        _need_png(out)
    texts, opened = _texts(text), _open(picture)
    if out:
        _need_font(font, texts)
    towers = _load(checkpoint, patches)
    _tell_cut(towers, texts, "box")
    found = find_boxes(towers, opened, texts, most=most)
    width, height = opened.size
    rows = []
    tell = functools.partial(typer.echo, err=_is_output(json))
    for words, own in zip(texts, found, strict=True):
        tell(words)
        for box in own:
            x1, y1, x2, y2 = (round(value * side) for value, side in zip(box.box, (width, height) * 2, strict=True))
            tell(f"  {x1:5d} {y1:5d} {x2:5d} {y2:5d}  similarity {box.similarity:+.3f}  contrast {box.contrast:+.3f}")
            rows.append({"text": words, "pixels": [x1, y1, x2, y2], **box.plain()})
    if out:
        maps = dense_maps(towers, opened, texts)
        _save(draw(opened, texts, maps, boxes=[[box.box for box in own] for own in found], font=font), out)
        tell(f"written: {out}")
    _write(json, rows)


def index(
    sources: Annotated[list[str], typer.Argument(help="folders of pictures, or shards as DIR or 'DIR/*.tar'")],
    checkpoint: Checkpoint,
    cache: Annotated[Path, typer.Option(help="folder of the feature cache; goes on with one that is there")],
    patches: Patches = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16")] = "fp32",
    batch: Annotated[int, typer.Option(min=1)] = 64,
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="that decode pictures")] = None,
    json: Json = None,
) -> None:
    """Encode pictures into a feature cache. Only what is new is encoded. May be killed and begun again at any time.

    \b
    Examples:
      python -m fgclip2_train index pictures/ 'shards/*.tar' --checkpoint runs/stage2 --cache features
    """
    from fgclip2_train.use.build import index as run
    from fgclip2_train.use.build import shards_of

    make_room(json)
    for source in sources:
        shards_of(source)  # what is not there is told before the model is loaded
    towers = _load(checkpoint, patches, precision, batch)
    tell = functools.partial(typer.echo, err=_is_output(json))
    report = run(towers, sources, cache, made_by=checkpoint, threads=threads, tell=tell)
    tell(report.text())
    tell(f"cache: {cache}")
    _write(json, {**vars(report), "cache": str(cache)})


def search(
    cache: Annotated[Path, typer.Argument(help="feature cache made by `index`")],
    checkpoint: Checkpoint,
    text: Text = None,
    image: Annotated[list[Path] | None, typer.Option(help="a picture as query; may be given more than once")] = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="results per query")] = 10,
    kind: Annotated[str, typer.Option(help="auto, exact, scan or ivf")] = "auto",
    probes: Annotated[int, typer.Option(min=1, help="cells that ivf looks into")] = 32,
    html: Annotated[Path | None, typer.Option(help="contact sheet to write", dir_okay=False)] = None,
    json: Json = None,
) -> None:
    """Find the pictures of a cache by text or by picture.

    \b
    Examples:
      python -m fgclip2_train search features --checkpoint runs/stage2 --text 'a boat at sunset' -k 20 --html found.html
      python -m fgclip2_train search features --checkpoint runs/stage2 --image query.jpg --json -
    """
    import numpy as np

    from fgclip2_train.use.cache import Cache
    from fgclip2_train.use.search import Searcher
    from fgclip2_train.use.sheet import write_sheet

    if kind not in ("auto", "exact", "scan", "ivf"):
        raise ValueError(f"--kind {kind}: one of auto, exact, scan, ivf")
    if not text and not image:
        raise ValueError("nothing to search for: give --text or --image")
    make_room(html, json)
    text = _texts(text) if text else []
    opened = Cache.open(cache)
    pictures = [_open(file) for file in image or ()]
    towers = _load(checkpoint, cast(Any, opened.identity["patches"]), opened.identity["precision"])
    opened.check(towers.identity())
    _tell_cut(towers, text, "auto")
    searcher = Searcher(opened, cast("Kind", kind), probes=probes, tell=lambda line: typer.echo(line, err=True))
    vectors = [towers.texts(text).numpy()] if text else []
    vectors += [towers.pictures(pictures).numpy()] if pictures else []
    names = [*text, *map(str, image or ())]
    results = searcher.hits(np.concatenate(vectors), k)
    on_terminal = _is_output(json)
    for name, hits in zip(names, results, strict=True) if not on_terminal else ():
        typer.echo(f"{name}  ({len(searcher.rows)} pictures, {searcher.kind})")
        for number, hit in enumerate(hits, 1):
            copies = f"  (and {len(hit.places) - 1} more)" if len(hit.places) > 1 else ""
            typer.echo(f"  {number:3d}  {hit.score:+.4f}  {hit.places[0]}{copies}")
    if html:
        write_sheet(html, names, results, str(cache))
        typer.echo(f"written: {html}", err=on_terminal)
    _write(json, [{"query": name, "results": [vars(hit) for hit in hits]} for name, hits in zip(names, results, strict=True)])


def serve(
    checkpoint: Checkpoint,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="settings as key=value: port=8700 cache=DIR index=scan …")
    ] = None,
) -> None:
    """Serve the towers and the search over HTTP. On this machine only unless `host` says otherwise. Ends in good order on SIGTERM.

    \b
    Examples:
      python -m fgclip2_train serve --checkpoint runs/stage2 cache=features port=8700
    """
    from fgclip2_train.config import override
    from fgclip2_train.use.settings import ServeSettings

    settings = override(ServeSettings, overrides or [])

    from fgclip2_train.use.start import run

    run(checkpoint, settings, tell=typer.echo)


# -- what they share ------------------------------------------------------------------------------------------------------


def _load(checkpoint: str, patches: int | None, precision: str = "fp32", batch: int = 64) -> Towers:
    from fgclip2_train.use.towers import load

    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision {precision!r}: fp32 or bf16")
    return load(checkpoint, patches=patches, precision=cast(Any, precision), batch=batch)


def _open(file: Path) -> Image.Image:
    from fgclip2_train.use.pictures import open_picture

    if not file.is_file():
        raise FileNotFoundError(f"no picture file {file}")
    try:
        return open_picture(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _texts(texts: list[str] | None) -> list[str]:
    if not texts or not all(text.strip() for text in texts):
        raise ValueError("give at least one --text, and none of them empty")
    return texts


def _walk(walk: str) -> Walk:
    from fgclip2_train.use.towers import WALKS

    if walk not in WALKS:
        raise ValueError(f"--walk {walk}: one of {', '.join(WALKS)}")
    return cast("Walk", walk)


def _tell_cut(towers: Towers, texts: list[str], walk: Walk) -> None:
    for text in towers.cut(texts, walk):
        typer.echo(f"only the beginning is read of a text this long ({len(text)} characters): {text[:40]}…", err=True)


def _need_png(out: Path) -> None:
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out {out}: what is written is a PNG; give it a name that ends with .png")
    make_room(out)


def _need_font(font: Path | None, texts: list[str]) -> None:
    from fgclip2_train.use.dense import find_font

    if find_font(font) is None and not all(text.isascii() for text in texts):
        typer.echo("no font with Chinese letters was found: captions will show as boxes. Give one with --font FILE", err=True)


def _save(image: Image.Image, file: Path) -> None:
    import io

    data = io.BytesIO()
    image.save(data, "PNG")
    publish(file, data.getvalue())


def _is_output(json: Path | None) -> bool:
    """Whether the result goes to standard output, where then nothing else may stand."""
    return str(json) == "-"


def _write(file: Path | None, result: Any) -> None:
    if file is None:
        return
    text = jsonlib.dumps(result, ensure_ascii=False, indent=1)
    if _is_output(file):
        typer.echo(text)
        return
    publish(file, (text + "\n").encode())
    typer.echo(f"written: {file}")
