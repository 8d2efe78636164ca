"""Where two texts differ."""

from __future__ import annotations

import re

WORD = re.compile(r"[A-Za-z0-9]+(?:['’][A-Za-z]+)?|[^\sA-Za-z0-9]")


def diff_span(positive: str, negative: str) -> tuple[int, int, str]:
    """The smallest run of whole words of `negative` outside of which it equals `positive`.

    Returns start and end (characters of `negative`) and the words of `positive` that stood there. English words are whole;
    Chinese is compared by character. Equal texts give (0, 0, ""). Where words were only removed, the span is the word that
    now stands in their place, so that it is never empty.
    """
    old = [(match.group(), match.span()) for match in WORD.finditer(positive)]
    new = [(match.group(), match.span()) for match in WORD.finditer(negative)]
    before = 0
    while before < min(len(old), len(new)) and old[before][0] == new[before][0]:
        before += 1
    if before == len(old) == len(new):
        return 0, 0, ""
    after = 0
    while after < min(len(old), len(new)) - before and old[-1 - after][0] == new[-1 - after][0]:
        after += 1
    if after + before == len(new):  # nothing of the negative is its own: take a neighbour in
        if after:
            after -= 1
        else:
            before -= 1
    start, end = new[before][1][0], new[len(new) - after - 1][1][1]
    gone = old[before : len(old) - after]
    return start, end, positive[gone[0][1][0] : gone[-1][1][1]] if gone else ""
