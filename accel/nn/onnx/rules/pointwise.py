"""Activations and arithmetic, number by number."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from accel.nn.onnx.arena import Node, Place, touched
from accel.nn.onnx.lower import Ending, Lowering, NotNative, Pending
from accel.nn.onnx.plan import Step
from accel.nn.onnx.rules.moves import repeated
from accel.nn.onnx.rules.register import (
    ABS,
    ADD,
    CLIP,
    DIVIDE,
    DIVIDE_INTO,
    ELU,
    ERF,
    EXP,
    GELU,
    GELU_TANH,
    HARD_SIGMOID,
    HARD_SWISH,
    KEEP,
    LEAKY,
    LOG,
    MAXIMUM,
    MINIMUM,
    MISH,
    MULTIPLY,
    NONE,
    PRELU,
    RECIPROCAL,
    RELU,
    SIGMOID,
    SOFTPLUS,
    SQRT,
    SUBTRACT,
    SUBTRACT_FROM,
    SWISH,
    TANH,
    rule,
)

SIMPLE = {
    "Relu": RELU, "Sigmoid": SIGMOID, "Tanh": TANH, "HardSwish": HARD_SWISH, "Softplus": SOFTPLUS,
    "Mish": MISH, "Sqrt": SQRT, "Abs": ABS, "Exp": EXP, "Log": LOG, "Erf": ERF,
    "Reciprocal": RECIPROCAL,
}  # fmt: skip


def _activation(low: Lowering, step: Step) -> Ending:
    a = step.attributes
    if step.kind == "LeakyRelu":
        return Ending(activation=LEAKY, alpha=a.get("alpha", 0.01))
    if step.kind == "HardSigmoid":
        return Ending(activation=HARD_SIGMOID, alpha=a.get("alpha", 0.2), beta=a.get("beta", 0.5))
    if step.kind == "Clip":
        low_at, high_at = low.optional_constant(step, 1), low.optional_constant(step, 2)
        bottom = a.get("min", -math.inf) if low_at is None else float(low_at)
        top = a.get("max", math.inf) if high_at is None else float(high_at)
        if bottom > top or math.isnan(bottom) or math.isnan(top):
            raise NotNative("bounds out of order")
        return Ending(activation=CLIP, alpha=bottom, beta=top)
    if step.kind == "PRelu":
        slope = low.constant(step.inputs[1])
        if slope.numel() == 1:
            return Ending(activation=LEAKY, alpha=float(slope))
        shape = low.shape(low.value(step.inputs[0]))
        per_channel = len(shape) == 4 and tuple(slope.shape) in (
            (shape[1], 1, 1), (1, shape[1], 1, 1),
        )  # fmt: skip
        if not per_channel:
            raise NotNative("slopes of pixels")
        return Ending(activation=PRELU, slope=slope)
    if step.kind == "Gelu":
        return Ending(activation=GELU_TANH if a.get("approximate") == "tanh" else GELU)
    if step.kind == "Elu":
        return Ending(activation=ELU, alpha=a.get("alpha", 1.0))
    if step.kind == "accel.swish":
        return Ending(activation=SWISH, alpha=a["alpha"])
    return Ending(activation=SIMPLE[step.kind])


@rule("LeakyRelu", "PRelu", "Clip", "HardSigmoid", "Gelu", "Elu", "accel.swish", *SIMPLE)
def activate(low: Lowering, step: Step) -> None:
    wanted = _activation(low, step)
    before = low.pending(step.inputs[0])
    if before is not None and before.ending is not None and before.ending.activation == NONE:
        e = before.ending
        e.activation, e.alpha, e.beta = wanted.activation, wanted.alpha, wanted.beta
        e.slope = wanted.slope
        low.values[step.outputs[0]] = before
        return
    needs_channels = wanted.activation == PRELU
    x = low.last(step.inputs[0]) if needs_channels else low.place(step.inputs[0])
    _combine(low, step.outputs[0], KEEP, x, None, wanted)


def _combine(
    low: Lowering, name: str, kind: int, a: Place, b: Place | None, ending: Ending | None = None
) -> None:
    y = low.new(a.shape, a.last)
    same = b is not None and b.shape == a.shape

    def emit(pending: Pending) -> None:
        e = pending.ending
        assert e is not None
        over = next((p for p in (a, b if same else None) if p is not None), None)
        reads = touched([a, b, e.residual])
        if over is not None and e.residual is not None:
            over = None
        low.add(
            Node("combine", reads, [y], {"kind": kind, "a": a, "b": b, "y": y, "last": e}, over)
        )

    low.values[name] = Pending(y, emit, low.stays, ending or Ending())


@rule("Add")
def add(low: Lowering, step: Step) -> None:
    first, second = step.inputs
    if first != second:
        for mine, other in ((first, second), (second, first)):
            if _as_residual(low, mine, other):
                low.values[step.outputs[0]] = low.values[mine]
                return
    _binary(low, step, ADD, ADD)


def _as_residual(low: Lowering, mine: str, other: str) -> bool:
    pending = low.pending(mine)
    if pending is None or pending.ending is None:
        return False
    e, y = pending.ending, pending.y
    if e.activation != NONE or e.residual is not None or low.shape(low.value(other)) != y.shape:
        return False
    value = low.value(other)
    if isinstance(value, Tensor):
        return False
    padded = low.pending(other, taking=False)
    if padded is not None and padded.narrow is not None and y.last:
        e.residual = padded.narrow
        return True
    place = low.place(other)
    if place.last != y.last:
        if y.last:
            place = low.last(other)
        elif place.is_plain:
            place = low.plain(place)
        else:
            return False
    e.residual = place
    return True


@rule("Sub")
def subtract(low: Lowering, step: Step) -> None:
    _binary(low, step, SUBTRACT, SUBTRACT_FROM)


@rule("Mul")
def multiply(low: Lowering, step: Step) -> None:
    _binary(low, step, MULTIPLY, MULTIPLY)


@rule("Div")
def divide(low: Lowering, step: Step) -> None:
    _binary(low, step, DIVIDE, DIVIDE_INTO)


@rule("Max", "Min")
def extreme(low: Lowering, step: Step) -> None:
    if len(step.inputs) != 2:
        raise NotNative("not of two")
    kind = MAXIMUM if step.kind == "Max" else MINIMUM
    _binary(low, step, kind, kind)


@rule("Pow")
def power(low: Lowering, step: Step) -> None:
    exponent = low.constant(step.inputs[1])
    if exponent.numel() != 1 or exponent.ndim > len(low.shape(low.value(step.inputs[0]))):
        raise NotNative("many powers")
    x = low.place(step.inputs[0])
    if float(exponent) == 2:
        _combine(low, step.outputs[0], MULTIPLY, x, x)
    elif float(exponent) in (0.5, -1.0):
        kind = SQRT if float(exponent) == 0.5 else RECIPROCAL
        _combine(low, step.outputs[0], KEEP, x, None, Ending(activation=kind))
    else:
        raise NotNative("another power")


@rule("Neg")
def negate(low: Lowering, step: Step) -> None:
    x = low.place(step.inputs[0])
    zero = low.packed.zero()
    _combine(low, step.outputs[0], SUBTRACT_FROM, x, low.hold(zero).alias((1, 1)))


@rule("BatchNormalization")
def batch_norm(low: Lowering, step: Step) -> None:
    """That no convolution could take in: times a number for each channel, and another added."""
    shape, a = low.shape(low.value(step.inputs[0])), step.attributes
    if a.get("training_mode", 0) or not a.get("spatial", 1) or len(step.outputs) > 1:
        raise NotNative("in training")
    if len(shape) not in (2, 4):
        raise NotNative("of other than pictures")
    vectors = [low.constant(name) for name in step.inputs[1:5]]
    epsilon = a.get("epsilon", 1e-5)
    scale, shift = low.packed.affine(vectors, epsilon)
    x = low.last(step.inputs[0]) if len(shape) == 4 else low.place(step.inputs[0])
    b = low.hold(scale).alias((1, shape[1], 1, 1), last=True, step=shape[1])
    _combine(low, step.outputs[0], MULTIPLY, x, b, Ending(bias=shift))


def _binary(low: Lowering, step: Step, kind: int, turned: int) -> None:
    first, second = step.inputs
    shapes = [low.shape(low.value(n)) for n in (first, second)]
    whole = tuple(np.broadcast_shapes(*shapes))
    if shapes[0] != whole:
        first, second, kind = second, first, turned
        shapes.reverse()
    for name in (first, second):
        value = low.value(name)
        if getattr(value, "dtype", torch.float32) != torch.float32:
            raise NotNative("needs float32")
    same = shapes[0] == shapes[1]
    of_channels = len(whole) == 4 and _of_channels(shapes[1], whole)
    a = repeated(low, low.place(first), whole)
    if shapes[0] != whole:
        return _combine(low, step.outputs[0], kind, a, repeated(low, low.place(second), whole))
    if same:
        b = low.place(second)
        if a.last or b.last:
            a, b = low.last(first), low.last(second)
    elif math.prod(shapes[1]) == 1:
        b = low.plain(low.place(second)).alias((1, 1))
    elif of_channels:
        a = low.last(first)
        flat = low.plain(low.place(second))
        images = whole[0] if len(shapes[1]) == 4 and shapes[1][0] == whole[0] else 1
        b = flat.alias((images, whole[1], 1, 1), last=True, step=whole[1])
    elif not a.last and whole[-1:] == (math.prod(shapes[1]),) and shapes[1][-1] == whole[-1]:
        b = low.plain(low.place(second)).alias((1, whole[-1]))
    elif _of_pixels(shapes[1], whole):
        a = low.last(first)
        b = low.plain(low.place(second)).alias((whole[0], 1, *whole[2:]), last=True, step=1)
    elif not a.last and _of_lines(shapes[1], whole):
        a = low.plain(a)
        b = low.plain(low.place(second)).alias((math.prod(whole[:-1]), 1))
    else:
        a = low.plain(a)
        b = repeated(low, low.place(second), whole)
    _combine(low, step.outputs[0], kind, a, b)


def _of_channels(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    full = (1,) * (4 - len(shape)) + tuple(shape)
    return full[1] == whole[1] and full[2:] == (1, 1) and full[0] in (1, whole[0])


def _of_pixels(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Whether there is a number for each pixel."""
    return len(whole) == 4 and shape == (whole[0], 1, *whole[2:]) and whole[1] > 1


def _of_lines(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Whether there is a number for each line."""
    return shape == (*whole[:-1], 1)
