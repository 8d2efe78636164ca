"""Does the demo's training learn from what the pipeline made? Against untrained, sources alone, shuffled captions, shuffled negatives.

    python benchmarks/learning.py [--seeds 3] [--jobs 2] [--shards 'runs/demo/shards/*.tar'] [--eval 'runs/demo-data/eval/*.tar']

Needs the shards of `make demo`. Evaluation scenes come from other renderer seeds. Every arm is trained once per seed with the
demo's preset; intervals are 95 % (Student's t over seeds), differences are paired by seed.

    untrained            random weights
    stage 1              the shards as they are
    stage 1, shuffled    captions dealt out anew among the pictures
    sources alone        without any text, region or negative that the pipeline made: stage 1 for as many pictures as both stages see
    stage 2              from "stage 1" of the same seed
    stage 2, shuffled    from the same; negatives dealt out anew among the regions of a language
"""

from __future__ import annotations

import argparse
import glob
import io
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""97.5 % quantiles of Student's t by degrees of freedom."""
SOURCES_STEPS = 550
"""Of 64 pictures: 400 of stage 1's 64 and 300 of stage 2's 32, as the tiny preset has them."""
METRICS = {
    "R@1 EN": lambda result: mean_retrieval(result, "en", ""),
    "R@1 ZH": lambda result: mean_retrieval(result, "zh", ""),
    "R@10 EN": lambda result: mean_retrieval(result, "en", "_at_10"),
    "R@10 ZH": lambda result: mean_retrieval(result, "zh", "_at_10"),
    "boxes EN": lambda result: result["boxes"]["en"]["top1"],
    "negatives EN": lambda result: result["hard_negatives"]["en"]["accuracy"],
    "negatives ZH": lambda result: result["hard_negatives"]["zh"]["accuracy"],
}
UNTRAINED = ("steps=1", "optimizer.lr=1e-12", "optimizer.warmup=0")
"""A run whose weights stay what they were drawn as."""
COMPARED = [
    ("stage 1", "untrained"),
    ("stage 1", "stage 1, shuffled"),
    ("stage 2", "stage 1"),
    ("stage 2", "stage 2, shuffled"),
    ("stage 2", "sources alone"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--shards", default="runs/demo/shards/*.tar")
    parser.add_argument("--eval", default="runs/demo-data/eval/*.tar")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--set", nargs="*", default=[], help="settings for every training, as steps=50")
    arguments = parser.parse_args()
    rewrite(arguments.shards, arguments.out / "captions", deal_captions)
    rewrite(arguments.shards, arguments.out / "negatives", deal_negatives)
    rewrite(arguments.shards, arguments.out / "sources", only_sources)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(lambda seed: train_all(seed, arguments), range(arguments.seeds)))
    report(results)


def train_all(seed: int, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """arm → metric → value for one seed."""
    out = arguments.out / f"seed-{seed}"
    one = f"{out}/stage1/checkpoints/last"
    shuffled_captions, shuffled_negatives = f"{arguments.out}/captions/*.tar", f"{arguments.out}/negatives/*.tar"
    arms = {
        "untrained": ["stage=1", f"data.shards={arguments.shards}", *UNTRAINED],
        "stage 1": ["stage=1", f"data.shards={arguments.shards}"],
        "stage 1, shuffled": ["stage=1", f"data.shards={shuffled_captions}"],
        "sources alone": ["stage=1", f"data.shards={arguments.out}/sources/*.tar", f"steps={SOURCES_STEPS}"],
        "stage 2": ["stage=2", f"data.shards={arguments.shards}", f"model.start={one}"],
        "stage 2, shuffled": ["stage=2", f"data.shards={shuffled_negatives}", f"model.start={one}"],
    }
    found = {}
    for arm, settings in arms.items():
        folder = out / arm.replace(", ", "-").replace(" ", "")
        extra = [] if arm == "untrained" else arguments.set
        trainer("train", "--preset", "tiny", *settings, f"out={folder}", f"seed={seed}", "threads=1", *extra)
        scores = folder / "eval.json"
        trainer("eval", "--checkpoint", str(folder), "--shards", arguments.eval, "--json", str(scores))
        result = json.loads(scores.read_text())
        found[arm] = {name: metric(result) for name, metric in METRICS.items()}
        print(f"seed {seed}  {arm:<18} " + "  ".join(f"{name} {value:.1%}" for name, value in found[arm].items()), flush=True)
    return found


def trainer(*words: str, log: Path | None = None) -> None:
    """Run a command of the trainer on one thread. log: a file that what it says is added to; by default nothing is kept of it."""
    command, environment = [sys.executable, "-m", "fgclip2_train", *words], {**os.environ, "OMP_NUM_THREADS": "1"}
    if log is None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        return
    with log.open("a") as file:
        subprocess.run(command, check=True, stdout=file, stderr=subprocess.STDOUT, env=environment)


def mean_retrieval(result: dict[str, Any], language: str, at: str) -> float:
    """Mean over both directions, short and long captions."""
    scores = result["retrieval"][language].values()
    return statistics.mean(score[f"{way}{at}"] for score in scores for way in ("image_to_text", "text_to_image"))


def report(results: list[dict[str, dict[str, float]]]) -> None:
    print(f"\n{len(results)} seeds, mean and 95 % interval")
    print(f"{'arm':<36}" + "".join(f"{name:>18}" for name in METRICS))
    for arm in results[0]:
        print(f"{arm:<36}" + "".join(f"{interval([r[arm][name] for r in results]):>18}" for name in METRICS))
    for better, worse in COMPARED:
        differences = {name: [r[better][name] - r[worse][name] for r in results] for name in METRICS}
        print(f"{better + ' − ' + worse:<36}" + "".join(f"{interval(values, sign='+'):>18}" for values in differences.values()))


def interval(values: list[float], sign: str = "") -> str:
    half = STUDENT[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{100 * statistics.mean(values):{sign}.1f} ± {100 * half:.1f}"


Records = list[dict[str, Any]]


def rewrite(pattern: str, folder: Path, change: Callable[[Records, random.Random], None]) -> None:
    """Copy shards into `folder` with something changed over all their records; a sample that is left without texts stays away."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = {path: read(path) for path in sorted(glob.glob(pattern))}
    if not shards:
        sys.exit(f"{pattern}: no shards; run `make demo` first")
    change([record for members in shards.values() for _, record in members if isinstance(record, dict)], random.Random(0))
    for path, members in shards.items():
        bare = {name.partition(".")[0] for name, record in members if isinstance(record, dict) and not record["texts"]}
        with tarfile.open(folder / Path(path).name, "w") as tar:
            for name, content in members:
                if name.partition(".")[0] in bare:
                    continue
                data = json.dumps(content, ensure_ascii=False).encode() if isinstance(content, dict) else content
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def read(path: str) -> list[tuple[str, Any]]:
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    return [(name, json.loads(data) if name.endswith(".json") else data) for name, data in members]


def deal_captions(records: Records, chance: random.Random) -> None:
    texts = [record["texts"] for record in records]
    chance.shuffle(texts)
    for record, dealt in zip(records, texts, strict=True):
        record["texts"] = dealt


def deal_negatives(records: Records, chance: random.Random) -> None:
    for language in ("en", "zh"):
        regions = [r for record in records for r in record["regions"] if r["language"] == language and r["negatives"]]
        negatives = [region["negatives"] for region in regions]
        chance.shuffle(negatives)
        for region, dealt in zip(regions, negatives, strict=True):
            region["negatives"] = dealt


def only_sources(records: Records, _: random.Random) -> None:
    for record in records:
        record["texts"] = [text for text in record["texts"] if text["origin"] == "source"]
        record["regions"] = []


if __name__ == "__main__":
    main()
