"""How large the values of an ONNX graph are, worked out operator by operator before any is run.

Published graphs compute sizes as they run: the shape of one value, times two, is the size of the
next. Here each operator is asked, by ONNX's own definition of it, what it makes of inputs of known
types and of the small constants among them; small numbers on which sizes hang are computed. So a
graph that grows is refused before a runtime works the same out.
"""

from __future__ import annotations

import math
from collections import ChainMap, Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

import onnx.inliner
from onnx import GraphProto, ModelProto, NodeProto, TensorProto
from onnx.onnx_pb import TypeProto

from accel.core import InputError
from accel.weights.onnx_made import PICKING, OperatorSets, bound, data_made, refuse, types_made
from accel.weights.onnx_operators import STANDARD, check_operators, nodes_of
from accel.weights.onnx_room import check_room
from accel.weights.onnx_values import (
    FLOAT,
    SMALL,
    Array,
    Known,
    Value,
    constants_of,
    tensor_type,
)
from accel.weights.onnx_wire import SIZED_BY, graphs_of

# Elements of what passes between operators: 32 channels of 1024 by 1024 pixels. An operator needs
# its inputs, its result and some room beside them.
MAX_ELEMENTS = 1 << 25
MAX_ELEMENTS_OF_FOLDERS = 1 << 27  # of models above 2 GB, whose pictures are as large
# As often as a picture that is put in, however large it is, a value may be. 64 channels of four
# times its sides are 341 times it.
MAX_GROWTH = 512
MAX_AT_ONCE = 3  # times the bytes of the largest value, of all that are needed at a time
# Weights of gigabytes may make values in proportion: of 860 million numbers (Stable Diffusion 1.5,
# as float16) attention over two pictures of 64 by 64 takes 268 million.
WEIGHTS_TO_VALUES = 6  # bytes of weights for an element
MAX_FOLDED = 4  # times the bytes of the constants, of what is made of constants alone ...
ROOM_TO_FOLD = 1 << 28  # ... and this many more
MAX_ROUNDS = 100_000  # of a loop
# Inputs, beside those of SIZED_BY, that say what shape a result has.
SHAPED_BY = {
    "Reshape": (1,), "Slice": (1, 2, 3, 4), "Squeeze": (1,), "Unsqueeze": (1,), "Split": (1,),
    "TopK": (1,), "Loop": (0,), "Col2Im": (1, 2), "AffineGrid": (1,), "ReduceSum": (1,),
    "ReduceMean": (1,), "ReduceMax": (1,), "ReduceMin": (1,), "ReduceProd": (1,), "ReduceL1": (1,),
    "ReduceL2": (1,), "ReduceSumSquare": (1,), "ReduceLogSum": (1,), "ReduceLogSumExp": (1,),
}  # fmt: skip


def check_made(elements: int, value: str, name: str, most: int = MAX_ELEMENTS) -> None:
    if elements > most:
        raise InputError(
            f"{name}: a value must have {most} elements at most, got {elements} of {value!r:.80}"
        )


def value_shapes(model: ModelProto) -> dict[str, list[int]]:
    """The shapes of inputs and values as far as they follow from the graph; 0 is a free size."""
    sizes = Sizes(model, "graph")
    found = sizes.given({}, free=None)
    _Walk(sizes, None, is_strict=False).follow(sizes.nodes, found, sizes.outputs)
    return {
        name: [max(size, 0) for size in value.shape]
        for name, value in found.items()
        if value.shape is not None
    }


