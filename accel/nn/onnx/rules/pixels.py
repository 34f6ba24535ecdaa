"""Pools, means, norms and changes of size of pictures."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from accel.nn.onnx.arena import Node, Place, touched
from accel.nn.onnx.convolve import pool_window
from accel.nn.onnx.lower import Lowering, NotNative, Pending
from accel.nn.onnx.ops import integers
from accel.nn.onnx.plan import Step
from accel.nn.onnx.resize import axes_of, rounding_of
from accel.nn.onnx.rules.moves import pad
from accel.nn.onnx.rules.register import LINES, rule, window_of
from accel.nn.onnx.shapes import beyond


@rule("MaxPool", "AveragePool")
def pool(low: Lowering, step: Step) -> None:
    a = step.attributes
    shape = low.shape(low.value(step.inputs[0]))
    kernel, counted = a["kernel_shape"], bool(a.get("count_include_pad", 0))
    if len(shape) != 4 or set(a.get("dilations", [1])) != {1}:
        raise NotNative("not of pictures, or dilated")
    pads, strides, added = pool_window(a, torch.empty(shape, device="meta"))
    if any(not 0 <= pads[i] < kernel[i % 2] for i in range(4)):
        raise NotNative("a padding wider than the window")
    if any(added):  # those are counted by nobody
        if counted and any(pads):
            raise NotNative("of which some padding counts")
        counted = False
    whole = [shape[2 + i] + pads[i] + pads[2 + i] + added[i] for i in range(2)]
    size = [(whole[i] - kernel[i]) // strides[i] + 1 for i in range(2)]
    if min(size) < 1:
        raise NotNative("a window larger than the picture")
    largest = step.kind == "MaxPool"
    x = low.last(step.inputs[0])
    if not largest and size == [1, 1] and not any(pads) and list(shape[2:]) == list(kernel):
        return _mean(low, step, x)
    y = low.new((*shape[:2], *size), True)
    window = window_of(kernel, strides, pads)
    arguments = {"x": x, "y": y, "window": window, "largest": largest, "count_zeros": counted}
    low.add(Node("pool", [x], [y], arguments))
    low.values[step.outputs[0]] = y


def _mean(low: Lowering, step: Step, x: Place) -> None:
    y = low.new((*x.shape[:2], 1, 1), True)
    low.add(Node("mean", [x], [y], {"x": x, "y": y}))
    low.values[step.outputs[0]] = y


@rule("GlobalAveragePool")
def global_mean(low: Lowering, step: Step) -> None:
    shape = low.shape(low.value(step.inputs[0]))
    if len(shape) != 4 or not shape[2] * shape[3]:
        raise NotNative("not of pictures")
    _mean(low, step, low.last(step.inputs[0]))


@rule(*(kind for kind in LINES if kind.startswith("Reduce")))
def reduce(low: Lowering, step: Step) -> None:
    shape = low.shape(low.value(step.inputs[0]))
    axes = integers(low.optional_constant(step, 1)) or step.attributes.get("axes") or []
    axes, rank = sorted(d % max(len(shape), 1) for d in axes), len(shape)
    if not axes or axes != list(range(axes[0], axes[-1] + 1)) or math.prod(shape) == 0:
        raise NotNative("over dimensions apart")
    keep = bool(step.attributes.get("keepdims", 1))
    if axes[-1] + 1 < rank:
        return _inner(low, step, axes, keep)
    made = (*shape[: axes[0]], *([1] * len(axes) if keep else []))
    x = low.place(step.inputs[0])
    if axes == [2, 3] and step.kind == "ReduceMean" and (x.last or shape[1] >= 8):
        _mean(low, step, low.last(step.inputs[0]))
        if not keep:
            found = low.values[step.outputs[0]]
            assert isinstance(found, Place)
            low.values[step.outputs[0]] = found.alias(shape[:2], last=False, step=0)
        return
    x = low.plain(x)
    y = low.new(made, False)
    lines(low, x.alias((math.prod(shape[: axes[0]]), math.prod(shape[axes[0] :]))), y, step.kind)
    low.values[step.outputs[0]] = y


def _inner(low: Lowering, step: Step, axes: list[int], keep: bool) -> None:
    """A reduction of dimensions that others follow."""
    x = low.place(step.inputs[0])
    shape = x.shape
    made = (*shape[: axes[0]], *([1] * len(axes) if keep else []), *shape[axes[-1] + 1 :])
    if axes == [1] and len(shape) == 4 and (x.last or shape[2] * shape[3] == 1):
        x = low.dense(low.last(step.inputs[0]))  # channels: lines
        y = low.new((shape[0], 1, *shape[2:]), True)
        lines(low, x.alias((x.floats // shape[1], shape[1]), last=False, step=0), y, step.kind)
        y = y if keep else y.alias(made, last=False, step=0)
    elif axes[-1] + 2 == len(shape) and step.kind == "ReduceMean" and not x.last:
        # As the pixels of a picture whose channels are the last dimension.
        first, rows = math.prod(shape[: axes[0]]), math.prod(shape[i] for i in axes)
        y = low.new((first, shape[-1], 1, 1), True)
        picture = x.alias((first, shape[-1], rows, 1), last=True, step=shape[-1])
        low.add(Node("mean", [picture], [y], {"x": picture, "y": y}))
        y = y.alias(made, last=False, step=0)
    else:
        raise NotNative("over other than the last dimensions")
    low.values[step.outputs[0]] = y


def lines(low: Lowering, x: Place, y: Place, kind: str) -> None:
    """The lines of x, [lines, size], to lines or numbers of y."""
    flat = y.alias((x.shape[0], y.floats // max(x.shape[0], 1)), last=False, step=0)
    low.add(Node("lines", [x], [y], {"x": x, "y": flat, "kind": LINES[kind]}, x))


@rule("Softmax", "LogSoftmax")
def softmax(low: Lowering, step: Step) -> None:
    shape, a = low.shape(low.value(step.inputs[0])), step.attributes
    axis = a.get("axis", -1 if a["opset"] >= 13 else 1) % max(len(shape), 1)
    if math.prod(shape) == 0 or (a["opset"] >= 13 and axis != len(shape) - 1):
        raise NotNative("along other than the last dimension")
    x = low.plain(low.place(step.inputs[0]))
    y = low.new(shape, False)
    lines(low, x.alias((math.prod(shape[:axis]), math.prod(shape[axis:]))), y, step.kind)
    low.values[step.outputs[0]] = y


@rule("InstanceNormalization", "accel.instance_norm")
def instance_norm(low: Lowering, step: Step) -> None:
    shape = low.shape(low.value(step.inputs[0]))
    if len(shape) != 4 or not shape[2] * shape[3]:
        raise NotNative("not of pictures")
    n, c = shape[:2]
    affine: list[str] = [name for name in step.inputs[1:] if name]
    sizes = [math.prod(low.shape(low.value(name))) for name in affine]
    if any(size not in (c, n * c) for size in sizes) or len(set(sizes)) > 1:
        raise NotNative("scales of other than channels")
    written_out = step.kind == "accel.instance_norm"  # there a vector is of the columns
    shapes = [(1, c, 1, 1), (c, 1, 1), (n, c, 1, 1)] if written_out else [(c,)]
    if any(low.shape(low.value(name)) not in shapes for name in affine):
        raise NotNative("scales of other than channels")
    x = low.last(step.inputs[0])
    parts: list[Place | None] = [None, None]
    for i, name in enumerate(step.inputs[1:3]):
        if name:
            flat = low.place(name)
            parts[i] = (
                flat if flat.last else flat.alias((sizes[0] // c, c, 1, 1), last=True, step=c)
            )
    if None not in parts and parts[0].step != parts[1].step:  # type: ignore[union-attr]
        parts = [None if p is None else low.dense(p) for p in parts]
    epsilon = step.attributes.get("epsilon", 1e-5)
    y = low.new(shape, True)
    scale, shift = parts
    arguments = {"x": x, "y": y, "scale": scale, "shift": shift, "epsilon": epsilon}

    def emit(pending: Pending) -> None:
        e = pending.ending
        assert e is not None
        reads = touched([x, scale, shift, e.residual])
        over = x if e.residual is None else e.residual
        low.add(Node("norm", reads, [y], {**arguments, "last": e}, over))

    low.values[step.outputs[0]] = Pending(y, emit, low.stays)


@rule("Resize", "Upsample")
def resize(low: Lowering, step: Step) -> None:
    a = step.attributes
    shape = low.shape(low.value(step.inputs[0]))
    mode = a.get("mode", "nearest")
    if len(shape) != 4 or math.prod(shape) == 0:
        raise NotNative("not of pictures")
    rest = [low.optional_constant(step, i) for i in range(1, len(step.inputs))]
    whole = axes_of(a, shape, rest)
    axes, made = whole[2:], tuple(axis.target for axis in whole)
    if not all(axis.is_same for axis in whole[:2]) or min(made) < 1:
        raise NotNative("of the batch or the channels, or to nothing")
    tables: list[Tensor] = []
    parts: list[Tensor] = []
    for axis in axes:
        if mode == "nearest":
            index = axis.nearest(rounding_of(a)).int()
            tables += [index, index]
        elif mode in ("linear", "bilinear"):
            first, second, part = axis.between()
            tables += [first, second]
            parts.append(part)
        else:
            raise NotNative(f"Resize {mode}")
    x = low.last(step.inputs[0])
    y = low.new(made, True)
    arguments: dict[str, Any] = {"x": x, "y": y, "row_part": None, "column_part": None}
    arguments |= dict(zip(("r0", "r1", "c0", "c1"), tables))
    arguments |= dict(zip(("row_part", "column_part"), parts))
    low.add(Node("resize", [x], [y], arguments))
    low.values[step.outputs[0]] = y


@rule("Pad")
def mirrored(low: Lowering, step: Step) -> None:
    """A padding of pixels by pixels: a change of size that takes the nearest."""
    a, shape = step.attributes, low.shape(low.value(step.inputs[0]))
    if a.get("mode", "constant") == "constant":
        return pad(low, step)
    amounts = integers(low.optional_constant(step, 1)) or a.get("pads")
    if len(shape) != 4 or math.prod(shape) == 0 or amounts is None or len(step.inputs) > 3:
        raise NotNative("not of pictures")
    if len(amounts) != 8 or any(amounts[:2] + amounts[4:6]) or min(amounts) < 0:
        raise NotNative("of other than pixels")
    made, tables = list(shape), []
    for d in (2, 3):
        index = torch.arange(-amounts[d], shape[d] + amounts[4 + d])
        tables += [beyond(a["mode"], index, shape[d]).int()] * 2
        made[d] = len(index)
    x = low.last(step.inputs[0])
    y = low.new(made, True)
    about = dict(zip(("r0", "r1", "c0", "c1"), tables))
    parts = {"row_part": None, "column_part": None}
    low.add(Node("resize", [x], [y], {"x": x, "y": y, **about, **parts}))
    low.values[step.outputs[0]] = y
