"""What a run has to export: the shards it handed over, what its card must say of them, and how much of it is not there yet."""

from __future__ import annotations

import shlex
from pathlib import Path

from pipelines import rejects
from pipelines.chain import Chain
from pipelines.config import MANIFESTS, ConfigError, Recipe
from pipelines.exports.base import About, Missing
from pipelines.ledger import shard_name
from pipelines.reach import Reach
from pipelines.run import handed_over, look, reach
from pipelines.sources import load_source
from pipelines.stores import Place, place


def of_run(recipe: Recipe, root: Path, prompts: Path | None, title: str) -> tuple[list[Path], About]:
    """Shards of a run, in order, and what is known about them. Of a run of which only the shards are here, the recipe's words alone.

    Raises ConfigError where there are none, where they are not local, and where they are not what these settings have made: a card
    would then tell of other shards than those beside it.
    """
    run = place(root) / recipe.name
    if isinstance(run, Place):
        raise ConfigError(f"{run}: shards are exported from a folder: copy {run}/shards here, and give it as --shards")
    found = shards_in(run)
    again = shlex.join(["fineloom", "run", recipe.given, "--root", str(root)])
    if not found:
        raise ConfigError(f"{run}: no shards there. Run the recipe to its `pack` stage first: `{again}`")
    sources = (load_source(name, [Path("manifests/sources"), MANIFESTS / "sources"]) for name in recipe.sources)
    texts = {source.name: source.about for source in sources}
    description = recipe.description or f"Made by the recipe {recipe.name}."
    if not (run / "tables").is_dir():
        return found, About(title, description, texts, "1.0.0")
    chain = look(recipe, root, prompts)
    there = {path.name for path in found}
    if (handed := handed_over(chain)) is None or not there <= handed:
        raise ConfigError(
            f"{run / 'shards'}: not what these settings have made. What the run was given as KEY=VALUE, give here too; if that is the "
            f"same, `{again}` hands over what is committed. --shards {run / 'shards'} exports what lies there, whatever it is"
        )
    at = reach(chain, chain.shards())
    return found, About(title, description, texts, "1.0.0", _process(chain, at), missing=_missing(chain, at, there))


def shards_in(folder: Path) -> list[Path]:
    """The shards of a run or of any folder, in order."""
    return sorted((folder / "shards" if (folder / "shards").is_dir() else folder).glob("*.tar"))


def _missing(chain: Chain, at: Reach, there: set[str]) -> Missing:
    after, whole = at.rows_out(), set(at.finished())
    gone = [
        shard
        for shard in chain.shards()
        if f"{shard_name(shard)}.tar" not in there and (shard not in whole or after[shard])  # of nothing there is no tar
    ]
    samples = sum(after[shard] if shard in after else chain.tables.slice_of(shard)["rows"] for shard in gone)
    return Missing(len(gone), len(chain.shards()), samples)


def _process(chain: Chain, at: Reach) -> tuple[tuple[str, str, int, str], ...]:
    """Stage by stage what the run did."""
    after, refused = at.counts(), rejects.count(chain)
    rows = []
    for stage in chain.recipe.stages:
        reasons = refused.get(stage.name, {}).get("samples")
        why = ", ".join(f"{reason} {n:,}" for reason, n in reasons.most_common(3)) if reasons else ""
        rows.append((stage.name, ", ".join(stage.operators), after[stage.name]["samples"], why))
    return tuple(rows)
