"""Run the kernel tests on a real GPU: their CPU tensors go there and come back.

With ACCEL_TEST_GPU=1 and a CUDA device, tests/conftest.py hands every operator to `send`: whatever
a test compares with the reference has then been computed by the compiled kernel, not by Triton's
interpreter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from accel.kernels._op import Implementation, Op


def moved(value: Any, device: str) -> Any:
    """A copy of an argument on the device; lists and tuples of tensors too."""
    if torch.is_tensor(value):
        return value.to(device, copy=True)
    if isinstance(value, list | tuple):
        return type(value)(moved(v, device) for v in value)
    return value


def _bring_back(given: Any, there: Any) -> None:
    """What the kernel wrote into its arguments."""
    if torch.is_tensor(given):
        given.copy_(there)
    elif isinstance(given, list | tuple):
        for one, other in zip(given, there):
            _bring_back(one, other)


def on_device(implementation: Implementation, writes: bool, device: str) -> Implementation:
    """The same implementation for CPU tensors, by way of `device`."""

    def run(*args: Any) -> Any:
        there = tuple(moved(a, device) for a in args)
        result = implementation.run(*there)
        if writes:
            _bring_back(args, there)
        return moved(result, "cpu")

    def why_not(*args: Any) -> str:
        return implementation.why_not(*(moved(a, device) for a in args))

    return Implementation(implementation.name, run, why_not)


def send(
    ops: Iterable[Op],
    device: str = "cuda",
    wanted: Callable[[str], bool] = lambda name: name == "triton",
) -> list[str]:
    """Send every wanted implementation of the operators to the device; return their names."""
    sent = []
    for op in ops:
        writes = "!" in str(getattr(torch.ops.accel, op.name).default._schema)
        for i, implementation in enumerate(op.implementations):
            if wanted(implementation.name):
                op.implementations[i] = on_device(implementation, writes, device)
                sent.append(f"{op.name}/{implementation.name}")
    return sent
