"""Norms and attention: kernels of accel.kernels, called on the memory of the program."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
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
    if k_shape != v_shape or k_shape[:-2] != some or k_shape[-1] != width:
        raise NotNative("of heads that do not fit")
    if not length * math.prod(k_shape):
        raise NotNative("of nothing")
    factors = [low.optional_constant(step, i) for i in (4, 5, 6)]
    if any(f is not None and f.numel() != 1 for f in factors):
        raise NotNative("with factors of heads")
    q_factor, k_factor, factor = (1.0 if f is None else float(f) for f in factors)
    scale = q_factor * k_factor * (1 / factor if a["divided"] else factor)
    mask, scores = low.optional_constant(step, 3), (*some, length, k_shape[-2])
    causal = mask is not None and bool(_is_causal(mask, length, k_shape[-2]))
    if mask is not None and np.broadcast_shapes(tuple(mask.shape), scores) != scores:
        raise NotNative("with a mask that makes more of the scores")
    if mask is not None and (causal or not bool(mask.any())):
        mask = None
    elif mask is not None and mask.ndim < 2:
        mask = mask.expand(length, k_shape[-2])
    operands = [_rows(low, name, turn) for name, turn in zip(step.inputs, turns)]
    order = a["out"] or list(range(rank))
    result = [*some, length, width]
    y = low.new([result[i] for i in order], False)
    back = [order.index(i) for i in range(rank)]
    if back[-1] != rank - 1:
        raise NotNative("turned so that heads do not lie side by side")

    def run(view: View, threads: int) -> None:
        parts = []
        for place, shape, steps, at in operands:
            whole = view(place)
            parts.append(whole.as_strided(shape, steps, whole.storage_offset() + at))
        parts.append(view(y).permute(back))
        if mask is not None:  # numbers to be added, which our kernel does not take
            q, k, v, out = parts
            out.copy_(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale))
            return
        if rank == 3:
            parts = [p.unsqueeze(1) for p in parts]
        native.attention(*parts, scale, causal, threads)

    _call(low, [p for p, *_ in operands], y, run)
    low.values[step.outputs[0]] = y


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
