"""Two ways of asking, over the same samples, side by side: A is the recipe's stage, B the same with another prompt, setting or model.

What either asks goes into the stage's own answer store: an answer that is there is not asked for again, and the run that later takes
B up finds what the comparison asked. Nothing is committed.
"""

from __future__ import annotations

import asyncio
import base64
import difflib
import heapq
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from operators.base import Answer, ModelOperator, Reject
from operators.pictures import LazyPicture, decode
from operators.sample import rank
from pipelines.answers import AnswerStore
from pipelines.chain import Chain
from pipelines.config import ConfigError, Recipe, Stage
from pipelines.counted import counted
from pipelines.durable import create_if_absent, read_table
from pipelines.fingerprint import digest
from pipelines.ledger import shard_name
from pipelines.model_client import ModelClient, ModelSettings
from pipelines.report.page import clean
from pipelines.run import reach
from pipelines.view import View, read_columns
from pipelines.viewer.language import speaker
from pipelines.worker import PictureReader
from prompts.load import Prompt
from prompts.load import load as load_prompt

SIDE = 240
WAVES = 5
"""Draws of samples, each four times as large, until enough are found that the stage asks about: 341 times the number wanted."""
TOKEN = re.compile(r"\s+|[A-Za-z0-9]+|.", re.S)


@dataclass
class Side:
    """One of the two. `prompts` is the folder of its prompts, None: the project's."""

    label: str
    operator: ModelOperator
    prompts: Path | None
    model: ModelSettings
    client: ModelClient | None = None
    made: dict[str, tuple[dict[str, Any] | None, list[Reject]]] = field(default_factory=dict)
    usage: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("requests", "answers_found", "prompt_tokens", "output_tokens"), 0)
    )


def compare(
    chain: Chain, other: Recipe, stage_name: str, count: int, out: Path, prompts_b: Path | None = None, seed: int = 0
) -> dict[str, Any]:
    """Write the page; returns its figures. `other` is the recipe with B's settings; `prompts_b` the folder of B's prompts."""
    stage, changed = chain.recipe.stage(stage_name), other.stage(stage_name)
    if stage.kind != "model":
        raise ConfigError(f"stage {stage_name} asks no model: there are no two prompts to compare")
    if out.exists():
        raise ConfigError(f"{out} is there already and is not overwritten; choose another name")
    a = Side("A", stage.operator, chain.prompts, chain.recipe.model)
    b = Side("B", changed.operator, prompts_b or chain.prompts, other.model)
    if a.operator == b.operator and a.prompts == b.prompts and a.model == b.model:
        raise ConfigError(
            "A and B are the same: give B another prompt or setting (--b prompt=NAME), another model (--b model.name=NAME) "
            "or a folder of prompts (--prompts-b)"
        )
    for side in (a, b):
        side.operator.setup()
    chosen = _choose(chain, stage, changed, (a, b), count, seed)
    rows: list[dict[str, Any]] = []
    counters = asyncio.run(_ask_all(chain, stage, chosen, (a, b), rows))
    page, figures = _page(chain, stage, (a, b), rows)
    if not create_if_absent(out.absolute(), page.encode("utf-8", "replace")):
        raise ConfigError(f"{out} is there already and is not overwritten; choose another name")
    return figures | {"asked": int(counters["requests"]), "found": int(counters["from_store"])}


