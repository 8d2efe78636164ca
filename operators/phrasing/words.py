"""Word lists of one language, each a set; an entry is a string of words separated by blanks."""

from __future__ import annotations

import functools
from pathlib import Path

import yaml


@functools.cache
def words(language: str) -> dict[str, frozenset[str]]:
    lists = yaml.safe_load(Path(__file__).with_name(f"words_{language}.yaml").read_text(encoding="utf-8"))
    return {name: frozenset(str(entry).split()) for name, entry in lists.items()}
