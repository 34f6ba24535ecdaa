"""The compiled module, or the reason why it could not be loaded."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch
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


def limit_threads(count: int) -> None:
    """Limit how many threads the kernels (and torch) use when called from *this* thread.

    In a pipeline whose stages run side by side, a kernel that forks for every small picture spends
    more time waiting for its threads than working.
    """
    torch.get_num_threads()  # torch sets its own number the first time a thread asks
    if module is not None:
        module.limit_threads(count)
