"""The compiled module, or the reason why it could not be loaded."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from accel.core import ConfigError
from accel.kernels._why_not import not_on_cpu


class OldModule(AttributeError, ConfigError):
    """The compiled module was built from other sources than the Python beside it."""


def _absent(name: str) -> Any:
    raise OldModule(
        f"accel._native must have {name}, was built from other sources: build it again"
        " (`make native`, or install accel again)"
    )


module: Any = None  # there whenever `why_not` lets a call through
reason = ""
try:
    module = importlib.import_module("accel._native")
    module.__getattr__ = _absent
except ImportError as error:
    reason = f"accel._native is not built ({error})"


def why_not(*tensors: Tensor) -> str:
    """Return "" when native code can take these tensors, else the reason."""
    return reason or not_on_cpu(*tensors)


def threads(parts: int) -> int:
    """How many threads share work of `parts` pieces, each of them worth waking a thread for."""
    return max(1, min(torch.get_num_threads(), parts))


def limit_threads(count: int) -> None:
    """Limit how many threads the kernels (and torch) use when called from *this* thread.

    In a pipeline whose stages run side by side, a kernel that forks for every small picture spends
    more time waiting for its threads than working.
    """
    torch.get_num_threads()  # torch sets its own number the first time a thread asks
    if module is not None:
        module.limit_threads(count)


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """The same inside a `with` block, for a thread that is not one's own."""
    before = torch.get_num_threads() if module is None else int(module.max_threads())
    limit_threads(count)
    try:
        yield
    finally:
        limit_threads(before)


KEPT_BYTES = 160 << 20  # a decoder of 512 pixels has results of 128 MiB
if module is not None:
    module.pool_limit(KEPT_BYTES)
POOLED_BYTES = 8 << 20  # the C library gives smaller memory again by itself


def empty(*shape: int) -> Tensor:
    """Return uninitialised float32 on the CPU; large ones from memory that was used before.

    The system hands out new pages empty, one by one: for a result of 40 MB that takes three times
    as long as writing it. What becomes free is kept for later results, 160 MiB at most (see
    `keep_memory`), and `release_memory` gives it back.
    """
    count = math.prod(shape)
    if module is None or count * 4 < POOLED_BYTES:
        return torch.empty(shape)
    pooled: Tensor = module.pooled(count)
    return pooled.view(shape)


def small(shape: Sequence[int], dtype: npt.DTypeLike) -> Tensor:
    """Return an uninitialised tensor on the CPU, for results that are made many times a frame.

    torch lets go of the interpreter's lock to make one; where other threads wait for it, getting it
    back takes longer than a small kernel.
    """
    return torch.from_numpy(np.empty(shape, dtype))


def empty_like(x: Tensor) -> Tensor:
    """Return `empty` with the shape and memory order of `x`, whose values lie side by side."""
    if module is None or x.numel() * 4 < POOLED_BYTES:
        return torch.empty_like(x)
    pooled: Tensor = module.pooled(x.numel())
    return pooled.as_strided(x.shape, x.stride())


def keep_memory(most_bytes: int) -> int:
    """Set how much free memory is kept for later results of all threads; returns the limit before.

    Raises ValueError for less than 0.
    """
    if most_bytes < 0:
        raise ValueError(f"keep_memory: most_bytes must be at least 0, got {most_bytes}")
    return 0 if module is None else int(module.pool_limit(most_bytes))


def release_memory() -> int:
    """Give memory that is kept for later results back to the system; returns how many bytes."""
    if module is None:
        return 0
    kept = int(module.pool_kept())
    module.pool_limit(module.pool_limit(0))
    return kept
