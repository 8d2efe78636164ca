"""Look at each region again: which of its ten hard negatives are true of it after all? Those are replaced, and looked at too.

Reads    regions     REGIONS
         negatives   NEGATIVES, aligned with `regions`
         positive_scores, negative_scores   from `score_negatives`; may be missing
Writes   negatives   the same, true ones replaced; a text that the model found false gains the flag "verified"
Refuses  single texts as items "negatives[r][k]", groups as items "negatives[r]", and verdicts that cannot be used as items
         "negatives[r].verdicts": what they were about is then kept unflagged, or not (`unverified`)
Source   FineGen's generate-verify-correct loop: 96.7 % valid negatives are still only 0.967^10 = 72 % wholly clean groups

A cascade, the cheap before the dear: the words (synonyms, wider words, a neighbour that bears them), a CLIP model's scores, and the
served model, asked once per region for ten verdicts. What is found true gives its place to another text, at most `corrections` times.
A negative made from a wrong positive may be true, so the positive is asked about too, among nine of its negatives. What only a wrong
one says is not present elsewhere.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pyarrow as pa
from PIL import Image
from pydantic import Field

from operators import answers, boxes
from operators.base import Ask, ModelOperator, Reject, schema
from operators.columns import NEGATIVES, REGIONS
from operators.needs import Need, chinese_tagger, english_parser
from operators.perturb import chinese, english, regions
from operators.perturb.group import SIZE
from operators.perturb.judge import judge
from operators.perturb.regions import Setting, Unfit, normal
from operators.perturb.words import Words, seeded

SCORES = pa.list_(pa.float32())


@dataclass
class Case:
    """One group under examination.

    verified   places whose text the model found false
    settled    places that are not asked about: flagged as doubtful, or filled at the end
    gone       texts that were found true, or that had to leave: never to be used again
    """

    uid: str
    r: int
    region: dict[str, Any]
    setting: Setting | None
    group: list[dict[str, Any]]
    rng: random.Random
    rejects: list[Reject]
    verified: set[int] = field(default_factory=set)
    settled: set[int] = field(default_factory=set)
    gone: list[str] = field(default_factory=list)

    def refuse(self, place: int, reason: str, detail: str) -> None:
        text = answers.excerpt(self.group[place]["text"])
        self.rejects.append(Reject(self.uid, reason, f"{text}: {detail}" if detail else text, f"negatives[{self.r}][{place}]"))


class Refused(Exception):
    """The whole group goes."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


