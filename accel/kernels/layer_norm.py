"""Layer normalisation: every row less its mean, over its deviation.

y = weight · (x - mean) / sqrt(variance + eps) + bias, with the mean and the biased variance of the
last dimension.

Source: Ba, Kiros and Hinton 2016 (arXiv:1607.06450).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import Op, triton_kernels
from accel.kernels._why_not import not_on_gpu, refuse_others


def layer_norm(
    x: Tensor,  # [..., D] float
    weight: Tensor | None = None,  # [D]
    bias: Tensor | None = None,  # [D]
    eps: float = 1e-5,
) -> Tensor:  # [..., D] contiguous
    """Normalise the last dimension; see the module for the definition.

    A row's bytes do not depend on the rows around it nor on the number of threads. Raises
    ValueError where weight or bias do not fit the last dimension.
    """
    refuse_others("layer_norm", x=x)
    if x.ndim < 1:
        raise ValueError(f"layer_norm: x must be [..., D], got {tuple(x.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.shape != x.shape[-1:]:
            raise ValueError(
                f"layer_norm: {name} must be [{x.shape[-1]}], got {tuple(tensor.shape)}"
            )
    return op(x, weight, bias, eps)


def _reference(x, weight, bias, eps):
    if not x.is_floating_point():
        raise TypeError(f"layer_norm: x must be of floating point, got {x.dtype}")
    width = int(x.shape[-1])  # a plain number: the exporter to ONNX takes no traced one here
    return F.layer_norm(x, (width,), weight, bias, eps).contiguous()


op = Op("layer_norm(Tensor x, Tensor? weight, Tensor? bias, float eps) -> Tensor", _reference)


def _both(x, weight, bias) -> tuple[Tensor, Tensor]:
    """Weight and bias with what is missing filled in; none of both where both are."""
    if weight is None and bias is None:
        return x.new_empty(0), x.new_empty(0)
    ones = x.new_ones(x.shape[-1:]) if weight is None else weight
    return ones, x.new_zeros(x.shape[-1:]) if bias is None else bias


def _native_run(x, weight, bias, eps):
    y = _native.empty(*x.shape)
    if weight is None or bias is None:
        weight, bias = _both(x, weight, bias)
    _native.module.layer_norm(
        x.detach().contiguous(),
        weight.detach().contiguous(),
        bias.detach().contiguous(),
        y,
        eps,
        torch.get_num_threads(),
    )
    return y


def _why_not_native(x, weight, bias, eps) -> str:
    given = [t for t in (x, weight, bias) if t is not None]
    if any(t.dtype != torch.float32 for t in given):
        return f"needs float32, got {', '.join(str(t.dtype) for t in given)}"
    if not x.numel():
        return "needs at least one value"
    return _native.why_not(*given)


op.implement("native", _native_run, _why_not_native)


def _triton(x, weight, bias, eps):
    return triton_kernels("norm").normalize_rows(x, *_both(x, weight, bias), eps)


def _why_not_triton(x, weight, bias, eps) -> str:
    if why := not_on_gpu(x):
        return why
    widest = triton_kernels("norm").MOST_WIDTH
    if not x.is_contiguous() or not 0 < x.numel() < 1 << 31 or x.shape[-1] > widest:
        return f"needs 1 to 2^31 values side by side in memory, rows of {widest} at most"
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"needs float32, float16 or bfloat16, got {x.dtype}"
    return ""


op.implement("triton", _triton, _why_not_triton)
