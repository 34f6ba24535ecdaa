"""The compiled module, or the reason why it could not be loaded."""

from __future__ import annotations

import importlib
from types import ModuleType

from torch import Tensor

module: ModuleType | None = None
reason = ""
try:
    module = importlib.import_module("accel._native")
except ImportError as error:
    reason = f"accel._native is not built ({error})"


def why_not(*tensors: Tensor) -> str:
    """Return "" when native code can take these tensors, else the reason."""
    if reason:
        return reason
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return f"needs CPU tensors, got {tensor.device}"
    return ""