class VerifyNegatives(Words, ModelOperator):
    prompt: str = "verify_negatives"
    words: bool = True
    """Let the words decide first; without it the model is asked about every text."""
    check_positive: bool = True
    """Ask whether the expression itself is true; if not, the group goes."""
    corrections: int = Field(2, ge=0, le=10)
    """How often texts that were found true are replaced and the new ones looked at."""
    then: Literal["drop_group", "fill", "flag"] = "drop_group"
    """What becomes of a group in which texts are still found true: none; filled with texts that nobody looked at, without the flag
    "verified"; or kept, those texts flagged "doubtful"."""
    unverified: Literal["keep", "drop"] = "drop"
    """What becomes of a group whose verdicts cannot be used: kept without the flag "verified", or none."""
    min_positive_score: float = Field(-1.0, ge=-1, le=1)
    """Least CLIP score of the expression in its box, where there are scores; 0.15 is FineHARD's."""
    max_advantage: float = Field(2.0, ge=0, le=2)
    """By how much a negative's CLIP score may exceed the expression's, where there are scores; 2 lets all pass."""

    version: ClassVar[int] = 9
    needs_image: ClassVar[bool] = True
    reasons: ClassVar[dict[str, str]] = {
        **answers.REASONS,
        "true": "the model finds a negative true of its region",
        "synonym": "says the same in other words",
        "not_false": "may be true beside the positive (a wider, narrower or neighbouring word)",
        "unchanged": "the expression itself",
        "object_changed": "another object instead of another attribute",
        "overlap": "may be true of an overlapping box of the same kind of thing",
        "clip": "fits its box better than the expression does",
        "repeated": "says what another text of the group says",
        "wrong_positive": "the expression is not true of its box",
        "contradiction": "the expression contradicts itself, or another expression for the same box",
        "degenerate": "the model finds all ten texts true, as one that does not look would",
        "no_picture": "there is no picture to look at",
        "wrong_size": "not ten texts",
    }

    @property
    def reads(self) -> pa.Schema:
        return schema(regions=REGIONS, negatives=NEGATIVES, positive_scores=SCORES, negative_scores=pa.list_(SCORES))

    @property
    def optional(self) -> frozenset[str]:
        return frozenset({"positive_scores", "negative_scores"})

    @property
    def writes(self) -> pa.Schema:
        return schema(negatives=NEGATIVES)

    @property
    def prompts(self) -> list[str]:
        return [self.prompt]

    def needs(self) -> list[Need]:
        return [english_parser(), chinese_tagger()]

    def setup(self) -> None:
        english.nlp()
        chinese.tagger()

    async def __call__(
        self, sample: dict[str, Any], image: Image.Image | None, ask: Ask
    ) -> tuple[dict[str, Any] | None, list[Reject]]:
        uid, found = sample["uid"], sample.get("regions") or []
        rejects: list[Reject] = []
        groups: list[list[dict[str, Any]]] = []
        wrong: set[int] = set()
        (parsed,) = regions.parse([found])
        for r, (region, group) in enumerate(zip(found, sample.get("negatives") or [[]] * len(found), strict=True)):
            if not group:
                groups.append([])
                continue
            place = regions.setting(r, found, parsed, self.overlap)
            rng = seeded(uid, r, f"verify {region['short']}")
            case = Case(uid, r, region, None if isinstance(place, Unfit) else place, [dict(n) for n in group], rng, rejects)
            try:
                if isinstance(place, Unfit) and place.reason == "contradiction":
                    raise Refused(place.reason, place.detail)
                self._by_words(case)
                self._by_scores(case, sample)
                groups.append(await self._by_model(case, image, ask))
            except Refused as refusal:
                wrong |= {r} if refusal.reason == "wrong_positive" else set()
                rejects.append(Reject(uid, refusal.reason, refusal.detail, f"negatives[{r}]"))
                groups.append([])
        if wrong:
            believed = [None if r in wrong else phrase for r, phrase in enumerate(parsed)]
            for r in (r for r, group in enumerate(groups) if group):
                _unflag(groups[r], regions.setting(r, found, believed, self.overlap))
        return {"negatives": groups}, rejects

    def _by_words(self, case: Case) -> None:
        """What the words alone show to be true, or no negative of this object, is replaced."""
        if len(case.group) != SIZE:
            raise Refused("wrong_size", f"{len(case.group)} of {SIZE}")
        if case.setting is None or not self.words:
            return
        seen: set[str] = set()
        for place, negative in enumerate(case.group):
            text, phrase = negative["text"], case.setting.phrase
            if "inserted" in (negative["flags"] or []) or "negation" in (negative["flags"] or []):
                continue  # made by rules of their own
            verdict = judge(phrase.text, text, phrase.language)
            reason, detail = verdict.truth, "; ".join(verdict.why)
            if reason in ("false", "unknown"):
                overlaps = bool(case.setting.near) and case.setting.written_may_hold(text)
                reason, detail = "repeated" if normal(text) in seen else "overlap" if overlaps else "", ""
            seen.add(normal(text))
            if reason:
                case.refuse(place, reason, detail)
                self._replace(case, place, reason)

    def _by_scores(self, case: Case, sample: dict[str, Any]) -> None:
        own = (sample.get("positive_scores") or {case.r: None})[case.r]
        if own is None:
            return
        if own < self.min_positive_score:
            detail = f"CLIP {own:.3f} < {self.min_positive_score} for {answers.excerpt(case.region['short'])}"
            raise Refused("wrong_positive", detail)
        for place, score in enumerate(sample["negative_scores"][case.r]):
            scored = sample["negatives"][case.r][place]["text"] == case.group[place]["text"]
            if scored and score > own + self.max_advantage and place not in case.settled:
                case.refuse(place, "clip", f"{score:.3f} > {own:.3f} + {self.max_advantage}")
                self._replace(case, place, "clip")

    async def _by_model(self, case: Case, image: Image.Image | None, ask: Ask) -> list[dict[str, Any]]:
        try:
            if image is None:
                raise answers.Unusable("no_picture", "")
            await self._look(case, image, ask)
        except answers.Unusable as error:
            if self.unverified == "drop":
                raise Refused(error.reason, error.detail) from None
            case.rejects.append(Reject(case.uid, error.reason, error.detail, f"negatives[{case.r}].verdicts"))
        flags = {place: "verified" for place in case.verified}
        if self.then == "flag":
            flags |= {place: "doubtful" for place in case.settled}
        return [
            {**negative, "flags": [*(negative["flags"] or []), flags[i]]} if i in flags else negative
            for i, negative in enumerate(case.group)
        ]

    async def _look(self, case: Case, image: Image.Image, ask: Ask) -> None:
        """Ask, replace and ask again, until every text has been found false and the expression true."""
        box = boxes.to_pixels(case.region["box"], *boxes.sent_size(image.size, ask))
        positive_known = not self.check_positive
        for turn in range(self.corrections + 2):
            asked = [i for i in range(SIZE) if i not in case.verified and i not in case.settled]
            if not asked and positive_known:
                return
            texts = [negative["text"] for negative in case.group]
            probe = None
            if not positive_known and len(asked) < SIZE:
                # In the place of a text that needs no verdict; drawn by the sample, so that the same question is asked again.
                probe = case.rng.choice([i for i in range(SIZE) if i not in asked])
                texts[probe] = case.region["short"]
            verdicts = answers.read_verdicts(await ask(self.prompt, {"box": box, "texts": texts}, image), SIZE)
            if all(verdicts):
                raise Refused("degenerate", "all ten texts found true")
            if probe is not None and not verdicts[probe]:
                raise Refused("wrong_positive", answers.excerpt(case.region["short"]))
            positive_known = positive_known or probe is not None
            true = [i for i in asked if verdicts[i]]
            case.verified |= {i for i in asked if not verdicts[i]}
            for place in true:
                case.refuse(place, "true", f"look {turn + 1}")
            if true and turn >= self.corrections:
                if self.then == "drop_group":
                    raise Refused("true", "; ".join(answers.excerpt(case.group[i]["text"]) for i in true))
                case.settled |= set(true)
            for place in true:
                self._replace(case, place, "true")

    def _replace(self, case: Case, place: int, reason: str) -> None:
        """Another text of the lexicon's in this place, or the group goes."""
        text = case.group[place]["text"]
        case.gone.append(text)
        if self.then == "flag":
            case.settled.add(place)
            return
        group = [negative["text"] for negative in case.group]
        others = self.others(case.setting, group, place, case.rng) if case.setting else iter(())
        gone = {normal(text) for text in case.gone}
        chosen = next((other for other in others if normal(other["text"]) not in gone), None)
        if chosen is None:
            raise Refused(reason, f"nothing left to put in the place of {answers.excerpt(text)}")
        case.group[place] = chosen


def _unflag(group: list[dict[str, Any]], setting: Setting | Unfit) -> None:
    """Take the flag "present_elsewhere" from what only expressions say that were found wrong."""
    for negative in group:
        flags = negative["flags"] or []
        if "present_elsewhere" in flags and not (isinstance(setting, Setting) and setting.written_elsewhere(negative["text"])):
            negative["flags"] = [flag for flag in flags if flag != "present_elsewhere"]
