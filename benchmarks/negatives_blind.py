"""Can the positive be found without the picture? Attacks on groups of hard negatives.

    python benchmarks/negatives_blind.py [phrases=1500] [seed=0] [fgovd=FILE.jsonl]

Three sets of positives: expressions of rendered scenes (flat distribution), everyday expressions (skewed, as people write), and,
where a file is given, FG-OVD's. The attacks are described in `benchmarks/quality/blind.py`; chance is 1/11 = 9.1 %. Beside every row
stands its yield: regions that got a group. Each construction is a row, measured against the obvious alternative.
"""

from __future__ import annotations

import json
import math
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.quality.blind import Group, attack
from demo.words import all_phrases
from operators.columns import REGIONS
from operators.hard_negatives import HardNegatives
from operators.perturb.distribution import measure
from operators.perturb.group import SIZE
from operators.perturb.regions import ENGINES

# --- positives --------------------------------------------------------------------------------------------------------------

EVERYDAY: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("negatives_phrases.yaml").read_text(encoding="utf-8")
)


def everyday(language: str, count: int, rng: random.Random) -> list[str]:
    """Different made-up expressions with attributes as skewed as in ordinary captions."""
    words = EVERYDAY[language]

    def fill(match: re.Match[str]) -> str:
        entries = words[match[1]]
        return rng.choice(entries) if isinstance(entries, list) else rng.choices(list(entries), list(entries.values()))[0]

    texts: dict[str, None] = {}
    while len(texts) < count:
        text = re.sub(r"\{(\w+)\}", fill, rng.choice(words["frames"]))
        texts[re.sub(r"\ba (?=[aeio])", "an ", text)] = None
    return list(texts)


def scenes(language: str, count: int, rng: random.Random) -> list[str]:
    texts = all_phrases(language)
    return rng.sample(texts, min(count, len(texts)))


# --- groups -----------------------------------------------------------------------------------------------------------------


def make(texts: Sequence[str], language: str, seed: int, **settings: Any) -> tuple[list[Group], Counter[str], float]:
    """Groups, refusals by reason and regions per second of one core."""
    operator = HardNegatives(**settings)
    operator.setup()
    box = [0.1, 0.1, 0.9, 0.9]
    region = [
        [{"box": box, "score": None, "short": text, "long": text, "language": language, "origin": "human"}] for text in texts
    ]
    batch = pa.table({"uid": [f"{seed:08x}{i:024x}" for i in range(len(texts))], "regions": pa.array(region, REGIONS)})
    start = time.process_time()
    outcome = operator(batch)
    speed = len(texts) / (time.process_time() - start)
    made = outcome.kept["negatives"].to_pylist()
    groups = [
        [text, *(negative["text"] for negative in sample[0])] for text, sample in zip(texts, made, strict=True) if sample[0]
    ]
    return groups, Counter(reject.reason for reject in outcome.rejects), speed


def naive(texts: Sequence[str], language: str, rng: random.Random) -> list[Group]:
    """What a first attempt does: one slot of the positive at random, any word that makes it false, ten times."""
    engine = ENGINES[language]
    groups = []
    for phrase in engine.parse(list(texts)):
        found = {i: engine.options(slot) for i, slot in enumerate(phrase.slots) if slot.value.use}
        found = {i: options for i, options in found.items() if options}
        if sum(len(options) for options in found.values()) < SIZE:
            continue
        negatives: dict[str, None] = {}
        for _ in range(1000):
            slot = rng.choice(list(found))
            negatives[engine.render(phrase, {slot: rng.choice(found[slot])})] = None
            if len(negatives) == SIZE:
                groups.append([phrase.text, *negatives])
                break
    return groups


# --- report -----------------------------------------------------------------------------------------------------------------


def row(name: str, groups: Sequence[Group], asked: int, seed: int, note: str = "") -> None:
    if len(groups) < 30:
        print(f"  {name:<40} yield {len(groups) / asked:6.1%}   too few groups to attack   {note}")
        return
    figures = attack(groups, seed)
    spread = 1.96 * math.sqrt(0.09 * 0.91 / len(groups))
    cells = "  ".join(f"{key} {value:6.1%}" for key, value in figures.items())
    print(f"  {name:<40} yield {len(groups) / asked:6.1%}   {cells}   ±{spread:.1%}   {note}", flush=True)


def constructions(texts: list[str], language: str, seed: int) -> None:
    half = len(texts) // 2
    own = measure(texts[:half], language)  # from other phrases than those attacked
    texts = texts[half:]
    row("naive: words of the positive, any word", naive(texts, language, random.Random(seed)), len(texts), seed)
    for name, settings in {
        "ours, lexicon's own weights": {},
        "ours, measured distribution": {"distribution": own},
        "ours, measured, up to two families": {"distribution": own, "families_changed": 2},
    }.items():
        groups, refused, speed = make(texts, language, seed, **settings)
        row(name, groups, len(texts), seed, f"{speed:.0f} regions/s  {dict(refused)}")


def main() -> None:
    torch.set_num_threads(1)
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    count, seed = int(given.get("phrases", 1500)), int(given.get("seed", 0))
    for language in ("en", "zh"):
        for name, source in {"scenes": scenes, "everyday": everyday}.items():
            texts = source(language, 2 * count, random.Random(f"{name} {language} {seed}"))
            print(f"\n{name}, {language}: {len(texts) // 2} phrases attacked, chance 9.1 %")
            constructions(texts, language, seed)
    if "fgovd" in given:
        rows = [json.loads(line) for line in Path(given["fgovd"]).read_text(encoding="utf-8").splitlines()]
        texts = [line["pos_expression"][0] for line in rows]
        print(f"\nFG-OVD, {len(rows)} positives, chance 9.1 %")
        row("its own negatives", [[line["pos_expression"][0], *line["neg_expression"]] for line in rows], len(rows), seed)
        groups, refused, _ = make(texts, "en", seed)
        row("ours, lexicon's own weights", groups, len(texts), seed, str(dict(refused)))
        halves = [texts[0::2], texts[1::2]]
        pairs = zip(halves, reversed(halves), strict=True)  # weights from the positives of the other half
        made = [make(mine, "en", seed, distribution=measure(other, "en")) for mine, other in pairs]
        row("ours, measured distribution", [group for groups, _, _ in made for group in groups], len(texts), seed)


if __name__ == "__main__":
    main()
