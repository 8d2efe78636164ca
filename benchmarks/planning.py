"""Planning, resuming and `status` of a large run: seconds and memory, on entries published by the engine's ledger and compacted.

python benchmarks/planning.py [--shards 200000] [--folder DIR] [--s3 moto|folder]

Makes a run of eight stages: tables are registered, every stage of every shard gets an entry with the fingerprint that the chain
gives it, through `Ledger.publish`, and they are compacted as they come. The last 1 % of the shards is published after the last
compaction (with --s3 no more than a run leaves uncompacted on a store), and another 1 % is not begun. Then, each in a process of its
own, `fineloom status`, `fineloom plan` and what a resumed run does before its first shard. No pictures and columns are made: hashes
and file names are as they would be, the files are not there.
Use a folder in memory (/dev/shm) for the full size, or the disk's fsync is what takes the time of making it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

ROWS = 8_000
NEW = 0.01
STEP = 20_000
KIT = Path(__file__).parents[1] / "tests" / "kit"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=200_000)
    parser.add_argument("--folder", help="where the run is made; by default a temporary folder")
    parser.add_argument(
        "--s3",
        choices=["moto", "folder"],
        help="also with the root on an S3 server on loopback: moto, which holds all in memory; or one that gives out "
        "the folder's files, does nothing else, and so costs next to nothing (tests/kit/s3_folder.py)",
    )
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "RECIPE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure[0], arguments.measure[1], arguments.folder)
        return
    from pipelines.compact import WORTH_STORE

    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        recipe = write_recipe(folder)
        make(folder, recipe, arguments.shards, WORTH_STORE if arguments.s3 else None)
        measure_all(recipe, str(folder / "runs"))
        if arguments.s3:
            sys.path.insert(0, str(KIT))
            from s3_server import BUCKET, address, s3_server

            print(f"the same, with the root on the S3 server ({arguments.s3}):", flush=True)
            if arguments.s3 == "moto":
                with s3_server():
                    upload(folder / "runs", f"s3://{BUCKET}/runs")
                    measure_all(recipe, f"s3://{BUCKET}/runs")
            else:
                with folder_server(folder) as url, address(url):
                    measure_all(recipe, f"s3://{BUCKET}/runs")


@contextmanager
def folder_server(folder: Path) -> Iterator[str]:
    """Its address; the bucket's name is any."""
    program = KIT / "s3_folder.py"
    with subprocess.Popen([sys.executable, str(program), str(folder)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


def measure_all(recipe: Path, root: str) -> None:
    for what in ("status", "plan", "resume"):
        subprocess.run(
            [sys.executable, __file__, "--measure", what, str(recipe), "--folder", root],
            check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )


def upload(folder: Path, root: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from pipelines.stores import place

    def one(path: Path) -> None:
        target = place(f"{root}/{path.relative_to(folder)}")
        target.store.upload(path, target.key)  # type: ignore[attr-defined]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(one, (path for path in folder.rglob("*") if path.is_file() and path.name != "run.lock")))


def write_recipe(folder: Path) -> Path:
    (folder / "table.jsonl").write_text(json.dumps({"u": "http://example.org/1.jpg", "t": "a cat"}) + "\n")
    source = {
        "format": "jsonl",
        "tables": str(folder / "table.jsonl"),
        "language": "en",
        "columns": {"url": "u", "captions": ["t"]},
    }
    (folder / "links.yaml").write_text(yaml.safe_dump(source))
    stages = {
        "download": {},
        "measure": {"operators": {"size": {}, "phash": {}, "sharpness": {}}},
        "words": {"operator": "text"},
        "dedup": {},
        "select": {"keep": "width >= 64"},
        "phrases": {"language": "en", "captions": ["captions"]},
        "pack": {},
    }
    body = {
        "recipe": "large",
        "sources": [str(folder / "links.yaml")],
        "shard_size": ROWS,
        "stages": stages,
        "disk_floor_gb": 0,
    }
    recipe = folder / "large.yaml"
    recipe.write_text(yaml.safe_dump(body, sort_keys=False))
    return recipe


def make(folder: Path, recipe_file: Path, shards: int, loose_at_most: int | None) -> None:
    """loose_at_most   entries that are not compacted"""
    from pipelines.compact import compact, remove_unnamed
    from pipelines.config import load_recipe
    from pipelines.ledger import Ledger
    from pipelines.reach import Reach
    from pipelines.run import Options, prepare, sources_of
    from pipelines.sources import index_table
    from pipelines.tables import Tables

    recipe = load_recipe(recipe_file)
    run = folder / "runs" / recipe.name
    table = folder / "table.jsonl"
    prepare_source = next(iter(sources_of(recipe).items()))
    digest = index_table(prepare_source[1], str(table), ROWS).digest
    slices = [{"first_row": i * ROWS, "rows": ROWS, "offset": 0, "end": 0, "check": ""} for i in range(shards)]
    Tables(run).register(prepare_source[0], table, digest, shards * ROWS, slices)
    chain = prepare(recipe, folder / "runs", Options())
    ledger = Ledger(run)
    before, after = _around_global(recipe)
    begun = shards - max(1, int(shards * NEW))
    # Entries of the stages before are compacted when the later stages' are.
    last_shards = int(shards * NEW) if loose_at_most is None else min(int(shards * NEW), loose_at_most // (1 + len(after)))
    compacted = begun - max(1, last_shards)
    began = time.monotonic()
    views = {}

    def publish(stages: list, first: int, last: int) -> None:
        for start in range(first, last, STEP):
            for shard in range(start, min(start + STEP, last)):
                views[shard] = _publish(chain, ledger, stages, shard, views.get(shard))
            if last == compacted:
                compact(ledger)
                print(
                    f"  {last - first:,} shards: {stages[-1].name} to {start + STEP:,} after {time.monotonic() - began:.0f} s",
                    flush=True,
                )

    for first, last in ((0, compacted), (compacted, begun)):
        publish(before, first, last)
    at = Reach(chain, range(begun))
    at.advance(before)
    middle = next(stage for stage in recipe.stages if stage.kind == "global")
    at.settle(middle)
    for first, last in ((0, compacted), (compacted, begun)):
        publish([middle, *after], first, last)
    entries = begun * len(recipe.stages)
    remove_unnamed(ledger)
    size = sum(path.stat().st_size for path in (run / "ledger" / "@compacted").iterdir())
    loose = (begun - compacted) * (1 + len(after))
    print(
        f"{entries:,} entries made in {time.monotonic() - began:.0f} s; compacted {size / 1e6:,.0f} MB, {loose:,} of them not compacted"
    )


def _around_global(recipe: object) -> tuple[list, list]:
    stages = recipe.stages  # type: ignore[attr-defined]
    at = next(i for i, stage in enumerate(stages) if stage.kind == "global")
    return stages[:at], stages[at + 1 :]


def _publish(chain: object, ledger: object, stages: list, shard: int, view: object) -> object:
    from pipelines.ledger import DataFile, Entry, shard_name
    from pipelines.view import View

    view = view or View(shard)
    for stage in stages:
        fingerprint = chain.fingerprint(stage, view)  # type: ignore[attr-defined]
        attempt = hashlib.sha256(f"{stage.name}{shard}".encode()).hexdigest()
        name = f"{shard_name(shard)}.{fingerprint[:12]}.{attempt[:12]}"
        files = {"data": f"{stage.name}/{name}.parquet", "rejects": f"rejects/{stage.name}/{name}.parquet"}
        files |= {"download": {"images": f"images/{name}.tar"}, "pack": {"shard": f"pack/{name}.tar"}}.get(stage.name, {})
        rows = view.rows or ROWS  # type: ignore[attr-defined]
        entry = Entry(
            stage=stage.name,
            fingerprint=fingerprint,
            shard=shard,
            attempt=attempt[:12],
            files={role: DataFile(path, 1_000_000, attempt) for role, path in files.items()},
            rows_in=rows,
            rows_out=rows - 100,
            rejects={"http_404": 60, "http_403": 40},
            parts={},
            uids=hashlib.sha256(f"{shard}{stage.name}uids".encode()).hexdigest()[:32],
            columns={c.name: hashlib.sha256(f"{shard}{c.name}{stage.name}".encode()).hexdigest()[:32] for c in stage.writes()},
            inputs=chain.inputs(stage, view),  # type: ignore[attr-defined]
            made_by=chain.made_by(stage),  # type: ignore[attr-defined]
            seconds=12.5,
        )
        view = view.after(ledger.publish(entry))  # type: ignore[attr-defined]
    return view


def measure(what: str, recipe_file: str, root: str) -> None:
    """What the commands do, imports and start included, in this process; over S3 with the requests that they make."""
    began = time.monotonic()
    from pipelines.config import load_recipe
    from pipelines.plan import make_plan
    from pipelines.run import Options, chosen_shards, look, prepare, reach
    from pipelines.stores import place

    recipe = load_recipe(recipe_file)
    asked: Counter[str] = Counter()
    if root.startswith("s3:"):
        events = place(root).store.client.meta.events  # type: ignore[attr-defined]
        events.register("before-send.s3", lambda request, **_: asked.update([request.method]))
    if what == "status":
        chain = look(recipe, place(root))
        counts = reach(chain, chain.shards()).counts()
        found = f"{counts['pack']['shards']:,} shards packed"
    else:
        chain = prepare(recipe, place(root), Options())
        shards = chosen_shards(chain, Options())
        if what == "plan":
            made = make_plan(chain, shards)
            found = f"{made.stages[0].shards_to_do:,} shards to do"
        else:
            at = reach(chain, shards)
            found = f"{len(at.pending()):,} shards pending"
    # Not `ru_maxrss`, which a process takes over from the one that started it.
    kib = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    requests = "".join(f"  {count:,} {method}" for method, count in sorted(asked.items()))
    print(f"{what:<7} {time.monotonic() - began:5.1f} s  {kib * 1024 / 1e9:.3f} GB  {found}{requests}", flush=True)


if __name__ == "__main__":
    main()
