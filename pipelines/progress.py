"""Showing that work moves: a live table on a terminal, a line now and then elsewhere, the same figures in both."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipelines.counted import counted

PLAIN_SECONDS = 10.0
LIVE_SECONDS = 0.5
WIDE, NARROW = 80, 56
"""Columns of a window from which on refusals and rates have room beside the counts."""


class Progress:
    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=False, highlight=False)

    def say(self, line: str) -> None:
        self.console.print(line, markup=False, soft_wrap=True)

    @contextmanager
    def watch(self, monitor: Any, stages: Sequence[str], shards: int) -> Iterator[None]:
        """Show the monitor's counts while the body runs, and once more at its end."""
        import ray

        ended = threading.Event()
        on_terminal = self.console.is_terminal

        def look() -> dict[str, Any]:
            return ray.get(monitor.snapshot.remote())

        def follow(live: Live | None) -> None:
            shown = time.monotonic()
            waits_for: list[str] = []
            while not ended.wait(LIVE_SECONDS):
                try:
                    snapshot = look()
                except ray.exceptions.RayError:
                    return  # the run itself will meet the same error and say so
                for word in snapshot["waits_for"]:
                    if word not in waits_for:
                        self.say(word)
                if waits_for and not snapshot["waits_for"]:
                    self.say("… it goes on")
                waits_for = snapshot["waits_for"]
                if live is not None:
                    live.update(_table(snapshot, stages, shards, self.console.width))
                elif time.monotonic() - shown >= PLAIN_SECONDS:
                    shown = time.monotonic()
                    self.say(_line(snapshot, stages, shards))

        live = Live(Text("starting …"), console=self.console, refresh_per_second=4, transient=True) if on_terminal else None
        thread = threading.Thread(target=follow, args=(live,), daemon=True)
        if live is not None:
            live.start()
        thread.start()
        try:
            yield
        finally:
            ended.set()
            if (
                live is not None
            ):  # first of all: a second Ctrl-C while the thread ends would leave the terminal without a cursor
                live.stop()
            thread.join(timeout=5)
        for line in summary(look(), stages):
            self.say(line)
        sys.stdout.flush()


def rate(count: dict[str, Any], seconds: float) -> str:
    done = count["rows_in"] + count["live"].get("samples", 0)
    text = f"{done / seconds:,.1f}/s" if seconds > 0 else "–"
    tokens = count["usage"].get("output_tokens", 0) + count["live"].get("output_tokens", 0)
    return f"{text} · {tokens / seconds:,.0f} tok/s" if tokens and seconds > 0 else text


def reasons(count: dict[str, Any], top: int = 3) -> str:
    """The commonest refusals with their share of the samples that came in."""
    whole = sum(count["rejects"].values())
    if not count["rows_in"] or not (whole or count["parts"]):
        return ""
    share = f"{whole / count['rows_in']:.1%}" if whole else "0 %"
    named = [f"{reason} {n}" for reason, n in sorted(count["rejects"].items(), key=lambda item: (-item[1], item[0]))[:top]]
    parts = [f"{reason} {n}" for reason, n in sorted(count["parts"].items(), key=lambda item: (-item[1], item[0]))[:top]]
    return share + (f" ({', '.join(named)})" if named else "") + (f"; parts: {', '.join(parts)}" if parts else "")


def eta(snapshot: dict[str, Any], shards: int) -> str:
    left = shards - snapshot["skipped"] - snapshot["finished"]
    if snapshot["finished"] == 0 or left <= 0:
        return ""
    seconds = snapshot["seconds"] / snapshot["finished"] * left
    hours, rest = divmod(int(seconds), 3600)
    return f"ETA {hours} h {rest // 60:02d} m" if hours else f"ETA {rest // 60} m {rest % 60:02d} s"


def _table(snapshot: dict[str, Any], stages: Sequence[str], shards: int, width: int = 120) -> Group:
    """As many columns as the window holds: a narrow one shows how far each stage is, a wide one also why samples left."""
    columns = 5 if width >= WIDE else 4 if width >= NARROW else 3
    table = Table(box=None, pad_edge=False, show_header=True, header_style="dim")
    for name in ("stage", "shards", "samples", "rate", "refused")[:columns]:
        table.add_column(name, no_wrap=name != "refused", overflow="ellipsis")
    for stage in stages:
        count = snapshot["stages"].get(stage)
        if count is None:
            table.add_row(stage, "–")
            continue
        active = f" +{count['active']}" if count["active"] else ""
        samples = count["rows_in"] + count["live"].get("samples", 0)
        row = (stage, f"{count['shards']}{active}", f"{samples:,}", rate(count, snapshot["seconds"]), Text(reasons(count)))
        table.add_row(*row[:columns])
    done = snapshot["skipped"] + snapshot["finished"]
    return Group(table, Text(f"{done:,} of {counted(shards, 'shard')}   {eta(snapshot, shards)}", style="bold"))


def _line(snapshot: dict[str, Any], stages: Sequence[str], shards: int) -> str:
    parts = []
    for stage in stages:
        count = snapshot["stages"].get(stage)
        if count and (count["active"] or count["live"]):
            samples = count["rows_in"] + count["live"].get("samples", 0)
            parts.append(f"{stage} {samples:,} ({rate(count, snapshot['seconds'])})")
    done = snapshot["skipped"] + snapshot["finished"]
    return "  ".join([f"{done:,}/{counted(shards, 'shard')}", *parts, eta(snapshot, shards)]).rstrip()


def summary(snapshot: dict[str, Any], stages: Sequence[str]) -> list[str]:
    lines = []
    for stage in stages:
        count = snapshot["stages"].get(stage)
        if count and count["shards"]:
            refused = reasons(count)
            kept = f"{count['rows_out']:,} of {count['rows_in']:,} kept"
            lines.append(
                f"  {stage:<18} {counted(count['shards'], 'shard'):>13}  {kept}" + (f"  refused {refused}" if refused else "")
            )
    return lines
