"""The table of rules, and the numbers by which csrc/graph.h knows kinds of work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from accel.nn.onnx.arena import Place, touched
from accel.nn.onnx.lower import Ending, Lowering
from accel.nn.onnx.plan import Step

RULES: dict[str, Callable[[Lowering, Step], None]] = {}

NONE, RELU, LEAKY, PRELU, CLIP, HARD_SWISH, HARD_SIGMOID, SIGMOID, TANH, SWISH = range(10)
GELU, GELU_TANH, ELU, SOFTPLUS, MISH, SQRT, ABS, EXP, LOG, ERF, RECIPROCAL = range(10, 21)
DIRECT, GATHERED, DEPTHWISE = range(3)
ADD, SUBTRACT, MULTIPLY, DIVIDE, SUBTRACT_FROM, DIVIDE_INTO, KEEP, MAXIMUM, MINIMUM = range(9)
LINES = {
    "Softmax": 0, "LogSoftmax": 1, "ReduceSum": 2, "ReduceMean": 3, "ReduceMax": 4, "ReduceMin": 5,
    "ReduceSumSquare": 6, "ReduceL2": 7,
}  # fmt: skip


def rule(*kinds: str) -> Callable[[Callable[[Lowering, Step], None]], Any]:
    def register(run: Callable[[Lowering, Step], None]) -> Any:
        for kind in kinds:
            RULES[kind] = run
        return run

    return register


def window_of(
    kernel: Sequence[int],
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0),
    dilations: Sequence[int] = (1, 1),
) -> list[int]:
    return [*kernel, *strides, pads[0], pads[1], *dilations]


def reads_of(ending: Ending | None) -> list[Place]:
    return touched([ending.residual]) if ending else []
