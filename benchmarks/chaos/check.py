"""What a finished run says, so that two runs can be compared; and what must hold in every run, whatever happened to it."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

from pipelines.config import load_recipe
from pipelines.durable import files, folders, read_table
from pipelines.gc import collect
from pipelines.rejects import entries_in_force
from pipelines.run import look, reach
from pipelines.shard_format import validate_shard

KEPT = {"run.lock", "model.json", "index.parquet"}
"""Files right below a run that no entry names."""


def outcome(recipe: Path, root: Path) -> dict[str, Any]:
    """All that must not depend on what happened: by stage and shard the rows' hashes, counts and refusals; the packed tars."""
    chain = look(load_recipe(recipe), root)
    told: dict[str, Any] = {"pending": reach(chain, chain.shards()).pending(), "stages": {}, "shards": {}}
    for entry, _ in entries_in_force(chain):
        rows = read_table(chain.run / entry.files["data"].path)
        refused = read_table(chain.run / entry.files["rejects"].path).to_pylist()
        told["stages"][f"{entry.stage}/{entry.shard}"] = {
            "in": entry.rows_in,
            "out": entry.rows_out,
            "rows": [_hash(row) for row in rows.to_pylist()],
            "refused": sorted([row["uid"], row["reason"], row["item"] or ""] for row in refused),
            "fingerprint": entry.fingerprint,
        }
    for tar in files(chain.run / "shards"):
        if tar.suffix == ".tar":
            told["shards"][tar.name] = hashlib.sha256(tar.read_bytes()).hexdigest()
    index = read_table(chain.run / "index.parquet")
    told["index"] = _hash(sorted(index.to_pylist(), key=lambda row: row["uid"]))
    return told


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """In words; empty if there are none."""
    told = [f"shards {found['pending']} are pending"] if found["pending"] else []
    for part in ("stages", "shards"):
        for name in sorted({*wanted[part], *found[part]}):
            a, b = wanted[part].get(name), found[part].get(name)
            if a != b:
                what = [key for key in a if a[key] != b[key]] if isinstance(a, dict) and isinstance(b, dict) else ""
                told.append(f"{part} {name}: {what or f'{a} became {b}'}")
    if wanted["index"] != found["index"]:
        told.append("index.parquet tells of other samples")
    return told


def faults(recipe: Path, root: Path, scratch: Path) -> list[str]:
    """What is wrong in itself: lost samples, files that are not what the ledger says, invalid shards, leftovers after `gc`."""
    chain = look(load_recipe(recipe), root)
    wrong: list[str] = []
    named: set[str] = set()
    for entry in chain.ledger.entries():
        where = f"{entry.stage} shard {entry.shard}"
        if entry.rows_in != entry.rows_out + sum(entry.rejects.values()):
            wrong.append(f"{where}: {entry.rows_in} in, {entry.rows_out} out, {sum(entry.rejects.values())} refused")
        for file in entry.files.values():
            named.add(file.path)
            path = chain.run / file.path
            data = path.read_bytes() if path.is_file() else None
            if data is None:
                wrong.append(f"{where}: {file.path} is not there")
            elif hashlib.sha256(data).hexdigest() != file.sha256:
                wrong.append(f"{where}: {file.path} is not what was committed")
    seen: Counter[str] = Counter()
    for view, at in reach(chain, chain.shards()).values():
        if at is None:
            seen.update(read_table(chain.run / view.uid_file, columns=["uid"])["uid"].to_pylist())
    wrong += [f"sample {uid} stands in {count} shards" for uid, count in seen.items() if count > 1]
    for tar in files(chain.run / "shards"):
        if tar.suffix == ".tar":
            report = validate_shard(tar.name, stream=io.BytesIO(tar.read_bytes()))
            wrong += [f"{tar.name}: {error}" for error in report.errors]
    collect(chain.run, delete=True)
    wrong += [f"{path} is left after gc" for path in leftovers(chain.run, named)]
    wrong += [f"{path.name} is left in the scratch folder" for path in scratch.iterdir()]
    return wrong


def leftovers(run: Path, named: set[str]) -> list[str]:
    """Files that nothing refers to, found by looking at all of them, not by asking `gc`."""
    found = []
    for path in files(run, deep=True):
        name = str(path.relative_to(run))
        top = name.partition("/")[0]
        if top in ("ledger", "runs", "tables", "tombstones"):
            known = not path.name.startswith(".")
        elif top == "answers":
            known = path.suffix == ".jsonl" and not path.name.startswith(".")
        elif top == "shards":
            known = path.suffix == ".tar" or path.name in ("README.md", "croissant.json", ".copies.json")
        else:
            known = name in named or name in KEPT
        if not known:
            found.append(name)
    return found


def answers(run: Path) -> Counter[str]:
    """How often each request's answer is kept, over all segments: more than once where two attempts at a shard both asked."""
    kept: Counter[str] = Counter()
    for stage in folders(run / "answers"):
        for shard in folders(stage):
            for segment in files(shard):
                if segment.suffix == ".jsonl" and not segment.name.startswith("."):
                    for line in segment.read_bytes().splitlines():
                        kept[json.loads(line)["hash"]] += 1
    return kept


__all__ = ["answers", "differences", "faults", "leftovers", "outcome"]
