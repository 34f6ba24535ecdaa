"""From a graph's steps, for inputs of known shapes, to the nodes of a native program.

A step whose kernel can take more with it (bias, residual, activation; a depthwise convolution in
front of a 1x1 one; a padding of channels before an addition) is held back as Pending until somebody
needs its result: whoever comes next may be taken in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from accel.nn.onnx.arena import Buffer, Node, Place, touched
from accel.nn.onnx.ops import OPS, Unsupported
from accel.nn.onnx.pack import Packed
from accel.nn.onnx.plan import Step, readers

MOST_FLOATS = 1 << 30  # of one value


class NotNative(RuntimeError):
    """A graph, or a step of it, that the native program cannot take."""


@dataclass(eq=False)
class Boxed:
    """A value that is not float32: it is kept as a tensor, by name."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(eq=False)
class Turned:
    """A value that lies turned, or cut, in another's memory; copied where somebody needs it so."""

    base: Place
    shape: tuple[int, ...]
    steps: list[int]
    at: int = 0  # from where base begins


@dataclass(eq=False)
class Ending:
    bias: Tensor | None = None
    slope: Tensor | None = None
    residual: Place | None = None
    activation: int = 0
    alpha: float = 0.0
    beta: float = 0.0


@dataclass(eq=False)
class Pending:
    """A result that is not yet computed; `emit` appends the node that does it."""

    y: Place
    emit: Callable[[Pending], None]
    stays: bool
    ending: Ending | None = field(default_factory=Ending)  # None: nothing can be taken in
    depthwise: dict[str, Any] | None = None  # of a depthwise convolution
    narrow: Place | None = None  # of a padding of channels with zeros: what was padded


Value = Place | Pending | Turned | Boxed | Tensor  # a Tensor is a constant


