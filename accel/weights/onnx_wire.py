"""The bytes of an ONNX file, counted before they are parsed, and what its graph would grow to.

protobuf makes an object of some hundred bytes from an empty message of two, so that a small file
could fill the memory. Here the nested messages are counted by following their lengths alone; tensor
contents are stepped over. Afterwards the parsed graph is looked through for functions that unfold
without end, loops without a bound and operators that make large tensors of small ones.

Source: the protobuf encoding (protobuf.dev, "Encoding").
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from accel.core import InputError

MAX_FIELDS = 500_000  # messages and strings in a model; large published ones have some 100,000
MAX_NESTING = 40  # messages within messages: a graph in a node in a graph takes three
MAX_UNFOLDED = 1_000_000  # nodes once every function is written out
MAX_ROUNDS = 100_000  # of a loop
MAX_MADE = 1 << 26  # elements of a tensor that is made from nothing but its size


def count_fields(data: bytes, name: str) -> int:
    """How many messages and strings a serialised model holds.

    Raises InputError above MAX_FIELDS or MAX_NESTING, DecodeError where lengths do not add up.
    """
    count = 0
    kinds: dict[str, dict[int, Any]] = {}  # which fields of a kind of message are messages again
    todo: list[tuple[Any, int, int, int]] = [(ModelProto.DESCRIPTOR, 0, len(data), 0)]
    while todo:
        kind, at, end, depth = todo.pop()
        if kind.full_name not in kinds:
            fields = {field.number: field.message_type for field in kind.fields}
            kinds[kind.full_name] = {n: inner for n, inner in fields.items() if inner is not None}
        inner = kinds[kind.full_name]
        if depth > MAX_NESTING:
            raise InputError(f"{name}: must nest {MAX_NESTING} messages deep at most, nests deeper")
        while at < end:
            tag, at = _varint(data, at, end, name)
            wire = tag & 7
            if wire == 2:
                length, at = _varint(data, at, end, name)
                count += 1
                if length > end - at:
                    raise _damaged(name)
                if tag >> 3 in inner:
                    todo.append((inner[tag >> 3], at, at + length, depth + 1))
                at += length
            elif wire == 0:
                _, at = _varint(data, at, end, name)
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            else:
                raise _damaged(name)
            if count > MAX_FIELDS or len(todo) > MAX_FIELDS:
                raise InputError(f"{name}: must hold {MAX_FIELDS} parts at most, holds more")
        if at != end:
            raise _damaged(name)
    return count


def _varint(data: bytes, at: int, end: int, name: str) -> tuple[int, int]:  # value, where next
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _damaged(name)


def _damaged(name: str) -> DecodeError:
    return DecodeError(f"{name}: lengths do not add up")


def check_growth(model: ModelProto, name: str) -> None:
    """Refuse a graph that is small and makes itself large or endless."""
    sizes: dict[tuple[str, str], int] = {}
    functions = {(f.domain, f.name): f for f in model.functions}
    if len(functions) != len(model.functions):
        raise InputError(f"{name}: every function must have its own name")
    open_now: set[tuple[str, str]] = set()

    def unfolded(nodes: Any) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            total += call(key) if key in functions else 1
            total += sum(unfolded(graph.node) for graph in _graphs(node))
            if total > MAX_UNFOLDED:
                raise InputError(
                    f"{name}: must unfold to {MAX_UNFOLDED} operators at most, unfolds to more"
                )
        return total

    def call(key: tuple[str, str]) -> int:
        if key in open_now:
            raise InputError(f"{name}: function {key[1]!r:.80} must not call itself")
        if key not in sizes:
            open_now.add(key)
            if len(open_now) > MAX_NESTING:
                raise InputError(f"{name}: functions must nest {MAX_NESTING} deep at most")
            sizes[key] = unfolded(functions[key].node)
            open_now.discard(key)
        return sizes[key]

    unfolded(model.graph.node)
    for key in functions:
        call(key)
    _check_sizes(model, functions, name)
    _check_operators(model.graph.node, _constants(model.graph), name)
    for function in model.functions:
        _check_operators(function.node, {}, name)


# Which inputs of an operator say how large its result is, not only what is in it.
SIZED_BY = {
    "ConstantOfShape": (0,), "Expand": (1,), "Tile": (1,), "OneHot": (1,), "Range": (0, 1, 2),
    "Resize": (2, 3), "Upsample": (1,), "Pad": (1,), "CenterCropPad": (1,), "MaxUnpool": (2,),
    "HannWindow": (0,), "HammingWindow": (0,), "BlackmanWindow": (0,), "DFT": (1,), "STFT": (3,),
    "MelWeightMatrix": (0, 1),
}  # fmt: skip


def _check_sizes(model: ModelProto, functions: dict[tuple[str, str], Any], name: str) -> None:
    """Refuse sizes that are computed from what is in the inputs: nobody knows them before.

    What an input's shape says may set sizes, as may constants.
    """
    seen: dict[tuple[Any, ...], frozenset[int]] = {}

    def follow(nodes: Any, unknown: set[str]) -> None:
        for node in nodes:
            given = [value in unknown for value in node.input]
            for index in SIZED_BY.get(node.op_type, ()):
                if index < len(given) and given[index]:
                    raise InputError(
                        f"{name}: {node.op_type} must take its size from constants or shapes, "
                        f"not from the numbers put in"
                    )
            inner = set(unknown)
            for graph in _graphs(node):
                follow(graph.node, inner | {value.name for value in graph.input})
            if node.op_type in ("Shape", "Size"):
                continue
            key = (node.domain, node.op_type)
            if key in functions:
                unknown |= {node.output[i] for i in call(key, given) if i < len(node.output)}
            elif any(given) or _graphs(node):
                unknown |= set(node.output)

    def call(key: tuple[str, str], given: list[bool]) -> frozenset[int]:
        """Which outputs of a function depend on the numbers put in."""
        case = (*key, *given)
        if case not in seen:
            function = functions[key]
            unknown = {value for value, is_unknown in zip(function.input, given) if is_unknown}
            follow(function.node, unknown)
            seen[case] = frozenset(i for i, v in enumerate(function.output) if v in unknown)
        return seen[case]

    constants = {tensor.name for tensor in model.graph.initializer}
    follow(model.graph.node, {v.name for v in model.graph.input} - constants)


def _graphs(node: NodeProto) -> list[GraphProto]:
    found = [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]
    return found + [graph for a in node.attribute for graph in a.graphs]


def _constants(graph: GraphProto) -> dict[str, TensorProto]:
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            values = [a.t for a in node.attribute if a.name == "value"]
            found |= dict(zip(node.output, values))
    return found


def _check_operators(nodes: Any, constants: dict[str, TensorProto], name: str) -> None:
    for node in nodes:
        inner = constants
        for graph in _graphs(node):
            inner = constants | _constants(graph)
            _check_operators(graph.node, inner, name)
        if node.op_type == "Loop":
            rounds = _numbers(node, 0, constants)
            if rounds is None or not 0 <= rounds.sum() <= MAX_ROUNDS:
                raise InputError(
                    f"{name}: a Loop must state its rounds, {MAX_ROUNDS} at most, as a constant"
                )
        made = _made(node, constants)
        if made > MAX_MADE:
            raise InputError(
                f"{name}: {node.op_type!r:.40} must make {MAX_MADE} numbers at most, makes {made}"
            )


def _made(node: NodeProto, constants: dict[str, TensorProto]) -> int:
    """Elements that an operator makes, as far as constants say; 0 where they do not."""
    if node.op_type == "ConstantOfShape":
        return _product(_numbers(node, 0, constants))
    if node.op_type in ("RandomNormal", "RandomUniform"):
        shape = next((a.ints for a in node.attribute if a.name == "shape"), ())
        return math.prod(max(int(n), 0) for n in shape)
    if node.op_type in ("Expand", "Tile"):
        return _product(_numbers(node, 1, constants))
    if node.op_type == "OneHot":
        return _product(_numbers(node, 1, constants))
    if node.op_type == "Range":
        ends = [_numbers(node, i, constants) for i in range(3)]
        if any(n is None or n.size != 1 for n in ends):
            return 0
        start, limit, step = (float(n.flat[0]) for n in ends if n is not None)
        many = abs((limit - start) / step) if step else math.inf
        return 0 if math.isnan(many) else int(min(many, 2**62))
    if node.op_type == "Resize":
        sizes = _numbers(node, 3, constants)
        return _product(sizes) if sizes is not None else 0
    if node.op_type == "Pad":
        pads = _numbers(node, 1, constants)
        return 0 if pads is None or not pads.size else int(max(0, pads.max()))
    return 0


def _product(shape: np.ndarray[Any, Any] | None) -> int:
    return 0 if shape is None else math.prod(max(int(n), 0) for n in shape.flat)


def _numbers(
    node: NodeProto, index: int, constants: dict[str, TensorProto]
) -> np.ndarray[Any, Any] | None:
    tensor = constants.get(node.input[index]) if len(node.input) > index else None
    if tensor is None or math.prod(tensor.dims) > 64:
        return None
    try:
        found: np.ndarray[Any, Any] = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, NotImplementedError):
        return None  # ONNX Runtime will say what is wrong with it
    return found if found.dtype.kind in "iuf" else None