def _choose(
    chain: Chain, stage: Stage, changed: Stage, sides: tuple[Side, Side], count: int, seed: int
) -> dict[int, tuple[View, list[dict[str, Any]]]]:
    """The `count` samples of lowest rank that reach the stage and that one side or the other has a question about: shard → its view
    before the stage, and its samples. Stages that ask about some samples only would otherwise fill the page with empty rows."""
    views = _views_before(chain, stage)

    def candidates() -> Iterator[tuple[int, str, int]]:
        for shard, view in views.items():
            for uid in read_table(chain.run / view.uid_file, columns=["uid"])["uid"].to_pylist():
                yield rank(uid, seed), uid, shard

    fields = pa.schema(list({column.name: column for column in [*changed.reads(), *stage.reads()]}.values()))
    optional = stage.optional() | changed.optional()
    chosen: dict[int, tuple[View, list[dict[str, Any]]]] = {}
    last, lacking, looked_at, wave = (-1, "", 0), count, 0, 0
    while lacking and wave < WAVES:
        drawn = heapq.nsmallest(count * 4**wave, (candidate for candidate in candidates() if candidate > last))
        if not drawn:
            break
        last, looked_at, wave = drawn[-1], looked_at + len(drawn), wave + 1
        asked: dict[str, dict[str, Any]] = {}
        for shard in dict.fromkeys(shard for *_, shard in drawn):
            table = read_columns(chain.run, views[shard], fields, optional)
            mine = pa.array([uid for _, uid, of in drawn if of == shard])
            samples = table.filter(pc.is_in(table["uid"], value_set=mine)).to_pylist()
            asked |= asyncio.run(_asked_about(samples, sides))
        taken = [(uid, shard) for _, uid, shard in drawn if uid in asked][:lacking]
        lacking -= len(taken)
        for uid, shard in taken:
            chosen.setdefault(shard, (views[shard], []))[1].append(asked[uid])
    if not looked_at:
        raise ConfigError(f"{chain.run}: no sample has come as far as stage {stage.name}; run the stages before it first")
    if not chosen:
        raise ConfigError(
            f"stage {stage.name} asks the model nothing about any of {counted(looked_at, 'sample')} that reached it"
        )
    return chosen


def _views_before(chain: Chain, stage: Stage) -> dict[int, View]:
    """What each shard that has come as far as the stage holds before it."""
    views: dict[int, View] = {}
    for shard, (view, next_stage) in reach(chain, chain.shards()).items():
        before = View(shard)
        for name, fingerprint in view.entries.items():
            if name == stage.name:
                break
            entry = chain.ledger.get(name, fingerprint, shard)
            assert entry is not None
            before = before.after(entry)
        else:
            if next_stage is None or next_stage.name != stage.name:
                continue
        views[shard] = before
    return views


class _Asks(Exception):
    """Raised in the place of an answer or of pixels, which an operator wants only to ask."""


class _Question:
    """An `ask` that only notes that it was called."""

    put = False

    async def __call__(
        self,
        prompt: str,
        variables: dict[str, Any],
        image: Image.Image | None = None,
        region: tuple[int, int, int, int] | None = None,
    ) -> Answer:
        self.put = True
        raise _Asks

    def sent_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return size

    def pixels(self) -> Image.Image:
        self.put = True
        raise _Asks


async def _asked_about(samples: list[dict[str, Any]], sides: tuple[Side, Side]) -> dict[str, dict[str, Any]]:
    """Those of the samples, by uid, about which one side or the other would ask."""
    asked = {}
    for sample in samples:
        question = _Question()
        for side in sides:
            picture = LazyPicture((sample["width"], sample["height"]), question.pixels) if side.operator.needs_image else None
            try:
                await side.operator(sample, picture, question)
            except* _Asks:  # an operator may ask for several texts at once
                pass
        if question.put:
            asked[sample["uid"]] = sample
    return asked


async def _ask_all(
    chain: Chain,
    stage: Stage,
    chosen: dict[int, tuple[View, list[dict[str, Any]]]],
    sides: tuple[Side, Side],
    rows: list[dict[str, Any]],
) -> dict[str, float]:
    first = ModelClient(chain.recipe.model, chain.identity)
    # Another model is known by what is served now; its answers have keys of their own in the same store.
    clients = [first] if sides[0].model == sides[1].model else [first, ModelClient(sides[1].model)]
    for side, client in zip(sides, (clients[0], clients[-1]), strict=True):
        side.client = client
    try:
        for shard, (view, samples) in chosen.items():
            store = AnswerStore(chain.run / "answers" / stage.name / shard_name(shard), f"compare{uuid4().hex[:8]}")
            assert view.images is not None
            with PictureReader(chain.run / view.images) as read:
                try:
                    async with asyncio.TaskGroup() as group:
                        for sample in samples:
                            group.create_task(_ask_one(store, sample, read, sides))
                finally:
                    await asyncio.to_thread(store.close)
                rows += [_row(sample, stage, read) for sample in samples]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    finally:
        for client in clients:
            await client.close()
    counted = [client.counters() for client in clients]
    return {name: sum(counters[name] for counters in counted) for name in ("requests", "from_store")}


