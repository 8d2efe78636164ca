"""`make demo`: from raw tables to a trained and evaluated checkpoint and a report, on this machine alone.

    python -m demo.way

Every step finds what it made before: a second call says so in seconds, and after an interruption it goes on where it was.
Servers are started only when something is left to ask of them, and stopped when the shards are whole.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo import prepare, server
from pipelines.chain import Chain
from pipelines.config import ConfigError, load_recipe
from pipelines.fingerprint import digest
from pipelines.progress import Progress
from pipelines.run import Options, execute, look, reach

ROOT = Path("runs")
DATA = ROOT / "demo-data"
TRAIN = ROOT / "demo-train"
VLM = Path(__file__).parent / "vlm"
PRESET = "tiny"


def main() -> None:
    began = time.monotonic()
    recipe = load_recipe("demo")
    with step("data"):
        prepare.prepare(DATA)
    if whole(recipe.name) is None:
        with step("servers"):
            server.ensure(DATA)
            serve(recipe.model.name, int(recipe.model.base_url.rsplit(":", 1)[1].split("/")[0]))
        with step("shards"):
            result = execute(recipe, ROOT, Options(), Progress())
        if not result.ok:
            for failure in result.failures:
                print(f"failed: shard {failure.shard}, stage {failure.stage}: {failure.error}\n{failure.trace}")
            sys.exit(f"the shards are not whole: {result.stopped or 'see above'}. Mend the cause and run `make demo` again")
        stop_serving()
        server.stop(DATA)
    chain = whole(recipe.name)
    assert chain is not None
    shards = f"{chain.run}/shards/*.tar"
    forget_other_shards(chain)
    evaluation = TRAIN / "eval.json"
    if not evaluation.exists():  # written last: with it, both stages are done
        with step("stage 1: global alignment"):
            trainer("train", "--preset", PRESET, "stage=1", f"out={TRAIN}/stage1", f"data.shards={shards}")
        with step("stage 2: regions and hard negatives"):
            start = f"model.start={TRAIN}/stage1/checkpoints/last"
            trainer("train", "--preset", PRESET, "stage=2", f"out={TRAIN}/stage2", f"data.shards={shards}", start)
        with step("evaluation on scenes nobody has seen"):
            trainer("eval", "--checkpoint", f"{TRAIN}/stage2", "--shards", f"{DATA}/eval/*.tar", "--json", str(evaluation))
    report = chain.run / "report.html"
    if not report.exists() or report.stat().st_mtime < evaluation.stat().st_mtime:
        from pipelines.report import write_report

        with step("report"):
            write_report(chain, [TRAIN / "stage1", TRAIN / "stage2"], [evaluation])
    print(f"done in {time.monotonic() - began:.0f} s")
    print(f"  shards      {chain.run}/shards")
    print(f"  checkpoint  {TRAIN}/stage2/checkpoints/last")
    print(f"  report      {report}")


@contextmanager
def step(name: str) -> Iterator[None]:
    began = time.monotonic()
    print(f"== {name}", flush=True)
    yield
    print(f"   {name}: {time.monotonic() - began:.0f} s", flush=True)


def whole(recipe: str) -> Chain | None:
    """The demo's chain if every shard has gone all the way, read from the ledger without a server."""
    try:
        chain = look(load_recipe(recipe), ROOT)
    except ConfigError:
        return None
    if chain.identity is None or not chain.shards() or not (chain.run / "shards").is_dir():
        return None
    return chain if all(stage is None for _, stage in reach(chain, chain.shards()).values()) else None


def serve(name: str, port: int) -> None:
    from pipelines.serve import ServeSettings, start

    device = "cuda" if shutil.which("nvidia-smi") else "cpu"
    start(ServeSettings(model=str(VLM), name=name, port=port, folder=DATA / "serve", device=device))


def stop_serving() -> None:
    from pipelines.serve import ServeSettings, stop

    stop(ServeSettings(model="", name="", folder=DATA / "serve"))


def forget_other_shards(chain: Chain) -> None:
    """Training goes on only over the shards it began with: made of others, it begins anew."""
    at = reach(chain, chain.shards())
    now = digest({str(shard): view.entries for shard, (view, _) in at.items()})
    note = TRAIN / "shards.txt"
    if note.exists() and note.read_text() != now:
        shutil.rmtree(TRAIN)
    TRAIN.mkdir(parents=True, exist_ok=True)
    note.write_text(now)


def trainer(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "fgclip2_train", *arguments], check=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nstopped; `make demo` goes on from here")
    except subprocess.CalledProcessError as error:
        sys.exit(f"the trainer ended with status {error.returncode}; `make demo` goes on from its newest checkpoint")
