"""A real headless Chromium, and the pages' own commands as processes.

Where no Chromium is installed (`apt install chromium`, or FINELOOM_CHROMIUM names one), `chromium()` is None and tests say so and skip.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE = 180.0
"""Seconds for a page or a process; machines of tests are slow at times."""


def chromium() -> str | None:
    named = os.environ.get("FINELOOM_CHROMIUM")
    return named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def browser() -> Iterator[Any]:
    """A Playwright browser over the installed Chromium; nothing is downloaded."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"], timeout=PATIENCE * 1000
        )
        try:
            yield opened
        finally:
            opened.close()


class Served:
    """`fineloom ARGUMENTS` as a process. lines: what it said until it told its address; url: that address."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "pipelines", *arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._said: Queue[str] = Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self.lines: list[str] = []
        self.url = ""
        while not self.url:
            try:
                self.lines.append(self._said.get(timeout=PATIENCE))
            except Empty:
                self.end()
                raise RuntimeError(f"no address from {command}: {self.lines}") from None
            if "Ctrl-C ends it" in self.lines[-1]:
                self.url = re.search(r"http://[^/]+/", self.lines[-1])[0]  # type: ignore[index]
            elif self.lines[-1] == "":
                raise RuntimeError(f"{command} ended: {self.lines}")

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._said.put(line.rstrip() or " ")
        self._said.put("")

    def link_of(self, name: str) -> str:
        """The personal link that was printed for a reviewer."""
        return next(line.partition(": ")[2] for line in self.lines if line.startswith(f"{name}: "))

    def end(self, kill: bool = False) -> None:
        if self.process.poll() is None:
            self.process.kill() if kill else self.process.terminate()
        self.process.wait(30)
