"""Find the regions of a picture with an open-vocabulary detector: boxes for the phrases of its caption. `ground`'s other engine.

Reads    phrases_en   list<PHRASE>; and the picture
Writes   regions      REGIONS, surest first
Refuses  single phrases, with `ground`'s reasons; never a sample
Source   FineHARD, BoxClass-CN: boxes by an open-vocabulary detector, confidence > 0.4, then NMS. Their YOLO-World is not in
         transformers; here Grounding DINO, LLMDet (a Grounding DINO of the "mm" kind) or OWLv2, by the folder or name of the weights

These detectors read English. Give the stage GPUs: `resources: {gpus: 1, workers: [1, 8]}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal

import pyarrow as pa
from PIL import Image
from pydantic import Field

from operators import boxes
from operators.base import Operator, Outcome, Reject, keep, schema
from operators.columns import PHRASE, REGIONS
from operators.ground import Candidate, Ground, expression
from operators.needs import CONFIG, PROCESSOR, WEIGHTS, Need, hub_model
from operators.validators import characters

Found = tuple[int, float, boxes.Box]
"""Index of the phrase, confidence, box in fractions of the picture."""


MIN_SIDE, MAX_ASPECT = 16, 10
"""Beyond these the detectors' own resizing leaves no pixels of one side."""


class Detect(Operator):
    model: str = "IDEA-Research/grounding-dino-base"
    """Folder of the weights, or their name on the model hub: Grounding DINO, LLMDet ("iSEE-Laboratory/llmdet_base") or OWLv2."""
    device: str = "auto"
    min_confidence: float = Field(0.4, ge=0, le=1, description="a box is kept above it")
    nms_iou: float = Field(0.7, gt=0, le=1, description="boxes that overlap more are one region: the surest")
    min_area: float = Field(0.001, ge=0, le=1, description="share of the picture")
    max_area: float = Field(0.95, gt=0, le=1)
    max_regions: int = Field(16, ge=1)
    max_phrases: int = Field(24, ge=1)
    phrases_per_request: int = Field(8, ge=1, le=24, description="phrases that share one look at the picture")
    several_boxes: Literal["all", "first", "drop"] = Field("all", description="what to do with a phrase that has several boxes")

    version: ClassVar[int] = 2
    needs_image: ClassVar[bool] = True
    reasons: ClassVar[dict[str, str]] = {
        name: Ground.reasons[name]
        for name in ("empty_box", "outside", "too_small", "too_large", "text", "absent", "several", "duplicate", "over_limit")
    } | {"picture": "the picture is too small or too elongated for a detector"}

    @property
    def reads(self) -> pa.Schema:
        return schema(phrases_en=pa.list_(PHRASE))

    @property
    def writes(self) -> pa.Schema:
        return schema(regions=REGIONS)

    def needs(self) -> list[Need]:
        return [hub_model("model", "detector", self.model, CONFIG, WEIGHTS, PROCESSOR)]

    def setup(self) -> None:
        load(self.model, self.device)

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        assert images is not None
        rejects: list[Reject] = []
        regions = [
            self._regions(uid, phrases or [], image, rejects)
            for uid, phrases, image in zip(batch["uid"].to_pylist(), batch["phrases_en"].to_pylist(), images, strict=True)
        ]
        return keep(batch.select(["uid"]), {"regions": pa.array(regions, REGIONS)}, items=rejects)

    def _regions(
        self, uid: str, phrases: list[dict[str, Any]], image: Image.Image, rejects: list[Reject]
    ) -> list[dict[str, Any]]:
        asked: list[tuple[str, str, str]] = []  # item, text, head
        for i, phrase in enumerate(phrases):
            item, text = f"phrases_en[{i}]", characters.clean(phrase.get("text") or "")
            finding = expression(text)
            if finding:
                rejects.append(Reject(uid, *finding, item))
            elif len(asked) == self.max_phrases:
                rejects.append(Reject(uid, "over_limit", f"more than {self.max_phrases} phrases", item))
            else:
                asked.append((item, text, phrase.get("head") or ""))
        if asked and (min(image.size) < MIN_SIDE or max(image.size) > MAX_ASPECT * min(image.size)):
            rejects += [Reject(uid, "picture", f"{image.width} x {image.height}", item) for item, _, _ in asked]
            return []
        found: list[Candidate] = []
        detector = load(self.model, self.device) if asked else None
        for start in range(0, len(asked), self.phrases_per_request):
            part = asked[start : start + self.phrases_per_request]
            assert detector is not None
            boxes_of: list[list[tuple[float, boxes.Box]]] = [[] for _ in part]
            for number, score, box in detector.find(image, [text for _, text, _ in part], self.min_confidence):
                boxes_of[number].append((score, box))
            for (item, text, head), mine in zip(part, boxes_of, strict=True):
                if not mine:
                    rejects.append(Reject(uid, "absent", f"no box above {self.min_confidence:g}", item))
                found += [
                    Candidate(box, text, head, "en", score, "model", item)
                    for score, box in self._of_phrase(uid, item, sorted(mine, reverse=True), rejects)
                ]
        found.sort(key=lambda candidate: -(candidate.score or 0.0))
        return self._settler._settle(uid, found, rejects)

    def _of_phrase(
        self, uid: str, item: str, mine: list[tuple[float, boxes.Box]], rejects: list[Reject]
    ) -> list[tuple[float, boxes.Box]]:
        usable: list[tuple[float, boxes.Box]] = []
        for score, box in mine:
            try:
                usable.append((score, self._settler._usable(box, 1, 1, self.max_area)))
            except boxes.BadBox as error:
                rejects.append(Reject(uid, error.reason, str(error), item))
        winners = boxes.suppress([box for _, box in usable], self.nms_iou)
        distinct = [one for one, winner in zip(usable, winners, strict=True) if winner is None]
        if len(distinct) > 1 and self.several_boxes == "drop":
            rejects.append(Reject(uid, "several", f"{len(distinct)} boxes", item))
            return []
        return distinct[:1] if self.several_boxes == "first" else distinct

    @property
    def _settler(self) -> Ground:
        """`ground` with this engine's limits: both engines settle boxes by the same rules."""
        return Ground.model_validate(
            {"nms_iou": self.nms_iou, "min_area": self.min_area, "max_area": self.max_area, "max_regions": self.max_regions}
        )


