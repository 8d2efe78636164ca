"""The translation stage's checks over right pairs and over planted faults: what is caught, what is refused that was right, how fast.

    python -m benchmarks.quality translations [--recipe dci_cn] [--photos FILE] [--categories FILE] [--base-url URL] [--show]

Goes through `Translate.judge_pair` as the recipe sets it, in segments of as many words as the recipe says. The opinions that a model
must give (judge, translation back) are off: the figures are for what works without a model. With `--base-url` the errors that a model
makes of itself are tried too (natural.py). Pairs are split in two halves: one may be
looked at while checks are worked on (`--show` prints what escapes of it and what is refused wrongly), the other gives the figure.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.quality.figures import Report
from benchmarks.quality.translations.natural import translated
from benchmarks.quality.translations.pairs import Pair, categories, formed, photographs, written
from benchmarks.quality.translations.planter import HELD_OUT, KINDS, Fault, plant
from demo.check_vlm import Server
from operators.base import Answer
from operators.translate import Translate
from pipelines.config import load_recipe


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", default="dci_cn", help="whose translation stage judges")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override of the recipe, e.g. stages.translate.dictionary=true",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the planter, the forms and the model's texts")
    parser.add_argument("--per-kind", type=int, default=400, help="faults planted of each kind, at most")
    parser.add_argument("--photos", type=Path, help="index of photographs with human pairs (text_en, text_zh_tw)")
    parser.add_argument("--categories", type=Path, help="list of categories (en, zh)")
    parser.add_argument("--base-url", help="of a server of the demo's model, whose own errors are tried too")
    parser.add_argument("--model", default="fineloom-tiny-vl", help="its name there")
    parser.add_argument("--texts", type=int, default=600, help="that it translates")
    parser.add_argument("--temperature", type=float, default=1.0, help="at which it does")
    parser.add_argument(
        "--show", action="store_true", help="the half that may be looked at: what escaped, what was refused wrongly"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")


def stage_of(recipe: str, overrides: Sequence[str] = ()) -> Translate:
    for stage in load_recipe(recipe, overrides).stages:
        for operator in stage.operators.values():
            if isinstance(operator, Translate):
                return operator
    raise SystemExit(f"recipe {recipe} has no translation stage")


class Chain:
    def __init__(self, operator: Translate) -> None:
        self.operator = operator
        operator.setup()

    def refusal(self, pair: Pair, parts: Sequence[str] = ()) -> tuple[str, str] | None:
        """Why the pair, or the pair with other Chinese parts, is refused; None where it passes.

        Segments are put together as the stage puts whole sentences together.
        """
        groups: list[tuple[list[str], list[str]]] = []
        count = 0
        for segment, zh in zip(pair.segments, parts or [one.zh for one in pair.segments], strict=True):
            words = len(segment.en.split())
            if groups and count + words <= self.operator.segment_words:
                groups[-1][0].append(segment.en)
                groups[-1][1].append(zh)
                count += words
            else:
                groups.append(([segment.en], [zh]))
                count = words
        for en, zh_parts in groups:
            answer = Answer(json.dumps({"translation": "".join(zh_parts).strip()}, ensure_ascii=False), "stop", 0, 0, "")
            text, finding = self.operator.judge_pair(" ".join(en), answer)
            if text is None or finding:
                return finding or ("empty", "")
        return None


def run(report: Report, given: argparse.Namespace) -> None:
    operator = stage_of(given.recipe, given.set)
    chain = Chain(operator)
    pairs = [*written(), *formed(given.seed)]
    by_hand = sum(pair.origin == "written" for pair in pairs)
    print(f"{len(pairs)} right pairs, {by_hand} of them written by hand; recipe {given.recipe}; seed {given.seed}")
    print("judge and translation back, which ask a model, are off")
    faults = plant(pairs, given.seed, given.per_kind)
    seconds, cases = time.process_time(), 0
    for looked, half in ((False, "the half that gives the figure"), (True, "the half that was looked at")):
        report.section(f"Planted faults caught, {half}")
        for kind in [*KINDS, "dropped sentence"]:
            mine = [f for f in faults if f.kind == kind and f.pair.for_looking_at == looked]
            found = [chain.refusal(f.pair, f.parts) for f in mine]
            cases += len(mine)
            report.share(kind + (" (held out)" if kind == HELD_OUT else ""), sum(map(bool, found)), len(mine), "≥ 95 %")
            if given.show and looked and kind != HELD_OUT:
                _show_missed([f for f, why in zip(mine, found, strict=True) if not why])
        report.section(f"Right pairs refused, {half}")
        for origin in ("written", "forms"):
            some = [p for p in pairs if p.origin == origin and p.for_looking_at == looked]
            cases += len(some)
            _alarms(report, chain, some, origin, given.show and looked)
    seconds = time.process_time() - seconds
    others = [("human pairs of photographs", given.photos, photographs), ("categories", given.categories, categories)]
    report.section("Right pairs of others refused")
    for name, path, read in others:
        if path is None or not path.exists():
            report.note(name, "not measured: no file given")
            continue
        _alarms(report, chain, list(read(path)), name, given.show)
    _natural(report, chain, given)
    report.section("Speed")
    report.note("pairs a second on one core", f"{cases / seconds:,.0f} ({cases:,} pairs, texts of one to six sentences)")


def _natural(report: Report, chain: Chain, given: argparse.Namespace) -> None:
    report.section(f"A model's own translations, temperature {given.temperature:g}")
    if given.base_url is None:
        report.note("not measured", "no --base-url")
        return
    server = Server(given.base_url, given.model, given.temperature)
    found = [(pair, verdict, chain.refusal(pair)) for pair, verdict in translated(server, given.texts, given.seed)]
    for name, kind in (("wrong ones caught", "wrong"), ("caught where only a thing named again is another", "again")):
        wrong = [(pair, why) for pair, verdict, why in found if verdict == kind]
        report.share(name, sum(why is not None for _, why in wrong), len(wrong), "≥ 95 %")
        if given.show:
            for pair in (pair for pair, why in wrong if why is None):
                print(f"      {pair.en}\n        {pair.zh}")
    right_ones = [why for _, verdict, why in found if verdict == "right"]
    report.share("right ones refused", sum(why is not None for why in right_ones), len(right_ones), "< 5 %")
    report.note("neither: other words of the same claims", sum(verdict is None for _, verdict, _ in found))
    for reason, count in Counter(why[0] for _, _, why in found if why).most_common():
        report.note(f"  refused: {reason}", count)


def _alarms(report: Report, chain: Chain, pairs: Sequence[Pair], name: str, show: bool) -> None:
    found = [(pair, why) for pair in pairs if (why := chain.refusal(pair))]
    report.share(name, len(found), len(pairs), "< 5 %")
    for reason, count in Counter(why[0] for _, why in found).most_common():
        report.note(f"  {name}: {reason}", count)
    if show:
        for pair, why in found:
            print(f"      {why[0]}: {why[1]}\n        {pair.en}\n        {pair.zh}")


def _show_missed(faults: Sequence[Fault]) -> None:
    for fault in faults:
        segment = fault.pair.segments[fault.segment]
        print(f"      {fault.was!r} → {fault.now!r}\n        {segment.en}\n        {fault.parts[fault.segment]}")
