"""How often is what the pipeline says true, and at what yield? Measured on rendered scenes that nothing was made on.

    make bench-quality SEED=3 SCENES=300 SIZES=224x224,336x112 BACKGROUNDS=tiled,cloudy BASE_URL=http://127.0.0.1:8000/v1 MODEL=name
    python -m benchmarks.quality --seed 3 --scenes 300
    python -m benchmarks.quality audit FILE.jsonl
    python -m benchmarks.quality translations

Without --base-url the lexical engine alone; with it also the served model: captions, boxes, the negatives that it writes, and the
verifier. Every share stands with its number of cases and Wilson's 95 % interval, beside its yield.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

import torch

from benchmarks.quality.audit import main_of
from benchmarks.quality.figures import Report
from benchmarks.quality.unseen import unseen
from demo.words import BACKGROUNDS


def size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and 64 <= int(width) <= 4096 and 64 <= int(height) <= 4096):
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT of 64 to 4096 pixels, found {text!r}")
    return int(width), int(height)


def listed(kind, choices=None):
    def parse(text: str):
        found = [kind(part) for part in text.split(",") if part]
        for value in found:
            if choices and value not in choices:
                raise argparse.ArgumentTypeError(f"expected some of {', '.join(choices)}, found {value!r}")
        return found

    return parse


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seed", type=int, default=0, help="of the renderer; each seed gives other scenes")
    parser.add_argument("--scenes", type=int, default=300, help="how many")
    parser.add_argument(
        "--sizes", type=listed(size), default=[], help="widths and heights, e.g. 224x224,336x112; default the renderer's own"
    )
    parser.add_argument(
        "--backgrounds", type=listed(str, list(BACKGROUNDS)), default=[], help=f"some of {','.join(BACKGROUNDS)}; default all"
    )
    parser.add_argument("--languages", type=listed(str, ["en", "zh"]), default=["en", "zh"])
    parser.add_argument("--base-url", default="", help="of the served model; none: the lexical engine alone")
    parser.add_argument("--model", default="fineloom-tiny-vl", help="the name under which it is served")
    parser.add_argument(
        "--max-pixels", type=int, default=28_224, help="picture budget of the served model; the default is that of demo/vlm"
    )
    parser.add_argument(
        "--phrases-per-request", type=int, default=1, help="asked together for boxes; the default is that of the demo's recipe"
    )
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument(
        "--wrong-positives", type=float, default=0.1, help="share of expressions made wrong where the verifier is measured"
    )
    parser.add_argument(
        "--answers", type=Path, help="folder that keeps the model's answers, so that a second call asks for nothing"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_args()


def audit_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality audit", description="Judge a published set's negatives by their words."
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--examples", type=int, default=4, help="shown per kind; -1: every synonym and every one that may hold")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(sys.argv[2:])


def main() -> None:
    torch.set_num_threads(1)
    report = Report()
    if sys.argv[1:2] == ["audit"]:
        given = audit_arguments()
        main_of(given, report)
    elif sys.argv[1:2] == ["translations"]:
        from benchmarks.quality.translations import run

        parser = argparse.ArgumentParser(
            prog="python -m benchmarks.quality translations", description=run.__doc__.split("\n", 1)[0]
        )
        run.arguments(parser)
        given = parser.parse_args(sys.argv[2:])
        run.run(report, given)
    else:
        given = arguments()
        from benchmarks.quality import negatives

        scenes = list(unseen(given.seed, given.scenes, given.sizes, given.backgrounds))
        things = sum(len(one.scene.things) for one in scenes)
        print(f"{len(scenes)} scenes with {things} things, seed {given.seed}; chance of a guess among eleven 9.1 %")
        negatives.run(report, scenes, given.languages, given.seed)
        if given.base_url:
            from benchmarks.quality import served

            asyncio.run(served.run(report, scenes, given))
        else:
            print("\nno --base-url: captions, boxes, the model's own negatives and the verifier are not measured")
    if given.json:
        given.json.write_text(json.dumps(report.sections, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
