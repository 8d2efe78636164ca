"""Ten hard negatives for each region's expression, written by the served model, each judged by its words, and mended.

Reads    regions     REGIONS
Writes   negatives   NEGATIVES, aligned with `regions`: exactly ten, or none
Refuses  single texts as items "negatives[r][k]" (k counts what the model wrote for the region) and groups as items "negatives[r]";
         see `reasons`
Source   FineGen's generate-verify-correct; FineHARD: ten per region by a language model, attributes changed, object kept

The model is asked for ten rewritings of the text around which the lexicon's own group is gathered, in the families that it changes:
of the expression, or (`pivot`) of a negative, which then stands in the group too. So the positive is not always the text from which the
others were made. What cannot be used is told to the model, up to `corrections` times; what is then still missing is filled from the
lexicon, or there is no group. Words alone decide here; `verify_negatives` looks at the picture.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pyarrow as pa
from PIL import Image
from pydantic import Field

from operators import answers
from operators.base import Answer, Ask, ModelOperator, Reject, schema
from operators.columns import NEGATIVES, REGIONS
from operators.hard_negatives import HardNegatives
from operators.needs import Need, chinese_tagger, english_parser
from operators.perturb import chinese, english, regions
from operators.perturb.group import SIZE
from operators.perturb.inflect import mend_articles
from operators.perturb.judge import judge
from operators.perturb.phrase import Phrase
from operators.perturb.regions import Setting, Unfit, families_of, normal
from operators.perturb.words import Words, seeded
from operators.validators import Finding, characters, language, wording
from operators.validators.sentences import split

LONGEST = 200
"""Characters; the schema allows 160, but a server need not keep to it."""
MOST = 3 * SIZE
"""Texts of one answer that are looked at; the schema allows ten."""


@dataclass
class Group:
    """A group that grows. refused: (text, reason) of what the model wrote in vain."""

    setting: Setting
    negatives: list[dict[str, Any]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    written: int = 0

    def texts(self) -> list[str]:
        return [negative["text"] for negative in self.negatives]


class ModelNegatives(Words, ModelOperator):
    engine: Literal["llm", "mixed"] = "mixed"
    """llm: the model writes all, but for the one that it rewrites (`pivot`); mixed: half of each group is the lexicon's."""
    pivot: float = Field(0.9, ge=0, le=1)
    """Share of regions where the model rewrites a negative of the lexicon's instead of the positive (10/11 hides it best)."""
    corrections: int = Field(1, ge=0, le=5)
    """How often the model is told what was wrong and asked for the missing ones."""
    fill: Literal["lexical", "none"] = "lexical"
    """What becomes of a group that is then still short: filled from the lexicon, or none."""
    unknown_words: Literal["refuse", "keep"] = "refuse"
    """Changed words that the lexicon does not know are neither surely false nor surely fluent; keep them where a later stage looks."""
    prompt: str = "hard_negatives"
    correct_prompt: str = "correct_negatives"

    version: ClassVar[int] = 9
    reasons: ClassVar[dict[str, str]] = {
        **answers.REASONS,
        **regions.UNFIT,
        "no_attribute": "the expression has no attribute that can be changed",
        "too_few": "fewer than ten usable texts after all corrections",
        "synonym": "says the same in other words",
        "not_false": "may be true beside the positive (a wider, narrower or neighbouring word)",
        "unchanged": "the expression itself",
        "object_changed": "another object instead of another attribute",
        "unknown": "changes words that the lexicon does not know",
        "disfluent": "broken language",
        "multi_family": "changes more families than the recipe allows",
        "family": "changes a family that the recipe does not allow",
        "overlap": "may be true of an overlapping box of the same kind of thing",
        "repeated": "says what another text of the group says",
        "not_text": "an entry that is no text, or blank",
        "control_chars": "control, bidi or broken characters",
        "injection": "instructions or addresses",
        "markup": "lists, tags, code or other markup",
        "meta": "talk about the task",
        "hedged": "leaves open what is there",
        "other_language": "not in the expression's language",
    }

    @property
    def reads(self) -> pa.Schema:
        return schema(regions=REGIONS)

    @property
    def writes(self) -> pa.Schema:
        return schema(negatives=NEGATIVES)

    @property
    def prompts(self) -> list[str]:
        return [self.prompt, self.correct_prompt] if self.corrections else [self.prompt]

    def needs(self) -> list[Need]:
        return [english_parser(), chinese_tagger()]

    def setup(self) -> None:
        english.nlp()
        chinese.tagger()

    async def __call__(
        self, sample: dict[str, Any], image: Image.Image | None, ask: Ask
    ) -> tuple[dict[str, Any] | None, list[Reject]]:
        found = sample.get("regions") or []
        (parsed,) = regions.parse([found])
        groups: list[list[dict[str, Any]]] = []
        rejects: list[Reject] = []
        for r in range(len(found)):
            place = regions.setting(r, found, parsed, self.overlap)
            made = place if isinstance(place, Unfit) else await self._group(sample["uid"], r, place, ask, rejects)
            if isinstance(made, Unfit):
                rejects.append(Reject(sample["uid"], made.reason, made.detail, f"negatives[{r}]"))
            groups.append([] if isinstance(made, Unfit) else made)
        return {"negatives": groups}, rejects

    async def _group(self, uid: str, r: int, setting: Setting, ask: Ask, rejects: list[Reject]) -> list[dict[str, Any]] | Unfit:
        phrase = setting.phrase
        rng = seeded(uid, r, "model " + phrase.text)
        kinds = families_of(phrase, self.families)
        if not kinds:
            return Unfit("no_attribute", phrase.text)
        lexical = self._lexical().group(uid, r, setting)
        drawn = lexical if isinstance(lexical, list) else []
        if drawn:
            changed = {negative["family"] for negative in drawn}
            kinds = [kind for kind in kinds if kind in changed]
        centre = self._centre(setting, drawn, rng)
        group = Group(setting, [centre] if centre else [])
        wanted = SIZE // 2 + len(group.negatives) if self.engine == "mixed" else SIZE
        basis = centre["text"] if centre else phrase.text
        variables: dict[str, Any] = {"families": ", ".join(kinds), "phrase": basis}
        await self._take(uid, r, group, wanted, self.prompt, variables, ask, rejects)
        for _ in range(self.corrections):
            if len(group.negatives) >= wanted:
                break
            again = {
                **variables,
                "count": wanted - len(group.negatives),
                "refused": [f"{text} ({self.reasons[reason]})" for text, reason in group.refused[-SIZE:]],
                "taken": group.texts(),
            }
            await self._take(uid, r, group, wanted, self.correct_prompt, again, ask, rejects)
        if self.engine == "mixed" or self.fill == "lexical":
            self._fill(group, drawn, rng)
        if len(group.negatives) < SIZE:
            return Unfit("too_few", f"{len(group.negatives)} of {SIZE} for {phrase.text!r}")
        rng.shuffle(group.negatives)
        return group.negatives

    def _centre(self, setting: Setting, drawn: Sequence[dict[str, Any]], rng: random.Random) -> dict[str, Any] | None:
        """The negative around which a group of the lexicon's is gathered: it shares most words with the others. None where that is
        the positive; where all eleven differ in one place alone, each is as good as another, and `pivot` decides."""
        single = self.single_changes(setting)
        made = [single.get(normal(negative["text"])) for negative in drawn]
        if all(made):
            places = {i for change in made for i in change or ()}
            return rng.choice(drawn) if len(places) == 1 and rng.random() < self.pivot else None
        bags = [set(n["text"].split() if setting.phrase.language == "en" else n["text"]) for n in drawn]
        shared = [sum(len(bag & other) for other in bags) for bag in bags]
        return drawn[shared.index(max(shared))]

    def _lexical(self) -> HardNegatives:
        shared = {name: getattr(self, name) for name in Words.model_fields}
        return HardNegatives(pivot=self.pivot, **shared)

    async def _take(
        self,
        uid: str,
        r: int,
        group: Group,
        wanted: int,
        prompt: str,
        variables: dict[str, Any],
        ask: Ask,
        rejects: list[Reject],
    ) -> None:
        """Ask once and add what can be used, up to `wanted` in the group."""
        try:
            texts = read_texts(await ask(prompt, variables))
        except answers.Unusable as error:
            rejects.append(Reject(uid, error.reason, error.detail, f"negatives[{r}].{prompt}"))
            return
        for raw in texts:
            if len(group.negatives) >= wanted:
                return
            text, family, finding = self.judge(raw, group.setting, group.texts())
            if finding:
                rejects.append(Reject(uid, *finding, f"negatives[{r}][{group.written}]"))
                if finding[0] in (
                    "synonym",
                    "not_false",
                    "unchanged",
                    "object_changed",
                    "disfluent",
                    "multi_family",
                    "overlap",
                ):
                    group.refused.append((text, finding[0]))
            else:
                group.negatives.append(group.setting.written(text, family))
            group.written += 1

    def judge(self, raw: Any, setting: Setting, taken: list[str]) -> tuple[str, str, Finding | None]:
        """The text of one entry, the family it changes, and why it cannot be used, if so."""
        if not isinstance(raw, str) or not raw.strip():
            return "", "", ("not_text", answers.excerpt(str(raw)[:100]))
        if len(raw) > LONGEST:
            return "", "", ("too_long", f"{len(raw):,} characters > {LONGEST}")
        phrase, text = setting.phrase, characters.clean(raw).replace("\n", " ")
        finding = (
            characters.control_characters(text)
            or wording.injection(text)
            or wording.markup(text)
            or wording.refusal(text)
            or wording.meta_talk(text)
            or wording.hedged(text)
            or _script(text, phrase)
            or _told_more(text, phrase)
        )
        if finding:
            return text, "", finding
        text = _dressed(text, phrase)
        verdict = judge(phrase.text, text, phrase.language)
        reason = verdict.refusal(self.families_changed)
        if reason == "unknown" and self.unknown_words == "keep" and not verdict.disfluent:
            reason = None
        family = (verdict.families or tuple(families_of(phrase, self.families)))[0]
        if reason:
            return text, family, (reason, f"{answers.excerpt(text)}: {'; '.join(verdict.why + verdict.disfluent)[:300]}")
        outside = [name for name in verdict.families if name not in self.families]
        if outside:
            return text, family, ("family", f"{answers.excerpt(text)}: {outside[0]}")
        if normal(text) in {normal(other) for other in taken}:
            return text, family, ("repeated", answers.excerpt(text))
        if setting.near and setting.written_may_hold(text):
            return text, family, ("overlap", answers.excerpt(text))
        return text, family, None

    def _fill(self, group: Group, drawn: list[dict[str, Any]], rng: random.Random) -> None:
        taken = {normal(text) for text in group.texts()}
        for negative in rng.sample(drawn, len(drawn)):
            if len(group.negatives) < SIZE and normal(negative["text"]) not in taken:
                group.negatives.append(negative)
                taken.add(normal(negative["text"]))
        if len(group.negatives) < SIZE:
            for negative in self.others(group.setting, group.texts(), None, rng):
                group.negatives.append(negative)
                if len(group.negatives) == SIZE:
                    return


