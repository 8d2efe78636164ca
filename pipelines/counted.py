"""How many of what, in words."""

from __future__ import annotations


def counted(n: int, thing: str, things: str = "") -> str:
    """`1 shard`, `1,200 shards`; `things` where the plural takes more than an s."""
    return f"{n:,} {thing if n == 1 else things or f'{thing}s'}"
