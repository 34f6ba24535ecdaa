"""Group normalisation with the SiLU that follows it in every residual block, as one operator.

y = silu(weight_c · (x - mean_g) / sqrt(variance_g + eps) + bias_c), with the mean and the biased
variance of each image's group of channels.

Sources: Wu and He 2018 (arXiv:1803.08494); Elfwing, Uchibe and Doya 2017 (arXiv:1702.03118).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.kernels import _native
from accel.kernels._layout import is_channels_last, layout_of
from accel.kernels._op import Op, triton_kernels
from accel.kernels._why_not import not_on_gpu, refuse_others


def group_norm_silu(
    x: Tensor,  # [N, C, ...] float
    groups: int,  # divides C
    weight: Tensor | None,  # [C]; None: ones
    bias: Tensor | None,  # [C]; None: zeros
    eps: float = 1e-5,
    silu: bool = True,  # False: normalise alone
) -> Tensor:  # as x; channels last where x is, else contiguous
    """Normalise groups of channels and apply SiLU; see the module for the definition.

    Raises ValueError where groups, weight or bias do not fit the channels.
    """
    refuse_others("group_norm_silu", x=x)
    if x.ndim < 2 or groups < 1 or x.shape[1] % groups:
        raise ValueError(
            f"group_norm_silu: x must be [N, C, ...] with C a multiple of groups = {groups}, "
            f"got {tuple(x.shape)}"
        )
    weight = x.new_ones(x.shape[1]) if weight is None else weight
    bias = x.new_zeros(x.shape[1]) if bias is None else bias
    if weight.shape != x.shape[1:2] or bias.shape != x.shape[1:2]:
        raise ValueError(
            f"group_norm_silu: weight and bias must be [{x.shape[1]}], "
            f"got {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    return op(x, groups, weight, bias, eps, silu)


def _reference(x, groups, weight, bias, eps, silu):
    if not x.is_floating_point():
        raise TypeError(f"group_norm_silu: x must be of floating point, got {x.dtype}")
    # F.group_norm is the same but for refusing a group of one number.
    y = torch.group_norm(x, groups, weight, bias, eps)
    return (F.silu(y) if silu else y).contiguous(memory_format=layout_of(x))


op = Op(
    "group_norm_silu(Tensor x, int groups, Tensor weight, Tensor bias, float eps, bool silu)"
    " -> Tensor",
    _reference,
    fake=lambda x, *args: torch.empty_like(x, memory_format=layout_of(x)),
)


def _native_run(x, groups, weight, bias, eps, silu):
    y = _native.empty_like(x)
    _native.module.group_norm(
        x.detach(),
        weight.detach().contiguous(),
        bias.detach().contiguous(),
        y,
        groups,
        eps,
        silu,
        is_channels_last(x),
        torch.get_num_threads(),
    )
    return y


def _why_not_native(x, groups, weight, bias, eps, silu) -> str:
    if any(t.dtype != torch.float32 for t in (x, weight, bias)):
        return f"needs float32, got {x.dtype}, {weight.dtype}, {bias.dtype}"
    if not x.numel():
        return "needs at least one value"
    if not (x.is_contiguous() or is_channels_last(x)):
        return f"needs values side by side in memory, got strides {x.stride()}"
    return _native.why_not(x, weight, bias)


op.implement("native", _native_run, _why_not_native)


def _triton(x, groups, weight, bias, eps, silu):
    return triton_kernels("norm").group_norm(x, groups, weight, bias, eps, silu)


def _why_not_triton(x, groups, weight, bias, eps, silu) -> str:
    if why := not_on_gpu(x):
        return why
    if not x.numel() or x.numel() >= 1 << 31:
        return f"needs 1 to 2^31 values, got {x.numel()}"
    if not (x.is_contiguous() or is_channels_last(x)):
        return f"needs values side by side in memory, got strides {x.stride()}"
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"needs float32, float16 or bfloat16, got {x.dtype}"
    return ""


op.implement("triton", _triton, _why_not_triton)
