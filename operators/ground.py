"""Find the regions of a picture: boxes that came with the source, and boxes asked of the served model for phrases.

Reads    language, source_regions, phrases_en, phrases_zh   all may be missing; and the picture, when phrases are asked for
Writes   regions   REGIONS, best first: the source's by confidence, then the model's in the order of the phrases; [] if none
Refuses  single source regions and phrases, see `reasons`; never a sample
Source   FineHARD: boxes with confidence > 0.4 after NMS. Qwen2.5-VL answers in pixels of the picture it was sent; since the
         client resizes to `prompts.images.fit`, those pixels over the sent sides are exact fractions of the picture
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa
from PIL import Image
from pydantic import Field

from operators import answers, boxes
from operators.base import Ask, ModelOperator, Reject, schema
from operators.columns import PHRASE, REGIONS, SOURCE_REGION
from operators.validators import Finding, characters, wording
from operators.validators.language import HAN

EMPTY = re.compile(
    r"^(?:(?:the |an? )?(?:one|some|all|both|each|many|two|three|part|parts|none|most|several) of (?:them|it|these|those|which)"
    r"|it|its|they|them|this|that|these|those|he|she|him|her|who|which|there|something|nothing|everything|one|ones|others?"
    r"|它|它们|他|她|他们|她们|这|那|这个|那个|其中(?:一个|之一)?|一个|什么|谁)$",
    re.IGNORECASE,
)
"""Expressions that name nothing by themselves."""


@dataclass
class Candidate:
    """A box on its way to becoming a region; `item` says where it came from."""

    box: boxes.Box
    text: str
    head: str
    language: str
    score: float | None
    origin: str
    item: str


class Ground(ModelOperator):
    use_source_boxes: bool = True
    ask_model: bool = Field(True, description="ask the served model for boxes of the phrases")
    languages: tuple[Literal["en", "zh"], ...] = ("en", "zh")
    prompt: str = "ground"
    min_confidence: float = Field(0.4, ge=0, le=1, description="of source boxes that have a confidence; the model gives none")
    nms_iou: float = Field(0.7, gt=0, le=1, description="boxes of one language that overlap more are one region")
    min_area: float = Field(0.001, ge=0, le=1, description="share of the picture")
    max_area: float = Field(0.95, gt=0, le=1, description="of model boxes; a larger one is the picture, no region")
    max_regions: int = Field(16, ge=1, description="regions kept per picture and language")
    max_phrases: int = Field(24, ge=1, description="phrases asked for per picture and language, the first ones")
    phrases_per_request: int = Field(8, ge=1, le=24)
    several_boxes: Literal["all", "first", "drop"] = Field("all", description="what to do with a phrase that has several boxes")

    version: ClassVar[int] = 4
    needs_image: ClassVar[bool] = True
    reasons: ClassVar[dict[str, str]] = {
        **answers.REASONS,
        "confidence": "the source is not sure enough of it",
        "not_a_box": "not four numbers",
        "empty_box": "no area",
        "outside": "mostly outside the picture",
        "too_small": "smaller than min_area",
        "too_large": "nearly the whole picture",
        "text": "an expression that names nothing, or is no plain text",
        "absent": "the model found no such thing",
        "cut": "the answer ended before this phrase's turn",
        "several": "one phrase, several boxes, and the recipe wants one",
        "duplicate": "another region has this box, or another phrase this text",
        "degenerate": "the model gave one box for everything",
        "scale": "boxes of the answer are in no pixels of the picture that was sent",
        "over_limit": "more than max_regions or max_phrases",
    }

    @property
    def reads(self) -> pa.Schema:
        columns = {f"phrases_{name}": pa.list_(PHRASE) for name in self.languages} if self.ask_model else {}
        if self.use_source_boxes:
            columns |= {"language": pa.string(), "source_regions": pa.list_(SOURCE_REGION)}
        return schema(**columns)

    @property
    def optional(self) -> frozenset[str]:
        return frozenset(self.reads.names)

    @property
    def writes(self) -> pa.Schema:
        return schema(regions=REGIONS)

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if self.ask_model else []

    async def __call__(
        self, sample: dict[str, Any], image: Image.Image | None, ask: Ask
    ) -> tuple[dict[str, Any] | None, list[Reject]]:
        rejects: list[Reject] = []
        found: list[Candidate] = []
        if self.use_source_boxes:
            found += self._from_source(sample, rejects)
        if self.ask_model and image is not None:
            for asked in self.languages:
                found += await self._from_model(sample, asked, image, ask, rejects)
        regions: list[dict[str, Any]] = []
        for language in ("en", "zh"):
            regions += self._settle(sample["uid"], [c for c in found if c.language == language], rejects)
        return {"regions": regions}, rejects

    # Boxes that came with the source.

    def _from_source(self, sample: dict[str, Any], rejects: list[Reject]) -> list[Candidate]:
        kept = []
        for i, region in enumerate(sample.get("source_regions") or []):
            item = f"source_regions[{i}]"
            text = characters.clean(region.get("text") or "").replace("\n", " ")
            score = region.get("score")
            try:
                if score is not None and not score >= self.min_confidence:
                    raise boxes.BadBox("confidence", f"{score:.3f} < {self.min_confidence}")
                finding = expression(text)
                if finding:
                    raise boxes.BadBox(*finding)
                box = self._usable(boxes.numbers(region.get("box")), 1, 1, 1.0)
            except boxes.BadBox as error:
                rejects.append(Reject(sample["uid"], error.reason, str(error), item))
                continue
            language = sample.get("language") or ("zh" if HAN.search(text) else "en")
            kept.append(Candidate(box, text, "", language, score, "source", item))
        return sorted(kept, key=lambda c: -(c.score if c.score is not None else 1.0))

    # Boxes asked of the model.

    async def _from_model(
        self, sample: dict[str, Any], language: str, image: Image.Image, ask: Ask, rejects: list[Reject]
    ) -> list[Candidate]:
        """Candidates of one language. Distinct phrases are asked for in requests of `phrases_per_request`."""
        column = f"phrases_{language}"
        wanted: list[tuple[str, str, str]] = []  # item, text, head
        seen: set[str] = set()
        for i, phrase in enumerate(sample.get(column) or []):
            text = characters.clean(phrase.get("text") or "")
            finding = expression(text)
            if finding:
                rejects.append(Reject(sample["uid"], *finding, f"{column}[{i}]"))
            elif text.lower() in seen:
                rejects.append(Reject(sample["uid"], "duplicate", f"“{text}” was asked for already", f"{column}[{i}]"))
            elif len(wanted) == self.max_phrases:
                rejects.append(Reject(sample["uid"], "over_limit", f"more than {self.max_phrases} phrases", f"{column}[{i}]"))
            else:
                seen.add(text.lower())
                wanted.append((f"{column}[{i}]", text, phrase.get("head") or ""))
        if not wanted:
            return []
        width, height = boxes.sent_size(image.size, ask)
        found = []
        for start in range(0, len(wanted), self.phrases_per_request):
            batch = wanted[start : start + self.phrases_per_request]
            answer = await ask(self.prompt, {"phrases": [text for _, text, _ in batch]}, image)
            try:
                given, was_cut = answers.read_list(answer, "boxes")
                if was_cut and given and not _whole(given[-1]):
                    given = given[:-1]
                per_phrase = self._match(given, [text for _, text, _ in batch])
                _in_pixels(per_phrase, width, height)
            except answers.Unusable as error:
                rejects += [Reject(sample["uid"], error.reason, error.detail, item) for item, _, _ in batch]
                continue
            for (item, text, head), raw in zip(batch, per_phrase, strict=True):
                if not raw:
                    why = ("cut", "the answer ended before it") if was_cut else ("absent", "no box given")
                    rejects.append(Reject(sample["uid"], *why, item))
                    continue
                for box in self._boxes_of(sample["uid"], item, raw, width, height, rejects):
                    found.append(Candidate(box, text, head, language, None, "model", item))
        return self._not_degenerate(sample["uid"], found, rejects)

    @staticmethod
    def _match(given: list[Any], phrases: list[str]) -> list[list[Any]]:
        """The raw boxes of each phrase. The phrase is named by its number, or by its text as Qwen2.5-VL does unasked."""
        by_text = {bare(text): i for i, text in enumerate(phrases)}
        matched: list[list[Any]] = [[] for _ in phrases]
        strays = 0
        for entry in given:
            if not isinstance(entry, dict):
                strays += 1
                continue
            number, label = entry.get("phrase"), entry.get("label", entry.get("phrase"))
            if (isinstance(number, str) and re.fullmatch(r"\s*\d{1,3}\s*", number)) or (
                isinstance(number, float) and number % 1 == 0
            ):
                number = int(number)  # "2" and 2.0 name the second one too
            if isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= len(phrases):
                matched[number - 1].append(entry.get("bbox_2d"))
            elif isinstance(label, str) and bare(label) in by_text:
                matched[by_text[bare(label)]].append(entry.get("bbox_2d"))
            else:
                strays += 1
        if given and strays == len(given):
            raise answers.Unusable("wrong_shape", f"none of {len(given)} boxes names one of the {len(phrases)} phrases")
        return matched

    def _boxes_of(self, uid: str, item: str, raw: list[Any], width: int, height: int, rejects: list[Reject]) -> list[boxes.Box]:
        """The usable boxes of one phrase, as fractions, duplicates merged; its refusals go to `rejects`."""
        usable: list[boxes.Box] = []
        for value in raw:
            try:
                usable.append(self._usable(boxes.numbers(value), width, height, self.max_area))
            except boxes.BadBox as error:
                rejects.append(Reject(uid, error.reason, f"{error} (picture sent as {width} x {height})", item))
        distinct = [box for box, winner in zip(usable, boxes.suppress(usable, self.nms_iou), strict=True) if winner is None]
        if len(distinct) > 1 and self.several_boxes == "drop":
            rejects.append(Reject(uid, "several", f"{len(distinct)} boxes", item))
            return []
        return distinct[:1] if self.several_boxes == "first" else distinct

    def _usable(self, box: boxes.Box, width: float, height: float, max_area: float) -> boxes.Box:
        usable = boxes.repair(box, width, height)
        share = boxes.area(usable)
        if share < self.min_area:
            raise boxes.BadBox("too_small", f"{share:.5f} of the picture < {self.min_area}")
        if share > max_area:
            raise boxes.BadBox("too_large", f"{share:.3f} of the picture > {max_area}")
        return usable

    @staticmethod
    def _not_degenerate(uid: str, found: list[Candidate], rejects: list[Reject]) -> list[Candidate]:
        """A model that does not look answers with one and the same box for whatever it is asked."""
        things = {c.head.lower() or c.text.lower() for c in found}
        for candidate in found:
            same = {c.head.lower() or c.text.lower() for c in found if boxes.iou(c.box, candidate.box) > 0.95}
            if len(same) >= 3 and len(same) > len(things) / 2:
                detail = f"{len(same)} of {len(things)} different things got {boxes.show(candidate.box)}"
                rejects += [Reject(uid, "degenerate", detail, item) for item in sorted({c.item for c in found})]
                return []
        return found

    # Both together.

    def _settle(self, uid: str, found: list[Candidate], rejects: list[Reject]) -> list[dict[str, Any]]:
        """Suppress duplicates within one language. Two expressions of one thing become its short and long expression."""
        loses_to = boxes.suppress([c.box for c in found], self.nms_iou)
        longer = {i: c.text for i, c in enumerate(found)}
        for i, winner in enumerate(loses_to):
            if winner is None:
                continue
            rejects.append(Reject(uid, "duplicate", f"same box as {found[winner].item} “{found[winner].text}”", found[i].item))
            if same_thing(found[winner], found[i]) and len(found[i].text) > len(longer[winner]):
                longer[winner] = found[i].text
        kept = [i for i, winner in enumerate(loses_to) if winner is None]
        for i in kept[self.max_regions :]:
            rejects.append(Reject(uid, "over_limit", f"more than {self.max_regions} regions", found[i].item))
        return [
            {
                "box": list(found[i].box),
                "score": found[i].score,
                "short": found[i].text,
                "long": longer[i],
                "language": found[i].language,
                "origin": found[i].origin,
            }
            for i in kept[: self.max_regions]
        ]


def bare(text: str) -> str:
    """A phrase as an answer may write it: without case, and without the stops and quotes around it."""
    return text.strip(" \t\n.,;:!。，；：！\"'“”‘’").lower()


def _whole(entry: Any) -> bool:
    """Whether the entry at which an answer was cut has all four numbers of its box."""
    box = entry.get("bbox_2d") if isinstance(entry, dict) else None
    return isinstance(box, list) and len(box) == 4


def _in_pixels(per_phrase: list[list[Any]], width: int, height: int) -> None:
    """Unusable "scale" where a third of an answer's boxes reach a quarter beyond the picture: such an answer counts in other units
    (thousandths, pixels of the unscaled picture), and its boxes that happen to lie inside are as wrong as the others. So does one
    whose boxes all lie within the first pixel: these are fractions."""
    whole = []
    for value in (value for raw in per_phrase for value in raw):
        try:
            whole.append(boxes.numbers(value))
        except boxes.BadBox:
            continue
    beyond = [box for box in whole if max(box[0], box[2]) > 1.25 * width or max(box[1], box[3]) > 1.25 * height]
    if any(map(any, whole)) and all(max(map(abs, box)) <= 1 for box in whole):
        raise answers.Unusable("scale", f"boxes in fractions of the picture, e.g. {boxes.show(whole[0])}")
    if len(whole) > 1 and 3 * len(beyond) >= len(whole):
        detail = f"{len(beyond)} of {len(whole)} boxes lie beyond {width} x {height}, e.g. {boxes.show(beyond[0])}"
        raise answers.Unusable("scale", detail)


def expression(text: str) -> Finding | None:
    """Whether a text can stand beside a box: plain words that name something."""
    if len(text) > 200:  # first, since the searches below take long in a megabyte
        return "text", f"{len(text)} characters"
    finding = characters.control_characters(text) or wording.markup(text) or wording.injection(text)
    if finding:
        return "text", f"{finding[0]}: {finding[1]}"
    letters = sum(c.isalpha() for c in text)
    if (letters < 2 and not HAN.search(text)) or letters < len(text) / 3:
        return "text", f"no words: {answers.excerpt(text)}"
    if EMPTY.match(text.strip(" .,。，")):
        return "text", f"names nothing: {answers.excerpt(text)}"
    return None


def same_thing(a: Candidate, b: Candidate) -> bool:
    """Whether two expressions of one box speak of the same thing: the same head noun, or one contains the other."""
    first, second = a.text.lower(), b.text.lower()
    return bool(a.head and a.head.lower() == b.head.lower()) or first in second or second in first
