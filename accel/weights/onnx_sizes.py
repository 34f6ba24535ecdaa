"""How large the values of an ONNX graph are, worked out operator by operator before any is run.

Published graphs compute sizes as they run: the shape of one value, times two, is the size of the
next. Here each operator is asked, by ONNX's own definition of it, what it makes of inputs of known
types and of the small constants among them; small numbers on which sizes hang are computed. So a
graph that grows is refused before a runtime works the same out.
"""

from __future__ import annotations

import math
from collections import ChainMap, Counter
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.onnx_pb import TypeProto

from accel.core import InputError
from accel.weights.onnx_operators import STANDARD, check_operators, definition, nodes_of
from accel.weights.onnx_room import check_room
from accel.weights.onnx_wire import SIZED_BY, graphs_of

Array = np.ndarray[Any, Any]

# Elements of what passes between operators: 32 channels of 1024 by 1024 pixels. An operator needs
# its inputs, its result and some room beside them.
MAX_ELEMENTS = 1 << 25
MAX_ELEMENTS_OF_FOLDERS = 1 << 27  # of models above 2 GB, whose pictures are as large
# As often as a picture that is put in, however large it is, a value may be. 64 channels of four
# times its sides are 341 times it.
MAX_GROWTH = 512
MAX_AT_ONCE = 4  # times the bytes of the largest value, of all that are needed at a time
MAX_FOLDED = 4  # times the bytes of the constants, of what is made of constants alone ...
ROOM_TO_FOLD = 1 << 28  # ... and this many more
MAX_ROUNDS = 100_000  # of a loop
SMALL = 1000  # elements; what says the shape of other things is smaller
FLOAT = 4  # bytes
# Inputs, beside those of SIZED_BY, that say what shape a result has.
SHAPED_BY = {
    "Reshape": (1,), "Slice": (1, 2, 3, 4), "Squeeze": (1,), "Unsqueeze": (1,), "Split": (1,),
    "TopK": (1,), "Loop": (0,), "Col2Im": (1, 2), "AffineGrid": (1,), "ReduceSum": (1,),
    "ReduceMean": (1,), "ReduceMax": (1,), "ReduceMin": (1,), "ReduceProd": (1,), "ReduceL1": (1,),
    "ReduceL2": (1,), "ReduceSumSquare": (1,), "ReduceLogSum": (1,), "ReduceLogSumExp": (1,),
}  # fmt: skip
# What sizes are computed with; each needs no more memory than its inputs and its result.
COMPUTED = frozenset((
    "Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Concat", "Constant", "ConstantOfShape",
    "CumSum", "Div", "Equal", "Exp", "Expand", "Flatten", "Floor", "Gather", "GatherElements",
    "GatherND", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Log", "Max", "Min",
    "Mod", "Mul", "Neg", "NonZero", "Not", "Or", "Pow", "Range", "ReduceMax", "ReduceMin",
    "ReduceProd", "ReduceSum", "Reshape", "Round", "ScatterElements", "ScatterND", "Sign", "Size",
    "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tile", "Transpose", "Unsqueeze", "Where",
))  # fmt: skip
# ONNX Runtime's own operators whose results have the sizes of a standard one's, and of which of
# their inputs. What others of its operators make is not known.
LIKE: dict[str, tuple[str, tuple[int, ...]]] = {
    **dict.fromkeys(
        ("BiasGelu", "BiasSoftmax", "DequantizeLinear", "FastGelu", "Gelu", "GroupNorm",
         "QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax", "QuantizeLinear", "QuickGelu",
         "RotaryEmbedding", "SimplifiedLayerNormalization", "SkipLayerNormalization",
         "SkipSimplifiedLayerNormalization"), ("Identity", (0,))),
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), ("Add", (0, 3))),
    **dict.fromkeys(("DynamicQuantizeMatMul", "MatMulIntegerToFloat"), ("MatMul", (0, 1))),
    "FusedConv": ("Conv", (0, 1, 2)),
    "QGemm": ("Gemm", (0, 3)),  # scales and zero points lie between
    "QLinearAveragePool": ("AveragePool", (0,)),
    "QLinearConcat": ("Concat", tuple(range(2, SMALL, 3))),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
}  # fmt: skip
# Of which input their results have the kind of numbers, where it is not the first that has sizes,
# and the kind where that input is left out.
KIND_OF: dict[str, tuple[int, int]] = {
    "DequantizeLinear": (1, TensorProto.FLOAT),
    "MatMulIntegerToFloat": (2, TensorProto.FLOAT),
    "QGemm": (8, TensorProto.FLOAT),
    "QuantizeLinear": (2, TensorProto.UINT8),
}
ITEM_BYTES = dict.fromkeys(
    (TensorProto.INT64, TensorProto.UINT64, TensorProto.DOUBLE, TensorProto.COMPLEX64,
     TensorProto.COMPLEX128), 8)  # fmt: skip


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


