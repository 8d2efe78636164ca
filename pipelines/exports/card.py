"""The data set card: README.md with what the hub wants to know in front, and what a person must know below."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from pipelines.counted import counted
from pipelines.durable import replace
from pipelines.exports.base import About, Layout
from pipelines.exports.huggingface import HuggingFace
from pipelines.exports.tables import REGION, features
from pipelines.exports.tally import Tally
from pipelines.report.page import clean

SIZES = (
    (1000, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
)
HUB_LICENCES = {
    "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "cc-by-3.0",
    "cc-by-sa-3.0", "cc-by-2.0", "apache-2.0", "mit", "odc-by", "odbl", "pddl",
}  # fmt: skip
"""Identifiers that the hub knows; anything else is "other" with the words below."""
LISTED = 40


def hub_licence(tally: Tally) -> str:
    """One identifier, only where every sample states the same known licence."""
    found = [name.lower().replace(" ", "-") for name in tally.counts["licences"]]
    return found[0] if len(found) == 1 and found[0] in HUB_LICENCES else "other"


def size_category(samples: int) -> str:
    return next((name for limit, name in SIZES if samples < limit), "n>100M")


def write_card(folder: Path, layout: Layout, about: About, tally: Tally) -> None:
    """Write `folder`/README.md. Texts of strangers (licences, names) are cleaned and put where Markdown takes them literally."""
    made = bool(tally.counts["models"])
    front: dict[str, Any] = {
        "pretty_name": about.title,
        "language": tally.languages or ["en"],
        "license": hub_licence(tally),
        "size_categories": [size_category(tally.samples)],
        "source_datasets": ["extended"],
        "annotations_creators": ["machine-generated"] if made else ["found"],
        "task_categories": list(layout.tags),
        "tags": ["fineloom", layout.name],
    }
    if isinstance(layout, HuggingFace):
        front |= _configs(layout, tally)
    header = yaml.safe_dump(json.loads(json.dumps(front)), sort_keys=False, allow_unicode=True)
    replace(folder / "README.md", f"---\n{header}---\n\n{_text(layout, about, tally)}".encode())


def _configs(layout: HuggingFace, tally: Tally) -> dict[str, Any]:
    schemas = {"default": ("data", layout.schema)}
    if tally.counts["regions"]:  # `datasets` loads no table without rows
        schemas["regions"] = ("regions", REGION)
    configs = [
        {"config_name": name, "data_files": [{"split": "train", "path": f"{folder}/*.parquet"}]}
        for name, (folder, _) in schemas.items()
    ]
    return {
        "configs": [configs[0] | {"default": True}, *configs[1:]],
        "dataset_info": [{"config_name": name, "features": features(schema)} for name, (_, schema) in schemas.items()],
    }


def _text(layout: Layout, about: About, tally: Tally) -> str:
    c = tally.counts
    parts = [
        f"# {about.title}",
        about.description,
        f"**Not whole:** {about.missing}." if about.missing.shards else "",
        f"Layout `{layout.name}`: {layout.about}.",
        "## Composition",
        _composition(tally),
        "### Who wrote the texts" if c["origins"] else "",
        _table("text", "count", Counter(dict(sorted(c["origins"].items())))) if c["origins"] else "",
        "### What the hard negatives change" if c["families"] else "",
        _table("family", "negatives", c["families"]) if c["families"] else "",
        "## Sources",
        "\n".join(
            f"* {_code(name)} ({counted(n, 'sample')}){': ' + clean(about.sources[name]) if about.sources.get(name) else ''}"
            for name, n in c["sources"].most_common(LISTED)
        ),
        "## Licences",
        "Of the pictures, as their sources state them. Addresses and annotations do not change whose the pictures are.",
        _table("licence", "samples", c["licences"]),
        "## How it was made",
        _process(about),
        "Every sample's record names the operators, prompt and model of each stage (`provenance`).",
        "### Models" if c["models"] else "",
        _table("model", "stages of samples", c["models"]) if c["models"] else "No model was asked.",
        "### Prompts" if c["prompts"] else "",
        _table("prompt", "stages of samples", c["prompts"]) if c["prompts"] else "",
        "### Operators" if c["operators"] else "",
        _table("operator", "stages of samples", c["operators"]) if c["operators"] else "",
        "## Quality",
        _quality(about),
        "## Known limits",
        _limits(layout, tally),
        "## Takedown",
        _takedown(about),
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n"


def _composition(tally: Tally) -> str:
    """Counts, and what they come to for a sample."""
    c = tally.counts
    rows = [("samples", tally.samples)]
    for kind, name in (("texts", "texts"), ("regions", "regions"), ("groups", "groups of ten hard negatives")):
        rows += [(f"{name} {value}", n) for value, n in sorted(c[kind].items())]
    lines = [f"| {name} | {n:,} | {n / tally.samples:.2f} |" for name, n in rows if tally.samples]
    return "| | count | a sample |\n|---|---:|---:|\n" + "\n".join(lines)


def _process(about: About) -> str:
    if not about.process:
        return ""
    rows = [
        f"| {_code(name)} | {_cell(ran)} | {samples:,} | {_cell(refused)} |" for name, ran, samples, refused in about.process
    ]
    return "| stage | operators | samples after it | refused (commonest reasons) |\n|---|---|---:|---|\n" + "\n".join(rows)


def _quality(about: About) -> str:
    if not about.quality:
        return "Not measured on this set. `fineloom export --quality FILE` puts figures here, with their intervals."
    rows = [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in about.quality]
    head = "Intervals are Wilson's, 95 %, over the cases that were looked at.\n\n"
    head += "| | figure | value | cases and interval |\n|---|---|---:|---|\n"
    return head + "\n".join(rows)


def _takedown(about: About) -> str:
    if not about.contact:
        return (
            "**No contact is given yet.** Before publishing, `fineloom export --contact` names the one to whom people write who find "
            "themselves or their work in this set."
        )
    return (
        f"Whoever finds themselves or their work in this set writes to {_code(about.contact)}, with the address of the picture or the "
        "`uid` of the sample. It is removed from the run and from later versions of this set; copies that others made are out of reach."
    )


def _cell(text: str) -> str:
    """Plain words for a table's cell: nothing in them is Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>|#&])", r"\\\1", " ".join(clean(text).split()))[:400]


