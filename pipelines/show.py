"""Everything known of one sample: where it came from, what each stage made of it or refused, and what the model said about it.

The way of a sample is followed through the ledger, as the run itself follows it. The model's answers are found by letting the
operator ask again, from the store alone: what it gets is what it got, whichever requests it makes.
"""

from __future__ import annotations

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from operators.pictures import LazyPicture, decode
from pipelines.answers import AnswerStore
from pipelines.chain import Chain
from pipelines.config import ConfigError, Stage
from pipelines.durable import read_table
from pipelines.ledger import Entry, shard_name
from pipelines.model_client import ModelClient
from pipelines.public_url import public
from pipelines.report.page import clean
from pipelines.run import reach
from pipelines.view import View, read_columns
from pipelines.worker import PictureReader

THREADS = 8
SHOWN = 10
"""Samples that are named when a prefix fits several."""


class Found(NamedTuple):
    uid: str
    shard: int


def show(chain: Chain, uid: str, picture: Path | None = None) -> dict[str, Any]:
    """What is known of the sample `uid`, as plain data for JSON.

    uid       32 hex digits, or the first of them if they fit one sample only
    picture   write the picture's bytes to this file; it must not be there yet
    Raises ConfigError for a uid that no sample has or that several have.
    """
    found = find(chain, uid)
    taken = chain.withheld.taken
    if any(hit.uid in taken.get(hit.shard, ()) for hit in found):
        raise ConfigError(f"sample {found[0].uid} was taken down")
    shard = found[-1].shard  # put back, it lives in the newest shard
    if any(stage.kind == "global" for stage in chain.recipe.stages):
        view, next_stage = reach(chain, chain.shards())[shard]  # a global stage's entry is found by what all shards hold
    else:
        view, next_stage = chain.advance(View(shard), chain.recipe.stages)
    told = follow(chain, view, found[-1].uid, next_stage)
    told["earlier_shards"] = [other.shard for other in found[:-1]]
    if picture is not None:
        _write_picture(chain, told, picture)
    return told


def find(chain: Chain, uid: str) -> list[Found]:
    """The sample's places, in the order of shards: several when it was refused and put back."""
    prefix = uid.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{1,32}", prefix):
        raise ConfigError(f"{uid!r} is no sample: a uid has 32 hex digits, of which the first few are enough")

    source = chain.recipe.stages[0]

    def look(shard: int) -> list[Found]:
        entry = chain.ledger.get(source.name, chain.fingerprint(source, View(shard)), shard)
        if entry is None:
            return []
        hits: list[Found] = []
        for role in ("data", "rejects") if entry.rejects else ("data",):
            uids = read_table(chain.run / entry.files[role].path, columns=["uid"])["uid"]
            hits += [Found(hit, shard) for hit in uids.filter(pc.starts_with(uids, prefix)).to_pylist()]
        return hits

    with ThreadPoolExecutor(THREADS) as threads:
        found = [hit for hits in threads.map(look, chain.shards()) for hit in hits]
    uids = sorted({hit.uid for hit in found})
    if not uids:
        raise ConfigError(f"no sample {prefix} in {chain.run}: its source stage knows none")
    if len(uids) > 1:
        some = ", ".join(uids[:SHOWN]) + (" …" if len(uids) > SHOWN else "")
        raise ConfigError(f"{prefix} fits {len(uids)} samples: {some}. Give more digits")
    return sorted(set(found), key=lambda hit: hit.shard)


def follow(chain: Chain, view: View, uid: str, next_stage: Stage | None) -> dict[str, Any]:
    """Stage by stage through the entries of the sample's shard, until it was refused or they end."""
    table = chain.tables.table_of(view.shard)
    told: dict[str, Any] = {
        "uid": uid,
        "shard": view.shard,
        "fate": "kept" if next_stage is None else "waiting",
        "next_stage": next_stage.name if next_stage else None,
        "table": {"source": table.source, "file": table.path, "digest": table.digest},
        "picture": None,
        "packed": None,
        "stages": [],
    }
    before = View(view.shard)
    columns: dict[str, Any] = {}
    for name, fingerprint in view.entries.items():
        stage = chain.recipe.stage(name)
        entry = chain.ledger.get(name, fingerprint, view.shard)
        if entry is None:
            raise ConfigError(f"{chain.run}: the ledger entry of stage {name}, shard {view.shard}, is gone")
        step = _step(chain, stage, entry, uid)
        if stage.kind == "model":
            step["answers"], step["answers_note"] = kept_answers(chain, stage, before, uid)
        told["stages"].append(step)
        if step["refused"] is not None:
            told.update(fate="refused", next_stage=None)
            break
        columns.update(step["columns"] or {})
        before = before.after(entry)
        if stage.kind == "download":
            told["picture"] = _picture(columns, entry)
        if stage.kind == "pack" and step["columns"]:
            place = {"offset": step["columns"]["shard_offset"], "size": step["columns"]["shard_size"]}
            told["packed"] = {"shard": f"shards/{shard_name(view.shard)}.tar", "tar": entry.files["shard"].path, **place}
    return told


