"""What one sample contributes to a batch: which of its texts, boxes and negatives, chosen by seed, epoch and uid alone."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
from pydantic import Field

from fgclip2_train.batch import TEXTS_PER_GROUP
from fgclip2_train.data.shards import Raw
from fgclip2_train.strict import Strict

Language = Literal["en", "zh"]
_CLOSING = "”’」』）)\"'"
_SENTENCE_END = re.compile(
    rf"(?<=[.!?])\s+|(?<=[.!?][{_CLOSING}])\s+|(?<=[。！？…])(?![{_CLOSING}。！？…])|(?<=[。！？…][{_CLOSING}])\s*"
)
"""Between sentences: after a stop and what closes a quotation with it; Chinese needs no space there."""


class TextSettings(Strict):
    """Choices of the loader that presets differ in."""

    prefix_en: str = "a photo of "
    """Put before English short captions (released stage 2; stage 1 had none)."""
    max_regions: int = Field(default=4, ge=0, le=1000)
    region_languages: list[Language] = Field(default=["en"])
    """Languages whose samples bring their boxes. Released code: English only."""
    negative_languages: list[Language] = Field(default=["en"])
    """Languages whose regions bring their hard negatives."""
    original_share: float | None = Field(default=None, ge=0, le=1)
    """Probability of a text of origin "source" where both those and generated ones exist; null draws among all alike."""
    subcaption_share: float = Field(default=0.0, ge=0, le=1)
    """Probability that a random run of whole sentences stands for a long caption."""


@dataclass(frozen=True)
class Chosen:
    """regions: (box, phrase, hard group of eleven texts or none)"""

    uid: str
    language: str
    short: str
    long: str
    regions: list[tuple[list[float], str, list[str] | None]]


def choose(raw: Raw, language: str, settings: TextSettings, seed: int, epoch: int) -> Chosen:
    """One short and one long text in `language`, and the first regions that may be used.

    Without a long caption the short one is repeated four times (what the official stage 1 did); without a short one the long
    one's first sentence stands in.
    """
    rng = np.random.default_rng([seed, epoch, int(raw.uid[:15], 16)])
    texts = [text for text in raw.record["texts"] if text["language"] == language]
    short = _draw([text for text in texts if text["length"] == "short"], settings.original_share, rng)
    long = _draw([text for text in texts if text["length"] == "long"], settings.original_share, rng)
    if short is None and long is not None:
        short = _SENTENCE_END.split(long.strip())[0]
    assert short is not None  # the stream only gives out samples with a text in this language
    if long is None:
        long = " ".join([short] * 4)
    elif settings.subcaption_share and rng.random() < settings.subcaption_share:
        long = _run_of_sentences(long, rng)
    prefix = settings.prefix_en if language == "en" else ""
    return Chosen(raw.uid, language, prefix + short, long, _regions(raw.record, language, settings, rng))


def _draw(texts: list[dict[str, Any]], original_share: float | None, rng: np.random.Generator) -> str | None:
    if not texts:
        return None
    original = [text for text in texts if text["origin"] == "source"]
    generated = [text for text in texts if text["origin"] != "source"]
    if original_share is not None and original and generated:
        texts = original if rng.random() < original_share else generated
    return texts[rng.integers(len(texts))]["text"]


def _run_of_sentences(text: str, rng: np.random.Generator) -> str:
    """One to all of the sentences, neighbours in their order, cut out of the text as it is (Chinese gets no spaces between)."""
    ends = [0, *(gap.end() for gap in _SENTENCE_END.finditer(text)), len(text)]
    spans = [(start, end) for start, end in itertools.pairwise(ends) if text[start:end].strip()]
    if not spans:
        return text
    first = int(rng.integers(len(spans)))
    last = int(rng.integers(first, len(spans)))
    return text[spans[first][0] : spans[last][1]].strip()


def _regions(record: dict[str, Any], language: str, settings: TextSettings, rng: np.random.Generator):
    if language not in settings.region_languages:
        return []
    inside = [(_within(region["box"]), region) for region in record.get("regions", ()) if region["language"] == language]
    usable = [(box, region) for box, region in inside if box[0] < box[2] and box[1] < box[3]]
    chosen = []
    for box, region in usable[: settings.max_regions]:
        phrase = region["short"] if rng.random() < 0.5 else region["long"]
        negatives = [negative["text"] for negative in region.get("negatives", ())]
        hard = language in settings.negative_languages and len(negatives) == TEXTS_PER_GROUP - 1
        chosen.append((box, phrase, [region["short"], *negatives] if hard else None))
    return chosen


def _within(box: list[float]) -> list[float]:
    """A box that writers may have rounded beyond the picture, cut to it."""
    return [min(max(edge, 0.0), 1.0) for edge in box]


def text_hash(text: str) -> int:
    """63 bits that tell texts apart, case aside."""
    return int.from_bytes(blake2b(text.lower().encode(), digest_size=8).digest(), "big") >> 1
