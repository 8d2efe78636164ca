"""Texts to token ids: fixed lengths, padded on the right, lower-cased, a whole batch at once.

The pooled text vector is the last position, pads are attended to, so the padding side and the length are part of the model. They are
set and checked here, whatever the tokenizer's files say (transformers' `Siglip2Tokenizer` pads on the left by default).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from fgclip2_train.data.words import Words, words_of

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>"]  # ids 0 to 3, as in the Gemma tokenizer


class Texts:
    """A tokenizer with FG-CLIP 2's conventions. `lower` False only for evaluation protocols that keep case."""

    def __init__(self, tokenizer, lower: bool = True):
        self.tokenizer, self.lower = tokenizer, lower
        self.words: Words | None = None
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        if tokenizer.pad_token_id is None:
            raise ValueError("the tokenizer has no padding token; FG-CLIP 2 pads every text to a fixed length")
        if not tokenizer.is_fast:
            raise ValueError("the tokenizer is not one of the tokenizers library (no tokenizer.json); batches need its speed")
        ids = self(["a cat"], 64)[0]
        if tokenizer.eos_token_id is None or tokenizer.backend_tokenizer.encode("a cat").ids[-1] != tokenizer.eos_token_id:
            raise ValueError("the tokenizer does not end a text with an end-of-text token, as every text of FG-CLIP 2 ends")
        if ids[-1] != tokenizer.pad_token_id or ids[0] == tokenizer.pad_token_id:
            raise ValueError("the tokenizer does not pad on the right; every feature would differ from the model's")
        if lower and not torch.equal(self(["A CAT"], 64)[0], ids):
            raise ValueError("the tokenizer tells upper from lower case after lower-casing")
        self.words = words_of(tokenizer.backend_tokenizer)

    def __call__(self, texts: Sequence[str], length: int) -> Tensor:
        """int64 [len(texts), length]. Raises ValueError for what is no text."""
        if not texts:
            return torch.zeros(0, length, dtype=torch.int64)
        texts = [text.lower() for text in texts] if self.lower else list(texts)
        words = self.words
        known = [words.ids(text, length) if words else None for text in texts]
        whole = iter(self._whole([text for text, row in zip(texts, known, strict=True) if row is None], length))
        rows = [next(whole) if row is None else row for row in known]
        filled = np.arange(length) < np.fromiter(map(len, rows), np.int64, len(rows))[:, None]
        ids = np.full(filled.shape, self.tokenizer.pad_token_id, dtype=np.int64)
        ids[filled] = np.fromiter(itertools.chain.from_iterable(rows), np.int64)
        return torch.from_numpy(ids)

    def _whole(self, texts: list[str], length: int) -> list[list[int]]:
        """As the tokenizer's own call, whose lists of padded lists take most of the time."""
        if not texts:
            return []
        core = self.tokenizer.backend_tokenizer
        core.no_padding()
        core.enable_truncation(length, direction="right")
        try:
            return [encoding.ids for encoding in core.encode_batch_fast(texts)]
        except TypeError:
            refuse_half_characters(texts)
            raise

    def __len__(self) -> int:
        return len(self.tokenizer)

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(str(folder))


def refuse_half_characters(texts: Iterable[str]) -> None:
    """What JSON and command lines can hold for a text, and no tokenizer takes for one."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"a text with half a surrogate pair: {text[:80]!r}") from None


def load_texts(folder: str | Path) -> Texts:
    """The tokenizer kept beside a checkpoint, or of a hub name."""
    whole = (Path(folder) / "tokenizer.json").is_file()
    try:
        # tokenizer.json says everything; the automatic way also looks at the model's config, and asks at the terminal whether to run
        # the code that it names.
        kind = PreTrainedTokenizerFast if whole else AutoTokenizer
        tokenizer = kind.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # of the tokenizers library for a damaged file, often no other kind
        if whole:
            file = Path(folder) / "tokenizer.json"
            what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise ValueError(f"{file}, or tokenizer_config.json beside it: damaged ({what})") from error
        raise ValueError(
            f"{folder}: no tokenizer there ({type(error).__name__}). A checkpoint of this package has tokenizer.json beside its "
            "weights; name another folder with model.tokenizer=DIR, or model.tokenizer=train to make one from the shards' texts"
        ) from error
    try:
        return Texts(tokenizer)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def train_tokenizer(texts: Iterable[str], size: int) -> Texts:
    """A small byte-level BPE of both languages, for models that start from nothing. Same texts, same tokenizer.

    Chinese, which has no spaces, is cut into single characters: merged freely, every phrase would become a token of its own.
    """
    core = Tokenizer(models.BPE(unk_token=None))
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(texts, trainer)
    core.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", SPECIAL.index("<eos>"))])
    pad, eos, bos, unk = SPECIAL
    return Texts(PreTrainedTokenizerFast(tokenizer_object=core, pad_token=pad, eos_token=eos, bos_token=bos, unk_token=unk))