class Lowering:
    """Builds the nodes; RULES (rules.py) know the operators."""

    def __init__(
        self,
        steps: Sequence[Step],
        constants: Mapping[str, Tensor],
        feeds: Mapping[str, Tensor],
        outputs: Sequence[str],
        packed: Packed,
        rules: Mapping[str, Callable[[Lowering, Step], None]],
    ):
        self.packed = packed
        self.nodes: list[Node] = []
        self.values: dict[str, Value] = dict(constants)
        self.held: dict[int, Place] = {}  # constants as places, by the id of their tensor
        self.arrays: dict[Buffer, Tensor] = {}  # of held places
        self.inputs: dict[str, Place] = {}
        self.stays = False
        self._given_out: list[Buffer] = []
        # Who asks for a shape needs no values.
        self._count = readers([step for step in steps if step.kind != "Shape"], outputs)
        for name, tensor in feeds.items():
            if tensor.dtype == torch.float32:
                place = Place(Buffer(tensor.numel()), tuple(tensor.shape))
                self.inputs[name] = self.values[name] = place
            else:
                self.values[name] = Boxed(name, tuple(tensor.shape), tensor.dtype)
        for step in steps:
            self.stays = step.kept
            self._lower(step, rules)
        self.stays = False
        self.outputs = [self._output(name) for name in outputs]

    def _lower(self, step: Step, rules: Mapping[str, Callable[[Lowering, Step], None]]) -> None:
        given = [self.values[name] if name else None for name in step.inputs]
        if step.kind == "Shape" and given[0] is not None:
            step = Step("Shape", step.attributes, ["shaped"], step.outputs)
            shaped = {"shaped": torch.empty(self.shape(given[0]), device="meta")}
            step.run(shaped)
            self.values[step.outputs[0]] = shaped[step.outputs[0]]
            return
        if all(value is None or isinstance(value, Tensor) for value in given):
            self.values |= dict(zip(step.outputs, step.results(given)))
            return
        rule = rules.get(step.kind)
        if rule is not None:
            try:
                rule(self, step)
                return
            except NotNative:
                pass  # rules say so before they change anything
        self._by_torch(step)

    # --- values ---------------------------------------------------------------------------------

    def shape(self, value: Value) -> tuple[int, ...]:
        if isinstance(value, Pending):
            return value.y.shape
        return tuple(value.shape)

    def value(self, name: str) -> Value:
        return self.values[name]

    def constant(self, name: str) -> Tensor:
        value = self.values[name]
        if not isinstance(value, Tensor):
            raise NotNative("needs a constant")
        return value

    def optional_constant(self, step: Step, index: int) -> Tensor | None:
        if len(step.inputs) <= index or not step.inputs[index]:
            return None
        return self.constant(step.inputs[index])

    def place(self, name: str) -> Place:
        """Where a value lies; what was held back is computed."""
        value = self.values[name]
        if isinstance(value, Pending):
            held_back, value = value, self.finish(value)
            for key in [k for k, v in self.values.items() if v is held_back]:
                self.values[key] = value
        if isinstance(value, Turned):
            value = self.values[name] = self.straight(value)
        if isinstance(value, Tensor):
            if value.dtype != torch.float32:
                raise NotNative("needs float32")
            return self.hold(value)
        if isinstance(value, Boxed):
            raise NotNative("needs float32")
        return value

    def straight(self, value: Turned, shape: Sequence[int] | None = None) -> Place:
        """A copy of a turned value, or of what it becomes by a change of shape.

        Pictures whose channels lie closest together become pictures, channels last.
        """
        made = value.shape if shape is None else tuple(shape)
        y_steps, last = plain_steps(value.shape), False
        if len(made) == 4 and min(made) > 0:
            steps = viewed(made, _last_steps(made), value.shape)
            if steps and made[-2:] == value.shape[-2:] and value.steps[-1] != 1:
                y_steps, last = steps, True
        y = self.new(made, last)
        self.copy(value.base, y, value.steps, y_steps, value.shape, x_at=value.at)
        return y

    def turned(self, name: str) -> Turned:
        """A value as it lies."""
        value = self.values[name]
        if isinstance(value, Turned):
            return value
        place = self.place(name)
        return Turned(place, place.shape, place.steps())

    def finish(self, pending: Pending) -> Place:
        now, self.stays = self.stays, pending.stays
        pending.emit(pending)
        self.stays = now
        return pending.y

    def hold(self, tensor: Tensor) -> Place:
        if id(tensor) not in self.held:
            tensor = tensor.contiguous()
            place = Place(Buffer(tensor.numel()), tuple(tensor.shape))
            self.arrays[place.buffer] = tensor
            self.held[id(tensor)] = place
        return self.held[id(tensor)]

    def new(self, shape: Sequence[int], last: bool) -> Place:
        floats = math.prod(shape)
        if floats > MOST_FLOATS:
            raise NotNative("too large")
        return Place(Buffer(floats, stays=self.stays), tuple(shape), last)

    def pending(self, name: str, taking: bool = True) -> Pending | None:
        """The result `name` if it is held back and only one reader wants it."""
        value = self.values[name]
        if not isinstance(value, Pending) or self._count[name] != 1 or value.stays != self.stays:
            return None
        return value if not taking or value.ending is not None else None

    # --- layouts --------------------------------------------------------------------------------

    def last(self, name: str) -> Place:
        """A value of rank 4, its channels last; turned where it does not lie so."""
        place = self.place(name)
        if place.last:
            return place
        if len(place.shape) != 4:
            raise NotNative("needs four dimensions")
        if place.shape[1] == 1 or place.shape[2] * place.shape[3] == 1:
            return place.alias(place.shape, last=True, step=place.shape[1])
        turned = self.new(place.shape, True)
        self.copy(place, turned, place.steps(), turned.steps(), place.shape)
        if not isinstance(self.values[name], Tensor):
            self.values[name] = turned
        return turned

    def plain(self, place: Place) -> Place:
        """The value as its shape says."""
        if not place.last:
            return place
        if place.is_plain:
            return place.alias(place.shape, last=False, step=0)
        turned = self.new(place.shape, False)
        self.copy(place, turned, place.steps(), turned.steps(), place.shape)
        return turned

    def dense(self, place: Place) -> Place:
        """The value with nothing between its pixels, its channels last."""
        if place.dense:
            return place
        packed = self.new(place.shape, True)
        self.copy(place, packed, place.steps(), packed.steps(), place.shape)
        return packed

    def copy(
        self,
        x: Place,
        y: Place,
        x_steps: Sequence[int],
        y_steps: Sequence[int],
        sizes: Sequence[int],
        x_at: int = 0,
        y_at: int = 0,
    ) -> None:
        """Copy a block; the dimension whose numbers lie side by side comes last."""
        order = sorted(range(len(sizes)), key=lambda i: (-y_steps[i], -x_steps[i]))
        order = [i for i in order if sizes[i] != 1] or order[:1]
        beside = [i for i in order[:-2] if x_steps[i] == 1]
        if beside and x_steps[order[-1]] != 1:  # rows become columns: both of them last
            order.remove(beside[0])
            order.insert(-1, beside[0])
        joined = _joined(order, sizes, x_steps, y_steps)
        arguments = {
            "x_steps": [x_step for _, x_step, _ in joined],
            "y_steps": [y_step for _, _, y_step in joined],
            "sizes": [size for size, _, _ in joined],
            "x_at": x_at,
            "y_at": y_at,
        }
        if len(joined) > 6 or not joined:
            raise NotNative("too many dimensions")
        self.add(Node("copy", [x], [y], {"x": x, "y": y, **arguments}))

    def add(self, node: Node) -> None:
        node.stays = self.stays
        self.nodes.append(node)

    # --- the end --------------------------------------------------------------------------------

    def _output(self, name: str) -> Place | Boxed | Tensor:
        value = self.values[name]
        if isinstance(value, Boxed | Tensor):
            return value
        place = self.plain(self.place(name))
        own = place.buffer
        made_here = any(own is p.buffer for node in self.nodes for p in node.writes)
        if not made_here or not place.whole or own.stays or own in self._given_out:
            copied = self.new(place.shape, False)
            flat = [place.floats]
            self.copy(place, copied, [1], [1], flat)
            place = copied
        self._given_out.append(place.buffer)
        return place

    # --- operators without a kernel -------------------------------------------------------------

    def _by_torch(self, step: Step) -> None:
        """Let torch compute a step between two stretches of the program."""
        values = [self.values[name] if name else None for name in step.inputs]
        if step.kind in SHAPED and not all(v is None or isinstance(v, Tensor) for v in values[1:]):
            raise NotNative(f"{step.kind} whose shape hangs on values")
        given: list[Place | Boxed | Tensor | None] = []
        for name, value in zip(step.inputs, values):
            if value is None or isinstance(value, Tensor | Boxed):
                given.append(value)
            else:
                given.append(self.place(name))
        tried = [
            torch.zeros(v.shape, dtype=v.dtype if isinstance(v, Boxed) else torch.float32)
            if isinstance(v, Place | Boxed)
            else v
            for v in given
        ]
        made: list[Place | Boxed] = []
        for name, result in zip(step.outputs, step.results(tried)):
            if result.dtype == torch.float32:
                made.append(self.new(tuple(result.shape), result.ndim == 4))
            else:
                made.append(Boxed(name, tuple(result.shape), result.dtype))
        self.values |= dict(zip(step.outputs, made))
        places = touched(v if isinstance(v, Place) else None for v in given)
        written = touched(v if isinstance(v, Place) else None for v in made)
        run = OPS[step.kind]

        def call(view: Callable[[Place], Tensor], boxes: dict[str, Tensor], threads: int) -> None:
            arguments = [
                view(v) if isinstance(v, Place) else boxes[v.name] if isinstance(v, Boxed) else v
                for v in given
            ]
            found = run(step.attributes, *arguments)
            for target, value in zip(made, found if isinstance(found, tuple) else (found,)):
                if isinstance(target, Place):
                    view(target).copy_(value)
                else:
                    boxes[target.name] = value

        self.add(Node("python", places, written, python=call))


