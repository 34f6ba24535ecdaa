"""Products with a constant matrix, and the vectors that follow them: one step each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from accel.kernels.conv2d import wide
from accel.nn.onnx.ops import Attributes, op
from accel.nn.onnx.plan import Step
from accel.nn.onnx.wiring import Constants, Wiring, other

VECTORS = ("Add", "Sub", "Mul", "Div")


@op("accel.linear")
def linear(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    out: Tensor = x @ wide(weight, x)
    return out if bias is None else out + bias


def linears(steps: Sequence[Step], constants: Constants, outputs: Sequence[str]) -> list[Step]:
    """Take what is added to a product, and what it is multiplied by, into its bias and weights.

    A batch norm of its rows too, across the change of shape that brought it there.
    """
    graph, gone = Wiring(steps, outputs), set()
    for product in [s for s in steps if s.kind == "MatMul"]:
        weight = constants.get(product.inputs[1])
        if weight is None or weight.ndim != 2 or weight.dtype != torch.float32:
            continue
        chain = _Chain(product, weight, graph, constants, outputs)
        chain.take()
        gone |= {id(step) for step in chain.taken}
    return [step for step in steps if id(step) not in gone]


class _Chain:
    """A product, and the steps behind it that it takes in, one after the other."""

    def __init__(
        self,
        product: Step,
        weight: Tensor,  # [K, O]
        graph: Wiring,
        constants: Constants,
        outputs: Sequence[str],
    ):
        self.product, self.graph, self.constants, self.outputs = product, graph, constants, outputs
        self.weight, self.bias = weight.double(), torch.zeros(weight.shape[1], dtype=torch.double)
        self.scaled = False  # the weights are others than those given
        self.taken: list[Step] = []

    def take(self) -> None:
        while self._vector() or self._norm():
            pass
        if not self.taken:
            return
        product, name = self.product, f"{self.product.outputs[0]}/linear"
        if self.scaled:
            self.constants[f"{name}/weight"] = self.weight.float()
            product.inputs[1] = f"{name}/weight"
        self.constants[f"{name}/bias"] = self.bias.float()
        product.inputs = [*product.inputs, f"{name}/bias"]
        product.kind = "accel.linear"

    def _vector(self) -> bool:
        """What is added, or what all is multiplied by."""
        made = self.product.outputs[0]
        step = self._only_reader(made)
        if step is None or step.kind not in VECTORS:
            return False
        value = self.constants.get(other(step, made))
        if value is None or value.ndim > 1 or value.numel() not in (1, len(self.bias)):
            return False
        turned = step.kind in ("Sub", "Div") and step.inputs[0] != made
        if value.dtype != torch.float32 or turned:
            return False
        vector = value.double().reshape(-1)
        if step.kind in ("Add", "Sub"):
            self.bias = self.bias + (vector if step.kind == "Add" else -vector)
        else:
            self._scale(vector if step.kind == "Mul" else 1 / vector)
        self._take(step, self.product)
        return True

    def _norm(self) -> bool:
        """A batch norm of [rows, O], behind what made rows of the result."""
        rows = self._only_reader(self.product.outputs[0])
        if rows is None or not self._gives_rows(rows):
            return False
        norm = self._only_reader(rows.outputs[0])
        if norm is None or norm.kind != "BatchNormalization" or len(norm.outputs) > 1:
            return False
        vectors = [self.constants.get(name) for name in norm.inputs[1:5]]
        if any(v is None or v.shape != self.bias.shape for v in vectors):
            return False
        a = norm.attributes
        if a.get("training_mode", 0) or not a.get("spatial", 1):
            return False
        scale, shift, mean, variance = (v.double() for v in vectors if v is not None)
        factor = scale / (variance + a.get("epsilon", 1e-5)).sqrt()
        self._scale(factor)
        self.bias = self.bias + shift - mean * factor
        self._take(norm, rows)
        return True

    def _gives_rows(self, step: Step) -> bool:
        """Whether a step leaves [..., O] as [rows, O]: where a norm of O channels follows, it does
        if there are two dimensions."""
        if step.kind == "Flatten":
            return True
        shape = self.constants.get(step.inputs[1]) if step.kind == "Reshape" else None
        return shape is not None and shape.numel() == 2 and int(shape[1]) == len(self.bias)

    def _only_reader(self, name: str) -> Step | None:
        """The one step that reads the values; others may ask for their shape, which stays."""
        readers = [step for step in self.graph.read.get(name, []) if step.kind != "Shape"]
        if name in self.outputs or len(readers) != 1 or readers[0].inputs.count(name) != 1:
            return None
        return readers[0]

    def _take(self, step: Step, before: Step) -> None:
        """Let `before` stand for the step behind it as well."""
        old, new = before.outputs[0], step.outputs[0]
        for reader in self.graph.read.get(old, []):
            if reader.kind == "Shape":
                reader.inputs = [new if name == old else name for name in reader.inputs]
        before.outputs = step.outputs
        self.taken.append(step)

    def _scale(self, by: Tensor) -> None:
        self.weight, self.bias, self.scaled = self.weight * by, self.bias * by, True
