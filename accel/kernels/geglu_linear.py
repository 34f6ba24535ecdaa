"""A linear layer and the gate that follows it, as one: the feed-forward of diffusion transformers.

y = v · GELU(g), where (v, g) = x · weightᵀ + bias. A linear layer of its own writes both halves, of
eight times the width of x, only to have them read again; here they never leave the registers.

Sources: Shazeer 2020 (arXiv:2002.05202); Hendrycks and Gimpel 2016 (arXiv:1606.08415).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.kernels._op import INTERPRETED, Op, triton_kernels
from accel.kernels._why_not import not_contiguous, not_on_gpu, refuse_others
from accel.kernels.conv2d import linear
from accel.kernels.geglu import geglu


def geglu_linear(
    x: Tensor,  # [..., K] float
    weight: Tensor,  # [2 * N, K]: rows of the values, then of the gates
    bias: Tensor,  # [2 * N]
) -> Tensor:  # [..., N]
    """Values times the exact GELU of their gates, both made from `x` by one linear layer.

    Raises ValueError for shapes that do not fit one another.
    """
    refuse_others("geglu_linear", x=x, weight=weight, bias=bias)
    fits = weight.ndim == 2 and weight.shape[0] % 2 == 0 and bias.shape == weight.shape[:1]
    if not fits or x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            "geglu_linear: x must be [..., K], weight [2 * N, K], bias [2 * N], "
            f"got {tuple(x.shape)}, {tuple(weight.shape)}, {tuple(bias.shape)}"
        )
    if x.device.type == "cpu" and not INTERPRETED:
        return geglu(linear(x, weight, bias))  # both have kernels of their own
    return op(x, weight, bias)


def _reference(x, weight, bias):
    value, gates = F.linear(x, weight, bias).chunk(2, dim=-1)
    return value * F.gelu(gates)


op = Op("geglu_linear(Tensor x, Tensor weight, Tensor bias) -> Tensor", _reference)


def _triton(x, weight, bias):
    out = x.new_empty(*x.shape[:-1], weight.shape[0] // 2)
    triton_kernels("gemm").gated(
        x.flatten(0, -2) if x.ndim > 1 else x[None], weight, bias, out.view(-1, out.shape[-1])
    )
    return out


def _why_not_triton(x, weight, bias) -> str:
    tensors = (x, weight, bias)
    if why := not_on_gpu(*tensors) or not_contiguous(*tensors):
        return why
    half = (torch.float16, torch.bfloat16)
    if len({t.dtype for t in tensors}) > 1 or (x.dtype not in half and not INTERPRETED):
        return f"needs float16 or bfloat16, got {x.dtype}, {weight.dtype}, {bias.dtype}"
    if not x.numel():
        return "has nothing to do"
    unit = triton_kernels("gemm").UNIT
    if x.shape[-1] % unit or weight.shape[0] % (2 * unit):
        return f"needs widths that are multiples of {unit}, got {tuple(weight.shape)}"
    if any(t.data_ptr() % 16 for t in tensors):
        return "needs tensors that begin at a multiple of 16 bytes"
    return ""


op.implement("triton", _triton, _why_not_triton)