def _joined(
    order: Sequence[int], sizes: Sequence[int], x_steps: Sequence[int], y_steps: Sequence[int]
) -> list[tuple[int, int, int]]:
    """Sizes and steps of dimensions in that order; those that follow one another are made one."""
    made: list[tuple[int, int, int]] = []
    for i in order:
        if made and made[-1][1] == sizes[i] * x_steps[i] and made[-1][2] == sizes[i] * y_steps[i]:
            made[-1] = (made[-1][0] * sizes[i], x_steps[i], y_steps[i])
        else:
            made.append((sizes[i], x_steps[i], y_steps[i]))
    return made


def plain_steps(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def _last_steps(shape: Sequence[int]) -> list[int]:
    """Of a picture, channels last."""
    _, c, h, w = shape
    return [c * h * w, 1, w * c, c]


def viewed(shape: Sequence[int], steps: Sequence[int], wanted: Sequence[int]) -> list[int] | None:
    """The steps by which memory reads as another shape; None where it has to be copied."""
    try:
        seen = torch.empty_strided(shape, steps, device="meta").view(*wanted)
    except RuntimeError:
        return None
    return list(seen.stride())


# The shape of their results is said by an input's values.
SHAPED = {
    "Reshape", "Expand", "Tile", "Range", "ConstantOfShape", "Slice", "Pad", "Resize", "Upsample",
    "Split", "TopK", "Unsqueeze", "Squeeze", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin",
    "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp",
    "OneHot",
}  # fmt: skip

__all__ = [
    "Boxed", "Ending", "Lowering", "NotNative", "Pending", "Turned", "Unsupported", "plain_steps",
    "viewed",
]  # fmt: skip
