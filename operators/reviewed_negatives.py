"""Honour what people said of groups of hard negatives: keep a group, leave it out, or take their wording of it.

Reads    regions, negatives   REGIONS, NEGATIVES
Writes   negatives            as before; a group that was rejected is empty, one that was corrected has the reviewer's texts, of which
                              those that changed have origin "human" and the flag "reviewed"
Refuses  groups as items "negatives[r]", see `reasons`
Source   FineHARD's negatives were filtered by people on a sample; here by as many groups as people looked at

A line of the file is a translation's (operators/reviewed.py), with `column` "negatives", `place` the region, `source` its
expression and `translation` the group's texts, one a line. A verdict holds for exactly the expression and the texts that were shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyarrow as pa
from PIL import Image

from operators.base import Outcome, Reject, keep
from operators.columns import NEGATIVES, REGIONS
from operators.perturb.diff import diff_span
from operators.reviewed import FromReviews, key, told_by


class ReviewedNegatives(FromReviews):
    column: str = "negatives"

    version: ClassVar[int] = 1
    reasons: ClassVar[dict[str, str]] = {
        "rejected": "a reviewer rejected the group",
        "disputed": "reviewers are divided, so the group is left out",
        "stale": "a verdict on another expression or other texts than the present ones; it is not used",
        "unusable": "the reviewer's texts are not as many as the group's, or not all different from each other and the expression",
    }

    @property
    def reads(self) -> pa.Schema:
        return pa.schema({"regions": REGIONS, "negatives": NEGATIVES})

    @property
    def writes(self) -> pa.Schema:
        return pa.schema({"negatives": NEGATIVES})

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        items: list[Reject] = []
        made = []
        for uid, regions, groups in zip(*(batch[n].to_pylist() for n in ("uid", "regions", "negatives")), strict=True):
            made.append(groups and [self._judge(uid, r, regions or [], group, items) for r, group in enumerate(groups)])
        return keep(batch.select(["uid"]), {"negatives": pa.array(made, NEGATIVES)}, items=items)

    def _judge(
        self, uid: str, r: int, regions: list[dict[str, Any]], group: list[dict[str, Any]] | None, items: list[Reject]
    ) -> list[dict[str, Any]] | None:
        if (uid, r) not in self._known or not group:
            return group
        expression = (regions[r] or {}).get("short") or "" if r < len(regions) else ""
        item, pair = f"negatives[{r}]", (uid, self.column, r, key(expression))
        review = self._settled.get(pair)
        if pair in self._settled and review is None:
            items.append(Reject(uid, "disputed", "as many reviewers for as against", item))
            return []
        if review is None or review.shown != lines(group):
            items.append(Reject(uid, "stale", "the group that was reviewed is another one now", item))
            return group
        if review.verdict == "reject":
            items.append(Reject(uid, "rejected", told_by(review), item))
            return []
        if review.verdict == "accept":
            return group
        fault = fault_of(expression, review.shown, review.corrected or "")
        if fault:
            items.append(Reject(uid, "unusable", fault, item))
            return []
        texts = (review.corrected or "").split("\n")
        return [_mended(expression, old, text) for old, text in zip(group, texts, strict=True)]


def lines(group: Sequence[dict[str, Any]]) -> str:
    """A group as people are shown it: one text a line."""
    return "\n".join(" ".join(((negative or {}).get("text") or "").split()) for negative in group)


def fault_of(expression: str, shown: str, corrected: str) -> str | None:
    """Why a reviewer's texts cannot take the group's place; None if they can."""
    old, new = shown.split("\n"), corrected.split("\n")
    if len(old) != len(new):
        return f"{len(new)} lines, the group has {len(old)}"
    seen = {" ".join(expression.lower().split()): "the expression itself"}
    for number, text in enumerate(new, 1):
        plain = " ".join(text.lower().split())
        if not plain:
            return f"line {number} is empty"
        if plain in seen:
            return f"line {number} is {seen[plain]}"
        seen[plain] = f"the same as line {number}"
    return None


def _mended(expression: str, old: dict[str, Any], text: str) -> dict[str, Any]:
    if " ".join(old["text"].split()) == text:
        return old
    start, end, original = diff_span(expression, text)
    flags = [flag for flag in old["flags"] or [] if flag not in ("verified", "doubtful", "reviewed")]
    return {
        **old,
        "text": text,
        "start": start,
        "end": end,
        "original": original,
        "origin": "human",
        "flags": [*flags, "reviewed"],
    }
