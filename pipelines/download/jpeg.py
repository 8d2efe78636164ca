"""What of a JPEG can keep it from being decoded: everything but its entropy-coded bytes.

Those make up nearly all of a file, and parsing them takes most of the time of reading it; yet they cannot fail. Where they make no
sense libjpeg goes on with what it has, and where they end before the picture does it fills the rest with grey: at a marker it asks
for no more. Only a file that ends without a marker is cut. Markers and segments: ITU-T T.81, B.1.1 and B.2.
"""

from __future__ import annotations

import re

MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""Any but restarts, which stand among the coded bytes, as do FF 00, a coded FF, and FF FF, a filled one."""
END = 0xD9
BETWEEN_SCANS = {0xC4, 0xDA, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}
"""Segments with a length: Huffman tables, a scan's head, quantisation, restart interval, comment, application data."""
MOST_SEGMENTS = 1000
"""After the first scan's head. A progressive picture has some twenty."""


def without_pixels(data: bytes, scan: int) -> bytes | None:
    """The file without its entropy-coded bytes: libjpeg decodes it where it decodes the whole, and refuses it where it refuses the
    whole.

    scan   where the head of the first scan ends

    None where that cannot be promised: no end marker, a segment that leads beyond the file, markers that belong elsewhere.
    """
    kept, at = [data[:scan]], scan
    for _ in range(MOST_SEGMENTS):
        found = MARKER.search(data, at)
        if found is None:
            return None
        start, at = found.span()
        if data[start + 1] == END:
            return b"".join([*kept, data[start:at]])
        at += int.from_bytes(data[at : at + 2], "big")
        if data[start + 1] not in BETWEEN_SCANS or at < start + 4 or at > len(data):
            return None
        kept.append(data[start:at])
    return None
