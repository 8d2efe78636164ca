"""How many samples the shards of a run hold: read from their records once, and kept beside the run's checkpoints.

<out>/samples.json   {shard: {"version": of the file that was counted, "languages": {"en": 1000, …}, "bad": {reason: 3, …}}}
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch.distributed as dist

from fgclip2_train.data.loader import DataSettings
from fgclip2_train.data.shards import UNSOUND, read_shard, sound, unreadable, versions
from fgclip2_train.evaluation.pictures import from_rank_0
from fgclip2_train.files import publish
from fgclip2_train.ring import rank, world

FILE = "samples.json"


def count_samples(data: DataSettings, out: Path | None = None) -> int:
    """Samples with a text in a wanted language, each once for every language that it is trained in. All ranks call it together.

    Each rank counts its share: one alone would take longer over millions of records than the others would wait. With `out`, a shard
    that was counted there before and has not changed is not read again. Raises ValueError where there is none.
    """
    known: dict[str, Any] = from_rank_0(_read(out) if rank() == 0 else {})
    found = data.found()
    shards = sorted({shard for several, _ in found.values() for shard in several})
    mine = versions(shards[rank() :: world()])
    counted = {shard: _counted(shard, version, known.get(shard)) for shard, version in mine.items()}
    if world() > 1:
        parts: list[Any] = [None] * world()
        dist.all_gather_object(parts, counted)
        counted = {shard: one for part in parts for shard, one in part.items()}
    if out and rank() == 0 and counted != known:
        _write(out, counted)
    samples = sum(
        counted[shard]["languages"].get(language, 0)
        for source, (several, _) in found.items()
        for language in data.spoken(source)
        for shard in several
    )
    if not samples:
        wanted = sorted({language for source in found for language in data.spoken(source)})
        bad = sum((Counter(one["bad"]) for one in counted.values()), Counter[str]())
        raise ValueError(f"no sample with a text in {' or '.join(wanted)} in {len(shards)} shards" + _because(bad))
    return samples


def look(data: DataSettings) -> None:
    """Raise ValueError for a source of which nothing can be read. Reads no further than its first sample."""
    for name, (shards, _) in data.found().items():
        bad: Counter[str] = Counter()

        def good(place: int, record: dict, bad: Counter[str] = bad) -> bool:
            bad[UNSOUND] += not sound(record)
            return sound(record)

        if not any(True for shard in shards for _ in read_shard(shard, bad, good, holes=True)):
            raise ValueError(f"{name}: no readable sample in {len(shards)} shards" + _because(bad))


def _because(bad: Counter[str]) -> str:
    why = ", ".join(f"{reason.removeprefix('bad: ')} {count}" for reason, count in bad.most_common(3))
    return f": {why}" if why else ""


def _counted(shard: str, version: str | None, before: dict[str, Any] | None) -> dict[str, Any]:
    if before and version and before["version"] == version:
        return before
    languages: Counter[str] = Counter()
    bad: Counter[str] = Counter()

    def note(place: int, record: dict) -> bool:
        if sound(record):
            languages.update({text["language"] for text in record["texts"]})
        else:
            bad[UNSOUND] += 1
        return False

    for _ in read_shard(shard, bad, note, holes=True):
        pass
    if unreadable(shard, bad):  # for now: counted again another time
        version = None
    return {"version": version, "languages": dict(languages), "bad": dict(bad)}


def _read(out: Path | None) -> dict[str, Any]:
    try:
        known = json.loads((out / FILE).read_text()) if out else {}
        return {shard: one for shard, one in known.items() if {"version", "languages", "bad"} <= one.keys()}
    except (OSError, ValueError, AttributeError):  # none yet, or no such file as is written here
        return {}


def _write(out: Path, counted: dict[str, Any]) -> None:
    publish(out / FILE, json.dumps(counted, indent=1).encode())
