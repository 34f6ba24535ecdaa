"""ONNX operators as functions on tensors: `OPS[op_type](attributes, *inputs)`.

An input that a node leaves out is None. Each gives one tensor, or a tuple of them. Meanings follow
the specification, https://onnx.ai/onnx/operators/, opset 7 to 21; what is not implemented raises
Unsupported, so that the caller can hand the file to ONNX Runtime. Sixteen-bit floats are computed
with as float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.kernels import group_norm_silu
from accel.kernels.conv2d import wide

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


# What operators raise at inputs or attributes that they cannot take, which in a stranger's file may
# be of any kind and number; Unsupported is one of them.
MISFITS = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
           AssertionError, MemoryError)  # fmt: skip


def first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


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
    "MatMul": lambda x, y: x @ wide(y, x), "Identity": lambda x: x,
    "Softplus": F.softplus, "Mish": F.mish,
    "IsNaN": torch.isnan, "Softsign": F.softsign, "Xor": torch.logical_xor, "Tan": torch.tan,
    "Asin": torch.asin, "Acos": torch.acos, "Atan": torch.atan, "Sinh": torch.sinh,
    "Cosh": torch.cosh, "Asinh": torch.asinh, "Acosh": torch.acosh, "Atanh": torch.atanh,
    "BitwiseAnd": torch.bitwise_and, "BitwiseOr": torch.bitwise_or,
    "BitwiseNot": torch.bitwise_not, "BitwiseXor": torch.bitwise_xor,
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
    return torch.where(x < 0, x * slope, x)


@op("Elu")
def elu(a: Attributes, x: Tensor) -> Tensor:
    return F.elu(x, a.get("alpha", 1.0))


@op("Gelu")
def gelu(a: Attributes, x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh" if a.get("approximate") == "tanh" else "none")


@op("Selu")
def selu(a: Attributes, x: Tensor) -> Tensor:
    alpha, gamma = a.get("alpha", 1.6732632423543772), a.get("gamma", 1.0507009873554805)
    return gamma * F.elu(x, alpha)


@op("Celu")
def celu(a: Attributes, x: Tensor) -> Tensor:
    return F.celu(x, a.get("alpha", 1.0))


@op("ThresholdedRelu")
def thresholded_relu(a: Attributes, x: Tensor) -> Tensor:
    return torch.where(x > a.get("alpha", 1.0), x, 0.0)


@op("Mod")
def remainder(a: Attributes, x: Tensor, y: Tensor) -> Tensor:
    return torch.fmod(x, y) if a.get("fmod", 0) else torch.remainder(x, y)


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


# --- normalisation, matrices ------------------------------------------------------------------


@op("BatchNormalization")
def batch_norm(
    a: Attributes, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    if a.get("training_mode", 0) or not a.get("spatial", 1):
        raise Unsupported("BatchNormalization in training, or of each pixel")
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
    y = wide(y.T if a.get("transB", 0) else y, x)
    out = a.get("alpha", 1.0) * (x @ y) if a.get("alpha", 1.0) != 1 else x @ y
    if bias is None:
        return out
    beta = a.get("beta", 1.0)
    return out + (bias if beta == 1 else beta * bias)


def _over_axis(a: Attributes, x: Tensor, run: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Before opset 13 all dimensions from the axis on were taken together."""
    if a["opset"] >= 13:
        return run(x, a.get("axis", -1))
    axis = a.get("axis", 1) % max(x.ndim, 1)
    return run(x.reshape(x.shape[:axis].numel(), -1), -1).reshape(x.shape)


@op("Softmax")
def softmax(a: Attributes, x: Tensor) -> Tensor:
    return _over_axis(a, x, torch.softmax)


@op("LogSoftmax")
def log_softmax(a: Attributes, x: Tensor) -> Tensor:
    return _over_axis(a, x, torch.log_softmax)


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
reduction("ReduceLogSum", lambda x, d, keep: x.sum(d, keepdim=keep).log())
reduction("ReduceLogSumExp", lambda x, d, keep: x.logsumexp(d, keepdim=keep))
reduction("ReduceSumSquare", lambda x, d, keep: x.square().sum(d, keepdim=keep))
