"""True paraphrases of each region's expression: a model that only ever sees edits that are wrong learns that an edit is wrong.

Reads    regions     REGIONS: boxes, short expressions, language
Writes   positives   POSITIVES, aligned with `regions`: up to `count` texts each
Refuses  parts only, item "positives[r]": see `reasons`
Source   docs/synthesis.md; SugarCrepe++ and others found models trained on negatives alone to take every edit for a wrong one

The same words' synonyms ("a grey sofa", "a gray couch"), the same phrase built otherwise ("a chair made of wood", "a wooden chair"),
and on request what is denied rightly ("a red ball, not a blue one"). No word is exchanged whose synonym is not the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyarrow as pa
from PIL import Image
from pydantic import Field

from operators.base import Operator, Outcome, Reject, keep
from operators.columns import POSITIVES, REGIONS
from operators.needs import Need, chinese_tagger, english_parser
from operators.perturb import chinese, english, regions
from operators.perturb.negation import contrasts
from operators.perturb.paraphrase import paraphrases
from operators.perturb.regions import Unfit
from operators.perturb.words import seeded


class HardPositives(Operator):
    count: int = Field(2, ge=1, le=10)
    """Most paraphrases per region."""
    negation: bool = False
    """One of them says what the thing is not."""
    overlap: float = Field(0.5, gt=0, le=1)
    """Expressions of boxes from this IoU on must not contradict each other."""

    version: ClassVar[int] = 6
    reasons: ClassVar[dict[str, str]] = {
        **{name: regions.UNFIT[name] for name in ("no_text", "language", "too_long", "contradiction")},
        "no_paraphrase": "no word of it has a synonym that is sure",
    }

    @property
    def reads(self) -> pa.Schema:
        return pa.schema({"regions": REGIONS})

    @property
    def writes(self) -> pa.Schema:
        return pa.schema({"positives": POSITIVES})

    def needs(self) -> list[Need]:
        return [english_parser(), chinese_tagger()]

    def setup(self) -> None:
        english.nlp()
        chinese.tagger()

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        samples = [found or [] for found in batch["regions"].to_pylist()]
        positives, rejects = [], []
        for uid, found, parsed in zip(batch["uid"].to_pylist(), samples, regions.parse(samples), strict=True):
            row: list[list[dict[str, str]]] = []
            for r in range(len(found)):
                texts = self._texts(uid, r, regions.setting(r, found, parsed, self.overlap), parsed[r])
                if isinstance(texts, Unfit):
                    rejects.append(Reject(uid, texts.reason, texts.detail, f"positives[{r}]"))
                row.append([] if isinstance(texts, Unfit) else [{"text": text, "origin": "lexical"} for text in texts])
            positives.append(row)
        return keep(batch, {"positives": pa.array(positives, POSITIVES)}, items=rejects)

    def _texts(self, uid: str, r: int, setting: Any, phrase: Any) -> list[str] | Unfit:
        if isinstance(setting, Unfit) and setting.reason != "duplicate":  # a repeated expression is as true as the first
            return setting
        rng = seeded(uid, r, "positives " + phrase.text)
        denied = contrasts(phrase, rng)[:1] if self.negation else []
        texts = paraphrases(phrase, self.count - len(denied), rng) + denied
        return texts or Unfit("no_paraphrase", phrase.text)
