"""How large the values of an ONNX graph are, as far as constants, shapes and what it computes of
them say.

Published graphs work out sizes as they run: the shape of one value, times two, is the size of the
next. Such chains of small numbers are followed here by ONNX's own definitions of its operators, so
that a graph which grows is refused before any runtime works the same chain out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from accel.core import InputError
from accel.weights.onnx_operators import STANDARD, check_operators, nodes_of
from accel.weights.onnx_wire import DRAWS, SIZED_BY, graphs_of

Array = np.ndarray[Any, Any]

# Elements of what passes between operators: 32 channels of 1024 by 1024 pixels. An operator needs
# its inputs, its result and some room beside them.
MAX_ELEMENTS = 1 << 25
MAX_ELEMENTS_OF_FOLDERS = 1 << 27  # of models above 2 GB, whose pictures are as large
MAX_ROUNDS = 100_000  # of a loop
SMALL = 1000  # elements; what says the shape of other things is smaller
LOOKS = 5  # as often sizes are followed that hang on shapes which hang on sizes
# Inputs, beside those of SIZED_BY, that say what shape a result has.
SHAPED_BY = {
    "Reshape": (1,), "Slice": (1, 2, 3, 4), "Squeeze": (1,), "Unsqueeze": (1,), "Split": (1,),
    "TopK": (1,), "Loop": (0,),
}  # fmt: skip


def check_values(model: ModelProto, name: str, most: int = MAX_ELEMENTS) -> None:
    """Refuse a graph that is small and makes itself large: a value of more than `most` elements.

    A free size of an input counts as 1. Raises InputError.
    """
    if model.functions:
        try:
            model = onnx.inliner.inline_local_functions(model)
        except RuntimeError:  # its text names places of the library's makers
            raise InputError(f"{name}: functions must fit the calls of them") from None
    check_operators(model, name)
    light = _light(model)
    for value in light.graph.input:
        for size in value.type.tensor_type.shape.dim:
            if not size.dim_value:
                size.dim_value = 1
    known, wanted = _constants(light.graph), _wanted(light.graph.node)
    for _ in range(LOOKS):
        shapes = _inferred(light, name)
        for value, shape in shapes.items():
            check_made(math.prod(shape), value, name, most)
        before = len(known)
        _Walk(model, shapes, wanted, name, most).follow(light.graph.node, known)
        if len(known) == before:
            return
        _settle(light.graph, known)


def check_made(elements: int, value: str, name: str, most: int = MAX_ELEMENTS) -> None:
    if elements > most:
        raise InputError(
            f"{name}: a value must have {most} elements at most, got {elements} of {value!r:.80}"
        )


def value_shapes(model: ModelProto) -> dict[str, list[int]]:
    """The shapes of inputs and values as far as they follow from the graph; 0 is a free size."""
    return _inferred(_light(model), "graph")


def _light(model: ModelProto) -> ModelProto:
    """The graph without the content of its large constants, which takes time to copy."""
    light = ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph = light.graph
    graph.name = "shapes"
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    listed = {i.name for i in graph.input}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= SMALL:
            graph.initializer.append(tensor)
        elif tensor.name not in listed:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return light


def _inferred(light: ModelProto, name: str) -> dict[str, list[int]]:
    light = _without_old_expands(light)
    try:
        graph = onnx.shape_inference.infer_shapes(light).graph
    except (onnx.shape_inference.InferenceError, ValueError):  # ValueError: above 2 GiB
        graph = light.graph
    except (IndexError, MemoryError, RuntimeError):
        raise InputError(f"{name}: its operators must have sizes, ONNX finds none") from None
    return {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in [*graph.value_info, *graph.input, *graph.output]
        if v.type.tensor_type.HasField("shape")
    }


def _without_old_expands(light: ModelProto) -> ModelProto:
    """The graph with those Expands named otherwise whose shape is no constant.

    Below version 13 ONNX makes a dimension for each element of it, of which there may be millions.
    """
    if all(o.version >= 13 for o in light.opset_import if o.domain in STANDARD):
        return light
    held = ModelProto()
    held.CopyFrom(light)
    known = {tensor.name for tensor in held.graph.initializer}
    known |= {v for n in held.graph.node if n.op_type == "Constant" for v in n.output}
    for node in nodes_of(held.graph.node):
        if node.op_type == "Expand" and node.input[1] not in known:
            node.op_type = "ExpandByUnknown"
    return held


def _wanted(nodes: Sequence[NodeProto]) -> set[str]:
    """The values on which sizes hang, the shapes of others aside."""
    found: set[str] = set()
    for node in reversed(nodes):
        for graph in graphs_of(node):
            found |= _wanted(graph.node)
        says = SIZED_BY.get(node.op_type, ()) + SHAPED_BY.get(node.op_type, ())
        found.update(node.input[i] for i in says if i < len(node.input))
        if node.op_type not in ("Shape", "Size") and not found.isdisjoint(node.output):
            found.update(node.input)
    return found - {""}


def _settle(graph: GraphProto, known: Mapping[str, Array]) -> None:
    """Put what was worked out in the place of the operators that would."""
    for node in graph.node:
        if len(node.output) == 1 and node.output[0] in known and node.op_type != "Constant":
            value = numpy_helper.from_array(known[node.output[0]])
            node.CopyFrom(onnx.helper.make_node("Constant", [], node.output, value=value))


class _Walk:
    """Goes over a graph's operators in order and works out what small numbers say."""

    def __init__(
        self,
        model: ModelProto,
        shapes: Mapping[str, list[int]],
        wanted: set[str],
        name: str,
        most: int,
    ) -> None:
        self._opsets = {o.domain: o.version for o in model.opset_import}
        self._shapes, self._wanted, self._name, self._most = shapes, wanted, name, most

    def follow(self, nodes: Iterable[NodeProto], known: dict[str, Array]) -> None:
        """Check each operator; add to `known` what it gives, where that is small and certain."""
        for node in nodes:
            for graph in graphs_of(node):
                self.follow(graph.node, known | _constants(graph))
            self._check(node, known)
            if any(o in self._wanted and o not in known for o in node.output):
                results = zip(node.output, self._results(node, known))
                known |= {output: value for output, value in results if output}

    def _check(self, node: NodeProto, known: Mapping[str, Array]) -> None:
        if node.op_type == "Loop":
            rounds = _numbers(node, 0, known)
            if rounds is None or not 0 <= rounds.sum() <= MAX_ROUNDS:
                raise InputError(
                    f"{self._name}: a Loop must state its rounds, {MAX_ROUNDS} at most, as a"
                    " constant"
                )
        made = _made(node, known)
        if made > self._most:
            raise InputError(
                f"{self._name}: {node.op_type!r:.40} must make {self._most} numbers at most, makes"
                f" {made}"
            )

    def _results(self, node: NodeProto, known: Mapping[str, Array]) -> list[Array]:
        if node.op_type in ("Shape", "Size") and node.input:
            shape = self._shapes.get(node.input[0])
            if shape is None or min(shape, default=1) < 1:
                return []
            given = [np.broadcast_to(np.float32(0), shape)]
        else:
            given = [known[i] for i in node.input if i in known]
            if len(given) < sum(map(bool, node.input)):
                return []
        if graphs_of(node) or node.op_type in DRAWS or node.domain not in ("", "ai.onnx"):
            return []
        if (not given and node.op_type != "Constant") or _made(node, known) > SMALL:
            return []
        return self._run(node, given)

    def _run(self, node: NodeProto, given: list[Array]) -> list[Array]:
        from onnx.reference import ReferenceEvaluator  # half a second, which most graphs spare

        feeds = dict(zip((i for i in node.input if i), given))
        try:
            results = ReferenceEvaluator(node, opsets=self._opsets).run(None, feeds)
        except Exception:  # attributes may be of any kind; the runtime says what is wrong
            return []
        fits = all(isinstance(r, np.ndarray | np.generic) and r.size <= SMALL for r in results)
        return [np.asarray(r) for r in results] if fits else []