class Detector:
    """A detector of transformers, whichever kind the weights are."""

    def __init__(self, name: str, device: str) -> None:
        import torch
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        self._torch = torch
        self._device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        try:
            self._processor: Any = AutoProcessor.from_pretrained(name)
            self._model: Any = AutoModelForZeroShotObjectDetection.from_pretrained(name).eval().to(self._device)
        except (OSError, ValueError) as error:
            raise RuntimeError(
                f"no detector {name!r}: neither a folder with its weights nor a name that the model hub answers to. "
                "Set `model` to a local folder"
            ) from error
        self._grounding = "dino" in self._model.config.model_type

    def find(self, image: Image.Image, phrases: list[str], threshold: float) -> list[Found]:
        """Boxes of each phrase above the threshold, in no order."""
        with self._torch.inference_mode():
            return (self._by_tokens if self._grounding else self._by_queries)(image, phrases, threshold)

    def _by_queries(self, image: Image.Image, phrases: list[str], threshold: float) -> list[Found]:
        """OWL: a class per phrase; a box belongs to its best one."""
        inputs = self._processor(text=[phrases], images=image, return_tensors="pt", truncation=True).to(self._device)
        outputs = self._model(**inputs)
        (made,) = self._processor.post_process_grounded_object_detection(outputs, threshold, [(image.height, image.width)])
        sides = (image.width, image.height, image.width, image.height)
        return [
            (int(label), float(score), tuple(x / side for x, side in zip(box, sides, strict=True)))  # type: ignore[misc]
            for label, score, box in zip(made["labels"], made["scores"], made["boxes"].tolist(), strict=True)
        ]

    def _by_tokens(self, image: Image.Image, phrases: list[str], threshold: float) -> list[Found]:
        """Grounding DINO: one text of all phrases, scores per token; a phrase's score is that of its best token."""
        plain = [phrase.lower().replace(".", " ") for phrase in phrases]
        text = ". ".join(plain) + "."
        inputs = self._processor(text=text, images=image, return_tensors="pt").to(self._device)
        outputs = self._model(**inputs)
        offsets = self._processor.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        scores = self._torch.sigmoid(outputs.logits[0])[:, : len(offsets)]
        found: list[Found] = []
        start = 0
        for number, phrase in enumerate(plain):
            end = start + len(phrase)
            mine = [i for i, (a, b) in enumerate(offsets) if start <= a < b <= end and i < scores.shape[1]]
            start = end + 2
            if not mine:
                continue
            best = scores[:, mine].max(dim=1).values
            for row in (best > threshold).nonzero()[:, 0].tolist():
                x, y, w, h = outputs.pred_boxes[0, row].tolist()
                found.append((number, float(best[row]), (x - w / 2, y - h / 2, x + w / 2, y + h / 2)))
        return found


@lru_cache(maxsize=1)
def load(name: str, device: str) -> Detector:
    return Detector(name, device)
