"""Values that are renamed, turned, cut, joined or padded."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from accel.nn.onnx.arena import Node, Place
from accel.nn.onnx.lower import Lowering, NotNative, Pending, Turned, plain_steps, viewed
from accel.nn.onnx.ops import OPS, integers
from accel.nn.onnx.plan import Step
from accel.nn.onnx.rules.register import rule


@rule("Identity")
def identity(low: Lowering, step: Step) -> None:
    value = low.value(step.inputs[0])
    is_turned = isinstance(value, Turned)
    low.values[step.outputs[0]] = value if is_turned else low.place(step.inputs[0])


@rule("Transpose")
def transpose(low: Lowering, step: Step) -> None:
    shape = low.shape(low.value(step.inputs[0]))
    order = step.attributes.get("perm", list(range(len(shape)))[::-1])
    made = tuple(shape[i] for i in order)
    value = low.value(step.inputs[0])
    x = value if isinstance(value, Turned) else low.place(step.inputs[0])
    if isinstance(x, Place) and len(shape) == 4 and order == [0, 3, 1, 2] and not x.last:
        low.values[step.outputs[0]] = x.alias(made, last=True, step=made[1])
    elif isinstance(x, Place) and len(shape) == 4 and order == [0, 2, 3, 1] and x.last and x.dense:
        low.values[step.outputs[0]] = x.alias(made, last=False, step=0)
    else:
        seen = low.turned(step.inputs[0])
        steps = [seen.steps[i] for i in order]
        low.values[step.outputs[0]] = _laid(Turned(seen.base, made, steps, seen.at))


def _laid(value: Turned) -> Place | Turned:
    """As a place, where a turned value lies as one does."""
    if math.prod(value.shape) == 0 or value.steps != plain_steps(value.shape):
        return value
    return value.base.alias(value.shape, last=False, step=0, at=value.base.at + value.at)


@rule("Reshape")
def reshape(low: Lowering, step: Step) -> None:
    shape = low.shape(low.value(step.inputs[0]))
    sizes = integers(low.constant(step.inputs[1])) or []
    if not step.attributes.get("allowzero", 0):
        sizes = [shape[i] if s == 0 and i < len(shape) else s for i, s in enumerate(sizes)]
    _reshaped(low, step, torch.empty(shape, device="meta").reshape(sizes).shape)


@rule("Flatten")
def flatten(low: Lowering, step: Step) -> None:
    shape = low.shape(low.value(step.inputs[0]))
    axis = step.attributes.get("axis", 1)
    first = math.prod(shape[:axis])
    _reshaped(low, step, (first, math.prod(shape) // max(first, 1)))


@rule("Squeeze", "Unsqueeze")
def squeeze(low: Lowering, step: Step) -> None:
    meta = torch.empty(low.shape(low.value(step.inputs[0])), device="meta")
    axes = low.optional_constant(step, 1)
    _reshaped(low, step, OPS[step.kind](step.attributes, meta, axes).shape)


def _reshaped(low: Lowering, step: Step, shape: Sequence[int]) -> None:
    name, made = step.inputs[0], tuple(shape)
    before = low.shape(low.value(name))
    held = low.pending(name)
    if held is not None and not held.y.last and before[-1:] == made[-1:] != ():
        # Lines stay lines: what follows may still be taken in.
        y = held.y.alias(made)
        low.values[step.outputs[0]] = Pending(y, held.emit, held.stays, held.ending)
        return
    if made == before:
        return identity(low, step)
    value = low.value(name)
    x = value if isinstance(value, Turned) else low.place(name)
    if isinstance(x, Place) and x.is_plain:
        low.values[step.outputs[0]] = low.plain(x).alias(made)
        return
    seen = low.turned(name)
    steps = viewed(seen.shape, seen.steps, made)
    if steps is not None:
        low.values[step.outputs[0]] = _laid(Turned(seen.base, made, steps, seen.at))
    elif isinstance(x, Turned):
        low.values[step.outputs[0]] = low.straight(x, made)
    else:
        low.values[step.outputs[0]] = low.plain(x).alias(made)


@rule("Concat")
def concat(low: Lowering, step: Step) -> None:
    shapes = [low.shape(low.value(name)) for name in step.inputs]
    rank = len(shapes[0])
    axis = step.attributes["axis"] % rank
    made = list(shapes[0])
    made[axis] = sum(shape[axis] for shape in shapes)
    for name in step.inputs:
        if getattr(low.value(name), "dtype", torch.float32) != torch.float32:
            raise NotNative("needs float32")
    last = rank == 4 and any(
        getattr(p, "last", False) for p in (low.place(name) for name in step.inputs)
    )
    y = low.new(made, last)
    at = 0
    for name, shape in zip(step.inputs, shapes):
        x = low.place(name)
        start = at * y.steps()[axis]
        at += shape[axis]
        if not (last and axis == 1 and _moves(low, name, x, y, start)):
            low.copy(x, y, x.steps(), y.steps(), shape, y_at=start)
    low.values[step.outputs[0]] = y


def _moves(low: Lowering, name: str, x: Place, y: Place, start: int) -> bool:
    """Let a value be written where it is joined, if its memory is its own."""
    if not x.last or not x.whole or x.buffer.places > 1 or x.buffer.stays != low.stays:
        return False
    if x.buffer in low.arrays or any(x is place for place in low.inputs.values()):
        return False
    fixed = (node for node in low.nodes if node.python or node.kind in ("copy", "conv2d"))
    if any(x in (*node.reads, *node.writes) for node in fixed):
        return False  # these have looked up already how it lies
    x.buffer, x.at, x.step = y.buffer, start, y.step
    y.buffer.places += 1
    return True


def pad(low: Lowering, step: Step) -> None:
    a = step.attributes
    shape = low.shape(low.value(step.inputs[0]))
    amounts = integers(low.optional_constant(step, 1)) or a.get("pads")
    value = low.optional_constant(step, 2)
    fill = a.get("value", 0.0) if value is None else float(value)
    if a.get("mode", "constant") != "constant" or amounts is None or min(amounts) < 0:
        raise NotNative("Pad by other than a constant")
    if len(step.inputs) > 3 or len(amounts) != 2 * len(shape) or math.prod(shape) == 0:
        raise NotNative("Pad of some axes")
    rank = len(shape)
    x = low.place(step.inputs[0])
    made = [shape[i] + amounts[i] + amounts[rank + i] for i in range(rank)]
    y = low.new(made, x.last)
    widens = x.last and fill == 0 and not any(v for i, v in enumerate(amounts) if i != 5)

    def emit(pending: Pending) -> None:
        if x.floats != y.floats:
            low.add(Node("fill", [], [y], {"y": y, "value": fill}))
        start = sum(amounts[i] * s for i, s in enumerate(y.steps()))
        low.copy(x, y, x.steps(), y.steps(), shape, y_at=start)

    low.values[step.outputs[0]] = Pending(
        y, emit, low.stays, ending=None, narrow=x if widens else None
    )


def _by_channel(low: Lowering, name: str) -> Place:
    """A value to cut: where it can be taken as channels last, parts of it need no copy."""
    place = low.place(name)
    can = len(place.shape) == 4 and place.shape[2] * place.shape[3] == 1
    return low.last(name) if can else place


@rule("Slice")
def cut(low: Lowering, step: Step) -> None:
    a = step.attributes
    shape = low.shape(low.value(step.inputs[0]))

    def said(index: int, name: str) -> list[int] | None:
        return integers(low.optional_constant(step, index)) or a.get(name)

    starts, ends, axes, by = said(1, "starts"), said(2, "ends"), said(3, "axes"), said(4, "steps")
    if starts is None or ends is None or any(s < 1 for s in by or []):
        raise NotNative("Slice backwards")
    x = _by_channel(low, step.inputs[0])
    made, steps, start = list(shape), x.steps(), 0
    for i, axis in enumerate(axes or range(len(starts))):
        axis %= len(shape)
        part = range(shape[axis])[slice(starts[i], ends[i], by[i] if by else 1)]
        if not len(part):
            raise NotNative("nothing left")
        made[axis] = len(part)
        start += part[0] * steps[axis]
        steps[axis] *= part.step
    if x.last and list(shape[2:]) == made[2:] and shape[0] == made[0] and steps[1] == 1:
        low.values[step.outputs[0]] = x.alias(made, at=x.at + start)
        return
    y = low.new(made, x.last)
    low.copy(x, y, steps, y.steps(), made, x_at=start)
    low.values[step.outputs[0]] = y


@rule("Split")
def split(low: Lowering, step: Step) -> None:
    shape = low.shape(low.value(step.inputs[0]))
    axis = step.attributes.get("axis", 0) % len(shape)
    parts = integers(low.optional_constant(step, 1)) or step.attributes.get("split")
    if parts is None:
        count = int(step.attributes.get("num_outputs", step.attributes["outputs"]) or 1)
        each = -(-shape[axis] // count)
        parts = [min(each, shape[axis] - at) for at in range(0, shape[axis], each)]
    if sum(parts) != shape[axis] or len(parts) != len(step.outputs) or min(parts) < 1:
        raise NotNative("uneven parts")
    x = _by_channel(low, step.inputs[0])
    at = 0
    for name, part in zip(step.outputs, parts):
        made = list(shape)
        made[axis] = part
        start = at * x.steps()[axis]
        at += part
        if x.last and axis == 1:
            low.values[name] = x.alias(made, at=x.at + start)
            continue
        y = low.new(made, x.last)
        low.copy(x, y, x.steps(), y.steps(), made, x_at=start)
        low.values[name] = y


@rule("Gather")
def pick(low: Lowering, step: Step) -> None:
    """One index, or neighbours, of a dimension."""
    shape = low.shape(low.value(step.inputs[0]))
    index = low.constant(step.inputs[1])
    if not shape or not index.numel() or math.prod(shape) == 0:
        raise NotNative("nothing to pick")
    axis = step.attributes.get("axis", 0) % len(shape)
    wanted = [i + shape[axis] if i < 0 else i for i in integers(index) or []]
    first = wanted[0]
    if wanted != list(range(first, first + len(wanted))) or not 0 <= first < shape[axis]:
        raise NotNative("scattered")
    if wanted[-1] >= shape[axis] or index.ndim > 1:
        raise NotNative("beyond the end")
    if isinstance(low.value(step.inputs[0]), Turned):
        seen = low.turned(step.inputs[0])
    else:
        x = _by_channel(low, step.inputs[0])
        if x.last and axis == 1 and index.ndim:
            part = [shape[0], len(wanted), *shape[2:]]
            low.values[step.outputs[0]] = x.alias(part, at=x.at + first)
            return
        seen = Turned(x, x.shape, x.steps())
    made, steps, at = list(shape), list(seen.steps), seen.at + first * seen.steps[axis]
    made[axis] = len(wanted)
    if not index.ndim:
        del made[axis], steps[axis]
    low.values[step.outputs[0]] = _laid(Turned(seen.base, tuple(made), steps, at))


@rule("DepthToSpace")
def depth_to_space(low: Lowering, step: Step) -> None:
    n, c, h, w = low.shape(low.value(step.inputs[0]))
    b = step.attributes["blocksize"]
    depth, left = divmod(c, b * b)
    if left or not depth * h * w * n:
        raise NotNative("uneven")
    x = low.last(step.inputs[0])
    y = low.new((n, depth, h * b, w * b), True)
    by_depth = step.attributes.get("mode", "DCR") == "CRD"
    image, channel, row, column = x.steps()
    part = channel if by_depth else depth * channel
    x_steps = [image, row, column, b * part, part, b * b * channel if by_depth else channel]
    image, channel, row, column = y.steps()
    y_steps = [image, b * row, b * column, row, column, channel]
    low.copy(x, y, x_steps, y_steps, [n, h, w, b, b, depth])
    low.values[step.outputs[0]] = y


@rule("Expand")
def expand(low: Lowering, step: Step) -> None:
    shape = low.shape(low.value(step.inputs[0]))
    wanted = integers(low.constant(step.inputs[1])) or []
    made = tuple(np.broadcast_shapes(shape, tuple(wanted)))
    low.values[step.outputs[0]] = repeated(low, low.place(step.inputs[0]), made)


def repeated(low: Lowering, x: Place, made: Sequence[int]) -> Place:
    """A value repeated along dimensions of one, or along new ones."""
    if x.shape == tuple(made):
        return x
    if len(made) > 6 or math.prod(made) == 0:
        raise NotNative("too many dimensions, or nothing")
    x = low.plain(x)
    full = (1,) * (len(made) - len(x.shape)) + x.shape
    steps = x.alias(full).steps()
    steps = [0 if size == 1 else step for size, step in zip(full, steps)]
    y = low.new(made, False)
    low.copy(x, y, steps, y.steps(), made)
    return y
