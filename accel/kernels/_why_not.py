"""Reasons that implementations of many operators give for not taking some tensors; "" if they do.

See `_op.Implementation`.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from torch import Tensor

from accel.kernels._op import INTERPRETED

NUMBA = importlib.util.find_spec("numba") is not None


def refuse_others(who: str, **given: Any) -> None:
    """Raise TypeError unless all of `given` are tensors: their shapes are asked for first."""
    for name, one in given.items():
        if type(one) is not Tensor and not isinstance(one, Tensor):  # the first is quick
            raise TypeError(f"{who}: {name} must be Tensor, got {type(one).__name__}")


def not_on_cpu(*tensors: Tensor) -> str:
    """What runs on the host reads its memory alone."""
    return "" if all(t.is_cpu for t in tensors) else f"needs CPU tensors, got {_devices(tensors)}"


def not_on_gpu(*tensors: Tensor) -> str:
    """Triton's kernels run on GPUs; in its interpreter they read the host's memory as well."""
    if INTERPRETED or all(t.is_cuda for t in tensors):
        return ""
    return f"needs CUDA tensors, got {_devices(tensors)}"


def without_numba(*tensors: Tensor) -> str:
    """What numba compiles needs numba, and runs on the host."""
    return not_on_cpu(*tensors) if NUMBA else "numba is not installed"


def not_contiguous(*tensors: Tensor) -> str:
    """Most kernels count on values side by side in memory, in the order of the dimensions."""
    return "" if all(t.is_contiguous() for t in tensors) else "needs contiguous tensors"


def _devices(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(sorted({str(t.device) for t in tensors}))
