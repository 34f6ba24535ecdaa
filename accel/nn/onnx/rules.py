"""How each operator becomes nodes of a native program; see lower.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accel.kernels import _native
from accel.nn.onnx.arena import Node, Place, touched
from accel.nn.onnx.lower import Ending, Lowering, NotNative, Pending
from accel.nn.onnx.ops import integers, padding
from accel.nn.onnx.plan import Step
from accel.nn.onnx.shapes import _source_index, _targets

native: Any = _native.module
RULES: dict[str, Callable[[Lowering, Step], None]] = {}

# Of csrc/graph.h.
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


# --- convolutions and matrix products -----------------------------------------------------------


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


# --- activations --------------------------------------------------------------------------------


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
    simple = {"Relu": RELU, "Sigmoid": SIGMOID, "Tanh": TANH, "HardSwish": HARD_SWISH}
    return Ending(activation=simple[step.kind])


@rule("Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid")
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


def _by_rows(low: Lowering, given: dict[str, Any]) -> dict[str, Any]:
    """Take rows of pixels for pixels, where channels are too few to fill a vector."""
    a, b, y, e = given["a"], given["b"], given["y"], given["last"]
    if not (a.last and a.dense and y.dense and e.slope is e.residual is None) or a.shape[1] >= 16:
        return given
    n, c, h, w = a.shape
    if b is not None and b.floats != 1:
        constant = low.arrays.get(b.buffer)
        if b.shape == a.shape and b.last and b.dense:
            b = b.alias((n, c * w, h, 1), step=c * w)
        elif constant is not None and b.floats == c:
            tiled = low.packed.get(constant, f"row {w}", lambda: constant.reshape(-1).repeat(w))
            b = low.hold(tiled).alias((1, c * w, 1, 1), last=True, step=c * w)
        else:
            return given
    row = {"last": True, "step": c * w}
    shape = (n, c * w, h, 1)
    return {**given, "b": b, "a": a.alias(shape, **row), "y": y.alias(shape, **row)}


# --- arithmetic ---------------------------------------------------------------------------------


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


def _binary(low: Lowering, step: Step, kind: int, turned: int) -> None:
    first, second = step.inputs
    shapes = [low.shape(low.value(n)) for n in (first, second)]
    whole = tuple(np.broadcast_shapes(*shapes))
    if shapes[0] != whole:
        first, second, kind = second, first, turned
        shapes.reverse()
    if shapes[0] != whole:
        raise NotNative("both sides are repeated")
    for name in (first, second):
        value = low.value(name)
        if getattr(value, "dtype", torch.float32) != torch.float32:
            raise NotNative("needs float32")
    same = shapes[0] == shapes[1]
    of_channels = len(whole) == 4 and _of_channels(shapes[1], whole)
    a = low.place(first)
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
    elif not a.last and shapes[1] == (whole[-1],):
        b = low.plain(low.place(second)).alias((1, whole[-1]))
    else:
        raise NotNative("repeated along other dimensions")
    _combine(low, step.outputs[0], kind, a, b)


def _of_channels(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    full = (1,) * (4 - len(shape)) + tuple(shape)
    return full[1] == whole[1] and full[2:] == (1, 1) and full[0] in (1, whole[0])


# --- pools, means, norms, sizes -----------------------------------------------------------------


@rule("MaxPool", "AveragePool")
def pool(low: Lowering, step: Step) -> None:
    a = step.attributes
    shape = low.shape(low.value(step.inputs[0]))
    kernel, strides = a["kernel_shape"], a.get("strides", [1, 1])
    if a.get("ceil_mode", 0) or a.get("storage_order", 0) or len(step.outputs) > 1:
        raise NotNative("with ceil_mode or indices")
    if len(shape) != 4 or len(kernel) != 2 or set(a.get("dilations", [1])) != {1}:
        raise NotNative("not of pictures, or dilated")
    pads = padding(a, torch.empty(shape, device="meta"), kernel, 2)
    if any(not 0 <= pads[i] < kernel[i % 2] for i in range(4)):
        raise NotNative("a padding wider than the window")
    size = [(shape[2 + i] + pads[i] + pads[2 + i] - kernel[i]) // strides[i] + 1 for i in range(2)]
    if min(size) < 1:
        raise NotNative("a window larger than the picture")
    largest = step.kind == "MaxPool"
    x = low.last(step.inputs[0])
    if not largest and size == [1, 1] and not any(pads) and list(shape[2:]) == list(kernel):
        return _mean(low, step, x)
    y = low.new((*shape[:2], *size), True)
    window = [*kernel, *strides, pads[0], pads[1]]
    counted = bool(a.get("count_include_pad", 0))
    arguments = {"x": x, "y": y, "window": window, "largest": largest, "count_zeros": counted}
    low.add(Node("pool", [x], [y], arguments))
    low.values[step.outputs[0]] = y


def _mean(low: Lowering, step: Step, x: Place) -> None:
    y = low.new((*x.shape[:2], 1, 1), True)
    low.add(Node("mean", [x], [y], {"x": x, "y": y}))
    low.values[step.outputs[0]] = y


@rule("GlobalAveragePool", "ReduceMean")
def mean(low: Lowering, step: Step) -> None:
    shape = low.shape(low.value(step.inputs[0]))
    if len(shape) != 4 or not shape[2] * shape[3]:
        raise NotNative("not of pictures")
    keep = True
    if step.kind == "ReduceMean":
        axes = integers(low.optional_constant(step, 1)) or step.attributes.get("axes") or []
        if sorted(d % 4 for d in axes) != [2, 3]:
            raise NotNative("a mean over other than pixels")
        keep = bool(step.attributes.get("keepdims", 1))
    _mean(low, step, low.last(step.inputs[0]))
    if not keep:
        made = low.values[step.outputs[0]]
        assert isinstance(made, Place)
        low.values[step.outputs[0]] = made.alias(shape[:2], last=False, step=0)


@rule("InstanceNormalization", "accel.instance_norm")
def instance_norm(low: Lowering, step: Step) -> None:
    shape = low.shape(low.value(step.inputs[0]))
    if len(shape) != 4 or not shape[2] * shape[3]:
        raise NotNative("not of pictures")
    n, c = shape[:2]
    affine: list[str] = [name for name in step.inputs[1:] if name]
    sizes = [math.prod(low.shape(low.value(name))) for name in affine]
    if any(size not in (c, n * c) for size in sizes) or len(set(sizes)) > 1:
        raise NotNative("scales of other than channels")
    written_out = step.kind == "accel.instance_norm"  # there a vector is of the columns
    shapes = [(1, c, 1, 1), (c, 1, 1), (n, c, 1, 1)] if written_out else [(c,)]
    if any(low.shape(low.value(name)) not in shapes for name in affine):
        raise NotNative("scales of other than channels")
    x = low.last(step.inputs[0])
    parts: list[Place | None] = [None, None]
    for i, name in enumerate(step.inputs[1:3]):
        if name:
            flat = low.place(name)
            parts[i] = (
                flat if flat.last else flat.alias((sizes[0] // c, c, 1, 1), last=True, step=c)
            )
    if None not in parts and parts[0].step != parts[1].step:  # type: ignore[union-attr]
        parts = [None if p is None else _dense(low, p) for p in parts]
    epsilon = step.attributes.get("epsilon", 1e-5)
    y = low.new(shape, True)
    scale, shift = parts
    arguments = {"x": x, "y": y, "scale": scale, "shift": shift, "epsilon": epsilon}

    def emit(pending: Pending) -> None:
        e = pending.ending
        assert e is not None
        reads = touched([x, scale, shift, e.residual])
        over = x if e.residual is None else e.residual
        low.add(Node("norm", reads, [y], {**arguments, "last": e}, over))

    low.values[step.outputs[0]] = Pending(y, emit, low.stays)


def _dense(low: Lowering, place: Place) -> Place:
    if place.dense:
        return place
    y = low.new(place.shape, True)
    low.copy(place, y, place.steps(), y.steps(), place.shape)
    return y


@rule("Resize", "Upsample")
def resize(low: Lowering, step: Step) -> None:
    a = step.attributes
    shape = low.shape(low.value(step.inputs[0]))
    mode = a.get("mode", "nearest")
    how = a.get("coordinate_transformation_mode", "half_pixel" if a["opset"] > 10 else "asymmetric")
    if len(shape) != 4 or a.get("antialias", 0) or a.get("axes") or math.prod(shape) == 0:
        raise NotNative("not of pictures")
    rest = tuple(low.optional_constant(step, i) for i in range(1, len(step.inputs)))
    scales, sizes = _targets(a, torch.empty(shape, device="meta"), rest)
    if min(sizes) < 1:
        raise NotNative("no pixels")
    tables: list[Tensor] = []
    parts: list[Tensor] = []
    for i in range(2):
        if mode == "nearest":
            rounding = a.get("nearest_mode", "floor" if a["opset"] < 11 else "round_prefer_floor")
            index = _source_index(shape[2 + i], sizes[i], scales[i], how, rounding)
            tables += [index.int(), index.int()]
        elif mode == "linear" and how in ("half_pixel", "align_corners", "pytorch_half_pixel"):
            if how == "pytorch_half_pixel" and sizes[i] == 1:
                raise NotNative("one pixel of pytorch_half_pixel")
            first, second, part = _between(shape[2 + i], sizes[i], scales[i], how)
            tables += [first, second]
            parts.append(part)
        else:
            raise NotNative(f"Resize {mode}, {how}")
    x = low.last(step.inputs[0])
    y = low.new((*shape[:2], *sizes), True)
    arguments: dict[str, Any] = {"x": x, "y": y, "row_part": None, "column_part": None}
    arguments |= dict(zip(("r0", "r1", "c0", "c1"), tables))
    arguments |= dict(zip(("row_part", "column_part"), parts))
    low.add(Node("resize", [x], [y], arguments))
    low.values[step.outputs[0]] = y


def _between(size: int, target: int, scale: float, how: str) -> tuple[Tensor, Tensor, Tensor]:
    """For each pixel: its two sources, and the share of the second."""
    at = torch.arange(target, dtype=torch.float64)
    if how == "align_corners":
        at = at * ((size - 1) / max(target - 1, 1))
    else:
        at = (at + 0.5) / scale - 0.5
    at = at.clamp(0, size - 1)
    first = at.floor().clamp(0, max(size - 1, 0))
    second = (first + 1).clamp(0, size - 1)
    return first.int(), second.int(), (at - first).float()


# --- moving -------------------------------------------------------------------------------------


@rule("Identity")
def identity(low: Lowering, step: Step) -> None:
    low.values[step.outputs[0]] = low.place(step.inputs[0])


@rule("Transpose")
def transpose(low: Lowering, step: Step) -> None:
    shape = low.shape(low.value(step.inputs[0]))
    order = step.attributes.get("perm", list(range(len(shape)))[::-1])
    x = low.place(step.inputs[0])
    made = tuple(shape[i] for i in order)
    if len(shape) == 4 and order == [0, 3, 1, 2] and not x.last:
        low.values[step.outputs[0]] = x.alias(made, last=True, step=made[1])
    elif len(shape) == 4 and order == [0, 2, 3, 1] and x.last and x.dense:
        low.values[step.outputs[0]] = x.alias(made, last=False, step=0)
    else:
        y = low.new(made, False)
        steps = x.steps()
        low.copy(x, y, [steps[i] for i in order], y.steps(), made)
        low.values[step.outputs[0]] = y


@rule("Reshape")
def reshape(low: Lowering, step: Step) -> None:
    shape = low.shape(low.value(step.inputs[0]))
    sizes = integers(low.constant(step.inputs[1])) or []
    if not step.attributes.get("allowzero", 0):
        sizes = [shape[i] if s == 0 and i < len(shape) else s for i, s in enumerate(sizes)]
    _reshaped(low, step, torch.empty(shape, device="meta").reshape(sizes).shape)


@rule("Flatten")
def flatten(low: Lowering, step: Step) -> None:
    shape = low.shape(low.value(step.inputs[0]))
    axis = step.attributes.get("axis", 1)
    first = math.prod(shape[:axis])
    _reshaped(low, step, (first, math.prod(shape) // max(first, 1)))


@rule("Squeeze", "Unsqueeze")
def squeeze(low: Lowering, step: Step) -> None:
    from accel.nn.onnx.ops import OPS

    meta = torch.empty(low.shape(low.value(step.inputs[0])), device="meta")
    axes = low.optional_constant(step, 1)
    _reshaped(low, step, OPS[step.kind](step.attributes, meta, axes).shape)


def _reshaped(low: Lowering, step: Step, shape: Sequence[int]) -> None:
    x = low.plain(low.place(step.inputs[0]))
    low.values[step.outputs[0]] = x.alias(tuple(shape))


@rule("Concat")
def concat(low: Lowering, step: Step) -> None:
    shapes = [low.shape(low.value(name)) for name in step.inputs]
    rank = len(shapes[0])
    axis = step.attributes["axis"] % rank
    made = list(shapes[0])
    made[axis] = sum(shape[axis] for shape in shapes)
    for name in step.inputs:
        if getattr(low.value(name), "dtype", torch.float32) != torch.float32:
            raise NotNative("needs float32")
    last = rank == 4 and any(
        getattr(p, "last", False) for p in (low.place(name) for name in step.inputs)
    )
    y = low.new(made, last)
    at = 0
    for name, shape in zip(step.inputs, shapes):
        x = low.place(name)
        start = at * y.steps()[axis]
        at += shape[axis]
        if not (last and axis == 1 and _moves(low, name, x, y, start)):
            low.copy(x, y, x.steps(), y.steps(), shape, y_at=start)
    low.values[step.outputs[0]] = y


def _moves(low: Lowering, name: str, x: Place, y: Place, start: int) -> bool:
    """Let a value be written where it is joined, if its memory is its own."""
    if not x.last or not x.whole or x.buffer.places > 1 or x.buffer.stays != low.stays:
        return False
    if x.buffer in low.arrays or any(x is place for place in low.inputs.values()):
        return False
    fixed = (node for node in low.nodes if node.python or node.kind in ("copy", "conv2d"))
    if any(x in (*node.reads, *node.writes) for node in fixed):
        return False  # these have looked up already how it lies
    x.buffer, x.at, x.step = y.buffer, start, y.step
    y.buffer.places += 1
    return True


@rule("Pad")
def pad(low: Lowering, step: Step) -> None:
    a = step.attributes
    shape = low.shape(low.value(step.inputs[0]))
    amounts = integers(low.optional_constant(step, 1)) or a.get("pads")
    value = low.optional_constant(step, 2)
    fill = a.get("value", 0.0) if value is None else float(value)
    if a.get("mode", "constant") != "constant" or amounts is None or min(amounts) < 0:
        raise NotNative("Pad by other than a constant")
    if len(step.inputs) > 3 or len(amounts) != 2 * len(shape) or math.prod(shape) == 0:
        raise NotNative("Pad of some axes")
    rank = len(shape)
    x = low.place(step.inputs[0])
    made = [shape[i] + amounts[i] + amounts[rank + i] for i in range(rank)]
    y = low.new(made, x.last)
    widens = x.last and fill == 0 and not any(v for i, v in enumerate(amounts) if i != 5)

    def emit(pending: Pending) -> None:
        if x.floats != y.floats:
            low.add(Node("fill", [], [y], {"y": y, "value": fill}))
        start = sum(amounts[i] * s for i, s in enumerate(y.steps()))
        low.copy(x, y, x.steps(), y.steps(), shape, y_at=start)

    low.values[step.outputs[0]] = Pending(
        y, emit, low.stays, ending=None, narrow=x if widens else None
    )


def _by_channel(low: Lowering, name: str) -> Place:
    """A value to cut: where it can be taken as channels last, parts of it need no copy."""
    place = low.place(name)
    can = len(place.shape) == 4 and place.shape[2] * place.shape[3] == 1
    return low.last(name) if can else place


@rule("Slice")
def cut(low: Lowering, step: Step) -> None:
    a = step.attributes
    shape = low.shape(low.value(step.inputs[0]))

    def said(index: int, name: str) -> list[int] | None:
        return integers(low.optional_constant(step, index)) or a.get(name)

    starts, ends, axes, by = said(1, "starts"), said(2, "ends"), said(3, "axes"), said(4, "steps")
    if starts is None or ends is None or any(s < 1 for s in by or []):
        raise NotNative("Slice backwards")
    x = _by_channel(low, step.inputs[0])
    made, steps, start = list(shape), x.steps(), 0
    for i, axis in enumerate(axes or range(len(starts))):
        axis %= len(shape)
        part = range(shape[axis])[slice(starts[i], ends[i], by[i] if by else 1)]
        if not len(part):
            raise NotNative("nothing left")
        made[axis] = len(part)
        start += part[0] * steps[axis]
        steps[axis] *= part.step
    if x.last and list(shape[2:]) == made[2:] and shape[0] == made[0] and steps[1] == 1:
        low.values[step.outputs[0]] = x.alias(made, at=x.at + start)
        return
    y = low.new(made, x.last)
    low.copy(x, y, steps, y.steps(), made, x_at=start)
    low.values[step.outputs[0]] = y


@rule("Split")
def split(low: Lowering, step: Step) -> None:
    shape = low.shape(low.value(step.inputs[0]))
    axis = step.attributes.get("axis", 0) % len(shape)
    parts = integers(low.optional_constant(step, 1)) or step.attributes.get("split")
    if parts is None:
        count = int(step.attributes.get("num_outputs", step.attributes["outputs"]) or 1)
        each = -(-shape[axis] // count)
        parts = [min(each, shape[axis] - at) for at in range(0, shape[axis], each)]
    if sum(parts) != shape[axis] or len(parts) != len(step.outputs) or min(parts) < 1:
        raise NotNative("uneven parts")
    x = _by_channel(low, step.inputs[0])
    at = 0
    for name, part in zip(step.outputs, parts):
        made = list(shape)
        made[axis] = part
        start = at * x.steps()[axis]
        at += part
        if x.last and axis == 1:
            low.values[name] = x.alias(made, at=x.at + start)
            continue
        y = low.new(made, x.last)
        low.copy(x, y, x.steps(), y.steps(), made, x_at=start)
        low.values[name] = y
