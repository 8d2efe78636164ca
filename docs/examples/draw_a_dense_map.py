"""Draw where in a picture a phrase fits, patch by patch, with a trained checkpoint.

    python docs/examples/draw_a_dense_map.py runs/demo-train/stage2 cat.jpg maps.png "black cat" 窗户

Every panel has its own range, printed under it: a map tells where a phrase fits best, not whether it fits.
"""

import sys
from pathlib import Path

from fgclip2_train.use import dense_maps, draw, load, open_picture


def main(checkpoint: str, picture: str, out: str, *phrases: str) -> None:
    towers = load(checkpoint)
    opened = open_picture(Path(picture).read_bytes())  # bounded: strangers' pictures are welcome
    maps = dense_maps(towers, opened, list(phrases), patches=1024)
    draw(opened, list(phrases), maps).save(out)
    print(f"written: {out}, {maps.shape[1]} × {maps.shape[2]} patches for each of {len(phrases)} phrases")


if __name__ == "__main__":
    main(*sys.argv[1:])