@dataclass(frozen=True)
class Value:
    """What is known of a value: its type, and what is in it where it is small and certain.

    is_constant: whether it hangs on no input, so that a runtime may work it out once and keep it.
    is_most: whether its sizes are the largest that it can have: how large it is hangs on numbers.
    """

    type: TypeProto
    data: Array | None = None
    is_constant: bool = False
    is_most: bool = False

    @cached_property
    def shape(self) -> tuple[int, ...] | None:  # -1 for a size that is not known
        tensor = self.type.tensor_type
        if not tensor.HasField("shape"):
            return None
        return tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)

    @property
    def has_type(self) -> bool:
        return self.type.WhichOneof("value") is not None

    @property
    def is_known(self) -> bool:
        return self.shape is not None and min(self.shape, default=0) >= 0

    @property
    def elements(self) -> int:
        """At least; sides count where others are 0 too: indices of each side are made."""
        return math.prod(max(size, 1) for size in self.shape or ())

    @property
    def in_bytes(self) -> int:
        return self.elements * ITEM_BYTES.get(self.type.tensor_type.elem_type, FLOAT)

    @cached_property
    def type_bytes(self) -> bytes:
        found: bytes = self.type.SerializeToString()
        return found

    @cached_property
    def data_bytes(self) -> bytes:
        assert self.data is not None
        found: bytes = numpy_helper.from_array(self.data).SerializeToString()
        return found