def read_texts(answer: Answer) -> list[Any]:
    """The texts of an answer, a cut last one left out, no more than anyone could have meant."""
    texts, _ = answers.read_list(answer, "texts")
    return texts[:MOST]


def _told_more(text: str, phrase: Phrase) -> Finding | None:
    """A second sentence, which would tell a negative from its expression whatever it says."""
    more = len(split(text)) > len(split(phrase.text))
    return ("disfluent", f"{answers.excerpt(text)}: a sentence more than the expression has") if more else None


def _script(text: str, phrase: Phrase) -> Finding | None:
    finding = language.script(text, phrase.language)
    return ("other_language", finding[1]) if finding else None


def _dressed(text: str, phrase: Phrase) -> str:
    """The text with the expression's first capital and last stop, which models add and lose and which would tell it apart; and with
    every "a" and "an" as the next word wants it."""
    if phrase.text[-1:] not in ".。!！" and text[-1:] in ".。":
        text = text[:-1].rstrip()
    elif phrase.text[-1:] in ".。" and text[-1:] not in ".。!！":
        text += phrase.text[-1]
    if phrase.language == "en" and phrase.text[:1].isalpha() and not text[1:2].isupper():
        text = (text[0].upper() if phrase.text[0].isupper() else text[0].lower()) + text[1:]
    return mend_articles(text) if phrase.language == "en" else text
