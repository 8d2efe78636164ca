"""Small checks of texts: each gives None, or (reason, detail), the machine word and what a person needs to know.

characters    control, bidi and other invisible characters; whitespace
sentences     sentence and quotation boundaries, English and Chinese
language      script, language, simplified characters
form          length, loops, cut ends, coherence
wording       refusals, talk about the task, injected instructions, markup, prompt echo, absent things, hedges
translation   numbers, colours, negation, length, leftovers of an English-Chinese pair
clock         times of day in such a pair
dictionary    its clauses, added and left out, by words
syntax        the tree of an English sentence, and who does what in it
attributes, sizes   what is said of each of its things, and what is not
pairing, roles, crossing, parted   which of its nouns stand for which, and whether any two changed places
"""

from __future__ import annotations

Finding = tuple[str, str]
"""(reason, detail)."""
