"""Words that describe things, and which of them contradict each other.

One YAML file per language and family (`en_colour.yaml`, `zh_size.yaml` …) holds values. A value is one meaning:

    id        its name in the files
    words     spellings and synonyms; swapping them changes nothing about the truth
    of        the wider value it is a kind of (crimson is a red)
    shade     "light" or "dark", where both kinds of one colour are meant
    axis      only values on one axis can contradict each other (tall/short, wide/narrow)
    near      lists of values any two of which can be true of one thing at once, or are mixed up by people; `near_to`: the same
              for one value against a list
    weight    how often the value describes things in positives; replacements are drawn by its square (`Value.drawn`)

`Lexicon.excludes(a, b)` is the one question everything else rests on: does b being said of a thing make a false?
It answers yes only when that is sure; in doubt two values are compatible.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import yaml

FAMILIES = ("colour", "material", "size", "pattern", "count", "state", "relation", "action")
LANGUAGES = ("en", "zh")
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Value:
    id: str
    family: str
    words: tuple[str, ...]
    of: str | None = None
    shade: str | None = None
    axis: str = ""
    weight: float = 1.0
    use: bool = True
    """False: recognised in a positive, never written into a negative and never replaced."""
    vague: bool = False
    """Says too little to contradict anything (multicoloured, patterned)."""
    noun: bool = False
    """The word is as often a thing; it needs a clear context."""
    object: bool = False
    """A verb that needs an object."""
    attr: str | None = None
    """Form before a noun, where it is not the first word."""
    made: str | None = None
    """Form after "made of" / 由…制成, where it is not the first word."""
    char: str | None = None
    """One-character form in Chinese compounds."""
    only: str | None = None
    """The one context in which the word counts: "made" (after "made of") or "pattern" (before "pattern")."""
    number: int | None = None
    fits: str | None = None
    """What it can be said of: a class of nouns, "animate", "thing", or nouns separated by "|"; None: of anything."""
    takes: str | None = None
    """What a verb may be done to or a place be of, as `fits`: none wears a ball or sits inside a cow."""
    alone: bool = False
    """An action that cannot be followed by a place ("swimming on a bench"), a pattern that goes with one colour ("plain")."""

    @property
    def drawn(self) -> float:
        """How often to draw it. A group takes ten of the dozen or two words of its kind, so that rare ones come in more often than
        they describe things, and tell themselves apart from the positive; of squared weights they come in less often."""
        return self.weight**2


@dataclass(frozen=True)
class Family:
    name: str
    language: str
    values: dict[str, Value]
    near: frozenset[frozenset[str]]
    extra: dict[str, Any] = field(default_factory=dict)

    def chain(self, value: Value) -> list[Value]:
        """The value and everything it is a kind of, narrowest first."""
        chain = [value]
        while chain[-1].of:
            chain.append(self.values[chain[-1].of])
        return chain

    def root(self, value: Value) -> str:
        return self.chain(value)[-1].id

    @cached_property
    def meaning(self) -> dict[str, str]:
        """Value id → its root and shade: what two values share that differ only in nuance."""
        return {value.id: f"{self.root(value)} {value.shade or ''}" for value in self.values.values()}

    def excludes(self, a: Value, b: Value) -> bool:
        """Whether one thing can surely not be both: no synonym, no hypernym, no neighbour, one axis."""
        return b.id in self.rivals[a.id]

    @cached_property
    def rivals(self) -> dict[str, frozenset[str]]:
        """Value id → ids of all values that it excludes."""
        values = self.values.values()
        return {a.id: frozenset(b.id for b in values if self.relation(a, b) == "excludes") for a in values}

    def relation(self, a: Value, b: Value) -> str:
        """What b is to a: excludes, same, wider, narrower, near, kin (under one root), or other_axis."""
        if a.id == b.id:
            return "same"
        if a.vague or b.vague:
            return "near"
        if a.axis != b.axis:
            return "other_axis"
        kinds_a, kinds_b = self.chain(a), self.chain(b)
        if a in kinds_b:
            return "narrower"
        if b in kinds_a:
            return "wider"
        if any(frozenset((x.id, y.id)) in self.near for x in kinds_a for y in kinds_b):
            return "near"
        if kinds_a[-1] == kinds_b[-1]:
            return "excludes" if a.shade and b.shade and a.shade != b.shade else "kin"
        return "excludes"


@dataclass(frozen=True)
class Lexicon:
    language: str
    families: dict[str, Family]
    traps: dict[str, Any]
    nouns: dict[str, Any]

    def lookup(self, word: str) -> list[Value]:
        """Every value that has this word, whatever the family."""
        return self._index.get(word.casefold(), [])

    @property
    def _index(self) -> dict[str, list[Value]]:
        return _word_index(self.language)

    def words(self) -> Iterator[str]:
        yield from self._index

    def phrases(self) -> list[str]:
        return [phrase.strip() for phrase in self.traps["phrases"].split(";") if phrase.strip()]

    def classes(self, noun: str) -> frozenset[str]:
        """The kinds of things a noun names: "dog" → {"animal", "animate"}."""
        return _classes(self.language, noun)

    def fits(self, value: Value, noun: str, other: str = "", instead_of: Value | None = None) -> bool:
        """Whether the value can sensibly be said of the noun (and of the `other` that it takes). Nonsense is refuted without looking
        at the picture. A noun of no class that has a list takes what goes with the value that it has (`unlisted`)."""
        if not self._among(value.fits, noun) or (other and not self._among(value.takes, other)):
            return False
        plausible = self.nouns["plausible"].get(value.family, {})
        lists = [plausible[name] for name in self.classes(noun) if name in plausible]
        if not lists and instead_of is not None:
            roots = {kind.id for kind in self.families[value.family].chain(instead_of)}
            lists = [entry["take"] for entry in self.nouns["unlisted"].get(value.family, []) if roots & set(entry["of"])]
        return not lists or any(value.id in names for names in lists)

    def _among(self, wanted: str | None, noun: str) -> bool:
        return not wanted or any(part in self.classes(noun) or part == noun for part in wanted.split("|"))

    def alike(self, a: Value, b: Value, noun: str) -> bool:
        """Whether the two are hard to tell apart on such a thing, though not on others: red and orange hair."""
        listed = self.nouns["alike"].get(a.family, {})
        families = self.families[a.family]
        kinds = [{kind.id for kind in families.chain(value)} for value in (a, b)]
        groups = [group for name in self.classes(noun) for group in listed.get(name, [])]
        return any(kinds[0] & set(group) and kinds[1] & set(group) for group in groups)

    def unlikely(self, family: str, noun: str) -> list[Value]:
        """Values that a noun with a list of plausible ones hardly ever has (a blue dog); empty where there is no such list."""
        listed = self.nouns["plausible"].get(family, {})
        names = [name for cls in sorted(self.classes(noun)) for name in listed.get(cls, [])]
        words = self.families[family]
        plausible = [words.values[name] for name in names]
        return [
            v for v in words.values.values() if v.use and plausible and all(words.excludes(v, other) for other in plausible)
        ]

    def same_thing(self, a: str, b: str) -> bool:
        """Whether two nouns name the same kind of object (sofa, couch)."""
        return a == b or any(a in group and b in group for group in self.traps["nouns"])


@lru_cache
def load(language: str) -> Lexicon:
    """The lexicon of "en" or "zh"; raises ValueError for another language."""
    if language not in LANGUAGES:
        raise ValueError(f"no lexicon for language {language!r}; there are: {', '.join(LANGUAGES)}")
    families = {name: _family(_read(f"{language}_{name}.yaml")) for name in FAMILIES}
    return Lexicon(language, families, _read(f"{language}_traps.yaml"), _read(f"{language}_nouns.yaml"))


@lru_cache
def _word_index(language: str) -> dict[str, list[Value]]:
    index: dict[str, list[Value]] = {}
    for family in load(language).families.values():
        for value in family.values.values():
            for word in dict.fromkeys([*value.words, *filter(None, [value.attr, value.made, value.char])]):
                index.setdefault(word.casefold(), []).append(value)
    return index


@lru_cache(16384)
def _classes(language: str, noun: str) -> frozenset[str]:
    nouns = load(language).nouns
    found = frozenset(name for name, members in nouns["classes"].items() if noun in members)
    if not found and language == "zh":  # 金毛犬 is a 犬
        ends = [(len(end), name) for name, ends in nouns["endings"].items() for end in ends if noun.endswith(end)]
        found = frozenset(name for length, name in ends if length == max(ends)[0])
    if "picture" in found:  # what is to the left in it is not beside it
        return found
    return found | {"animate" if found & set(nouns["animate"]) else "thing"}


def _read(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def _family(data: dict[str, Any]) -> Family:
    name, language = data["family"], data["language"]
    values: dict[str, Value] = {}
    for id_, entry in data["values"].items():
        entry = dict(entry or {})
        shades = entry.pop("shades", False)
        words = tuple(entry.pop("words", [id_]))
        values[id_] = Value(id_, name, words, **entry)
        for shade, prefixes in (data.get("shades") or {}).items() if shades else ():
            values[_shaded_id(prefixes[0], id_, language)] = _shaded(values[id_], shade, prefixes, language)
    near = {frozenset((a, b)) for group in data["near"] for a in group for b in group if a != b}
    near |= {frozenset((a, b)) for a, others in data.get("near_to", {}).items() for b in others}
    extra = {key: data[key] for key in data if key not in ("family", "language", "values", "near", "near_to", "shades")}
    return Family(name, language, values, frozenset(near), extra)


def _shaded_id(prefix: str, id_: str, language: str) -> str:
    return f"{prefix} {id_}" if language == "en" else prefix + id_


def _shaded(base: Value, shade: str, prefixes: list[str], language: str) -> Value:
    """ "light blue" from "blue": its own value, a kind of blue, drawn at a fifth of blue's weight."""
    gap = " " if language == "en" else ""
    words = [prefix + gap + word for prefix in prefixes for word in base.words]
    if language == "zh":  # 深红 beside 深红色
        words += [prefix + base.char for prefix in prefixes if base.char]
    return Value(
        _shaded_id(prefixes[0], base.id, language), base.family, tuple(words), base.id, shade, base.axis, base.weight / 5
    )
