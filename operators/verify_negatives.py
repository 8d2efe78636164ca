"""Have the served model look at each region again and say which of its ten hard negatives are true of it after all.

Reads    regions     REGIONS
         negatives   NEGATIVES, aligned with `regions`
Writes   negatives   the same; each text that the model found false gains the flag "verified". A group with a text that it found true is
         emptied, or with on_true: flag kept, that text flagged "doubtful"
Refuses  groups as items "negatives[r]", and verdicts that cannot be used as items "negatives[r].verdicts": that group then stays as it
         is, unflagged
Source   FineGen's generate-verify loop: 96.7 % valid negatives are still only 0.967^10 = 72 % wholly clean groups, so a group is
         judged as a whole
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, ClassVar, Literal

import pyarrow as pa
from PIL import Image
from pydantic import Field

from operators import answers, boxes
from operators.base import Ask, ModelOperator, Reject, schema
from operators.columns import NEGATIVES, REGIONS

GROUP = 10


class VerifyNegatives(ModelOperator):
    prompt: str = "verify_negatives"
    on_true: Literal["drop_group", "flag"] = "drop_group"
    check_positive: bool = Field(
        False, description="ask once more, with the positive in the place of one text: it must be found true"
    )

    version: ClassVar[int] = 1
    needs_image: ClassVar[bool] = True
    reasons: ClassVar[dict[str, str]] = {
        **answers.REASONS,
        "true": "the model finds a negative true of its region",
        "wrong_positive": "the model finds the positive false of its region",
        "degenerate": "the model finds every text true, as one that does not look would",
        "no_picture": "there is no picture to look at",
    }

    @property
    def reads(self) -> pa.Schema:
        return schema(regions=REGIONS, negatives=NEGATIVES)

    @property
    def writes(self) -> pa.Schema:
        return schema(negatives=NEGATIVES)

    @property
    def prompts(self) -> list[str]:
        return [self.prompt]

    async def __call__(
        self, sample: dict[str, Any], image: Image.Image | None, ask: Ask
    ) -> tuple[dict[str, Any] | None, list[Reject]]:
        uid = sample["uid"]
        rejects: list[Reject] = []
        groups: list[list[dict[str, Any]]] = []
        regions = sample.get("regions") or []
        for r, (region, group) in enumerate(zip(regions, sample.get("negatives") or [[]] * len(regions), strict=True)):
            item = f"negatives[{r}]"
            if not group:
                groups.append([])
                continue
            if image is None:
                rejects.append(Reject(uid, "no_picture", "", f"{item}.verdicts"))
                groups.append(group)
                continue
            try:
                kept, finding = await self._judge(uid, region, group, image, ask)
            except answers.Unusable as error:
                rejects.append(Reject(uid, error.reason, error.detail, f"{item}.verdicts"))
                kept, finding = group, None
            if finding:
                rejects.append(Reject(uid, *finding, item))
            groups.append(kept)
        return {"negatives": groups}, rejects

    async def _judge(
        self, uid: str, region: dict[str, Any], group: list[dict[str, Any]], image: Image.Image, ask: Ask
    ) -> tuple[list[dict[str, Any]], tuple[str, str] | None]:
        """What becomes of one group, and why it was emptied if it was."""
        box = boxes.to_pixels(region["box"], *boxes.sent_size(image.size, ask))
        texts = [negative["text"] for negative in group]
        verdicts = answers.read_verdicts(await ask(self.prompt, {"box": box, "texts": texts}, image), GROUP)
        if all(verdicts):
            raise answers.Unusable("degenerate", "all ten texts found true")
        if self.check_positive:
            # The place is fixed by the sample, so that the same question is asked again and found in the answer store.
            place = sha256(f"{uid}{region['short']}".encode()).digest()[0] % GROUP
            probe = [*texts[:place], region["short"], *texts[place + 1 :]]
            if not answers.read_verdicts(await ask(self.prompt, {"box": box, "texts": probe}, image), GROUP)[place]:
                return [], ("wrong_positive", answers.excerpt(region["short"]))
        wrong = [text for text, true in zip(texts, verdicts, strict=True) if true]
        if wrong and self.on_true == "drop_group":
            return [], ("true", "; ".join(map(answers.excerpt, wrong)))
        flagged = [
            {**negative, "flags": [*(negative.get("flags") or []), "doubtful" if true else "verified"]}
            for negative, true in zip(group, verdicts, strict=True)
        ]
        return flagged, None
