"""Runs a graph by the native program: planned once for each size of the inputs, then one call.

What the program has no kernel for is computed by torch in between; a graph that cannot be planned
at all is run by Plan, operator by operator.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from accel.kernels import _native
from accel.kernels.conv2d import FLOPS_A_THREAD
from accel.nn.onnx.arena import Node, Place, lay_out
from accel.nn.onnx.lower import Boxed, Ending, Lowering, NotNative
from accel.nn.onnx.ops import MISFITS
from accel.nn.onnx.pack import Packed
from accel.nn.onnx.plan import Plan
from accel.nn.onnx.rules import RULES
from accel.nn.onnx.rules.register import DEPTHWISE

native: Any = _native.module
KEPT_PROGRAMS = 4  # sizes of inputs whose programs are kept
Feeds = Mapping[str, Tensor]


MOST_BY_TORCH = 0.1  # of the time
# Seconds, roughly: of an operator of torch, of a number read or written, of an operation.
STEP_OF_TORCH, MOVE, OPERATION = 2e-5, 0.5e-9, 1e-11


class Runner:
    """Runs a Plan, natively where that can be. One run at a time: the caller holds a lock.

    room: how many bytes a program may take for its values, by the sizes of inputs; without it any.
    """

    def __init__(
        self, plan: Plan, room: Callable[[Mapping[str, Sequence[int]]], int] | None = None
    ):
        self.plan, self._room = plan, room
        self._packed = Packed(native.simd_lanes()) if native is not None else None
        self._programs: OrderedDict[Any, Program | None] = OrderedDict()

    @property
    def inputs(self) -> list[str]:
        return self.plan.inputs

    @property
    def outputs(self) -> list[str]:
        return self.plan.outputs

    def run(self, feeds: Feeds, threads: int = 0) -> list[Tensor]:
        """Return the outputs, new tensors, in the graph's order. threads: 0, as torch has."""
        program = self.program(feeds)
        made = self.plan.run(feeds) if program is None else program.run(feeds, threads)
        kept = _memory([*feeds.values(), *self.plan.held(), *(program.held() if program else ())])
        for i, tensor in enumerate(made):  # in place: of large ones no two are there at a time
            if tensor.untyped_storage().data_ptr() in kept or not tensor.is_contiguous():
                made[i] = tensor.clone(memory_format=torch.contiguous_format)
            kept |= _memory([made[i]])
        return made

    def pays(self, feeds: Feeds | None) -> bool:
        """Whether inputs like these are run by a program that leaves little to torch."""
        program = None if feeds is None else self.program(feeds)
        return program is not None and program.share_of_torch < MOST_BY_TORCH

    def program(self, feeds: Feeds) -> Program | None:
        """What runs inputs of these sizes; None where only the plan can."""
        if self._packed is None:
            return None
        key = tuple((n, tuple(t.shape), t.dtype) for n, t in sorted(feeds.items()))
        if key not in self._programs:
            self._programs[key] = self._planned(feeds, self._packed)
            if len(self._programs) > KEPT_PROGRAMS:
                self._programs.popitem(last=False)
        self._programs.move_to_end(key)
        return self._programs[key]

    def _planned(self, feeds: Feeds, packed: Packed) -> Program | None:
        try:
            shapes = {name: tensor.shape for name, tensor in feeds.items()}
            room = None if self._room is None else self._room(shapes)
            return Program(self.plan, feeds, packed, room)
        except MISFITS:  # NotNative among them; or these sizes do not fit the graph
            return None


