"""Token ids of a text from those of its words, which repeat, where these are to the last one what the tokenizer gives.

A tokenizer of the tokenizers library keeps where each token lies through every change of a text. That is most of its work, and nobody
asks for it here.
"""

from __future__ import annotations

import itertools
import json
import re
import string
from typing import Any

from tokenizers import Tokenizer, models, processors

KNOWN, LONGEST = 32_768, 40
"""Words that are remembered, and the characters of the longest such one: some 10 MB at most."""
_PLAIN = {"Lowercase", "NFC", "NFD", "NFKC", "NFKD"}
"""Normalizers that change a character of ASCII at most to its small letter."""
_MARKED = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
_NOTHING_LEFT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
"""Gemma's, after its normalizer has left no space to split at."""
_HAN = {"type": "Split", "pattern": {"Regex": r"\p{Han}"}, "behavior": "Isolated", "invert": False}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


class Words:
    """What a tokenizer makes of texts of printable ASCII with one space between words, and none at the ends."""

    def __init__(self, core: Tokenizer, characters: str, begin: list[int], end: list[int]):
        pattern = re.compile(f"[{re.escape(characters)}]{{1,{LONGEST}}}")
        self.first, self.later = _Known(core, pattern, ""), _Known(core, pattern, " ")
        self.begin, self.end = begin, end

    def ids(self, text: str, length: int) -> list[int] | None:
        """Of a text cut to `length`, with what the tokenizer puts around it; None for a text that it has to see whole."""
        first, *later = text.split(" ")
        room = length - len(self.begin) - len(self.end)
        try:
            ids = [*self.first[first], *itertools.chain.from_iterable(map(self.later.__getitem__, later))]
        except KeyError:
            return None
        return [*self.begin, *ids[:room], *self.end] if room > 0 else None


class _Known(dict[str, list[int]]):
    """Token ids of words, as they follow `before`. KeyError for what is no plain word."""

    def __init__(self, core: Tokenizer, pattern: re.Pattern[str], before: str):
        super().__init__()
        self.core, self.pattern, self.before = core, pattern, before

    def __missing__(self, word: str) -> list[int]:
        if not self.pattern.fullmatch(word):
            raise KeyError(word)
        if len(self) >= KNOWN:
            self.clear()
        text, core = self.before + word, self.core
        if core.normalizer:
            text = core.normalizer.normalize_str(text)
        parts = [part for part, _ in core.pre_tokenizer.pre_tokenize_str(text)] if core.pre_tokenizer else [text]
        ids = self[word] = [token.id for part in parts for token in core.model.tokenize(part)]
        return ids


def words_of(core: Tokenizer) -> Words | None:
    """None for a tokenizer of which it is not known that it takes each word for itself.

    It does if nothing before its model looks across a space, and no token can hold a space behind something else: merging one pair
    after another then never crosses from a word to the next. Texts with an added token, which is cut out before, are left to it too.
    """
    mark = _mark(core)
    vocabulary = core.get_vocab(with_added_tokens=False) if mark else {}
    if mark not in vocabulary or any(mark in token.lstrip(mark) for token in vocabulary):
        return None
    around = _around(core.post_processor)
    characters = set(string.printable) - set(string.whitespace)
    for added in core.get_added_tokens_decoder().values():
        normal = core.normalizer.normalize_str(added.content) if core.normalizer else added.content
        for token in (added.content, normal):
            begin = token.lstrip(f" {mark}")[:1]
            if not begin and len(token) == 1:  # a space itself
                return None
            characters -= {begin.lower(), begin.upper()}
    return Words(core, "".join(sorted(characters)), *around) if characters and len(around) == 2 else None


def _mark(core: Tokenizer) -> str | None:
    """What a space is in the vocabulary of a tokenizer built like Gemma's, or as we build them; None for any other."""
    model = core.model
    if not isinstance(model, models.BPE) or not isinstance(core.post_processor, processors.TemplateProcessing):
        return None
    if model.dropout or model.ignore_merges or model.continuing_subword_prefix or model.end_of_word_suffix:
        return None
    normalizers = [step for step in _steps(core.normalizer) if step["type"] not in _PLAIN]
    splits = [step for step in _steps(core.pre_tokenizer) if step != _HAN]
    if normalizers == [_MARKED] and splits in ([], [_NOTHING_LEFT]):
        return "▁"
    return "Ġ" if not normalizers and splits == [_BYTES] else None


def _around(template: processors.TemplateProcessing) -> list[list[int]]:
    """Token ids before and after a text; of another number of parts if it does not stand there once."""
    state = json.loads(template.__getstate__())
    around: list[list[int]] = [[]]
    for piece in state["single"]:
        if "Sequence" in piece:
            around.append([])
        else:
            around[-1] += state["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
    return around


def _steps(part: Any) -> list[dict[str, Any]]:
    """Of a normalizer or pre-tokenizer, or none."""
    if part is None:
        return []
    state = json.loads(part.__getstate__())
    return state.get("normalizers") or state.get("pretokenizers") or [state]
