"""Choose the ten negatives of a group so that the text alone does not give the positive away.

Two things betray a positive without any picture: it is the text most like the other ten (all were made from it), and its words
are the usual ones (replacements are drawn evenly, positives are not). So:

* A group is built around a random *other* member where it can be: the positive is then one of ten neighbours of the centre.
  With a single slot to vary, all eleven texts differ in that one slot and none is the centre.
* Values are drawn by their share among positives, with inclusion probabilities proportional to it and the positive's own value
  among them (systematic sampling, conditional on it). For such a set S of eleven values every member is equally likely to be
  the true one: P(v | S) ∝ p(v)·P(S | v ∈ S) = P(S)·p(v)/π_v, and π_v ∝ p(v). Exact while no value has a share above 1/11.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from operators import lexicon
from operators.lexicon import Value
from operators.perturb.phrase import Option, Phrase

SIZE = 10
"""Negatives in a group: the released trainer reshapes to 1 + 10."""


@dataclass(frozen=True)
class Plan:
    """How to build a group.

    pivot             share of stars whose centre is another member than the positive
    spread            share of groups that take the families in turn, around the positive (only where one family may change)
    families_changed  most families in which a negative may differ from its positive
    max_same          most negatives of a slot that share one root meaning (small, tiny, miniature)
    mix               family → by how much to prefer ways that change it
    """

    pivot: float
    spread: float
    families_changed: int
    max_same: int
    mix: dict[str, float] = field(default_factory=dict)


Change = dict[int, Option]
"""Slot index → what stands there instead."""
Way = tuple[float, Callable[[], list[Change]]]
"""How often to take it, and what it makes."""


class Sampler:
    """Draws replacement values for one phrase's slots.

    choices[i]   options of slot i (already without those that may be true)
    own[i]       weight of the value that the positive has there
    """

    def __init__(self, phrase: Phrase, choices: Sequence[list[Option]], own: Sequence[float], plan: Plan, rng: random.Random):
        self.phrase, self.choices, self.own, self.plan, self.rng = phrase, choices, own, plan, rng
        families = lexicon.load(phrase.language).families
        self.clusters: list[dict[str, list[Option]]] = []
        """Per slot: options by root meaning and shade."""
        for slot, options in zip(phrase.slots, choices, strict=True):
            clusters: dict[str, list[Option]] = {}
            for option in options:
                clusters.setdefault(families[slot.family].meaning[option.value.id], []).append(option)
            self.clusters.append(clusters)
        self._capacity = [
            sum([min(len(options), plan.max_same) for options in clusters.values()]) for clusters in self.clusters
        ]

    def capacity(self, slot: int) -> int:
        """Most different negatives that the slot can give."""
        return self._capacity[slot]

    def commonness(self, slot: int) -> float:
        """Share of the positive's own value among what the slot could hold, 0..1."""
        total = self.own[slot] + sum(option.weight for option in self.choices[slot])
        return self.own[slot] / total if total else 0.0

    def variety(self, slot: int) -> float:
        """How many meanings the slot really offers, its own included: perplexity of their weights. Words that hardly ever describe
        things would tell themselves apart from the positive."""
        weights = [self.own[slot], *(sum(option.weight for option in options) for options in self.clusters[slot].values())]
        total = sum(weights)
        return math.exp(-sum(w / total * math.log(w / total) for w in weights if w > 0)) if total > 0 else 1.0

    def wanted(self, slots: Sequence[int]) -> float:
        """How much the recipe prefers that these slots are changed."""
        return sum(self.plan.mix.get(self.phrase.slots[slot].family, 1.0) for slot in slots) / len(slots)

    def draw(self, slot: int, count: int, beside: Sequence[Value] = ()) -> list[Option]:
        """`count` different options of a slot in random order: first such as exclude each other too (the positive excludes all of
        them, and must not be known by that), then others, at most `max_same` of one root meaning. All exclude `beside`."""
        rivals = lexicon.load(self.phrase.language).families[self.phrase.slots[slot].family].rivals
        clusters = self.clusters[slot]
        for value in beside:
            clusters = {root: [o for o in options if o.value.id in rivals[value.id]] for root, options in clusters.items()}
        taken: dict[str, Option] = {}
        used: Counter[str] = Counter()
        common: frozenset[str] | None = None  # ids that exclude everything taken
        for attempt in range(1 + self.plan.max_same):
            if len(taken) >= count:
                break
            strict = attempt < 2  # a second look among what still excludes everything taken, before anything else
            free = {
                root: [o for o in options if o.value.id not in taken and (not strict or common is None or o.value.id in common)]
                for root, options in clusters.items()
                if used[root] < self.plan.max_same
            }
            weights = {root: sum([option.weight for option in options]) for root, options in free.items() if options}
            for root in _systematic(weights, count - len(taken), self.own[slot], self.rng):
                fitting = free[root]
                if strict and common is not None:
                    fitting = [o for o in fitting if o.value.id in common]
                if fitting:
                    option = _one(fitting, self.rng)
                    taken[option.value.id] = option
                    used[root] += 1
                    common = rivals[option.value.id] if common is None else common & rivals[option.value.id]
        options = list(taken.values())
        self.rng.shuffle(options)
        return options[:count]


