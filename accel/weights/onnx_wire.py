"""The bytes of an ONNX file, counted before they are parsed, and what its graph would grow to.

protobuf makes an object of some hundred bytes from an empty message of two, so that a small file
could fill the memory. Here the nested messages are counted by following their lengths alone; tensor
contents are stepped over. Afterwards the parsed graph is looked through for functions that unfold
without end, and for sizes that nobody knows before it runs.

Source: the protobuf encoding (protobuf.dev, "Encoding").
"""

from __future__ import annotations

from mmap import mmap
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from accel.core import InputError

MAX_FIELDS = 500_000  # messages and strings in a model; large published ones have some 100,000
MAX_NUMBERS = 1_000_000  # beside them: those of a tensor lie together, as one
MAX_NESTING = 40  # messages within messages: a graph in a node in a graph takes three
MAX_UNFOLDED = 200_000  # nodes once every function is written out


def count_fields(data: bytes | mmap, name: str) -> int:
    """How many messages and strings a serialised model holds.

    Raises InputError above MAX_FIELDS, MAX_NUMBERS or MAX_NESTING, DecodeError where lengths do not
    add up.
    """
    count = numbers = 0
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
                numbers += 1
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
                numbers += 1
            else:
                raise _damaged(name)
            if count > MAX_FIELDS or numbers > MAX_NUMBERS:
                raise InputError(f"{name}: must hold {MAX_FIELDS} parts at most, holds more")
        if at != end:
            raise _damaged(name)
    return count


def _varint(
    data: bytes | mmap, at: int, end: int, name: str
) -> tuple[int, int]:  # value, where next
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
            total += sum(unfolded(graph.node) for graph in graphs_of(node))
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


# Which inputs of an operator say how large its result is, not only what is in it.
SIZED_BY = {
    "ConstantOfShape": (0,), "Expand": (1,), "Tile": (1,), "OneHot": (1,), "Range": (0, 1, 2),
    "Resize": (2, 3), "Upsample": (1,), "Pad": (1,), "CenterCropPad": (1,), "MaxUnpool": (2,),
    "HannWindow": (0,), "HammingWindow": (0,), "BlackmanWindow": (0,), "DFT": (1,), "STFT": (3,),
    "MelWeightMatrix": (0, 1),
}  # fmt: skip

# Nobody knows beforehand what these give, nor what ONNX Runtime's own operators do.
DRAWS = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial",
         "Bernoulli")  # fmt: skip


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
            for graph in graphs_of(node):
                follow(graph.node, inner | {value.name for value in graph.input})
            if node.op_type in ("Shape", "Size"):
                continue
            if node.op_type in DRAWS or node.domain == "com.microsoft":
                unknown |= set(node.output)
            key = (node.domain, node.op_type)
            if key in functions:
                unknown |= {node.output[i] for i in call(key, given) if i < len(node.output)}
            elif any(given) or graphs_of(node):
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


def graphs_of(node: NodeProto) -> list[GraphProto]:
    found = [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]
    return found + [graph for a in node.attribute for graph in a.graphs]
