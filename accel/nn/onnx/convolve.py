"""ONNX operators with windows: convolutions, transposed ones, pools; see ops.py."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.kernels import conv2d
from accel.kernels.conv2d import wide
from accel.nn.onnx.ops import Attributes, Unsupported, op

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
LARGEST = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
MEAN = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def padding(a: Attributes, x: Tensor, kernel: Sequence[int], dims: int) -> list[int]:
    """Zeros before each dimension, then after each."""
    auto = a.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        return list(a.get("pads", [0] * 2 * dims))
    if auto == "VALID":
        return [0] * 2 * dims
    strides, dilations = a.get("strides", [1] * dims), a.get("dilations", [1] * dims)
    before, after = [], []
    for size, k, s, d in zip(x.shape[2:], kernel, strides, dilations):
        need = max(0, (math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size)
        small = need // 2
        before.append(small if auto == "SAME_UPPER" else need - small)
        after.append(need - small if auto == "SAME_UPPER" else small)
    return before + after


def padded(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad the last dimensions by ONNX's list."""
    if not any(pads):
        return x
    half = len(pads) // 2
    order = [p for i in reversed(range(half)) for p in (pads[i], pads[half + i])]
    return F.pad(x, order, value=value)


@op("Conv")
def convolve(
    a: Attributes,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,  # not of the specification: fused in, see fuse.py
    slope: float = 1.0,  # of a fused leaky ReLU
) -> Tensor:
    dims = weight.ndim - 2
    pads = padding(a, x, weight.shape[2:], dims)
    strides, dilations = a.get("strides", [1] * dims), a.get("dilations", [1] * dims)
    groups = a.get("group", 1)
    if dims == 2 and set(dilations) == {1} and strides[0] == strides[1]:
        if len(set(pads)) > 1:
            x, pads = padded(x, pads), [0]
        return conv2d(x, weight, bias, strides[0], pads[0], groups, residual, slope)
    if dims not in CONVOLVE:
        raise Unsupported(f"Conv of {dims} dimensions")
    out = CONVOLVE[dims](padded(x, pads), wide(weight, x), bias, strides, 0, dilations, groups)  # type: ignore[operator]
    out = out if residual is None else out + residual
    return out if slope == 1 else F.leaky_relu(out, slope)


@op("ConvTranspose")
def convolve_transposed(
    a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    dims = weight.ndim - 2
    if dims not in TRANSPOSED:
        raise Unsupported(f"ConvTranspose of {dims} dimensions")
    strides, dilations = a.get("strides", [1] * dims), a.get("dilations", [1] * dims)
    extra = a.get("output_padding", [0] * dims)
    pads = cut_off(a, x, weight, strides, dilations, extra)
    out = TRANSPOSED[dims](x, weight, bias, strides, 0, extra, a.get("group", 1), dilations)  # type: ignore[operator]
    for i in range(dims):
        length = out.shape[2 + i] - pads[i] - pads[dims + i]
        out = out.narrow(2 + i, pads[i], length)
    return out.contiguous()


def cut_off(
    a: Attributes,
    x: Tensor,
    weight: Tensor,
    strides: Sequence[int],
    dilations: Sequence[int],
    extra: Sequence[int],
) -> list[int]:
    """What a transposed convolution leaves out before each dimension, then after each."""
    dims, auto = len(strides), a.get("auto_pad", "NOTSET")
    wanted = a.get("output_shape")
    if wanted is None and not auto.startswith("SAME"):
        return list(a.get("pads", [0] * 2 * dims)) if auto != "VALID" else [0] * 2 * dims
    wanted = wanted[-dims:] if wanted else [n * s for n, s in zip(x.shape[2:], strides)]
    whole = [
        (n - 1) * s + e + (k - 1) * d + 1 - w
        for n, s, e, k, d, w in zip(
            x.shape[2:], strides, extra, weight.shape[2:], dilations, wanted
        )
    ]
    if min(whole) < 0:
        raise Unsupported("ConvTranspose to more than there is")
    less = [w // 2 for w in whole]
    more = [w - v for w, v in zip(whole, less)]
    return [*less, *more] if auto == "SAME_UPPER" else [*more, *less]


def pool_window(a: Attributes, x: Tensor) -> tuple[list[int], list[int], list[int]]:
    """Pads of a pool, strides, and what ceil_mode adds at each end."""
    kernel, dims = a["kernel_shape"], x.ndim - 2
    if len(kernel) != dims or dims not in MEAN or not x.is_floating_point():
        raise Unsupported(f"a pool over {len(kernel)} of {dims} dimensions of {x.dtype}")
    if a.get("storage_order", 0) or a["outputs"] > 1:
        raise Unsupported("MaxPool that says where it found what")
    strides, dilations = a.get("strides", [1] * dims), a.get("dilations", [1] * dims)
    pads, added = padding(a, x, kernel, dims), [0] * dims
    for i in range(dims if a.get("ceil_mode", 0) else 0):
        reach, length = (kernel[i] - 1) * dilations[i] + 1, x.shape[2 + i] + pads[i]
        count = math.ceil((length + pads[dims + i] - reach) / strides[i]) + 1
        # A window that would begin behind the end is none.
        count -= (count - 1) * strides[i] >= length
        added[i] = max(0, (count - 1) * strides[i] + reach - length - pads[dims + i])
    return pads, list(strides), added


def _with(pads: Sequence[int], added: Sequence[int]) -> list[int]:
    dims = len(added)
    return [*pads[:dims], *(p + e for p, e in zip(pads[dims:], added))]


@op("MaxPool")
def max_pool(a: Attributes, x: Tensor) -> Tensor:
    pads, strides, added = pool_window(a, x)
    x = padded(x, _with(pads, added), -math.inf)
    dims = len(strides)
    return LARGEST[dims](x, a["kernel_shape"], strides, 0, a.get("dilations", [1] * dims))


@op("AveragePool")
def average_pool(a: Attributes, x: Tensor) -> Tensor:
    pads, strides, added = pool_window(a, x)
    kernel, pool = a["kernel_shape"], MEAN[len(strides)]
    if set(a.get("dilations", [1])) != {1}:
        raise Unsupported("AveragePool, dilated")
    out: Tensor = pool(padded(x, _with(pads, added)), kernel, strides)  # type: ignore[operator]
    counted = bool(a.get("count_include_pad", 0))
    if any(added) or (any(pads) and not counted):
        ones = torch.ones_like(x[:1, :1])
        inside = padded(padded(ones, pads, float(counted)), [0] * len(added) + added)
        out = out / pool(inside, kernel, strides)  # type: ignore[operator]
    return out


@op("GlobalAveragePool")
def global_average(a: Attributes, x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


@op("GlobalMaxPool")
def global_max(a: Attributes, x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)
