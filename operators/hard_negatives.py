"""Ten attribute-perturbed hard negatives for each region's expression, made with a lexicon; English and Chinese.

Reads    regions     REGIONS: boxes, short expressions, language
Writes   negatives   NEGATIVES, aligned with `regions`: exactly ten, or none
Refuses  parts only, item "negatives[r]": see `reasons`
Source   FG-CLIP 2 §3 (ten per region, one attribute changed, object kept); how groups are hidden from attacks without a picture:
         operators/perturb/group.py

A negative is false for its own box: the new word surely excludes the old one (operators/lexicon), and no overlapping box of the
same kind of thing bears it. If it is true of something else in the picture it is kept and flagged "present_elsewhere".
Everything is drawn from a generator seeded by uid, region and text: the same sample gives the same negatives.

This is the lexical engine. `model_negatives` has them written by the served model, or by both; `verify_negatives` looks again.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pyarrow as pa
from PIL import Image
from pydantic import Field

from operators.base import Operator, Outcome, Reject, keep
from operators.columns import NEGATIVES, REGIONS
from operators.needs import Need, chinese_tagger, english_parser
from operators.perturb import addition, chinese, english, regions
from operators.perturb.group import SIZE, Plan, Sampler, build
from operators.perturb.negation import denials
from operators.perturb.phrase import Option, Phrase
from operators.perturb.regions import ENGINES, Setting, Unfit, normal
from operators.perturb.words import FamilyName, Words, seeded


class HardNegatives(Words, Operator):
    pivot: float = Field(0.9, ge=0, le=1)
    """Of the groups that gather around one of their members, the share in which that is not the positive (10/11 hides it best)."""
    spread: float = Field(0.05, ge=0, le=1)
    """Share of groups that take all families in turn, around the positive. Families with few words (size, state) come in by this at
    one changed family, and each such group shows its positive to whoever looks for the middle. Without effect from `families_changed`
    2 on: there such families are hidden too."""
    mix: dict[FamilyName, float] = Field(default_factory=dict)
    """Family → how much more (or less, below 1) often than by itself a group changes it, where the expression allows a choice."""
    max_same: int = Field(2, ge=1, le=SIZE)
    """Most negatives of one slot that share a root meaning (huge, enormous)."""
    insert_when_bare: bool = False
    """Give a phrase without attributes ("a dog") a colour that such things hardly ever have ("a blue dog"), flagged "inserted": likely
    false, not surely. And one whose only attribute has just an opposite or two ("an open door") that opposite with colours that such
    things do have ("a closed red door"): surely false, and a second family. Both are easily told without the picture."""
    negations: int = Field(0, ge=0, le=3)
    """How many of the ten deny what the expression says ("a ball that is not red"), flagged "negation", where it has a form for that.
    Who has no picture can leave them out of the question: they are for models that read past "not"."""

    version: ClassVar[int] = 10
    reasons: ClassVar[dict[str, str]] = {
        **regions.UNFIT,
        "no_attribute": "the expression has no attribute that can be changed safely",
        "too_few": "its attributes allow fewer than ten different negatives",
    }

    @property
    def reads(self) -> pa.Schema:
        return pa.schema({"regions": REGIONS})

    @property
    def writes(self) -> pa.Schema:
        return pa.schema({"negatives": NEGATIVES})

    def needs(self) -> list[Need]:
        return [english_parser(), chinese_tagger()]

    def setup(self) -> None:
        english.nlp()
        chinese.tagger()

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        samples = [found or [] for found in batch["regions"].to_pylist()]
        negatives, rejects = [], []
        for uid, found, parsed in zip(batch["uid"].to_pylist(), samples, regions.parse(samples), strict=True):
            groups: list[list[dict[str, Any]]] = []
            for r in range(len(found)):
                made = self.group(uid, r, regions.setting(r, found, parsed, self.overlap))
                if isinstance(made, Unfit):
                    rejects.append(Reject(uid, made.reason, made.detail, f"negatives[{r}]"))
                groups.append([] if isinstance(made, Unfit) else made)
            negatives.append(groups)
        return keep(batch, {"negatives": pa.array(negatives, NEGATIVES)}, items=rejects)

    def group(self, uid: str, r: int, setting: Setting | Unfit) -> list[dict[str, Any]] | Unfit:
        """Ten negatives of region r, or why there are none."""
        if isinstance(setting, Unfit):
            return setting
        phrase, inserted = setting.phrase, None
        if not phrase.slots and self.insert_when_bare:
            inserted = ENGINES[phrase.language].insert(phrase)
        if inserted:
            phrase = replace(phrase, slots=(inserted[0],))
            setting = replace(setting, phrase=phrase)
            choices, own = [[o for o in inserted[1] if not setting.may_hold(inserted[0], o)]], [0.0]
        elif regions.families_of(phrase, self.families):
            choices, own = self.choices(setting)
        else:
            return Unfit("no_attribute", phrase.text)
        rng = seeded(uid, r, phrase.text)
        plan = Plan(
            self.pivot,
            self.spread,
            self.families_changed,
            self.max_same,
            {str(name): weight for name, weight in self.mix.items()},
        )
        sampler = Sampler(phrase, choices, own, plan, rng)
        records = [setting.record(change, ["inserted"] if inserted else []) for change in build(sampler)]
        negatives = {normal(record["text"]): record for record in records}
        negatives.pop(normal(phrase.text), None)
        if len(negatives) < SIZE and self.insert_when_bare and not inserted:
            negatives = {normal(record["text"]): record for record in self._opposites(setting, choices, rng)}
        if len(negatives) < SIZE:
            return self._too_few(phrase, choices, sampler)
        return self._with_denials(setting, list(negatives.values()), rng)

    def _opposites(self, setting: Setting, choices: list[list[Option]], rng: random.Random) -> list[dict[str, Any]]:
        """Of an expression whose only attribute has fewer than ten rivals: these, alone and with a colour."""
        phrase = setting.phrase
        wider = addition.with_place(phrase, phrase.slots[0]) if len(phrase.slots) == 1 and choices[0] else None
        if wider is None or "colour" not in self.families:
            return []
        setting = replace(setting, phrase=wider)
        made = addition.changes(wider, 0, choices[0], rng)
        return [setting.record(change, ["inserted"] if len(change) > 1 else []) for change in made]

    def _with_denials(self, setting: Setting, group: list[dict[str, Any]], rng: random.Random) -> list[dict[str, Any]]:
        made = denials(setting.phrase, self.families, rng)[: self.negations]
        for place, (text, family) in zip(rng.sample(range(SIZE), len(made)), made, strict=True):
            group[place] = setting.entry(text, family, "lexical", flags=["negation"])
        return group

    @staticmethod
    def _too_few(phrase: Phrase, choices: list[list[Option]], sampler: Sampler) -> Unfit:
        words = ", ".join(phrase.text[slot.start : slot.end] for slot in phrase.slots)
        room = sum(sampler.capacity(i) for i in range(len(choices)))
        return Unfit("too_few" if room else "no_attribute", f"room for {room} of {SIZE} from {words!r} in {phrase.text!r}")