def _memory(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


class Program:
    """A graph for inputs of one size."""

    def __init__(self, plan: Plan, feeds: Feeds, packed: Packed, room: int | None = None):
        """Raises NotNative where its values together would take more than `room` bytes."""
        low = Lowering(plan.steps, plan.constants, feeds, plan.outputs, packed, RULES)
        self._small = [name for name in plan.small if name in feeds]
        self._inputs, self._outputs = low.inputs, low.outputs
        self.nodes = [n for n in low.nodes if n.stays] + [n for n in low.nodes if not n.stays]
        self._program = native.GraphProgram()
        self._tensors: dict[int, Tensor] = {}  # by slot, of what is held
        self._slots: dict[int, int] = {}  # by id of a held tensor
        for buffer, tensor in low.arrays.items():
            buffer.slot = self._hold(tensor)
        for place in low.inputs.values():
            place.buffer.slot = self._program.port(place.buffer.floats, False)
        self._made = [p for p in low.outputs if isinstance(p, Place)]
        for place in self._made:
            place.buffer.slot = self._program.port(place.buffer.floats, True)
        arena = len(self._tensors) + len(low.inputs) + len(self._made)
        floats = lay_out(self.nodes, arena)
        self.arena_floats = floats
        taken = 4 * (floats + sum(place.buffer.floats for place in self._made))
        if room is not None and taken > room:
            raise NotNative(f"its values take {taken} bytes, more than {room}")
        assert self._hold(torch.zeros(max(floats, 1))) == arena
        self._packed = packed
        self._build()
        self._last: dict[str, Tensor] = {}  # small inputs of the last run
        self._boxes: dict[str, Tensor] = {}  # what they gave that is not float32

    @property
    def operations(self) -> int:
        """Of the convolutions and products."""
        return sum(_operations(node) for node in self.nodes)

    @property
    def share_of_torch(self) -> float:
        """Roughly, the share of the time that goes to operators without a kernel."""
        by_torch = ours = 0.0
        for node in self.nodes:
            floats = sum(p.floats for p in {id(p): p for p in (*node.reads, *node.writes)}.values())
            if node.kind == "python":
                by_torch += STEP_OF_TORCH + floats * MOVE
            else:
                ours += max(floats * MOVE, _operations(node) * OPERATION)
        return by_torch / (by_torch + ours) if by_torch else 0.0

    # --- building -------------------------------------------------------------------------------

    def _hold(self, tensor: Tensor) -> int:
        if id(tensor) not in self._slots:
            slot = self._program.hold(tensor)
            self._slots[id(tensor)] = slot
            self._tensors[slot] = tensor
        return self._slots[id(tensor)]

    def _build(self) -> None:
        """Stretches of native steps, and calls of torch between them."""
        self._work: list[tuple[int, int] | Callable[..., None]] = []
        self._first = 0  # where the work begins that is done in every run
        began = 0

        def close() -> None:
            nonlocal began
            if len(self._program) > began:
                self._work.append((began, len(self._program)))
            began = len(self._program)

        stays = True
        for node in self.nodes:
            if stays and not node.stays:
                close()
                self._first, stays = len(self._work), False
            if node.python is not None or node.kind == "conv2d":
                close()
                self._work.append(node.python or self._conv2d(node))
            else:
                self._add(node)
        close()
        if stays:
            self._first = len(self._work)

    def _conv2d(self, node: Node) -> Callable[..., None]:
        """A call of the convolution for larger work, whose operands lie where they lie."""
        a = node.arguments
        x, y, residual = a["x"], a["y"], a["residual"]
        weight, bias = a["weight"], a["bias"]
        flops = 2 * y.floats * math.prod(weight.shape[1:])
        most = max(1, int(flops / FLOPS_A_THREAD))
        bias = None if bias is None else bias.contiguous()
        computed = isinstance(weight, Place)
        packed = None if computed else self._packed.convolution(weight, a["stride"])
        fixed: list[Tensor | None] = []

        def call(view: Callable[[Place], Tensor], boxes: dict[str, Tensor], threads: int) -> None:
            pictures = fixed or [
                None if p is None else view(p).permute(0, 2, 3, 1) for p in (x, residual, y)
            ]
            if not fixed and all(
                p is None or p.buffer.slot in self._tensors for p in (x, residual, y)
            ):
                fixed.extend(pictures)
            kernel = view(weight) if computed else weight
            native.conv2d(
                pictures[0], kernel, bias, pictures[1], pictures[2],
                a["stride"], a["pad"], a["slope"], True, min(most, threads), packed,
            )  # fmt: skip

        return call

    def _add(self, node: Node) -> None:
        a = node.arguments
        if node.kind == "copy":
            x, y = a["x"], a["y"]
            self._program.copy(
                x.buffer.slot, x.buffer.at + x.at + a["x_at"], a["x_steps"],
                y.buffer.slot, y.buffer.at + y.at + a["y_at"], a["y_steps"], a["sizes"],
            )  # fmt: skip
            return
        getattr(self._program, node.kind)(**{k: self._argument(v) for k, v in a.items()})

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Place):
            return value.operand()
        if isinstance(value, Tensor):
            return self._span(value)
        if isinstance(value, Ending):
            return native.GraphFinish(
                None if value.bias is None else self._span(self._packed.vector(value.bias)),
                None if value.slope is None else self._span(self._packed.vector(value.slope)),
                None if value.residual is None else value.residual.operand(),
                value.activation,
                value.alpha,
                value.beta,
            )
        return value

    def _span(self, tensor: Tensor) -> list[int]:
        return [self._hold(tensor), 0, tensor.numel()]

    # --- running --------------------------------------------------------------------------------

    def held(self) -> list[Tensor]:
        """What stays after a run."""
        constants = (output for output in self._outputs if isinstance(output, Tensor))
        return [*self._tensors.values(), *self._boxes.values(), *constants]

    def run(self, feeds: Feeds, threads: int = 0) -> list[Tensor]:
        given = [feeds[name].contiguous() for name in self._inputs]
        made = [_native.empty(*place.shape) for place in self._made]
        arrays = [*given, *made]
        ports = {
            place.buffer.slot: tensor
            for place, tensor in zip([*self._inputs.values(), *self._made], arrays)
        }
        boxes = {**self._boxes, **feeds}

        def view(place: Place) -> Tensor:
            slot = place.buffer.slot
            base = ports[slot] if slot in ports else self._tensors[slot]  # type: ignore[index]
            return base.as_strided(place.shape, place.steps(), place.buffer.at + place.at)

        threads = threads or torch.get_num_threads()
        fresh = not self._same(feeds)
        if fresh:
            self._last = {}  # should this run fail, what is kept is of no input
        with torch.no_grad():
            for work in self._work if fresh else self._work[self._first :]:
                if isinstance(work, tuple):
                    self._program.run(arrays, *work, threads)
                else:
                    work(view, boxes, threads)
        if fresh and self._small:
            self._last = {name: feeds[name].clone() for name in self._small}
            self._boxes = boxes
        results = iter(made)
        return [
            next(results) if isinstance(o, Place) else boxes[o.name] if isinstance(o, Boxed) else o
            for o in self._outputs
        ]

    def _same(self, feeds: Feeds) -> bool:
        return bool(self._last) and all(torch.equal(feeds[n], t) for n, t in self._last.items())


def _operations(node: Node) -> int:
    made, a = node.writes[0], node.arguments
    if node.kind == "product":
        first = a["window"][0] * a["window"][1] if a["source"] == DEPTHWISE else 0
        pixels = made.floats // (made.shape[1] if made.last else made.shape[-1])
        return 2 * int(a["depth"]) * (made.floats + pixels * int(first))
    if node.kind == "depthwise":
        return 2 * made.floats * int(a["window"][0] * a["window"][1])
    return 2 * made.floats * math.prod(a["weight"].shape[1:]) if node.kind == "conv2d" else 0


__all__: Sequence[str] = ["Program", "Runner"]
