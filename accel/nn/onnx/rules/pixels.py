"""Pools, means, norms and changes of size of pictures."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from accel.nn.onnx.arena import Node, Place, touched
from accel.nn.onnx.convolve import padding
from accel.nn.onnx.lower import Lowering, NotNative, Pending
from accel.nn.onnx.ops import integers
from accel.nn.onnx.plan import Step
from accel.nn.onnx.resize import axes_of, rounding_of
from accel.nn.onnx.rules.register import rule


@rule("MaxPool", "AveragePool")
def pool(low: Lowering, step: Step) -> None:
    a = step.attributes
    shape = low.shape(low.value(step.inputs[0]))
    kernel, strides = a["kernel_shape"], a.get("strides", [1, 1])
    if a.get("ceil_mode", 0) or a.get("storage_order", 0) or len(step.outputs) > 1:
        raise NotNative("with ceil_mode or indices")
    if len(shape) != 4 or len(kernel) != 2 or set(a.get("dilations", [1])) != {1}:
        raise NotNative("not of pictures, or dilated")
    pads = padding(a, torch.empty(shape, device="meta"), kernel, 2)
    if any(not 0 <= pads[i] < kernel[i % 2] for i in range(4)):
        raise NotNative("a padding wider than the window")
    size = [(shape[2 + i] + pads[i] + pads[2 + i] - kernel[i]) // strides[i] + 1 for i in range(2)]
    if min(size) < 1:
        raise NotNative("a window larger than the picture")
    largest = step.kind == "MaxPool"
    x = low.last(step.inputs[0])
    if not largest and size == [1, 1] and not any(pads) and list(shape[2:]) == list(kernel):
        return _mean(low, step, x)
    y = low.new((*shape[:2], *size), True)
    window = [*kernel, *strides, pads[0], pads[1]]
    counted = bool(a.get("count_include_pad", 0))
    arguments = {"x": x, "y": y, "window": window, "largest": largest, "count_zeros": counted}
    low.add(Node("pool", [x], [y], arguments))
    low.values[step.outputs[0]] = y


def _mean(low: Lowering, step: Step, x: Place) -> None:
    y = low.new((*x.shape[:2], 1, 1), True)
    low.add(Node("mean", [x], [y], {"x": x, "y": y}))
    low.values[step.outputs[0]] = y


@rule("GlobalAveragePool", "ReduceMean")
def mean(low: Lowering, step: Step) -> None:
    shape = low.shape(low.value(step.inputs[0]))
    if len(shape) != 4 or not shape[2] * shape[3]:
        raise NotNative("not of pictures")
    keep = True
    if step.kind == "ReduceMean":
        axes = integers(low.optional_constant(step, 1)) or step.attributes.get("axes") or []
        if sorted(d % 4 for d in axes) != [2, 3]:
            raise NotNative("a mean over other than pixels")
        keep = bool(step.attributes.get("keepdims", 1))
    _mean(low, step, low.last(step.inputs[0]))
    if not keep:
        made = low.values[step.outputs[0]]
        assert isinstance(made, Place)
        low.values[step.outputs[0]] = made.alias(shape[:2], last=False, step=0)


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
        parts = [None if p is None else _dense(low, p) for p in parts]
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


def _dense(low: Lowering, place: Place) -> Place:
    if place.dense:
        return place
    y = low.new(place.shape, True)
    low.copy(place, y, place.steps(), y.steps(), place.shape)
    return y


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
