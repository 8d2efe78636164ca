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
    simplify: bool = Field(True, description="make traditional characters simplified, outside quotations")
    critic: bool = Field(False, description="ask the model for a verdict on each sentence and leave out the false ones")
    min_kept: float = Field(
        0.5, ge=0, le=1, description="least share of the text that must survive the loss of single sentences"
    )
    on_refusal: Literal["drop_text", "drop_sample"] = "drop_text"

    version: ClassVar[int] = 1
    needs_image: ClassVar[bool] = True
    reasons: ClassVar[dict[str, str]] = {
        **answers.REASONS,
        "control_chars": "control, bidi or broken characters",
        "language": "not in the language asked for",
        "length": "outside the length window",
        "repetition": "loops, or a sentence said before",
        "refusal": "the model declined",
        "meta": "talk about the task instead of the picture",
        "markup": "lists, tags, code or other markup",
        "cut": "cut at the token cap, and what is whole is too short",
        "echo": "repeats the prompt",
        "absent": "says what is not in the picture",
        "injection": "instructions or addresses, likely read from the picture",
        "incoherent": "words without sentences",
        "doubtful": "the model itself calls it false on being asked again",
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
        return [self._prompt, "check_sentences"] if self.critic else [self._prompt]

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
        if text and not finding and self.critic:
            text, finding, doubtful = await self._criticise(text, image, ask)
            dropped += doubtful
        if finding:
            return self._refuse(uid, finding)
        return {self._column: text}, [Reject(uid, why, detail, f"{self._column}.sentences[{i}]") for i, why, detail in dropped]

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
            or form.coherence(text, self.language)
            or language.identified(text, self.language)
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
            finding = wording.meta_talk(sentence) or wording.echo(sentence, asked, self.language)
            if not finding and self.absent_things == "drop":
                finding = wording.absent_things(sentence)
            if not finding and i in again:
                finding = ("repetition", f"said before: {answers.excerpt(sentence)}")
            if finding:
                dropped.append((i, *finding))
            else:
                kept.append(sentence)
        return kept, dropped

    async def _criticise(
        self, text: str, image: Image.Image, ask: Ask
    ) -> tuple[str | None, Finding | None, list[tuple[int, str, str]]]:
        """Leave out what the model itself denies when shown the picture again. An unusable verdict changes nothing."""
        given = sentences.split(text)
        try:
            verdicts = answers.read_verdicts(await ask("check_sentences", {"sentences": given}, image), len(given))
        except answers.Unusable:
            return text, None, []
        kept = [s for s, true in zip(given, verdicts, strict=True) if true]
        dropped = [(i, "doubtful", answers.excerpt(s)) for i, s in enumerate(given) if not verdicts[i]]
        remaining = sentences.join(kept, self.language)
        if form.length(remaining, self.language, *self._window) or len(remaining) < self.min_kept * len(text):
            return None, ("doubtful", f"{len(dropped)} of {len(given)} sentences"), dropped
        return remaining, None, dropped
