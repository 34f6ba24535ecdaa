"""ONNX operators that move, cut, join and enlarge tensors; see ops.py."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.nn.onnx.ops import Attributes, Unsupported, integers, op, padded


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
    return torch.tensor(list(x.shape)[slice(a.get("start", 0), a.get("end"))])


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
            index[axis] = slice(start, end, step)
            x = x[tuple(index)]
        else:
            picked = range(size)[slice(start, None if end < -size else end, step)]
            x = x.index_select(axis, torch.tensor(list(picked), dtype=torch.int64))
    return x


@op("Gather")
def gather(a: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = a.get("axis", 0) % x.ndim
    flat = indices.reshape(-1).long()
    flat = torch.where(flat < 0, flat + x.shape[axis], flat)
    out = x.index_select(axis, flat)
    return out.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


@op("GatherElements")
def gather_elements(a: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = a.get("axis", 0)
    return x.gather(axis, torch.where(indices < 0, indices + x.shape[axis], indices))


@op("Expand")
def expand(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(integers(shape) or [])))


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
    amounts = integers(pads) if pads is not None else a["pads"]
    mode = a.get("mode", "constant")
    if axes is not None:
        chosen, full = integers(axes) or [], [0] * 2 * x.ndim
        for i, axis in enumerate(chosen):
            full[axis] = (amounts or [])[i]
            full[x.ndim + axis] = (amounts or [])[len(chosen) + i]
        amounts = full
    assert amounts is not None
    if mode == "constant":
        fill = a.get("value", 0.0) if value is None else float(value)
        return padded(x, amounts, fill)
    if mode not in ("reflect", "edge") or x.ndim != 4 or any(amounts[i] for i in (0, 1, 4, 5)):
        raise Unsupported(f"Pad by {mode}")
    sides = [amounts[3], amounts[7], amounts[2], amounts[6]]
    return F.pad(x, sides, mode="replicate" if mode == "edge" else "reflect")


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


@op("Resize", "Upsample")
def resize(a: Attributes, x: Tensor, *rest: Tensor | None) -> Tensor:
    scales, sizes = _targets(a, x, rest)
    height, width = sizes
    mode = a.get("mode", "nearest")
    how = a.get("coordinate_transformation_mode", "half_pixel" if a["opset"] > 10 else "asymmetric")
    if x.ndim != 4 or a.get("antialias", 0) or a.get("axes"):
        raise Unsupported("Resize of other than pictures, or with antialias")
    if (height, width) == tuple(x.shape[2:]):
        return x
    if mode == "nearest":
        return _nearest(a, x, how, (height, width), scales)
    if mode != "linear" or how not in ("half_pixel", "align_corners", "pytorch_half_pixel"):
        raise Unsupported(f"Resize {mode}, {how}")
    return F.interpolate(
        x, (height, width), mode="bilinear", align_corners=how == "align_corners"
    )  # fmt: skip


def _targets(
    a: Attributes, x: Tensor, rest: tuple[Tensor | None, ...]
) -> tuple[tuple[float, float], tuple[int, int]]:
    """Scales and sizes of height and width."""
    given = [t for t in rest if t is not None and t.numel()]
    if not given and "scales" not in a:
        raise Unsupported("Resize without scales or sizes")
    last = given[-1] if given else torch.tensor(a["scales"])
    values = last.reshape(-1).tolist()
    if len(values) != 4 or [float(v) for v in values[:2]] != (
        [1.0, 1.0] if last.is_floating_point() else [float(s) for s in x.shape[:2]]
    ):
        raise Unsupported("Resize of batch or channels")
    if last.is_floating_point():
        sizes = (int(x.shape[2] * values[2]), int(x.shape[3] * values[3]))
        return (values[2], values[3]), sizes
    height, width = int(values[2]), int(values[3])
    return (height / x.shape[2], width / x.shape[3]), (height, width)


def _nearest(
    a: Attributes, x: Tensor, how: str, sizes: tuple[int, int], scales: tuple[float, float]
) -> Tensor:
    whole = all(x.shape[2 + i] * round(scales[i]) == sizes[i] for i in range(2))
    rounding = a.get("nearest_mode", "floor" if a["opset"] < 11 else "round_prefer_floor")
    agreed = (how, rounding) == ("asymmetric", "floor") or (
        how.endswith("half_pixel") and rounding.startswith("round")
    )
    if whole and agreed:
        # Each value is repeated: what half_pixel with rounding and asymmetric with floor agree on.
        return F.interpolate(x, sizes, mode="nearest")
    out = x
    for i in range(2):
        index = _source_index(x.shape[2 + i], sizes[i], scales[i], how, rounding)
        out = out.index_select(2 + i, index)
    return out


def _source_index(size: int, target: int, scale: float, how: str, rounding: str) -> Tensor:
    at = torch.arange(target, dtype=torch.float64)
    if how == "asymmetric":
        at = at / scale
    elif how == "align_corners":
        at = at * (size - 1) / max(target - 1, 1)
    elif how in ("half_pixel", "pytorch_half_pixel"):
        at = (at + 0.5) / scale - 0.5
    else:
        raise Unsupported(f"Resize nearest, {how}")
    rounded: dict[str, Any] = {
        "floor": torch.floor,
        "ceil": torch.ceil,
        "round_prefer_floor": lambda v: torch.ceil(v - 0.5),
        "round_prefer_ceil": lambda v: torch.floor(v + 0.5),
    }
    if rounding not in rounded:
        raise Unsupported(f"Resize nearest, {rounding}")
    index: Tensor = rounded[rounding](at).clamp(0, size - 1).long()
    return index


@op("GridSample")
def grid_sample(a: Attributes, x: Tensor, grid: Tensor) -> Tensor:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(a.get("mode", "bilinear"), "bilinear")
    if a.get("mode") == "nearest":
        mode = "nearest"
    return F.grid_sample(
        x, grid, mode, a.get("padding_mode", "zeros"), bool(a.get("align_corners", 0))
    )
