"""Convolutions and products with matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accel.kernels import _native
from accel.nn.onnx.arena import Node, Place, touched
from accel.nn.onnx.convolve import cut_off, padding
from accel.nn.onnx.lower import Ending, Lowering, NotNative, Pending
from accel.nn.onnx.plan import Step
from accel.nn.onnx.rules.register import (
    DEPTHWISE,
    DIRECT,
    GATHERED,
    KEEP,
    LEAKY,
    NONE,
    RELU,
    reads_of,
    rule,
    window_of,
)

native: Any = _native.module
MOST_TAPS = 256  # of csrc/graph.h
FLOATS = (torch.float32, torch.float16)  # of weights


@rule("Conv", "accel.conv")
def conv(low: Lowering, step: Step) -> None:
    if not isinstance(low.value(step.inputs[1]), Tensor):
        return _by_computed_weights(low, step)
    weight = low.constant(step.inputs[1])
    bias = low.optional_constant(step, 2)
    shape = low.shape(low.value(step.inputs[0]))
    a = step.attributes
    if weight.ndim != 4 or len(shape) != 4 or weight.dtype not in FLOATS:
        raise NotNative("not of pictures")
    outputs, _, *kernel = weight.shape
    strides, dilations = a.get("strides", [1, 1]), a.get("dilations", [1, 1])
    groups = a.get("group", 1)
    pads = padding(a, torch.empty(shape, device="meta"), kernel, 2)
    depthwise = groups > 1 and groups == shape[1] == outputs
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations)]
    if weight.shape[1] * groups != shape[1] or outputs % groups or weight.numel() == 0:
        raise NotNative("weights that do not fit")
    if any(not 0 <= pads[i] < reach[i % 2] for i in range(4)):
        raise NotNative("a padding wider than the kernel")
    size = [(shape[2 + i] + pads[i] + pads[2 + i] - reach[i]) // strides[i] + 1 for i in range(2)]
    if min(size) < 1:
        raise NotNative("a kernel larger than the picture")
    residual = low.last(step.inputs[3]) if len(step.inputs) > 3 and step.inputs[3] else None
    made = (shape[0], outputs, *size)
    if residual is not None and residual.shape != made:
        raise NotNative("a residual of another shape")
    if shape[2:] == (1, 1) and groups == 1 and weight[0, 0].numel() > 1:
        # One pixel meets one tap; the others meet padding.
        weight = low.packed.get(
            weight, "tap", lambda: weight[:, :, pads[0] :, pads[1] :][..., :1, :1].contiguous()
        )
        kernel, pads, dilations = [1, 1], [0, 0, 0, 0], [1, 1]
    window = window_of(kernel, strides, pads, dilations)
    ending = Ending(bias=bias, residual=residual)
    slope = a.get("slope", 1.0)
    if slope != 1:
        ending.activation, ending.alpha = (RELU, 0.0) if slope == 0 else (LEAKY, slope)
    even = len(set(pads)) == 1 and set(dilations) == {1} and strides[0] == strides[1]
    if depthwise:
        pending = _depthwise(low, step, weight, window, made, ending)
    elif groups > 1:
        pending = _grouped(low, step, weight, groups, window, made, ending, even)
    else:
        pending = _product(low, step, weight, window, made, ending, even)
    low.values[step.outputs[0]] = pending


def _depthwise(
    low: Lowering, step: Step, weight: Tensor, window: list[int], made: tuple[int, ...],
    ending: Ending,
) -> Pending:  # fmt: skip
    x = low.last(step.inputs[0])
    taps = low.packed.taps(weight)
    about = {"x": x, "window": window, "taps": taps}

    def emit(pending: Pending) -> None:
        e = pending.ending
        assert e is not None
        low.add(
            Node(
                "depthwise", [x, *reads_of(e)], [pending.y],
                {**about, "y": pending.y, "last": e}, over=e.residual,
            )
        )  # fmt: skip

    return Pending(low.new(made, True), emit, low.stays, ending, depthwise=about)


def _product(
    low: Lowering, step: Step, weight: Tensor, window: list[int], made: tuple[int, ...],
    ending: Ending, even: bool,
) -> Pending:  # fmt: skip
    point = (
        window[:2] == [1, 1]
        and window[4:6] == [0, 0]
        and made[2:] == low.shape(low.value(step.inputs[0]))[2:]
    )
    wide = _is_wide(weight.shape, math.prod(made[2:])) and even
    before = low.pending(step.inputs[0]) if point and not wide else None
    arguments: dict[str, Any] = {
        "window": window,
        "depth": weight[0].numel(),
        "taps": None,
        "first": Ending(),
    }
    if (
        before is not None
        and before.depthwise is not None
        and before.ending is not None
        and before.ending.residual is None
    ):
        x = before.depthwise["x"]
        arguments |= {
            "source": DEPTHWISE,
            "window": before.depthwise["window"],
            "taps": before.depthwise["taps"],
            "first": before.ending,
        }
    else:
        x = low.last(step.inputs[0])
        arguments["source"] = DIRECT if point else GATHERED
    arguments["x"] = x
    wide = wide and x.dense

    def emit(pending: Pending) -> None:
        e = pending.ending
        assert e is not None
        if wide and _like(e.residual, made):
            _by_conv2d(low, x, pending.y, weight.contiguous(), window, e)
            return
        packed = low.packed.product(weight)
        low.add(
            Node(
                "product", [x, *reads_of(e)], [pending.y],
                {**arguments, "y": pending.y, "last": e, "weights": packed}, over=e.residual,
            )
        )  # fmt: skip

    return Pending(low.new(made, True), emit, low.stays, ending)


def _by_conv2d(
    low: Lowering, x: Place, y: Place, weight: Tensor | Place, window: Sequence[int], e: Ending
) -> None:
    """Let conv2d do it; an activation that it has not is applied to what it made."""
    has = e.activation in (NONE, RELU, LEAKY)
    slope = e.alpha if e.activation == LEAKY else float(e.activation != RELU)
    operands = touched([x, weight if isinstance(weight, Place) else None, e.residual])
    low.add(
        Node(
            "conv2d", operands, [y],
            {
                "x": x, "y": y, "weight": weight, "bias": e.bias, "slope": slope,
                "residual": e.residual, "stride": window[2], "pad": window[4],
            },
            over=e.residual,
        )
    )  # fmt: skip
    if not has:
        rest = Ending(slope=e.slope, activation=e.activation, alpha=e.alpha, beta=e.beta)
        low.add(Node("combine", [y], [y], {"kind": KEEP, "a": y, "b": None, "y": y, "last": rest}))


def _by_computed_weights(low: Lowering, step: Step) -> None:
    """A convolution whose weights a run computes, as those of modulated ones are."""
    a = step.attributes
    shape, (outputs, inputs, *kernel) = (low.shape(low.value(n)) for n in step.inputs[:2])
    bias = low.optional_constant(step, 2)
    strides, dilations = a.get("strides", [1, 1]), a.get("dilations", [1, 1])
    pads = padding(a, torch.empty(shape, device="meta"), kernel, 2)
    if len(shape) != 4 or len(kernel) != 2 or a.get("group", 1) != 1 or set(dilations) != {1}:
        raise NotNative("dilated, or in groups")
    if len(set(pads)) > 1 or strides[0] != strides[1] or pads[0] >= min(kernel):
        raise NotNative("uneven")
    size = [(shape[2 + i] + 2 * pads[0] - kernel[i]) // strides[0] + 1 for i in range(2)]
    if inputs != shape[1] or min(size, default=0) < 1 or len(step.inputs) > 3:
        raise NotNative("sizes that do not fit")
    slope = a.get("slope", 1.0)
    ending = Ending(bias=bias)
    if slope != 1:
        ending.activation, ending.alpha = (RELU, 0.0) if slope == 0 else (LEAKY, slope)
    weight = low.plain(low.place(step.inputs[1]))
    x, y = low.dense(low.last(step.inputs[0])), low.new((shape[0], outputs, *size), True)
    window = window_of(kernel, strides, pads)

    def emit(pending: Pending) -> None:
        e = pending.ending
        assert e is not None
        if not _like(e.residual, y.shape):
            assert e.residual is not None
            e.residual = low.dense(e.residual)
        _by_conv2d(low, x, y, weight, window, e)

    low.values[step.outputs[0]] = Pending(y, emit, low.stays, ending)


def _grouped(
    low: Lowering, step: Step, weight: Tensor, groups: int, window: list[int],
    made: tuple[int, ...], ending: Ending, even: bool,
) -> Pending:  # fmt: skip
    """A product for each group, or for some at a time that fill a vector."""
    x = low.last(step.inputs[0])
    inputs, outputs = weight.shape[1], weight.shape[0] // groups
    together = max(m for m in range(1, groups + 1) if groups % m == 0 and (m - 1) * outputs < 16)

    size = [together * outputs, together * inputs, *weight.shape[2:]]
    wide = even and together == 1 and _is_wide(size, math.prod(made[2:]))

    def emit(pending: Pending) -> None:
        for first in range(0, groups, together):
            block = low.packed.of_groups(weight, first, together, outputs)
            part = _channels(x, first * inputs, together * inputs)
            y = _channels(pending.y, first * outputs, together * outputs)
            assert part is not None
            assert y is not None
            assert pending.ending is not None
            e = _ending_part(pending.ending, first * outputs, together * outputs)
            if wide and e.residual is None:  # worth laying it together for
                one = low.new((*made[:1], together * outputs, *made[2:]), True)
                _by_conv2d(low, low.dense(part), one, block, window, e)
                low.copy(one, y, one.steps(), y.steps(), one.shape)
                continue
            arguments = {
                "x": part, "y": y, "window": window, "depth": block[0].numel(), "taps": None,
                "first": Ending(), "source": GATHERED, "weights": low.packed.product(block),
                "last": e,
            }  # fmt: skip
            low.add(Node("product", [part, *reads_of(e)], [y], arguments))

    return Pending(low.new(made, True), emit, low.stays, ending)


def _channels(x: Place, first: int, count: int) -> Place | None:
    count = min(count, x.shape[1] - first)
    if count < 1:
        return None
    return x.alias((x.shape[0], count, *x.shape[2:]), at=x.at + first)


def _ending_part(e: Ending, first: int, count: int) -> Ending:
    """Of the channels from `first` on."""

    def cut(vector: Tensor | None) -> Tensor | None:
        return None if vector is None else vector.reshape(-1)[first : first + count]

    residual = None if e.residual is None else _channels(e.residual, first, count)
    return replace(e, bias=cut(e.bias), slope=cut(e.slope), residual=residual)


@rule("ConvTranspose")
def conv_transposed(low: Lowering, step: Step) -> None:
    """What each pixel adds to a window of the result, by one product; then those are summed."""
    a, shape = step.attributes, low.shape(low.value(step.inputs[0]))
    weight, bias = low.constant(step.inputs[1]), low.optional_constant(step, 2)
    if weight.ndim != 4 or len(shape) != 4 or weight.shape[0] != shape[1] or a.get("group", 1) > 1:
        raise NotNative("not of pictures, or in groups")
    outputs, kernel = weight.shape[1], list(weight.shape[2:])
    strides, dilations = a.get("strides", [1, 1]), a.get("dilations", [1, 1])
    extra, meta = a.get("output_padding", [0, 0]), torch.empty(shape, device="meta")
    pads = cut_off(a, meta, weight, strides, dilations, extra)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations)]
    size = [
        (shape[2 + i] - 1) * strides[i] + reach[i] + extra[i] - pads[i] - pads[2 + i]
        for i in range(2)
    ]
    if min(size) < 1 or any(not 0 <= pads[i] < reach[i] for i in range(2)) or not weight.numel():
        raise NotNative("a padding wider than the kernel")
    if math.prod(kernel) > MOST_TAPS or math.prod(shape) == 0:
        raise NotNative("a large kernel")
    x = low.last(step.inputs[0])
    spread = low.new((shape[0], math.prod(kernel) * outputs, *shape[2:]), True)
    _point(low, x, spread, low.packed.spread_out(weight))
    y, window = (
        low.new((shape[0], outputs, *size), True),
        window_of(kernel, strides, pads, dilations),
    )

    def emit(pending: Pending) -> None:
        e = pending.ending
        assert e is not None
        arguments = {"x": spread, "y": y, "window": window, "last": e}
        low.add(Node("fold", [spread, *reads_of(e)], [y], arguments))

    low.values[step.outputs[0]] = Pending(y, emit, low.stays, Ending(bias=bias))


def _point(low: Lowering, x: Place, y: Place, weight: Tensor) -> None:
    """A 1x1 convolution."""
    if x.dense and _is_wide(weight.shape, math.prod(y.shape[2:])):
        _by_conv2d(low, x, y, weight, window_of([1, 1]), Ending())
        return
    arguments = {
        "x": x, "y": y, "window": window_of([1, 1]), "depth": x.shape[1], "taps": None,
        "first": Ending(), "source": DIRECT, "weights": low.packed.product(weight),
        "last": Ending(),
    }  # fmt: skip
    low.add(Node("product", [x], [y], arguments))


def _is_wide(weight: Sequence[int], pixels: int) -> bool:
    """Whether conv2d's forms, which pay for their preparation on larger work, are ahead.

    Says so from sizes of one image, so that a batch does not change the bytes.
    """
    outputs, inputs, *kernel = weight
    if native is not None and native.conv_isa() == "amx":
        numbers, read = inputs * outputs, inputs * pixels
        if kernel == [1, 1]:
            return numbers >= 1 << 15 and pixels >= (32 if numbers >= 1 << 16 else 64)
        few = outputs < 16 or pixels < 40
        return min(kernel) > 1 and inputs >= 16 and read >= (12000 if few else 1500)
    return pixels >= 256 and min(inputs, outputs) >= 64 and kernel == [3, 3]  # Winograd


def _as_picture(x: Place) -> Place:
    """Lines as the pixels of one picture."""
    lines, size = math.prod(x.shape[:-1]), x.shape[-1]
    return x.alias((1, size, lines, 1), last=True, step=size)


def _like(residual: Place | None, made: tuple[int, ...]) -> bool:
    return residual is None or (residual.dense and residual.shape == made)


@rule("Gemm")
def gemm(low: Lowering, step: Step) -> None:
    a = step.attributes
    weight, bias = low.constant(step.inputs[1]), low.optional_constant(step, 2)
    shape = low.shape(low.value(step.inputs[0]))
    if a.get("transA", 0) or a.get("alpha", 1.0) != 1 or a.get("beta", 1.0) != 1:
        raise NotNative("Gemm with factors")
    _matrix(low, step, weight, bool(a.get("transB", 0)), bias, shape)


@rule("accel.linear")
def linear(low: Lowering, step: Step) -> None:
    weight, shape = low.constant(step.inputs[1]), low.shape(low.value(step.inputs[0]))
    if len(shape) < 2:
        raise NotNative("a product of a vector")
    _matrix(low, step, weight, False, low.constant(step.inputs[2]), shape)


@rule("MatMul")
def matmul(low: Lowering, step: Step) -> None:
    if not isinstance(low.value(step.inputs[1]), Tensor):
        return _batched(low, step)
    weight = low.constant(step.inputs[1])
    shape = low.shape(low.value(step.inputs[0]))
    if weight.ndim != 2 or len(shape) < 2:
        return _batched(low, step)
    _matrix(low, step, weight, False, None, shape)


def _batched(low: Lowering, step: Step) -> None:
    """A product of two computed tensors."""
    shapes = [low.shape(low.value(name)) for name in step.inputs]
    if min(map(len, shapes)) < 2 or not math.prod(shapes[0]) * math.prod(shapes[1]):
        raise NotNative("MatMul of vectors")
    if shapes[0][-1] != shapes[1][-2]:
        raise ValueError(f"MatMul: sizes must fit, got {shapes[0]} and {shapes[1]}")
    heads = np.broadcast_shapes(shapes[0][:-2], shapes[1][:-2])
    a, b = (low.plain(low.place(name)) for name in step.inputs)
    y = low.new((*heads, shapes[0][-2], shapes[1][-1]), False)

    def call(view: Callable[[Place], Tensor], boxes: dict[str, Tensor], threads: int) -> None:
        torch.matmul(view(a), view(b), out=view(y))

    low.add(Node("call", [a, b], [y], python=call))
    low.values[step.outputs[0]] = y


def _matrix(
    low: Lowering, step: Step, weight: Tensor, turned: bool, bias: Tensor | None,
    shape: Sequence[int],
) -> None:  # fmt: skip
    if weight.ndim != 2 or weight.dtype not in FLOATS or not weight.numel():
        raise NotNative("not a matrix of float32")
    outputs, depth = weight.shape if turned else weight.shape[::-1]
    a_row = ((), (1,), (1, 1), (outputs,), (1, outputs))
    if bias is not None and (tuple(bias.shape) not in a_row or bias.dtype != torch.float32):
        raise NotNative("a bias for each row")
    if bias is not None:
        bias = bias.reshape(-1).expand(outputs)
    x = low.plain(low.place(step.inputs[0]))
    if x.shape[-1] != depth:
        raise NotNative("sizes that do not fit")
    y = low.new((*shape[:-1], outputs), False)
    wide = _is_wide((outputs, depth, 1, 1), math.prod(shape[1:-1]))
    arguments = {
        "x": x, "window": window_of([1, 1]), "depth": depth, "source": DIRECT, "taps": None,
        "first": Ending(),
    }  # fmt: skip

    def emit(pending: Pending) -> None:
        e = pending.ending
        assert e is not None
        if wide:
            pictures = (x, y, e.residual)
            flat = [None if p is None else _as_picture(p) for p in pictures]
            assert flat[0] is not None
            assert flat[1] is not None
            e = replace(e, residual=flat[2])
            rows = weight if turned else low.packed.rows(weight)
            kernel = rows.contiguous()[:, :, None, None]
            _by_conv2d(low, flat[0], flat[1], kernel, window_of([1, 1]), e)
            return
        packed = low.packed.product(weight) if turned else low.packed.product_turned(weight)
        about = {**arguments, "weights": packed, "y": y, "last": e}
        low.add(Node("product", [x, *reads_of(e)], [y], about, e.residual))

    low.values[step.outputs[0]] = Pending(y, emit, low.stays, Ending(bias=bias))
