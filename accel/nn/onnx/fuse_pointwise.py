"""Activations that were written out by simpler operators, found and made one step each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from accel.nn.onnx.ops import Attributes, op
from accel.nn.onnx.plan import Step
from accel.nn.onnx.wiring import Constants, Wiring, other, replaced, scalar


def _is(constants: Constants, name: str, value: float) -> bool:
    found = scalar(constants, name)
    return found is not None and math.isclose(found, value, rel_tol=1e-5)


def gelus(steps: Sequence[Step], constants: Constants, outputs: Sequence[str]) -> list[Step]:
    """x / 2 * (1 + erf(x / sqrt 2)), its factors in any order."""
    graph, result = Wiring(steps, outputs), list(steps)
    for erf in [s for s in steps if s.kind == "Erf"]:
        inner = graph.made.get(erf.inputs[0])
        plus = graph.only_reader(erf.outputs[0], "Add")
        if inner is None or plus is None or not _is(constants, other(plus, erf.outputs[0]), 1):
            continue
        x = _over_root_of_two(inner, constants)
        if x is None or graph.count[erf.inputs[0]] != 1:
            continue
        rest = _halved(plus, x, graph, constants)
        if rest is not None:
            parts = [inner, erf, plus, *rest]
            result = replaced(result, parts, Step("Gelu", {}, [x], rest[-1].outputs))
    return result


def _over_root_of_two(step: Step, constants: Constants) -> str | None:
    if step.kind == "Div" and _is(constants, step.inputs[1], math.sqrt(2)):
        return step.inputs[0]
    for i in (0, 1) if step.kind == "Mul" else ():
        if _is(constants, step.inputs[1 - i], math.sqrt(0.5)):
            return step.inputs[i]
    return None


def _halved(plus: Step, x: str, graph: Wiring, constants: Constants) -> list[Step] | None:
    """The products of `plus`, x and 1/2; None where they are others."""
    first = graph.only_reader(plus.outputs[0], "Mul")
    if first is None:
        return None
    with_it = other(first, plus.outputs[0])
    half = graph.maker(with_it, "Mul")
    if half is not None and x in half.inputs and _is(constants, other(half, x), 0.5):
        return [half, first]
    second = graph.only_reader(first.outputs[0], "Mul")
    if second is None:
        return None
    last = other(second, first.outputs[0])
    if (with_it == x and _is(constants, last, 0.5)) or (last == x and _is(constants, with_it, 0.5)):
        return [first, second]
    return None


@op("accel.swish")
def swish(a: Attributes, x: Tensor) -> Tensor:
    return x * torch.sigmoid(x * a["alpha"])


def gates(steps: Sequence[Step], constants: Constants, outputs: Sequence[str]) -> list[Step]:
    """x * sigmoid(alpha x), and hard swish by its hard sigmoid."""
    graph, result = Wiring(steps, outputs), list(steps)
    for gate in [s for s in steps if s.kind in ("Sigmoid", "HardSigmoid")]:
        product = graph.only_reader(gate.outputs[0], "Mul")
        if product is None:
            continue
        x, parts = other(product, gate.outputs[0]), [gate, product]
        if gate.kind == "HardSigmoid":
            a = gate.attributes
            is_swish = math.isclose(a.get("alpha", 0.2), 1 / 6, rel_tol=1e-5)
            if gate.inputs == [x] and is_swish and a.get("beta", 0.5) == 0.5:
                fused = Step("HardSwish", {}, [x], product.outputs)
                result = replaced(result, parts, fused)
            continue
        alpha: float | None = 1.0
        if gate.inputs != [x]:
            scaled = graph.maker(gate.inputs[0], "Mul")
            if scaled is None or x not in scaled.inputs:
                continue
            alpha = scalar(constants, other(scaled, x))
            parts.insert(0, scaled)
        if alpha is not None:
            fused = Step("accel.swish", {"alpha": alpha}, [x], product.outputs)
            result = replaced(result, parts, fused)
    return result
