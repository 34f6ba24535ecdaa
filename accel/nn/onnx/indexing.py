"""ONNX operators that pick, place and count by index; see ops.py."""

from __future__ import annotations

import torch
from torch import Tensor

from accel.nn.onnx.ops import Attributes, Unsupported, op


def _counted(indices: Tensor, size: int) -> Tensor:
    """Negative indices count from the end."""
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


@op("Gather")
def gather(a: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = a.get("axis", 0) % x.ndim
    out = x.index_select(axis, _counted(indices.reshape(-1), x.shape[axis]))
    return out.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


@op("GatherElements")
def gather_elements(a: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = a.get("axis", 0)
    return x.gather(axis, _counted(indices, x.shape[axis]))


@op("GatherND")
def gather_nd(a: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    if a.get("batch_dims", 0):
        raise Unsupported("GatherND of batches")
    return x[_places(x, indices)]


@op("ScatterND")
def scatter_nd(a: Attributes, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    if a.get("reduction", "none") not in ("none", "add"):
        raise Unsupported(f"ScatterND by {a['reduction']}")
    adds = a.get("reduction") == "add"
    return x.index_put(_places(x, indices), updates, accumulate=adds)


def _places(x: Tensor, indices: Tensor) -> tuple[Tensor, ...]:
    return tuple(_counted(part, size) for part, size in zip(indices.unbind(-1), x.shape))


@op("ScatterElements")
def scatter_elements(a: Attributes, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis = a.get("axis", 0)
    if a.get("reduction", "none") not in ("none", "add"):
        raise Unsupported(f"ScatterElements by {a['reduction']}")
    places = _counted(indices, x.shape[axis])
    if a.get("reduction") == "add":
        return x.scatter_add(axis, places, updates)
    return x.scatter(axis, places, updates)


@op("OneHot")
def one_hot(a: Attributes, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    size, rank = int(depth), indices.ndim + 1
    axis = a.get("axis", -1) % rank
    places = _counted(indices, size).unsqueeze(axis)
    every = torch.arange(size).reshape([-1 if d == axis else 1 for d in range(rank)])
    return torch.where(places == every, values[1], values[0])


@op("Trilu")
def triangle(a: Attributes, x: Tensor, diagonal: Tensor | None = None) -> Tensor:
    k = 0 if diagonal is None else int(diagonal)
    return x.triu(k) if a.get("upper", 1) else x.tril(k)


@op("CumSum")
def running_sum(a: Attributes, x: Tensor, axis: Tensor) -> Tensor:
    d = int(axis)
    x = x.flip(d) if a.get("reverse", 0) else x
    out = x.cumsum(d, dtype=x.dtype)
    out = out - x if a.get("exclusive", 0) else out
    return out.flip(d) if a.get("reverse", 0) else out


def _argument(kind: str) -> None:
    @op(kind)
    def run(a: Attributes, x: Tensor) -> Tensor:
        if a.get("select_last_index", 0):
            raise Unsupported(f"{kind} of the last index")
        found = x.argmax if kind == "ArgMax" else x.argmin
        return found(a.get("axis", 0), keepdim=bool(a.get("keepdims", 1)))


for _kind in ("ArgMax", "ArgMin"):
    _argument(_kind)


@op("TopK")
def top_k(a: Attributes, x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
    count, axis = int(a["k"] if k is None else k), a.get("axis", -1)
    # Of equal numbers the first one counts: `topk` does not promise that.
    found = x.sort(dim=axis, descending=bool(a.get("largest", 1)), stable=True)
    return found.values.narrow(axis, 0, count), found.indices.narrow(axis, 0, count)
