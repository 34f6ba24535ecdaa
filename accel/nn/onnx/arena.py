"""Where the values of a graph lie: pictures kept channels last, in one stretch of memory.

A value is a Place in a Buffer; several places may share one (a reshaped value, a part of a joined
one). Buffers without a slot of their own are put into the arena, where memory is used again as soon
as its last reader is done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

ALIGN = 16  # floats: a cache line


@dataclass(eq=False)
class Buffer:
    """`floats` numbers; in the array `slot` of the program, or in its arena (slot None)."""

    floats: int
    slot: int | None = None
    at: int = 0
    stays: bool = False  # outlives the run: what is computed from small inputs alone
    places: int = 0


@dataclass(eq=False)
class Place:
    """A float32 value: its shape in the graph, and how it lies in memory.

    last: of rank 4, stored [N, H, W, C], pixels `step` floats apart; else as its shape says.
    """

    buffer: Buffer
    shape: tuple[int, ...]
    last: bool = False
    step: int = 0
    at: int = 0

    def __post_init__(self) -> None:
        self.buffer.places += 1
        if self.last and not self.step:
            self.step = self.shape[1]

    @property
    def floats(self) -> int:
        return math.prod(self.shape)

    @property
    def dense(self) -> bool:
        """Whether its numbers lie side by side."""
        return not self.last or self.step == self.shape[1]

    @property
    def is_plain(self) -> bool:
        """Whether it lies as its shape says."""
        if not self.last:
            return True
        return self.dense and (self.shape[1] == 1 or self.shape[2] * self.shape[3] == 1)

    @property
    def whole(self) -> bool:
        return self.dense and self.at == 0 and self.floats == self.buffer.floats

    def picture(self) -> list[int]:
        """Images, height, width, channels, floats between pixels."""
        if self.last:
            n, c, h, w = self.shape
            return [n, h, w, c, self.step]
        channels = self.shape[-1] if self.shape else 1
        return [1, 1, math.prod(self.shape[:-1]), channels, channels]

    def operand(self) -> list[int]:
        assert self.buffer.slot is not None
        return [self.buffer.slot, self.buffer.at + self.at, *self.picture()]

    def steps(self) -> list[int]:
        """Floats between neighbours along each dimension of the shape."""
        if self.last:
            _, _, h, w = self.shape
            return [h * w * self.step, 1, w * self.step, self.step]
        return [math.prod(self.shape[i + 1 :]) for i in range(len(self.shape))]

    def alias(self, shape: Sequence[int], **changes: Any) -> Place:
        """The same numbers under another shape."""
        return replace(self, shape=tuple(shape), **changes)


@dataclass(eq=False)
class Node:
    """One step: a call of the native program's `kind`, or of `python`.

    arguments: of the call; places among them are looked up when all of them lie somewhere.
    """

    kind: str  # "call" is a kernel of ours, "python" an operator of torch
    reads: list[Place]
    writes: list[Place]
    arguments: dict[str, Any] = field(default_factory=dict)
    over: Place | None = None  # a value that the result may be written over, if nobody reads it on
    python: Callable[..., None] | None = None
    stays: bool = False


def lay_out(nodes: Sequence[Node], slot: int) -> int:
    """Give every buffer without a slot a stretch of the arena; return the floats of the arena."""
    last: dict[Buffer, int] = {}
    for i, node in enumerate(nodes):
        for place in [*node.reads, *node.writes]:
            last[place.buffer] = i
    free = _Stretches()
    for i, node in enumerate(nodes):
        for buffer in {p.buffer: None for p in node.writes}:
            if buffer.slot is not None:
                continue
            buffer.slot = slot
            over = node.over.buffer if node.over and _may_go_over(node, buffer) else None
            if over is not None and over.slot == slot and last[over] == i and not over.stays:
                buffer.at = over.at
                last[over] = -1  # its memory is this buffer's now
            else:
                buffer.at = free.take(_rounded(buffer.floats))
        for buffer in {p.buffer: None for p in [*node.reads, *node.writes]}:
            if last[buffer] == i and buffer.slot == slot and not buffer.stays:
                free.give(buffer.at, _rounded(buffer.floats))
    return free.end


def _may_go_over(node: Node, buffer: Buffer) -> bool:
    over = node.over
    assert over is not None
    reads = sum(p.buffer is over.buffer for p in node.reads)
    return reads == 1 and over.whole and node.writes[0].whole and over.floats == buffer.floats


def _rounded(floats: int) -> int:
    return -(-max(floats, 1) // ALIGN) * ALIGN


class _Stretches:
    """Free memory: the smallest stretch that fits is taken."""

    def __init__(self) -> None:
        self.end = 0
        self._free: list[tuple[int, int]] = []  # at, floats; in order

    def take(self, floats: int) -> int:
        fitting = [(size, at) for at, size in self._free if size >= floats]
        if fitting:
            size, at = min(fitting)
            self._free.remove((at, size))
            if size > floats:
                self._insert(at + floats, size - floats)
            return at
        if self._free and sum(self._free[-1]) == self.end:  # grow the last one
            at, _ = self._free.pop()
        else:
            at = self.end
        self.end = at + floats
        return at

    def give(self, at: int, floats: int) -> None:
        self._insert(at, floats)
        joined: list[tuple[int, int]] = []
        for start, size in self._free:
            if joined and sum(joined[-1]) == start:
                joined[-1] = (joined[-1][0], joined[-1][1] + size)
            else:
                joined.append((start, size))
        self._free = joined

    def _insert(self, at: int, floats: int) -> None:
        self._free = sorted([*self._free, (at, floats)])


def touched(places: Iterable[Place | None]) -> list[Place]:
    return [p for p in places if p is not None]
