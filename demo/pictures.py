"""The picture files that the demo's server serves: rendered scenes, photographs, and pictures that are odd in one way each."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from demo.evaluation import jpeg
from demo.scenes import Scene, render
from demo.tables import ODD, SCENES, extra_names, name_of, odd_seed

PHOTOS = Path(__file__).parent / "photos"


def photographs() -> list[dict[str, Any]]:
    """The records of photos/index.json."""
    records: list[dict[str, Any]] = json.loads((PHOTOS / "index.json").read_text(encoding="utf-8"))
    return records


def make(folder: Path, workers: int = 1) -> dict[str, Scene]:
    """Make all pictures that are not yet there under `folder`/pictures.

    Returns the rendered ones' scenes by file name; their images are blank ones of the right size.
    """
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    seeds = {name_of(seed): seed for seed in range(sum(SCENES.values()))} | extra_names()
    with ProcessPoolExecutor(workers) as pool:
        scenes = dict(zip(seeds, pool.map(partial(_scene, pictures), seeds.items(), chunksize=25), strict=True))
    for photo in photographs():
        write_whole(pictures / f"photo-{photo['file']}", partial(shutil.copyfile, PHOTOS / photo["file"]))
    for name in ODD:
        write_whole(pictures / name, partial(_odd, name))
    return scenes


def _scene(pictures: Path, item: tuple[str, int]) -> Scene:
    name, seed = item
    scene = render(seed)
    write_whole(pictures / name, lambda path: path.write_bytes(jpeg(scene)))
    return replace(scene, image=Image.new("1", scene.image.size))


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file that is not yet there so that it is there whole or not at all."""
    if path.exists():
        return
    part = path.with_name(f".{os.getpid()}-{path.name}")
    write(part)
    os.replace(part, path)


def _odd(name: str, path: Path) -> None:
    scene = render(odd_seed(name))
    image = scene.image
    if name == "copy.jpg":
        path.write_bytes(jpeg(scene))
    elif name == "near_copy.jpg":
        image.resize((image.width * 9 // 10, image.height * 9 // 10)).save(path, quality=70)
    elif name == "tiny.jpg":
        image.resize((24, 18)).save(path)
    elif name == "cmyk.jpg":
        image.convert("CMYK").save(path, quality=92)
    elif name == "rotated.jpg":
        # Stored lying on its side; orientation 6 tells the reader to turn it by 90 degrees clockwise.
        exif = Image.Exif()
        exif[0x0112] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(path, quality=92, exif=exif)
    elif name in ("moving.gif", "moving.webp"):
        frames = [image, image.point(lambda value: value * 3 // 4), image.point(lambda value: value // 2)]
        frames[0].save(path, format=name[7:].upper(), save_all=True, append_images=frames[1:], duration=200, loop=0)
    else:
        alpha = Image.linear_gradient("L").resize(image.size).point(lambda value: 155 + value * 100 // 255)
        image.putalpha(alpha)
        image.save(path, format="PNG")