def _step(chain: Chain, stage: Stage, entry: Entry, uid: str) -> dict[str, Any]:
    mine = [("uid", "=", uid)]
    rows = read_table(chain.run / entry.files["data"].path, filters=mine).to_pylist()
    refusals = read_table(chain.run / entry.files["rejects"].path, filters=mine).to_pylist()
    made = entry.made_by
    prompts = made.get("prompts") or {}
    return {
        "stage": stage.name,
        "kind": stage.kind,
        "operators": [f"{name}@{operator['version']}" for name, operator in (made.get("operators") or {}).items()],
        "prompts": [f"{name}@{prompt['version']}" for name, prompt in prompts.items()],
        "model": made.get("model") if prompts else None,
        "fingerprint": entry.fingerprint,
        "attempt": entry.attempt,
        "columns": {name: _shown(name, value) for name, value in rows[0].items() if name != "uid"} if rows else None,
        "refused": next(({"reason": r["reason"], "detail": r["detail"]} for r in refusals if r["item"] is None), None),
        "parts": [{key: r[key] for key in ("item", "reason", "detail")} for r in refusals if r["item"] is not None],
    }


def _shown(name: str, value: Any) -> Any:
    return public(value) if name == "url" else value


def _picture(columns: dict[str, Any], entry: Entry) -> dict[str, Any]:
    names = {"offset": "image_offset", "size": "image_size", "format": "image_format"}
    names.update({name: name for name in ("sha256", "width", "height")})
    return {"tar": entry.files["images"].path, **{name: columns.get(column) for name, column in names.items()}}


def _write_picture(chain: Chain, told: dict[str, Any], target: Path) -> None:
    place = told["picture"]
    if place is None:
        raise ConfigError(f"sample {told['uid']} has no picture in this run")
    with PictureReader(chain.run / place["tar"]) as read:
        data = read({"uid": told["uid"], "image_offset": place["offset"], "image_size": place["size"]})
    try:
        with target.open("xb") as file:
            file.write(data)
    except FileExistsError:
        raise ConfigError(f"{target}: there is such a file already; choose another name") from None
    told["picture"]["written_to"] = str(target)


class _NotStored(LookupError):
    """The operator asked what was never answered, or whose answer was an error, which the store does not keep."""


class _Known(AnswerStore):
    """The answers of a shard, read only; remembers which were asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "show")
        self.asked: list[dict[str, Any]] = []

    def get(self, key: str) -> dict[str, Any]:
        record = super().get(key)
        if record is None:
            raise _NotStored(key)
        self.asked.append({"hash": key, **record})
        return record


class _Offline(ModelClient):
    """A client that knows who answered and asks nobody."""

    async def identity(self) -> dict[str, Any]:
        if self._identity is None:
            raise _NotStored("no record of the model")
        return self._identity


def kept_answers(chain: Chain, stage: Stage, before: View, uid: str) -> tuple[list[dict[str, Any]], str | None]:
    """The answers that the stage's operator used for this sample, in the order in which it asked; a note if some are missing."""
    store = _Known(chain.run / "answers" / stage.name / shard_name(before.shard))
    try:
        table = read_columns(chain.run, before, stage.reads(), stage.optional())
        (sample,) = table.filter(pc.equal(table["uid"], pa.scalar(uid))).to_pylist()
        asyncio.run(_replay(chain, stage, before, sample, store))
    except _NotStored:
        return store.asked, "a further request has no answer in the store (the server refused it)"
    except (OSError, ValueError, KeyError) as error:  # a picture or file that is gone must not hide the rest
        return store.asked, f"the answers cannot be followed further: {error}"
    return store.asked, None


async def _replay(chain: Chain, stage: Stage, before: View, sample: dict[str, Any], store: AnswerStore) -> None:
    operator = stage.operator
    client = _Offline(chain.recipe.model, chain.identity)
    try:
        if not operator.needs_image or before.images is None:
            await operator(sample, None, client.ask_for(store, sample.get("sha256"), chain.prompts))
            return
        with PictureReader(chain.run / before.images) as read:
            picture = LazyPicture((sample["width"], sample["height"]), lambda: decode(read(sample)))
            await operator(sample, picture, client.ask_for(store, sample["sha256"], chain.prompts))
    finally:
        await client.close()


