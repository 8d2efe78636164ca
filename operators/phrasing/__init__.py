"""Cut referring expressions from captions.

words.py     loads the lists of nouns that name nothing one could draw a box around (words_en.yaml, words_zh.yaml)
english.py   from spaCy's dependency parse
mistaken.py  verbs that spaCy's tagger takes for nouns
denial.py    which nouns of an English parse are said not to be there
chinese_words.py   the words of a Chinese caption, from jieba
chinese.py   from these, which end in their noun
"""

from __future__ import annotations

from typing import NamedTuple


class Phrase(NamedTuple):
    """text == caption[start:end]; head: the noun that names the thing, in its dictionary form where there is one."""

    text: str
    start: int
    end: int
    head: str
