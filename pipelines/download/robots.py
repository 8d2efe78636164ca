"""robots.txt by RFC 9309: groups, longest match, `*` and `$`, the first 500 KiB.

Python's own reader knows neither wildcards nor the longest match, and a rule for pictures is mostly one with wildcards
(`Disallow: /*.jpg$`); it takes a byte-order mark for a part of the first line, and keeps every crawler's rules in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote

MAX_BYTES = 500 << 10
"""What is read of a file at most; what stands there counts, what comes after does not."""
UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Rules:
    """What one agent may ask for: the rules of its own groups, or where it has none, those for everybody."""

    def __init__(self, rules: list[tuple[str, bool]] | None = None) -> None:
        # The longest one that matches decides, and of two as long the one that allows.
        self.rules = sorted(dict.fromkeys(rules or []), key=lambda rule: (-len(rule[0]), not rule[1]))

    @classmethod
    def read(cls, data: bytes, agent: str) -> Rules:
        """agent   product token in lower case"""
        if len(data) > MAX_BYTES:
            data = data[:MAX_BYTES]
            data = data[: max(data.rfind(b"\n"), data.rfind(b"\r")) + 1]  # half a rule would be another rule
        groups: dict[str, list[tuple[str, bool]]] = {}
        agents: list[str] = []
        begun = False  # rules of the present group
        for key, value in _records(data.decode("utf-8-sig", "replace")):
            if key == "user-agent":
                if begun:
                    agents, begun = [], False
                name = re.match(r"[\w-]+|\*", value)
                agents.append(name[0].lower() if name else "")
                groups.setdefault(agents[-1], [])
            elif key in ("allow", "disallow"):
                begun = True
                for name_ in agents:
                    if value and name_ in (agent, "*"):
                        groups[name_].append((normal(value), key == "allow"))
        return cls(groups.get(agent, groups.get("*")))

    @property
    def size(self) -> int:
        """Characters held."""
        return sum(len(pattern) for pattern, _ in self.rules)

    def allow(self, target: str) -> bool:
        """target: path and query as they are sent"""
        target = normal(target)
        return next((allowed for pattern, allowed in self.rules if _matches(pattern, target)), True)


def _records(text: str) -> Iterator[tuple[str, str]]:
    for line in re.split(r"\r\n|\r|\n", text):
        key, colon, value = line.partition("#")[0].partition(":")
        if colon:
            yield key.strip().lower(), value.strip()


def normal(path: str) -> str:
    """One spelling for what is the same: what is not ASCII is escaped, what need not be is not, and hex digits are capitals."""

    def one(found: re.Match[str]) -> str:
        character = chr(int(found[1], 16))
        return character if character in UNRESERVED else found[0].upper()

    ascii_only = path if path.isascii() else "".join(c if c.isascii() else quote(c) for c in path)
    return re.sub(r"%([0-9A-Fa-f]{2})", one, ascii_only)


def _matches(pattern: str, target: str) -> bool:
    """Piece after piece, each at its first place: never more than some passes over the target, whatever a stranger writes."""
    to_the_end = pattern.endswith("$")
    first, *rest = (pattern[:-1] if to_the_end else pattern).split("*")
    if not target.startswith(first):
        return False
    at = len(first)
    if not rest:
        return not to_the_end or at == len(target)
    last = rest.pop() if to_the_end else ""
    for piece in rest:
        found = target.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return len(target) - len(last) >= at and target.endswith(last)
