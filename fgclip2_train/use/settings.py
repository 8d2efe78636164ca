"""What the server is told: `key=value` on the command line, as in training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fgclip2_train.data.images import Patches
from fgclip2_train.strict import Strict, Threads
from fgclip2_train.use.pictures import MAX_PIXELS


class ServeSettings(Strict):
    """Bounds are per request unless said otherwise; beyond them the answer is 413, or 429 where the server as a whole is full."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """Only this machine. There is no password: put a proxy that asks for one before opening it further."""
    port: int = Field(default=8700, ge=0, le=65535)
    """0 takes a free one, which is printed."""
    cache: str | None = None
    """Feature cache made by `index`; without one there is no search."""
    index: Literal["auto", "exact", "scan", "ivf"] = "auto"
    patches: Patches | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Threads | None = None
    """Of the model and the search; by default all cores."""
    batch: int = Field(default=64, ge=1)
    """Pictures, texts or queries that go through together."""
    queue: int = Field(default=512, ge=1)
    """Items of all requests that wait for the model, per kind; also requests in hand at once."""
    body: int = Field(default=32 << 20, ge=1)
    """Bytes of a request."""
    bodies: int = Field(default=512 << 20, ge=1)
    """Bytes of all requests in hand."""
    pixels: int = Field(default=MAX_PIXELS // 2, ge=1)
    """Of one picture."""
    characters: int = Field(default=8192, ge=1)
    """Of one text."""
    items: int = Field(default=64, ge=1)
    """Pictures or texts."""
    results: int = Field(default=1000, ge=1)
    """Of a search."""
    timeout: float = Field(default=60.0, gt=0)
    """Seconds for a request to arrive, and again to be answered; also those that a connection may be silent."""
    drain: float = Field(default=20.0, ge=0)
    """Seconds that requests in hand have to end after SIGTERM."""
    remembered: int = Field(default=20_000, ge=1)
    """Vectors of texts, and of pictures, kept in memory."""
