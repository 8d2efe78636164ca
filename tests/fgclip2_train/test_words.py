"""Texts put together from the tokens of their words: the same ids as the tokenizer gives, and only where that is certain."""

import json
import random

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from fgclip2_train.data.tokens import SPECIAL
from fgclip2_train.data.words import words_of

SAID = [
    "a small red circle, and the man's old dog.",
    "that's 3 of 10 (or more)",
    "红色的圆形和一只狗",
    "don't\n\n\nstop",
    "  a   b",
]


def gemma(merges_cross=False, template="$A <eos>", added=("[x]", "z▁a")) -> Tokenizer:
    """As Gemma's: spaces become ▁, one sequence of pairs over the whole text, bytes for what is not in the vocabulary."""
    core = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    core.pre_tokenizer = None if merges_cross else pre_tokenizers.Split(Regex("▁*[^▁]*"), "isolated")
    special = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    core.train_from_iterator(SAID * 3, trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False))
    core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    core.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<eos>", 1), ("<bos>", 2)])
    core.add_tokens([AddedToken(token, normalized=False) for token in ("▁▁", "\n\n")])
    core.add_tokens([AddedToken(token, normalized=True) for token in added])
    return core


def changed(core: Tokenizer, **parts) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(json.loads(core.to_str()) | parts))


@pytest.fixture(scope="module", params=["own", "gemma", "gemma with a beginning"])
def core(request, texts) -> Tokenizer:
    if request.param == "own":
        return Tokenizer.from_str(texts.tokenizer.backend_tokenizer.to_str())
    return gemma(template="$A <eos>" if request.param == "gemma" else "<bos> $A <eos>")


def random_texts(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    words = [word for text in SAID for word in text.split(" ")]
    marks = ["▁", "▁▁", "▁a", "[x]", "[X]", "z a", "<0x41>", "Ġ", "\n", "\t", "\0", "\u00a0"]
    odd = [*SPECIAL, *marks, "ﬁ", "é", "e\u0301", "İ", "🦊", "中"]
    seps = ["  ", " \n", "", "\u2003", "▁"]

    def word() -> str:
        kind = rng.random()
        if kind < 0.8:
            return rng.choice(words)
        if kind < 0.9:
            return "".join(chr(rng.randrange(33, 127)) for _ in range(rng.choice((1, 2, 8, 60))))
        return rng.choice(odd) + rng.choice(("", "a", ","))

    def text() -> str:
        wild = rng.random() < 0.5
        said = " ".join(word() if wild else rng.choice(words) for _ in range(rng.randrange(12)))
        return said.replace(" ", rng.choice(seps), 1) + rng.choice(("", " ")) if rng.random() < 0.2 else said

    return [text() for _ in range(count)]


def test_ids_are_those_of_the_tokenizer_for_any_text(core):
    words, put_together = words_of(core), 0
    for length in (3, 16, 64):
        core.enable_truncation(length)
        said = random_texts(length, 3000)
        for text, encoding in zip(said, core.encode_batch(said), strict=True):
            ids = words.ids(text, length)
            assert ids in (None, encoding.ids), text
            put_together += ids is not None
    assert put_together > 1000


@pytest.mark.parametrize("text", ["", " a", "a ", "a  b", "a\nb", "a <eos> b", "红色 a", "a ▁b", "a \u0301b", "x" * 1000])
def test_other_texts_are_left_to_the_tokenizer(core, text):
    assert words_of(core).ids(text, 64) is None


@pytest.mark.parametrize("text", ["a [x]", "a [X]b", "z a"])
def test_texts_that_may_hold_an_added_token_are_left_to_the_tokenizer(text):
    assert words_of(gemma()).ids(text, 64) is None


def test_what_leaves_no_room_for_a_text_is_left_to_the_tokenizer(core):
    assert words_of(core).ids("a", 1) is None


def test_no_more_words_are_remembered_than_there_is_room_for(core, monkeypatch):
    monkeypatch.setattr("fgclip2_train.data.words.KNOWN", 5)
    words, said = words_of(core), " ".join("abcdefghij" * 2)
    assert words.ids(said, 64) == core.encode(said).ids[:64] and len(words.later) <= 5


@pytest.mark.parametrize(
    "make",
    [
        lambda: gemma(merges_cross=True),
        lambda: changed(gemma(), normalizer=None),
        lambda: changed(gemma(), normalizer={"type": "Prepend", "prepend": "▁"}),
        lambda: changed(gemma(), pre_tokenizer={"type": "Punctuation", "behavior": "Isolated"}),
        lambda: changed(gemma(), post_processor=None),
        lambda: gemma(template="$A $A <eos>"),
        lambda: gemma(added=["▁"]),
        lambda: changed(gemma(), model=json.loads(gemma().to_str())["model"] | {"dropout": 0.1}),
        lambda: changed(gemma(), model=json.loads(gemma().to_str())["model"] | {"ignore_merges": True}),
    ],
    ids=["space in a token", "no mark", "prefix", "split otherwise", "no end", "twice", "a space", "dropout", "no merges"],
)
def test_tokenizers_of_which_it_is_not_certain_see_all_texts_whole(make):
    assert words_of(make()) is None
