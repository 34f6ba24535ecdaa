"""What operators need beside their inputs and their results, as runtimes compute them.

Sources: the ONNX operator documents; the kernels of ONNX Runtime and of accel.nn.onnx.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from onnx import AttributeProto, NodeProto

from accel.core import InputError

FARTHEST = 1 << 25  # of pads, steps, sides: above, sums of them could wrap around
SIDES = frozenset((
    "pads", "strides", "dilations", "kernel_shape", "output_padding", "output_shape", "blocksize",
    "size", "sampling_ratio", "hidden_size", "num_groups", "group",
))  # fmt: skip
# Which make memory of the numbers that they are given, not of their sizes alone.
UNBOUNDED = ("RoiAlign", "TfIdfVectorizer")
CONVOLUTIONS = {"Conv": 1, "DeformConv": 1, "ConvInteger": 1, "QLinearConv": 3}  # where weights are
BY_COLUMNS = ("DeformConv", "ConvInteger", "QLinearConv")  # a number for each tap of each result
CHANNELS_TOGETHER = 16  # ONNX Runtime keeps so many of a convolution's result, be they fewer
POOLS = ("MaxPool", "AveragePool", "LpPool")


class Sized(Protocol):
    @property
    def data(self) -> Any: ...

    @property
    def shape(self) -> tuple[int, ...] | None: ...

    @property
    def elements(self) -> int: ...


def check_room(
    node: NodeProto, given: Sequence[Any], made: Sequence[Any], name: str, most: int
) -> None:
    """Refuse an operator that needs more than `most` numbers to come to its result.

    Raises InputError.
    """
    if node.op_type in UNBOUNDED:
        raise InputError(f"{name}: operator {node.op_type} must not occur: its sizes are unknown")
    told = {a.name: _value(a) for a in node.attribute}
    for key in SIDES & told.keys():
        values = told[key] if isinstance(told[key], list) else [told[key]]
        if any(isinstance(v, int) and abs(v) > FARTHEST for v in values):
            raise InputError(
                f"{name}: {key} of operator {node.op_type!r:.60} must lie within {FARTHEST}"
            )
    try:
        needed = _needed(node.op_type, told, given, made)
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError):
        return  # attributes that no operator takes
    if needed > most:
        raise InputError(
            f"{name}: operator {node.op_type!r:.60} must need {most} numbers at most beside its"
            f" inputs and results, needs {needed}"
        )


def _value(attribute: AttributeProto) -> Any:
    if attribute.type == AttributeProto.INTS:
        return list(attribute.ints)
    return attribute.s if attribute.type == AttributeProto.STRING else attribute.i


def _needed(
    kind: str, told: dict[str, Any], given: Sequence[Sized | None], made: Sequence[Sized]
) -> int:
    if not given or given[0] is None or given[0].shape is None:
        return 0
    shape = given[0].shape
    if kind == "Range":
        return _counted([v.data if v is not None else None for v in given])
    if kind in CONVOLUTIONS:
        weight = given[CONVOLUTIONS[kind]]
        taps = weight.shape if weight is not None and weight.shape else ()
        pixels = made[0].elements // max(taps[0], 1)
        columns = pixels * math.prod(taps[1:]) if kind in BY_COLUMNS else 0
        return max(_padded(shape, taps[2:], told), columns, pixels * CHANNELS_TOGETHER)
    if kind in POOLS:
        return _padded(shape, told["kernel_shape"], told)
    if kind == "ConvTranspose" and given[1] is not None and given[1].shape:
        return _turned(shape, given[1].shape, told)
    if kind == "LRN":
        return (shape[1] + int(told["size"])) * max(given[0].elements // max(shape[1], 1), 1)
    if kind == "Einsum" and len(given) > 2:
        return math.prod(v.elements for v in given if v is not None)
    if kind == "GroupNormalization" and given[1] is not None:
        return given[1].elements * shape[1] // max(int(told["num_groups"]), 1)
    if kind == "Attention" and given[1] is not None and given[1].shape:
        heads = shape[1] if len(shape) == 4 else int(told["q_num_heads"])
        scores: int = shape[0] * heads * shape[-2] * given[1].shape[-2]
        return scores
    return 0


def _counted(ends: Sequence[Any]) -> int:
    """Numbers of a Range, which ONNX's own sum takes for none where they are beyond 64 bits."""
    if any(end is None or end.size != 1 for end in ends):
        return 0
    start, limit, step = (float(end.flat[0]) for end in ends)
    many = abs((limit - start) / step) if step else math.inf
    return 0 if math.isnan(many) else int(min(many, 1 << 62))


def _padded(shape: Sequence[int], kernel: Sequence[int], told: Mapping[str, Any]) -> int:
    """A picture with what is put around it."""
    dims = len(shape) - 2
    pads, strides = told.get("pads") or [0] * 2 * dims, told.get("strides") or [1] * dims
    dilations = told.get("dilations") or [1] * dims
    sides = []
    for i, size in enumerate(shape[2:]):
        around = pads[i] + pads[dims + i]
        if told.get("auto_pad", b"NOTSET").startswith(b"SAME") or told.get("ceil_mode"):
            around += (kernel[i] - 1) * dilations[i] + strides[i]
        sides.append(max(size + around, 1))
    return shape[0] * shape[1] * math.prod(sides)


def _turned(shape: Sequence[int], weight: Sequence[int], told: Mapping[str, Any]) -> int:
    """What a transposed convolution makes before it is cut, or a number for each tap if more."""
    dims = len(shape) - 2
    ones = [1] * dims
    strides, dilations = told.get("strides") or ones, told.get("dilations") or ones
    extra = told.get("output_padding") or [0] * dims
    channels = weight[1] * max(int(told.get("group", 1)), 1)
    whole = [
        (n - 1) * strides[i] + (weight[2 + i] - 1) * dilations[i] + 1 + extra[i]
        for i, n in enumerate(shape[2:])
    ]
    taps = math.prod(weight[1:]) * math.prod(shape[2:])
    cut: int = shape[0] * channels * math.prod(whole)
    return max(cut, taps // 4)