class Sizes:
    """The sizes of one graph, without its large constants, for any sizes of its inputs."""

    def __init__(self, model: ModelProto, name: str, most: int = MAX_ELEMENTS):
        """Raises InputError where operators are not as defined."""
        if model.functions:
            try:
                model = onnx.inliner.inline_local_functions(model)
            except RuntimeError:  # its text names places of the library's makers
                raise InputError(f"{name}: functions must fit the calls of them") from None
        check_operators(model, name)
        self.name, self.most = name, most
        opsets = {o.domain: o.version for o in model.opset_import}
        version = max((opsets.get(domain, 1) for domain in STANDARD), default=1)
        self.sets = OperatorSets(name, opsets, version, model.ir_version)
        self.nodes = _light(model.graph.node)
        self.outputs = [o.name for o in model.graph.output]
        self.wanted = _wanted(self.nodes)
        self._constants = dict(constants_of(model.graph))
        # Copies: a part of a message keeps all of it in memory, the weights too.
        self._inputs = {
            i.name: TypeProto.FromString(i.type.SerializeToString())
            for i in model.graph.input
            if i.name not in self._constants
        }
        written = [
            a.t for n in nodes_of(self.nodes) if n.op_type == "Constant" for a in n.attribute
        ]
        self._seen: dict[tuple[tuple[str, tuple[int, ...]], ...], int] = {}
        self.weights = sum(value.in_bytes for value in self._constants.values())
        self.weights += sum(FLOAT * math.prod(tensor.dims) for tensor in written)
        self.most = max(self.most, self.weights // WEIGHTS_TO_VALUES)

    def room(self, given: Mapping[str, Sequence[int]]) -> int:
        """Bytes that may be needed at a time for inputs of these sizes; for none at the least."""
        return MAX_AT_ONCE * FLOAT * self._most(sum(map(math.prod, given.values())))

    def _most(self, put_in: int) -> int:
        return max(self.most, MAX_GROWTH * put_in)

    def check(self, given: Mapping[str, Sequence[int]] | None = None) -> int:
        """Refuse what the graph makes of inputs of these sizes, where it is too large.

        given: sizes by the names of inputs; without them those that the file declares, a free one
        counting as 1: what is not known then, is when the graph is run, and is checked then.

        Returns the bytes of what is needed at a time. Raises InputError.
        """
        known = self.given(given or {}, free=1)
        declared = [Value(kind) for kind in self._inputs.values()]
        is_strict = given is not None or all(value.is_known for value in declared)
        put_in = sum(known[name].elements for name in given or ())
        most = self._most(put_in)
        for name in self._inputs:
            check_made(known[name].elements, name, self.name, most)
        walk = _Walk(self, most, is_strict)
        walk.follow(self.nodes, known, self.outputs)
        return walk.peak

    def check_once(self, given: Mapping[str, Sequence[int]]) -> int:
        """As `check`, where inputs of such sizes were not checked before."""
        key = tuple((name, tuple(shape)) for name, shape in given.items())
        if key not in self._seen:
            self._seen[key] = self.check(given)
        return self._seen[key]

    @property
    def at_once(self) -> int | None:
        """Bytes needed at a time for one item; None where a size of it is left open."""
        for kind in self._inputs.values():
            dims = kind.tensor_type.shape.dim
            if not kind.tensor_type.HasField("shape") or not all(d.dim_value for d in dims[1:]):
                return None
        return self.check()

    def given(self, sizes: Mapping[str, Sequence[int]], free: int | None) -> dict[str, Value]:
        """Inputs and constants to begin with. free: what counts for a size left open, if any."""
        found = dict(self._constants)
        for name, kind in self._inputs.items():
            made = TypeProto()
            made.CopyFrom(kind)
            if name in sizes:
                made = tensor_type(kind.tensor_type.elem_type, sizes[name])
            elif made.tensor_type.HasField("shape") and free is not None:
                for size in made.tensor_type.shape.dim:
                    if not size.dim_value:
                        size.dim_value = free
            found[name] = Value(made)
        return found


def _light(nodes: Iterable[NodeProto]) -> list[NodeProto]:
    """Copies without what is in large constants, which nobody reads here."""
    made = GraphProto()
    made.node.extend(nodes)
    for node in nodes_of(made.node):
        for attribute in node.attribute:
            for tensor in (attribute.t, *attribute.tensors, *attribute.g.initializer):
                if math.prod(tensor.dims) > SMALL:
                    tensor.ClearField("raw_data")
                    tensor.ClearField("float_data")
    # What is cleared is given back with the whole message alone.
    return list(GraphProto.FromString(made.SerializeToString()).node)


def _wanted(nodes: Sequence[NodeProto]) -> set[str]:
    """The values on which sizes hang, the shapes of others aside."""
    found: set[str] = set()
    for node in reversed(nodes):
        for graph in graphs_of(node):
            found |= _wanted(graph.node)
        says = _says_sizes(node)
        if node.op_type in PICKING:  # how large its result is hangs on what is in its inputs
            found.update(node.output)
        found.update(node.input[i] for i in says if i < len(node.input))
        if node.op_type not in ("Shape", "Size") and not found.isdisjoint(node.output):
            found.update(node.input)
    return found - {""}


def _says_sizes(node: NodeProto) -> tuple[int, ...]:
    return SIZED_BY.get(node.op_type, ()) + SHAPED_BY.get(node.op_type, ())


class _Walk:
    """Goes over a graph's operators in order, for one set of input sizes."""

    def __init__(self, sizes: Sizes, most: int | None, is_strict: bool):
        """most: elements of a value; None: nothing is refused.

        is_strict: whether what has no size that can be known is refused too.
        """
        self._sizes, self._name = sizes, sizes.name
        self._most, self._is_strict = most, is_strict
        self._now = self._folded = self.peak = 0  # bytes

    def follow(self, nodes: Sequence[NodeProto], known: Known, outputs: Iterable[str]) -> None:
        """Add to `known` what each operator makes."""
        left = Counter(name for node in nodes for name in _reads(node))
        left.update(outputs)
        mine: dict[str, int] = {}
        for node in nodes:
            for name, value in zip(node.output, self._made(node, known)):
                if name:
                    known[name] = value
                    mine[name] = self._counted(node, name, value)
            for name in _reads(node):
                left[name] -= 1
                if not left[name]:
                    self._now -= mine.pop(name, 0)
        self._now -= sum(mine.values())

    def _counted(self, node: NodeProto, name: str, value: Value) -> int:
        """The bytes that a value takes until its last reader is done."""
        if self._most is None or node.op_type == "Constant":
            return 0
        check_made(value.elements, name, self._name, self._most)
        if self._is_strict and not value.is_known:
            self._refuse(node, "make what has a size that follows from constants and inputs' sizes")
        if value.is_constant:
            self._folded += value.in_bytes
            most = MAX_FOLDED * self._sizes.weights + ROOM_TO_FOLD
            if self._folded > most:
                raise InputError(
                    f"{self._name}: what is made of constants must take {most} bytes at most, got"
                    f" {self._folded}"
                )
        else:
            self._now += value.in_bytes
        # Constants stay; of those that are as large as weights unpacked the file says so itself.
        at_once = self._now + max(self._folded - MAX_FOLDED * self._sizes.weights, 0)
        self.peak, most = max(self.peak, at_once), MAX_AT_ONCE * FLOAT * self._most
        if at_once > most:
            raise InputError(
                f"{self._name}: values needed at a time must take {most} bytes at most, got"
                f" {at_once}"
            )
        return 0 if value.is_constant else value.in_bytes

    def _refuse(self, node: NodeProto, must: str) -> NoReturn:
        refuse(node, must, self._name)

    def _made(self, node: NodeProto, known: Known) -> list[Value]:
        if node.op_type == "If":
            return self._branches(node, known)
        if node.op_type == "Loop":
            return self._loop(node, known)
        if graphs_of(node):
            self._refuse(node, "hold no graph; If and Loop may")
        given = [known.get(name) if name else None for name in node.input]
        for index in _says_sizes(node):
            value = given[index] if index < len(given) else None
            if value is not None and value.elements > SMALL:
                if self._most is None:
                    return [Value(TypeProto()) for _ in node.output]
                self._refuse(node, f"be told {SMALL} sizes at most")
        types = types_made(node, given, self._sizes.sets, is_strict=self._is_strict)
        is_most = any(v is not None and v.is_most for v in given)
        if self._most is not None:
            is_most = bound(node, given, types) or is_most
        made = [Value(kind, is_most=is_most) for kind in types]
        if self._most is not None:
            check_room(node, given, made, self._name, self._most)
        if node.op_type in ("Shape", "Size") and given[0] is not None:
            # What is no more than something may be less: nothing else can be sized by it.
            is_constant = given[0].is_known and not is_most
        else:
            is_constant = all(
                v is not None and v.is_constant for n, v in zip(node.input, given) if n
            )
        if not is_constant:
            return made
        data: list[Array | None] = [None] * len(made)
        if any(name in self._sizes.wanted for name in node.output):
            data = data_made(node, given, made, self._sizes.sets)
        return [_constant(value, one) for value, one in zip(made, data)]

    def _graphs(self, node: NodeProto, count: int) -> list[GraphProto]:
        found = graphs_of(node)
        if len(found) != count:
            self._refuse(node, f"hold {count} graphs, got {len(found)}")
        return found

    def _branches(self, node: NodeProto, known: Known) -> list[Value]:
        ends = []
        for graph in self._graphs(node, 2):
            inner: Known = ChainMap(dict(constants_of(graph)), known)  # type: ignore[arg-type]
            names = [o.name for o in graph.output]
            self.follow(graph.node, inner, names)
            ends.append([inner.get(name, Value(TypeProto())) for name in names])
        pairs = zip(*ends)
        return [
            Value(
                one.type if one.shape == other.shape else TypeProto(),
                is_most=one.is_most or other.is_most,
            )
            for one, other in pairs
        ]

    def _loop(self, node: NodeProto, known: Known) -> list[Value]:
        """What is handed from round to round must keep its size; what each adds is piled up."""
        told = known.get(node.input[0])
        rounds = None if told is None or told.data is None else int(told.data.sum())
        if self._most is not None and (rounds is None or not 0 <= rounds <= MAX_ROUNDS):
            self._refuse(node, f"state its rounds, {MAX_ROUNDS} at most, as a constant")
        body = self._graphs(node, 1)[0]
        handed = [known.get(name, Value(TypeProto())) for name in node.input[2:]]
        begin = [
            Value(tensor_type(TensorProto.INT64, ())),
            Value(tensor_type(TensorProto.BOOL, ())),
        ]
        names = [i.name for i in body.input]
        inner: Known = ChainMap(
            dict(constants_of(body))
            | dict(zip(names, [*begin, *(Value(v.type, is_most=v.is_most) for v in handed)])),
            known,  # type: ignore[arg-type]
        )
        ends = [o.name for o in body.output]
        self.follow(body.node, inner, ends)
        made = [inner.get(name, Value(TypeProto())) for name in ends[1:]]
        kept, piled = made[: len(handed)], made[len(handed) :]
        if self._most is not None and any(
            k.shape != h.shape or k.is_most > h.is_most for k, h in zip(kept, handed)
        ):
            self._refuse(node, "keep the sizes of what it hands from round to round")
        return [Value(k.type, is_most=k.is_most) for k in kept] + [
            Value(
                tensor_type(p.type.tensor_type.elem_type, (rounds or 0, *(p.shape or (-1,)))),
                is_most=p.is_most,
            )
            for p in piled
        ]


def _constant(made: Value, data: Array | None) -> Value:
    """A value that hangs on constants alone; where it is known, so is its size."""
    if data is None:
        return replace(made, is_constant=True)
    return Value(tensor_type(made.type.tensor_type.elem_type, data.shape), data, True)


def _reads(node: NodeProto) -> set[str]:
    """The values that an operator reads, in its graphs too."""
    found = set(node.input)
    for graph in graphs_of(node):
        for inner in graph.node:
            found |= _reads(inner)
        found.update(o.name for o in graph.output)
    return found - {""}
