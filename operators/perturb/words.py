"""The settings that decide which words may stand for which, shared by everything that makes or mends negatives."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import Field, PrivateAttr, field_validator

from operators.base import OperatorBase
from operators.lexicon import FAMILIES, load
from operators.perturb.group import Change
from operators.perturb.phrase import Option, Slot
from operators.perturb.regions import ENGINES, Setting, normal

FamilyName = Literal["colour", "material", "size", "pattern", "count", "state", "relation", "action"]


class Words(OperatorBase):
    families: tuple[FamilyName, ...] = FAMILIES  # type: ignore[assignment]
    """Attribute families that may be changed."""
    families_changed: int = Field(1, ge=1, le=3)
    """Most families in which one negative may differ from its positive."""
    distribution: dict[FamilyName, dict[str, float]] = Field(default_factory=dict)
    """Per family, word → how often it describes things in the positives (`python -m operators.perturb.distribution` measures it);
    instead of the lexicon's own weights, in the languages whose words are given."""
    overlap: float = Field(0.5, gt=0, le=1)
    """Two boxes may show the same thing from this IoU, or this share of the smaller box, on."""

    _known: dict[tuple[Any, ...], tuple[list[Option], float]] = PrivateAttr(default_factory=dict)
    """Options of slots seen before: the same few kinds of slots come again and again."""

    @field_validator("distribution")
    @classmethod
    def _weights_are_not_negative(cls, value: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        for family, words in value.items():
            for word, weight in words.items():
                if weight < 0:
                    raise ValueError(f"distribution.{family}.{word}: a weight cannot be negative, got {weight}")
        return value

    def choices(self, setting: Setting) -> tuple[list[list[Option]], list[float]]:
        """Per slot of the expression: what makes it false, nothing that an overlapping box may bear; the weight of its own word."""
        found, own = [], []
        for slot in setting.phrase.slots:
            options, weight = self._options(setting.phrase.language, slot)
            found.append([option for option in options if not setting.may_hold(slot, option)])
            own.append(weight)
        return found, own

    def _options(self, language: str, slot: Slot) -> tuple[list[Option], float]:
        if slot.family not in self.families or not slot.value.use:
            return [], 0.0
        mates = tuple(value.id for value in slot.mates)
        key = (language, slot.family, slot.value.id, slot.form, slot.noun, mates, slot.plural_only, slot.follows, slot.other)
        if key not in self._known:
            engine, given = ENGINES[language], self.distribution.get(slot.family, {})
            words = {word for value in load(language).families[slot.family].values.values() for word in value.words}
            weights = {word: weight for word, weight in given.items() if word in words} or None
            self._known[key] = engine.options(slot, weights), engine.own_weight(slot, weights)
        return self._known[key]

    def single_changes(self, setting: Setting) -> dict[str, Change]:
        """Every text that differs from the expression in one slot, and what makes it."""
        phrase, (choices, _) = setting.phrase, self.choices(setting)
        render = ENGINES[phrase.language].render
        return {normal(render(phrase, {i: option})): {i: option} for i, found in enumerate(choices) for option in found}

    def others(self, setting: Setting, group: Sequence[str], place: int | None, rng: random.Random) -> Iterator[dict[str, Any]]:
        """Negatives that can stand in for group[place] (None: for any), the ones most like it first.

        A text that differs from the positive in some slots is replaced by one that differs in the same slots: the group stays
        gathered around whichever member it was built around.
        """
        phrase = setting.phrase
        choices, _ = self.choices(setting)
        taken = {normal(text) for text in (phrase.text, *group)}
        changes = self.single_changes(setting)
        was = self._change_of(setting, choices, group[place], changes) if place is not None else None
        pools: list[list[Change]] = []
        if was is not None and len(was) > 1:
            for i in sorted(was, key=lambda i: sum(was[i].text in text for text in group)):  # the centre's own word last
                pools.append([{**was, i: option} for option in choices[i]])
        elif was is not None:
            (i,) = was
            pools.append([{i: option} for option in choices[i]])
        pools.append(list(changes.values()))
        for pool in pools:
            weights = [_weight(change) for change in pool]
            while pool:
                at = rng.choices(range(len(pool)), weights)[0]
                change = pool.pop(at)
                weights.pop(at)
                record = setting.record(change)
                if normal(record["text"]) not in taken and self._allowed(setting, change):
                    taken.add(normal(record["text"]))
                    yield record

    def _change_of(
        self, setting: Setting, choices: Sequence[list[Option]], text: str, single: dict[str, Change]
    ) -> Change | None:
        """Which slots of the expression a lexical negative changed; None where the lexicon cannot have made it."""
        phrase, wanted = setting.phrase, normal(text)
        if wanted in single:
            return single[wanted]
        render = ENGINES[phrase.language].render
        for i in range(len(choices)):
            for j in range(i + 1, len(choices)):
                # Only options that the text holds can have made it.
                first = [o for o in choices[i] if o.text.casefold() in text.casefold()]
                second = [o for o in choices[j] if o.text.casefold() in text.casefold()]
                for a in first:
                    for b in second:
                        if normal(render(phrase, {i: a, j: b})) == wanted:
                            return {i: a, j: b}
        return None

    def _allowed(self, setting: Setting, change: Change) -> bool:
        return len({setting.phrase.slots[i].family for i in change}) <= self.families_changed


def seeded(uid: str, r: int, text: str) -> random.Random:
    """The same sample gives the same choices, whatever its batch."""
    return random.Random(hashlib.sha256(f"{uid}\0{r}\0{text}".encode("utf-8", "surrogatepass")).digest())


def _weight(change: Change) -> float:
    weight = 1e-9
    for option in change.values():
        weight += option.weight
    return weight
