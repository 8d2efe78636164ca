"""Concurrent requests through the model together, without making any of them wait on purpose.

While one batch is being worked on, what arrives is queued; the next batch takes all of it, up to `most`. A lone request is answered
at once, and under load batches grow by themselves.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Busy(Exception):
    """The queue is full."""


class Batcher(Generic[Item, Result]):
    """run: a list of items to their results, in order; called in `executor`, never twice at once. waiting: items queued at most."""

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Result]],
        most: int,
        waiting: int,
        executor: Executor,
        watch: Callable[[int], None] = lambda size: None,
    ):
        self.run, self.most, self.waiting, self.executor, self.watch = run, most, waiting, executor, watch
        self.queue: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self.task: asyncio.Task[None] | None = None

    async def __call__(self, items: Sequence[Item]) -> list[Result]:
        if len(self.queue) + len(items) > self.waiting:
            raise Busy
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Result]] = [loop.create_future() for _ in items]
        self.queue.extend(zip(items, futures, strict=True))
        if self.queue and (self.task is None or self.task.done()):
            self.task = asyncio.create_task(self._work())
        try:
            return [await future for future in futures]
        finally:
            for future in futures:  # of a caller that went away: what is still queued is not worked on
                future.cancel()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self.queue:
            batch: list[tuple[Item, asyncio.Future[Result]]] = []
            while self.queue and len(batch) < self.most:
                item, future = self.queue.popleft()
                if not future.done():
                    batch.append((item, future))
            if not batch:
                continue
            self.watch(len(batch))
            try:
                results = await loop.run_in_executor(self.executor, self.run, [item for item, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                        future.exception()  # read, so that nobody complains if its caller went away
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)


class Recent(Generic[Item]):
    """The newest `most` values by key."""

    def __init__(self, most: int):
        self.most = most
        self.values: OrderedDict[Hashable, Item] = OrderedDict()

    def get(self, key: Hashable) -> Item | None:
        value = self.values.get(key)
        if value is not None:
            self.values.move_to_end(key)
        return value

    def put(self, key: Hashable, value: Item) -> None:
        self.values[key] = value
        self.values.move_to_end(key)
        while len(self.values) > self.most:
            self.values.popitem(last=False)