def build(sampler: Sampler) -> list[Change]:
    """Ten different changes, or fewer when the phrase does not offer enough."""
    plan, rng, slots = sampler.plan, sampler.rng, sampler.phrase.slots
    usable = [i for i in range(len(slots)) if sampler.capacity(i)]
    families = dict.fromkeys(slots[i].family for i in usable)
    pools = [usable] if plan.families_changed > 1 else [[i for i in usable if slots[i].family == family] for family in families]
    ways: list[Way] = []
    spread = plan.families_changed == 1 and rng.random() < plan.spread
    for pool in [] if spread else pools:
        # Where families may be mixed, most groups mix them: a line would nearly always be one of colours.
        alone = 0.2 if len({slots[i].family for i in pool}) > 1 else 1.0
        for i in pool:
            if sampler.capacity(i) >= SIZE:
                usual = alone * min(1.0, 1 / (SIZE + 1) / max(sampler.commonness(i), 1e-9)) * sampler.wanted([i])
                ways.append((usual * _hiding(sampler.variety(i) - 1), partial(line, sampler, i)))
        if len(pool) > 1 and sum(sampler.capacity(i) for i in pool) >= SIZE:
            rich = _hiding(sum(sampler.variety(i) - 1 for i in pool)) * sampler.wanted(pool)
            ways.append((len(pool) * rich, partial(star, sampler, pool, usable)))
    if plan.families_changed > 1:
        for i, j in itertools.combinations(usable, 2):
            if slots[i].family != slots[j].family:
                cells = _hiding(sampler.variety(i) * sampler.variety(j) - 1) * sampler.wanted([i, j])
                ways.append((cells, partial(grid, sampler, i, j)))
    while ways:
        way = rng.choices(ways, [weight + 1e-9 for weight, _ in ways])[0]
        changes = way[1]()
        if len(changes) == SIZE:
            return changes
        ways.remove(way)
    return around_positive(sampler, usable)


def _hiding(others: float) -> float:
    """How well a positive is hidden among as many usual meanings: 1 when they fill a group, soon little when they do not."""
    return min(1.0, others / SIZE) ** 3


def star(sampler: Sampler, pool: Sequence[int], usable: Sequence[int]) -> list[Change]:
    """A star around a random member: with pivot 10/11 each of the eleven is its centre equally often."""
    if sampler.rng.random() < sampler.plan.pivot:
        return around_another(sampler, pool)
    return around_positive(sampler, usable)


def line(sampler: Sampler, slot: int) -> list[Change]:
    """All eleven texts differ in one slot: none is nearer to the rest than another."""
    return [{slot: option} for option in sampler.draw(slot, SIZE)]


def grid(sampler: Sampler, i: int, j: int) -> list[Change]:
    """Ten cells of a table of two slots' values; the positive is an eleventh, in a row and a column like any other. Lets in
    families with few words (two sizes and six colours are twelve cells)."""
    few, many = sorted((i, j), key=sampler.variety)
    columns = [None, *sampler.draw(few, min(3, max(1, round(sampler.variety(few)) - 1)))]
    rows = [None, *sampler.draw(many, math.ceil((SIZE + 1) / len(columns)))]
    cells = [{many: row, few: column} for row in rows for column in columns]
    changes = [{slot: option for slot, option in cell.items() if option is not None} for cell in cells]
    changes = [change for change in changes if change]
    return sampler.rng.sample(changes, SIZE) if len(changes) >= SIZE else []