Known = MutableMapping[str, Value]


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
        self.opsets = {o.domain: o.version for o in model.opset_import}
        self.version = max((self.opsets.get(domain, 1) for domain in STANDARD), default=1)
        self.ir_version = model.ir_version
        self.nodes = _light(model.graph.node)
        self.outputs = [o.name for o in model.graph.output]
        self.wanted = _wanted(self.nodes)
        self._constants = dict(_constants(model.graph))
        # Copies: a part of a message keeps all of it in memory, the weights too.
        self._inputs = {
            i.name: TypeProto.FromString(i.type.SerializeToString())
            for i in model.graph.input
            if i.name not in self._constants
        }
        written = [
            a.t for n in nodes_of(self.nodes) if n.op_type == "Constant" for a in n.attribute
        ]
        self._seen: set[tuple[tuple[str, tuple[int, ...]], ...]] = set()
        self.weights = sum(value.in_bytes for value in self._constants.values())
        self.weights += sum(FLOAT * math.prod(tensor.dims) for tensor in written)

    def check(self, given: Mapping[str, Sequence[int]] | None = None) -> None:
        """Refuse what the graph makes of inputs of these sizes, where it is too large.

        given: sizes by the names of inputs; without them those that the file declares, a free one
        counting as 1: what is not known then, is when the graph is run, and is checked then.

        Raises InputError.
        """
        known = self.given(given or {}, free=1)
        declared = [Value(kind) for kind in self._inputs.values()]
        is_strict = given is not None or all(value.is_known for value in declared)
        put_in = sum(known[name].elements for name in given or ())
        most = max(self.most, MAX_GROWTH * put_in)
        for name in self._inputs:
            check_made(known[name].elements, name, self.name, most)
        _Walk(self, most, is_strict).follow(self.nodes, known, self.outputs)

    def check_once(self, given: Mapping[str, Sequence[int]]) -> None:
        """As `check`, where inputs of such sizes were not checked before."""
        key = tuple((name, tuple(shape)) for name, shape in given.items())
        if key in self._seen:
            return
        self.check(given)
        self._seen.add(key)

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
        self._now = self._folded = 0  # bytes

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
            return 0
        self._now += value.in_bytes
        most = MAX_AT_ONCE * FLOAT * self._most
        if self._now > most:
            raise InputError(
                f"{self._name}: values needed at a time must take {most} bytes at most, got"
                f" {self._now}"
            )
        return value.in_bytes

    def _refuse(self, node: NodeProto, must: str) -> None:
        raise InputError(f"{self._name}: operator {node.op_type!r:.60} must {must}")

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
        types = self._types(node, given)
        is_most = any(v is not None and v.is_most for v in given)
        if self._most is not None:
            is_most = _bound(node, given, types) or is_most
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
            data = self._data(node, given, made)
        return [Value(value.type, one, True) for value, one in zip(made, data)]

    def _types(self, node: NodeProto, given: Sequence[Value | None]) -> list[TypeProto]:
        """What kinds of values an operator makes, their sizes as far as they are known."""
        unknown = [TypeProto() for _ in node.output]
        numbers = 0  # the kind of the results, where the operator stands in for another
        if node.domain not in STANDARD:
            if node.op_type not in LIKE:
                return unknown
            kind, indices = LIKE[node.op_type]
            # A standard pool has its channels first: pads of other sides make other sizes.
            if kind.endswith("Pool") and any(a.name == "channels_last" for a in node.attribute):
                return unknown
            numbers = _kind_of(node, given, indices[0])
            given = [_as_floats(given[i]) for i in indices if i < len(given)]
            node = _like(node, kind, indices)
        schema = definition(node.op_type, self._sizes.version)
        pairs = {name: value for name, value in zip(node.input, given) if name}
        if schema is None or any(v is None or not v.has_type for v in pairs.values()):
            return unknown
        types = {name: v.type_bytes for name, v in pairs.items() if v is not None}
        data = {n: v.data_bytes for n, v in pairs.items() if v is not None and v.data is not None}
        try:
            found = schema._infer_node_outputs(
                node.SerializeToString(), types, data, {}, self._sizes.opsets,
                self._sizes.ir_version,
            )  # fmt: skip
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, ValueError):
            if self._is_strict:
                raise InputError(
                    f"{self._name}: inputs must fit the graph, those of {node.op_type!r:.60} do not"
                ) from None
            return unknown
        except (IndexError, MemoryError, RuntimeError, TypeError):  # versions beyond 32 bits
            raise InputError(
                f"{self._name}: its operators must have sizes, ONNX finds none"
            ) from None
        made = [TypeProto.FromString(found.get(name, b"")) for name in node.output]
        for one in made:
            if numbers and one.HasField("tensor_type"):
                one.tensor_type.elem_type = numbers
            is_tensor = one.WhichOneof("value") in (None, "tensor_type")
            if not is_tensor or one.tensor_type.elem_type == TensorProto.STRING:
                self._refuse(node, "make tensors of numbers")
        return made + unknown[len(made) :]

    def _graphs(self, node: NodeProto, count: int) -> list[GraphProto]:
        found = graphs_of(node)
        if len(found) != count:
            self._refuse(node, f"hold {count} graphs, got {len(found)}")
        return found

    def _branches(self, node: NodeProto, known: Known) -> list[Value]:
        ends = []
        for graph in self._graphs(node, 2):
            inner: Known = ChainMap(dict(_constants(graph)), known)  # type: ignore[arg-type]
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
            dict(_constants(body))
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

    def _data(
        self, node: NodeProto, given: Sequence[Value | None], made: Sequence[Value]
    ) -> list[Array | None]:
        """What is in the results, where that is small and certain."""
        nothing: list[Array | None] = [None] * len(made)
        if node.op_type == "Shape" and given[0] is not None:
            told = {a.name: a.i for a in node.attribute}
            shape = (given[0].shape or ())[told.get("start", 0) : told.get("end")]
            return [np.array(shape, np.int64)]
        if node.op_type == "Size" and given[0] is not None:
            return [np.array(math.prod(given[0].shape or ()), np.int64)]
        if node.op_type == "Constant":
            return [_written(node), *nothing[1:]]
        if node.op_type not in COMPUTED or node.domain not in STANDARD:
            return nothing
        # NonZero's result is as large as its input at most.
        sizes = [m.elements for m in made] + [v.elements for v in given if v is not None]
        certain = all(v is None or v.data is not None for v in given)
        if not certain or max(sizes, default=0) > SMALL:
            return nothing
        from onnx.reference import ReferenceEvaluator  # half a second, which most graphs spare

        feeds = {n: v.data for n, v in zip(node.input, given) if v is not None}
        named = [name for name in node.output if name]
        try:
            # A node by itself would be taken for one of the newest operator set.
            graph = onnx.helper.make_graph(
                [node],
                "one",
                *([onnx.ValueInfoProto(name=n) for n in names] for names in (feeds, named)),
            )
            results = ReferenceEvaluator(graph, opsets=self._sizes.opsets).run(None, feeds)
        except Exception:  # attributes may be of any kind; the runtime says what is wrong
            return nothing
        found = {
            name: np.asarray(r)
            for name, r in zip(named, results)
            if isinstance(r, np.ndarray | np.generic)
        }
        return [found.get(name) for name in node.output]


