"""One of each for as many as possible: words for words, things for things."""

from __future__ import annotations

from collections.abc import Sequence


def matched(choices: Sequence[Sequence[int]]) -> dict[int, int]:
    """Choice → row that has it, for as many rows as can have one of their own (augmenting paths), rows of few choices first.

    choices: of each row, those it may have, likeliest first.
    """
    holder: dict[int, int] = {}

    def place(row: int, seen: set[int]) -> bool:
        for choice in choices[row]:
            if choice not in seen:
                seen.add(choice)
                if choice not in holder or place(holder[choice], seen):
                    holder[choice] = row
                    return True
        return False

    for row in sorted(range(len(choices)), key=lambda row: len(choices[row])):
        place(row, set())
    return holder
