"""Stages that run beside each other, joined by bounded queues."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from accel.core import Cancel

T = TypeVar("T")
R = TypeVar("R")
_END = object()


def buffered(
    iterable: Iterable[T], size: int = 8, name: str = "decode"
) -> Generator[T, None, None]:
    """Run `iterable` in a thread of its own, at most `size` items ahead of the caller.

    An exception in the thread is raised here, after the items made before it. Closing the iterator
    (or leaving a `for` over it by an exception) stops the thread, closes `iterable` in that thread
    if it is a generator, and waits until both are done. The thread starts with the first item asked
    for.
    """
    if size < 1:
        raise ValueError(f"buffered: size must be at least 1, got {size}")
    return _consume(iterable, queue.Queue(maxsize=size), name)


def _consume(
    iterable: Iterable[T], items: queue.Queue[object], name: str
) -> Generator[T, None, None]:
    stopped = threading.Event()
    thread = threading.Thread(
        target=_produce, args=(iterable, items, stopped), name=f"accel-{name}"
    )
    thread.start()
    try:
        while True:
            item = items.get()
            if item is _END:
                return
            if isinstance(item, _Raised):
                raise item.error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        while thread.is_alive():  # a producer that waits for room must find some
            try:
                items.get(timeout=0.02)
            except queue.Empty:
                thread.join(timeout=0.02)


def in_order(
    pool: ThreadPoolExecutor,
    work: Callable[[T], R],
    items: Iterable[T],
    ahead: int,
    cancel: Cancel | None = None,
) -> Iterator[R]:
    """Map in a pool, results in order, at most `ahead` items taken before one is given out."""
    waiting: deque[Future[R]] = deque()
    iterator = iter(items)
    try:
        while True:
            for item in islice(iterator, ahead - len(waiting)):
                waiting.append(pool.submit(work, item))
            if not waiting:
                return
            if cancel:
                cancel.check()
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


@dataclass(frozen=True)
class _Raised:
    error: BaseException


def _produce(iterable: Iterable[T], items: queue.Queue[object], stopped: threading.Event) -> None:
    iterator = None
    last: object = _END
    try:
        iterator = iter(iterable)
        while not stopped.is_set():
            item = next(iterator, _END)
            if item is _END:
                break
            items.put(item)
            del item  # a frame must not live here while the next one is made
    except BaseException as error:
        last = _Raised(error)
    finally:
        try:
            if iterator is not None and hasattr(iterator, "close"):
                iterator.close()
        except BaseException as error:
            last = _Raised(error)
        items.put(last)
