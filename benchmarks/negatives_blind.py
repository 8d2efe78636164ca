"""Can the positive be found without the picture? Attacks on groups of hard negatives, and an audit of a published set.

    python benchmarks/negatives_blind.py [phrases=1500] [seed=0] [fgovd=FILE.jsonl]

Three sets of positives: expressions of rendered scenes (flat distribution), everyday expressions (skewed, as people write), and,
where a file is given, FG-OVD's. Attackers see eleven texts in random order:
    centroid   takes the text most like the other ten (bag of words and word pairs, characters in Chinese)
    outlier    takes the text least like the others
    n-gram     a linear choice model over n-grams, trained on groups of other phrases
    joint      the same with, for every n-gram, how many of the group's texts share it: a trained centroid attack
Chance is 1/11 = 9.1 %. Beside every row its yield: regions that got a group. Each construction is a row, so that the figures are
measured against the obvious alternative in the same run.
"""

from __future__ import annotations

import json
import math
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo.words import all_phrases
from operators.columns import REGIONS
from operators.hard_negatives import HardNegatives
from operators.perturb.distribution import measure
from operators.perturb.group import SIZE
from operators.perturb.judge import judge
from operators.perturb.regions import ENGINES

Group = list[str]
"""Eleven texts, the positive first."""
BUCKETS = 1 << 16


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


# --- attacks ----------------------------------------------------------------------------------------------------------------


def grams(text: str, longest: int) -> list[str]:
    units = re.findall(r"[a-z0-9-]+|[^\sa-z0-9-]", text.lower())
    units = ["<", *units, ">"]
    return [" ".join(units[i : i + n]) for n in range(1, longest + 1) for i in range(len(units) - n + 1)]


def centroid(group: Group, sign: int = 1) -> float:
    """Probability that the positive is chosen as most (sign 1) or least (-1) like the sum of the others; ties are shared."""
    bags = [Counter(grams(text, 2)) for text in group]
    total: Counter[str] = Counter()
    for bag in bags:
        total.update(bag)
    scores = []
    for bag in bags:
        rest = {gram: total[gram] - bag[gram] for gram in total}
        dot = sum(count * rest[gram] for gram, count in bag.items())
        length = math.sqrt(sum(v * v for v in bag.values()) * sum(v * v for v in rest.values()))
        scores.append(sign * dot / length)
    best = max(scores)
    tied = [i for i, score in enumerate(scores) if score >= best - 1e-9]
    return (0 in tied) / len(tied)


def features(group: Group, joint: bool) -> list[list[int]]:
    bags = [set(grams(text, 3)) for text in group]
    if joint:
        shared = Counter(gram for bag in bags for gram in bag)
        marks = {gram: "1" if n == 1 else "2" if n < 6 else "6" if n < 11 else "=" for gram, n in shared.items()}
        bags = [bag | {f"{gram}#{marks[gram]}" for gram in bag} | {f"#{marks[gram]}" for gram in bag} for bag in bags]
    return [[_bucket(gram) for gram in sorted(bag)] for bag in bags]


def _bucket(gram: str) -> int:
    value = 2166136261
    for byte in gram.encode():
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value % BUCKETS


def learned(groups: Sequence[Group], joint: bool, seed: int, folds: int = 3) -> float:
    """Accuracy on groups of phrases that were not trained on (cross-validated)."""
    torch.manual_seed(seed)
    bags = [features(group, joint) for group in groups]
    right = 0.0
    for fold in range(folds):
        test = list(range(fold, len(bags), folds))
        held = set(test)
        train = [i for i in range(len(bags)) if i not in held]
        weights = torch.zeros(BUCKETS, requires_grad=True)
        optimizer = torch.optim.Adam([weights], lr=0.05)
        score = _scorer([bags[i] for i in train])
        for _ in range(60):
            optimizer.zero_grad()
            loss = -torch.log_softmax(score(weights), 1)[:, 0].mean() + 3e-4 * weights.square().sum()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            scores = _scorer([bags[i] for i in test])(weights)
            tied = scores >= scores.max(1, keepdim=True).values - 1e-6
            right += float((tied[:, 0] / tied.sum(1)).sum())
    return right / len(bags)


def _scorer(bags: list[list[list[int]]]) -> Callable[[torch.Tensor], torch.Tensor]:
    flat = torch.tensor([bucket for group in bags for bag in group for bucket in bag])
    sizes = torch.tensor([len(bag) for group in bags for bag in group])
    owner = torch.repeat_interleave(torch.arange(len(sizes)), sizes)

    def score(weights: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(sizes)).index_add(0, owner, weights[flat]).view(len(bags), -1)

    return score


def attack(groups: Sequence[Group], seed: int) -> dict[str, float]:
    return {
        "centroid": sum(centroid(group) for group in groups) / len(groups),
        "outlier": sum(centroid(group, -1) for group in groups) / len(groups),
        "n-gram": learned(groups, False, seed),
        "joint": learned(groups, True, seed),
    }


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


def audit(rows: list[dict[str, Any]]) -> None:
    """Judge every negative of a published set by its words."""
    counts: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    extra: Counter[str] = Counter()
    for line in rows:
        positive = line["pos_expression"][0]
        for negative in line["neg_expression"]:
            verdict = judge(positive, negative, "en")
            reason = verdict.refusal(families_changed=9) or "usable"
            counts[reason] += 1
            extra["changes several families"] += len(verdict.families) > 1
            extra["one of several changes may well be true"] += verdict.truth == "false" and verdict.doubtful > 0
            for flaw in {re.sub(r"^.* (is no \w+), .*", r"word that \1", flaw.split(":")[0]) for flaw in verdict.disfluent}:
                extra[f"flaw of language: {flaw}"] += 1
            if reason != "usable":
                why = "; ".join(verdict.disfluent if reason == "disfluent" else verdict.why)
                examples.setdefault(reason, []).append(f"{why}\n        + {positive}\n        - {negative}")
    total = sum(counts.values())
    print(f"\nAudit of {len(rows)} groups, {total} negatives")
    for reason, count in [*counts.most_common(), *extra.items()]:
        print(f"  {reason:<40} {count:5}  {count / total:6.1%}")
    for reason, texts in examples.items():
        print(f"\n  {reason}, for example:")
        for text in texts[:4]:
            print("    ·", text)


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
        audit(rows)


if __name__ == "__main__":
    main()
