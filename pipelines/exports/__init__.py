"""Packed shards in the layouts that existing readers expect. Streaming, one shard at a time; goes on after a kill; never overwrites."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pipelines.config import ConfigError, nearest
from pipelines.counted import counted
from pipelines.exports.base import About, ExportSettings, Layout, Shard
from pipelines.exports.boxclass_cn import BoxClassCn
from pipelines.exports.card import hub_licence, write_card
from pipelines.exports.croissant import Croissant, write_croissant
from pipelines.exports.finehard import FineHard, Url2Key
from pipelines.exports.grit import Grit
from pipelines.exports.huggingface import HuggingFace
from pipelines.exports.lit_cn import DciCn, LitCn
from pipelines.exports.samples import read_samples
from pipelines.exports.tally import Tally, total
from pipelines.folder_job import FolderJob

__all__ = ["LAYOUTS", "About", "ExportSettings", "Tally", "export", "layout_named"]

LAYOUTS: dict[str, type[Layout]] = {
    layout.name: layout for layout in (LitCn, DciCn, FineHard, Url2Key, BoxClassCn, Grit, HuggingFace, Croissant)
}
VERSION = 5
"""Raised when a layout's files change: a begun export of another version is not gone on with."""


def layout_named(name: str) -> type[Layout]:
    """ConfigError with the nearest one for a name that there is none of."""
    if name not in LAYOUTS:
        raise ConfigError(f"no layout {name!r}.{nearest(name, list(LAYOUTS))}")
    return LAYOUTS[name]


def export(
    shards: list[Path],
    layout_name: str,
    out: Path,
    settings: ExportSettings,
    about: About,
    say: Callable[[str], None] = lambda _: None,
) -> Tally:
    """Write `shards` to the new folder `out`; returns what is in it.

    A killed export goes on where it stopped when it is called again with the same shards and settings. `out` appears at the end,
    in one step. Memory: one sample (huggingface, croissant: 64) and, while joining, what the layout's docstring says.
    """
    layout = layout_named(layout_name)(settings)
    if settings.language not in layout.languages:
        raise ConfigError(f"layout {layout_name} knows no language {settings.language}, only {' and '.join(layout.languages)}")
    if not shards:
        raise ConfigError("there are no shards to export")
    known = [Shard(path, index) for index, path in enumerate(shards)]
    described = {
        "export": VERSION,
        "layout": layout_name,
        "settings": settings.model_dump(),
        "shards": [s.path.name for s in known],
    }
    with FolderJob(out, described) as job:
        records, tallies = [], []
        for shard in known:
            stat = shard.path.stat()
            identity = [shard.path.name, stat.st_size, stat.st_mtime_ns]
            record = job.done(shard.name, identity)
            if record is None:
                tally = Tally()
                made = layout.part(shard, read_samples(shard.path), job.folder, job.parts, tally)
                record = {"made": made, "tally": tally.plain()}
                job.commit(shard.name, identity, record)
                say(f"{shard.path.name} · {counted(tally.samples, 'sample')}")
            records.append(record["made"])
            tallies.append(record["tally"])
        whole = total(tallies)
        layout.finish(known, records, job.folder, job.parts, whole)
        if isinstance(layout, HuggingFace):
            write_croissant(job.folder, about, whole, f"{datetime.now(UTC):%Y-%m-%d}", hub_licence(whole))
        write_card(job.folder, layout, about, whole)
        if not whole.samples:
            why = "; ".join(f"{note} ({n})" for note, n in whole.counts["notes"].items())
            raise ConfigError(f"none of the samples fits the layout {layout_name}: {why or 'the shards are empty'}")
        job.publish()
    return whole
