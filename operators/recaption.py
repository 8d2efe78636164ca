"""Have the served model describe each picture in one long paragraph, and let through only what reads like an honest caption.

Reads    nothing but the picture
Writes   `column` (default long_caption_<language>)   string, null where the caption was refused
Refuses  the caption (the sample survives with null, or is dropped with on_refusal: drop_sample), or single sentences of it,
         which are left out; see `reasons`
Source   LIT-CN: Qwen2.5-VL-32B re-captions in Chinese, 131 tokens on average; FG-CLIP's English captions: 100-200 words,
         foreground, background, light, style
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

import pyarrow as pa
from PIL import Image
from pydantic import Field

from operators import answers
from operators.base import Answer, Ask, ModelOperator, Reject, schema
from operators.validators import Finding, characters, form, language, sentences, wording

LENGTHS = {"en": (30, 250), "zh": (50, 500)}
"""Default windows: English words, Chinese characters."""


class Recaption(ModelOperator):
    language: Literal["en", "zh"] = "en"
    column: str = ""
    prompt: str = ""
    min_length: int | None = Field(None, ge=0, description="words (en) or characters (zh); default 30 / 50")
    max_length: int | None = Field(None, ge=1, description="words (en) or characters (zh); default 250 / 500")
    min_script_share: float = Field(0.85, ge=0, le=1)
    max_repeated: float = Field(
        0.35, ge=0, le=1, description="largest share of repeated word 4-grams (8 characters in Chinese)"
    )
    absent_things: Literal["drop", "keep"] = "drop"
    hedges: Literal["drop", "keep"] = Field(
        "drop", description='sentences that leave open what is there ("might be a dog or a cat")'
    )
    simplify: bool = Field(True, description="make traditional characters simplified, outside quotations")
    critic: bool = Field(False, description="ask the model for a verdict on each sentence and leave out the false ones")
    revise: bool = Field(
        False, description="with critic: false ones are written anew and judged again before they are left out"
    )
    min_kept: float = Field(
        0.5, ge=0, le=1, description="least share of the text that must survive the loss of single sentences"
    )
    on_refusal: Literal["drop_text", "drop_sample"] = "drop_text"

    version: ClassVar[int] = 9
    needs_image: ClassVar[bool] = True
    reasons: ClassVar[dict[str, str]] = {
        **answers.REASONS,
        "control_chars": "control, bidi or broken characters",
        "language": "not in the language asked for",
        "length": "outside the length window",
        "repetition": "loops, or a sentence said before",
        "meta": "talk about the task, opinions or questions instead of the picture",
        "markup": "lists, tags, code or other markup",
        "cut": "cut at the token cap, and what is whole is too short",
        "echo": "repeats the prompt",
        "absent": "says what is not in the picture",
        "hedged": "leaves open what is there",
        "injection": "instructions or addresses, likely read from the picture",
        "incoherent": "words without sentences",
        "doubtful": "the model itself calls it false on being asked again",
        "revised": "the model called it false and said it otherwise, which it does not call false",
        "no_picture": "there is no picture to describe",
    }

    @property
    def reads(self) -> pa.Schema:
        return schema()

    @property
    def writes(self) -> pa.Schema:
        return pa.schema([(self._column, pa.string())])

    @property
    def prompts(self) -> list[str]:
        if not self.critic:
            return [self._prompt]
        return [self._prompt, "check_sentences", *(["revise_sentences"] if self.revise else [])]

    @property
    def _column(self) -> str:
        return self.column or f"long_caption_{self.language}"

    @property
    def _prompt(self) -> str:
        return self.prompt or f"long_caption_{self.language}"

    @property
    def _window(self) -> tuple[int, int]:
        least, most = LENGTHS[self.language]
        return (least if self.min_length is None else self.min_length, most if self.max_length is None else self.max_length)

    def setup(self) -> None:
        language.detector()

    async def __call__(
        self, sample: dict[str, Any], image: Image.Image | None, ask: Ask
    ) -> tuple[dict[str, Any] | None, list[Reject]]:
        uid = sample["uid"]
        if image is None:
            return self._refuse(uid, ("no_picture", ""))
        text, finding, dropped = self.judge(await ask(self._prompt, {}, image))
        told = [(f"sentences[{i}]", why, detail) for i, why, detail in dropped]
        if text and not finding and self.critic:
            text, finding, more = await self._criticise(text, image, ask)
            told += more
        if finding:
            return self._refuse(uid, finding)
        return {self._column: text}, [Reject(uid, why, detail, f"{self._column}.{part}") for part, why, detail in told]

    def _refuse(self, uid: str, finding: Finding) -> tuple[dict[str, Any] | None, list[Reject]]:
        reason, detail = finding
        if self.on_refusal == "drop_sample":
            return None, [Reject(uid, reason, detail)]
        return {self._column: None}, [Reject(uid, reason, detail, self._column)]

    def judge(self, answer: Answer) -> tuple[str | None, Finding | None, list[tuple[int, str, str]]]:
        """The usable caption of an answer, or why there is none, and the sentences left out: (index, reason, detail)."""
        try:
            raw, was_cut = answers.read_text(answer, "caption")
        except answers.Unusable as error:
            return None, (error.reason, error.detail), []
        text = characters.clean(raw)
        finding = (
            characters.control_characters(text) or wording.refusal(text) or wording.injection(text) or wording.markup(text)
        )
        if finding:
            return None, finding, []
        text = re.sub(r"\s*\n\s*", "" if self.language == "zh" else " ", text)
        if self.language == "zh" and self.simplify:
            text = language.to_simplified(text)
        # Whatever stopped the answer short (the token cap or the schema's longest text), only whole sentences are kept.
        whole = form.whole_sentences(text, self.language, was_cut or form.length_of(text, self.language) > self._window[1])
        least, most = self._window
        if whole != text and form.length(whole, self.language, least, 10**9):
            return None, self._of_fragment(text, whole), []
        kept, dropped = self._sentence_by_sentence(sentences.split(whole), f"{answer.system} {answer.user}")
        text = sentences.join(kept, self.language)
        if dropped and len(text) < self.min_kept * len(whole):
            reason = max((r for _, r, _ in dropped), key=[r for _, r, _ in dropped].count)
            return None, (reason, f"{len(dropped)} of {len(dropped) + len(kept)} sentences, e.g. {dropped[0][2]}"), dropped
        finding = (
            language.script(text, self.language, self.min_script_share)
            or form.repetition(text, self.language, self.max_repeated)
            or language.identified(text, self.language)
            or form.coherence(text, self.language)
            or form.length(text, self.language, least, most)
        )
        return (None, finding, dropped) if finding else (text, None, dropped)

    def _of_fragment(self, text: str, whole: str) -> Finding:
        """Why a text without enough whole sentences fails: a loop or a wrong language says more than "cut" does."""
        return (
            language.script(text, self.language, self.min_script_share)
            or form.repetition(text, self.language, self.max_repeated)
            or form.coherence(text, self.language)
            or ("cut", f"{form.length_of(whole, self.language)} of {form.length_of(text, self.language)} in whole sentences")
        )

    def _sentence_by_sentence(self, given: list[str], asked: str) -> tuple[list[str], list[tuple[int, str, str]]]:
        again = form.repeated_sentences(given)
        kept, dropped = [], []
        for i, sentence in enumerate(given):
            finding = (
                language.foreign(sentence, self.language)
                or wording.meta_talk(sentence)
                or wording.question(sentence)
                or wording.echo(sentence, asked, self.language)
            )
            if not finding and self.absent_things == "drop":
                finding = wording.absent_things(sentence)
            if not finding and self.hedges == "drop":
                finding = wording.hedged(sentence)
            if not finding and i in again:
                finding = ("repetition", f"said before: {answers.excerpt(sentence)}")
            if finding:
                dropped.append((i, *finding))
            else:
                kept.append(sentence)
        return kept, dropped

    async def _criticise(
        self, text: str, image: Image.Image, ask: Ask
    ) -> tuple[str | None, Finding | None, list[tuple[str, str, str]]]:
        """Leave out what the model itself denies when shown the picture again, or put in its place what it says on being asked
        again and does not deny. An unusable verdict changes nothing, and is told."""
        given = sentences.split(text)
        try:
            verdicts = answers.read_verdicts(await ask("check_sentences", {"sentences": given}, image), len(given))
        except answers.Unusable as error:
            return text, None, [("verdicts", error.reason, error.detail)]
        denied = [i for i, true in enumerate(verdicts) if not true]
        written = (
            await self._revised([given[i] for i in denied], image, ask) if self.revise and denied else [None] * len(denied)
        )
        instead = dict(zip(denied, written, strict=True))
        final = [(s if true else instead[i]) for i, (s, true) in enumerate(zip(given, verdicts, strict=True))]
        told = [
            (f"sentences[{i}]", "doubtful", answers.excerpt(given[i])) if new is None
            else (f"sentences[{i}]", "revised", f"{answers.excerpt(given[i])}: {answers.excerpt(new)}")
            for i, new in instead.items()
        ]  # fmt: skip
        remaining = sentences.join([s for s in final if s is not None], self.language)
        if form.length(remaining, self.language, *self._window) or len(remaining) < self.min_kept * len(text):
            return None, ("doubtful", f"{final.count(None)} of {len(given)} sentences"), told
        return remaining, None, told

    async def _revised(self, denied: list[str], image: Image.Image, ask: Ask) -> list[str | None]:
        """What the model writes in the place of each sentence, None where that is no honest sentence or is denied as well."""
        try:
            answer = await ask("revise_sentences", {"sentences": denied}, image)
            texts, was_cut = answers.read_list(answer, "sentences")
        except answers.Unusable:
            return [None] * len(denied)
        if len(texts) != len(denied) or was_cut:  # which belongs to which cannot be told
            return [None] * len(denied)
        usable = [self._usable(new, old, answer.system) for new, old in zip(texts, denied, strict=True)]
        again = [text for text in usable if text is not None]
        if not again:
            return usable
        try:
            verdicts = iter(answers.read_verdicts(await ask("check_sentences", {"sentences": again}, image), len(again)))
        except answers.Unusable:
            return [None] * len(denied)
        return [text if text is not None and next(verdicts) else None for text in usable]

    def _usable(self, raw: Any, denied: str, asked: str) -> str | None:
        """One sentence, in the language, not much longer than the one it stands for, and none of what a caption must not hold."""
        if not isinstance(raw, str) or not raw.strip() or len(raw) > 2 * len(denied) + 20:
            return None
        text = characters.clean(raw).replace("\n", " ")
        if self.language == "zh" and self.simplify:
            text = language.to_simplified(text)
        bad = (
            characters.control_characters(text)
            or wording.refusal(text)
            or wording.injection(text)
            or wording.markup(text)
            or wording.meta_talk(text)
            or wording.question(text)
            or (wording.absent_things(text) if self.absent_things == "drop" else None)
            or (wording.hedged(text) if self.hedges == "drop" else None)
            or wording.echo(text, asked, self.language)
            or language.script(text, self.language, self.min_script_share)
        )
        if bad or text == denied or len(sentences.split(text)) != 1 or not sentences.ends_whole(text):
            return None
        return text
