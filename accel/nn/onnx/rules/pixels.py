"""Pools, means, norms and changes of size of pictures."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from accel.nn.onnx.arena import Node, Place, touched
from accel.nn.onnx.lower import Lowering, NotNative, Pending
from accel.nn.onnx.ops import integers, padding
from accel.nn.onnx.plan import Step
from accel.nn.onnx.rules.register import rule
from accel.nn.onnx.shapes import _source_index, _targets


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
    how = a.get("coordinate_transformation_mode", "half_pixel" if a["opset"] > 10 else "asymmetric")
    if len(shape) != 4 or a.get("antialias", 0) or a.get("axes") or math.prod(shape) == 0:
        raise NotNative("not of pictures")
    rest = tuple(low.optional_constant(step, i) for i in range(1, len(step.inputs)))
    scales, sizes = _targets(a, torch.empty(shape, device="meta"), rest)
    if min(sizes) < 1:
        raise NotNative("no pixels")
    tables: list[Tensor] = []
    parts: list[Tensor] = []
    for i in range(2):
        if mode == "nearest":
            rounding = a.get("nearest_mode", "floor" if a["opset"] < 11 else "round_prefer_floor")
            index = _source_index(shape[2 + i], sizes[i], scales[i], how, rounding)
            tables += [index.int(), index.int()]
        elif mode == "linear" and how in ("half_pixel", "align_corners", "pytorch_half_pixel"):
            if how == "pytorch_half_pixel" and sizes[i] == 1:
                raise NotNative("one pixel of pytorch_half_pixel")
            first, second, part = _between(shape[2 + i], sizes[i], scales[i], how)
            tables += [first, second]
            parts.append(part)
        else:
            raise NotNative(f"Resize {mode}, {how}")
    x = low.last(step.inputs[0])
    y = low.new((*shape[:2], *sizes), True)
    arguments: dict[str, Any] = {"x": x, "y": y, "row_part": None, "column_part": None}
    arguments |= dict(zip(("r0", "r1", "c0", "c1"), tables))
    arguments |= dict(zip(("row_part", "column_part"), parts))
    low.add(Node("resize", [x], [y], arguments))
    low.values[step.outputs[0]] = y


def _between(size: int, target: int, scale: float, how: str) -> tuple[Tensor, Tensor, Tensor]:
    """For each pixel: its two sources, and the share of the second."""
    at = torch.arange(target, dtype=torch.float64)
    if how == "align_corners":
        at = at * ((size - 1) / max(target - 1, 1))
    else:
        at = (at + 0.5) / scale - 0.5
    at = at.clamp(0, size - 1)
    first = at.floor().clamp(0, max(size - 1, 0))
    second = (first + 1).clamp(0, size - 1)
    return first.int(), second.int(), (at - first).float()
