"""Counting tokens."""

import pyarrow as pa
import pytest

from operators.tokens import Tokens
from tests.kit.tiny_detector import make_tiny_tokenizer


def test_tokens_are_counted_by_the_tokenizer_of_a_local_folder(tmp_path):
    table = pa.table({"uid": ["1", "2", "3"], "caption": ["a red car.", None, ""]})
    outcome = Tokens(column="caption", tokenizer=make_tiny_tokenizer(tmp_path))(table)
    assert outcome.kept["caption_tokens"].to_pylist() == [4, None, 0]


def test_a_tokenizer_that_is_not_there_says_what_to_set(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RuntimeError, match="Set `tokenizer` to a local folder"):
        Tokens(column="caption", tokenizer=str(tmp_path)).setup()
