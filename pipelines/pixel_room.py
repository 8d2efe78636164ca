"""How many pixels a worker may hold decoded while many samples wait for the model at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class PixelRoom:
    """Room for `pixels` at a time, shared by all that take of it. One loop's tasks only."""

    def __init__(self, pixels: int) -> None:
        self.free = self.pixels = pixels
        self._turn = asyncio.Lock()
        self._given_back = asyncio.Event()

    @asynccontextmanager
    async def taken(self, pixels: int) -> AsyncIterator[None]:
        """Wait until there is room for so many, and hold it. What is larger than all of it waits until it is alone."""
        pixels = min(pixels, self.pixels)
        async with self._turn:  # first come, first served: small ones do not pass a large one for ever
            while self.free < pixels:
                self._given_back.clear()
                await self._given_back.wait()
            self.free -= pixels
        try:
            yield
        finally:
            self.free += pixels
            self._given_back.set()
