"""The compiled module, or the reason why it could not be loaded."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

module: ModuleType | None
try:
    from accel import _native as module

    reason = ""
except ImportError as error:
    module = None
    reason = f"accel._native is not built ({error})"


def why_not(*tensors: Tensor) -> str:
    """Return "" when native code can take these tensors, else the reason."""
    if reason:
        return reason
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return f"needs CPU tensors, got {tensor.device}"
    return ""
