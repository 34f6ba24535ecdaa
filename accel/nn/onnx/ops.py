"""ONNX operators as functions on tensors: `OPS[op_type](attributes, *inputs)`.

An input that a node leaves out is None. Each gives one tensor, or a tuple of them. Meanings follow
the specification, https://onnx.ai/onnx/operators/, opset 7 to 21; what is not implemented raises
Unsupported, so that the caller can hand the file to ONNX Runtime. Sixteen-bit floats are computed
with as float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.kernels import conv2d, group_norm_silu

Attributes = dict[str, Any]
Operator = Callable[..., Any]
OPS: dict[str, Operator] = {}

# Numbers of onnx.TensorProto.DataType.
TYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32,
    7: torch.int64, 9: torch.bool, 10: torch.float32, 11: torch.float64, 16: torch.float32,
}  # fmt: skip


class Unsupported(RuntimeError):
    """A node asks for something that is not implemented here."""


def op(*names: str) -> Callable[[Operator], Operator]:
    def register(run: Operator) -> Operator:
        for name in names:
            OPS[name] = run
        return run

    return register


def integers(value: Tensor | Sequence[int] | None) -> list[int] | None:
    if value is None:
        return None
    return [int(v) for v in (value.reshape(-1).tolist() if torch.is_tensor(value) else value)]


def elementwise(name: str, run: Callable[..., Tensor]) -> None:
    OPS[name] = lambda a, *x: run(*x)


_ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Pow": torch.pow, "Sqrt": torch.sqrt,
    "Exp": torch.exp, "Log": torch.log, "Neg": torch.neg, "Abs": torch.abs, "Erf": torch.erf,
    "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Floor": torch.floor,
    "Ceil": torch.ceil, "Round": torch.round, "Sin": torch.sin, "Cos": torch.cos,
    "Sign": torch.sign, "Reciprocal": torch.reciprocal, "Not": torch.logical_not,
    "And": torch.logical_and, "Or": torch.logical_or, "Equal": torch.eq, "Greater": torch.gt,
    "Less": torch.lt, "GreaterOrEqual": torch.ge, "LessOrEqual": torch.le, "Where": torch.where,
    "MatMul": torch.matmul, "Softplus": F.softplus, "Mish": F.mish, "Identity": lambda x: x,
    "IsNaN": torch.isnan, "Softsign": F.softsign,
}  # fmt: skip
for _name, _run in _ELEMENTWISE.items():
    elementwise(_name, _run)


@op("Div")
def divide(a: Attributes, x: Tensor, y: Tensor) -> Tensor:
    if x.is_floating_point():
        return x / y
    return torch.div(x, y, rounding_mode="trunc")


@op("Min")
def smallest(a: Attributes, *x: Tensor) -> Tensor:
    out = x[0]
    for other in x[1:]:
        out = torch.minimum(out, other)
    return out


@op("Max")
def largest(a: Attributes, *x: Tensor) -> Tensor:
    out = x[0]
    for other in x[1:]:
        out = torch.maximum(out, other)
    return out


@op("Sum")
def total(a: Attributes, *x: Tensor) -> Tensor:
    out = x[0]
    for other in x[1:]:
        out = out + other
    return out


@op("LeakyRelu")
def leaky_relu(a: Attributes, x: Tensor) -> Tensor:
    return F.leaky_relu(x, a.get("alpha", 0.01))


@op("PRelu")
def prelu(a: Attributes, x: Tensor, slope: Tensor) -> Tensor:
    if slope.numel() == x.shape[1] and slope.ndim <= 3:
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x < 0, x * slope, x)


@op("Elu")
def elu(a: Attributes, x: Tensor) -> Tensor:
    return F.elu(x, a.get("alpha", 1.0))


@op("Gelu")
def gelu(a: Attributes, x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh" if a.get("approximate") == "tanh" else "none")


@op("HardSigmoid")
def hard_sigmoid(a: Attributes, x: Tensor) -> Tensor:
    return (x * a.get("alpha", 0.2) + a.get("beta", 0.5)).clamp(0, 1)


@op("HardSwish")
def hard_swish(a: Attributes, x: Tensor) -> Tensor:
    return F.hardswish(x)


@op("Clip")
def clip(a: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    bottom = a.get("min") if low is None else low.item()
    top = a.get("max") if high is None else high.item()
    return x if bottom is None and top is None else x.clamp(bottom, top)


@op("Cast")
def cast(a: Attributes, x: Tensor) -> Tensor:
    if a["to"] not in TYPES:
        raise Unsupported(f"Cast to type {a['to']}")
    return x.to(TYPES[a["to"]])


# --- convolution and pooling ------------------------------------------------------------------


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


CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


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
    out = CONVOLVE[dims](padded(x, pads), weight, bias, strides, 0, dilations, groups)  # type: ignore[operator]
    out = out if residual is None else out + residual
    return out if slope == 1 else F.leaky_relu(out, slope)


@op("ConvTranspose")
def convolve_transposed(
    a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    dims = weight.ndim - 2
    if a.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or "output_shape" in a:
        raise Unsupported("ConvTranspose with auto_pad or output_shape")
    if dims not in TRANSPOSED:
        raise Unsupported(f"ConvTranspose of {dims} dimensions")
    pads = list(a.get("pads", [0] * 2 * dims))
    out = TRANSPOSED[dims](  # type: ignore[operator]
        x, weight, bias, a.get("strides", [1] * dims), 0, a.get("output_padding", [0] * dims),
        a.get("group", 1), a.get("dilations", [1] * dims),
    )  # fmt: skip
    for i in range(dims):
        length = out.shape[2 + i] - pads[i] - pads[dims + i]
        out = out.narrow(2 + i, pads[i], length)
    return out.contiguous()


@op("MaxPool")
def max_pool(a: Attributes, x: Tensor) -> Tensor:
    if a.get("ceil_mode", 0) or a.get("storage_order", 0) or x.ndim != 4:
        raise Unsupported("MaxPool with ceil_mode, or not of pictures")
    kernel, dilations = a["kernel_shape"], a.get("dilations", [1, 1])
    x = padded(x, padding(a, x, kernel, 2), -math.inf)
    return F.max_pool2d(x, kernel, a.get("strides", [1, 1]), 0, dilations)


@op("AveragePool")
def average_pool(a: Attributes, x: Tensor) -> Tensor:
    if a.get("ceil_mode", 0) or x.ndim != 4:
        raise Unsupported("AveragePool with ceil_mode, or not of pictures")
    kernel, strides = a["kernel_shape"], a.get("strides", [1, 1])
    pads = padding(a, x, kernel, 2)
    out = F.avg_pool2d(padded(x, pads), kernel, strides)
    if any(pads) and not a.get("count_include_pad", 0):
        inside = padded(torch.ones_like(x[:1, :1]), pads)
        out = out / F.avg_pool2d(inside, kernel, strides)
    return out


@op("GlobalAveragePool")
def global_average(a: Attributes, x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


@op("GlobalMaxPool")
def global_max(a: Attributes, x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


# --- normalisation, matrices ------------------------------------------------------------------


@op("BatchNormalization")
def batch_norm(
    a: Attributes, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    if a.get("training_mode", 0):
        raise Unsupported("BatchNormalization in training")
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, a.get("epsilon", 1e-5))


@op("InstanceNormalization")
def instance_norm(a: Attributes, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return group_norm_silu(x, x.shape[1], scale, bias, a.get("epsilon", 1e-5), False)


@op("GroupNormalization")
def group_norm(a: Attributes, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = a["num_groups"]
    if scale.shape[0] != x.shape[1]:  # opset 18 had one for each group
        scale, bias = (t.repeat_interleave(x.shape[1] // groups) for t in (scale, bias))
    return group_norm_silu(x, groups, scale, bias, a.get("epsilon", 1e-5), False)


@op("LayerNormalization")
def layer_norm(a: Attributes, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    shape = x.shape[a.get("axis", -1) :]
    return F.layer_norm(
        x, shape, scale.expand(shape), None if bias is None else bias.expand(shape),
        a.get("epsilon", 1e-5),
    )  # fmt: skip


@op("LpNormalization")
def lp_norm(a: Attributes, x: Tensor) -> Tensor:
    return x / x.norm(a.get("p", 2), a.get("axis", -1), keepdim=True)


@op("Gemm")
def gemm(a: Attributes, x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
    x = x.T if a.get("transA", 0) else x
    y = y.T if a.get("transB", 0) else y
    out = a.get("alpha", 1.0) * (x @ y) if a.get("alpha", 1.0) != 1 else x @ y
    if bias is None:
        return out
    beta = a.get("beta", 1.0)
    return out + (bias if beta == 1 else beta * bias)


@op("Softmax")
def softmax(a: Attributes, x: Tensor) -> Tensor:
    axis = a.get("axis", -1 if a["opset"] >= 13 else 1)
    if a["opset"] >= 13:
        return x.softmax(axis)
    return x.flatten(axis).softmax(-1).reshape(x.shape) if axis else x.flatten().softmax(0)


@op("Einsum")
def einsum(a: Attributes, *x: Tensor) -> Tensor:
    return torch.einsum(a["equation"], *x)


# --- sums over axes ---------------------------------------------------------------------------


def reduction(name: str, run: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> None:
    def reduce(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = integers(axes) if axes is not None else a.get("axes")
        if not chosen and a.get("noop_with_empty_axes", 0):
            return x
        return run(x, tuple(chosen or range(x.ndim)), bool(a.get("keepdims", 1)))

    OPS[name] = reduce


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((d % x.ndim for d in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


reduction("ReduceMean", lambda x, d, keep: x.mean(d, keepdim=keep))
reduction("ReduceSum", lambda x, d, keep: x.sum(d, keepdim=keep))
reduction("ReduceMax", lambda x, d, keep: x.amax(d, keepdim=keep))
reduction("ReduceMin", lambda x, d, keep: x.amin(d, keepdim=keep))
reduction("ReduceProd", _product)
reduction("ReduceL2", lambda x, d, keep: x.square().sum(d, keepdim=keep).sqrt())
reduction("ReduceL1", lambda x, d, keep: x.abs().sum(d, keepdim=keep))
reduction("ReduceSumSquare", lambda x, d, keep: x.square().sum(d, keepdim=keep))


@op("ArgMax")
def arg_max(a: Attributes, x: Tensor) -> Tensor:
    if a.get("select_last_index", 0):
        raise Unsupported("ArgMax of the last index")
    return x.argmax(a.get("axis", 0), keepdim=bool(a.get("keepdims", 1)))


@op("TopK")
def top_k(a: Attributes, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    found = x.topk(int(k), a.get("axis", -1), bool(a.get("largest", 1)), True)
    return found.values, found.indices