# On a terminal.


def render(told: dict[str, Any], console: Console) -> None:
    """Print what `show` found, readable, with nothing of a stranger's text taken as markup or control codes."""
    fate = {"kept": ("went through all stages", "green"), "waiting": (f"waits for stage {told['next_stage']}", "yellow")}
    last = told["stages"][-1] if told["stages"] else {}
    words, colour = fate.get(told["fate"], (f"refused by stage {last.get('stage')}", "red"))
    console.print(Text.assemble(("sample ", "dim"), (told["uid"], "bold"), "  ", (words, colour)))
    place = f"shard {told['shard']} · table {told['table']['source']} · {told['table']['file']}"
    if told["earlier_shards"]:
        place += f" · put back after shard {', '.join(map(str, told['earlier_shards']))}"
    console.print(_plain(place), style="dim")
    if told["picture"]:
        p = told["picture"]
        facts = f"{p['width']} × {p['height']} {p['format']} · {p['size']:,} bytes at {p['offset']:,} of {p['tar']}"
        console.print(_plain(facts + (f" · written to {p['written_to']}" if p.get("written_to") else "")), style="dim")
    if told["packed"]:
        p = told["packed"]
        console.print(_plain(f"packed in {p['shard']}, {p['size']:,} bytes at {p['offset']:,}"), style="dim")
    for step in told["stages"]:
        console.print(_panel(step))


def _panel(step: dict[str, Any]) -> Panel:
    made = " ".join([*step["operators"], *(f"prompt {prompt}" for prompt in step["prompts"])])
    if step["model"]:
        made += f" · {step['model'].get('name')}"
    body: list[Any] = [_plain(f"{made or step['kind']} · {step['fingerprint'][:12]}.{step['attempt']}", "dim")]
    if step["refused"]:
        body.append(
            Text.assemble((f"refused: {clean(step['refused']['reason'])}", "bold red"), "  ", clean(step["refused"]["detail"]))
        )
    columns = Table(box=None, show_header=False, pad_edge=False)
    columns.add_column(style="cyan", no_wrap=True)
    columns.add_column(overflow="fold")
    for name, value in (step["columns"] or {}).items():
        if value is not None and value != []:
            columns.add_row(name, _value(value))
    if columns.row_count:
        body.append(columns)
    for part in step["parts"]:
        body.append(Text.assemble((f"{clean(part['item'])} {clean(part['reason'])}", "yellow"), "  ", clean(part["detail"])))
    for answer in step.get("answers") or []:
        tokens = f"{answer['prompt_tokens']:,} + {answer['output_tokens']:,} tokens"
        head = f"answer {answer['hash'][:12]} · {answer.get('prompt')} · {answer['finish']} · {tokens}"
        body.append(Text.assemble((clean(head), "magenta"), "\n", clean(answer["text"])))
    if step.get("answers_note"):
        body.append(_plain(step["answers_note"], "yellow"))
    return Panel(
        Group(*body), title=Text(step["stage"], "bold"), title_align="left", border_style="red" if step["refused"] else "dim"
    )


def _value(value: Any) -> Text:
    """One line a list entry; regions and negatives with what matters first."""
    if isinstance(value, list) and value and any(isinstance(entry, dict | list) for entry in value):
        return Text("\n").join(_value(entry) for entry in value)
    if isinstance(value, list):
        return Text("\n").join(_plain(str(entry)) for entry in value)
    if isinstance(value, dict):
        return _region(value)
    return _plain(f"{value:.4g}" if isinstance(value, float) else str(value))


def _region(value: dict[str, Any]) -> Text:
    if "family" in value and "start" in value:
        text, start, end = value["text"], value["start"], value["end"]
        parts = (clean(text[:start]), (clean(text[start:end]), "reverse"), clean(text[end:]))
        flags = ", ".join([value["family"], value["origin"], *(value["flags"] or [])])
        return Text.assemble(*parts, (f"  {clean(flags)}", "dim"))
    if "box" in value:
        box = " ".join(f"{x:.3f}" for x in value["box"] or [])
        rest = {key: entry for key, entry in value.items() if key != "box" and entry is not None}
        return Text.assemble((f"[{box}] ", "dim"), clean(" · ".join(str(entry) for entry in rest.values())))
    return _plain(json.dumps(value, ensure_ascii=False, default=str))


def _plain(text: str, style: str = "") -> Text:
    return Text(clean(text), style)
