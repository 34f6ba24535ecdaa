"""Softmax attention: softmax(q · kᵀ · scale) · v, for each head, never holding all the scores.

Sources: Vaswani et al. 2017 (arXiv:1706.03762); the online softmax of Milakov and Gimelshein 2018
(arXiv:1805.02867), blocked as in Dao et al. 2022 (arXiv:2205.14135).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import INTERPRETED, Op, triton_kernels
from accel.kernels._why_not import not_on_gpu, refuse_others


def attention(
    q: Tensor,  # [B, H, L, D] float; any strides
    k: Tensor,  # [B, H, M, D]
    v: Tensor,  # [B, H, M, D]
    *,
    scale: float | None = None,  # 1 / sqrt(D) where None
    causal: bool = False,  # query i sees keys 0..i
) -> Tensor:  # [B, H, L, D]
    """Attend from every query to every key; see the module for the definition.

    Raises ValueError for shapes that do not fit one another.
    """
    refuse_others("attention", q=q, k=k, v=v)
    fits = q.ndim == k.ndim == 4 and k.shape == v.shape and q.shape[:2] == k.shape[:2]
    if not fits or q.shape[3] != k.shape[3]:
        raise ValueError(
            "attention: q must be [B, H, L, D], k and v [B, H, M, D], "
            f"got {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
        )
    if scale is None:
        scale = q.shape[3] ** -0.5 if q.shape[3] else 1.0
    return op(q, k, v, scale, causal)


def _reference(q, k, v, scale, causal):
    cast = torch.is_autocast_enabled(q.device.type)  # to one type, by torch's operator
    if not q.is_floating_point() or not (cast or q.dtype == k.dtype == v.dtype):
        raise TypeError(
            "attention: q, k and v must be of one floating point type, "
            f"got {q.dtype}, {k.dtype} and {v.dtype}"
        )
    out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
    return out.transpose(1, 2).contiguous().transpose(1, 2)


def _fake(q, k, v, scale, causal):
    """Heads of one row side by side, as the layer that reads them wants them."""
    batch, heads, length, width = q.shape
    return q.new_empty(batch, length, heads, width).transpose(1, 2)


op = Op(
    "attention(Tensor q, Tensor k, Tensor v, float scale, bool causal) -> Tensor",
    _reference,
    fake=_fake,
)


def _native_run(q, k, v, scale, causal):
    out = _native.empty(q.shape[0], q.shape[2], q.shape[1], q.shape[3]).transpose(1, 2)
    _native.module.attention(
        q.detach(), k.detach(), v.detach(), out, scale, causal, torch.get_num_threads()
    )
    return out


def _why_not_native(q, k, v, scale, causal) -> str:
    if any(t.dtype != torch.float32 for t in (q, k, v)):
        return f"needs float32, got {q.dtype}, {k.dtype}, {v.dtype}"
    if not (q.numel() and k.numel()):
        return "needs at least one query and one key"
    if any(t.stride(3) != 1 and t.shape[3] > 1 for t in (q, k, v)):
        return "needs the last dimension side by side in memory"
    return _native.why_not(q, k, v)


op.implement("native", _native_run, _why_not_native)


def _triton(q, k, v, scale, causal):
    return triton_kernels("attention").attend(q, k, v, scale)


def _why_not_triton(q, k, v, scale, causal) -> str:
    if why := not_on_gpu(q, k, v):
        return why
    half = (torch.float16, torch.bfloat16)
    if len({t.dtype for t in (q, k, v)}) > 1 or (q.dtype not in half and not INTERPRETED):
        return f"needs float16 or bfloat16, got {q.dtype}, {k.dtype}, {v.dtype}"
    return triton_kernels("attention").why_not(q, k, v, causal)


op.implement("triton", _triton, _why_not_triton)
