"""Weights that came from 16 bits, kept in 16 bits: our products widen them in cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from accel.nn.onnx.plan import Step
from accel.nn.onnx.wiring import Constants

READERS = ("Conv", "accel.conv", "MatMul", "Gemm", "accel.linear")  # of weights, their second input
LEAST = 1 << 16  # numbers worth the trouble
TRIED_FIRST = 4096


def narrow(steps: Sequence[Step], constants: Constants, outputs: Sequence[str]) -> None:
    """Put weights of products whose every number is a float16 into 16 bits; the rest stays."""
    weights, others = set(), set(outputs)
    for step in steps:
        taken = step.inputs[1] if step.kind in READERS and _takes(step, constants) else ""
        weights.add(taken)
        others.update(name for i, name in enumerate(step.inputs) if i != 1 or name != taken)
    for name in weights - others - {""}:
        half = _halved(constants[name])
        if half is not None:
            constants[name] = half


def _takes(step: Step, constants: Constants) -> bool:
    weight = constants.get(step.inputs[1])
    if weight is None or weight.dtype != torch.float32 or weight.numel() < LEAST:
        return False
    if step.kind in ("Conv", "accel.conv"):
        return weight.ndim == 4 and step.attributes.get("group", 1) == 1
    return weight.ndim == 2


def _halved(weight: Tensor) -> Tensor | None:
    """The same numbers in 16 bits; None where some are others there."""
    some = weight.reshape(-1)[:TRIED_FIRST]
    if not torch.equal(some.half().float(), some):
        return None
    half = weight.half()
    return half if torch.equal(half.float(), weight) else None