def _limits(layout: Layout, tally: Tally) -> str:
    c = tally.counts
    limits = []
    if c["models"]:
        limits.append(
            "Texts, boxes and negatives made by a model were checked by validators and, where the recipe says so, by the model "
            "itself; no person has read all of them. Some statements are false."
        )
    if c["groups"]:
        limits.append(
            "A hard negative is false for its box. It may be true of something else in the picture: such ones carry the flag "
            "`present_elsewhere`."
        )
    if "not stated" in c["licences"]:
        limits.append(f"No licence of the picture is stated for {counted(c['licences']['not stated'], 'sample')}.")
    limits.append("Pictures from the web may show people, brands or offensive things that no filter caught; addresses go dead.")
    limits += [f"{clean(why)} ({n:,})" for why, n in c["notes"].most_common()]
    return "\n".join(f"* {text}" for text in limits)


def _table(first: str, second: str, counter: Counter[str]) -> str:
    rows = [
        f"| {_code(name) if first else name} | {n:,} |"
        for name, n in (counter.most_common(LISTED) if first else counter.items())
    ]
    if len(counter) > LISTED and first:
        rows.append(
            f"| {len(counter) - LISTED} others | {sum(counter.values()) - sum(n for _, n in counter.most_common(LISTED)):,} |"
        )
    return f"| {first} | {second} |\n|---|---:|\n" + "\n".join(rows) + "\n"


def _code(text: str) -> str:
    """A stranger's word as inline code: nothing in it is Markdown or HTML."""
    text = re.sub(r"[`|\n\r\t]", " ", clean(text))[:200].strip()
    return f"`{text or '?'}`"
