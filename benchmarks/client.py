"""Output tokens per second through the project's client, as a share of what a bare load generator gets from the same server.

    python -m benchmarks.client --base-url http://127.0.0.1:8000/v1 --model NAME [--requests 128] [--rounds 5]

Both sides send the same questions about the same pictures, scaled and encoded alike, at 8 and 32 in flight, in alternation. The
bare side is aiohttp with bodies made beforehand: no hashing, no store, no encoding, no checks. The client's side does all its
work: scaling and encoding each picture, hashing, answer store on the disk, identity. Every round uses new pictures, so that neither
the answer store nor the server's caches answer instead of the model. Prints the ratio of each round, their median and spread.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import aiohttp
import numpy as np
from PIL import Image

from pipelines.answers import AnswerStore
from pipelines.model_client import ModelClient, ModelSettings, request_body
from pipelines.sent_picture import SentPicture
from prompts.load import load

PROMPT = "bench"
PROMPT_FILE = """
name: bench
version: 1
language: en
system: Describe the picture in one long paragraph.
user: Picture {{ number }}.
answer_schema: null
sampling: {temperature: 0, max_tokens: TOKENS, min_tokens: TOKENS, seed: 0}
"""


def pictures(count: int, side: int, seed: int) -> list[Image.Image]:
    """Smooth random colours, which compress as photographs do."""
    noise = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return [Image.fromarray(n).resize((side, side * 3 // 4), Image.Resampling.BICUBIC) for n in noise]


async def bare(bodies: list[dict], url: str, concurrency: int) -> int:
    slots, tokens = asyncio.Semaphore(concurrency), 0

    async def one(session: aiohttp.ClientSession, body: dict) -> None:
        nonlocal tokens
        async with slots, session.post(f"{url}/chat/completions", json=body) as response:
            response.raise_for_status()
            tokens += (await response.json())["usage"]["completion_tokens"]

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(one(session, body) for body in bodies))
    return tokens


async def ours(client: ModelClient, images: list[Image.Image], folder: Path, prompts: Path) -> int:
    before = client.counters()["output_tokens"]
    store = AnswerStore(folder, "bench")
    await asyncio.gather(
        *(client.ask_for(store, f"{i:064x}", prompts)(PROMPT, {"number": i}, image) for i, image in enumerate(images))
    )
    await asyncio.to_thread(store.close)
    return int(client.counters()["output_tokens"] - before)


async def one_round(side: str, client: ModelClient, args: argparse.Namespace, seed: int, scratch: Path) -> float:
    """Output tokens per second of one side over new pictures."""
    images = pictures(args.requests, args.side, seed)
    settings, question = client.settings, load(PROMPT, scratch)
    bodies = []
    if side == "bare":
        for i, image in enumerate(images):
            sent = SentPicture(image, None, settings.max_pixels, settings.min_pixels, settings.picture_format)
            bodies.append(request_body(args.model, question, *question.render({"number": i}), await sent.data_url()))
    begun = time.perf_counter()
    if side == "bare":
        tokens = await bare(bodies, args.base_url, settings.concurrency)
    else:
        tokens = await ours(client, images, scratch / str(seed), scratch)
    if tokens != args.requests * args.tokens:
        raise SystemExit(f"{side}: {tokens} output tokens, expected {args.requests * args.tokens}")
    return tokens / (time.perf_counter() - begun)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", required=True)
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64, help="output tokens of every answer")
    parser.add_argument("--side", type=int, default=336, help="pixels of a picture's longer side")
    parser.add_argument(
        "--cores", default="", help="cores for this process, such as 1 or 0,1; pin the server to others by taskset"
    )
    args = parser.parse_args()
    if args.cores:
        os.sched_setaffinity(0, {int(core) for core in args.cores.split(",")})
    scratch = Path(tempfile.mkdtemp(prefix="bench-client-"))
    (scratch / f"{PROMPT}.yaml").write_text(PROMPT_FILE.replace("TOKENS", str(args.tokens)))
    seed = random.randrange(2**31)
    for concurrency in (8, 32):
        client = ModelClient(ModelSettings(base_url=args.base_url, name=args.model, concurrency=concurrency))
        await client.identity()
        ratios = []
        for number in range(args.rounds + 1):  # the first warms both sides up and is not counted
            rates = {}
            for side in ("bare", "ours") if number % 2 else ("ours", "bare"):
                seed += 1
                rates[side] = await one_round(side, client, args, seed, scratch)
            if number:
                ratios.append(rates["ours"] / rates["bare"])
                print(
                    f"{concurrency:3d} in flight  bare {rates['bare']:8.1f} tok/s  ours {rates['ours']:8.1f} tok/s  {ratios[-1]:.3f}"
                )
        print(
            json.dumps(
                {
                    "in_flight": concurrency,
                    "median_ratio": round(statistics.median(ratios), 3),
                    "spread": [round(min(ratios), 3), round(max(ratios), 3)],
                    "rounds": args.rounds,
                    "requests": args.requests,
                    "output_tokens_each": args.tokens,
                }
            )
        )
        await client.close()
    shutil.rmtree(scratch)


if __name__ == "__main__":
    asyncio.run(main())