def _constants(graph: GraphProto) -> dict[str, Array]:
    """The small constants of a graph."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            values = [a.t for a in node.attribute if a.type == AttributeProto.TENSOR]
            tensors |= dict(zip(node.output, values))
    found = {name: _array(tensor) for name, tensor in tensors.items()}
    return {name: array for name, array in found.items() if array is not None}


def _array(tensor: TensorProto) -> Array | None:
    if math.prod(tensor.dims) > SMALL or tensor.external_data:
        return None
    try:
        found: Array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, NotImplementedError):
        return None  # ONNX Runtime will say what is wrong with it
    return found if found.dtype.kind in "iufb" else None


# --- what an operator makes -----------------------------------------------------------------------


def _made(node: NodeProto, known: Mapping[str, Array]) -> int:
    """Elements that an operator makes, as far as constants say; 0 where they do not."""
    if node.op_type == "ConstantOfShape":
        return _product(_numbers(node, 0, known))
    if node.op_type in ("RandomNormal", "RandomUniform"):
        shape = next((a.ints for a in node.attribute if a.name == "shape"), ())
        return math.prod(max(int(n), 0) for n in shape)
    if node.op_type in ("Expand", "Tile"):
        return _product(_numbers(node, 1, known))
    if node.op_type == "OneHot":
        return _product(_numbers(node, 1, known))
    if node.op_type == "Range":
        ends = [_numbers(node, i, known) for i in range(3)]
        if any(n is None or n.size != 1 for n in ends):
            return 0
        start, limit, step = (float(n.flat[0]) for n in ends if n is not None)
        many = abs((limit - start) / step) if step else math.inf
        return 0 if math.isnan(many) else int(min(many, 2**62))
    if node.op_type == "Resize":
        sizes = _numbers(node, 3, known)
        return _product(sizes) if sizes is not None else 0
    if node.op_type == "Pad":
        pads = _numbers(node, 1, known)
        return 0 if pads is None or not pads.size else int(max(0, pads.max()))
    return 0


def _product(shape: Array | None) -> int:
    return 0 if shape is None else math.prod(max(int(n), 0) for n in shape.flat)


def _numbers(node: NodeProto, index: int, known: Mapping[str, Array]) -> Array | None:
    found = known.get(node.input[index]) if len(node.input) > index else None
    return found if found is not None and found.size <= 64 else None
