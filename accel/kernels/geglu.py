"""Values times the exact GELU of their gates: the feed-forward of every diffusion transformer.

y = value · gate · (1 + erf(gate / sqrt 2)) / 2, where x holds the values, then the gates.

Sources: Shazeer 2020 (arXiv:2002.05202); Hendrycks and Gimpel 2016 (arXiv:1606.08415).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import Op, in_triton
from accel.kernels._why_not import not_on_gpu, refuse_others


def geglu(
    x: Tensor,  # [..., 2 * D] float: values, then gates
) -> Tensor:  # [..., D]
    """Gate the first half of the last dimension by the GELU of the second.

    Raises ValueError where the last dimension is odd.
    """
    refuse_others("geglu", x=x)
    if x.ndim < 1 or x.shape[-1] % 2:
        raise ValueError(f"geglu: x must be [..., 2 * D], got {tuple(x.shape)}")
    return op(x)


def _reference(x):
    if not x.is_floating_point():
        raise TypeError(f"geglu: x must be of floating point, got {x.dtype}")
    value, gates = x.chunk(2, dim=-1)
    return (value * F.gelu(gates)).contiguous()


op = Op("geglu(Tensor x) -> Tensor", _reference)


def _native_run(x):
    y = _native.empty(*x.shape[:-1], x.shape[-1] // 2)
    _native.module.geglu(x.detach().contiguous(), y, torch.get_num_threads())
    return y


def _why_not_native(x) -> str:
    if x.dtype != torch.float32:
        return f"needs float32, got {x.dtype}"
    if not x.numel():
        return "needs at least one value"
    return _native.why_not(x)


op.implement("native", _native_run, _why_not_native)


def _why_not_triton(x) -> str:
    if why := not_on_gpu(x):
        return why
    if not x.is_contiguous() or not 0 < x.numel() < 1 << 31:
        return "needs 1 to 2^31 values side by side in memory"
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"needs float32, float16 or bfloat16, got {x.dtype}"
    return ""


op.implement("triton", in_triton("norm", "gate"), _why_not_triton)
