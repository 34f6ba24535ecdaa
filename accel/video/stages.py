"""Stages that run beside each other, joined by bounded queues, and how long each of them took."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")
_END = object()


@dataclass
class StageTime:
    """Seconds of one stage.

    busy_s: spent making items.
    blocked_s: spent with a finished item that the next stage did not take yet.
    starved_s: spent by the next stage waiting for an item.
    items: how many were made.
    """

    busy_s: float = 0.0
    blocked_s: float = 0.0
    starved_s: float = 0.0
    items: int = 0


@dataclass
class Clock:
    """Adds up stage times; may be shared between threads."""

    _stages: dict[str, StageTime] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(
        self,
        stage: str,
        *,
        busy_s: float = 0.0,
        blocked_s: float = 0.0,
        starved_s: float = 0.0,
        items: int = 0,
    ) -> None:
        with self._lock:
            entry = self._stages.setdefault(stage, StageTime())
            entry.busy_s += busy_s
            entry.blocked_s += blocked_s
            entry.starved_s += starved_s
            entry.items += items

    @contextmanager
    def busy(self, stage: str, items: int = 1) -> Iterator[None]:
        """Count the time of a `with` block as work of `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, busy_s=time.perf_counter() - start, items=items)

    def stages(self) -> dict[str, StageTime]:
        """Return the times by stage, in the order in which the stages first reported."""
        with self._lock:
            return {name: StageTime(**vars(entry)) for name, entry in self._stages.items()}


def buffered(
    iterable: Iterable[T], size: int = 8, name: str = "decode", clock: Clock | None = None
) -> Generator[T, None, None]:
    """Run `iterable` in a thread of its own, at most `size` items ahead of the caller.

    An exception in the thread is raised here, after the items made before it. Closing the iterator
    (or leaving a `for` over it by an exception) stops the thread, closes `iterable` in that thread
    if it is a generator, and waits until both are done. The thread starts with the first item asked
    for.
    """
    if size < 1:
        raise ValueError(f"buffered: size must be at least 1, got {size}")
    return _consume(iterable, queue.Queue(maxsize=size), name, clock or Clock())


def _consume(
    iterable: Iterable[T], items: queue.Queue[object], name: str, clock: Clock
) -> Generator[T, None, None]:
    stopped = threading.Event()
    thread = threading.Thread(
        target=_produce, args=(iterable, items, stopped, name, clock), name=f"accel-{name}"
    )
    thread.start()
    try:
        while True:
            start = time.perf_counter()
            item = items.get()
            clock.add(name, starved_s=time.perf_counter() - start)
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


@dataclass(frozen=True)
class _Raised:
    error: BaseException


def _produce(
    iterable: Iterable[T],
    items: queue.Queue[object],
    stopped: threading.Event,
    name: str,
    clock: Clock,
) -> None:
    iterator = None
    last: object = _END
    try:
        iterator = iter(iterable)
        while not stopped.is_set():
            start = time.perf_counter()
            item = next(iterator, _END)
            made = time.perf_counter()
            if item is _END:
                clock.add(name, busy_s=made - start)
                break
            items.put(item)
            del item  # a frame must not live here while the next one is made
            clock.add(name, busy_s=made - start, blocked_s=time.perf_counter() - made, items=1)
    except BaseException as error:
        last = _Raised(error)
    finally:
        try:
            if iterator is not None and hasattr(iterator, "close"):
                iterator.close()
        except BaseException as error:
            last = _Raised(error)
        items.put(last)
