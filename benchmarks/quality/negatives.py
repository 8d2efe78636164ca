"""Negatives against the scenes' truth: what a group is worth before anyone has looked, and after."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.quality import blind
from benchmarks.quality.figures import Report
from benchmarks.quality.truth import Truth
from benchmarks.quality.unseen import Told, Unseen, told
from operators.hard_negatives import HardNegatives
from operators.perturb import regions
from operators.perturb.distribution import measure
from operators.perturb.judge import judge
from operators.perturb.regions import Unfit

Made = tuple[Told, Unseen, list[dict[str, Any]]]
"""A region and its ten negatives, or []."""


def lexical(
    scenes: Sequence[Unseen], language: str, wrong: float, seed: int, **settings: Any
) -> tuple[list[Made], Counter[str]]:
    """Groups of the lexical engine and its refusals."""
    operator = HardNegatives(**settings)
    operator.setup()
    made: list[Made] = []
    refused: Counter[str] = Counter()
    for unseen in scenes:
        rng = random.Random(f"told {seed} {language} {unseen.uid}")
        said = told(unseen.scene, language, wrong, rng)
        found = [one.region() for one in said]
        (parsed,) = regions.parse([found])
        for r, one in enumerate(said):
            group = operator.group(unseen.uid, r, regions.setting(r, found, parsed, operator.overlap))
            if isinstance(group, Unfit):
                refused[group.reason] += 1
            made.append((one, unseen, [] if isinstance(group, Unfit) else group))
    return made, refused


def judge_groups(report: Report, name: str, made: Sequence[Made], truth: Truth, goals: bool = False) -> None:
    """Yield, falsity, clean groups and the flag `present_elsewhere`."""
    groups = [(one, group) for one, _, group in made if group]
    verdicts = [[truth(negative["text"], one.thing) for negative in group] for one, group in groups]
    flat = [verdict for group in verdicts for verdict in group]
    known = [verdict for verdict in flat if verdict is not None]
    report.share(f"{name}: yield, groups of regions", len(groups), len(made))
    report.share(f"{name}: share of true positives", sum(one.true for one, _ in groups), len(groups))
    report.share(f"{name}: falsity per negative", known.count(False), len(known), "98 %" if goals else "")
    clean = sum(True not in group for group in verdicts)
    report.share(f"{name}: groups wholly clean", clean, len(groups), "90 %" if goals else "")
    report.share(f"{name}: negatives that words cannot judge", flat.count(None), len(flat))
    hits = flagged = really = 0
    for one, group in groups:
        for negative in group:
            elsewhere = any(truth(negative["text"], thing) is True for thing in one.scene.things if thing is not one.thing)
            flag = "present_elsewhere" in negative["flags"]
            hits, flagged, really = hits + (flag and elsewhere), flagged + flag, really + elsewhere
    report.share(f"{name}: flagged present_elsewhere and so", hits, flagged)
    report.share(f"{name}: present elsewhere and flagged", hits, really)


def attack_groups(report: Report, name: str, made: Sequence[Made], seed: int) -> None:
    """Blind solvability, and what a look at the colours gives with the right and with a wrong picture. Chance 9.1 %."""
    groups = [([one.text, *(negative["text"] for negative in group)], one, unseen) for one, unseen, group in made if group]
    if len(groups) < 60:
        report.note(f"{name}: blind", f"{len(groups)} groups are too few to attack")
        return
    texts = [group for group, _, _ in groups]
    for attack, value in blind.attack(texts, seed).items():
        report.share(
            f"{name}: blind, {attack}", value * len(texts), len(texts), "≤ 20 %" if attack in ("centroid", "n-gram") else ""
        )
    parts = torch.stack([blind.colours(unseen.picture.crop(one.thing.box)) for _, one, unseen in groups])
    right, shuffled = blind.seen(texts, parts, seed)
    report.share(f"{name}: colours of the box seen", right * len(texts), len(texts))
    report.share(f"{name}: the same, pictures shuffled", shuffled * len(texts), len(texts))


def families(report: Report, name: str, made: Sequence[Made]) -> None:
    """Share of negatives that change a family, as the words judge it; several may be changed by one."""
    counts: Counter[str] = Counter()
    total = 0
    for one, _, group in made:
        for negative in group:
            counts.update(judge(one.text, negative["text"], one.language).families)
            total += 1
    report.note(
        f"{name}: families changed", "  ".join(f"{family} {count / total:.0%}" for family, count in counts.most_common())
    )


def run(report: Report, scenes: Sequence[Unseen], languages: Sequence[str], seed: int) -> None:
    """The lexical engine, in three settings, on expressions that are true."""
    half = len(scenes) // 2
    for language in languages:
        truth = Truth(language)
        words = measure([t.short(language) for unseen in scenes[:half] for t in unseen.scene.things], language)
        ways: dict[str, dict[str, Any]] = {
            "lexicon's weights": {},
            "measured": {"distribution": words},
            "measured, up to two families": {"distribution": words, "families_changed": 2},
        }
        for name, settings in ways.items():
            report.section(f"Hard negatives, lexical, {language}, {name}")
            made, refused = lexical(scenes[half:], language, 0.0, seed, **settings)  # the distribution is of other scenes
            judge_groups(report, "before", made, truth, goals=True)
            families(report, "before", made)
            attack_groups(report, "before", made, seed)
            report.note("refused regions", dict(refused))
        if truth.unknown:
            report.note("words the measure does not know", dict(truth.unknown.most_common(8)))
