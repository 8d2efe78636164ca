"""Lets these tests import their helpers `make_shards`, `reader_kit` and `use_kit` by name, whatever import mode pytest runs in."""

import sys
from pathlib import Path

import pytest

from fgclip2_train.data.tokens import Texts, train_tokenizer

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def texts() -> Texts:
    """A small tokenizer of both languages."""
    return train_tokenizer(["a picture with red circle at the left", "左边的红色圆形和蓝色方块"] * 3, 400)
