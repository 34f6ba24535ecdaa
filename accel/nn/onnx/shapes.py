"""ONNX operators that move, cut, join and widen tensors; see ops.py."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from accel.nn.onnx.convolve import padded
from accel.nn.onnx.ops import Attributes, Unsupported, integers, op


@op("Reshape")
def reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sizes = integers(shape) or []
    if not a.get("allowzero", 0):
        sizes = [x.shape[i] if s == 0 else s for i, s in enumerate(sizes)]
    return x.reshape(sizes)


@op("Transpose")
def transpose(a: Attributes, x: Tensor) -> Tensor:
    return x.permute(a.get("perm", list(range(x.ndim))[::-1]))


@op("Flatten")
def flatten(a: Attributes, x: Tensor) -> Tensor:
    axis = a.get("axis", 1)
    return x.reshape(x.shape[:axis].numel(), -1)


@op("Squeeze")
def squeeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = integers(axes) if axes is not None else a.get("axes")
    return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))


@op("Unsqueeze")
def unsqueeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = integers(axes) if axes is not None else a["axes"]
    rank = x.ndim + len(chosen or [])
    for axis in sorted(d % rank for d in chosen or []):
        x = x.unsqueeze(axis)
    return x


@op("Shape")
def shape_of(a: Attributes, x: Tensor) -> Tensor:
    sizes = list(x.shape)[slice(a.get("start", 0), a.get("end"))]
    return torch.tensor(sizes, dtype=torch.int64)


@op("Size")
def size_of(a: Attributes, x: Tensor) -> Tensor:
    return torch.tensor(x.numel())


@op("Concat")
def concat(a: Attributes, *x: Tensor) -> Tensor:
    return torch.cat(x, a["axis"])


@op("Split")
def split(a: Attributes, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = a.get("axis", 0)
    parts = integers(sizes) if sizes is not None else a.get("split")
    if parts is None:
        count = a.get("num_outputs", a["outputs"])
        each = -(-x.shape[axis] // int(count or 1))
        return tuple(x.split(each, axis))
    return tuple(x.split(parts, axis))


@op("Slice")
def cut(
    a: Attributes,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    first = integers(starts) if starts is not None else a["starts"]
    last = integers(ends) if ends is not None else a["ends"]
    where = integers(axes) if axes is not None else a.get("axes")
    by = integers(steps) or [1] * len(first or [])
    for start, end, axis, step in zip(first or [], last or [], where or range(x.ndim), by):
        size = x.shape[axis]
        if step > 0:
            index = [slice(None)] * x.ndim
            # Of numbers beyond 64 bits torch warns on the terminal.
            index[axis] = slice(*slice(start, end, step).indices(size)[:2], min(step, size or 1))
            x = x[tuple(index)]
        else:
            picked = range(size)[slice(start, None if end < -size else end, step)]
            x = x.index_select(axis, torch.tensor(list(picked), dtype=torch.int64))
    return x


@op("Expand")
def expand(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    # torch's own function of that name loads sympy, which takes seconds.
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(integers(shape) or [])))


@op("Tile")
def tile(a: Attributes, x: Tensor, repeats: Tensor) -> Tensor:
    return x.tile(tuple(integers(repeats) or []))


@op("Range")
def arange(a: Attributes, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@op("ConstantOfShape")
def constant_of_shape(a: Attributes, shape: Tensor) -> Tensor:
    value = a.get("value", torch.zeros(1))
    return torch.full(integers(shape) or [], value.item(), dtype=value.dtype)


@op("Pad")
def pad(
    a: Attributes,
    x: Tensor,
    pads: Tensor | None = None,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    amounts = (integers(pads) if pads is not None else list(a["pads"])) or []
    mode = a.get("mode", "constant")
    if axes is not None:
        chosen, full = [d % x.ndim for d in integers(axes) or []], [0] * 2 * x.ndim
        for i, axis in enumerate(chosen):
            full[axis], full[x.ndim + axis] = amounts[i], amounts[len(chosen) + i]
        amounts = full
    if mode == "constant":
        fill = a.get("value", 0.0) if value is None else value.item()
        return padded(x, amounts, fill)
    if (
        mode == "reflect"
        and x.ndim == 4
        and min(amounts) >= 0
        and not any(amounts[:2] + amounts[4:6])
    ):
        return F.pad(x, [amounts[3], amounts[7], amounts[2], amounts[6]], mode="reflect")
    for d in range(x.ndim):
        if amounts[d] or amounts[x.ndim + d]:
            index = torch.arange(-amounts[d], x.shape[d] + amounts[x.ndim + d])
            x = x.index_select(d, beyond(mode, index, x.shape[d]))
    return x


def beyond(mode: str, index: Tensor, size: int) -> Tensor:
    """Which numbers stand for those outside 0..size - 1."""
    if mode == "edge":
        return index.clamp(0, size - 1)
    if mode == "wrap":
        return index % size
    if mode != "reflect":
        raise Unsupported(f"Pad by {mode}")
    around = max(2 * (size - 1), 1)
    index = index % around
    return torch.where(index < size, index, around - index)


@op("DepthToSpace")
def depth_to_space(a: Attributes, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = a["blocksize"]
    if a.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, b)
    x = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, c // (b * b), h * b, w * b)


@op("SpaceToDepth")
def space_to_depth(a: Attributes, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = a["blocksize"]
    x = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * b * b, h // b, w // b)
