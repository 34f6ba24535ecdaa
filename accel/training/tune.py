"""What makes the plain steps of a training faster on a CPU."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# glibc's malloc.h. Beyond these sizes memory goes back to the system after each step, and every
# page of it is cleared and mapped anew in the next: that takes longer than the arithmetic on it.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
TRIM_BYTES, MMAP_BYTES = 1 << 30, 32 << 20


@contextmanager
def tuned(device: torch.device) -> Iterator[None]:
    """Denormal numbers count as zero, and freed memory is kept for the next step, while inside.

    Where the C library is not glibc, memory is left to it.
    """
    if device.type != "cpu":
        yield
        return
    torch.set_flush_denormal(True)
    kept = _keep_memory(TRIM_BYTES, MMAP_BYTES)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        if kept:
            _keep_memory(128 << 10, 128 << 10)


def _keep_memory(trim: int, mmap: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl and others have none
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, mmap)) and bool(mallopt(M_TRIM_THRESHOLD, trim))