def around_another(sampler: Sampler, pool: Sequence[int]) -> list[Change]:
    """A star of eleven whose centre is a negative: the positive is one of its ten neighbours, each of which differs from the
    centre in one slot of `pool`."""
    rng = sampler.rng
    places = _places(sampler, pool, SIZE)
    if places is None:
        return []
    mine = rng.choice(places)
    slots = sampler.phrase.slots
    same = [
        slot
        for slot in dict.fromkeys(places)
        if (slots[slot].family, slots[slot].noun) == (slots[mine].family, slots[mine].noun)
    ]
    # In the positive's own slot the centre takes one of the values, and the positive's place takes none.
    values = {mine: sampler.draw(mine, places.count(mine))}
    if not values[mine]:
        return []
    centre = values[mine].pop()
    for slot in dict.fromkeys(places):
        if slot != mine:  # never "a red and crimson shade"
            values[slot] = sampler.draw(slot, places.count(slot), beside=[centre.value] if slot in same else [])
    changes: list[Change] = [{mine: centre}]
    for slot, options in values.items():
        changes += [{slot: option} if slot == mine else {mine: centre, slot: option} for option in options]
    allowed = sampler.plan.families_changed
    if any(len({slots[i].family for i in change}) > allowed for change in changes):
        return []
    rng.shuffle(changes)
    return changes


def around_positive(sampler: Sampler, pool: Sequence[int]) -> list[Change]:
    """A star around the positive: each negative changes one slot (several when the recipe allows several families)."""
    rng, slots = sampler.rng, sampler.phrase.slots
    places = _places(sampler, pool, SIZE)
    if places is None:
        return []
    changes: list[Change] = [
        {slot: option} for slot in dict.fromkeys(places) for option in sampler.draw(slot, places.count(slot))
    ]
    for change in changes:
        (first,) = change
        families = {slots[first].family}
        for other in rng.sample(list(pool), len(pool)):
            if len(families) >= sampler.plan.families_changed or rng.random() < 0.5:
                break
            if slots[other].family not in families:
                change[other] = _one(sampler.choices[other], rng)
                families.add(slots[other].family)
    rng.shuffle(changes)
    return changes


def _places(sampler: Sampler, pool: Sequence[int], count: int) -> list[int] | None:
    """Hand `count` places out to slots, as evenly as chance and what each slot can offer allow."""
    room = {slot: sampler.capacity(slot) for slot in pool}
    if sum(room.values()) < count:
        return None
    usual = {slot: min(room[slot], math.ceil(sampler.variety(slot) - 1)) for slot in pool}
    room = usual if sum(usual.values()) >= count else room
    places: list[int] = []
    while len(places) < count:
        free = [slot for slot in pool if room[slot]]
        slot = sampler.rng.choice(free)
        room[slot] -= 1
        places.append(slot)
    return places


def _one(options: Sequence[Option], rng: random.Random) -> Option:
    return rng.choices(options, [option.weight for option in options])[0]


def _systematic(weights: dict[str, float], count: int, own: float, rng: random.Random) -> list[str]:
    """`count` keys with inclusion probability proportional to weight, given that a value of weight `own` is drawn with them."""
    keys = list(weights)
    if len(keys) <= count:
        return keys
    rng.shuffle(keys)
    everything = [own or min(weights.values()), *(weights[key] for key in keys)]
    shares = _inclusion(everything, count + 1)
    tick = rng.random() * shares[0]  # the own value comes first: a tick inside it is the condition
    chosen, upto = [], shares[0]
    for key, share in zip(keys, shares[1:], strict=True):
        if int(upto + share - tick) > int(upto - tick):
            chosen.append(key)
        upto += share
    return chosen[:count]


def _inclusion(weights: Sequence[float], count: int) -> list[float]:
    """Probabilities proportional to weight that sum to `count`, none above 1."""
    shares = [0.0] * len(weights)
    free = set(range(len(weights)))
    left = float(count)
    while free:
        total = sum(weights[i] for i in free)
        certain = {i for i in free if weights[i] * left >= total * (1 - 1e-12)}
        if not certain:
            for i in free:
                shares[i] = weights[i] * left / total
            break
        for i in certain:
            shares[i] = 1.0
        free -= certain
        left -= len(certain)
    return shares
