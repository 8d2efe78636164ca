"""Characters that have no business in a caption.

Stripped   zero-width spaces and joiners, byte order marks, soft hyphens: invisible and harmless leftovers of web text; a joiner
           between two emoji stays, since it makes one picture of them
Refused    "control_chars": control characters other than line breaks and tabs, bidi controls and overrides, fillers and other
           letters without a shape, tag characters, private use, lone surrogates, U+FFFD; they hide text from the reader or show
           that the answer is broken
"""

from __future__ import annotations

import re
import unicodedata

from operators.validators import Finding

EMOJI = "\u2190-\u21ff\u2300-\u23ff\u25a0-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff"
STRIPPED = re.compile(f"[\u00ad\u200b\u200c\u2060\ufeff]|(?<![{EMOJI}\ufe0f])\u200d|\u200d(?![{EMOJI}])")
REFUSED = re.compile(
    "["
    "\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f"  # controls
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"  # bidi marks, embeddings, overrides, isolates, deprecated format characters
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180e\u2061-\u2065\u2800\u3164\uffa0"  # seen by no reader: joiners, operators, fillers
    "\ud800-\udfff\ue000-\uf8ff\ufff9-\ufffd\ufffe\uffff"  # surrogates, private use, specials, noncharacters
    "\U000e0000-\U000e0fff\U000f0000-\U0010ffff"  # tags and variation selectors, private planes
    "]"
)


def clean(text: str) -> str:
    """NFC, harmless invisible characters gone, every run of whitespace one space, except that line breaks stay line breaks."""
    text = STRIPPED.sub("", unicodedata.normalize("NFC", text))
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    return re.sub(r" *\n[ \n]*", "\n", re.sub(r"[^\S\n]+", " ", text)).strip()


def control_characters(text: str) -> Finding | None:
    match = REFUSED.search(text)
    if match is None:
        return None
    return "control_chars", f"U+{ord(match[0]):04X} at {match.start()}, {len(REFUSED.findall(text))} in all"
