"""The table of rules, and the numbers by which csrc/graph.h knows kinds of work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accel.nn.onnx.arena import Place, touched
from accel.nn.onnx.lower import Ending, Lowering
from accel.nn.onnx.plan import Step

RULES: dict[str, Callable[[Lowering, Step], None]] = {}

NONE, RELU, LEAKY, PRELU, CLIP, HARD_SWISH, HARD_SIGMOID, SIGMOID, TANH, SILU = range(10)
DIRECT, GATHERED, DEPTHWISE = range(3)
ADD, SUBTRACT, MULTIPLY, DIVIDE, SUBTRACT_FROM, DIVIDE_INTO, KEEP = range(7)


def rule(*kinds: str) -> Callable[[Callable[[Lowering, Step], None]], Any]:
    def register(run: Callable[[Lowering, Step], None]) -> Any:
        for kind in kinds:
            RULES[kind] = run
        return run

    return register


def reads_of(ending: Ending | None) -> list[Place]:
    return touched([ending.residual]) if ending else []
