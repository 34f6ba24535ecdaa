"""A graph as a list of steps in order, with what is constant worked out before the first run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from accel.nn.onnx import convolve, indexing, resize, shapes  # noqa: F401  they register operators
from accel.nn.onnx.ops import OPS, Attributes, Unsupported

KEPT_INPUT = 1 << 16  # values of an input that are kept to see whether it changed


@dataclass(eq=False)  # equal nodes are still two
class Step:
    """One node: `inputs` and `outputs` are names of values, "" for one left out."""

    kind: str
    attributes: Attributes
    inputs: list[str]
    outputs: list[str]
    name: str = ""
    frees: list[str] = field(default_factory=list)  # values that nobody reads after this step
    kept: bool = False  # its results stay until the small inputs they come from change

    def run(self, values: dict[str, Tensor]) -> None:
        given = [values[name] if name else None for name in self.inputs]
        for name, value in zip(self.outputs, self.results(given)):
            values[name] = value
        for name in self.frees:
            del values[name]

    def results(self, given: Sequence[Any]) -> tuple[Tensor, ...]:
        """What the operator makes of its inputs."""
        result = OPS[self.kind](self.attributes, *given)
        results: tuple[Tensor, ...] = result if isinstance(result, tuple) else (result,)
        if any(self.outputs[len(results) :]):
            raise Unsupported(f"{self.kind} with {len(self.outputs)} outputs")
        return results


class Plan:
    """Runs a graph.

    Values that depend on no input are computed once; those that depend on small inputs alone (the
    identity of a face swapper) are computed again only when these change.

    One run at a time: the caller holds a lock.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        constants: Mapping[str, Tensor],
        inputs: Sequence[str],
        outputs: Sequence[str],
        small: Sequence[str] = (),  # inputs whose values may be kept from run to run
    ):
        self.inputs, self.outputs, self.small = list(inputs), list(outputs), list(small)
        for step in steps:
            if step.kind not in OPS:
                raise Unsupported(f"operator {step.kind}")
        self.constants = dict(constants)
        self.steps = self._folded(steps)
        self._mark_kept()
        self._mark_frees()
        self._last: dict[str, Tensor] = {}  # small inputs of the last run
        self._held: dict[str, Tensor] = {}  # what was computed from them

    def run(self, feeds: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the outputs, in the graph's order."""
        fresh = not self._same(feeds)
        values = {**self.constants, **feeds, **({} if fresh else self._held)}
        with torch.no_grad():
            for step in self.steps:
                if fresh or not step.kept:
                    step.run(values)
        if fresh and self.small:
            self._last = {name: feeds[name].clone() for name in self.small}
            names = [o for s in self.steps if s.kept for o in s.outputs if o in values]
            self._held = {name: values[name] for name in names}
        return [values[name] for name in self.outputs]

    def held(self) -> list[Tensor]:
        """What stays after a run."""
        return [*self.constants.values(), *self._held.values()]

    def _same(self, feeds: Mapping[str, Tensor]) -> bool:
        return bool(self._last) and all(torch.equal(feeds[n], t) for n, t in self._last.items())

    def _folded(self, steps: Sequence[Step]) -> list[Step]:
        left = fold(steps, self.constants)
        used = {name for s in left for name in s.inputs} | set(self.outputs)
        self.constants = {n: t for n, t in self.constants.items() if n in used}
        return left

    def _mark_kept(self) -> None:
        slow = set(self.inputs) - set(self.small)
        for step in self.steps:
            if any(name in slow for name in step.inputs):
                slow.update(step.outputs)
            else:
                step.kept = True

    def _mark_frees(self) -> None:
        """Give memory back as soon as a value was read for the last time."""
        stays = set(self.outputs) | set(self.constants) | set(self.inputs)
        stays |= {o for step in self.steps if step.kept for o in step.outputs}
        seen: set[str] = set()
        for step in reversed(self.steps):
            names = {n for n in [*step.inputs, *step.outputs] if n}
            step.frees = sorted(names - seen - stays)
            seen |= names


def fold(steps: Sequence[Step], constants: dict[str, Tensor]) -> list[Step]:
    """Run what needs constants alone, and add its results to them; return the rest."""
    left = []
    for step in steps:
        if all(not name or name in constants for name in step.inputs):
            if step.kind not in OPS:
                raise Unsupported(f"operator {step.kind}")
            with torch.no_grad():
                step.run(constants)
        else:
            left.append(step)
    return left


def readers(steps: Sequence[Step], outputs: Sequence[str]) -> Counter[str]:
    """How many steps, and the graph itself, read each value."""
    found = Counter(name for step in steps for name in step.inputs)
    found.update(outputs)
    return found


def attributes_of(node: Any, opset: int, tensor: Any) -> Attributes:
    """An ONNX node's attributes as Python values; `tensor` turns a TensorProto into a Tensor."""
    found: Attributes = {"opset": opset, "outputs": len(node.output)}
    for attribute in node.attribute:
        kind = attribute.type
        if kind == 1:
            found[attribute.name] = attribute.f
        elif kind == 2:
            found[attribute.name] = attribute.i
        elif kind == 3:
            found[attribute.name] = attribute.s.decode("utf-8", "replace")
        elif kind == 4:
            found[attribute.name] = tensor(attribute.t)
        elif kind == 6:
            found[attribute.name] = list(attribute.floats)
        elif kind == 7:
            found[attribute.name] = list(attribute.ints)
        else:
            raise Unsupported(f"attribute {attribute.name} of {node.op_type}")
    return found
