"""How often one may ask: a bucket that fills again with time, for each reviewer and for each address that tries links."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Any


class Told(Exception):
    """A page that says why not: status, a text of the catalogue, and its values."""

    def __init__(self, status: int, text: str, **values: Any) -> None:
        super().__init__(text)
        self.status, self.text, self.values = status, text, values


REVIEWER = (120.0, 10.0)
"""Requests at once, and a second after that: pictures and pages of somebody who reads."""
STRANGER = (30.0, 0.5)
WRONG = 4.0
"""What a wrong link costs, in requests."""
REMEMBERED = 10_000


class Bucket:
    def __init__(self, size: float, rate: float) -> None:
        self.size, self.rate = size, rate
        self._left: OrderedDict[object, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, who: object, cost: float = 1.0) -> bool:
        """False where nothing is left; what is asked in vain costs nothing."""
        with self._lock:
            moment = time.monotonic()
            left, at = self._left.pop(who, (self.size, moment))
            left = min(self.size, left + (moment - at) * self.rate)
            enough = left > 0
            self._left[who] = (left - cost if enough else left, moment)
            while len(self._left) > REMEMBERED:
                self._left.popitem(last=False)
            return enough


class Limits:
    def __init__(self) -> None:
        self._reviewers, self._strangers = Bucket(*REVIEWER), Bucket(*STRANGER)

    def of_reviewer(self, reviewer: int) -> None:
        if not self._reviewers.take(reviewer):
            self._refuse()

    def of_stranger(self, address: str) -> None:
        if not self._strangers.take(address):
            self._refuse()

    def wrong(self, address: str) -> None:
        self._strangers.take(address, WRONG)

    def _refuse(self) -> None:
        raise Told(429, "Too many requests at once: wait a few seconds. Nothing was stored.")
