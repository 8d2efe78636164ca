"""The validators of negatives over a published set: what they refuse, and why.

python -m benchmarks.quality audit FILE.jsonl [--examples 4]
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from benchmarks.quality.figures import Report
from operators.perturb.judge import Verdict, judge

TRUTHS = {
    "synonym": "the same in other words",
    "not_false": "a wider, narrower or neighbouring word: may be true too",
    "unchanged": "nothing but small words differs",
    "object_changed": "another object",
    "unknown": "words that are not in the lexicon, or are no value of their family",
}


def audit(path: Path, report: Report, examples: int = 4) -> None:
    """Lines with `pos_expression` [text] and `neg_expression` [ten texts]. Three questions apart: truth, fluency, families."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    pairs = [
        (row["pos_expression"][0], negative, row.get("test_type", "")) for row in rows for negative in row["neg_expression"]
    ]
    verdicts = [judge(positive, negative, "en") for positive, negative, _ in pairs]
    total = len(pairs)
    report.section(f"Audit of {path.name}: {len(rows)} groups, {total:,} negatives")
    for truth in TRUTHS:
        report.share(f"truth: {truth} ({TRUTHS[truth]})", sum(v.truth == truth for v in verdicts), total)
    false = [v for v in verdicts if v.truth == "false"]
    report.share("truth: false, as it must be", len(false), total)
    report.share("  of these, besides, one changed word that may hold", sum(v.doubtful > 0 for v in false), len(false))
    flaws = Counter(_kind(flaw) for v in verdicts for flaw in set(v.disfluent))
    report.share("fluency: any flaw", sum(bool(v.disfluent) for v in verdicts), total)
    for flaw, count in flaws.most_common():
        report.share(f"  {flaw}", count, total)
    for kind in sorted({kind for _, _, kind in pairs}):
        mine = [v for v, (_, _, of_kind) in zip(verdicts, pairs, strict=True) if of_kind == kind]
        report.share(f"families: several changed ({kind or 'all'})", sum(len(v.families) > 1 for v in mine), len(mine))
    whole = [all(v.truth == "false" for v in verdicts[i : i + 10]) for i in range(0, total, 10)]
    report.share("groups whose ten are all surely false", sum(whole), len(whole))
    _explain(pairs, verdicts, examples)


def _kind(flaw: str) -> str:
    return re.sub(r"^.* (is no \w+), .*", r"a word that \1", flaw.split(":")[0])


def _explain(pairs: list[tuple[str, str, str]], verdicts: list[Verdict], examples: int) -> None:
    """Every refusal for its truth with its reason; of the others some."""
    lines: dict[str, list[str]] = defaultdict(list)
    for (positive, negative, _), verdict in zip(pairs, verdicts, strict=True):
        if verdict.truth != "false":
            lines[verdict.truth].append(f"{'; '.join(verdict.why)}\n      + {positive}\n      - {negative}")
        if verdict.disfluent:
            lines["flaws of language"].append(f"{'; '.join(verdict.disfluent)}\n      - {negative}")
    for name, found in lines.items():
        shown = found if name in ("synonym", "not_false") and examples < 0 else found[: max(examples, 1)]
        print(f"\n  {name}: {len(found)}, shown {len(shown)}")
        for text in shown:
            print("    ·", text)


def main_of(arguments: Any, report: Report) -> None:
    audit(arguments.file, report, arguments.examples)
