"""The report of a run: one self-contained page, `<run>/report.html`, to look at what was made, and of what.

Counts, refusals, costs and the check of conservation come from the whole ledger. What needs the samples themselves (origins of
texts, distributions, the contact sheet) is taken from a sample drawn by seed, whose size the page names: a report of ten thousand
shards reads a few hundred of them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipelines import run_records
from pipelines.chain import Chain
from pipelines.durable import replace
from pipelines.report import page, samples
from pipelines.report.figures import ORIGINS, gather
from pipelines.report.training import evaluations, training
from pipelines.report.way import Way, walk

LAST_RUNS = 8


def write_report(chain: Chain, train_dirs: Sequence[Path] = (), evals: Sequence[Path] = ()) -> Path:
    """Write `<run>/report.html` and return its path.

    chain        of a run as it was left (pipelines.run.look)
    train_dirs   folders of trainings, each with a metrics.jsonl
    evals        evaluation files, JSON
    """
    way = walk(chain)
    chosen = samples.choose(way)
    figures = gather(record for record, _ in samples.read(chain, way, chosen))
    cards = list(_cards(chain, way, chosen))
    html = page.render(
        recipe=chain.recipe,
        way=way,
        packs=any(stage.kind == "pack" for stage in chain.recipe.stages),
        figures=figures,
        origins=ORIGINS,
        cards=cards,
        made_by=_made_by(chain),
        identity=chain.identity,
        runs=list(itertools.islice(run_records.newest(chain.run), LAST_RUNS)),
        training=training(train_dirs),
        evaluation=evaluations(evals),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    target = chain.run / "report.html"
    replace(target, html.encode("utf-8", "replace"))
    return target


def _made_by(chain: Chain) -> list[dict[str, Any]]:
    """Stage by stage: operators with versions and settings, prompts with versions."""
    made = []
    for stage in chain.recipe.stages:
        if stage.kind == "source":
            continue
        record = chain.made_by(stage)
        operators = [
            {
                "name": name,
                "version": operator["version"],
                "settings": {key: json.dumps(value, ensure_ascii=False) for key, value in operator["settings"].items()},
            }
            for name, operator in record["operators"].items()
        ]
        prompts = [f"{name}@{prompt['version']}" for name, prompt in (record.get("prompts") or {}).items()]
        made.append({"stage": stage.name, "kind": stage.kind, "operators": operators, "prompts": prompts})
    return made


def _cards(chain: Chain, way: Way, chosen: samples.Chosen) -> Iterator[dict[str, Any]]:
    """Samples of the contact sheet, ready to draw; a picture that cannot be decoded leaves its place empty and says why."""
    for record, data in samples.read(chain, way, samples.sheet(chosen), pictures=True):
        thumb, why = None, "no download stage has fetched its picture"
        if data is not None:
            try:
                url, width, height = samples.thumbnail(data)
                # Only base64 of our own making is in the address.
                thumb = {"url": Markup(url), "width": width, "height": height}
            except ValueError as error:
                why = str(error)
        yield {"record": record, "thumb": thumb, "why": why}


__all__ = ["write_report"]
