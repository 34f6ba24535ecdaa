"""What an ONNX operator must be like before ONNX's own code is asked about it.

That code works out shapes and writes functions out; it takes for granted that operators have the
inputs, outputs and attributes of their definition, and ends the process where they have not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

from onnx import AttributeProto, ModelProto, NodeProto, defs

from accel.core import InputError
from accel.weights.onnx_wire import graphs_of

STANDARD = ("", "ai.onnx")
FARTHEST_AXIS = 64
# Attributes that say how many axes to skip or which one is meant, and the lowest that they may be.
AXES = {"axis": -FARTHEST_AXIS, "batch_dims": 0}


def check_operators(model: ModelProto, name: str) -> None:
    """Refuse a model with standard operators that are not as their definitions say.

    Raises InputError. Operators of other domains and unknown ones are left alone.
    """
    for part, imported in ((model.graph, model), *((f, f) for f in model.functions)):
        versions = [o.version for o in imported.opset_import if o.domain in STANDARD]
        own = {f.name for f in model.functions if f.domain in STANDARD}
        for node in nodes_of(part.node):
            if node.domain in STANDARD and node.op_type not in own:
                _check(node, max(versions, default=1), name)


def nodes_of(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for graph in graphs_of(node):
            yield from nodes_of(graph.node)


def _check(node: NodeProto, version: int, name: str) -> None:
    schema = definition(node.op_type, version)
    if schema is None:
        return
    given = len(node.input)
    if not schema.min_input <= given <= schema.max_input:
        _refuse(node, name, f"take {schema.min_input} to {schema.max_input} inputs", given)
    made = len(node.output)
    if not schema.min_output <= made <= schema.max_output:
        _refuse(node, name, f"make {schema.min_output} to {schema.max_output} values", made)
    single = defs.OpSchema.FormalParameterOption.Single
    for value, formal in zip(node.input, schema.inputs):
        if not value and formal.option == single:
            _refuse(node, name, f"be given {formal.name}", "none")
    told = {attribute.name for attribute in node.attribute}
    for attribute_name, formal in schema.attributes.items():
        if formal.required and attribute_name not in told:
            _refuse(node, name, f"have {attribute_name}", "none")
    for attribute in node.attribute:
        _check_attribute(node, attribute, name)


def _check_attribute(node: NodeProto, attribute: AttributeProto, name: str) -> None:
    value = attribute.i
    lowest = AXES.get(attribute.name)
    if lowest is not None and not lowest <= value <= FARTHEST_AXIS:
        _refuse(node, name, f"have its {attribute.name} in {lowest}..{FARTHEST_AXIS}", value)
    if node.op_type == "Split" and attribute.name == "num_outputs" and value != len(node.output):
        _refuse(node, name, f"have num_outputs {len(node.output)}", value)


@cache
def definition(operator: str, version: int) -> defs.OpSchema | None:
    try:
        return defs.get_schema(operator, version)
    except (defs.SchemaError, TypeError):  # TypeError: a version beyond 32 bits
        return None


def _refuse(node: NodeProto, name: str, must: str, got: object) -> None:
    raise InputError(f"{name}: operator {node.op_type!r:.60} must {must}, got {got}")
