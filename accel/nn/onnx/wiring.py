"""Who makes and who reads each value of a graph: what rewrites look for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from accel.nn.onnx.plan import Step, readers

Constants = dict[str, Tensor]


class Wiring:
    """Who makes and who reads each value."""

    def __init__(self, steps: Sequence[Step], outputs: Sequence[str]):
        self.count = readers(steps, outputs)
        self.made = {name: step for step in steps for name in step.outputs}
        self.read: dict[str, list[Step]] = {}
        for step in steps:
            for name in step.inputs:
                self.read.setdefault(name, []).append(step)

    def only_reader(self, name: str, kind: str = "") -> Step | None:
        """The one step that reads a value, of a kind if one is asked for."""
        found = self.read.get(name, [])
        if self.count[name] != 1 or len(found) != 1 or (kind and found[0].kind != kind):
            return None
        return found[0]

    def maker(self, name: str, kind: str) -> Step | None:
        """The step of that kind that makes a value which one step alone reads."""
        step = self.made.get(name)
        return step if step is not None and step.kind == kind and self.count[name] == 1 else None


def other(step: Step, name: str) -> str:
    """The other one of two inputs."""
    return step.inputs[1] if step.inputs[0] == name else step.inputs[0]


def scalar(constants: Mapping[str, Tensor], name: str) -> float | None:
    """A constant's one number."""
    value = constants.get(name)
    return float(value) if value is not None and value.numel() == 1 else None


def replaced(steps: Sequence[Step], parts: Sequence[Step], by: Step) -> list[Step]:
    """`by` where the last of the `parts` stood, and none of them."""
    gone = {id(part) for part in parts}
    last = max(i for i, step in enumerate(steps) if id(step) in gone)
    return [
        by if i == last else step
        for i, step in enumerate(steps)
        if i == last or id(step) not in gone
    ]
