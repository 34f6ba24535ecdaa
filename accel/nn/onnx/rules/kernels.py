"""Norms and attention: kernels of accel.kernels, called on the memory of the program."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accel.kernels import _native
from accel.nn.onnx.arena import Node, Place
from accel.nn.onnx.lower import Ending, Lowering, NotNative, Pending
from accel.nn.onnx.plan import Step
from accel.nn.onnx.rules.register import KEEP, NONE, SWISH, reads_of, rule

native: Any = _native.module
View = Callable[[Place], Tensor]
MASKED = -6e4  # what is added to a score that must not count


def _call(low: Lowering, reads: list[Place], y: Place, run: Callable[[View, int], None]) -> None:
    def call(view: View, boxes: dict[str, Tensor], threads: int) -> None:
        run(view, threads)

    low.add(Node("call", reads, [y], python=call))


@rule("LayerNormalization", "accel.layer_norm")
def layer_norm(low: Lowering, step: Step) -> None:
    shape, a = low.shape(low.value(step.inputs[0])), step.attributes
    width = shape[-1] if shape else 0
    vectors = [low.optional_constant(step, i) for i in (1, 2)]
    if a.get("axis", -1) not in (-1, len(shape) - 1) or math.prod(shape) == 0:
        raise NotNative("of other than the last dimension")
    if any(v is not None and v.numel() not in (1, width) for v in vectors):
        raise NotNative("scales of another size")
    if len([name for name in step.outputs if name]) > 1:
        raise NotNative("that gives its mean too")
    scale, shift = (low.packed.full(v, width, rest) for v, rest in zip(vectors, (1.0, 0.0)))
    x = low.plain(low.place(step.inputs[0]))
    y = low.new(shape, False)
    epsilon = a.get("epsilon", 1e-5)

    def run(view: View, threads: int) -> None:
        flat = (view(p).view(-1, width) for p in (x, y))
        native.layer_norm(next(flat), scale, shift, next(flat), epsilon, threads)

    _call(low, [x], y, run)
    low.values[step.outputs[0]] = y


@rule("accel.channel_norm")
def channel_norm(low: Lowering, step: Step) -> None:
    """Channels of a picture lie side by side: they are lines."""
    shape, epsilon = low.shape(low.value(step.inputs[0])), step.attributes["epsilon"]
    vectors = [low.optional_constant(step, i) for i in (1, 2)]
    if len(shape) != 4 or math.prod(shape) == 0:
        raise NotNative("not of pictures")
    if any(v is not None and v.numel() not in (1, shape[1]) for v in vectors):
        raise NotNative("scales of another size")
    scale, shift = (low.packed.full(v, shape[1], rest) for v, rest in zip(vectors, (1.0, 0.0)))
    x, y = low.dense(low.last(step.inputs[0])), low.new(shape, True)

    def run(view: View, threads: int) -> None:
        flat = (view(p).permute(0, 2, 3, 1).view(-1, shape[1]) for p in (x, y))
        native.layer_norm(next(flat), scale, shift, next(flat), epsilon, threads)

    _call(low, [x], y, run)
    low.values[step.outputs[0]] = y


@rule("accel.group_norm", "GroupNormalization")
def group_norm(low: Lowering, step: Step) -> None:
    shape, a = low.shape(low.value(step.inputs[0])), step.attributes
    first = 1
    if step.kind == "accel.group_norm":
        made = low.constant(step.inputs[1]).tolist()
        made = [shape[i] if s == 0 and i < len(shape) else s for i, s in enumerate(made)]
        if torch.empty(shape, device="meta").reshape(made).shape != torch.Size(shape):
            raise NotNative("that changes the shape")
        first = 2
    groups = a.get("groups") or a["num_groups"]
    if len(shape) != 4 or math.prod(shape) == 0 or shape[1] % groups:
        raise NotNative("not of pictures")
    channels = shape[1]
    vectors = [low.optional_constant(step, i) for i in (first, first + 1)]
    if any(v is not None and v.numel() != channels for v in vectors):
        raise NotNative("scales of groups")
    scale, shift = (low.packed.full(v, channels, rest) for v, rest in zip(vectors, (1.0, 0.0)))
    x, y = low.last(step.inputs[0]), low.new(shape, True)
    if not x.dense:
        raise NotNative("of a part")
    epsilon = a.get("epsilon", 1e-5)

    def emit(pending: Pending) -> None:
        e = pending.ending
        assert e is not None
        silu = e.activation == SWISH and e.alpha == 1 and e.residual is None

        def run(view: View, threads: int) -> None:
            flat = (view(p).permute(0, 2, 3, 1).view(shape[0], -1, channels) for p in (x, y))
            native.group_norm(
                next(flat), scale, shift, next(flat), groups, epsilon, silu, True, threads
            )

        _call(low, [x], y, run)
        if not silu and (e.activation != NONE or e.residual is not None):
            arguments = {"kind": KEEP, "a": y, "b": None, "y": y, "last": e}
            low.add(Node("combine", [y, *reads_of(e)], [y], arguments))

    low.values[step.outputs[0]] = Pending(y, emit, low.stays, Ending())


@rule("accel.attention")
def attention(low: Lowering, step: Step) -> None:
    a = step.attributes
    shapes = [low.shape(low.value(name)) for name in step.inputs[:3]]
    rank = len(shapes[0])
    if rank not in (3, 4) or a["axis"] not in (-1, rank - 1) or any(len(s) != rank for s in shapes):
        raise NotNative("of other dimensions")
    turns = [a[name] or list(range(rank)) for name in ("q", "k", "v")]
    turns[1] = [*turns[1][:-2], turns[1][-1], turns[1][-2]]  # keys as rows
    (*some, length, width), k_shape, v_shape = (
        [shape[i] for i in turn] for shape, turn in zip(shapes, turns)
    )
    if k_shape[:-1] != v_shape[:-1] or k_shape[:-2] != some or k_shape[-1] != width:
        raise NotNative("of heads that do not fit")
    if not length * math.prod(k_shape) * v_shape[-1]:
        raise NotNative("of nothing")
    scale = _scale_of(low, step)
    scores = (*some, length, k_shape[-2])
    mask = _Added(low, step.inputs[3], scores, bool(a.get("tiled"))) if step.inputs[3] else None
    order = a["out"] or list(range(rank))
    result = [*some, length, v_shape[-1]]
    back = [order.index(i) for i in range(rank)]
    if back[-1] != rank - 1:
        raise NotNative("turned so that heads do not lie side by side")
    operands = [_rows(low, name, turn) for name, turn in zip(step.inputs, turns)]
    y = low.new([result[i] for i in order], False)

    def run(view: View, threads: int) -> None:
        parts = []
        for place, shape, steps, at in operands:
            whole = view(place)
            parts.append(whole.as_strided(shape, steps, whole.storage_offset() + at))
        parts.append(view(y).permute(back))
        if rank == 3:
            parts = [p.unsqueeze(1) for p in parts]
        causal, added = (False, None) if mask is None else mask.given(view)
        native.attention(*parts, scale, causal, threads, added)

    reads = [p for p, *_ in operands]
    _call(low, [*reads, *(mask.reads if mask else [])], y, run)
    low.values[step.outputs[0]] = y


def _scale_of(low: Lowering, step: Step) -> float:
    factors = [low.optional_constant(step, i) for i in (4, 5, 6)]
    if any(f is not None and f.numel() != 1 for f in factors):
        raise NotNative("with factors of heads")
    q, k, factor = (1.0 if f is None else float(f) for f in factors)
    return q * k * (1 / factor if step.attributes["divided"] else factor)


class _Added:
    """What is added to scores: nothing, a mask that hides later keys, or numbers."""

    def __init__(self, low: Lowering, name: str, scores: tuple[int, ...], tiled: bool):
        value = low.value(name)
        shape = low.shape(value)
        fits = np.broadcast_shapes(shape[-3:], scores[-3:]) == scores[-3:] and len(shape) > 1
        first = shape[0] if len(shape) == len(scores) else 1
        if not fits or len(shape) > len(scores) or scores[0] % max(first, 1):
            raise NotNative("with a mask that does not fit the scores")
        if first not in (1, scores[0]) and not tiled:
            raise NotNative("with a mask of some batches")
        self.reads: list[Place] = []
        self.causal = False
        self.constant: Tensor | None = None
        # [batch, head, query, key], of sizes that are one where they do for all
        heads = (1,) if len(scores) == 3 else shape[-3:-2] or (1,)
        self.shape = (first, *heads, *shape[-2:])
        if isinstance(value, Tensor):
            self._fix(value, scores)
        elif shape[-1] != scores[-1]:
            raise NotNative("with a number for all keys")
        else:
            self.reads = [low.plain(low.place(name))]

    def _fix(self, mask: Tensor, scores: tuple[int, ...]) -> None:
        self.causal = _is_causal(mask, *scores[-2:])
        if not self.causal and bool(mask.any()):
            mask = mask.float().reshape(self.shape)
            self.constant = mask.expand(*self.shape[:-1], scores[-1]).contiguous()

    def given(self, view: View) -> tuple[bool, Tensor | None]:
        if self.reads:
            return False, view(self.reads[0]).reshape(self.shape)
        return self.causal, self.constant


def _rows(low: Lowering, name: str, turn: list[int]) -> tuple[Place, list[int], list[int], int]:
    """Where an operand lies, its shape and steps, turned so that a head's numbers lie together."""
    seen = low.turned(name)
    made, steps = ([values[i] for i in turn] for values in (seen.shape, seen.steps))
    if steps[-1] == 1:
        return seen.base, made, steps, seen.at
    y = low.new(made, False)
    low.copy(seen.base, y, steps, y.steps(), made, x_at=seen.at)
    return y, made, y.steps(), 0


def _is_causal(mask: Tensor, queries: int, keys: int) -> bool:
    if mask.shape[-2:] != (queries, keys) or queries != keys or mask.numel() != queries * keys:
        return False
    mask = mask.reshape(queries, keys)
    above = torch.ones(queries, keys, dtype=torch.bool).triu(1)
    return bool((mask[above] <= MASKED).all()) and not bool(mask[~above].any())