def _bound(node: NodeProto, given: Sequence[Value | None], types: Sequence[TypeProto]) -> bool:
    """Put the largest into sizes that hang on numbers; return whether there were such."""
    most = _most_found(node, given)
    free = [
        size
        for kind in types
        if most is not None and kind.tensor_type.HasField("shape")
        for size in kind.tensor_type.shape.dim
        if not size.HasField("dim_value")
    ]
    for size in free:
        size.dim_value = most
    return bool(free)


def _most_found(node: NodeProto, given: Sequence[Value | None]) -> int | None:
    """How much an operator that picks things out of its input can pick."""
    first = given[0] if given else None
    if node.domain not in STANDARD or first is None or not first.is_known:
        return None
    shape = first.shape or ()
    axis = next((a.i for a in node.attribute if a.name == "axis"), None)
    if node.op_type in ("Compress", "Unique") and axis is not None:
        return shape[axis] if -len(shape) <= axis < len(shape) else None
    if node.op_type in ("NonZero", "Compress", "Unique"):
        return first.elements
    if node.op_type == "NonMaxSuppression" and len(given) > 1:
        scores = given[1].shape if given[1] is not None and given[1].is_known else None
        if len(shape) != 3 or scores is None or len(scores) != 3:
            return None
        limit = given[2].data if len(given) > 2 and given[2] is not None else None
        of_each = shape[1] if limit is None else min(shape[1], max(int(limit.sum()), 0))
        return shape[0] * scores[1] * of_each
    return None


def _reads(node: NodeProto) -> set[str]:
    """The values that an operator reads, in its graphs too."""
    found = set(node.input)
    for graph in graphs_of(node):
        for inner in graph.node:
            found |= _reads(inner)
        found.update(o.name for o in graph.output)
    return found - {""}


def _like(node: NodeProto, kind: str, indices: Sequence[int]) -> NodeProto:
    """A standard operator whose result has the sizes of another's first one."""
    inputs = [node.input[i] for i in indices if i < len(node.input)]
    made: NodeProto = onnx.helper.make_node(kind, inputs, node.output[:1])
    schema = definition(kind, 1 << 30)
    known = schema.attributes if schema else ()
    made.attribute.extend(a for a in node.attribute if a.name in known)
    return made


def _kind_of(node: NodeProto, given: Sequence[Value | None], first: int) -> int:
    index, otherwise = KIND_OF.get(node.op_type, (first, 0))
    value = given[index] if index < len(given) else None
    found: int = otherwise if value is None else value.type.tensor_type.elem_type
    return found


def _as_floats(value: Value | None) -> Value | None:
    """The same sizes, of numbers that every standard operator takes."""
    if value is None or value.shape is None:
        return value
    return Value(tensor_type(TensorProto.FLOAT, value.shape))


def tensor_type(kind: int, shape: Sequence[int]) -> TypeProto:
    """-1 in a shape is a size that is not known."""
    sizes = [size if size >= 0 else None for size in shape]
    made: TypeProto = onnx.helper.make_tensor_type_proto(kind, sizes)
    return made


def _constants(graph: GraphProto) -> Iterator[tuple[str, Value]]:
    for tensor in graph.initializer:
        yield tensor.name, Value(tensor_type(tensor.data_type, tensor.dims), _array(tensor), True)
    for sparse in graph.sparse_initializer:
        kind = tensor_type(sparse.values.data_type, sparse.dims)
        yield sparse.values.name, Value(kind, None, True)


def _written(node: NodeProto) -> Array | None:
    """What a Constant holds."""
    for a in node.attribute:
        if a.type == AttributeProto.TENSOR:
            return _array(a.t)
        value = {
            "value_int": a.i,
            "value_float": a.f,
            "value_ints": a.ints,
            "value_floats": a.floats,
        }
        if a.name in value:
            found = np.array(value[a.name], np.int64 if "int" in a.name else np.float32)
            return found if found.size <= SMALL else None
    return None


def _array(tensor: TensorProto) -> Array | None:
    if math.prod(tensor.dims) > SMALL or tensor.external_data:
        return None
    try:
        found: Array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, NotImplementedError):
        return None  # ONNX Runtime will say what is wrong with it
    return found if found.dtype.kind in "iufb" else None
