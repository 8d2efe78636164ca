"""Search a folder of pictures by words, in English or Chinese, with a trained checkpoint.

    python docs/examples/search_a_folder.py runs/demo-train/stage2 pictures/ "a red circle" 红色圆形

The vectors are kept in a cache beside the folder: the second call encodes only what is new.
"""

import sys

from fgclip2_train.use import Cache, Searcher, index, load


def main(checkpoint: str, folder: str, *texts: str) -> None:
    towers = load(checkpoint)
    report = index(towers, [folder], f"{folder.rstrip('/')}.features")
    print(f"{report.found} pictures, {report.encoded} of them encoded now")
    searcher = Searcher(Cache.open(f"{folder.rstrip('/')}.features", towers.identity()))
    for text, hits in zip(texts, searcher.hits(towers.texts(list(texts)).numpy(), 5), strict=True):
        print(text)
        for hit in hits:
            print(f"  {hit.score:.3f}  {hit.places[0]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