async def _ask_one(store: AnswerStore, sample: dict[str, Any], read: PictureReader, sides: tuple[Side, Side]) -> None:
    for side in sides:
        assert side.client is not None
        picture = (
            LazyPicture((sample["width"], sample["height"]), partial(_open, sample, read))
            if side.operator.needs_image
            else None
        )
        ask = side.client.ask_for(store, sample["sha256"], side.prompts, side.usage)
        side.made[sample["uid"]] = await side.operator(sample, picture, ask)


def _open(sample: dict[str, Any], read: PictureReader) -> Image.Image:
    return decode(read(sample))


def _row(sample: dict[str, Any], stage: Stage, read: PictureReader) -> dict[str, Any]:
    picture = decode(read(sample))
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    data = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    given = [(name, _text(sample.get(name))) for name in stage.operator.reads.names if sample.get(name)]
    return {"uid": sample["uid"], "picture": Markup(data), "given": given}


# The page.


def _page(chain: Chain, stage: Stage, sides: tuple[Side, Side], rows: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    same = 0
    for row in rows:
        made = [side.made[row["uid"]] for side in sides]
        names = list(dict.fromkeys(name for columns, _ in made for name in (columns or {})))
        texts = [{name: _text((columns or {}).get(name)) for name in names} for columns, _ in made]
        row["same"] = texts[0] == texts[1]
        same += row["same"]
        differences = {name: difference(texts[0][name], texts[1][name]) for name in names}
        row["sides"] = [
            {
                "label": side.label,
                "columns": [(name, differences[name][i]) for name in names],
                "refused": [f"{reject.item or 'sample'}: {reject.reason} {reject.detail}".strip() for reject in made[i][1]],
            }
            for i, side in enumerate(sides)
        ]
    figures = [_figures(side) for side in sides]
    labels = list(dict.fromkeys(label for figure in figures for label in figure))
    summary = [(label, *(figure.get(label, "0") for figure in figures)) for label in labels]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    page = environment.get_template("compare.html.j2").render(
        _=_both,
        chinese=os.environ.get("LC_ALL", os.environ.get("LANG", "")).startswith("zh"),
        stage=stage.name,
        recipe=chain.recipe.name,
        summary=summary,
        same=same,
        rows=rows,
    )
    return page, {"samples": len(rows), "same": same, "a": figures[0], "b": figures[1]}


def _both(text: str, **values: Any) -> Markup:
    """The page's own words in both languages; a switch that needs no script shows one of them."""
    spans = (("en", "en", speaker("en")), ("zh", "zh-Hans", speaker("zh")))
    told = [Markup('<span class="{}" lang="{}">{}</span>').format(name, tag, say(text, **values)) for name, tag, say in spans]
    return Markup("").join(told)


def _told(prompt: Prompt) -> str:
    """Name, version and the content's hash: people change a prompt and forget its version."""
    return f"{prompt.name}@{prompt.version} ({digest(prompt.content())[:8]})"


def _figures(side: Side) -> dict[str, str]:
    made = list(side.made.values())
    whole = sum(columns is not None and any(value not in (None, [], "") for value in columns.values()) for columns, _ in made)
    lengths = [len(value) for columns, _ in made for value in (columns or {}).values() if isinstance(value, str)]
    refusals = Counter(reject.reason for _, rejects in made for reject in rejects)
    return {
        "model": side.model.name,
        "prompts": ", ".join(_told(load_prompt(name, side.prompts)) for name in side.operator.prompts),
        "samples with a result": f"{whole} of {len(made)}",
        "characters of a text, mean": f"{sum(lengths) / len(lengths):.0f}" if lengths else "–",
        "output tokens asked for now": f"{side.usage['output_tokens']:,}",
        **{f"refused: {reason}": str(times) for reason, times in refusals.most_common()},
    }


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(_text(entry) for entry in value)
    if isinstance(value, dict):
        return json.dumps({k: v for k, v in value.items() if v is not None}, ensure_ascii=False, default=str)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def difference(first: str, second: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Both texts in pieces ("both", "only_a", "only_b"), by words of letters and by single other characters."""
    left, right = TOKEN.findall(first[:5000]), TOKEN.findall(second[:5000])
    a: list[tuple[str, str]] = []
    b: list[tuple[str, str]] = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        mine, theirs = "".join(left[i:j]), "".join(right[k:m])
        if mine:
            a.append(("both" if kind == "equal" else "only_a", mine))
        if theirs:
            b.append(("both" if kind == "equal" else "only_b", theirs))
    return a, b
