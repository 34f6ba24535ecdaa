"""Convolutions and products with matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from accel.kernels import _native
from accel.nn.onnx.arena import Node, Place
from accel.nn.onnx.convolve import padding
from accel.nn.onnx.lower import Ending, Lowering, NotNative, Pending
from accel.nn.onnx.plan import Step
from accel.nn.onnx.rules.register import (
    DEPTHWISE,
    DIRECT,
    GATHERED,
    LEAKY,
    NONE,
    RELU,
    reads_of,
    rule,
)

native: Any = _native.module


@rule("Conv", "accel.conv")
def conv(low: Lowering, step: Step) -> None:
    weight = low.constant(step.inputs[1])
    bias = low.optional_constant(step, 2)
    shape = low.shape(low.value(step.inputs[0]))
    a = step.attributes
    if weight.ndim != 4 or len(shape) != 4 or weight.dtype != torch.float32:
        raise NotNative("not of pictures")
    outputs, _, *kernel = weight.shape
    strides, dilations = a.get("strides", [1, 1]), a.get("dilations", [1, 1])
    groups = a.get("group", 1)
    pads = padding(a, torch.empty(shape, device="meta"), kernel, 2)
    depthwise = groups > 1 and groups == shape[1] == outputs
    if set(dilations) != {1} or (groups > 1 and not depthwise) or weight.numel() == 0:
        raise NotNative("dilated, or in groups")
    if weight.shape[1] * groups != shape[1] or any(
        not 0 <= pads[i] < kernel[i % 2] for i in range(4)
    ):
        raise NotNative("a padding wider than the kernel")
    size = [(shape[2 + i] + pads[i] + pads[2 + i] - kernel[i]) // strides[i] + 1 for i in range(2)]
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
        kernel, pads = [1, 1], [0, 0, 0, 0]
    window = [*kernel, *strides, pads[0], pads[1]]
    ending = Ending(bias=bias, residual=residual)
    slope = a.get("slope", 1.0)
    if slope != 1:
        ending.activation, ending.alpha = (RELU, 0.0) if slope == 0 else (LEAKY, slope)
    if depthwise:
        pending = _depthwise(low, step, weight, window, made, ending)
    else:
        pending = _product(low, step, weight, window, made, ending, len(set(pads)) == 1)
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
        and window[4:] == [0, 0]
        and made[2:] == low.shape(low.value(step.inputs[0]))[2:]
    )
    before = low.pending(step.inputs[0]) if point else None
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
    wide = _is_wide(weight, made) and window[2] == window[3] and even and x.dense

    def emit(pending: Pending) -> None:
        e = pending.ending
        assert e is not None
        if wide and e.activation in (NONE, RELU, LEAKY) and _like(e.residual, made):
            slope = e.alpha if e.activation == LEAKY else float(e.activation == NONE)
            low.add(
                Node(
                    "conv2d", [x, *reads_of(e)], [pending.y],
                    {
                        "x": x, "y": pending.y, "weight": weight, "bias": e.bias, "slope": slope,
                        "residual": e.residual, "stride": window[2], "pad": window[4],
                    },
                    over=e.residual,
                )
            )  # fmt: skip
            return
        packed = low.packed.product(weight)
        low.add(
            Node(
                "product", [x, *reads_of(e)], [pending.y],
                {**arguments, "y": pending.y, "last": e, "weights": packed}, over=e.residual,
            )
        )  # fmt: skip

    return Pending(low.new(made, True), emit, low.stays, ending)


def _is_wide(weight: Tensor, made: tuple[int, ...]) -> bool:
    """Whether conv2d's forms, which pay for their preparation on larger work, are ahead.

    Says so from sizes of one image, so that a batch does not change the bytes.
    """
    outputs, inputs, *kernel = weight.shape
    pixels = made[2] * made[3]
    if min(kernel) < 2 or pixels < 256:
        return False
    if native is not None and native.conv_isa() == "amx":
        return inputs >= 32
    return min(inputs, outputs) >= 64 and kernel == [3, 3]  # Winograd


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


@rule("MatMul")
def matmul(low: Lowering, step: Step) -> None:
    weight = low.constant(step.inputs[1])
    shape = low.shape(low.value(step.inputs[0]))
    if weight.ndim != 2 or len(shape) < 2:
        raise NotNative("MatMul of other than a matrix")
    _matrix(low, step, weight, False, None, shape)


def _matrix(
    low: Lowering, step: Step, weight: Tensor, turned: bool, bias: Tensor | None,
    shape: Sequence[int],
) -> None:  # fmt: skip
    if weight.ndim != 2 or weight.dtype != torch.float32 or not weight.numel():
        raise NotNative("not a matrix of float32")
    outputs, depth = weight.shape if turned else weight.shape[::-1]
    if bias is not None and (bias.numel() not in (1, outputs) or bias.dtype != torch.float32):
        raise NotNative("a bias for each row")
    if bias is not None:
        bias = bias.reshape(-1).expand(outputs)
    packed = low.packed.product(weight) if turned else low.packed.product_turned(weight)
    x = low.plain(low.place(step.inputs[0]))
    if x.shape[-1] != depth:
        raise NotNative("sizes that do not fit")
    y = low.new((*shape[:-1], outputs), False)
    arguments = {
        "x": x, "window": [1, 1, 1, 1, 0, 0], "depth": depth, "source": DIRECT, "taps": None,
        "weights": packed, "first": Ending(),
    }  # fmt: skip

    def emit(pending: Pending) -> None:
        e = pending.ending
        assert e is not None
        low.add(
            Node("product", [x, *reads_of(e)], [y], {**arguments, "y": y, "last": e}, e.residual)
        )

    low.values[step.outputs[0]] = Pending(y, emit, low.stays, Ending(bias=bias))
